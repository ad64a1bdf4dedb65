"""Hostile input, kind by kind: each ends in one printable, bounded line that names the place, and is not read otherwise."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tiny
from stateshape.cli import main
from stateshape.core.decoding import json_value, read_text
from stateshape.core.files import BadInput, drop_cut_off_line, iter_jsonl, read_json
from stateshape.core.limits import MOST
from stateshape.core.wording import MAX_LINE, one_line, shown
from stateshape.embedded import base_folder
from stateshape.policy.open import open_policy
from stateshape.policy.settings import LoraSettings, ModelSettings
from stateshape.policy.source import resolve
from stateshape.record.parts import check_rows, read_part
from stateshape.record.text import spans_of
from stateshape.study.plan import make_plan
from stateshape.study.study_file import read_study_file
from stateshape.study.yaml_file import MOST_CHARACTERS, read_yaml
from stateshape.tasks.load import load_task
from stateshape.train.settings import TrainSettings

# Messages


def test_a_message_is_one_printable_line_whatever_it_quotes() -> None:
    told = str(BadInput("file\n\x1b[31m\u202e\u200b\ud83d\0.yaml: 学生" + "x" * 100_000 + "; expected less"))
    assert told.startswith(r"file\n\x1b[31m\u202e\u200b\ud83d\x00.yaml: 学生xxx")
    assert told.endswith("xxx; expected less")
    assert len(told) == MAX_LINE
    assert told.isprintable()
    assert str(BadInput(told)) == told, "nothing is escaped twice"


def test_values_are_shown_short() -> None:
    assert shown("a\nb") == r"'a\nb'"
    assert shown("x" * 100) == f"'{'x' * 56}..."
    assert shown(10**5000) == "a whole number of about 4,983 digits"
    assert shown([[[[[[1]]]]]]) == "[[[[[...]]]]]"
    assert one_line("a" * 20 + "b" * 20, limit=20) == "aaaaaaaaa ... bbbbbb"


# Bytes and JSON

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (b"[" * 3_000 + b"]" * 3_000, "rows.jsonl:2: nested too deeply; expected at most 64 levels"),
        (b"[" * 100 + b"]" * 100, "rows.jsonl:2: nested too deeply"),
        (b'{"a": 1, "b": 2, "a": 3}', "rows.jsonl:2: got the key 'a' twice in one object"),
        (b'{"a": [0, NaN]}', "rows.jsonl:2: a[1]: got nan; expected a finite number"),
        (b'{"a": {"b": -Infinity}}', "rows.jsonl:2: a.b: got -inf"),
        (b'{"a": 1e999}', "rows.jsonl:2: a: got inf"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "rows.jsonl:2: not valid JSON: a number of thousands of digits"),
        (
            rb'{"options": ["a", "half \ud83d"]}',
            r"rows.jsonl:2: options[1]: got 'half \ud83d', which ends in half a surr",
        ),
        (rb'{"\udc00": 1}', "rows.jsonl:2: a key of the object: got"),
        ("caf\xe9".encode("latin-1"), "rows.jsonl:2: not UTF-8 text (byte 0xe9 is none)"),
        (b'"a\0b"', "rows.jsonl:2: got a NUL character"),
        (b'{"a" 1}', "rows.jsonl:2: not valid JSON: Expecting ':' delimiter at column 6"),
    ],
)
def test_a_line_that_is_refused(line: bytes, wanted: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"fine": 1}\n' + line + b"\n")
    with pytest.raises(BadInput) as caught:
        list(iter_jsonl(path))
    assert str(caught.value).startswith(f"{tmp_path}/{wanted}")
    assert len(str(caught.value)) < 300


def test_texts_that_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": "\xe5\xad\xa6\\ud83d\\ude00\xe2\x80\xa8"}\r\n\n[1]\r{}')
    assert list(iter_jsonl(path)) == [(1, {"a": "学😀\u2028"}), (3, [1]), (4, {})]
    path.write_text("[]", encoding="utf-16")
    with pytest.raises(BadInput, match="not UTF-8 text, but UTF-16"):
        read_json(path, list)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path)])
def test_what_is_no_file_is_not_waited_for(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "x")
    with pytest.raises(BadInput, match=r"got a folder|got no regular file|a symbolic link that leads to itself"):
        read_text(tmp_path / "x")


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "x/" * 3_000])
def test_a_name_that_no_file_has(name: str, tmp_path: Path) -> None:
    for act in (
        lambda: read_text(tmp_path / name),
        lambda: read_study_file(name),
        lambda: resolve(name),
        lambda: load_task(f"{name}.jsonl"),
    ):
        with pytest.raises(BadInput) as caught:
            act()
        assert len(str(caught.value)) <= MAX_LINE


def test_a_line_cut_off_inside_a_character_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"a": 1}\n{"a": "学'.encode()[:-1])
    drop_cut_off_line(path)
    assert path.read_bytes() == b'{"a": 1}\n'


# YAML

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 12))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (BOMB, "by its aliases; expected fewer"),
        ("a: &a [*a]", "line 1: got an alias that contains itself"),
        ("a: " + "[" * 3_000, "nested too deeply"),
        ("a: " + "[" * 70 + "]" * 70, "line 1: nested too deeply; expected at most 64 levels"),
        ("a: 1\nb: 2\na: 3", "line 3: got 'a' twice"),
        ("x: &x {k: 1}\ny: {<<: *x, <<: *x}", "line 2: got '<<' twice"),
        ("a: !!python/object:os.system ls", "line 1: got the tag 'tag:yaml.org,2002:python/object:os.system'"),
        ("a: !!int abc", "line 1: got 'abc' with the tag !!int"),
        ("a: !!timestamp x\n", "line 1: got"),
        ("a: !!binary =", "line 1: got the tag"),
        ("seeds: [012]", "line 1: got 012, which some read as octal"),
        ("{[1]: 2}", "line 1: got a list or mapping as a key"),
        ("a: 1\n--- \nb: 2", "line 2: not valid YAML"),
        ("a: *nothing", "line 1: not valid YAML: found undefined alias"),
        ("a: \x07", "not valid YAML"),
        ('a: "\\ud83d"', "a: got '\\ud83d', which ends in half a surrogate pair"),
        ("#" * (MOST_CHARACTERS + 1), "expected a YAML file of at most 200,000"),
    ],
)
def test_yaml_that_is_refused(text: str, wanted: str) -> None:
    if "timestamp" in text:  # read as the text it is
        assert read_yaml(text, where="f") == {"a": "x"}
        return
    with pytest.raises(BadInput) as caught:
        read_yaml(text, where="f")
    assert str(caught.value).startswith("f: ")
    assert wanted in str(caught.value)
    assert len(str(caught.value)) < 300


def test_yaml_texts_stay_as_they_are_written() -> None:
    text = "a: [1.10, 2024-01-01, 1_000, 1:30, 0x10, 1.5, 7, true, ~, =, .inf]\nb: &b {k: 1, m: 2}\nc: {<<: *b, k: 3}"
    assert read_yaml(text, where="f") == {
        "a": ["1.10", "2024-01-01", "1_000", "1:30", "0x10", 1.5, 7, True, None, "=", ".inf"],
        "b": {"k": 1, "m": 2},
        "c": {"k": 3, "m": 2},
    }


def test_a_label_of_digits_and_numbers_in_other_spellings(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    text = tiny.study_text("one: {recipe: sft, label: 1.10, train: {lr: 1.0e-4, steps: 1.0e+1, batch_prompts: 1_0}}")
    path.write_text(text)
    (spec,) = make_plan(read_study_file(str(path))).runs
    assert spec.label == "1.10"
    assert (spec.train.lr, spec.train.steps, spec.train.batch_prompts) == (1e-4, 10, 10)


# Numbers


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("task: facts, limit: 8", "task: facts, limit: 8, shots: 1.5", "retention[0].shots: got 1.5; expected a whole"),
        ("task: facts, limit: 8", "task: facts, limit: true", "retention[0].limit: got True; expected a whole number"),
        ("prompts: 4", "prompts: 2147483648", "drift prompts: got 2147483648; expected at most 1,000,000"),
        ("cuts: 1", "cuts: 100000", "drift cuts: got 100000"),
        ("steps: 2", "steps: 1e20", "steps: got 100000000000000000000; expected at most"),
        (
            "steps: 2",
            "steps: " + "9" * 400,
            "steps: got a whole number of about 398 digits; expected a whole number of at",
        ),
        ("batch_prompts: 2", "batch_prompts: 2147483648", "batch_prompts: got 2147483648"),
        ("rank: 2", "rank: 2147483648", "lora.rank: got 2147483648"),
        ("recipe: sft", "recipe: grpo, with: {group: 2147483648}", "runs.one.with: group: got 2147483648"),
        (
            "recipe: sft",
            "recipe: grpo, with: {rollout_tokens: 99999999}",
            "runs.one.with: rollout_tokens: got 99999999",
        ),
        ("study: tiny", "study: tiny\nseeds: [9999999999]", "seed: got 9999999999; expected at most 2,147,483,647"),
        ("one:", f"{'x' * 101}:", "expected up to 100 letters"),
    ],
)
def test_a_number_beyond_reason(old: str, new: str, wanted: str, tmp_path: Path) -> None:
    text = tiny.study_text("one: {recipe: sft}")
    assert old in text
    (tmp_path / "study.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(BadInput) as caught:
        make_plan(read_study_file(str(tmp_path / "study.yaml")))
    assert wanted in str(caught.value)


def test_the_largest_numbers_are_taken() -> None:
    assert TrainSettings(steps=int(MOST["steps"]), lora=LoraSettings(rank=int(MOST["rank"]))).steps == 100_000_000


@pytest.mark.parametrize("task", ["exam", "arithmetic", "gsm8k", "mmlu"])
def test_shots_beyond_reason_are_refused_at_once(task: str, tmp_path: Path) -> None:
    for data_dir in (None, tmp_path):
        with pytest.raises(BadInput, match="shots: got 2147483648; expected at most 10,000"):
            load_task(task, shots=2**31, data_dir=data_dir)


# The command line


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        (["eval", "embedded", "--task", "fac\udce9ts", "--out", "o"], r"argument 4: got 'fac\udce9ts'; expected UTF-8 text"),
        (["report", "a\0b"], r"argument 2: got 'a\x00b'"),
        (["report", "x" * 5_000], "contains no plan.json"),
        (["study", "x" * 5_000, "--dry-run"], "study: got 'xxx"),
        (["x" * 5_000], "command: got 'xxx"),
        (["eval", "embedded", "--task", "facts", "--data", "x" * 5_000, "--out", "o"], "data: got 'xxx"),
        (["eval", "embedded", "--task", "facts", "--limit", "9" * 5_000, "--out", "o"], "--limit"),
        (["eval", "embedded", "--task", "facts", "--shots", "2147483648", "--out", "o"], "shots: got 2147483648"),
        (["doctor", "--model", "embedded", "--rank", "2147483648"], "rank: got 2147483648"),
        (["embedded", "train", "--out", "o", "--threads", "2147483648"], "threads: got 2147483648"),
        (["train", "grpo", "--model", "m", "--task", "arithmetic", "--out", "o", "--group", "99999"], "group: got 99999"),
        (["train", "grpo\n\x1b[31m", "--model", "m"], r"recipe: got 'grpo\n\x1b[31m'"),
        (["eval", "x/" * 2_000, "--task", "facts", "--out", "o"], "model: got 'x/x/"),
        (["states", "x" * 5_000], "states: got 'xxx"),
    ],
)  # fmt: skip
def test_an_argument_that_is_refused(
    args: list[str], wanted: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("stateshape.policy.open.load_weights", lambda *_: pytest.fail("a model was loaded"))
    monkeypatch.chdir(tmp_path)
    assert main(args) == 2
    told = capsys.readouterr().err
    assert wanted in told
    assert told.count("\n") == 1
    assert told[:-1].isprintable()
    assert len(told) < 1_000
    assert not list(tmp_path.iterdir())


def test_a_disk_error_names_a_bounded_path(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> None:
        raise OSError(36, "File name too long", "out/" + "x" * 5_000)

    monkeypatch.setattr("stateshape.cli.parser.run", fails)
    assert main(["study", "smoke"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("stateshape: File name too long at out/xxx")
    assert len(told) < 1_000


# Files of other programs


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    shutil.copytree(base_folder(), folder / "base")
    policy = open_policy(str(folder / "base"), ModelSettings(device="cpu"))
    policy.weights.add_adapter("own", LoraSettings(rank=2), seed=0)
    policy.weights.save_adapter("own", folder / "adapter")
    return folder


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("base/config.json", b'"hidden_size": ', b'"hidden_size": 9999999999999999999'),
        ("base/config.json", b'"hidden_act": "', b'"hidden_act": ["'),
        ("base/tokenizer.json", b'"model"', b'"modle"'),
        ("base/model.safetensors", b'"data_offsets"', b'"data_offsits"'),
        ("adapter/adapter_config.json", b'"r": 2', b'"r": {"a": 2}'),
        ("adapter/adapter_config.json", b"{", b"[" * 3_000),
        ("adapter/adapter_model.safetensors", b"lora_A", b"lora_Z"),
    ],
)
def test_damaged_models_and_adapters(name: str, old: bytes, new: bytes, model: Path) -> None:
    kept = (model / name).read_bytes()
    assert old in kept
    (model / name).write_bytes(kept.replace(old, new, 1))
    try:
        with pytest.raises(BadInput) as caught:
            open_policy(str(model / name.partition("/")[0]), ModelSettings(device="cpu"))
    finally:
        (model / name).write_bytes(kept)
    assert len(str(caught.value)) <= MAX_LINE


def test_recorded_states_that_no_run_writes(tmp_path: Path) -> None:
    path = tmp_path / "steps-000000-000000.parquet"
    for data in (b"", b"PAR1", b"PAR1" + b"\xff" * 64 + b"PAR1"):
        path.write_bytes(data)
        with pytest.raises(BadInput, match="not a readable Parquet file"):
            read_part(path)
    pq.write_table(pa.table({"step": [1]}), path)
    with pytest.raises(BadInput, match="step: got 'int64'; expected int32"):
        read_part(path)
    with pytest.raises(BadInput, match="differ in length"):
        check_rows(path, pa.table({"ids": [[1, 2]], "origins": [[1]]}))
    with pytest.raises(BadInput, match="ids: got a row without it"):
        check_rows(path, pa.table({"ids": [None, [1, 2]]}))
    for ids, origins in (([1], [9]), ([-1], [0]), ([1, 2], [0])):
        with pytest.raises(BadInput, match="states: got a row w"):
            spans_of(ids, origins, [True], None)  # type: ignore[arg-type]


def test_json_values_keep_what_is_fine() -> None:
    value = {"a": [1, 2.5, None, True, "x", {"b": []}], "": {}}
    assert json_value(json.dumps(value), where="f") == value


def test_recorded_steps_are_those_of_the_name(tmp_path: Path) -> None:
    path = tmp_path / "steps-000003-000004.parquet"
    check_rows(path, pa.table({"step": [3, 4]}))
    for steps in ([2, 3], [4, 5], [-1]):
        with pytest.raises(BadInput, match="expected those that its name says"):
            check_rows(path, pa.table({"step": steps}))

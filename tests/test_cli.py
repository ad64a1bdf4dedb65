"""The command line as a user meets it: help, one line for a mistake, nothing written by it, quiet and JSON output."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from stateshape.cli import main
from stateshape.cli.drift import print_drift
from stateshape.cli.study import print_before_paying
from stateshape.core.files import BadInput, read_jsonl
from stateshape.core.method import SIGNALS, STATES, legal_triples
from stateshape.core.records import DriftRecord, DriftValue, EvalRow
from stateshape.policy.open import check_same_vocabulary
from stateshape.policy.source import resolve
from stateshape.recipes.names import BUILT_IN
from stateshape.recipes.recipe import all_methods

Run = Callable[..., tuple[int, str, str]]
TINY = [
    "--lr",
    "1e-3",
    "--steps",
    "2",
    "--batch-prompts",
    "2",
    "--train-items",
    "8",
    "--lora.rank",
    "2",
    "--device",
    "cpu",
]
TRAIN = ["--model", "embedded", "--task", "arithmetic", "--out"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit code, stdout and stderr of a command."""

    def call(*args: str) -> tuple[int, str, str]:
        try:
            code = main(list(args))
        except SystemExit as ending:
            code = int(ending.code or 0)
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("methods", "--json"),
        ("study", "--out --seeds --model --device --data --full --dry-run --quiet --json-events"),
        ("eval", "--task --out --data --limit --shots --device --dtype --quiet --json-events"),
        (
            "drift",
            "--task --data --prompts --cuts --max-new-tokens --temperature --seed --device --dtype --json --quiet",
        ),
        ("report", "FOLDER"),
        ("doctor", "--model --teacher --device --dtype --rank"),
        ("embedded", "--out --steps --seed --threads"),
        ("train", "RECIPE"),
        ("train sft", "--model --task --out --seed --data --lr --epochs --steps --lora.rank --quiet --json-events"),
        ("train opd_continuation", "--teacher --cut.low --cut.high --max-new-tokens --rollout-tokens --samples"),
        ("train opd", "--teacher --direction --beta --positions --rollout-tokens --samples --temperature"),
        ("train replay", "--states --signal --teacher --direction --beta --cut.at --max-new-tokens --reward"),
        ("train grpo", "--group --scale --normalise --rollout-tokens --temperature"),
    ],
)
def test_help_names_every_flag(command: str, flags: str, run: Run) -> None:
    code, out, _ = run(*command.split(), "--help")
    assert code == 0
    assert [flag for flag in flags.split() if flag.lower() not in out.lower()] == []


def test_help_calls_arguments_by_their_names_and_values_by_their_types(run: Run) -> None:
    assert " A B\n" in run("drift", "--help")[1].partition("\n\n")[0] + "\n"
    assert "[NAME]" in run("methods", "--help")[1].partition("\n\n")[0]
    out = run("eval", "--help")[1]
    assert "--limit INT" in out
    assert "None}" not in out
    assert "{None" not in out


def test_help_breaks_lines_where_the_terminal_ends_and_names_no_default_that_is_none(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    for command, text in (
        ("eval", "(docs/guides/your-data.md), or lm_eval:NAME"),  # of a function's argument
        ("train sft", "Default: 512, or as many as need"),  # of a field
        ("study", "two_by_two_by_two. (required)"),
        ("train sft", "(default: 0.0001)"),
    ):
        out = " ".join(run(*command.split(), "--help")[1].replace("│", " ").split())
        assert text in out
        assert "(default: None)" not in out
        assert "(default: )" not in out
    lines = [line.strip("│ \n") for line in run("eval", "--help")[1].splitlines()]
    assert not [line for line in lines if line.endswith((", or", "Default: this"))]


def test_flags_without_a_value_take_none_as_well(run: Run) -> None:
    code, _, err = run("eval", "embedded", "--task", "nosuch", "--limit", "None", "--split", "None", "--out", "NEW")
    assert code == 2
    assert "nosuch" in err


def test_help_of_a_recipe_explains_the_flags_that_all_share(run: Run) -> None:
    out = run("train", "sft", "--help")[1]
    assert "Task whose training prompts are used" in out.partition("options")[2]
    assert "Args:" not in out


def test_version_completion_and_overview(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stateshape.cli.parser.version", lambda name: "7.8")
    assert run("--version")[:2] == (0, "stateshape 7.8\n")

    def not_installed(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("stateshape.cli.parser.version", not_installed)
    assert run("--version")[:2] == (0, "stateshape from source files, not installed\n")
    code, out, _ = run("--tyro-print-completion", "bash")
    assert code == 0
    assert "complete" in out
    code, out, _ = run()
    assert code == 0
    assert "study" in out


def test_methods_json(run: Run) -> None:
    code, out, err = run("methods", "--json")
    assert (code, err) == (0, "")
    assert [row["method"] for row in json.loads(out)["methods"]] == list(BUILT_IN)
    assert run("methods")[0] == 0


@pytest.mark.parametrize("width", [80, 160])
def test_methods_say_what_each_does_and_break_no_name(width: int, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stateshape.cli.show.PIPED_WIDTH", width)
    code, out, _ = run("methods")
    assert code == 0
    lines = out.splitlines()
    assert max(map(len, lines)) <= width
    for record in all_methods():
        first, word = (next(iter(text.split())) for text in (record.summary, record.method))
        assert any(line.strip("│ ").startswith(word) and first in line for line in lines), record.method
    for kind in (*SIGNALS, *STATES):
        assert kind in out
    assert "log-probs" in out  # why some are invalid


def test_the_grid_shows_every_cell_its_recipes_or_the_reason(run: Run) -> None:
    code, out, _ = run("methods", "--json")
    assert code == 0
    cells = json.loads(out)["grid"]
    assert len(cells) == len(SIGNALS) * len(STATES)
    for cell in cells:
        triple = (cell["states"], cell["signal"], cell["loss"])
        assert (cell["reason"] is None) == (triple in legal_triples())
        assert not (cell["recipes"] and cell["reason"])
    by_cell = {(cell["states"], cell["signal"]): cell["recipes"] for cell in cells}
    assert by_cell["learner", "teacher distribution"] == ["opd", "sdft", "grpo_opd", "opd_sft"]
    assert by_cell["recorded", "reward"] == ["replay"]
    code, out, _ = run("methods")
    assert code == 0
    for text in ("continuation_on_data", "online_dpo", "log-probs"):
        assert text in out


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        ("studdy smoke", "did you mean study?"),
        ("drift embedded", "missing: B (The model or run to compare with it); --task (Task"),
        ("study smok --out NEW", "did you mean smoke?"),
        ("study smoke --outt NEW", "Unrecognized options: --outt"),
        ("eval embedded --tasks facts --out NEW", "--tasks is called --task here"),
        (
            "train sft --model embedded --task arithmetic --out NEW --learning_rate 1",
            "--learning-rate is called --lr here",
        ),
        ("study smoke", "out: got nothing"),
        ("study smoke --seeds 0,0 --out NEW", "seeds: got [0, 0]"),
        ("study smoke --seeds zero --out NEW", "seeds: got 'zero'"),
        ("study smoke --model ./none --out NEW", "model: got './none'"),
        ("study smoke --model embeded --out NEW", "did you mean embedded?"),
        ("study smoke --out FILE", "is a file; expected a folder"),
        ("study smoke --out FILE/below", "is a file; expected a folder"),
        ("study smoke --out FULL", "is not empty and contains no study"),
        ("study smoke --data NEW --out NEW2", "which is not a folder"),
        ("train sfft --model embedded --task arithmetic --out NEW", "did you mean sft?"),
        ("train nowhere:Recipe --model embedded --task arithmetic --out NEW", "can't be imported"),
        ("train sft --model embedded --task arithmetik --out NEW", "did you mean arithmetic?"),
        ("train sft --model embedded --task arithmetic --out NEW --lr abc", "--lr"),
        ("train sft --model embedded --task arithmetic --out NEW --lr nan", "lr: got nan"),
        ("train sft --model embedded --task arithmetic --out NEW --lr -1", "lr: got -1.0"),
        ("train sft --model embedded --task facts --out NEW", "multiple choice"),
        ("train sft --model embedded --task arithmetic --out FULL", "is not empty and contains no run"),
        ("train sft --model embedded --task BAD.jsonl --out NEW", "BAD.jsonl:2"),
        ("train sft --model embedded --task TEST.jsonl --out NEW", "got no training rows"),
        ("train sft --model embedded --task BARE.jsonl --out NEW", "no solution"),
        ("train opd_continuation --model embedded --task arithmetic --out NEW", "--teacher"),
        ("train opd_continuation --model embedded --task arithmetic --teacher ./none --out NEW", "'./none'"),
        (
            "train opd_logp --model embedded --task arithmetic --teacher OTHER --out NEW",
            "a different vocabulary",
        ),
        (
            "train opd_continuation --model embedded --task arithmetic --teacher OTHER --out NEW",
            "holds no weights",
        ),
        ("eval FULL --task facts --out NEW", "a folder with no config.json"),
        ("eval FILE --task facts --out NEW", "a file; expected a folder"),
        ("eval BADRUN --task facts --out NEW", "run.json: model: got None"),
        ("eval embedded --task facts --out FILE", "is a file; expected a folder"),
        ("eval embedded --task none.jsonl --out NEW", "none.jsonl"),
        ("eval embedded --task facts --limit 0 --out NEW", "limit: got 0"),
        ("eval embedded --task gsm8k --data FULL --out NEW", "train.jsonl"),
        ("drift embedded --task arithmetic", "missing: B (The model or run to compare with it)"),
        ("drift embedded embedded --task arithmetic --prompts 0", "prompts: got 0"),
        ("doctor --model embedded --device foo", "device: got 'foo'"),
        ("doctor --model embedded --dtype int8", "dtype: got 'int8'"),
        ("report FULL", "contains no plan.json"),
        ("embedded tain --out NEW", "got 'tain'; expected train"),
        ("embedded train --out NEW --steps 0", "steps: got 0"),
        ("embedded train --out FULL", "contains no embedded base"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    args: str, wanted: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any model loads: loading one fails the test."""
    monkeypatch.setattr("stateshape.policy.open.load_weights", lambda *_: pytest.fail("a model was loaded"))
    if args.startswith("doctor"):
        monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    Path("FILE").touch()
    for folder in ("FULL", "BADRUN"):
        Path(folder).mkdir()
    Path("FULL/thing").touch()
    Path("BADRUN/run.json").write_text('{"x": 1}')
    Path("BAD.jsonl").write_text('{"prompt": "p", "answer": "1", "split": "train"}\n{"prompt": "p"}\n')
    Path("TEST.jsonl").write_text('{"prompt": "p", "answer": "1"}\n')
    Path("BARE.jsonl").write_text('{"prompt": "p", "answer": "1", "split": "train"}\n')
    if "OTHER" in args:
        other_vocabulary(Path("OTHER"))
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run(*args.split())
    assert (code, out) == (2, "")
    assert err.startswith("stateshape: ")
    assert err.count("\n") == 1
    assert wanted in err
    assert sorted(tmp_path.rglob("*")) == before


def other_vocabulary(folder: Path) -> None:
    """A folder with a config and a tokenizer that shares nothing with the embedded one."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({"only": 0, "these": 1}, unk_token="only"))
    PreTrainedTokenizerFast(tokenizer_object=made).save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')


def test_a_dry_run_says_what_is_still_to_be_downloaded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run("study", "smoke", "--dry-run")
    assert code == 0
    assert "doctor --model embedded. Training takes about the tokens" in out
    assert "Not on this machine" not in out
    monkeypatch.setattr("stateshape.policy.fingerprint.try_to_load_from_cache", lambda *_: None)
    print_before_paying("owner/model-of-ones-own")
    assert run("--version")[1].startswith("Not on this machine: the model owner/model-of-ones-own. It is downloaded")


def test_a_dry_run_counts_the_items_that_are_evaluated_along_runs(run: Run) -> None:
    """quickstart evaluates 200 items of each of two retention tasks at a point, and 500 at the end."""
    code, out, _ = run("study", "quickstart", "--dry-run")
    rows = [line for line in out.splitlines() if line.startswith("P2")]
    assert code == 0
    assert {row.split()[-5] for row in rows if "at equal KL" in row} == {"400"}
    assert {row.split()[-5] for row in rows if "at equal KL" not in row} == {"1,000"}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 18.00 MiB. GPU 0 has a total capacity of 79.18 GiB of which 13.19 MiB "
                "is free. Process 2523 has 5.91 GiB memory in use."
            ),
            "Tried to allocate 18.00 MiB. GPU 0 has a total capacity of 79.18 GiB of which 13.19 MiB is free; expected room",
        ),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "can't allocate memory"),
        (MemoryError(), "out of memory: no memory; expected room"),
    ],
)
def test_memory_that_is_not_there_is_one_line(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(args: object) -> None:
        raise error

    monkeypatch.setattr("stateshape.cli.parser.run", fails)
    assert main(["methods"]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.startswith("stateshape: out of memory: ")
    assert told.count("\n") == 1


def test_an_error_of_ours_is_not_taken_for_missing_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(args: object) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr("stateshape.cli.parser.run", fails)
    with pytest.raises(RuntimeError, match="shapes differ"):
        main(["methods"])


def test_a_flag_of_other_programs_gets_one_suggestion(run: Run) -> None:
    err = run("train", "sft", "--model", "embedded", "--tasks", "arithmetic", "--out", "NEW")[2]
    assert err.count("--task ") == 1
    assert "did you mean" not in err


def test_vocabularies_are_compared_both_ways() -> None:
    def weights(source: str, **ids: int) -> SimpleNamespace:
        return SimpleNamespace(source=source, tokenizer=SimpleNamespace(get_vocab=lambda: ids))

    check_same_vocabulary(weights("a", x=0, y=1), weights("b", x=0, y=1))  # type: ignore[arg-type]
    for other in (weights("b", x=0), weights("b", x=0, y=1, z=2), weights("b", x=1, y=0)):
        with pytest.raises(BadInput, match="tokens differ"):
            check_same_vocabulary(weights("a", x=0, y=1), other)  # type: ignore[arg-type]


def test_an_unfinished_run_teaches_nobody(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_model.safetensors").touch()
    (tmp_path / "run.json").write_text('{"model": "embedded", "method": {}, "num_steps": 0}')
    with pytest.raises(BadInput, match="has not finished"):
        resolve(str(tmp_path))
    (tmp_path / "run.json").write_text('{"model": "embedded", "method": {}, "num_steps": 2}')
    assert resolve(str(tmp_path)).adapter == tmp_path / "adapter"


def test_interruption_and_a_full_disk_are_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    def full(_: object) -> None:
        raise OSError(28, "No space left on device", "out/run.json")

    monkeypatch.setattr("stateshape.cli.parser.run", interrupted)
    assert run("study", "smoke") == (130, "", "Stopped. Run the same command to resume.\n")
    assert run("drift", "a") == (130, "", "Stopped.\n")
    monkeypatch.setattr("stateshape.cli.parser.run", full)
    code, _, err = run("study", "smoke")
    assert code == 2
    assert err.startswith("stateshape: No space left on device at out/run.json")
    assert err.count("\n") == 1


WITHOUT_TORCH = """
import importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split('.')[0] in ('torch', 'transformers', 'peft'):
            raise ImportError(name + ' is blocked')
sys.meta_path.insert(0, Block())
from stateshape.cli import main
import stateshape.report.write, stateshape.analysis.compare
"""


def test_what_refuses_a_folder_a_file_or_a_model_loads_no_tensor_library(tmp_path: Path) -> None:
    (tmp_path / "slip.yaml").write_text("study: a\nmodle: embedded\n")
    gone, task, out = str(tmp_path / "gone"), ["--task", "arithmetic"], ["--out", str(tmp_path / "out")]
    commands = [
        ["report", str(tmp_path)],
        ["study", str(tmp_path / "slip.yaml"), *out],
        ["study", "smoke", "--model", gone, *out],
        ["eval", gone, *task, *out],
        ["drift", "embedded", gone, *task],
        ["audit", "embedded", gone, *task, *out],
    ]
    program = f"{WITHOUT_TORCH}\nsys.exit({len(commands)} * 2 - sum(main(each) for each in {commands!r}))"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr.count("\n")) == (0, len(commands)), told.stderr
    assert "contains no plan.json" in told.stderr
    assert "did you mean model?" in told.stderr
    assert told.stderr.count("which does not exist") == 4
    assert not (tmp_path / "out").exists()


def test_eval_writes_rows_and_summary(run: Run, tmp_path: Path) -> None:
    code, out, err = run("eval", "embedded", "--task", "facts", "--limit", "4", "--out", str(tmp_path), "--json-events")
    assert code == 0
    assert "facts mc1: " in out
    assert all(json.loads(line)["event"] for line in err.splitlines())
    rows = read_jsonl(tmp_path / "evals" / "facts.jsonl", EvalRow)
    assert len(rows) == 4
    summary = json.loads((tmp_path / "evals" / "summary.json").read_text())
    assert set(summary["facts"]) == {"mc1", "mc2", "evaluation"}
    assert set(summary["facts"]["mc1"]) == {"value", "n", "stderr", "ci95"}
    assert summary["facts"]["mc1"]["value"] == sum(row.scores["mc1"] for row in rows) / 4


def test_train_a_recipe_of_ones_own_then_evaluate_it(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_recipe.py").write_text(
        "from dataclasses import dataclass\n"
        "from stateshape.recipes.sft import SFT\n\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Mine(SFT):\n"
        '    """A recipe outside the package."""\n\n'
        "    strength: float = 1.0\n"
        '    """A number of its own."""\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "--strength" in run("train", "my_recipe:Mine", "--help")[1]
    out = str(tmp_path / "run")
    assert run("train", "my_recipe:Mine", *TRAIN, out, *TINY, "--quiet") == (0, "", "")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["is_complete"]
    assert record["settings"]["recipe"] == {"strength": 1.0}
    assert run("eval", out, "--task", "exam", "--limit", "8", "--out", out, "--quiet", "--device", "cpu")[0] == 0
    code, _, err = run("train", "my_recipe:Mine", *TRAIN, out, *TINY, "--strength", "2")
    assert code == 2
    assert "recipe.strength: 1.0 there, 2.0 now" in err


def test_a_run_that_diverges_names_step_and_batch(run: Run, tmp_path: Path) -> None:
    wild = ["--lr", "1e30", "--max-grad-norm", "1e30", "--warmup-share", "0", "--steps", "6"]
    code, _, err = run("train", "sft", *TRAIN, str(tmp_path / "run"), *TINY, *wild, "--quiet")
    assert code == 2
    assert err.count("\n") == 1
    for part in ("step ", "loss ", "batch: ", "try a lower lr"):
        assert part in err


def test_drift_json_and_doctor(run: Run) -> None:
    few = ["--prompts", "4", "--max-new-tokens", "8", "--device", "cpu", "--json"]
    code, out, err = run("drift", "embedded", "embedded", "--task", "arithmetic", *few)
    assert (code, err) == (0, "")
    assert json.loads(out)["num_prompts"] == 4
    code, out, _ = run("doctor", "--model", "embedded", "--teacher", "embedded")
    assert code == 0
    assert "shares the base" in out
    assert out.endswith("ok\n")


@pytest.mark.parametrize(
    ("p", "wanted"),
    [
        (
            0.2,
            [
                "No difference between B's states and A's was found: mmd2_unbiased 0.5, p 0.2, beside 0.1 for A against A."
            ],
        ),
        (0.04, ["B's states differ from A's: mmd2_unbiased 0.5, p 0.04", "p <= 0.05: 1 of 2 distances"]),
        (
            1 / 1001,
            ["p = 0.000999 is the smallest possible: none of 1,000 permutations was as large.", "B's states differ"],
        ),
    ],
)
def test_drift_ends_in_what_it_shows(p: float, wanted: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    values = {
        "mmd2_unbiased": DriftValue(value=0.5, base_vs_base=0.1, p=p),
        "jaccard": DriftValue(value=0.3, base_vs_base=0.3, p=0.6),
        "energy": DriftValue(value=None, base_vs_base=None, note="no words"),
    }
    record = DriftRecord(
        task="t", features="words", num_prompts=2, num_states=4, distances=values, num_permutations=1000
    )
    print_drift(record)
    out = capsys.readouterr().out
    assert [text for text in wanted if text not in out] == []
    assert ("smallest possible" in out) == (p < 0.001)


HOLDS = """
import sys, time
from pathlib import Path
from stateshape.core.locks import hold
with hold(Path(sys.argv[1]), name=sys.argv[2]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize(
    ("args", "lock"),
    [
        ("train sft --model embedded --task arithmetic --out OUT", ".lock"),
        ("study smoke --out OUT", ".lock"),
        ("eval embedded --task facts --out OUT", ".lock"),
        ("embedded train --out OUT/base", ".base.lock"),
        ("report OUT", ".report.lock"),
    ],
)
def test_a_folder_that_another_process_writes_to_is_refused(
    args: str, lock: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stateshape.policy.open.load_weights", lambda *_: pytest.fail("a model was loaded"))
    monkeypatch.chdir(tmp_path)
    Path("OUT").mkdir()
    if args.startswith("report"):
        Path("OUT/plan.json").write_text("{}")
    holder = subprocess.Popen([sys.executable, "-c", HOLDS, "OUT", lock], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        before = sorted(tmp_path.rglob("*"))
        code, _, err = run(*args.split())
        assert sorted(tmp_path.rglob("*")) == before
    finally:
        holder.kill()
        holder.wait()
    assert (code, err.count("\n")) == (2, 1)
    assert f"OUT is being written by process {holder.pid} on " in err


@pytest.mark.parametrize("command", ["train sft --model embedded --task arithmetic", "eval embedded --task facts"])
@pytest.mark.parametrize("out", ["", "a\nb", "a" * 300, "\udcff"])
def test_a_folder_that_can_t_be_made_is_one_line_before_any_work(
    command: str, out: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stateshape.tasks.load.load_task", lambda *_, **__: pytest.fail("data was read"))
    code, told, err = run(*command.split(), "--out", out)
    assert (code, told, err.count("\n")) == (2, "", 1)
    told_at = "argument" if out == "\udcff" else "out: got"  # no text at all is refused before it is read as a flag
    assert err.startswith(f"stateshape: {told_at}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "is_terminal", "is_said"),
    [
        ("study smok --out NEW", True, True),
        ("study smok --out NEW", False, False),
        ("study smok --out NEW --quiet", True, False),
        ("study --help", True, False),
        ("nosuch", True, False),
    ],
)
def test_a_slow_command_says_at_once_that_it_began(capsys, monkeypatch, command, is_terminal, is_said):
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal, raising=False)
    with contextlib.suppress(SystemExit):
        main(command.split())
    assert capsys.readouterr().err.startswith("Loading ...") == is_said

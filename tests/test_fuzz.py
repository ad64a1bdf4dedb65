"""Whatever is in a file or a flag, a command does its work or says in one line why not: thousands of mutations, seeded.

`make test` runs a few thousand. STATESHAPE_FUZZ=36000 runs as many; STATESHAPE_FUZZ=study/123 runs that one case again.
No case loads a model: what would is a success.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from tokenizers import Tokenizer

import hostile
from stateshape.analysis.compare import write_comparison
from stateshape.core.files import plain, read_json, read_jsonl, write_json
from stateshape.core.records import ProfileRecord
from stateshape.core.states import Trajectory
from stateshape.core.study_records import Comparison, PredictorReport, StateMap
from stateshape.embedded import base_folder
from stateshape.evals.evaluate import read_summaries
from stateshape.locality.counts import StepCounts
from stateshape.policy.source import resolve
from stateshape.record.parts import part_name, write_part
from stateshape.record.reading import Recording, item_ids_by_step
from stateshape.record.schema import PER_TOKEN, SCHEMA, Source, vocabulary_sha256
from stateshape.report.study_files import read_study_folder as read_folder
from stateshape.study.plan import make_plan
from stateshape.study.study_file import read_study_file
from stateshape.tasks.load import load_task
from stateshape.tasks.reading import Reading
from synthetic_study import write_synthetic_study

SHARES = {"study": 30, "task": 30, "record": 15, "flags": 20, "states": 5}  # of a hundred cases
CASES = os.environ.get("STATESHAPE_FUZZ", "600")
Case = Callable[[random.Random], hostile.End]

STUDY = """\
study: tiny
model: embedded
seeds: [0, 1]
target: {task: arithmetic, limit: 8, shots: 0}
retention: [{task: facts, limit: 8}, {task: exam, limit: 8, shots: 1}]
drift: {prompts: 4, cuts: 1, max_new_tokens: 8, temperature: 1.0, hidden: true, encoder: null}
locality: {every: 2, prompts: 2, max_new_tokens: 8, retention_tokens: 4, positions: 16}
model_settings: {device: cpu, dtype: auto, compile: false}
train: {lr: 5e-4, steps: 2, batch_prompts: 2, train_items: 8, warmup_share: 0.05, states_mb: 1, lora: {rank: 4, alpha: 8, targets: [q_proj]}}
notes: why
roles: {sft_stress: tutor}
contrasts: [[tutor, student]]
runs:
  tutor: {recipe: sft, label: "a tutor", train: {lora: {alpha: 8}}, data: own.csv, read: {columns: {prompt: q}, turns: last, as_chat: true}}
  student: {recipe: opd_continuation, teacher: tutor, with: {max_new_tokens: 8, cut: {at: uniform, low: 0.1}}}
  rl: {recipe: grpo, with: {group: 4, rollout_tokens: 8, kl_coefficient: 0.1, clip_high: 0.28}}
  mixed: {recipe: dagger, teacher: tutor, with: {samples: 2, schedule: {kind: linear, value: 1.0, end: 0.1}}}
  again: {recipe: replay, states: tutor, with: {signal: reward}}
"""  # noqa: E501
FREE = [
    {"prompt": f"{k}+1=", "answer": str(k + 1), "solution": f"so {k + 1}", "rejected": "no", "tag": "a", "split": split}
    for k, split in enumerate(["train", "train", "test", "test"])
]  # fmt: skip
USER, REPLY = {"role": "user", "content": "3+4?"}, {"role": "assistant", "content": "7"}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": '{"a": 3}'}}]}
CHATS = [
    {
        "messages": [{"role": "system", "content": "s"}, USER, CALL, {"role": "tool", "content": "7"}, REPLY, USER, REPLY],
        "tools": [{"type": "function", "function": {"name": "add"}}],
        "chat_template_kwargs": {"a": 1}, "answer": k, "split": split,
    }
    for k, split in enumerate(["train", "test"])
]  # fmt: skip
SHAREGPT = [
    {"conversations": [{"from": "human", "value": "3+4?"}, {"from": "gpt", "value": "7"}], "id": k} for k in range(2)
]
PAIRS = [
    {"chosen": [USER, REPLY], "rejected": [USER, {**REPLY, "content": "no"}]},
    {"prompt": "a", "chosen": "b", "rejected": "c"},
]
ALPACA = [{"instruction": "Add.", "input": "3 and 4", "output": "7", "system": "s"}] * 2
QUESTIONS = [{"question": f"{k}+1?", "reply": str(k + 1), "level": k} for k in range(3)]
READINGS = [
    Reading(),
    Reading(turns="last"),
    Reading(as_chat=True, grader="numeric:0.1"),
    Reading(columns={"prompt": "question", "completion": "reply"}, split="test"),
    Reading(columns={"answer": "reply", "prompt": "question", "id": ""}, grader="regex"),
    Reading(kind="messages", grader="choice"),
]
CHOICE = [{"prompt": f"{k}?", "options": ["a", "b"], "answer": k % 2, "id": f"i{k}", "subject": "s"} for k in range(4)]


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def study(home: Path) -> Case:
    """A study file: read, checked and planned."""
    path = home / "study.yaml"
    parsed = yaml.safe_load(STUDY)

    def case(rng: random.Random) -> hostile.End:
        if rng.random() < 0.5:
            path.write_bytes(hostile.changed_bytes(STUDY.encode(), rng))
        else:
            path.write_text(json.dumps(hostile.changed_value(parsed, rng)))
        if rng.random() < 0.005:
            return hostile.outcome_of_command(["study", str(path), "--dry-run"])
        return hostile.outcome(lambda: make_plan(read_study_file(str(path))))

    return case


@pytest.fixture(scope="module")
def task(home: Path) -> Case:
    """Files of tasks: one's own, of every kind and format, and those of the three benchmarks."""
    gsm8k = [{"question": f"{k}+1?", "answer": f"<<{k}+1={k + 1}>>\n#### {k + 1}"} for k in range(3)]
    targets = {"mc1_targets": {"a": 1, "b": 0}, "mc2_targets": {"a": 1, "c": 1, "b": 0}}
    exam = "".join(f'"{k}, what?",a,b,c,d,{letter}\n' for k, letter in enumerate("ABD"))
    table = home / "table.parquet"
    pq.write_table(pa.Table.from_pylist(CHATS), table)
    files = {
        "chats.jsonl": lines(CHATS),
        "sharegpt.jsonl": lines(SHAREGPT),
        "pairs.jsonl": lines(PAIRS),
        "alpaca.json": json.dumps(ALPACA).encode(),
        "questions.csv": b"question,reply,level\n" + b"".join(f'"{k}, what?",{k + 1},1\n'.encode() for k in range(3)),
        "questions.jsonl": lines(QUESTIONS),
        "table.parquet": table.read_bytes(),
        "free.jsonl": lines(FREE),
        "choice.jsonl": lines(CHOICE),
        "gsm8k/train.jsonl": lines(gsm8k),
        "gsm8k/test.jsonl": lines(gsm8k),
        "truthfulqa/mc_task.json": json.dumps([{"question": "q?", **targets}] * 2).encode(),
        "mmlu/test/logic_test.csv": exam.encode(),
        "mmlu/dev/logic_dev.csv": exam.encode(),
    }
    for name, data in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(data)

    def case(rng: random.Random) -> hostile.End:
        name = rng.choice(list(files))
        change = hostile.changed_bytes if name.endswith((".csv", ".parquet")) else hostile.changed_json
        (home / name).write_bytes(change(files[name], rng))
        chosen = str(home / name) if "/" not in name else name.partition("/")[0]
        reading = rng.choice(READINGS) if "/" not in name else None
        try:
            return hostile.outcome(lambda: load_task(chosen, data_dir=home, limit=2, reading=reading))
        finally:
            (home / name).write_bytes(files[name])

    return case


@pytest.fixture(scope="module")
def record(home: Path) -> Case:
    """What studies and runs leave: every file that a report, a comparison, a resumed run or a teacher is read from."""
    folder = write_synthetic_study(
        home / "study",
        seeds=(0, 1),
        num_items=4,
        rates=dict.fromkeys(("base", "sft_mild", "opd_mild"), (0.5, 0.5, 0.5)),
    )
    write_comparison(folder)
    others(folder)
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".jsonl"))
    kinds: dict[str, list[Path]] = {}
    for path in paths:
        kinds.setdefault(path.name, []).append(path)

    def case(rng: random.Random) -> hostile.End:
        name = rng.choice(sorted(kinds))
        path = rng.choice(kinds[name])
        kept = path.read_bytes()
        path.write_bytes(hostile.changed_json(kept, rng))
        try:
            if rng.random() < 0.01 and name not in OF_RUNS:
                return hostile.outcome_of_command(["report", str(folder)])
            return hostile.outcome(lambda: reader_of(name)(path, folder))
        finally:
            path.write_bytes(kept)

    return case


def others(folder: Path) -> None:
    """Files of a run that has not finished, of an evaluation, an adapter and a profile."""
    cost = {"seconds": 1.0, "tokens": 5, "flops": 10, "peak_memory_gb": 0.1}
    counts = StepCounts(step=0, every=1, cells=[0, 3], num_tokens=[2, 1], mass=[0.5, 0.1], teacher_grades=None)
    row = Trajectory(item_id="a", ids=[1, 2], origins=[0, 2], logps=[None, -0.5], finish="eos", group=0)  # type: ignore[list-item]
    (folder / "supervision.jsonl").write_bytes(lines([plain(counts)] * 2))
    (folder / "step-0.jsonl").write_bytes(lines([plain(row)] * 2))
    write_json(folder / "adapter_config.json", {"base_model_name_or_path": "embedded", "peft_type": "LORA", "r": 2})
    phase = {"run": "a", "seed": 0, "phase": "training", "seconds": 1.0}
    operators = {"a": {"training": [{"operator": "mm", "calls": 1, "self_seconds": 0.1, "share": 1.0}]}}
    write_json(folder / "profile.json", {"machine": cost, "phases": [phase], "operators": operators})


OF_RUNS: dict[str, Callable[[Path, Path], object]] = {
    "supervision.jsonl": lambda path, _: read_jsonl(path, StepCounts),
    "step-0.jsonl": lambda path, _: read_jsonl(path, Trajectory),
    "adapter_config.json": lambda path, _: resolve(str(path.parent)),
    "profile.json": lambda path, _: read_json(path, ProfileRecord),
    "summary.json": lambda path, _: read_summaries(path.parent.parent),
    "comparison.json": lambda path, _: read_json(path, Comparison),
    "state_map.json": lambda path, _: read_json(path, StateMap),
    "predictors.json": lambda path, _: read_json(path, PredictorReport),
}


def reader_of(name: str) -> Callable[[Path, Path], object]:
    return OF_RUNS.get(name, lambda _, folder: (read_folder(folder), write_comparison(folder)))


COMMANDS = [
    "eval embedded --task facts --limit 4 --shots 0 --out OUT --device cpu --dtype auto --data HOME",
    "eval STUDY/runs/base/seed0 --task HOME/own.jsonl --limit 4 --out OUT --device cpu",
    "drift embedded embedded --task HOME/own.jsonl --prompts 4 --cuts 1 --max-new-tokens 8 --temperature 1.0 --seed 0",
    "study HOME/plain.yaml --out OUT --seeds 0,1 --model embedded --jobs 2 --data HOME",
    "report STUDY",
    "doctor --model embedded --teacher embedded --device cpu --dtype auto --rank 4",
    "embedded train --out OUT --steps 2 --seed 0 --threads 1",
    "power --p0 0.4 --p1 0.5 --n 100 --rho 0.5 --seeds 3 --seed-sd 0.01 --alpha 0.05",
    "methods --json",
    "states RUN --step 0 --item a --origin learner --finish eos --min-reward 0 --limit 2",
    "states RUN --summary --csv",
    "train sft --model embedded --task HOME/own.jsonl --out OUT --seed 0 --lr 1e-3 --steps 2 --batch-prompts 2 --lora.rank 2 "
    "--lora.targets q_proj v_proj --warmup-share 0.1 --states-mb 1 --chunk-tokens 64 --checkpoint-every 1 --train-items 2",
    "train grpo --model embedded --task HOME/own.jsonl --out OUT --epochs 1 --group 4 --rollout-tokens 8 --temperature 1.0 "
    "--reward exact-answer --clip-high 0.2 --kl-coefficient 0 --supervised-per-step 8",
    "train opd_continuation --model embedded --task HOME/own.jsonl --out OUT --teacher embedded --cut.low 0.1 --cut.high 0.9 "
    "--cut.at uniform --max-new-tokens 8 --samples 2",
    "data HOME/chats.jsonl --model embedded --chat-template HOME/chat.jinja --turns all --limit 2 --tokens",
    "data HOME/questions.csv --columns prompt=question,completion=reply --kind completion --split train --grader numeric:0.1",
    "train sft --model embedded --data HOME/chats.jsonl --chat-template HOME/chat.jinja --out OUT --steps 1 --turns last",
    "train replay --model embedded --task HOME/own.jsonl --out OUT --states RUN --signal reward --steps 1",
    "train sft --config HOME/sft.yaml --task HOME/own.jsonl --out OUT --steps 1 --lora.rank 2",
]
CONFIG = "model: embedded\nlr: 1e-3\nepochs: 1\nbatch-prompts: 2\nlora: {rank: 2, targets: [q_proj]}\nquiet: true\n"
SQL = "SELECT step, count(*) AS n, avg(reward), list_sum(mass), text_of(ids) FROM states WHERE step < 2 GROUP BY ALL LIMIT 3"


class WouldLoad(Exception):
    """Where a model would be loaded or trained."""


@pytest.fixture
def flags(home: Path, recorded: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    """Every command with one argument exchanged, dropped, doubled or put elsewhere."""

    def would_load(*_: object, **__: object) -> None:
        raise WouldLoad

    monkeypatch.setattr("stateshape.policy.open.load_weights", would_load)
    monkeypatch.setattr("stateshape.embedded.train.train_base", would_load)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("STATESHAPE_DATA", str(home))
    monkeypatch.chdir(home)
    (home / "own.jsonl").write_bytes(lines(FREE))
    (home / "chats.jsonl").write_bytes(lines([{"messages": [USER, REPLY, USER, REPLY]}] * 3))
    (home / "questions.csv").write_text("question,reply\n3+4?,7\n")
    (home / "chat.jinja").write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt "
        "%}assistant: {% endif %}"
    )
    (home / "plain.yaml").write_text(STUDY.replace("task: arithmetic", f"task: {home}/own.jsonl"))
    write_synthetic_study(home / "flags", seeds=(0,), num_items=4, rates={"base": (0.5, 0.5, 0.5)})
    stand = {"HOME": str(home), "STUDY": str(home / "flags"), "RUN": str(recorded), "OUT": str(home / "out")}

    def case(rng: random.Random) -> hostile.End:
        words = rng.choice(COMMANDS).split()
        if "--config" in words:
            text = hostile.changed_text(CONFIG, rng) if rng.random() < 0.5 else CONFIG
            (home / "sft.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
        for name, place in stand.items():
            words = [word.replace(name, place) for word in words]
        return hostile.outcome_of_command(hostile.changed_words(words, rng), allowed=(WouldLoad,))

    return case


@pytest.fixture(scope="module")
def recorded(home: Path) -> Path:
    """A run with two recorded steps, made up."""
    source = Source("embedded", vocabulary_sha256(open_tokens().get_vocab()))
    folder = home / "recorded"
    (folder / "states").mkdir(parents=True)
    schema = SCHEMA.with_metadata(source.metadata())
    for step in range(2):
        rows = [recorded_row(step, row) for row in range(2)]
        write_part(folder / "states" / part_name(step, step), [pa.Table.from_pylist(rows, schema=schema)], schema)
    return folder


def open_tokens() -> Tokenizer:
    return Tokenizer.from_file(str(base_folder() / "tokenizer.json"))


def recorded_row(step: int, row: int) -> dict[str, Any]:
    tokens = {name: [None, None, -0.5, -0.25] for name in ("behaviour_logp", *PER_TOKEN)}
    return tokens | {
        "step": step, "term": "", "row": row, "item_id": "a", "group": row, "ids": [5, 6, 7, 8], "origins": [0, 0, 2, 2],
        "supervised": [False, False, True, True], "prompt_length": 2, "cut": None, "finish": "eos", "policy_version": step,
        "teacher": None, "reward": 1.0, "target": None,
    }  # fmt: skip


@pytest.fixture
def states(recorded: Path) -> Case:
    """Recorded states: damaged files, rows that no run writes, and SQL."""
    paths = sorted((recorded / "states").glob("*.parquet"))
    good = paths[0].read_bytes()
    schema = pq.read_schema(paths[0])

    def case(rng: random.Random) -> hostile.End:
        sql = SQL
        if rng.random() < 0.4:
            sql = hostile.changed_text(SQL, rng)
        elif rng.random() < 0.5:
            paths[0].write_bytes(hostile.changed_bytes(good, rng))
        else:
            rows = hostile.changed_value([recorded_row(0, row) for row in range(2)], rng)
            with contextlib.suppress(pa.ArrowException, TypeError, ValueError, AttributeError, OverflowError):
                made = pa.Table.from_pylist(rows, schema=schema if rng.random() < 0.8 else None)
                pq.write_table(made.replace_schema_metadata(schema.metadata), paths[0])
        ask = rng.choice(([], ["--json"], ["--summary"], ["--sql", sql], ["--sql", sql], ["--sql", sql, "--csv"]))
        try:
            if rng.random() < 0.2:
                return hostile.outcome(lambda: (Recording(recorded).writers(""), item_ids_by_step(recorded)))
            return hostile.outcome_of_command(["states", str(recorded), *ask])
        finally:
            paths[0].write_bytes(good)

    return case


def run_cases(kind: str, case: Case) -> None:
    asked, _, seed = CASES.partition("/")
    seeds = [int(seed)] * (asked == kind) if seed else range(int(CASES) * SHARES[kind] // 100)
    ends: Counter[str] = Counter()
    began = time.process_time()
    found: list[str] = []
    for number in seeds:
        end = case(random.Random(f"{kind}/{number}"))
        ends[end.kind] += 1
        ends["longer than 300"] += len(end.told) > 300
        if end.kind == "wrong":
            found.append(f"STATESHAPE_FUZZ={kind}/{number}: {end.told}")
        if os.environ.get("STATESHAPE_FUZZ_SHOW"):
            print(number, *end)
    print(kind, dict(ends), f"{time.process_time() - began:.0f} s of CPU")
    assert not found, f"{len(found)} of {len(seeds)}:\n" + "\n".join(found[:40])


def test_study_files(study: Case) -> None:
    run_cases("study", study)


def test_task_files(task: Case) -> None:
    run_cases("task", task)


def test_records(record: Case) -> None:
    run_cases("record", record)


def test_flags(flags: Case) -> None:
    run_cases("flags", flags)


def test_recorded_states(states: Case) -> None:
    run_cases("states", states)

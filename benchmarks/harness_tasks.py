"""Whole tasks through `lm_eval.simple_evaluate`: the model is our PolicyLM, or lm-evaluation-harness's own HFLM.

Both sides get the same task objects from the same YAML files, over the official files as local JSON: TruthfulQA with its
primer (MC2), and MMLU with five shots, by letter and cloze, of the first questions of each of 8 subjects. Timed: all of
simple_evaluate, with the harness's own work on prompts and metrics, which both sides pay. Ours does not know the tasks: it sees
requests. The peer's batch size: of a few, the fastest on a part of the task. One repeat, since the peer takes
minutes. Beside the seconds, those of the processor, which other work on the machine does not lengthen.
"""

from __future__ import annotations

import json
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import Measured, Options, Row, compared, data_dir, fastest, interleave, load_policy, timed
from benchmarks.trl_peer import peer_model, peer_tokenizer
from stateshape.tasks.mmlu import LETTERS, read_exams
from stateshape.tasks.truthfulqa import PRIMER

BATCH_SIZES = (1, 4, 16)
TRIAL_ITEMS = 2  # of each task object, on which batch sizes are tried
QUESTIONS = 60  # of TruthfulQA
SUBJECTS, OF_A_SUBJECT, SHOTS = 8, 10, 5


def write_task(folder: Path, name: str, rows: dict[str, list[dict[str, Any]]], **config: Any) -> str:
    """A task's YAML (JSON is YAML) over a file for each split."""
    files = {split: str(folder / f"{name}_{split}.json") for split in rows}
    for split, path in files.items():
        Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows[split]), encoding="utf-8")
    made = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": files}, "test_split": "test"}
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(made | {"output_type": "multiple_choice"} | config), encoding="utf-8")
    return str(path)


def truthfulqa(folder: Path, number: int) -> list[str]:
    questions = json.loads((data_dir() / "truthfulqa" / "mc_task.json").read_text(encoding="utf-8"))[:number]
    rows = [
        {
            "question": one["question"],
            "choices": list(one["mc2_targets"]),
            "answer": list(one["mc2_targets"].values()).index(1),
        }
        for one in questions
    ]
    ask = {"doc_to_text": "Q: {{question}}\nA:", "doc_to_choice": "{{choices}}", "doc_to_target": "answer"}
    return [write_task(folder, "bench_truthfulqa", {"test": rows}, description=f"{PRIMER}\n\n", **ask)]


def mmlu(folder: Path, number: int, *, is_cloze: bool) -> list[str]:
    """A task object for each subject, as the harness has it."""
    paths = []
    for file in sorted((data_dir() / "mmlu" / "test").glob("*_test.csv"))[:: 57 // SUBJECTS][:SUBJECTS]:
        subject = file.name.removesuffix("_test.csv")
        dev = file.parents[1] / "dev" / f"{subject}_dev.csv"
        rows = {
            split: [
                {"question": raw.question.strip(), "choices": list(raw.choices), "answer": raw.answer_index}
                for raw in read_exams(path)[:count]
            ]
            for split, path, count in (("test", file, number), ("dev", dev, SHOTS))
        }
        options = "\n".join(f"{letter}. {{{{choices[{at}]}}}}" for at, letter in enumerate(LETTERS))
        ask = {"doc_to_text": f"{{{{question}}}}\n{options}\nAnswer:", "doc_to_choice": list(LETTERS)}
        if is_cloze:
            ask = {"doc_to_text": "Question: {{question}}\nAnswer:", "doc_to_choice": "{{choices}}"}
        about = f"The following are questions (with answers) about {subject.replace('_', ' ')}.\n\n"
        name = f"bench_{'cloze' if is_cloze else 'letters'}_{subject}"
        shots = {"fewshot_split": "dev", "fewshot_config": {"sampler": "first_n"}, "num_fewshot": SHOTS}
        paths.append(write_task(folder, name, rows, description=about, doc_to_target="answer", **ask, **shots))
    return paths


def evaluated(model: Any, paths: list[str], limit: int | None = None) -> dict[str, list[Any]]:
    """By task object, the responses to each document's requests."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_defaults=False)
    found = lm_eval.simple_evaluate(
        model=model, tasks=list(paths), task_manager=manager, limit=limit, bootstrap_iters=0
    )
    assert found is not None
    return {name: [one["resps"] for one in samples] for name, samples in found["samples"].items()}


def logps(found: dict[str, list[Any]]) -> list[float]:
    return [response[0][0] for name in sorted(found) for responses in found[name] for response in responses]


class Side:
    """Keeps what the last repeat found."""

    def __init__(self, model: Any, paths: list[str]) -> None:
        self.model, self.paths = model, paths
        self.found: dict[str, list[Any]] = {}

    def __call__(self, repeat: int) -> Measured:
        began = time.process_time()
        seconds, self.found = timed(partial(evaluated, self.model, self.paths))
        return Measured(seconds, len(logps(self.found)), {"cpu_seconds": time.process_time() - began})


def run(model: str, options: Options = Options()) -> list[Row]:  # noqa: B008
    from lm_eval.models.huggingface import HFLM

    from stateshape.evals.harness_lm import PolicyLM

    policy, network, tokenizer = load_policy(model), peer_model(model), peer_tokenizer(model)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        each = options.pick(options.limit or OF_A_SUBJECT, 1)
        chosen = {
            "lm_eval truthfulqa": truthfulqa(Path(folder), options.pick(options.limit or QUESTIONS, 2)),
            "lm_eval mmlu": mmlu(Path(folder), each, is_cloze=False),
            "lm_eval mmlu cloze": mmlu(Path(folder), each, is_cloze=True),
        }
        for name, paths in chosen.items():
            sizes = {
                f"batch size {size}": HFLM(pretrained=network, tokenizer=tokenizer, batch_size=size)
                for size in (BATCH_SIZES[:1] if options.is_small else BATCH_SIZES)
            }
            tries = {
                what: partial(lambda peer, few: timed(partial(evaluated, peer, few, TRIAL_ITEMS))[0], peer, paths[:2])
                for what, peer in sizes.items()
            }
            quickest, tried = fastest(tries)
            ours, theirs = Side(PolicyLM(policy), paths), Side(sizes[quickest], paths)
            evaluated(ours.model, paths[:2], 1)
            measured = interleave({"ours": ours, "peer": theirs}, repeats=options.num_repeats(1), warm_up=False)
            row = compared(name, model, measured["ours"], measured["peer"], peer="lm-eval HFLM", peer_settings=quickest)
            apart = max(abs(a - b) for a, b in zip(logps(ours.found), logps(theirs.found), strict=True))
            rows.append(row | {"peer_tried_seconds": tried, "largest_logp_difference_nats": apart})
    return rows

"""What looking on costs: seconds of the locality watch beside those of training, by recipe, in the quickstart's settings.

    OMP_NUM_THREADS=1 taskset -c 1 python -m benchmarks.locality [--runs sft_mild rl] [--repeats 1]

Each run of the quickstart is trained on the embedded base as a study does it, with the watch at its default cadence; a
teacher is a fresh adapter, which computes as much as a trained one. Both costs come from the same run's phases, so that
whatever else the machine does falls on both. `once` is what the base's own states take, once for all runs of a study.
Writes results/bench/locality.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.common import RESULTS, load_policy, origin, write_json
from stateshape.core.files import iter_jsonl
from stateshape.locality.compared import Compared
from stateshape.locality.settings import LocalitySettings
from stateshape.locality.watch import LocalityWatch
from stateshape.policy.policy import Policy
from stateshape.recipes.recipe import Parts
from stateshape.sampling.local import LocalSampler
from stateshape.study.plan import Plan, make_plan
from stateshape.study.run_spec import RunSpec
from stateshape.study.study_file import read_study_file
from stateshape.tasks.load import load_task
from stateshape.tasks.task import ChoiceTask, GenerationTask
from stateshape.train.loop import train

SEED = 0


class Setting:
    """The embedded base, the quickstart's tasks, and what its runs are compared with."""

    def __init__(self, plan: Plan) -> None:
        self.base = load_policy("embedded")
        target = load_task(plan.file.target.task, data_dir=None, limit=1)
        assert isinstance(target, GenerationTask)
        self.task = target
        self.settings = LocalitySettings()
        self.sampler = LocalSampler()
        count = self.settings.prompts
        questions: list[str] = []
        for choice in plan.file.retention:
            task = load_task(choice.task, data_dir=None, limit=count)
            assert isinstance(task, ChoiceTask)
            questions += [item.prompt for item in task.items[: count // len(plan.file.retention)]]
        self.compared = Compared(
            base=self.base,
            new_task=[self.base.encode_prompt(item.prompt) for item in target.train[-count:]],
            retention=[self.base.encode_prompt(text) for text in questions],
            sampler=self.sampler,
            stops=target.stops,
            settings=self.settings,
            seed=SEED,
        )
        began = time.perf_counter()
        _ = self.compared.by_base
        self.once_seconds = time.perf_counter() - began

    def measure(self, spec: RunSpec) -> dict[str, Any]:
        """Trains the run and returns what its phases took."""
        weights = self.base.weights
        weights.add_adapter("learner", spec.train.lora, seed=1)
        weights.add_adapter("teacher", spec.train.lora, seed=2)
        item_ids = tuple(item.item_id for item in self.task.train)
        teacher = Policy(weights, "teacher")
        learner = Policy(weights, "learner", is_trainable=True)

        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            parts = Parts(
                task=self.task, sampler=self.sampler, teacher=lambda _: teacher, item_ids=item_ids, folder=folder
            )
            method = spec.recipe().build(parts)
            watch = LocalityWatch(self.compared, grader=parts.is_right, folder=folder, seed=SEED)
            progress = train(method, learner, item_ids, spec.train, seed=SEED, folder=folder, watches=[watch])
            probes = [line["step"] for _, line in iter_jsonl(folder / "locality.jsonl")]
        for adapter in ("learner", "teacher"):
            weights.remove_adapter(adapter)
        seconds = {phase: cost.seconds for phase, cost in progress.costs.items()}
        locality = seconds.pop("locality")
        return {
            "run": spec.name,
            "steps": progress.step,
            "probes": probes,
            "train_seconds": sum(seconds.values()),
            "locality_seconds": locality,
            "share": locality / sum(seconds.values()),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="*", help="names of the quickstart's runs; default: all")
    parser.add_argument("--repeats", type=int, default=1)
    chosen = parser.parse_args()
    plan = make_plan(read_study_file("quickstart"))
    setting = Setting(plan)
    rows = []
    for spec in plan.runs:
        if chosen.runs and spec.name not in chosen.runs:
            continue
        tries = [setting.measure(spec) for _ in range(chosen.repeats)]
        rows.append(min(tries, key=lambda row: row["share"]))
    table = Table("run", "steps", "probes", "training s", "locality s", "share")
    for row in rows:
        table.add_row(
            row["run"],
            str(row["steps"]),
            str(len(row["probes"])),
            f"{row['train_seconds']:.1f}",
            f"{row['locality_seconds']:.2f}",
            f"{100 * row['share']:.1f}%",
        )
    Console().print(table, f"base states, once: {setting.once_seconds:.2f} s; {torch.get_num_threads()} threads")
    if not chosen.runs:
        write_json(
            RESULTS / "locality.json",
            {"rows": rows, "once_seconds": setting.once_seconds, "origin": origin("embedded")},
        )


if __name__ == "__main__":
    main()

"""--profile: the table of phases on stdout, and profile.json in the folder of the run or study. Measures no phase itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from stateshape.cli.show import console
from stateshape.core.files import read_json, write_json
from stateshape.core.records import Json, Operators, PhaseCost, ProfiledPhase, ProfileRecord, profiled
from stateshape.report.drawing.table import Cell, Table, render_text
from stateshape.report.parts.costs import phases_of

if TYPE_CHECKING:
    from stateshape.policy.policy import Policy
    from stateshape.tasks.task import Task

MACHINE = ("device", "accelerator", "dtype", "threads", "peak_gflops")
PRINTED = 5  # operators of a phase; profile.json has more
WATCHED_ITEMS = 8  # of a task whose evaluation is looked into


def write_profile(
    path: Path,
    phases: Sequence[ProfiledPhase],
    operators: Operators,
    *,
    provenance: dict[str, Json],
    table: Table | None = None,
    quiet: bool,
) -> None:
    """Writes `path`, and prints what is in it. Operators of runs that were watched before are kept."""
    before = read_json(path, ProfileRecord).operators if path.exists() else {}
    machine = {name: provenance.get(name) for name in MACHINE}
    write_json(path, ProfileRecord(machine=machine, phases=list(phases), operators={**before, **operators}))
    if quiet:
        return
    if table is None:
        table = phases_of([(Cell(text=run), [p for p in phases if p.run == run]) for run in {p.run: 0 for p in phases}])
    console().print(render_text(table))
    if len(operators) == 1:
        for phase, ranked in next(iter(operators.values())).items():
            most = ", ".join(f"{cost.operator} {cost.share:.0%}" for cost in ranked[:PRINTED])
            print(f"operators of {phase}: {most or 'none'}")
    print(f"profile: {path}")


def profile_evaluation(path: Path, source: str, policy: Policy, task: Task, cost: PhaseCost, *, quiet: bool) -> None:
    """The cost of an evaluation that has been, and the operators of its first items, which are evaluated again."""
    from stateshape.evals.evaluate import evaluate
    from stateshape.study.provenance import provenance
    from stateshape.tasks.task import GenerationTask
    from stateshape.train.operators import watched

    if isinstance(task, GenerationTask):
        few: Task = replace(task, test=task.test[:WATCHED_ITEMS])
    else:
        few = replace(task, items=task.items[:WATCHED_ITEMS])
    _, operators = watched(lambda: evaluate(policy, few), policy.device)
    origin = provenance(policy.weights, [task])
    phase = profiled(source, None, "evaluation", cost, cost.seconds, origin)
    write_profile(path, [phase], {source: {"evaluation": operators}}, provenance=origin, quiet=quiet)


def time_split(seconds: dict[str, float], supervised: int, sampled: int) -> str:
    """One line: where the time went, and the rates that follow."""
    total = sum(seconds.values())
    parts = [f"{name} {value:.1f} s ({value / max(total, 1e-9):.0%})" for name, value in seconds.items()]
    rates = []
    sampling_s, training_s = seconds.get("sampling", 0.0) + seconds.get("signal", 0.0), seconds.get("training", 0.0)
    if sampled and sampling_s:
        rates.append(f"sampling {sampled / sampling_s:,.0f} tokens/s")
    if supervised and training_s:
        rates.append(f"training {supervised / training_s:,.0f} supervised tokens/s")
    return "time: " + ", ".join(parts) + ("; " + ", ".join(rates) if rates else "")

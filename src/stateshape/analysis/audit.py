"""What each checkpoint of a study gained, lost and changed against the base, in plain sentences. Torch-free.

A checkpoint is one model: its intervals are over items, and say nothing of what another training run would have given. A score
is called gained or lost where its paired 95% interval excludes zero and its test still does after Holm's correction over all
tasks of all checkpoints. Computes no interval (estimates.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from stateshape.analysis.scores import StudyScores
from stateshape.analysis.statistics import holm
from stateshape.core.records import DriftValue, KlValue
from stateshape.core.study_records import (
    BASE,
    Audit,
    AuditFinding,
    Comparison,
    Estimate,
    PairedDifference,
    RunComparison,
    TaskRecord,
)

ALPHA = 0.05
DRIFT = "mmd2_unbiased"  # the distance that the sentence names; all are in the table
ONE_MODEL = (
    "This is one checkpoint: the intervals cover the choice of items, not what another training run with another seed would "
    "have given."
)


def audits(study: StudyScores, comparison: Comparison) -> list[Audit]:
    """One per checkpoint, in the plan's order."""
    tasks = study.tasks()
    rows = [row for row in comparison.rows if row.checkpoint is not None]
    paired = [(row.run, task.name, row.versus_base.get(task.name)) for row in rows for task in tasks]
    known = [(run, task, one.p) for run, task, one in paired if one is not None and one.p is not None]
    adjusted = dict(zip([(run, task) for run, task, _ in known], holm([p for _, _, p in known])))
    return [_audit(study, row, tasks, adjusted) for row in rows]


def _audit(
    study: StudyScores, row: RunComparison, tasks: Sequence[TaskRecord], adjusted: dict[tuple[str, str], float]
) -> Audit:
    findings = [
        _finding(study, row, task, p_holm=adjusted.get((row.run, task.name)), num_tests=len(adjusted)) for task in tasks
    ]
    missing = [problem for problem in study.missing if problem.startswith((f"{row.run},", f"{row.run}:"))]
    return Audit(
        run=row.run,
        label=row.label,
        checkpoint=row.checkpoint or "",
        headline=_headline(findings, tasks),
        findings=findings,
        changes=[*_forgetting(row, len(tasks) - 1), *_drift(study, row.run), *_kl(row, tasks)],
        notes=[ONE_MODEL, *(f"Missing: {problem}." for problem in missing)],
        num_tests=len(adjusted),
    )


# Scores


def _finding(
    study: StudyScores, row: RunComparison, task: TaskRecord, *, p_holm: float | None, num_tests: int
) -> AuditFinding:
    paired, after = row.versus_base.get(task.name), row.scores.get(task.name)
    if paired is None or paired.difference.value is None or after is None or after.value is None:
        return AuditFinding(
            task=task.name,
            outcome="not measured",
            sentence=f"{task.label}: not measured yet.",
            difference=paired.difference if paired else Estimate(value=None, lo=None, hi=None, n_items=0, n_seeds=0),
            p=None,
            p_holm=None,
            num_gained=None,
            num_lost=None,
        )
    gained, lost = _flipped(study, row.run, task.name)
    outcome = _outcome(paired, p_holm)
    return AuditFinding(
        task=task.name,
        outcome=outcome,
        sentence=_sentence(task, outcome, paired, after.value, gained, lost, p_holm=p_holm, num_tests=num_tests),
        difference=paired.difference,
        p=paired.p,
        p_holm=p_holm,
        num_gained=gained,
        num_lost=lost,
    )


def _outcome(paired: PairedDifference, p_holm: float | None) -> Literal["gained", "lost", "cannot tell"]:
    found = paired.difference
    if found.lo is None or found.hi is None or p_holm is None or p_holm >= ALPHA or found.lo <= 0 <= found.hi:
        return "cannot tell"
    return "gained" if found.lo > 0 else "lost"


def _flipped(study: StudyScores, run: str, task: str) -> tuple[int, int]:
    """Items with a higher score than the base's, and with a lower one."""
    seeds = study.common_seeds([BASE, run], [task])
    base_N, run_N = (study.matrix(name, task, seeds)[0] for name in (BASE, run))
    return int(np.sum(run_N > base_N)), int(np.sum(run_N < base_N))


def _sentence(
    task: TaskRecord,
    outcome: Literal["gained", "lost", "cannot tell"],
    paired: PairedDifference,
    after: float,
    gained: int,
    lost: int,
    *,
    p_holm: float | None,
    num_tests: int,
) -> str:
    found = paired.difference
    assert found.value is not None
    items = f"{found.n_items:,} items, of which {gained:,} got better and {lost:,} worse"
    scores = f"from {_number(after - found.value)} to {_number(after)}"
    if outcome != "cannot tell":
        return f"{task.label}: {outcome} {_number(abs(found.value))} {_size(found)}, {scores} ({items})."
    if found.lo is None or found.hi is None:
        why = found.note or "no interval"
    elif found.lo <= 0 <= found.hi:
        why = f"a loss of {_number(max(0.0, -found.lo))} and a gain of {_number(max(0.0, found.hi))} are both possible"
    elif p_holm is None:
        why = "it was not tested"
    else:
        why = f"p = {p_holm:.2g} after Holm's correction for {num_tests} comparisons"
    return f"{task.label}: cannot tell. Difference {_signed(found)}, {scores} ({items}): {why}."


def _size(found: Estimate) -> str:
    """The interval of a difference without its sign."""
    ends = sorted(abs(end) for end in (found.lo, found.hi) if end is not None)
    return f"[{_number(ends[0])}, {_number(ends[1])}]"


def _signed(found: Estimate) -> str:
    ends = "" if found.lo is None or found.hi is None else f" [{found.lo:+.3f}, {found.hi:+.3f}]"
    return f"{found.value:+.3f}{ends}"


def _number(value: float) -> str:
    return f"{value:.3f}"


def _headline(findings: Sequence[AuditFinding], tasks: Sequence[TaskRecord]) -> str:
    """Every task in one of three lists."""
    labels = {task.name: task.label for task in tasks}
    told = []
    for outcome, words in (
        ("gained", "gained on"),
        ("lost", "lost on"),
        ("cannot tell", "cannot tell for"),
        ("not measured", "not measured:"),
    ):
        names = [labels[finding.task] for finding in findings if finding.outcome == outcome]
        if names:
            told.append(f"{words} {', '.join(names)}")
    return "; ".join(told) + "."


# Everything else


def _forgetting(row: RunComparison, num_tasks: int) -> list[str]:
    found = row.mean_forgetting
    if found is None or found.value is None:
        return []
    return [
        f"Mean forgetting over {num_tasks} retention task{'s' if num_tasks > 1 else ''} (base minus tuned): {_signed(found)}."
    ]


def _drift(study: StudyScores, run: str) -> list[str]:
    """Whether the text it writes is told apart from the base's."""
    record = next(iter(study.drift.get(run, {}).values()), None)
    value = None if record is None else record.distances.get(DRIFT)
    if record is None or value is None:
        return []
    return [f"What it writes {_drift_words(value)} ({record.num_states} states from {record.num_prompts} prompts)."]


def _drift_words(value: DriftValue) -> str:
    if value.value is None:
        return f"was not compared: {value.note}"
    control = "" if value.base_vs_base is None else f"; the base against itself: {value.base_vs_base:.2g}"
    p = "" if value.p is None else f", p = {value.p:.2g}"
    is_told = value.p is not None and value.p < ALPHA
    verdict = "differs from what the base writes" if is_told else "cannot be told from what the base writes"
    return f"{verdict}: MMD\u00b2 {value.value:.2g}{p}{control}"


def _kl(row: RunComparison, tasks: Sequence[TaskRecord]) -> list[str]:
    if row.kl is None:
        return []
    told, notes = [], []
    for task in tasks:
        forward, reverse = row.kl.forward.get(task.name), row.kl.reverse.get(task.name)
        if forward is None or forward.value is None:
            notes.append(forward.note if forward is not None and forward.note else "not measured")
            continue
        back = "" if reverse is None or reverse.value is None else f", KL(tuned || base) {_kl_words(reverse)}"
        told.append(f"On {task.label} prompts: KL(base || tuned) {_kl_words(forward)}{back} nats per token.")
    return told + [f"No KL to the base: {note}." for note in dict.fromkeys(notes)]


def _kl_words(value: KlValue) -> str:
    ends = "" if value.lo is None or value.hi is None else f" [{value.lo:.2g}, {value.hi:.2g}]"
    return f"{value.value:.2g}{ends}"

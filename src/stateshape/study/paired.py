"""The evaluated items of a whole study, lined up by item, and contrasts between runs on them. Torch-free.

A study's runs answer the same items, so every comparison here is paired: by item, and by training seed where both runs
have one. The untrained base has no training seed; where it was evaluated once, its rows stand beside every seed.
Does not know which contrasts matter (verdicts.py) or how they are laid out (compare.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stateshape.core.files import BadInput, read_json, read_jsonl
from stateshape.core.records import DriftRecord, Estimate, EvalRow, PairedDifference, PlanRecord, RunRecord, TaskRecord
from stateshape.evals.statistics import (
    NUM_RESAMPLES,
    centred_p,
    exact_mcnemar,
    is_binary,
    mean_estimate,
    percentile_interval,
    resampled_item_means,
    seed_weights,
)

BASE = "base"
EMPTY = Estimate(value=None, lo=None, hi=None, n_items=0, n_seeds=0)
MCNEMAR = "exact McNemar"
ITEM_BOOTSTRAP = "paired bootstrap over items"
HIERARCHICAL = "hierarchical bootstrap over seeds and items"

SeedScores = dict[int, np.ndarray]  # training seed -> score per item, items in the task's common order


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyScores:
    """What a study folder holds. scores[run][task][seed] is aligned over all runs and seeds of a task."""

    plan: PlanRecord
    scores: dict[str, dict[str, SeedScores]]
    drift: dict[str, dict[int, DriftRecord]]  # by run and seed
    missing: list[str]

    def tasks(self) -> list[TaskRecord]:
        return [self.plan.target, *self.plan.retention]

    def label(self, run: str) -> str:
        return next((planned.label for planned in self.plan.runs if planned.name == run), run)

    def common_seeds(self, runs: Sequence[str], tasks: Sequence[str]) -> list[int]:
        """Seeds that every run has for every task; a base evaluated once has them all. Base alone: its own seeds."""
        held = {run: [set(self.scores.get(run, {}).get(task, {})) for task in tasks] for run in runs}
        if any(not seeds for per_task in held.values() for seeds in per_task):
            return []
        once = {BASE} if BASE in held and all(len(seeds) == 1 for seeds in held[BASE]) else set()
        bound = [seeds for run, per_task in held.items() if run not in once for seeds in per_task]
        return sorted(set.intersection(*(bound or held[BASE])))

    def matrix(self, run: str, task: str, seeds: Sequence[int]) -> np.ndarray:
        """[S, N] scores; a base evaluated once is repeated."""
        per_seed = self.scores[run][task]
        if run == BASE and len(per_seed) == 1:
            return np.repeat(next(iter(per_seed.values()))[None, :], len(seeds), axis=0)
        return np.stack([per_seed[seed] for seed in seeds])


# Reading


def load_study(study_dir: Path) -> StudyScores:
    """Reads plan.json and every finished run's rows.

    Raises: BadInput, naming both files, where two runs' rows of a task differ in items or prompts.
    """
    plan = read_json(study_dir / "plan.json", PlanRecord)
    scores: dict[str, dict[str, SeedScores]] = {}
    drift: dict[str, dict[int, DriftRecord]] = {}
    missing: list[str] = []
    references: dict[str, _Reference] = {}
    for run in [planned.name for planned in plan.runs]:
        scores[run], drift[run] = {}, {}
        for seed, folder in _finished(study_dir, run, plan.seeds, missing):
            for task in [plan.target, *plan.retention]:
                path = folder / "evals" / f"{task.name}.jsonl"
                if not path.exists():
                    missing.append(f"{run}, seed {seed}: no rows for {task.name} ({path.name})")
                    continue
                aligned = _aligned(path, task, references)
                scores[run].setdefault(task.name, {})[seed] = aligned
            if (folder / "drift.json").exists():
                drift[run][seed] = read_json(folder / "drift.json", DriftRecord)
    if any(drift.values()):  # otherwise the study did not ask for it
        missing += [
            f"{run}, seed {seed}: no drift.json"
            for run, tasks in scores.items()
            for seed in sorted(set().union(*tasks.values()) - drift[run].keys())
            if run != BASE
        ]
    return StudyScores(plan=plan, scores=scores, drift=drift, missing=missing)


def _finished(study_dir: Path, run: str, seeds: Sequence[int], missing: list[str]) -> list[tuple[int, Path]]:
    """(seed, folder) of the runs that finished; says in `missing` which did not."""
    found, absent = [], []
    for seed in seeds:
        folder = study_dir / "runs" / run / f"seed{seed}"
        if not (folder / "run.json").exists():
            absent.append(seed)
        elif not read_json(folder / "run.json", RunRecord).is_complete:
            missing.append(f"{run}, seed {seed}: did not finish")
        else:
            found.append((seed, folder))
    if absent and not (run == BASE and len(found) == 1):
        which = "any seed" if len(absent) == len(seeds) else "seed " + ", ".join(map(str, absent))
        missing.append(f"{run}: no run for {which}")
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reference:
    """The first file read for a task: its items' order and prompts, which every other file must share."""

    path: Path
    prompts: dict[str, str]  # item id -> prompt_sha256


def _aligned(path: Path, task: TaskRecord, references: dict[str, _Reference]) -> np.ndarray:
    """The task's metric per item, in the common order."""
    rows = {}
    for row in read_jsonl(path, EvalRow):
        if row.item_id in rows:
            raise BadInput(f"{path}: item {row.item_id!r} is there twice")
        if task.metric not in row.scores:
            raise BadInput(f"{path}: item {row.item_id!r} has no score {task.metric!r}, only {sorted(row.scores)}")
        rows[row.item_id] = row
    if not rows:
        raise BadInput(f"{path}: no rows")
    prompts = {item_id: row.prompt_sha256 for item_id, row in rows.items()}
    reference = references.setdefault(task.name, _Reference(path=path, prompts=prompts))
    if odd := sorted(prompts.keys() ^ reference.prompts.keys()):
        raise BadInput(f"{path} and {reference.path}: {len(odd)} items are in one only, e.g. {odd[0]!r}; cannot pair")
    if differ := [item_id for item_id, sha in reference.prompts.items() if prompts[item_id] != sha]:
        raise BadInput(f"{path} and {reference.path}: item {differ[0]!r} was asked with different prompts; cannot pair")
    return np.array([rows[item_id].scores[task.metric] for item_id in reference.prompts])


# Estimates


def score_estimate(study: StudyScores, run: str, task: str) -> Estimate:
    """A run's mean score: Wilson (or normal) interval for one seed, hierarchical bootstrap for several."""
    seeds = study.common_seeds([run], [task])
    if not seeds:
        return EMPTY
    scores_SN = study.matrix(run, task, seeds)
    if len(seeds) == 1:
        metric = mean_estimate(scores_SN[0])
        lo, hi = metric.ci95 if metric.ci95 is not None else (None, None)
    else:
        lo, hi = percentile_interval(_resample([scores_SN[None]], _generator(run, task))[0][0])
    return _estimate(seeds, scores_SN.mean(axis=1), (lo, hi), n_items=scores_SN.shape[1])


def contrast(
    study: StudyScores, weights: Mapping[str, float], tasks: Sequence[str], *, null: float = 0.0
) -> PairedDifference:
    """Mean over tasks of sum_r weight_r score_r, paired by item and seed, tested against `null`.

    {"rl": 1, "base": -1} is rl minus base. One seed of a plain difference of 0/1 scores on one task: exact McNemar. One
    seed otherwise: bootstrap over items. Several: bootstrap over seeds (the same for all tasks) and items (per task).
    Intervals are always the bootstrap's. Where a run or task is missing the estimate is empty and p None.
    """
    versus = next((run for run, weight in weights.items() if weight < 0), "")
    seeds = study.common_seeds(list(weights), tasks)
    if not seeds or not tasks:
        return PairedDifference(versus=versus, difference=EMPTY, p=None, test="not available")
    differences = [
        sum((weight * study.matrix(run, task, seeds) for run, weight in weights.items()), start=np.zeros(()))
        for task in tasks
    ]
    means_S = np.mean([difference_SN.mean(axis=1) for difference_SN in differences], axis=0)
    resampled = _resample([d[None] for d in differences], _generator(*weights, *tasks))
    means_R = np.mean([per_task[0] for per_task in resampled], axis=0)
    value = float(means_S.mean())
    test = HIERARCHICAL if len(seeds) > 1 else ITEM_BOOTSTRAP
    p = centred_p(means_R - null, observed=value - null)
    if len(seeds) == 1 and len(tasks) == 1 and null == 0 and sorted(weights.values()) == [-1, 1]:
        first, second = (study.matrix(run, tasks[0], seeds)[0] for run in weights)
        if is_binary(first) and is_binary(second):
            p, test = exact_mcnemar(first == 1, second == 1), MCNEMAR
    estimate = _estimate(seeds, means_S, percentile_interval(means_R), n_items=sum(d.shape[1] for d in differences))
    return PairedDifference(versus=versus, difference=estimate, p=p, test=test)


def retention(study: StudyScores, run: str, *, is_chance_corrected: bool) -> Estimate | None:
    """Mean over retention tasks of post/base, or of (post - chance)/(base - chance), with a bootstrap interval.

    None where rows are missing, or the base is not above zero (above chance). No interval where more than 2.5% of the
    resamples put the base at or below it: the ratio is then unbounded.
    Source: arXiv:2605.22731 sec. 4 (ratio). Differs: the chance correction.
    """
    tasks = study.plan.retention
    seeds = study.common_seeds([BASE, run], [task.name for task in tasks])
    if not seeds or not tasks:
        return None
    chances = [task.chance if is_chance_corrected else 0.0 for task in tasks]
    stacks = [np.stack([study.matrix(r, task.name, seeds) for r in (BASE, run)]) for task in tasks]
    base_TS, post_TS = (np.stack([stack[i].mean(axis=1) for stack in stacks]) for i in (0, 1))
    floor_T1 = np.array(chances)[:, None]
    # the ratio of means over seeds, not the mean of ratios: a seed's base near chance would dominate the latter
    above_T1 = base_TS.mean(axis=1, keepdims=True) - floor_T1
    if np.any(above_T1 <= 0):
        return None
    per_seed_S = ((post_TS - floor_T1) / above_T1).mean(axis=0)
    resampled = _resample(stacks, _generator("retention", run))
    is_unbounded_R = np.any([draws[0] <= chance for draws, chance in zip(resampled, chances)], axis=0)
    lo: float | None = None
    hi: float | None = None
    if is_unbounded_R.mean() <= 0.025:
        kept = [draws[:, ~is_unbounded_R] for draws in resampled]
        ratios = np.mean([(post - c) / (base - c) for (base, post), c in zip(kept, chances)], axis=0)
        lo, hi = percentile_interval(ratios)
    return _estimate(seeds, per_seed_S, (lo, hi), n_items=sum(stack.shape[2] for stack in stacks))


def _resample(stacks: Sequence[np.ndarray], generator: np.random.Generator) -> list[np.ndarray]:
    """For each [K, S, N] stack, K means in each of NUM_RESAMPLES draws: [K, R]. Seeds are drawn once for all stacks."""
    weights_RS = seed_weights(stacks[0].shape[1], generator, num=NUM_RESAMPLES)
    means = []
    for stack in stacks:
        count, num_seeds, num_items = stack.shape
        rows = np.asarray(stack, dtype=np.float64).reshape(count * num_seeds, num_items)
        item_means = resampled_item_means(rows, generator, num=NUM_RESAMPLES).reshape(-1, count, num_seeds)
        means.append(np.einsum("rks,rs->kr", item_means, weights_RS))
    return means


def _generator(*names: str) -> np.random.Generator:
    """Seeded by what is estimated, so that a number does not depend on which others were asked for."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256("/".join(names).encode()).digest()[:8], "big"))


def _estimate(
    seeds: Sequence[int], values_S: np.ndarray, interval: tuple[float | None, float | None], *, n_items: int
) -> Estimate:
    return Estimate(
        value=float(values_S.mean()),
        lo=interval[0],
        hi=interval[1],
        n_items=n_items,
        n_seeds=len(seeds),
        per_seed={str(seed): float(value) for seed, value in zip(seeds, values_S)},
    )

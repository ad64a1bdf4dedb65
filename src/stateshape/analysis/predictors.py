"""What predicts forgetting? Drift alone, the new task's KL, or drift together with measures of locality. Torch-free.

Each set of predictors is judged by its R^2 on held-out runs, against the mean of the
others. Ridge rather than least squares: the predictors are collinear and the runs few, and with one predictor both are
nearly the same. Predictors are standardised and the penalty is chosen inside the training runs only.
A predictor whose seeds differ as much as its configurations is noise, and an R^2 of it says nothing of what it is called:
each predictor's reliability over seeds is reported, and those below MIN_RELIABILITY are in no set.
The seeds of a configuration are near-copies, so they are held out together ("configuration"); leaving out one run at a
time ("run") is easier and is reported as well. Everything random is seeded; nothing is trained here.
Sources: arXiv:2605.22731 P4; arXiv:2509.04259 (forward KL on the new task); Shrout & Fleiss 1979 (intraclass correlation).
N runs, P predictors, R columns of forgetting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Literal, NamedTuple

import numpy as np
from scipy.stats import rankdata

from stateshape.analysis.scores import StudyScores
from stateshape.core.study_records import (
    BASE,
    By,
    Correlation,
    Estimate,
    Gain,
    HeldoutScore,
    PredictorReport,
    PredictorRow,
)

Statistic = Callable[[np.ndarray], np.ndarray]  # [R, G] how often each configuration was drawn -> [R] values
# A predictor is named by the file that it comes from: drift and locality both measure a `c2st_auc`, of other states.
DRIFT = "drift.mmd2_unbiased"
FORWARD_KL = "locality.forward_kl_new_task_nats"
LOCALITY = ("locality.reachability_gap_nats", "locality.c2st_auc", "locality.locality_ratio")
RECOVERABILITY = "locality.teacher_recoverability"
OF_FEW_ROWS = (*LOCALITY, RECOVERABILITY)  # measured on the rows of probes: noise, until seeds show otherwise
SETS: Mapping[str, tuple[str, ...]] = {
    "drift": (DRIFT,),
    "forward KL on the new task": (FORWARD_KL,),
    "drift and locality": (DRIFT, *LOCALITY),
    # known only where there is a teacher: fewer runs
    "drift, locality and recoverability": (DRIFT, *LOCALITY, RECOVERABILITY),
    # measured where forgetting is, without answers; added after the first study had been seen
    "forward KL on retention prompts": ("locality.forward_kl_retention_nats",),
    "update norm": ("locality.update_frobenius",),  # a control: says how much was changed, and nothing of where
}
GAINS = (("drift and locality", "drift"), ("forward KL on the new task", "drift"))
MIN_RELIABILITY = 0.8  # by convention (Nunnally 1978); noise of a predictor shrinks its slope by 1 - reliability
PENALTIES = np.logspace(-3, 3, 13)  # of standardised predictors, per run: from none to all shrunk away
MIN_RUNS, MIN_CONFIGURATIONS = 20, 8  # fewer tell nothing of a regression: with 6 configurations, R^2 of -100 was seen
MIN_CORRELATED = 4  # configurations
MIN_CLUSTERS = 6  # configurations for a bootstrap interval: fewer have too few distinct resamples
NUM_PERMUTATIONS, NUM_RESAMPLES = 999, 5_000


class Heldout(NamedTuple):
    estimate: Estimate
    p: float | None
    num_left_out: int


# Reading


def predictor_rows(study: StudyScores) -> list[PredictorRow]:
    """One row per trained run (no checkpoints) that has its rows on every retention task."""
    rows = []
    for run in study.scores:
        if run in study.measured_once:
            continue
        for seed, forgetting in forgetting_by_seed(study, run).items():
            drift, locality = study.drift.get(run, {}).get(seed), study.locality.get(run, {}).get(seed)
            found: dict[str, float | None] = {}
            if drift is not None:
                found |= {f"drift.{name}": distance.value for name, distance in drift.distances.items()}
            if locality is not None:
                found |= {f"locality.{name}": value for name, value in locality.values.items()}
            values = {name: value for name, value in found.items() if value is not None}
            rows.append(PredictorRow(run=run, seed=seed, forgetting=forgetting, values=values))
    return rows


def forgetting_by_seed(study: StudyScores, run: str) -> dict[int, float]:
    """Mean over the retention tasks of base minus run, for each seed that has them all."""
    tasks = [task.name for task in study.plan.retention]
    seeds = study.common_seeds([BASE, run], tasks)
    if not seeds or not tasks:
        return {}
    lost = [
        study.matrix(BASE, task, seeds).mean(axis=1) - study.matrix(run, task, seeds).mean(axis=1) for task in tasks
    ]
    return dict(zip(seeds, np.mean(lost, axis=0).tolist()))


# Reliability


def reliability(rows: Sequence[PredictorRow], predictor: str) -> float | None:
    """Of one run's value over training seeds: 1 where seeds agree, 0 or below where all is noise.

    (MSB - MSW) / (MSB + (n0 - 1) MSW), mean squares between and within configurations, n0 = (N - sum n_g^2 / N) / (G - 1)
    Configurations with one seed are left out. None with fewer than MIN_CORRELATED others, or where nothing varies.
    Source: Shrout & Fleiss 1979, ICC(1,1).
    """
    values: dict[str, list[float]] = {}
    for row in rows:
        if predictor in row.values:
            values.setdefault(row.run, []).append(row.values[predictor])
    several = [np.array(one) for one in values.values() if len(one) > 1]
    if len(several) < MIN_CORRELATED:
        return None
    sizes_G = np.array([len(one) for one in several])
    means_G = np.array([one.mean() for one in several])
    num = int(sizes_G.sum())
    grand = float(sizes_G @ means_G) / num
    between = float(sizes_G @ (means_G - grand) ** 2) / (len(several) - 1)
    within = sum(float(((one - one.mean()) ** 2).sum()) for one in several) / (num - len(several))
    size = (num - float((sizes_G**2).sum()) / num) / (len(several) - 1)
    total = between + (size - 1) * within
    return (between - within) / total if total > 0 else None


def reliabilities(rows: Sequence[PredictorRow]) -> dict[str, float]:
    """By predictor, for all that these rows have and that is known of."""
    names = sorted({name for row in rows for name in row.values})
    found = {name: reliability(rows, name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


class Offered(NamedTuple):
    """The sets of predictors that these runs can be judged by, and in words what was left out of SETS."""

    sets: dict[str, tuple[str, ...]]
    notes: list[str]


def offered_sets(rows: Sequence[PredictorRow]) -> Offered:
    """SETS without predictors of low reliability, or of few rows and unknown reliability.

    A set that thereby becomes empty or another one is left out.
    """
    known = reliabilities(rows)
    noisy = {name: f"{value:.2f}" for name, value in known.items() if value < MIN_RELIABILITY}
    measured = {name for row in rows for name in row.values}
    noisy |= {
        name: "unknown: too few runs have several seeds" for name in OF_FEW_ROWS if name in measured - known.keys()
    }
    sets: dict[str, tuple[str, ...]] = {}
    notes = []
    for name, predictors in SETS.items():
        kept = tuple(one for one in predictors if one not in noisy)
        if kept != predictors:
            out = ", ".join(f"{one} ({noisy[one]})" for one in predictors if one in noisy)
            what = f"{name}: left out for a reliability over seeds that is not above {MIN_RELIABILITY:g}: {out}"
            notes.append(what if kept and kept not in sets.values() else f"{what}; nothing of its own is left")
        if kept and kept not in sets.values():
            sets[name] = kept
    return Offered(sets, notes)


def _reliability_note(rows: Sequence[PredictorRow]) -> list[str]:
    known = reliabilities(rows)
    used = [name for name in dict.fromkeys(name for names in SETS.values() for name in names) if name in known]
    if not used:
        return []
    return ["Reliability over seeds (ICC): " + ", ".join(f"{name} {known[name]:.2f}" for name in used)]


# The report


def predictor_report(study: str, rows: Sequence[PredictorRow]) -> PredictorReport:
    ways: tuple[By, ...] = ("configuration", "run")
    sets, left_out = offered_sets(rows)
    scores, gains = [], []
    for by in ways:
        for name, predictors in sets.items():
            found = heldout_r2(rows, predictors, by=by)
            scores.append(
                HeldoutScore(
                    name=name, predictors=list(predictors), by=by, r2=found.estimate, p=found.p,
                    num_left_out=found.num_left_out,
                )
            )  # fmt: skip
        gains += [
            Gain(name=name, versus=versus, by=by, difference=r2_gain(rows, sets[name], sets[versus], by=by))
            for name, versus in GAINS
            if name in sets and versus in sets
        ]
    names = dict.fromkeys(name for predictors in SETS.values() for name in predictors)
    kinds: tuple[Literal["Pearson", "Spearman"], ...] = ("Pearson", "Spearman")
    correlations = [correlation(rows, name, kind=kind) for name in names for kind in kinds]
    odd = [f"{run}: forgetting is the same for every seed" for run, found in _by_run(rows).items() if _is_flat(found)]
    return PredictorReport(
        study=study,
        scores=scores,
        gains=gains,
        correlations=correlations,
        rows=list(rows),
        notes=[*_reliability_note(rows), *left_out, *odd],
        reliability=reliabilities(rows),
    )


def heldout_r2(rows: Sequence[PredictorRow], predictors: Sequence[str], *, by: By) -> Heldout:
    """R^2 = 1 - sum (y - yhat)^2 / sum (y - ybar)^2, yhat and ybar from the runs not left out. Below 0: worse than the mean.

    The interval resamples configurations over the held-out errors, without refitting: it shows how much the value depends on
    which configurations were run, not on how the fit would have changed.
    """
    known = [row for row in rows if all(name in row.values for name in predictors)]
    num_left_out = len(rows) - len(known)
    if (note := too_few(known, num_left_out)) is not None:
        return Heldout(_nothing(note), None, num_left_out)
    errors_NR, totals_NR = _squared_errors(known, predictors, by=by, with_permutations=True)
    values_R = 1 - errors_NR.sum(axis=0) / totals_NR.sum(axis=0)
    sums_G2 = _by_configuration(known, np.stack([errors_NR[:, 0], totals_NR[:, 0]], axis=1))
    estimate = _resampled_over_runs(known, float(values_R[0]), lambda w: 1 - (w @ sums_G2[:, 0]) / (w @ sums_G2[:, 1]))
    return Heldout(estimate, _exceed(values_R), num_left_out)


def r2_gain(rows: Sequence[PredictorRow], larger: Sequence[str], smaller: Sequence[str], *, by: By) -> Estimate:
    """heldout_r2 of `larger` minus that of `smaller`, on the runs that have the predictors of both."""
    known = [row for row in rows if all(name in row.values for name in (*larger, *smaller))]
    if (note := too_few(known, len(rows) - len(known))) is not None:
        return _nothing(note)
    errors = [_squared_errors(known, names, by=by, with_permutations=False) for names in (larger, smaller)]
    columns = [errors[1][0][:, 0] - errors[0][0][:, 0], errors[0][1][:, 0]]
    sums_G2 = _by_configuration(known, np.stack(columns, axis=1))
    value = float(sums_G2[:, 0].sum() / sums_G2[:, 1].sum())
    return _resampled_over_runs(known, value, lambda w: (w @ sums_G2[:, 0]) / (w @ sums_G2[:, 1]))


def correlation(
    rows: Sequence[PredictorRow], predictor: str, *, kind: Literal["Pearson", "Spearman"], min_runs: int = MIN_RUNS
) -> Correlation:
    """Of a predictor with forgetting over runs; interval from resampling configurations, p from permuting them.

    Ranks are those among all runs, also in a resample.
    """
    known = [row for row in rows if predictor in row.values]
    note = too_few(known, len(rows) - len(known), min_runs=min_runs, min_configurations=MIN_CORRELATED)
    x_N, y_N = (np.array(v) for v in ([row.values[predictor] for row in known], [row.forgetting for row in known]))
    if note is None and (np.ptp(x_N) == 0 or np.ptp(y_N) == 0):
        note = "the predictor or forgetting has no variance"
    if note is not None:
        return Correlation(predictor=predictor, kind=kind, value=_nothing(note), p=None)
    if kind == "Spearman":
        x_N, y_N = rankdata(x_N), rankdata(y_N)
    moments = np.stack([np.ones_like(x_N), x_N, y_N, x_N * x_N, y_N * y_N, x_N * y_N], axis=1)
    sums_GM = _by_configuration(known, moments)

    def pearson(weights_RG: np.ndarray) -> np.ndarray:
        n, x, y, xx, yy, xy = (weights_RG @ sums_GM).T
        with np.errstate(invalid="ignore", divide="ignore"):  # a resample of one configuration may not vary
            return (xy / n - x * y / n**2) / np.sqrt((xx / n - (x / n) ** 2) * (yy / n - (y / n) ** 2))

    value = float(np.corrcoef(x_N, y_N)[0, 1])
    dealt_NR = np.concatenate([y_N[:, None], y_N[_permutations(known)]], axis=1)
    dealt_R = np.abs((x_N - x_N.mean()) @ dealt_NR)  # in proportion to |r|: a permutation keeps means and spreads
    estimate = _resampled_over_runs(known, value, pearson)
    return Correlation(predictor=predictor, kind=kind, value=estimate, p=_exceed(dealt_R))


# The regression


def ridge_heldout(X_NP: np.ndarray, Y_NR: np.ndarray, groups_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Predictions for each group from a ridge fit to the others, and the others' mean: both [N, R].

    beta = argmin |y - b - Z beta|^2 + lambda n |beta|^2, Z standardised by the training rows. lambda minimises the squared
    error of leaving out each training group in turn, e_h = (I - H_hh)^{-1} r_h, which needs no further fit (H: hat
    matrix with intercept, r: residuals). Each column of Y chooses its own lambda.
    Source: Hoerl & Kennard 1970; Cook & Weisberg 1982 sec. 2.2 (deleted residuals, here of blocks).
    """
    predicted_NR, mean_NR = np.empty_like(Y_NR), np.empty_like(Y_NR)
    for group in np.unique(groups_N):
        held = groups_N == group
        X, Y, inner = X_NP[~held], Y_NR[~held], groups_N[~held]
        centre, scale = X.mean(axis=0), X.std(axis=0)
        scale = np.where(scale > 0, scale, np.inf)  # a predictor that does not vary here says nothing here
        Z, num = (X - centre) / scale, len(X)
        mean_R = Y.mean(axis=0)
        centred_NR = Y - mean_R
        best_R, chosen_R = np.full(Y.shape[1], np.inf), np.tile(mean_R, (int(held.sum()), 1))
        squared_NR = np.square(centred_NR) if len(np.unique(inner)) == num else None
        for penalty in PENALTIES:
            solve_PN = np.linalg.solve(Z.T @ Z + penalty * num * np.eye(Z.shape[1]), Z.T)
            beta_PR = solve_PN @ centred_NR
            if squared_NR is None:
                loss_R = _left_out_loss(Z, solve_PN, centred_NR - Z @ beta_PR, inner)
            else:
                loss_R = _loss_of_single_rows(Z, solve_PN, beta_PR, centred_NR, squared_NR)
            is_better_R = loss_R < best_R
            best_R = np.where(is_better_R, loss_R, best_R)
            chosen_R = np.where(is_better_R, mean_R + (X_NP[held] - centre) / scale @ beta_PR, chosen_R)
        predicted_NR[held], mean_NR[held] = chosen_R, mean_R
    return predicted_NR, mean_NR


def _left_out_loss(Z: np.ndarray, solve_PN: np.ndarray, residual_NR: np.ndarray, groups_N: np.ndarray) -> np.ndarray:
    """Sum over groups h of |(I - H_hh)^{-1} r_h|^2: [R]. H = Z solve + 1 / N, of which only the blocks h are made, those of one
    size at once."""
    num = len(groups_N)
    places = [np.flatnonzero(groups_N == kind) for kind in np.unique(groups_N)]
    loss_R = np.zeros(residual_NR.shape[1])
    for size, found in groupby(sorted(places, key=len), key=len):
        alike_HS = np.stack(list(found))
        hat_HSS = Z[alike_HS] @ solve_PN[:, alike_HS].transpose(1, 0, 2) + 1 / num
        left_out_HSR = np.linalg.inv(np.eye(size) - hat_HSS) @ residual_NR[alike_HS]
        loss_R += np.square(left_out_HSR).sum(axis=(0, 1))
    return loss_R


def _loss_of_single_rows(
    Z: np.ndarray, solve_PN: np.ndarray, beta_PR: np.ndarray, centred_NR: np.ndarray, squared_NR: np.ndarray
) -> np.ndarray:
    """The same where each group is one row: sum_i w_i (y_i - z_i beta)^2, w_i = (1 - H_ii)^{-2}, multiplied out, so that no
    residual is made: with a thousand rows these take most of a report's time."""
    weight_N = (1 - np.einsum("np,pn->n", Z, solve_PN) - 1 / len(Z)) ** -2.0
    weighted_PN = Z.T * weight_N
    crossed_R = np.einsum("pr,pr->r", beta_PR, weighted_PN @ centred_NR)
    loss_R: np.ndarray = (
        weight_N @ squared_NR - 2 * crossed_R + np.einsum("pr,pr->r", beta_PR, weighted_PN @ Z @ beta_PR)
    )
    return loss_R


def _squared_errors(
    rows: Sequence[PredictorRow], predictors: Sequence[str], *, by: By, with_permutations: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Squared errors of prediction and of the mean, [N, R]; column 0 is the data, the others are permuted."""
    X_NP = np.array([[row.values[name] for name in predictors] for row in rows])
    y_N = np.array([row.forgetting for row in rows])
    Y_NR = np.concatenate([y_N[:, None], y_N[_permutations(rows)]], axis=1) if with_permutations else y_N[:, None]
    groups_N = np.arange(len(rows)) if by == "run" else _configurations(rows)
    predicted_NR, mean_NR = ridge_heldout(X_NP, Y_NR, groups_N)
    return (Y_NR - predicted_NR) ** 2, (Y_NR - mean_NR) ** 2


# Randomness, over configurations: their seeds are near-copies


def _permutations(rows: Sequence[PredictorRow]) -> np.ndarray:
    """[N, NUM_PERMUTATIONS] row indices: configurations with equally many seeds exchange their whole blocks."""
    generator = np.random.default_rng(0)
    groups_N = _configurations(rows)
    blocks = [np.flatnonzero(groups_N == group) for group in np.unique(groups_N)]
    dealt = np.tile(np.arange(len(rows))[:, None], NUM_PERMUTATIONS)
    by_size = sorted(blocks, key=len)
    for _, found in groupby(by_size, key=len):
        alike = list(found)
        for column in range(NUM_PERMUTATIONS):
            for block, source in zip(alike, generator.permutation(len(alike))):
                dealt[block, column] = alike[source]
    return dealt


def _exceed(values_R: np.ndarray) -> float:
    """Share of values at least as large as the first, itself counted: (1 + #{permuted >= observed}) / (1 + B)."""
    observed = values_R[0]
    return float(np.mean(values_R >= observed - 1e-12))


def _resampled_over_runs(rows: Sequence[PredictorRow], value: float, statistic: Statistic) -> Estimate:
    """A percentile interval from drawing configurations with replacement, if there are enough of them."""
    groups_N = _configurations(rows)
    num_groups = len(np.unique(groups_N))
    num_seeds = max(np.bincount(groups_N))
    found = Estimate(value=value, lo=None, hi=None, n_items=len(rows), n_seeds=int(num_seeds))
    if num_groups < MIN_CLUSTERS:
        return replace(found, note=f"{num_groups} configurations, fewer than {MIN_CLUSTERS}: no interval")
    draws_RG = np.random.default_rng(0).multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=NUM_RESAMPLES)
    values_R = statistic(draws_RG.astype(np.float64))
    lo, hi = np.quantile(values_R[np.isfinite(values_R)], [0.025, 0.975])
    return replace(found, lo=float(lo), hi=float(hi))


def _by_configuration(rows: Sequence[PredictorRow], values_NM: np.ndarray) -> np.ndarray:
    """Sums over the seeds of each configuration: [G, M]."""
    groups_N = _configurations(rows)
    return np.stack([values_NM[groups_N == group].sum(axis=0) for group in np.unique(groups_N)])


def _configurations(rows: Sequence[PredictorRow]) -> np.ndarray:
    return np.unique([row.run for row in rows], return_inverse=True)[1]


def _by_run(rows: Sequence[PredictorRow]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row.run, []).append(row.forgetting)
    return found


def _is_flat(values: Sequence[float]) -> bool:
    return len(values) > 1 and np.ptp(values) == 0


def too_few(
    rows: Sequence[PredictorRow],
    num_left_out: int = 0,
    *,
    min_runs: int = MIN_RUNS,
    min_configurations: int = MIN_CONFIGURATIONS,
) -> str | None:
    """Why these runs are too few for a statement; None if they are enough."""
    num_configurations = len({row.run for row in rows})
    if len(rows) >= min_runs and num_configurations >= min_configurations:
        return None
    lacking = f" ({num_left_out} more have a missing predictor)" if num_left_out else ""
    return (
        f"{len(rows)} runs of {num_configurations} configurations{lacking}; expected at least {min_runs} runs of "
        f"{min_configurations} configurations"
    )


def _nothing(note: str) -> Estimate:
    return Estimate(value=None, lo=None, hi=None, n_items=0, n_seeds=0, note=note)

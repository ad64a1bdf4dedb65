"""Writes a whole, realistic, made-up study folder, for tests of comparisons, verdicts and reports.

The numbers are drawn around given true rates; no model is involved. Items have a shared difficulty, so that runs
correlate item by item as real ones do. Every random draw comes from `rng_seed`.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stateshape.core.files import write_json, write_jsonl
from stateshape.core.records import (
    DriftRecord,
    DriftValue,
    EvalRow,
    LocalityRecord,
    MethodRecord,
    Metric,
    RunRecord,
    Span,
    StateSample,
    StepRecord,
    SupervisionCell,
    SupervisionMap,
)
from stateshape.core.study_records import (
    Correlation,
    Estimate,
    Gain,
    HeldoutScore,
    MapPoint,
    PlannedRun,
    PlanRecord,
    PredictorReport,
    StateMap,
    TaskRecord,
)

MODEL = "synthetic-base"
TARGET = TaskRecord(name="gsm8k", label="GSM8K", metric="exact_match", chance=0.0, num_items=None)
RETENTION = [
    TaskRecord(name="truthfulqa", label="TruthfulQA MC1", metric="mc1", chance=0.2225, num_items=None),
    TaskRecord(name="mmlu", label="MMLU", metric="accuracy", chance=0.25, num_items=None),
]
TASKS = [TARGET, *RETENTION]

# true rates on gsm8k, truthfulqa, mmlu: the paper's pattern with wider gaps, so that small tests have power
RATES: dict[str, tuple[float, float, float]] = {
    "base": (0.45, 0.50, 0.55),
    "sft_mild": (0.65, 0.50, 0.55),
    "sft_stress": (0.30, 0.30, 0.35),
    "opd_stress": (0.50, 0.45, 0.52),
    "opd_mild": (0.70, 0.49, 0.54),
    "opd_one_step": (0.05, 0.48, 0.52),
    "rl": (0.60, 0.50, 0.55),
}
DRIFT: dict[str, float] = {
    "sft_mild": 0.0110,
    "sft_stress": 0.0115,
    "opd_stress": 0.0115,
    "opd_mild": 0.0111,
    "opd_one_step": 0.0300,
    "rl": 0.0113,
}
TEACHERS = {"opd_stress": "sft_stress", "opd_mild": "sft_mild", "opd_one_step": "sft_mild"}
LABELS = {
    "base": "Base",
    "sft_mild": "SFT, mild",
    "sft_stress": "SFT, stress",
    "opd_stress": "OPD from the stress teacher",
    "opd_mild": "OPD from the mild teacher",
    "opd_one_step": "OPD, one-step KL",
    "rl": "RL, exact-answer reward",
}
METHODS = {
    "sft": MethodRecord(
        method="sft", state_source="dataset prefixes", signal="gold tokens", density="dense", loss="cross-entropy",
        is_on_policy=False, source="arXiv:2605.22731 sec. 2.2", summary="Imitate the dataset at its own prefixes.",
    ),
    "opd_continuation": MethodRecord(
        method="opd_continuation", state_source="learner rollouts", signal="teacher continuation", density="dense",
        loss="cross-entropy", is_on_policy=True, source="arXiv:2605.22731 sec. 2.5",
        summary="The teacher goes on from the learner's prefixes.",
    ),
    "opd_one_step": MethodRecord(
        method="opd_one_step", state_source="learner rollouts", signal="teacher distribution", density="one token",
        loss="KL", is_on_policy=True, source="arXiv:2605.22731 sec. 6", summary="Match the teacher's next token.",
    ),
    "grpo": MethodRecord(
        method="grpo", state_source="learner rollouts", signal="exact-answer reward", density="one per rollout",
        loss="policy gradient", is_on_policy=True, source="arXiv:2402.03300", summary="Group-relative reward.",
    ),
}  # fmt: skip
METHOD_OF = {
    "sft_mild": "sft",
    "sft_stress": "sft",
    "opd_stress": "opd_continuation",
    "opd_mild": "opd_continuation",
    "opd_one_step": "opd_one_step",
    "rl": "grpo",
}
ITEM_CORRELATION = 0.6  # share of items whose outcome follows the shared difficulty
NUM_STEPS = 12


_MADE: dict[str, tempfile.TemporaryDirectory[str]] = {}
MOST_KEPT = 8  # some have tens of thousands of rows


def write_synthetic_study(folder: Path, **choices: Any) -> Path:
    """A study as `_written` makes it, in `folder`; those that ask for the same one get copies."""
    asked = repr(sorted(choices.items()))
    if asked not in _MADE:
        while len(_MADE) >= MOST_KEPT:
            _MADE.pop(next(iter(_MADE))).cleanup()
        _MADE[asked] = tempfile.TemporaryDirectory(prefix="synthetic-study-")
        _written(Path(_MADE[asked].name), **choices)
    shutil.copytree(_MADE[asked].name, folder, dirs_exist_ok=True)
    return folder


def _written(
    folder: Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    num_items: int = 200,
    rates: dict[str, tuple[float, float, float]] | None = None,
    drift: dict[str, float] | None = None,
    drift_noise: float = 0.0004,
    missing: Sequence[str] = (),
    incomplete: Sequence[str] = (),
    base_once: bool = True,
    has_locality: bool = False,
    rng_seed: int = 0,
) -> Path:
    """Writes plan.json and one folder per run and seed; returns `folder`.

    Args:
        rates: true rates by run (target, then retention tasks); runs left out are not planned. Default: RATES.
        drift: mean drift by run. Default: DRIFT.
        missing: runs that are planned and have no folder. incomplete: runs whose run.json says they did not finish.
        base_once: the base has a folder for the first seed only, as an untrained model needs no seeds.
        has_locality: trained runs have locality.jsonl and supervision.json; the study state_map.json and predictors.json.
    """
    rates = RATES if rates is None else rates
    drift = DRIFT if drift is None else drift
    rng = np.random.default_rng(rng_seed)
    difficulty = {task.name: rng.random(num_items) for task in TASKS}
    write_json(folder / "plan.json", _plan(list(rates), list(seeds)))
    for run, run_rates in rates.items():
        if run in missing:
            continue
        for seed in seeds[:1] if run == "base" and base_once else seeds:
            where = folder / "runs" / run / f"seed{seed}"
            _write_run(where, run, seed, is_complete=run not in incomplete)
            _write_evals(where, run_rates, difficulty, rng)
            if run != "base":
                value = drift.get(run, 0.0112) + drift_noise * float(rng.standard_normal())
                write_json(where / "drift.json", _drift(value, num_items))
                if has_locality:
                    _write_locality(where, run, seed)
    if has_locality:
        write_json(folder / "state_map.json", state_map([run for run in rates if run not in missing], list(seeds)))
        write_json(folder / "predictors.json", predictors())
    return folder


def _plan(runs: list[str], seeds: list[int]) -> PlanRecord:
    planned = [
        PlannedRun(
            name=run,
            label=LABELS.get(run, run),
            method=METHODS[METHOD_OF[run]] if run in METHOD_OF else None,
            teacher=TEACHERS.get(run),
            settings={} if run == "base" else {"lr": 1e-4, "num_steps": NUM_STEPS},
        )
        for run in runs
    ]
    return PlanRecord(
        study="synthetic",
        model=MODEL,
        seeds=seeds,
        target=TARGET,
        retention=RETENTION,
        runs=planned,
        plan_sha256=hashlib.sha256(repr(runs).encode()).hexdigest(),
        provenance={"made_by": "tests/synthetic_study.py"},
    )


def _write_run(where: Path, run: str, seed: int, *, is_complete: bool) -> None:
    is_base = run == "base"
    record = RunRecord(
        name=run,
        label=LABELS.get(run, run),
        seed=seed,
        method=METHODS[METHOD_OF[run]] if run in METHOD_OF else None,
        model=MODEL,
        task=TARGET.name,
        teacher=TEACHERS.get(run),
        settings={} if is_base else {"lr": 1e-4, "num_steps": NUM_STEPS},
        provenance={"torch": "2.11.0", "device": "cpu", "dtype": "float32", "git_revision": "0" * 40},
        is_complete=is_complete,
        num_steps=0 if is_base else NUM_STEPS,
        num_supervised_tokens=0 if is_base else NUM_STEPS * 512,
        num_sampled_tokens=0 if is_base or run.startswith("sft") else NUM_STEPS * 1024,
        seconds={"evaluation": 3.0} | ({} if is_base else {"sampling": 4.0, "signal": 2.0, "training": 9.0}),
        peak_memory_gb=None if is_base else 1.5,
    )
    write_json(where / "run.json", record)
    if is_base:
        return
    write_jsonl(where / "metrics.jsonl", [_step(step, run) for step in range(NUM_STEPS)])
    write_jsonl(where / "states.jsonl", [_state(index, run, step=index) for index in range(6)])
    write_jsonl(where / "rollouts.jsonl", [_state(index, run, step=None) for index in range(6)])


def _step(step: int, run: str) -> StepRecord:
    is_sft = run.startswith("sft")
    shares = {"dataset": 1.0} if is_sft else {"learner": 0.6, "teacher": 0.4}
    stats: dict[str, float | None] = {"entropy_nats": 1.4 - 0.02 * step}
    if run == "rl":
        stats |= {"reward_mean": 0.3 + 0.01 * step, "frac_groups_without_signal": 0.25}
    return StepRecord(
        step=step,
        loss=2.0 * 0.9**step,
        grad_norm=1.0 + 0.1 * (step % 3),
        lr=1e-4 * (1 - step / NUM_STEPS),
        num_supervised=512,
        num_rows=8,
        seconds={"states": 0.0 if is_sft else 0.3, "signal": 0.1, "train": 0.7},
        origin_shares=shares,
        stats=stats,
    )


def _state(index: int, run: str, *, step: int | None) -> StateSample:
    a, b = 3 + index, 4 + 2 * index
    prompt = Span(origin="prompt", text=f"Question: Ann has {a} pens and buys {b} more. How many?\nAnswer:")
    if run.startswith("sft") and step is not None:
        body = [Span(origin="dataset", text=f" {a} + {b} = {a + b} pens.\n#### {a + b}", is_supervised=True)]
    elif run.startswith("opd") and step is not None:
        body = [
            Span(origin="learner", text=f" Ann has {a} pens. She then"),
            Span(origin="teacher", text=f" has {a} + {b} = {a + b}.\n#### {a + b}", is_supervised=True),
        ]
    else:
        body = [Span(origin="learner", text=f" {a} + {b} = {a + b}\n#### {a + b}", is_supervised=step is not None)]
    reward = float(index % 2) if run == "rl" else None
    finish = "length" if index % 5 == 4 else "eos"
    return StateSample(item_id=f"train-{index}", step=step, spans=[prompt, *body], finish=finish, reward=reward)


def _write_evals(
    where: Path, rates: tuple[float, ...], difficulty: dict[str, np.ndarray], rng: np.random.Generator
) -> None:
    summary: dict[str, dict[str, Metric]] = {}
    for task, rate in zip(TASKS, rates):
        shared = difficulty[task.name]
        own = rng.random(len(shared))
        is_correct = np.where(rng.random(len(shared)) < ITEM_CORRELATION, shared, own) < rate
        rows = [_row(task, index, bool(ok)) for index, ok in enumerate(is_correct)]
        write_jsonl(where / "evals" / f"{task.name}.jsonl", rows)
        mean = float(is_correct.mean())
        stderr = float(np.sqrt(mean * (1 - mean) / len(shared)))
        summary[task.name] = {task.metric: Metric(value=mean, n=len(shared), stderr=stderr, ci95=None)}
    write_json(where / "evals" / "summary.json", summary)


def _row(task: TaskRecord, index: int, ok: bool) -> EvalRow:
    item_id = f"{task.name}-{index}"
    sha = hashlib.sha256(f"prompt of {item_id}".encode()).hexdigest()
    if task is TARGET:
        answer = str(index if ok else index + 1)
        return EvalRow(
            item_id=item_id,
            prompt_sha256=sha,
            prediction=answer,
            gold=str(index),
            is_correct=ok,
            scores={task.metric: float(ok), "flexible_match": float(ok)},
            completion=f" So the answer is {answer}.\n#### {answer}",
            finish="eos",
            num_tokens=9,
        )
    gold = index % 4
    chosen = gold if ok else (gold + 1) % 4
    return EvalRow(
        item_id=item_id,
        prompt_sha256=sha,
        prediction=f"option {chosen}",
        gold=f"option {gold}",
        is_correct=ok,
        scores={task.metric: float(ok)},
        options=[f"option {i}" for i in range(4)],
        option_logps=[-1.0 if i == chosen else -3.0 for i in range(4)],
        subject=f"subject {index % 3}" if task.name == "mmlu" else None,
    )


def _drift(value: float, num_states: int) -> DriftRecord:
    scale = {
        "mmd2_biased": (1.0, 0.0105),
        "mmd2_unbiased": (0.1, 0.0),
        "centroid": (14.0, 0.15),
        "sliced_wasserstein": (0.5, 0.005),
        "jaccard": (40.0, 0.40),
        "ruzicka": (45.0, 0.45),
    }
    distances = {
        prefix + name: DriftValue(
            value=value * factor, base_vs_base=floor, null_mean=0.98 * floor, null_sd=0.02 * value * factor, z=1.4,
            p=0.002 if value > 0.001 else 0.5,
            lo=value * factor * 0.95, hi=value * factor * 1.06, num_states=num_states,
        )
        for prefix in ("", "state_")
        for name, (factor, floor) in scale.items()
    }  # fmt: skip
    return DriftRecord(
        task=TARGET.name, features="hashed 1-2-grams", num_prompts=num_states // 4, num_states=num_states,
        distances=distances,
    )  # fmt: skip


# where supervision landed: exact formulas, so that tests know every number

DEPTHS, EDGES_NATS = 10, [0.0, 0.05, 0.2, 0.7, 1.5, 3.0, 6.0]
PROBED = (1, 6, 12)  # completed steps


def _write_locality(where: Path, run: str, seed: int) -> None:
    write_jsonl(where / "locality.jsonl", [locality(step, run, seed) for step in PROBED])
    write_json(where / "supervision.json", supervision(run))


def locality(step: int, run: str, seed: int) -> LocalityRecord:
    """Off-policy runs have a gap and an AUC that grow; recoverability is known only where there is a teacher."""
    off = 1.0 if run.startswith("sft") else 0.1
    stress = 2.0 if "stress" in run else 1.0
    values: dict[str, float | None] = {
        "reachability_gap_nats": off * stress * (0.2 + 0.01 * step) + 0.02 * seed,
        "reachability_gap_p90_nats": off * stress * (0.9 + 0.02 * step) + 0.05 * seed,
        "ess_share": 1.0 - 0.03 * step * off,
        "c2st_auc": 0.5 + 0.2 * off + 0.004 * step + 0.005 * seed,
        "forward_kl_new_task_nats": 0.004 * step * stress,
        "reverse_kl_new_task_nats": 0.003 * step * stress,
        "locality_ratio": 1.0 - 0.5 * off,
        "topk_overlap": 0.6 + 0.02 * step if run in TEACHERS else None,
        "update_frobenius": 0.1 * step * stress,
    }
    by_depth: dict[str, list[float | None]] = {"mass": [0.1] * DEPTHS}
    if run in TEACHERS:
        by_depth["teacher_recoverability"] = [0.02, 0.05, 0.11, 0.2 + 0.01 * seed]
    return LocalityRecord(step=step, values=values, by_depth=by_depth)


def supervision(run: str) -> SupervisionMap:
    """The mass of a bin halves from one to the next; a continuation starts after the first depths."""
    origin = {"sft": "dataset", "opd": "teacher"}.get(run.split("_")[0], "learner")
    first = 3 if origin == "teacher" else 0
    cells = [
        SupervisionCell(origin=origin, depth=depth, surprisal=bin_, num_tokens=40, mass=8.0 / 2**bin_)
        for depth in range(first, DEPTHS)
        for bin_ in range(len(EDGES_NATS))
    ]
    return SupervisionMap(num_depths=DEPTHS, surprisal_edges_nats=EDGES_NATS, cells=cells)


def state_map(runs: Sequence[str], seeds: Sequence[int], *, num_points: int = 30) -> StateMap:
    """`num_points` of each run, seed and kind on a spiral around the run's middle."""
    points = []
    for index, run in enumerate(runs):
        kinds = ["base"] if run == "base" else ["learner", "training"] + (["teacher"] if run in TEACHERS else [])
        for place, kind in enumerate(kinds):
            for seed in seeds:
                for i in range(num_points):
                    turn, radius = 2.4 * i + seed + place, 0.02 * i + 0.1 * seed
                    step = i % NUM_STEPS if kind == "training" else None
                    points.append(
                        MapPoint(
                            run=run, seed=seed, kind=kind, step=step, x=0.3 * index + 0.2 * place + radius * np.cos(turn),
                            y=0.25 * place + radius * np.sin(turn), spans=_state(i, run, step=step).spans,
                        )
                    )  # fmt: skip
    return StateMap(
        points=points, features="hashed word 1-2-grams", projection="principal components", explained=(0.2, 0.1)
    )


def predictors() -> PredictorReport:
    """One set that foretells, one that is worse than the mean by far, and one that cannot be judged."""
    r2 = {"drift": -3.2, "drift and locality": 0.62, "update norm": None}
    scores = [
        HeldoutScore(
            name=name, predictors=[name.replace(" ", "_")], by=by, r2=_r2(value), p=None if value is None else 0.03,
            num_left_out=2,
        )
        for by in ("configuration", "run")
        for name, value in r2.items()
    ]  # fmt: skip
    gain = Gain(name="drift and locality", versus="drift", by="configuration", difference=_r2(3.82))
    value = Correlation(predictor="drift.mmd2_unbiased", kind="Pearson", value=_r2(0.31), p=0.2)
    return PredictorReport(study="synthetic", scores=scores, gains=[gain], correlations=[value], rows=[])


def _r2(value: float | None) -> Estimate:
    if value is None:
        return Estimate(value=None, lo=None, hi=None, n_items=0, n_seeds=0, note="18 runs, fewer than 20")
    return Estimate(value=value, lo=value - 0.2, hi=value + 0.2, n_items=0, n_seeds=3)

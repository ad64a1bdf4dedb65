"""What runs and studies write down, as typed records. Torch-free: reports and comparisons are made from these alone.

A run folder:    run.json (RunRecord) metrics.jsonl (StepRecord) states.jsonl (StateSample) evals/<task>.jsonl (EvalRow)
                 evals/summary.json {task: {metric: Metric, "evaluation": EvaluationRecord}} rollouts.jsonl (StateSample)
                 rollouts_pieces.jsonl (study/drift_rollouts.py) drift.json (DriftRecord) locality.jsonl (LocalityRecord)
                 supervision.json (SupervisionMap)
                 sampled/<task>.jsonl (SampledRow) sampled/summary.json (as evals/summary.json)
                 along.jsonl along_candidates.jsonl (DoseRecord) along/step<k>/<task>.jsonl (EvalRow)
                 along/step<k>/sampled/<task>.jsonl (SampledRow)
                 drift_start.json (DriftRecord) kl.json (KlRecord) flips.jsonl (FlippedItem)
                 checkpoint-<k>/adapter_config.json checkpoint-<k>/adapter_model.safetensors (peft), or checkpoint-<k>/*
                 states/steps-*.parquet states/summary.json (record/schema.py) kept/*.jsonl (core.states.Trajectory)
                 adapter/adapter_config.json adapter/adapter_model.safetensors (peft), or model/* (transformers)
                 adapter/tokenizer*.json adapter/README.md adapter/chat_template.jinja (study/carried.py)
                 manifest.json (manifest.py)
  of the base:   rollouts_again.jsonl rollouts_again_pieces.jsonl rollouts_ids.jsonl (study/drift_rollouts.py)
  while it goes: checkpoint-*.pt (train/checkpoint.py) supervision.jsonl (locality/counts.py) .*.tmp served/*
  if asked for:  profile.json (ProfileRecord) served.jsonl (ServedRecord) eval_steps.jsonl (EvalStep) best.json (BestStep)
                 tensorboard/*
A study folder:  plan.json (PlanRecord) runs/<run>/seed<k>/ (run folders) comparison.json (Comparison)
                 verdicts.json ([Verdict]) findings.json (Findings) looks.json ([Look]) state_map.json (StateMap)
                 predictors.json (predictor_records.py) failed.json ([FailedRun]) jobs/*
                 dose.json (dose_records.py) audit.json ([Audit]) manifest.json
                 table1.* table2.* tables/* plots/* report.html profile.json (ProfileRecord)
docs/studies.md describes each of them; tests/test_files_left.py holds both lists to what a study leaves.
A missing number is None, never zero. Does not know how any number is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from stateshape.core import html

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """A mean over n items. stderr and ci95 in the metric's own unit; ci95 is Wilson's for rates."""

    value: float | None
    n: int
    stderr: float | None
    ci95: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationRecord:
    """Of what an evaluation is. None: not known when it was made, as where a model's files can't be read."""

    model: str  # the base
    weights_sha256: str | None  # policy/fingerprint.py
    adapter: str | None  # its folder; None: the base alone
    adapter_sha256: str | None
    task: str  # as it was named: a task or the path of a file
    data_sha256: str
    shots: int
    limit: int | None  # None: all items
    num_items: int
    max_new_tokens: int | None  # None: multiple choice
    stops: list[str] | None
    dtype: str | None  # None before the model is loaded
    device: str | None
    date: str
    command: str
    packages: dict[str, str | None]  # versions
    git_revision: str | None
    num_samples: int = 1  # per item
    temperature: float = 0.0  # 0: greedy
    sampler: dict[str, Json] | None = None  # engine, version and servers; None: this machine


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalRow:
    """One evaluated item. `scores` holds every metric of the task for this item; comparisons pair rows by item_id."""

    item_id: str
    prompt_sha256: str
    prediction: str | None
    gold: str
    is_correct: bool
    scores: dict[str, float]
    completion: str | None = None
    finish: str | None = None  # "eos" | "stop" | "length" for generated rows
    num_tokens: int | None = None
    options: list[str] | None = None
    option_logps: list[float] | None = None  # summed, nats
    subject: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledRow:
    """One item answered several times at a temperature. Lists have one entry per sample."""

    item_id: str
    prompt_sha256: str
    gold: str
    temperature: float
    strict: list[bool]  # right by strict extraction
    flexible: list[bool]
    completions: list[str]
    finishes: list[str]  # "eos" | "stop" | "length"


@dataclass(frozen=True, kw_only=True, slots=True)
class DoseRecord:
    """A line of along.jsonl: how far the policy is from the base after `step` completed steps. Names in docs/dose.md."""

    step: int
    doses: dict[str, float]
    num_states: int  # of the base's rollouts, on which they were measured


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalStep:
    """A line of eval_steps.jsonl: a run as it was after `step` completed steps, on a fixed part of each task."""

    step: int
    scores: dict[str, dict[str, float | None]]  # by task and metric, the mean over num_items
    num_items: dict[str, int]  # by task
    distances: dict[str, float]  # from the base, at num_states token states; names in docs/dose.md
    num_states: int
    neutral_nats: float  # mean cross-entropy per token of a fixed neutral text
    neutral_change: float  # less the base's: above 0, forgotten


@dataclass(frozen=True, kw_only=True, slots=True)
class BestStep:
    """best.json: the evaluation whose adapter is kept: the highest score in `task`, the earliest of equals."""

    step: int
    task: str
    metric: str
    score: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedRecord:
    """A line of served.jsonl: rows of one server and adapter version, rescored by our own pass (docs/guides/servers.md).

    version: adapters published before by the process; None: the base. median_nats: of |log p - log p_served| over tokens.
    mean_ratio: of p / p_served. share: of the adapter's effect that the server shows, about 1; None: can't be told.
    """

    date: str
    server: str
    adapter: str | None
    version: int | None
    temperature: float
    num_tokens: int
    median_nats: float
    mean_ratio: float
    share: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class KlValue:
    """Mean over states of a KL in nats per token, with a 95% interval over prompts; None with the reason in `note`."""

    value: float | None
    lo: float | None = None
    hi: float | None = None
    num_states: int = 0
    num_prompts: int = 0
    note: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class KlRecord:
    """kl.json of a checkpoint, by task. forward: KL(base || run) at the base's states; reverse: KL(run || base) at its own."""

    forward: dict[str, KlValue]
    reverse: dict[str, KlValue]


@dataclass(frozen=True, kw_only=True, slots=True)
class FlippedItem:
    """A line of flips.jsonl: an item that one of base and run answers right, and the other does not.

    is_gained: right now, wrong before. before, after: the whole answer, or the option chosen. change_nats: of the log-prob of
    the right options, where there are options.
    """

    task: str
    item_id: str
    is_gained: bool
    prompt: str
    gold: str
    before: str
    after: str
    change_nats: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRecord:
    """One optimiser step. `stats` holds what the states, signal and loss report (units in the names)."""

    step: int
    loss: float | None
    grad_norm: float | None
    lr: float
    num_supervised: int
    num_rows: int
    seconds: dict[str, float]  # by phase: sampling, signal, training
    origin_shares: dict[str, float]  # realised share of tokens in the drawn states by origin
    stats: dict[str, float | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A run of consecutive tokens with one origin ("prompt" | "dataset" | "learner" | "teacher"), as text."""

    origin: str
    text: str
    is_supervised: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class StateSample:
    """One trajectory, readable: for browsing and for the report."""

    item_id: str
    step: int | None
    spans: list[Span]
    finish: str
    reward: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DriftValue:
    """A distance of run vs base, and the same distance for base vs base with another sampling seed.

    Beside it the null of within-prompt label swaps (mean, sd, z, one-sided p) and a 95% interval over prompts. A value
    that cannot be computed is None with the reason in `note`; else `note` describes how it was computed, if unusually.
    """

    value: float | None
    base_vs_base: float | None
    null_mean: float | None = None
    null_sd: float | None = None
    z: float | None = None
    p: float | None = None
    lo: float | None = None
    hi: float | None = None
    floor: float | None = (
        None  # what sampling alone gives by formula: of biased MMD^2, and, squared, taken off the squared centroid
    )
    num_states: int | None = None  # per side, that this distance was measured on
    note: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DriftRecord:
    """drift.json. Names of distances: drift/measure.py. Defaults stand for records of older versions."""

    task: str
    features: str
    num_prompts: int
    num_states: int  # per side
    distances: dict[str, DriftValue]
    num_permutations: int = 0
    num_resamples: int = 0
    seed: int | None = None
    num_prompts_left_out: int = 0  # some side wrote nothing there
    feature_sets: dict[str, str] = field(default_factory=dict)  # by the prefix of their distances' names
    median_distances: dict[str, float | None] = field(
        default_factory=dict
    )  # of base states: the kernel's length, by prefix

    def __repr__(self) -> str:
        return f"<Drift on {self.task}: {len(self.distances)} distances over {self.num_states} states per side>"

    def _repr_html_(self) -> str:
        headings = ["distance", "value", "base vs base", "p", "note"]
        rows = [
            [name, *map(_rounded, (one.value, one.base_vs_base, one.p)), one.note or ""]
            for name, one in self.distances.items()
        ]
        caption = f"Drift on {self.task}: {self.num_states} states per side, of {self.num_prompts} prompts"
        return html.table(headings, rows, caption=caption)


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalityRecord:
    """A line of locality.jsonl: where supervision is applied, measured after `step` completed steps. Names in docs/locality.md.

    by_depth: values by tenth or quarter of the response, shallow first. num_prompts: whose states c2st_auc compared, on the
    side that has fewer; None in records of older versions.
    """

    step: int
    values: dict[str, float | None]
    by_depth: dict[str, list[float | None]] = field(default_factory=dict)
    num_prompts: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SupervisionCell:
    """Supervised tokens of one origin, tenth of the response (0 first) and bin of learner surprisal; mass: see LossValue."""

    origin: str
    depth: int
    surprisal: int
    num_tokens: int
    mass: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SupervisionMap:
    """supervision.json: a whole run's training signal, by place. surprisal_edges_nats: lower edges of the bins, the first 0.

    apart: of terms about other prompts than the run's, such as `protect`; not in `cells`.
    """

    num_depths: int
    surprisal_edges_nats: list[float]
    cells: list[SupervisionCell]
    apart: list[SupervisionCell] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodRecord:
    """A row of the paper's Table 1."""

    method: str
    state_source: str
    signal: str
    density: str
    loss: str
    is_on_policy: bool
    source: str  # citation
    summary: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseCost:
    """What a phase of work took. tokens: through a model's layers, each once; flops: as policy/flops.py counts them.

    flops are None where a model did some of the work whose operations are not known.
    """

    seconds: float
    tokens: int
    flops: int | None
    peak_memory_gb: float | None  # in 10^9 bytes

    def plus(self, other: PhaseCost) -> PhaseCost:
        known = [peak for peak in (self.peak_memory_gb, other.peak_memory_gb) if peak is not None]
        return PhaseCost(
            seconds=self.seconds + other.seconds,
            tokens=self.tokens + other.tokens,
            flops=None if self.flops is None or other.flops is None else self.flops + other.flops,
            peak_memory_gb=max(known, default=None),
        )

    @staticmethod
    def side_by_side(costs: Sequence[PhaseCost]) -> PhaseCost:
        """Of processes that did the phase together: all their work; time and memory of the one that took most."""
        return PhaseCost(
            seconds=max(cost.seconds for cost in costs),
            tokens=sum(cost.tokens for cost in costs),
            flops=None if any(cost.flops is None for cost in costs) else sum(cost.flops or 0 for cost in costs),
            peak_memory_gb=max(
                (cost.peak_memory_gb for cost in costs if cost.peak_memory_gb is not None), default=None
            ),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    name: str
    label: str
    seed: int
    method: MethodRecord | None  # None: the untrained base, or a checkpoint
    model: str
    task: str
    teacher: str | None
    settings: dict[str, Json]  # recipe and optimiser fields, resolved
    provenance: dict[str, Json]  # versions, git revision, data hashes, device, dtype, command, date
    is_complete: bool
    num_steps: int = 0
    num_supervised_tokens: int = 0
    num_sampled_tokens: int = 0
    seconds: dict[str, float] = field(default_factory=dict)  # sampling, signal, training, evaluation, drift, along
    peak_memory_gb: float | None = None  # the largest of the phases
    costs: dict[str, PhaseCost] = field(default_factory=dict)  # by the same phases; empty in records of older versions
    warnings: list[str] = field(default_factory=list)  # in words, e.g. that nothing was learned, and why
    start: str | None = None  # the run or folder whose adapter it went on from
    checkpoint: str | None = None  # what was loaded instead of trained: then there is no method

    def __repr__(self) -> str:
        return f"<Run {self.name}, seed {self.seed}: {', '.join(f'{value} {name}'.strip() for name, value in self._facts())}>"

    def _repr_html_(self) -> str:
        pairs = [("model", self.model), ("task", self.task), ("teacher", self.teacher), ("start", self.start)]
        return html.facts(f"Run {self.name}, seed {self.seed}", [*pairs, *self._facts()], paragraphs=self.warnings)

    def _facts(self) -> list[tuple[str, str]]:
        state = "" if self.is_complete else "not finished"
        counts = {"steps": self.num_steps, "supervised tokens": self.num_supervised_tokens}
        return [
            *([("", state)] if state else []),
            *((name, f"{count:,}") for name, count in counts.items()),
            ("seconds", f"{sum(self.seconds.values()):.0f}"),
        ]

    def measured(self, costs: dict[str, PhaseCost]) -> RunRecord:
        """The record with these costs, and what follows from them. Phases that are not among them stay as they were."""
        merged = {**self.costs, **costs}
        peaks = [cost.peak_memory_gb for cost in merged.values() if cost.peak_memory_gb is not None]
        return replace(
            self,
            costs=merged,
            seconds={**self.seconds, **{name: cost.seconds for name, cost in merged.items()}},
            peak_memory_gb=max(peaks, default=self.peak_memory_gb),
        )

    def phases(self) -> list[ProfiledPhase]:
        """One row per phase that took time, as far as it is recorded."""
        return [
            profiled(self.name, self.seed, phase, self.costs.get(phase), seconds, self.provenance)
            for phase, seconds in self.seconds.items()
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatorCost:
    """An operator of the tensor library: time spent in it without what it calls, and its share of all such time."""

    operator: str
    calls: int
    self_seconds: float
    share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfiledPhase:
    """A phase of one run; None where an older record lacks it. share_of_peak: flops / seconds / measured peak."""

    run: str
    seed: int | None
    phase: str
    seconds: float | None
    tokens: int | None = None
    flops: int | None = None
    share_of_peak: float | None = None
    peak_memory_gb: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfileRecord:
    """profile.json. `operators`: by run and phase, of one step that was run once more, without its update."""

    machine: dict[str, Json]  # device, accelerator, dtype, threads, peak_gflops
    phases: list[ProfiledPhase]
    operators: dict[str, dict[str, list[OperatorCost]]]


def profiled(
    run: str, seed: int | None, phase: str, cost: PhaseCost | None, seconds: float, provenance: dict[str, Json]
) -> ProfiledPhase:
    """A phase compared with the peak of the machine that the provenance names."""
    if cost is None:
        return ProfiledPhase(run=run, seed=seed, phase=phase, seconds=seconds)
    share = None
    peak = provenance.get("peak_gflops")
    if isinstance(peak, int | float) and peak > 0 and cost.seconds > 0 and cost.flops is not None:
        share = cost.flops / cost.seconds / (peak * 1e9)
    return ProfiledPhase(
        run=run,
        seed=seed,
        phase=phase,
        seconds=cost.seconds,
        tokens=cost.tokens,
        flops=cost.flops,
        share_of_peak=share,
        peak_memory_gb=cost.peak_memory_gb,
    )


Operators = dict[str, dict[str, list[OperatorCost]]]  # by run and phase


def _rounded(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"

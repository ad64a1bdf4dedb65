"""What a study writes down, as typed records: its plan, comparison, verdicts, state map and predictors. Torch-free.

A run's own records are in records.py, file names in layout.py. A missing number is None, never zero.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from stateshape.core import html
from stateshape.core.records import DriftValue, Json, KlRecord, MethodRecord, Span

Outcome = Literal["supported", "not supported", "equivalent", "cannot tell", "premise not met", "not asked"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MapPoint:
    """A state on a map. kind: whose samples ("base" | "learner" | "teacher"), or the states a step trained on."""

    run: str
    seed: int
    kind: Literal["base", "learner", "teacher", "training"]
    step: int | None
    x: float
    y: float
    spans: list[Span]


@dataclass(frozen=True, kw_only=True, slots=True)
class StateMap:
    """state_map.json of a study: states of all runs as points of one plane. Distances in it are only a hint.

    explained: share of the features' variance along x and y.
    """

    points: list[MapPoint]
    features: str = ""  # which features of a state
    projection: str = ""  # how these became two numbers
    explained: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskRecord:
    """A task as a comparison needs it: its headline metric and that metric's chance level."""

    name: str
    label: str
    metric: str
    chance: float
    num_items: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedRun:
    name: str
    label: str
    method: MethodRecord | None
    teacher: str | None  # another run's name
    settings: dict[str, Json]
    start: str | None = None  # the run or folder whose adapter it goes on from
    checkpoint: str | None = None  # a model or adapter that is loaded, not trained; then there is no method


@dataclass(frozen=True, kw_only=True, slots=True)
class DoseChoice:
    """Compares runs at the same distance from the base instead of at their ends (analysis/dose.py)."""

    measure: str = "forward_kl_new_task_nats"
    """A distance of along.jsonl."""
    at: float | None = None
    """The distance. Default: the largest one that every seed of both runs reaches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EffectChoice:
    """A contrast of two runs that a claim or a premise rests on."""

    contrast: list[str]
    """[first, second]: first minus second. [first] alone where a measure is compared with a number."""
    minus: list[str] | None = None
    """[third, fourth]: third minus fourth is subtracted, a difference of differences. For scores at the runs' ends."""
    task: str = "retention"
    """target, retention (the mean of those tasks) or a task's name."""
    above: float | None = None
    """The effect must be above this. Default: 0, unless `below` is given."""
    below: float | None = None
    """The effect must be below this."""
    score: str | None = None
    """A secondary score of the tasks' rows, e.g. gold_logp_nats, instead of their own."""
    dose: DoseChoice | None = None
    """Compares at equal distance from the base."""
    measure: str | None = None
    """drift.NAME, locality.NAME, locality.before.NAME, along.NAME or run.NAME: a number per run and seed, not a score."""
    equivalence: float | None = None
    """An effect this close to zero counts as none. Default: one twentieth of what the base scores above chance."""
    label: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClaimChoice:
    """A claim of a study file: supported where all its effects hold, and asked only where all its premises do."""

    text: str
    effects: list[EffectChoice]
    premises: list[EffectChoice] = field(default_factory=list)
    family: str = "study"
    """Effects of claims of one family share Holm's correction."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedClaim:
    """A claim as plan.json keeps it. sha256: of its meaning, so that a changed claim is another claim.

    written: date. runs_begun: runs of the study that had begun at that time; 0: it was written before the first.
    withdrawn: date from which the study file no longer has it; it stays on record.
    """

    claim_id: str
    claim: ClaimChoice
    sha256: str
    written: str
    runs_begun: int
    withdrawn: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FailedRun:
    """A run that could not be done in the last attempt at the study."""

    run: str
    seed: int
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRecord:
    study: str
    model: str
    seeds: list[int]
    target: TaskRecord
    retention: list[TaskRecord]
    runs: list[PlannedRun]  # in order; the first one named "base" is the untrained model
    plan_sha256: str
    provenance: dict[str, Json]
    notes: str = ""
    roles: dict[str, str] = field(
        default_factory=dict
    )  # a claim's role -> the run that plays it; others by their names
    contrasts: list[list[str]] = field(default_factory=list)  # [first, second]: first minus second is of interest
    num_along: int = 0  # points along each run that are evaluated; 0: its end only
    along_limit: int | None = None  # items of each task at such a point; None: as many as at the end
    claims: list[PlannedClaim] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A number with a 95% interval (None: too few items or seeds to give one) and what it rests on."""

    value: float | None
    lo: float | None
    hi: float | None
    n_items: int
    n_seeds: int
    per_seed: dict[str, float] = field(default_factory=dict)  # seed -> value
    stderr: float | None = None
    seed_sd: float | None = None  # of one training seed's value around the mean over all seeds; items' noise taken out
    note: str | None = None  # why there is no interval, or what is odd about it


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedDifference:
    """run minus other on the same items. p: exact McNemar for one seed, t over seeds and items for several (`test`).

    bootstrap: the crossed bootstrap's 95% interval over seeds and items, as a check; too narrow for a few seeds.
    secondary: the same difference of other scores of the same rows, e.g. gold_logp_nats (analysis/reading.py).
    """

    versus: str
    difference: Estimate
    p: float | None
    test: str
    bootstrap: tuple[float, float] | None = None
    secondary: dict[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunComparison:
    run: str
    label: str
    method: str | None
    teacher: str | None
    scores: dict[str, Estimate]  # by task
    versus_base: dict[str, PairedDifference]  # by task; empty for the base
    versus_teacher: dict[str, PairedDifference]  # by task; empty where there is no teacher
    mean_forgetting: Estimate | None
    mean_retention: Estimate | None
    mean_chance_corrected_retention: Estimate | None
    drift: dict[str, DriftValue]  # by distance, mean over seeds
    drift_per_seed: dict[str, dict[str, float]]  # distance -> seed -> value
    start: str | None = None
    versus_start: dict[str, PairedDifference] = field(default_factory=dict)  # by task; empty where there is no start
    mean_forgetting_since_start: Estimate | None = None  # start minus run
    drift_since_start: dict[str, DriftValue] = field(default_factory=dict)  # by distance, mean over seeds
    kl: KlRecord | None = None  # of a checkpoint
    checkpoint: str | None = None
    by_subject: dict[str, dict[str, float]] = field(
        default_factory=dict
    )  # task -> subject -> mean over items and seeds
    extractions: dict[str, Estimate] = field(
        default_factory=dict
    )  # the target's other scores: by another way to read an answer, and of samples at a temperature


@dataclass(frozen=True, kw_only=True, slots=True)
class RunContrast:
    """A planned comparison of two runs: `run` minus `versus` by task, and on the mean of the retention tasks."""

    run: str
    versus: str
    differences: dict[str, PairedDifference]
    mean_retained: Estimate | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """A line of looks.json: the verdicts were computed with this many seeds. level: what this look may spend of .05."""

    date: str
    num_seeds: int
    planned_seeds: int
    level: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    study: str
    model: str
    seeds: list[int]
    target: TaskRecord
    retention: list[TaskRecord]
    rows: list[RunComparison]
    missing: list[str]  # runs that are not there yet, or died, in words
    contrasts: list[RunContrast] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)  # the runs' own, each with its run and seed
    looks: list[Look] = field(default_factory=list)  # at the verdicts, so far
    subjects: dict[str, dict[str, int]] = field(
        default_factory=dict
    )  # task -> subject -> items; of tasks that have several

    def __repr__(self) -> str:
        return f"<Comparison of {self.study!r}: {len(self.rows)} runs, {len(self.seeds)} seeds, {len(self.missing)} missing>"


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """One number a verdict rests on. It holds above `threshold`, fails below.

    power: chance that this size would have decided it, were the effect `power_effect` away from the threshold;
    minimal_effect: the distance decided with 80%. Both with the correction for the whole family's first test, and the
    noise as measured. needs: in words, the items or seeds needed if the true effect equals the observed one.
    """

    label: str
    effect: Estimate
    p: float | None
    p_holm: float | None
    test: str
    threshold: float = 0.0
    state: Literal["holds", "fails", "equivalent", "open", "shown"] | None = None  # shown: reported, decides nothing
    bootstrap: tuple[float, float] | None = None
    power: float | None = None
    power_effect: float | None = None
    minimal_effect: float | None = None
    needs: str | None = None
    margin: float | None = None  # an effect this close to zero counts as none
    p_equivalent: float | None = None  # of two one-sided tests that it is; Holm-adjusted over all such tests


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """premises: what must hold for the claim to be asked, each with its state. written: when the claim was fixed, in words."""

    claim_id: str  # "P1" ...
    claim: str  # what is claimed
    outcome: Outcome
    sentence: str  # the verdict in words with its numbers
    evidence: list[Evidence]
    premises: list[Evidence] = field(default_factory=list)
    written: str = ""
    family: str = "paper"

    def __repr__(self) -> str:
        return f"<Verdict {self.claim_id}: {self.outcome}>"


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditFinding:
    """One task of a checkpoint against the base, on the same items. num_gained, num_lost: items right in one of them only.

    outcome: gained or lost where the 95% interval excludes zero and so does the test after Holm's correction over `num_tests`.
    """

    task: str
    outcome: Literal["gained", "lost", "cannot tell", "not measured"]
    sentence: str
    difference: Estimate
    p: float | None
    p_holm: float | None
    num_gained: int | None
    num_lost: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """What a checkpoint gained, lost and changed, in words. notes: what the intervals do not cover, and what is missing."""

    run: str
    label: str
    checkpoint: str
    headline: str
    findings: list[AuditFinding]
    changes: list[str]  # drift and KL, a sentence each
    notes: list[str]
    num_tests: int

    def __repr__(self) -> str:
        return f"<Audit of {self.label}: {self.headline}>"

    def _repr_html_(self) -> str:
        sentences = [self.headline, *(one.sentence for one in self.findings), *self.changes]
        return html.facts(f"Audit of {self.label}", [("checkpoint", self.checkpoint)], paragraphs=sentences)


FindingSubject = Literal["target", "retention", "drift"]
FindingOutcome = Literal["gained", "lost", "drifted", "no difference", "cannot tell", "not measured"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A trained run against the base, or the first of a requested pair against the second, on one subject.

    subject: the target's score, the mean score of the retention tasks, or drift above base against base.
    """

    run: str
    versus: str
    subject: FindingSubject
    outcome: FindingOutcome
    evidence: Evidence


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """findings.json. headline: sentences: what was compared, what changed, what cannot be told."""

    headline: list[str]
    findings: list[Finding]


By = Literal["run", "configuration"]  # what is left out at a time: a run, or all seeds of a configuration


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictorRow:
    """One trained run. run: its configuration's name. values: what was measured of it; what is missing is not there.

    Names begin with their file, drift. or locality.; without in records of older versions, where c2st_auc is locality's.
    """

    run: str
    seed: int
    forgetting: float  # mean over retention tasks, base minus run
    values: dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldoutScore:
    """R^2 on held-out runs. p: chance of as good a value if forgetting were permuted over the configurations."""

    name: str
    predictors: list[str]
    by: By
    r2: Estimate
    p: float | None
    num_left_out: int  # runs that lack a predictor


@dataclass(frozen=True, kw_only=True, slots=True)
class Gain:
    """R^2 of one set minus that of another, on the runs that have both."""

    name: str
    versus: str
    by: By
    difference: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Correlation:
    predictor: str
    kind: Literal["Pearson", "Spearman"]
    value: Estimate
    p: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictorReport:
    """predictors.json."""

    study: str
    scores: list[HeldoutScore]
    gains: list[Gain]
    correlations: list[Correlation]
    rows: list[PredictorRow]
    notes: list[str] = field(default_factory=list)
    reliability: dict[str, float] = field(default_factory=dict)  # by predictor, over training seeds (ICC)


BASE = "base"
UNANIMOUS = "exact binomial bound: all items have the same value"
STATED = "stated in the plan"  # the test of a premise that the plan itself answers
COUNTED = "counted in every run"  # of what has no noise, such as steps and tokens
FACTS = (STATED, COUNTED)

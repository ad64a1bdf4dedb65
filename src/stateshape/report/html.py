"""The study as one HTML page: no script, no network, nothing loaded; everything a user or a model wrote is escaped.

Builds the template's context from typed records; layout and wording live in templates/. Does not know where the page is
written, and computes nothing.
"""

from __future__ import annotations

from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from stateshape.core.records import Json, StateSample, Verdict
from stateshape.report import grid, tables, text
from stateshape.report.costs import cost_table, key_value_table, phase_table, settings_tables
from stateshape.report.folder import RunFiles, StudyFiles
from stateshape.report.palette import looks
from stateshape.report.plots import Plot

MAX_CHARACTERS = 6000  # of one sample: a runaway rollout must not make the page unreadable
ORIGINS = {
    "prompt": "the task's question",
    "dataset": "text from the data",
    "learner": "sampled from the model being trained",
    "teacher": "sampled from the teacher",
}
OUTCOMES = {"supported": ("yes", "✓"), "not supported": ("no", "✕"), "cannot tell": ("open", "?")}
_DATE_KEYS = ("date", "finished", "started", "created")


class SampleView(NamedTuple):
    heading: str
    spans: list[tuple[str, str, bool]]  # origin's class, origin, is_supervised; texts run in parallel
    texts: list[str]
    num_cut: int


class RunSamples(NamedTuple):
    label: str
    colour: str
    states: list[SampleView]
    rollouts: list[SampleView]


class VerdictView(NamedTuple):
    verdict: Verdict
    css: str
    sign: str
    evidence: grid.Table


def render_page(study: StudyFiles, *, plots: tuple[list[Plot], list[Plot], list[Plot]]) -> str:
    """The whole page as text. The same study gives the same page."""
    plan, comparison = study.plan, study.comparison
    gain, drift, curves = plots
    context = {
        "plan": plan,
        "comparison": comparison,
        "missing": study.missing,
        "date": _date(study),
        "num_trained": sum(run.method is not None for run in plan.runs),
        "verdicts": [_verdict_view(verdict) for verdict in study.verdicts],
        "main_table": tables.table2(plan, comparison),
        "versus_base": tables.difference_table(plan, comparison, versus_teacher=False),
        "versus_teacher": tables.difference_table(plan, comparison, versus_teacher=True),
        "methods": tables.table1(plan),
        "per_seed": tables.per_seed_table(plan, comparison),
        "gain_plots": gain,
        "drift_plots": drift,
        "curves": curves,
        "origins": ORIGINS,
        "samples": _samples(study),
        "cost": cost_table(study),
        "phases": phase_table(study),
        "settings": [(files.run.label, found) for files in study.runs if (found := settings_tables(files))],
        "plan_values": key_value_table("The plan.", {"": _plan_values(study)}),
    }
    return _environment().get_template("report.html.j2").render(context)


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("stateshape.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    made.globals |= {
        "main_text": grid.main_text,
        "interval_text": grid.interval_text,
        "companion_text": grid.companion_text,
        "trusted_svg": Markup,
    }
    return made


def _finalize(value: object) -> object:
    """Runs on every printed expression, before escaping: control characters become visible signs."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return text.visible(value)
    return value


def _date(study: StudyFiles) -> str | None:
    """From the records, the latest one there is: the page itself has no clock."""
    found = [date for source in _provenances(study) if (date := _date_in(source))]
    return max(found, default=None)


def _provenances(study: StudyFiles) -> list[dict[str, Json]]:
    runs = [seed.record.provenance for files in study.runs for seed in files.seeds if seed.record]
    return [study.plan.provenance, *runs]


def _date_in(provenance: dict[str, Json]) -> str | None:
    return next((value for key in _DATE_KEYS if isinstance(value := provenance.get(key), str)), None)


def _plan_values(study: StudyFiles) -> dict[str, Json]:
    plan = study.plan
    values: dict[str, Json] = {"study": plan.study, "model": plan.model, "seeds": list(plan.seeds)}
    for task in tables.tasks_of(study.comparison):
        values[f"task {task.name}"] = (
            f"{task.label}: {task.metric}, chance {task.chance:g}, items {task.num_items or 'all'}"
        )
    return {**values, "plan_sha256": plan.plan_sha256, **plan.provenance}


def _verdict_view(verdict: Verdict) -> VerdictView:
    css, sign = OUTCOMES[verdict.outcome]
    return VerdictView(verdict, css, sign, tables.evidence_table(verdict))


def _samples(study: StudyFiles) -> list[RunSamples]:
    """Each run's samples, from its first seed that has any."""
    marks = looks(study.plan, [])
    found = []
    for files in study.runs:
        states, rollouts = _first(files, "states"), _first(files, "rollouts")
        if states or rollouts:
            found.append(RunSamples(files.run.label, marks[files.run.name].colour, states, rollouts))
    return found


def _first(files: RunFiles, field: str) -> list[SampleView]:
    for seed in files.seeds:
        samples: list[StateSample] = getattr(seed, field)
        if samples:
            return [_sample_view(sample, seed.seed) for sample in samples]
    return []


def _sample_view(sample: StateSample, seed: int) -> SampleView:
    parts = [f"item {sample.item_id}", f"seed {seed}"]
    if sample.step is not None:
        parts.append(f"step {sample.step}")
    parts.append(f"finish: {sample.finish}")
    if sample.reward is not None:
        parts.append(f"reward {sample.reward:g}")
    spans, texts, room, total = [], [], MAX_CHARACTERS, 0
    for span in sample.spans:
        total += len(span.text)
        if room > 0:
            css = span.origin if span.origin in ORIGINS else "other"
            spans.append((css, span.origin, span.is_supervised))
            texts.append(span.text[:room])
        room -= len(span.text)
    return SampleView(" · ".join(parts), spans, texts, max(0, total - MAX_CHARACTERS))

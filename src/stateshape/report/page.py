"""The study as one HTML page: no script, no network, nothing loaded; everything a user or a model wrote is escaped.

Builds the template's context from typed records; layout and wording live in templates/. Does not know where the page is
written, and computes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from stateshape.core.records import Json, Span, StateSample
from stateshape.core.study_records import FACTS, Evidence, Look, Verdict
from stateshape.report.contents import Plots, Tables
from stateshape.report.drawing import table as grid
from stateshape.report.drawing import text
from stateshape.report.drawing.palette import looks
from stateshape.report.parts import tables
from stateshape.report.parts.audit import audit_views, changed_items
from stateshape.report.parts.costs import key_value_table, settings_tables
from stateshape.report.parts.forest import CAPTION, evidence_table
from stateshape.report.parts.state_map import KINDS, map_views
from stateshape.report.parts.supervision import share_table, supervision_shares
from stateshape.report.study_files import RunFiles, StudyFiles

MAX_CHARACTERS = 6000  # of one sample: a runaway rollout must not make the page unreadable
ORIGINS = {
    "prompt": "the task prompt",
    "dataset": "text from the dataset",
    "learner": "sampled from the model being trained",
    "teacher": "sampled from the teacher",
    "environment": "turns of a user or a tool, never supervised",
    "mixture": "drawn from a blend of learner and teacher",
}
OUTCOMES = {
    "supported": ("yes", "✓"),
    "not supported": ("no", "✕"),
    "equivalent": ("same", "≈"),
    "cannot tell": ("open", "?"),
    "premise not met": ("unmet", "○"),
}
STATES = {
    "open": "undecided",
    "fails": "does not hold",
    "equivalent": "smaller than its margin",
}  # others are words already
PREMISE_SIGNS = {"holds": "✓", "fails": "✕"}
SMALL_EFFECT = 0.01  # distances are of this order and differ in the fifth decimal
TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d):\d\d(?:\.\d+)?\+00:00$")
_DATE_KEYS = ("date", "finished", "started", "created")


class SampleView(NamedTuple):
    heading: str
    spans: list[Span]
    num_cut: int


class RunSamples(NamedTuple):
    label: str
    colour: str
    states: list[SampleView]
    rollouts: list[SampleView]


class EffectView(NamedTuple):
    """A number a verdict rests on, in words."""

    label: str
    value: str
    about: str  # what it rests on: threshold, p, items, seeds
    power: str  # what this size could have decided, where it is open


class VerdictView(NamedTuple):
    verdict: Verdict
    css: str
    sign: str
    premises: list[tuple[str, EffectView]]  # each with the sign of its state
    effects: list[EffectView]  # those that decide
    evidence: grid.Table


def render_page(study: StudyFiles, *, plots: Plots, all_tables: Tables) -> str:
    """The whole page as text. The same study gives the same page."""
    plan = study.plan
    asked = [verdict for verdict in study.verdicts if verdict.outcome != "not asked"]
    outcomes: list[str] = [verdict.outcome for verdict in asked]
    context = {
        "plan": plan,
        "comparison": study.comparison,
        "missing": study.missing,
        "accepted": study.accepted,
        "unsealed": study.unsealed,
        "without": study.without,
        "date": _date(study),
        "num_trained": study.num_trained,
        "headline": study.findings.headline if study.findings else [],
        "audits": audit_views(study),
        "is_audit": bool(study.audits) and not study.num_trained,
        "tally": [(*OUTCOMES[outcome], outcome, outcomes.count(outcome)) for outcome in OUTCOMES],
        "verdicts": [_verdict_view(verdict) for verdict in asked],
        "forest_caption": CAPTION,
        "looks": _looks_words(study.comparison.looks),
        "not_asked": [verdict for verdict in study.verdicts if verdict.outcome == "not asked"],
        "plots": plots,
        "tables": all_tables,
        "shares": [share_table(run) for run in supervision_shares(study)],
        "state_map": study.state_map,
        "kinds": KINDS,
        "planes": map_views(study.state_map, plan) if study.state_map else [],
        "origins": ORIGINS,
        "changed_items": changed_items(study),
        "samples": _samples(study),
        "settings": [(files.run.label, tables) for files in study.runs if (tables := settings_tables(files))],
        "plan_values": key_value_table("The plan.", {"": _plan_values(study)}),
    }
    return _environment().get_template("report.html.j2").render(context)


@cache  # its templates are compiled once per process
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("stateshape.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.globals |= {
        "main_text": grid.main_text,
        "interval_text": grid.interval_text,
        "companion_text": grid.companion_text,
        "origin_css": origin_css,
        "trusted_svg": Markup,
    }
    return environment


def _finalize(value: object) -> object:
    """Runs on every printed expression, before escaping: control characters become visible signs."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return text.visible(value)
    return value


def _date(study: StudyFiles) -> str | None:
    """From the records, the latest one there is: the page itself has no clock."""
    dates = [date for source in _provenances(study) if (date := _date_in(source))]
    latest = max(dates, default=None)
    return None if latest is None else TIMESTAMP.sub(r"\1, \2 UTC", latest)


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
    caption = f"Evidence for the verdict on {verdict.claim_id}."
    evidence = evidence_table([verdict], name=f"evidence_{verdict.claim_id}", caption=caption)
    effects = [_effect_view(part) for part in verdict.evidence if part.state != "shown"]
    premises = [(PREMISE_SIGNS.get(premise.state or "", "?"), _effect_view(premise)) for premise in verdict.premises]
    return VerdictView(verdict, css, sign, premises, effects, evidence)


def _effect_view(evidence: Evidence) -> EffectView:
    effect = evidence.effect
    if evidence.test in FACTS:
        return EffectView(evidence.label, "", "", "")
    size = max(abs(number) for number in (effect.value, effect.lo, effect.hi, evidence.threshold) if number is not None)
    decimals = 5 if 0 < size < SMALL_EFFECT else 3
    ends = text.interval(effect.lo, effect.hi, decimals=decimals, is_signed=True)
    value = f"{text.number(effect.value, decimals=decimals, is_signed=True)} {ends}".strip()
    about: list[str] = [STATES.get(evidence.state, evidence.state)] if evidence.state else []
    if evidence.threshold != 0:
        about.append(f"must be above {text.number(evidence.threshold, decimals=decimals)}")
    if evidence.p_holm is not None:
        about.append(f"{text.p_value(evidence.p_holm)} (Holm)")
    about += [_count(effect.n_items, "item")] if effect.n_items else []
    about.append(_count(effect.n_seeds, "seed"))
    about += [effect.note] if effect.note else []
    return EffectView(evidence.label, value, " · ".join(about), _power_words(evidence, decimals))


def _looks_words(looks: Sequence[Look]) -> str:
    """Empty where the verdicts were computed once, with all planned seeds."""
    if not looks or (len(looks) == 1 and looks[0].num_seeds >= looks[0].planned_seeds):
        return ""
    seeds = ", then ".join(str(look.num_seeds) for look in looks)
    spent = sum(look.level for look in looks)
    beyond = looks[-1].num_seeds > looks[0].planned_seeds
    return (
        f"Verdicts were computed with {seeds} of {looks[0].planned_seeds} planned seeds. Each look has its own share of the "
        f"error rate (O'Brien-Fleming spending): {looks[-1].level:.4f} for this one, {spent:.3f} for all."
        + (
            " Seeds were added after the planned ones had been looked at, so that the total exceeds .05."
            if beyond
            else ""
        )
    )


def _power_words(evidence: Evidence, decimals: int) -> str:
    """Power, smallest detectable effect and what is needed; empty for decided effects, whose power is in the table."""
    if evidence.state in ("holds", "fails"):
        return ""
    words = []
    if evidence.power is not None and evidence.power_effect is not None:
        words.append(
            f"power {evidence.power:.2f} for an effect of {text.number(evidence.power_effect, decimals=decimals)}"
        )
    if evidence.minimal_effect is not None:
        words.append(
            f"smallest detectable effect at 80% power {text.number(evidence.minimal_effect, decimals=decimals)}"
        )
    if evidence.needs:
        words.append(f"needs {evidence.needs}")
    return " · ".join(words)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _samples(study: StudyFiles) -> list[RunSamples]:
    """Each run's samples, from its first seed that has any."""
    marks = looks(study.plan, [])
    samples = []
    for files in study.runs:
        states, rollouts = _first(files, "states"), _first(files, "rollouts")
        if states or rollouts:
            samples.append(RunSamples(files.run.label, marks[files.run.name].colour, states, rollouts))
    return samples


def _first(files: RunFiles, field: str) -> list[SampleView]:
    for seed in files.seeds:
        samples: list[StateSample] = getattr(seed, field)
        if samples:
            return [_sample_view(sample, seed.seed) for sample in samples]
    return []


def origin_css(origin: str) -> str:
    return origin if origin in ORIGINS else "other"


def _sample_view(sample: StateSample, seed: int) -> SampleView:
    parts = [f"item {sample.item_id}", f"seed {seed}"]
    if sample.step is not None:
        parts.append(f"step {sample.step}")
    parts.append(f"finish: {sample.finish}")
    if sample.reward is not None:
        parts.append(f"reward {sample.reward:g}")
    spans, room, total = [], MAX_CHARACTERS, 0
    for span in sample.spans:
        total += len(span.text)
        if room > 0:
            spans.append(replace(span, text=span.text[:room]))
        room -= len(span.text)
    return SampleView(" · ".join(parts), spans, max(0, total - MAX_CHARACTERS))

"""Cards of what is published: a run as a model, a run's states and a study as datasets. Text from record files; torch-free.

A model card has the front matter that the hub reads (base_model, library_name, model-index), how the model was made, and,
where the run belongs to a study, what it gained, forgot and drifted with intervals and verdicts. Computes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from stateshape.core import layout
from stateshape.core.files import read_json
from stateshape.core.records import EvaluationRecord, Metric, RunRecord
from stateshape.core.study_records import BASE, Estimate
from stateshape.report.drawing import text
from stateshape.report.drawing.table import Column as TableColumn
from stateshape.report.drawing.table import estimate_cell, interval_text, main_text, render_markdown
from stateshape.report.parts.findings import by_pair
from stateshape.report.parts.tables import table2
from stateshape.report.study_files import StudyFiles

TAGS = ["stateshape", "post-training"]
ON_THE_HUB = {"gsm8k": "openai/gsm8k", "truthfulqa": "truthfulqa/truthful_qa", "mmlu": "cais/mmlu"}


class ScoreRow(NamedTuple):
    """A task's row of a model card, in words; `change` and `outcome` are empty outside a study."""

    task: str
    metric: str
    value: str
    change: str
    outcome: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """What a card is about. study: of which `record` is a run; name: what it is called on the page; base: as others find it.

    is_own: the card is written by the run itself, inside its folder, before anything is measured.
    """

    folder: Path
    record: RunRecord | None
    study: StudyFiles | None
    name: str
    base: str
    repository: str | None = None
    is_own: bool = False


def model_card(about: Published) -> str:
    record = about.record
    assert record is not None
    scores = _scores(about, record)
    front: dict[str, Any] = {
        "base_model": about.base,
        "library_name": "transformers" if layout.trained(about.folder).name == layout.MODEL else "peft",
        "pipeline_tag": "text-generation",
        "tags": [
            *TAGS,
            "lora" if layout.trained(about.folder).name == layout.ADAPTER else "full-finetune",
            _method(record),
        ],
    }
    if record.task in ON_THE_HUB:
        front["datasets"] = [ON_THE_HUB[record.task]]
    if index := _model_index(about, record):
        front["model-index"] = index
    return _rendered(
        "model_card.md.j2", front, about=about, record=record, scores=scores, is_adapter=front["library_name"] == "peft",
        **_told(about, record),
    )  # fmt: skip


def states_card(about: Published) -> str:
    """Of a run's recorded states."""
    front = {
        "tags": [*TAGS, "states"],
        "configs": [{"config_name": "default", "data_files": "states/*.parquet"}],
    }
    return _rendered("states_card.md.j2", front, about=about, record=about.record, **_told(about, about.record))


def study_card(about: Published) -> str:
    study = about.study
    assert study is not None
    front = {
        "tags": [*TAGS, "study"],
        "configs": [{"config_name": "per_seed", "data_files": f"{layout.TABLES}/per_seed.csv"}],
    }
    table = render_markdown(table2(study.plan, study.comparison))
    return _rendered("study_card.md.j2", front, about=about, study=study, table=table, **_told(about, None))


def _told(about: Published, record: RunRecord | None) -> dict[str, Any]:
    """What every template may ask for."""
    study = about.study
    provenance = record.provenance if record is not None else study.plan.provenance if study is not None else {}
    return {
        "headline": study.findings.headline if study and study.findings else [],
        "verdicts": [one for one in study.verdicts if one.outcome != "not asked"] if study else [],
        "provenance": provenance,
        "versions": provenance.get("packages") or {},
    }


def _method(record: RunRecord) -> str:
    return record.method.method if record.method is not None else "base"


def _scores(about: Published, record: RunRecord) -> list[ScoreRow]:
    """From the study, the mean over its seeds with the outcome; else from evaluations in the run's own folder."""
    if about.study is not None:
        return _study_scores(about.study, record)
    column = TableColumn(key="", heading="", kind="estimate")
    rows = []
    for task, metrics in _evaluations(about.folder).items():
        for name, metric in metrics.items():
            lo, hi = metric.ci95 or (None, None)
            cell = estimate_cell(Estimate(value=metric.value, lo=lo, hi=hi, n_items=metric.n, n_seeds=1))
            rows.append(
                ScoreRow(task, name, f"{main_text(cell, column)} {interval_text(cell, column)}".strip(), "", "")
            )
    return rows


def _study_scores(study: StudyFiles, record: RunRecord) -> list[ScoreRow]:
    row = next((row for row in study.comparison.rows if row.run == record.name), None)
    if row is None:
        return []
    found = by_pair(study).get((record.name, BASE), {})
    rows = []
    for task in (study.plan.target, *study.plan.retention):
        score, paired = row.scores.get(task.name), row.versus_base.get(task.name)
        change = "" if paired is None else _words(paired.difference, is_signed=True)
        subject = found.get("target") if task is study.plan.target else None
        rows.append(ScoreRow(task.label, task.metric, _words(score), change, subject.outcome if subject else ""))
    if (kept := found.get("retention")) is not None:
        rows.append(ScoreRow("mean of retention", "", "", _words(kept.evidence.effect, is_signed=True), kept.outcome))
    if (drift := found.get("drift")) is not None:
        mmd = row.drift.get("mmd2_unbiased")
        value = (
            ""
            if mmd is None or mmd.value is None
            else f"{mmd.value:.5f} (base against base {mmd.base_vs_base or 0:.5f})"
        )
        rows.append(ScoreRow("drift", "MMD²", value, "", drift.outcome))
    return rows


def _words(estimate: Estimate | None, *, is_signed: bool = False) -> str:
    if estimate is None or estimate.value is None:
        return ""
    ends = text.interval(estimate.lo, estimate.hi, decimals=3, is_signed=is_signed)
    return f"{text.number(estimate.value, decimals=3, is_signed=is_signed)} {ends}".strip()


def _evaluations(folder: Path) -> dict[str, dict[str, Metric]]:
    path = layout.summary(folder)
    if not path.exists():
        return {}
    known = read_json(path, dict[str, dict[str, Metric | EvaluationRecord]])
    return {
        task: {name: one for name, one in metrics.items() if isinstance(one, Metric)} for task, metrics in known.items()
    }


def _model_index(about: Published, record: RunRecord) -> list[dict[str, Any]]:
    """The scores as the hub's leaderboards read them: of this run's own seed where the study has it."""
    values = _own_values(about.study, record) if about.study is not None else _evaluated_values(about.folder)
    results = [
        {
            "task": {"type": "text-generation"},
            "dataset": {"name": name, "type": ON_THE_HUB.get(name, name)},
            "metrics": [{"type": metric, "value": round(value, 6)}],
        }
        for name, metric, value in values
    ]
    return [{"name": about.name, "results": results}] if results else []


def _own_values(study: StudyFiles, record: RunRecord) -> list[tuple[str, str, float]]:
    """(task, metric, value) of the run's own seed; of all seeds where that is not known."""
    values = []
    for row in study.comparison.rows:
        for task in (study.plan.target, *study.plan.retention) if row.run == record.name else ():
            score = row.scores.get(task.name)
            own = None if score is None else score.per_seed.get(str(record.seed), score.value)
            if own is not None:
                values.append((task.name, task.metric, own))
    return values


def _evaluated_values(folder: Path) -> list[tuple[str, str, float]]:
    return [
        (task, name, one.value)
        for task, metrics in _evaluations(folder).items()
        for name, one in metrics.items()
        if one.value is not None
    ]


def _rendered(template: str, front: dict[str, Any], **context: Any) -> str:
    environment = Environment(
        loader=PackageLoader("stateshape.report", "templates"), undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, autoescape=False,
    )  # fmt: skip
    environment.filters["cell"] = text.markdown
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n{environment.get_template(template).render(**context).strip()}\n"

"""What a study found, whatever its claims: decided by the verdicts' rule, told in sentences, shown at 80 columns."""

import io
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from stateshape.analysis.compare import write_comparison
from stateshape.analysis.findings import _size_words, findings_of
from stateshape.analysis.reading import load_scores
from stateshape.analysis.scores import StudyScores
from stateshape.analysis.statistics import holm
from stateshape.analysis.subjects import by_subject, subject_sizes
from stateshape.cli.results import findings_lines
from stateshape.core.files import read_json, write_json
from stateshape.core.study_records import Findings, PlanRecord, TaskRecord
from stateshape.report.parts.findings import findings_table
from stateshape.report.study_files import read_study_folder
from stateshape.report.write import write_report
from synthetic_study import write_synthetic_study

TASK = TaskRecord(name="exam", label="Exam", metric="acc", chance=0.25, num_items=None)
BIG = {"num_items": 250, "drift_noise": 0.0001, "seeds": [0, 1, 2, 3, 4]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("study")
    write_synthetic_study(path, **BIG)
    plan = read_json(path / "plan.json", PlanRecord)
    write_json(path / "plan.json", replace(plan, contrasts=[["opd_stress", "sft_stress"]]))
    write_comparison(path)
    return path


def outcomes(found):
    return {(one.run, one.versus, one.subject): one.outcome for one in found.findings}


def test_runs_that_truly_gain_or_forget_are_found_so(folder):
    found = outcomes(findings_of(load_scores(folder)))
    assert found["sft_mild", "base", "target"] == "gained"
    assert found["sft_stress", "base", "target"] == "lost"
    assert found["sft_stress", "base", "retention"] == "lost"
    assert found["opd_stress", "sft_stress", "target"] == "gained"
    assert found["sft_mild", "base", "retention"] in ("no difference", "cannot tell")
    assert found["opd_one_step", "base", "drift"] == "drifted"


def test_a_difference_that_no_share_can_have_is_not_said_to_be_found():
    def of_sizes(*sizes):
        return _size_words([SimpleNamespace(evidence=SimpleNamespace(minimal_effect=size)) for size in sizes])

    assert of_sizes(0.08, None, 0.2) == ". With 80% power this study finds differences of 0.080 to 0.200 and more"
    assert of_sizes(0.08, 2.3).endswith(
        "differences of 0.080 and more, and none at all in 1 of 2 comparisons (too few seeds)"
    )
    assert of_sizes(2.3) == ". With 80% power this study finds none at all in 1 of 1 comparisons (too few seeds)"
    assert of_sizes(None) == ""


def test_every_comparison_is_in_one_family_of_holm(folder):
    found = findings_of(load_scores(folder)).findings
    tested = [one.evidence for one in found if one.evidence.p_holm is not None]
    assert [one.p_holm for one in tested] == pytest.approx(holm([one.p for one in tested]))
    assert len(tested) == 6 * 3 + 2  # six runs: target, retention, drift; one pair: target, retention


def test_the_headline_says_what_was_compared_what_changed_and_what_is_open(folder):
    compared, *told = findings_of(load_scores(folder)).headline
    assert compared == (
        "6 runs with 5 training seeds each were compared with the base on GSM8K (target), and on TruthfulQA MC1 and MMLU "
        "(retention)."
    )
    assert any(one.startswith("Forgot: SFT, stress -0.") for one in told)
    pair = "On the target, OPD from the stress teacher is better than SFT, stress: +0."
    assert any(one.startswith(pair) for one in told)
    assert told[-1].startswith("Cannot tell: retention (")


def test_sampled_answers_are_told_beside_greedy_ones(folder):
    study = load_scores(folder)
    target = study.plan.target.name
    halved = {
        run: {target: {"strict_t1": {seed: 0.5 * scores for seed, scores in tasks[target].items()}}}
        for run, tasks in study.scores.items()
    }
    found = findings_of(replace(study, secondary=halved))
    (told,) = [line for line in found.headline if line.startswith("In sampled answers")]
    assert told.startswith("In sampled answers to the target (strict, temperature 1), minus base, not corrected: ")
    mild = next(one for one in found.findings if (one.run, one.subject) == ("sft_mild", "target"))
    assert mild.evidence.effect.value > 0.05
    assert f"SFT, mild {0.5 * mild.evidence.effect.value:+.3f} [" in told
    assert not [line for line in findings_of(study).headline if line.startswith("In sampled answers")]


def test_too_few_seeds_decide_nothing_and_the_headline_says_so(tmp_path):
    write_synthetic_study(tmp_path, **{**BIG, "seeds": [0]})
    found = findings_of(load_scores(tmp_path))
    assert {one.outcome for one in found.findings} <= {"cannot tell", "not measured"}
    assert found.headline[1] == "With 1 training seed no change can be put down to a method: that takes at least 3."


def test_a_stricter_level_finds_no_more(folder):
    study = load_scores(folder)
    changed = {key for key, one in outcomes(findings_of(study)).items() if one not in ("cannot tell", "no difference")}
    strict = {
        key
        for key, one in outcomes(findings_of(study, level=1e-9)).items()
        if one not in ("cannot tell", "no difference")
    }
    assert strict < changed


def test_findings_are_kept_beside_the_verdicts(folder):
    assert read_json(folder / "findings.json", Findings) == findings_of(load_scores(folder))


def test_the_report_opens_with_them(folder):
    page = write_report(folder).read_text()
    headline = findings_of(load_scores(folder)).headline
    assert headline[0] in page
    assert page.index('id="findings"') < page.index('id="verdicts"')
    assert (folder / "tables" / "findings.csv").exists()


def test_the_table_has_a_row_per_comparison(folder):
    table = findings_table(read_study_folder(folder))
    assert len(table.rows) == 7
    assert [cell.text for cell in table.rows[-1]][:2] == ["OPD from the stress teacher", "SFT, stress"]


def test_the_terminal_fits_eighty_columns_and_cuts_nothing(folder):
    out = Console(width=80, record=True, force_terminal=False, file=io.StringIO())
    out.print(findings_lines(read_study_folder(folder)))
    lines = out.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("SFT, stress ") and "▼" in line for line in lines)
    assert "…" not in out.export_text()


def test_scores_by_subject_are_means_over_their_items():
    scores = {
        "base": {"exam": {0: np.array([1.0, 0.0, 1.0])}},
        "a": {"exam": {0: np.array([0.0, 0.0, 1.0]), 1: np.array([1.0, 0.0, 1.0])}},
    }
    plan = PlanRecord(
        study="", model="", seeds=[0, 1], target=TASK, retention=[], runs=[], plan_sha256="", provenance={}
    )
    study = StudyScores(plan=plan, scores=scores, drift={}, missing=[], subjects={"exam": ["law", "law", "art"]})
    assert subject_sizes(study) == {"exam": {"art": 1, "law": 2}}
    assert by_subject(study, "base") == {"exam": {"art": 1.0, "law": 0.5}}
    assert by_subject(study, "a") == {"exam": {"art": 1.0, "law": 0.25}}
    assert by_subject(study, "gone") == {}

"""A run's way as one number per seed: by hand, what is left out, and that claims read it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import tiny
from stateshape.analysis.line import Line, line_through, values_along
from stateshape.analysis.planned_effects import measured_values
from stateshape.analysis.scores import DosePoint, StudyScores
from stateshape.core.study_records import BASE
from stateshape.study.describe import settings_of
from stateshape.study.plan import make_plan
from stateshape.study.study_file import presets, read_study_file

BEFORE = "9304086f4c8b7d7c1fcd31a2ab396551c52fcf91e3f731b89eec778af0d72ae4"  # of a plan of before there was a spacing


def study(ways: dict[int, list[tuple[float, int]]], *, num_base: int = 40, num_items: int = 100) -> StudyScores:
    """One run; by seed, its points as (distance, right answers)."""

    def right(number: int) -> np.ndarray:
        return (np.arange(num_items) < number).astype(float)

    return StudyScores(
        plan=SimpleNamespace(target=SimpleNamespace(name="sums"), retention=[]),
        scores={BASE: {"sums": {0: right(num_base)}}},
        drift={},
        missing=[],
        along={
            "run": {
                seed: [
                    DosePoint(step=k + 1, doses={"k3_distance": dose}, scores={"sums": right(number)})
                    for k, (dose, number) in enumerate(points)
                ]
                for seed, points in ways.items()
            }
        },
    )


def test_a_line_by_hand():
    """x: 0, 1, 2, 3 around 1.5; y: 0, 2, 2, 4 around 2. xy = 6, xx = 5, yy = 8: slope 1.2, r2 = 36 / 40."""
    assert line_through([0, 1, 2, 3], [0, 2, 2, 4]) == pytest.approx(Line(slope=1.2, r2=0.9))
    assert line_through([3, 1, 2, 0], [-3, -1, -2, 0]) == pytest.approx(Line(slope=-1.0, r2=1.0))


@pytest.mark.parametrize("scores", [[0, 1], [1, 1, 1]])
def test_what_is_no_line(scores):
    assert line_through(list(range(len(scores))), scores) is None
    assert line_through([1, 1, 1], [0, 1, 2]) is None


def test_the_line_is_over_the_base_and_the_first_half_of_the_points():
    """(0, .4), (.1, .5), (.2, .6) lie on a line of slope 1; the second half falls and is not looked at."""
    way = [(0.1, 50), (0.2, 60), (0.3, 45), (0.1, 20)]
    made = study({0: way, 1: [*way[:1], (0.2, 40), *way[2:]], 2: way[:2]})
    slopes, fits, peaks = (values_along(made, "run", name) for name in ("line_slope", "line_r2", "peak"))
    assert slopes == pytest.approx({0: 1.0, 1: 0.0}, abs=1e-12)  # of two points the first half is one: no line
    assert fits == pytest.approx({0: 1.0, 1: 0.0}, abs=1e-12)
    assert peaks == pytest.approx({0: 0.6, 1: 0.5, 2: 0.6})


def test_claims_read_it_by_name():
    made = study({3: [(0.1, 50), (0.2, 60), (0.3, 45), (0.1, 20)]})
    assert measured_values(made, "run", "along.peak") == pytest.approx({3: 0.6})
    assert measured_values(made, "run", "along.line_r2") == pytest.approx({3: 1.0})
    assert measured_values(made, "other", "along.peak") == {}


@pytest.mark.parametrize("name", ["line", "two_by_two_by_two"])
def test_the_presets_have_claims_about_runs_that_they_plan(name):
    assert name in presets()
    file = read_study_file(name)
    plan = make_plan(file)
    assert len(file.seeds) == 5 and file.claims
    named = {run for claim in file.claims.values() for effect in claim.effects for run in effect.contrast}
    assert named <= {spec.name for spec in plan.runs}


def test_the_eight_cells_differ_in_states_direction_and_rate_alone():
    cells = {}
    for spec in make_plan(read_study_file("two_by_two_by_two")).trained:
        if spec.name == "tutor":
            continue
        meaning = settings_of(spec)
        recipe, train = meaning["recipe"], meaning["train"]
        cells[spec.recipe_name, recipe["direction"], train["lr"]] = spec.name
        assert (recipe["target_temperature"], train["steps"], train["supervised_per_step"]) == (0.5, 120, 512)
        assert spec.name.startswith("learner" if spec.recipe_name == "opd" else "teacher")
    assert len(cells) == 8


def test_even_spacing_is_another_plan_and_the_usual_one_keeps_its_checksum(tmp_path: Path):
    shas = []
    for along in ("{points: 3}", "{points: 3, spacing: doubling}", "{points: 3, spacing: even}"):
        (tmp_path / "a.yaml").write_text(
            f"along: {along}\n" + tiny.study_text("tutor: {recipe: sft}"), encoding="utf-8"
        )
        plan = make_plan(read_study_file(str(tmp_path / "a.yaml")))
        shas.append(plan.sha256)
    assert shas[0] == shas[1] != shas[2]
    assert settings_of(plan.trained[0], plan.file.along)["along_spacing"] == "even"
    assert shas[0] == BEFORE

"""Study files: every preset plans, and every mistake is one line that names the field."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny
from stateshape.core.files import BadInput
from stateshape.recipes.recipe import recipe_class
from stateshape.study.describe import settings_of
from stateshape.study.plan import Plan, make_plan
from stateshape.study.preflight import check_sources
from stateshape.study.study_file import presets, read_study_file

GOOD = """\
study: tiny
model: embedded
target: {task: arithmetic, limit: 8}
retention: [{task: facts, limit: 8}]
train: {lr: 5e-4, steps: 2, lora: {rank: 4}}
runs:
  student: {recipe: opd_continuation, teacher: tutor, with: {max_new_tokens: 8}}
  tutor: {recipe: sft, train: {lora: {alpha: 8}}}
"""


def planned(text: str, folder: Path) -> Plan:
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return make_plan(read_study_file(str(path)))


@pytest.mark.parametrize("name", presets())
def test_every_preset_plans(name: str) -> None:
    plan = make_plan(read_study_file(name))
    order = [spec.name for spec in plan.runs]
    assert order
    for spec in plan.runs:
        assert spec.teacher not in order[order.index(spec.name) :]


def test_teachers_come_first_and_settings_are_merged(tmp_path: Path) -> None:
    plan = planned(GOOD, tmp_path)
    assert [spec.name for spec in plan.runs] == ["tutor", "student"]
    tutor = plan.runs[0].train
    assert (tutor.lr, tutor.steps, tutor.lora.rank, tutor.lora.alpha) == (5e-4, 2, 4, 8.0)


@pytest.mark.parametrize(
    "more",
    [
        "seeds: [0, 1]",
        "notes: why",
        "roles: {sft_stress: tutor}",
        "contrasts: [[tutor, student]]",
        "model_settings: {compile: true}",
    ],
)
def test_what_is_done_stays_the_same_plan(more: str, tmp_path: Path) -> None:
    assert planned(GOOD, tmp_path).sha256 == planned(GOOD + more + "\n", tmp_path).sha256


def test_a_plan_that_says_a_recipe_s_earlier_name_keeps_its_checksum(tmp_path: Path) -> None:
    """A folder begun when opd_logp was still called opd_rl goes on: the checksum is the one that was computed then."""
    text = GOOD.replace("opd_continuation", "opd_rl").replace("max_new_tokens: 8", "rollout_tokens: 8")
    plan = planned(text, tmp_path)
    assert plan.sha256 == "09d067d871bc941b9168fef007023e92c1490f72f7e602ab0b701e4376481057"
    assert plan.runs[1].recipe_class is recipe_class("opd_logp")


def test_plans_of_before_there_was_a_choice_keep_their_checksum(tmp_path: Path) -> None:
    """Folders that such a plan has begun must go on."""
    assert planned(GOOD, tmp_path).sha256 == "9dc60eec5c628da0dd1cd5f8d32e8ce8a3a1b29ef977852281a989cf747079a9"


# Every recipe with a field that came later, left at its default; the checksum is the one computed before there was any.
BEFORE = """\
study: tiny
model: embedded
target: {task: arithmetic, limit: 8}
retention: [{task: facts, limit: 8}]
train: {lr: 5e-4, steps: 2, lora: {rank: 4}}
runs:
  tutor: {recipe: sft}
  a: {recipe: opd, teacher: tutor}
  b: {recipe: kd, teacher: tutor}
  c: {recipe: gkd, teacher: tutor}
  d: {recipe: kd_on_teacher, teacher: tutor}
  e: {recipe: dagger, teacher: tutor, with: {signal: distribution}}
  f: {recipe: replay, teacher: tutor, states: a, with: {signal: teacher-distribution}}
  g: {recipe: sdft}
"""


def test_fields_that_came_later_leave_checksums_and_records_of_before_alone(tmp_path: Path) -> None:
    plan = planned(BEFORE, tmp_path)
    assert plan.sha256 == "bfbac47627e19128d0ac0cf68a67fa877728bcbf38b4609d697f3a021f7d6e80"
    assert planned(BEFORE.replace("steps: 2", "steps: 3"), tmp_path).sha256 != plan.sha256
    recorded = settings_of(plan.runs[1])
    assert "target_temperature" not in str(recorded)
    assert "band" not in str(recorded)
    said = BEFORE.replace("signal: distribution", "signal: distribution, target_temperature: 1")
    assert planned(said, tmp_path).sha256 == plan.sha256


@pytest.mark.parametrize("later", ["target_temperature: 0.5", "band: {high: 0.1}"])
def test_a_later_field_off_its_default_is_another_plan(later: str, tmp_path: Path) -> None:
    inside = "train: {" if later.startswith("band") else "with: {signal: distribution, "
    text = BEFORE.replace("with: {signal: distribution}", f"with: {{signal: distribution}}, {inside}{later}}}")
    text = text.replace("with: {signal: distribution}, with:", "with:")
    assert text != BEFORE
    plan = planned(text, tmp_path)
    assert plan.sha256 != planned(BEFORE, tmp_path).sha256
    chosen = next(spec for spec in plan.runs if spec.name == "e")
    assert later.partition(":")[0] in str(settings_of(chosen))


@pytest.mark.parametrize(("share", "steps"), [(0.5, 1), (1.0, 2), (0.0, None), (1.5, None)])
def test_a_replay_of_a_share_is_at_most_so_long(share: float, steps: int | None, tmp_path: Path) -> None:
    """Asked before the states are there: run a trains for 2 steps."""
    text = BEFORE.replace("signal: teacher-distribution", f"signal: teacher-distribution, share: {share}")
    if steps is None:
        with pytest.raises(BadInput, match=r"share: got .*; expected a number above 0, up to 1"):
            planned(text, tmp_path)
        return
    for asked in (1, 2):
        replayed = text.replace("with: {signal: teacher-d", f"train: {{steps: {asked}}}, with: {{signal: teacher-d")
        plan = planned(replayed, tmp_path)
        spec = next(spec for spec in plan.runs if spec.name == "f")
        if asked <= steps:
            check_sources(plan, spec, tiny.task())
        else:
            with pytest.raises(
                BadInput, match=r"steps: got 2 for f; expected at most 1, share 0\.5 of the 2 steps of a"
            ):
                check_sources(plan, spec, tiny.task())


def test_measuring_along_the_way_is_another_plan_and_keeping_adapters_is_not(tmp_path: Path) -> None:
    choices = ("", "along: {}", "along: {points: 5}", "along: {limit: 9}")
    shas = [planned(f"{GOOD}{choice}\n", tmp_path).sha256 for choice in choices]
    assert len(set(shas)) == 4
    assert planned(f"{GOOD}along: {{keep: false}}\n", tmp_path).sha256 == shas[1]
    sampled = GOOD.replace("arithmetic, limit: 8", "arithmetic, limit: 8, samples: {n: 2}")
    assert planned(sampled, tmp_path).sha256 not in shas


def test_what_is_done_otherwise_is_another_plan(tmp_path: Path) -> None:
    others = [GOOD.replace("lr: 5e-4", "lr: 6e-4"), GOOD.replace("limit: 8}", "limit: 9}"), GOOD + "drift: {cuts: 1}\n"]
    assert len({planned(text, tmp_path).sha256 for text in (GOOD, *others)}) == 4


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("lr: 5e-4", "band: {low: 0.5, high: 0.5}", "band: got low 0.5, high 0.5; expected 0 <= low < high <= 1"),
        (
            "recipe: sft, train: {",
            "recipe: dpo, train: {band: {low: 0.1}, ",
            "runs.tutor.train.band: got low 0.1, high 1.0 for a pref",
        ),
        ("recipe: sft", "recipe: sfft", "recipe: got 'sfft'"),
        ("lr: 5e-4", "lr: abc", "lr: got 'abc'; expected a number"),
        ("lr: 5e-4", "lr: -1", "lr: got -1.0"),
        ("lr: 5e-4", "learning_rate: 1", "unknown field learning_rate"),
        ("limit: 8}\n", "limmit: 8}\n", "did you mean limit?"),
        ("max_new_tokens", "max_tokens", "unknown field max_tokens"),
        ("  tutor:", "  base:", "runs.base"),
        ("  tutor:", "  ../tutor:", "runs.../tutor"),
        ("  tutor:", "  student:", "line 8: got 'student' twice"),
        ("  tutor:", "  on:", "expected a text; put it in quotation marks"),
        ("teacher: tutor", "teacher: tuttor", "did you mean tutor?"),
        ("teacher: tutor, ", "", "runs.student.teacher: got None"),
        ("recipe: sft", "recipe: opd, teacher: student", "circle: student -> tutor -> student"),
        ("task: facts", "task: arithmetic", "got task arithmetic twice"),
        ("study: tiny", "study: tiny\nseeds: [0, 0]", "seeds: got [0, 0]"),
        ("study: tiny", "study: tiny\nseeds: [012]", "line 2: got 012, which some read as octal"),
        ("study: tiny", "study: tiny\nseeds: [one]", "seeds[0]: got 'one'"),
        ("study: tiny", "study: tiny\nseeds: []", "seeds: got []"),
        ("study: tiny", "study: tiny\nseeds: [-1]", "seeds: got [-1]"),
        ("study: tiny", "study: tiny\ndrift: {prompts: 0}", "prompts: got 0"),
        ("study: tiny", "", "study: is missing"),
        ("study: tiny", "study: [", "not valid YAML"),
    ],
)
def test_a_mistake_is_one_line(old: str, new: str, wanted: str, tmp_path: Path) -> None:
    assert old in GOOD
    with pytest.raises(BadInput) as caught:
        planned(GOOD.replace(old, new, 1), tmp_path)
    assert wanted in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "- 1\n", "just text\n", "study: a\nmodel: b\nruns: [1]\n", "runs: {a: 3}\n"])
def test_other_shapes_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        planned(text, tmp_path)


def test_a_preset_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="did you mean smoke"):
        read_study_file("smok")
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="not UTF-8"):
        read_study_file(str(tmp_path / "x.yaml"))

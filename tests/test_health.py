"""A run that learns nothing says so: early, at the end, in its record and in the report, with the reason."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from stateshape.analysis.compare import write_comparison
from stateshape.cli import main
from stateshape.core.files import read_json, write_json
from stateshape.core.records import RunRecord, StepRecord
from stateshape.report.parts.tables import render_markdown, table2
from stateshape.report.study_files import read_study_folder
from stateshape.report.write import write_report
from stateshape.train.health import learned_nothing, warnings_of
from synthetic_study import write_synthetic_study

FLAT, MISSING, CUT = "share_zero_variance_groups", "share_rewards_missing", "share_truncated"
REWARD = {"": "reward"}


def step(number=0, *, loss=0.5, grad_norm=1.0, num_supervised=8, **stats) -> StepRecord:
    return StepRecord(
        step=number, loss=loss, grad_norm=grad_norm, lr=1e-3, num_supervised=num_supervised, num_rows=4, seconds={},
        origin_shares={}, stats={name.replace("__", "/"): value for name, value in stats.items()},
    )  # fmt: skip


def flat(**more) -> StepRecord:
    return step(**({"loss": 0.0, "grad_norm": 0.0, "reward": 1.0, FLAT: 1.0, MISSING: 0.0, CUT: 0.25} | more))


def silent(**more) -> StepRecord:
    return step(**({"loss": None, "grad_norm": None, "num_supervised": 0} | more))


@pytest.mark.parametrize(
    ("steps", "kinds", "said"),
    [
        (
            [flat()] * 4,
            REWARD,
            "none of 4 steps had anything to learn from; rewards were equal within 100% of the groups (mean reward 1), 25% of "
            "the samples were cut off at the token limit",
        ),
        # a KL to the reference that the learner has not left has a gradient of rounding alone
        ([flat(grad_norm=1e-8, **{CUT: 0.0})] * 2, REWARD, "equal within 100% of the groups (mean reward 1)"),
        ([silent(reward=None, **{FLAT: 1.0, MISSING: 1.0})], REWARD, "all rewards were missing (None or NaN)"),
        ([flat(**{MISSING: 0.5})], REWARD, "(mean reward 1), 50% of the rewards were missing, 25% of"),
        (
            [silent(reward=0.5, **{FLAT: 1.0, MISSING: 0.0, CUT: 1.0})],
            REWARD,
            "no token was supervised, 100% of the samples were cut off at the token limit",
        ),
        ([silent(**{CUT: 0.5})], {"": "reward filter"}, "no sample's reward reached the threshold, 50% of"),
        ([silent()], {"": "preference"}, "no prompt had two samples with different rewards"),
        ([silent()], {"": "gold tokens"}, "no token was supervised"),
        ([step(grad_norm=0.0)], {"": "gold tokens"}, "the loss had no gradient at the supervised tokens"),
        (
            [silent(a__loss=None, a__num_supervised=0.0, b__loss=0.0, b__num_supervised=4.0, **{f"b/{FLAT}": 1.0})],
            {"a": "gold tokens", "b": "reward"},
            "a: no token was supervised; b: rewards were equal within 100% of the groups",
        ),
    ],
)
def test_nothing_was_learned(steps, kinds, said):
    (found,) = warnings_of(steps, kinds)
    assert found.startswith("learned nothing: ")
    assert said in found
    assert learned_nothing(steps, kinds) == found


def test_a_teacher_that_is_the_learner_teaches_nothing():
    """Its gradient is rounding, and not 0."""
    steps = [step(loss=0.0, grad_norm=9e-7), step(loss=-2e-9, grad_norm=7e-5)]
    (found,) = warnings_of(steps, {"": "teacher distribution"})
    assert found == "learned nothing: in 2 steps the teacher's distributions were the same as the learner's"
    assert warnings_of(steps, {"": "gold tokens"}) == []


def test_little_was_learned():
    steps = [flat(**{CUT: 0.0}), flat(**{CUT: 0.0}), step(reward=0.5, **{FLAT: 0.25, MISSING: 0.0})]
    (found,) = warnings_of(steps, REWARD)
    assert found == (
        "learned little: 2 of 3 steps had nothing to learn from; rewards were equal within 100% of the groups (mean reward 1)"
    )
    assert learned_nothing(steps, REWARD) is None


def test_one_term_of_two_taught_nothing():
    steps = [
        step(sft__loss=0.5, sft__num_supervised=4.0, rl__loss=0.0, rl__num_supervised=4.0, **{f"rl/{FLAT}": 1.0})
    ] * 3
    assert warnings_of(steps, {"sft": "gold tokens", "rl": "reward"}) == [
        "term rl taught nothing in 3 steps: rewards were equal within 100% of the groups"
    ]


def test_a_run_that_learns_is_not_warned_of():
    assert warnings_of([], REWARD) == []
    assert warnings_of([step(reward=0.5, **{FLAT: 0.5, MISSING: 0.1, CUT: 0.5}), flat(), step()], REWARD) == []
    assert warnings_of([step()], {"": "gold tokens"}) == []


def test_rewards_that_are_mostly_missing_and_samples_that_are_all_cut_off():
    found = warnings_of([step(reward=0.5, **{FLAT: 0.5, MISSING: 0.6, CUT: 1.0})], REWARD)
    assert found == [
        "60% of the rewards were missing (None or NaN)",
        "100% of the samples were cut off at the token limit; raise rollout_tokens",
    ]
    assert warnings_of([step(**{CUT: 1.0})], {"": "teacher continuation"}) == []


OWN = """
def equal(item, text, finish): return 1.0
def none(item, text, finish): return None
def never(item, text, finish): return -1.0
"""


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["grpo", "--group", "2", "--reward", "OWN:equal"], "rewards were equal within 100% of the groups (mean reward 1)"),
        (["grpo", "--group", "2", "--reward", "OWN:none"], "all rewards were missing (None or NaN)"),
        (["grpo", "--group", "2", "--truncated", "mask"], "no token was supervised, 100% of the samples were cut off"),
        (["rft", "--reward", "OWN:never"], "no sample's reward reached the threshold"),
        (["online_dpo", "--samples", "2", "--reward", "OWN:equal"], "no prompt had two samples with different rewards"),
        (["opd", "--teacher", "embedded"], "the teacher's distributions were the same as the learner's"),
    ],
)  # fmt: skip
def test_a_run_says_early_and_at_the_end_that_it_learned_nothing(flags, said, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("stateshape.study.training.watches_of", lambda *given: [])  # probes would take most of the time
    (tmp_path / "own.py").write_text(OWN)
    flags = [part.replace("OWN", str(tmp_path / "own.py")) for part in flags]
    common = [
        "--model",
        "embedded",
        "--device",
        "cpu",
        "--task",
        "arithmetic",
        "--batch-prompts",
        "1",
        "--train-items",
        "4",
    ]
    common += ["--rollout-tokens", "2", "--steps", "4", "--states-mb", "0", "--lora.rank", "2"]
    out = tmp_path / "run"
    command = ["train", *flags, *common, "--lr", "1e-9", "--out", str(out)]
    assert main([*command, "--json-events"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    early, late = [event["text"] for event in events if event["event"] == "warning"]
    assert f"{flags[0]}, seed 0, so far (3 of 4 steps): learned nothing: " in early
    assert late.startswith("learned nothing: ")
    assert said in early and said in late
    assert read_json(out / "run.json", RunRecord).warnings == [late]
    assert main([*command, "--quiet"]) == 0  # it is done: said again, for whoever looks only now
    assert capsys.readouterr().err == f"warning: {late}\n"


def test_the_report_names_runs_that_learned_nothing(tmp_path):
    folder = write_synthetic_study(tmp_path, num_items=20)
    path = folder / "runs/rl/seed1/run.json"
    warned = replace(read_json(path, RunRecord), warnings=["learned nothing: because <b>"])
    write_json(path, warned)
    comparison = write_comparison(folder)
    assert comparison.warnings == ["rl, seed 1: learned nothing: because <b>"]
    page = write_report(folder).read_text(encoding="utf-8")
    assert "rl, seed 1: learned nothing: because &lt;b&gt;" in page
    assert "Some runs reported warnings" in page
    study = read_study_folder(folder)
    assert "rl, seed 1: learned nothing" in render_markdown(table2(study.plan, study.comparison))

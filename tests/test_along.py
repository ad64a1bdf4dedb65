"""Runs measured on their way: which steps are kept, what the doses are, and that stopping anywhere changes nothing."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file

import tiny
from stateshape.analysis.effects import secondary_study
from stateshape.analysis.reading import load_scores
from stateshape.api import open_policy
from stateshape.cli import main
from stateshape.core import layout
from stateshape.core.files import BadInput, read_json, read_jsonl
from stateshape.core.manifest import changes, read_manifest
from stateshape.core.records import DoseRecord, EvalRow, RunRecord, SampledRow
from stateshape.core.seeds import generator_for, seed_for
from stateshape.embedded import base_folder
from stateshape.evals.sampled import sample_and_grade
from stateshape.locality.doses import dose_states, doses, some_rollouts
from stateshape.policy.open import open_weights
from stateshape.policy.policy import Policy
from stateshape.policy.settings import ModelSettings
from stateshape.study.along import chosen_by_kl, enclosed, some_items
from stateshape.study.context import load_tasks
from stateshape.study.describe import task_record
from stateshape.study.plan_checksum import plan_sha256
from stateshape.study.study_file import StudyFile, read_study_file
from stateshape.tasks.load import load_task
from stateshape.train.kept_adapters import forget_kept_after, keep_adapter, kept_steps

TEXT = "along: {points: 3, limit: 3, positions: 20, samples: true}\n" + tiny.study_text(
    "tutor: {recipe: sft, train: {steps: 5}}"
).replace("arithmetic, limit: 4", "arithmetic, limit: 4, samples: {n: 2}")
TENSORS = "adapter_model.safetensors"


def study(file: Path, folder: Path, *more: str) -> int:
    return main(["study", str(file), "--out", str(folder), "--quiet", *more])


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("along")
    (folder / "tiny.yaml").write_text(TEXT, encoding="utf-8")
    assert study(folder / "tiny.yaml", folder / "out") == 0
    return folder


def run_of(folder: Path, run: str = "tutor") -> Path:
    return layout.run_folder(folder / "out", run, 0)


# Which steps


def test_each_kept_step_is_half_of_the_next_and_the_last_is_the_end():
    assert kept_steps(60, 6) == [2, 4, 8, 15, 30, 60]
    assert kept_steps(1000, 3) == [250, 500, 1000]
    assert kept_steps(5, 6) == [1, 2, 3, 5]  # no more are different
    assert kept_steps(7, 1) == [7]


def test_even_steps_are_equally_far_apart_up_to_rounding_and_end_at_the_end():
    assert kept_steps(256, 4, "even") == [64, 128, 192, 256]
    assert kept_steps(10, 4, "even") == [3, 5, 8, 10]
    assert kept_steps(3, 5, "even") == [1, 2, 3]  # no more are different
    assert kept_steps(7, 1, "even") == [7]
    assert kept_steps(1, 10_000) == [1]


def test_candidates_are_multiples_of_each_other_up_to_rounding_and_end_at_the_end():
    steps = kept_steps(1000, 3, "kl")
    assert steps == [2, 3, 4, 6, 10, 16, 25, 40, 63, 100, 158, 251, 398, 631, 1000]  # 1000 to the power of i / 15
    assert kept_steps(3, 2, "kl") == [1, 2, 3]
    assert kept_steps(1, 4, "kl") == [1]
    assert kept_steps(40, 2, "kl", per_point=20) == list(range(1, 41))  # room for every step
    assert kept_steps(64, 1, "kl", per_point=6) == [2, 4, 8, 16, 32, 64]


def candidates(*kls: float | None) -> list[DoseRecord]:
    known: list[dict[str, float]] = [{} if kl is None else {"forward_kl_new_task_nats": kl} for kl in kls]
    return [DoseRecord(step=10 * (i + 1), doses=found, num_states=1) for i, found in enumerate(known)]


def test_points_by_kl_are_the_first_to_reach_equally_spaced_roots():
    found = candidates(0.01, 0.04, 0.09, 0.16, 0.25, 0.36, 0.49, 1.0)  # roots .1, .2, .3, .4, .5, .6, .7, 1
    assert chosen_by_kl(found, 4) == [30, 50]  # .25, .5; .75 and 1 are reached by the last, which is a point anyhow
    assert chosen_by_kl(found, 10) == [10, 20, 30, 40, 50, 60, 70]
    back = candidates(0.01, 1.0, 0.04, 0.25, 0.16)  # far at once, then back: the first to reach, and no other
    assert chosen_by_kl(back, 4) == [20]
    assert chosen_by_kl(candidates(None, 0.25, None, 1.0), 2) == [20]
    assert chosen_by_kl(candidates(0.0, 0.0), 3) == chosen_by_kl(candidates(None, None), 3) == []
    assert chosen_by_kl(found, 1) == []


def test_rounding_does_not_put_a_level_beyond_the_farthest_candidate():
    farthest = 0.5046868558173903  # whose root times 6 over 6 is larger than the root
    root = math.sqrt(farthest)
    assert root * 6 / 6 > root
    assert chosen_by_kl(candidates(0.01, farthest, 0.4), 6) == [20]
    assert all(chosen_by_kl(candidates(0.2 * farthest, farthest, 0.1), points) == [10, 20] for points in range(3, 40))


def test_points_around_a_kl_are_the_step_that_reaches_it_first_and_the_one_before():
    found = candidates(0.01, 0.04, 0.09, 0.16, 0.25, 0.36, 0.49, 1.0)
    assert chosen_by_kl(found, 4, [0.1]) == [30, 40, 50]  # .25 and .5 by their roots; .09 and .16 enclose .1
    assert chosen_by_kl(found, 1, [0.04, 0.3]) == [10, 20, 50, 60]  # reached at a candidate: it, and the one before
    assert chosen_by_kl(found, 1, [0.9]) == [70]  # the last step is a point anyhow
    assert chosen_by_kl(found, 1, [2.0]) == []  # not reached
    assert chosen_by_kl(found, 1, [0.001]) == [10]  # between the base and the first
    back = candidates(0.01, 1.0, 0.04, 0.25, 0.16)
    assert chosen_by_kl(back, 1, [0.1]) == [10, 20]
    assert chosen_by_kl(candidates(None, 0.25, None, 1.0), 1, [0.5]) == [20]


# Doses


def filled(size: float) -> tuple[Policy, Policy]:
    """The base, and an adapter on it."""
    shared = tiny.weights(dtype=torch.float64)
    return Policy(shared, None), tiny.adapter(shared, "moved", seed=3, size=size)


def rollouts(base: Policy, num: int = 4) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts and responses of different lengths; one writes nothing."""
    generator = generator_for(0, "rollouts")
    draw = lambda n: torch.randint(2, len(base.tokenizer), (n,), generator=generator).tolist()  # noqa: E731
    return [draw(3 + i) for i in range(num)], [draw(2 * i) for i in range(num)]


def logps(policy: Policy, row: list[int]) -> torch.Tensor:
    """[T, V], by a pass of its own for every prefix."""
    made = [policy.hidden_at([row[: t + 1]], [[t]]) @ policy.head.weight_VD.T for t in range(len(row))]
    return torch.cat(made).log_softmax(-1)


def test_doses_against_a_loop_over_every_state():
    base, moved = filled(0.2)
    prompts, responses = rollouts(base)
    reference = dose_states(base, prompts, responses, limit=1000, temperature=1.0)
    kls, k3s = [], []
    with torch.no_grad():
        for prompt, response in zip(prompts, responses, strict=True):
            row = [*prompt, *response]
            ours, theirs = logps(moved, row), logps(base, row)
            for t in range(len(prompt), len(row)):
                p, q = theirs[t - 1], ours[t - 1]
                kls.append(sum(math.exp(p[v]) * float(p[v] - q[v]) for v in range(len(p))))
                log_ratio = float(q[row[t]] - p[row[t]])
                k3s.append(math.exp(log_ratio) - 1 - log_ratio)
    found = doses(moved, reference)
    assert len(reference.states) == len(kls) == 12
    assert found["forward_kl_new_task_nats"] == pytest.approx(sum(kls) / 12, rel=1e-5)
    assert found["k3_distance"] == pytest.approx(math.sqrt(sum(k3s) / 12), rel=1e-5)
    assert found["update_frobenius"] > 0


def test_the_untrained_adapter_is_at_dose_zero():
    base, same = filled(0.0)
    reference = dose_states(base, *rollouts(base), limit=1000, temperature=1.0)
    assert doses(same, reference) == pytest.approx(
        {"forward_kl_new_task_nats": 0, "k3_distance": 0, "update_frobenius": 0}, abs=1e-9
    )


def test_states_are_chosen_once_and_rows_in_several_passes_give_the_same(monkeypatch):
    base, moved = filled(0.2)
    prompts, responses = rollouts(base)
    once = dose_states(base, prompts, responses, limit=7, temperature=1.0)
    assert len(once.states) == len(once.targets_N) == 7
    expected = doses(moved, once)
    monkeypatch.setattr("stateshape.locality.doses.BATCH_TOKENS", {"cpu": 1})
    again = dose_states(base, prompts, responses, limit=7, temperature=1.0)
    assert again.states.rows == once.states.rows
    assert doses(moved, again) == pytest.approx(expected, rel=1e-6)


def test_a_rough_dose_is_that_of_fewer_rollouts():
    base, moved = filled(0.2)
    prompts, responses = rollouts(base, num=5)  # of 0, 2, 4, 6 and 8 tokens; the one without a token has no states
    rough = some_rollouts(dose_states(base, prompts, responses, limit=1000, temperature=1.0), every=2)
    alone = dose_states(base, prompts[1::2], responses[1::2], limit=1000, temperature=1.0)
    assert len(rough.states) == len(rough.targets_N) == len(alone.states) == 8
    assert doses(moved, rough) == pytest.approx(doses(moved, alone), rel=1e-6)


def test_of_tokens_that_were_not_drawn_at_temperature_1_there_is_no_k3():
    base, moved = filled(0.2)
    found = doses(moved, dose_states(base, *rollouts(base), limit=10, temperature=0.7))
    assert set(found) == {"forward_kl_new_task_nats", "update_frobenius"}


def test_without_a_state_there_is_no_dose():
    base, moved = filled(0.2)
    assert doses(moved, dose_states(base, [[2, 3]], [[]], limit=10, temperature=1.0)) == {}


# A study


def test_what_a_measured_run_holds(done: Path):
    folder = run_of(done)
    records = read_jsonl(folder / layout.ALONG, DoseRecord)
    assert [record.step for record in records] == [2, 3, 5]
    assert [record.num_states for record in records] == [20, 20, 20]
    assert all(set(r.doses) == {"forward_kl_new_task_nats", "k3_distance", "update_frobenius"} for r in records)
    assert all(value > 0 for record in records for value in record.doses.values())
    for task in ("arithmetic", "facts"):
        own = [row.item_id for row in read_jsonl(layout.evaluation(folder, task), EvalRow)]
        for step in (2, 3):
            assert [r.item_id for r in read_jsonl(layout.along_rows(folder, step, task), EvalRow)] == own[:3]
    assert not layout.along_rows(folder, 5, "facts").exists()  # the run's own evaluation
    for step in (2, 3):
        sampled = read_jsonl(layout.along_rows(folder, step, "arithmetic", layout.SAMPLED), SampledRow)
        assert [len(row.strict) for row in sampled] == [2, 2, 2]
        assert not layout.along_rows(folder, step, "facts", layout.SAMPLED).exists()
    assert list(layout.kept_checkpoints(folder)) == [2, 3]
    assert not layout.tokens(folder).exists()
    assert layout.tokens(run_of(done, "base")).exists()
    assert read_json(folder / layout.RUN, RunRecord).seconds["along"] > 0


def test_points_have_the_scores_of_samples_and_the_last_one_those_of_the_end(done: Path):
    read = load_scores(done / "out")
    names = {"flexible", "strict_t1", "flexible_t1", "pass_at_2"}
    points = read.along["tutor"][0]
    assert [set(point.secondary["arithmetic"]) for point in points] == [names] * 3
    assert [len(scores) for point in points for scores in point.secondary["arithmetic"].values()] == [3] * 12
    end = read_jsonl(layout.evaluation(run_of(done), "arithmetic", layout.SAMPLED), SampledRow)
    assert points[-1].secondary["arithmetic"]["strict_t1"].tolist() == [sum(row.strict) / 2 for row in end[:3]]
    by_samples = secondary_study(read, "strict_t1").along["tutor"][0]
    assert [set(point.scores) for point in by_samples] == [{"arithmetic"}] * 3


def test_samples_of_a_point_draw_the_numbers_of_the_end(done: Path):
    """An adapter that is measured at a point and at the end writes the same."""
    folder, task = run_of(done), load_task("arithmetic", limit=4)
    policy = open_policy(str(run_of(done)))
    seed = seed_for(0, "sampled evaluation")
    rows = [
        sample_and_grade(policy, some_items(task, limit), num_samples=2, temperature=1.0, seed=seed)
        for limit in (None, 3)
    ]
    assert [row.completions for row in rows[0][:3]] == [row.completions for row in rows[1]]
    kept = read_jsonl(layout.evaluation(folder, "arithmetic", layout.SAMPLED), SampledRow)
    assert [row.completions for row in rows[0]] == [row.completions for row in kept]


def test_fewer_items_are_those_that_a_limit_of_the_task_would_give():
    for name in ("arithmetic", "facts", "exam"):
        some = some_items(load_task(name, data_dir=None, limit=60), 20)
        fewer = load_task(name, data_dir=None, limit=20)
        assert getattr(some, "items", None) == getattr(fewer, "items", None)
        assert getattr(some, "test", None) == getattr(fewer, "test", None)


def test_what_a_measured_run_holds_is_sealed(done: Path):
    folder = run_of(done)
    listed = set(read_manifest(folder).files)
    assert {"along.jsonl", "along/step2/facts.jsonl", "checkpoint-3/adapter_config.json"} <= listed
    assert changes(folder) == []


def test_a_kept_adapter_is_that_of_a_run_that_ends_there_and_keeping_changes_nothing(tmp_path: Path):
    def trained(name: str, *more: str) -> Path:
        args = [
            "--model",
            "embedded",
            "--task",
            "arithmetic",
            "--batch-prompts",
            "2",
            "--train-items",
            "8",
            "--lr",
            "1e-3",
        ]
        small = [
            "--schedule",
            "constant",
            "--lora.rank",
            "2",
            "--device",
            "cpu",
            "--quiet",
            "--out",
            str(tmp_path / name),
        ]
        assert main(["train", "sft", *args, *small, *more]) == 0
        return tmp_path / name

    four = trained("four", "--steps", "4", "--along", "2")
    two, plain = trained("two", "--steps", "2"), trained("plain", "--steps", "4")
    assert list(layout.kept_checkpoints(four)) == [2]
    assert layout.kept_checkpoints(plain) == {}
    kept, ended = load_file(layout.kept_checkpoint(four, 2) / TENSORS), load_file(two / layout.ADAPTER / TENSORS)
    assert kept.keys() == ended.keys()
    for name in kept:
        torch.testing.assert_close(kept[name], ended[name], rtol=1e-4, atol=1e-6)
    assert (four / layout.ADAPTER / TENSORS).read_bytes() == (plain / layout.ADAPTER / TENSORS).read_bytes()


def test_peft_reads_a_kept_adapter_as_it_is(done: Path):
    place = layout.kept_checkpoint(run_of(done), 3)
    model = open_weights("embedded", ModelSettings(device="cpu")).model
    wrapped = peft.PeftModel.from_pretrained(model, str(place))
    stored = load_file(place / TENSORS)
    loaded = peft.get_peft_model_state_dict(wrapped)
    assert stored.keys() == loaded.keys()
    assert all(torch.equal(stored[name], loaded[name].cpu()) for name in stored)
    assert base_folder().is_dir()


def test_eval_takes_a_kept_adapter(done: Path, tmp_path: Path):
    place = layout.kept_checkpoint(run_of(done), 3)
    args = ["--task", "facts", "--limit", "3", "--out", str(tmp_path / "o"), "--device", "cpu", "--quiet"]
    assert main(["eval", str(place), *args]) == 0
    own = read_jsonl(layout.along_rows(run_of(done), 3, "facts"), EvalRow)
    again = read_jsonl(layout.evaluation(tmp_path / "o", "facts"), EvalRow)
    for ours, theirs in zip(own, again, strict=True):
        assert ours.option_logps == pytest.approx(theirs.option_logps, abs=1e-3)


def findings(folder: Path) -> dict[str, Any]:
    """Everything the run found out on its way, without seconds."""
    run = run_of(folder)
    names = ["along.jsonl", *(str(p.relative_to(run)) for p in run.glob("along/step*/*.jsonl"))]
    names += [str(path.relative_to(run)) for path in run.glob(f"checkpoint-*/{TENSORS}")]
    return {name: (run / name).read_bytes() for name in sorted(names)}


@pytest.mark.parametrize(
    ("place", "call"),
    [
        ("stateshape.study.along.write_jsonl", 1),  # before the first rows
        pytest.param("stateshape.study.along.write_jsonl", 3, marks=pytest.mark.slow),  # before the first line
        ("stateshape.study.along.write_jsonl", 7),  # before the last line
        pytest.param("stateshape.train.loop.keep_adapter", 2, marks=pytest.mark.slow),
        ("stateshape.train.loop.save_checkpoint", 3),  # kept, and not yet a checkpoint
    ],
)
def test_stopped_anywhere_it_goes_on_to_the_same_results(
    place: str, call: int, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tiny.stop_at(place, call, monkeypatch)
    assert study(done / "tiny.yaml", tmp_path / "out") == 130
    monkeypatch.undo()
    assert study(done / "tiny.yaml", tmp_path / "out") == 0
    assert findings(tmp_path) == findings(done)


def test_what_was_kept_after_the_last_checkpoint_is_forgotten(tmp_path: Path):
    learner = tiny.learner(tiny.weights())
    for step in (2, 4, 8):
        keep_adapter(tmp_path, learner, step)
    (tmp_path / ".checkpoint-9.tmp").mkdir()
    (tmp_path / "checkpoint-9.pt").touch()
    forget_kept_after(tmp_path, 4)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-2", "checkpoint-4", "checkpoint-9.pt"}


def test_an_adapter_that_is_not_written_whole_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    learner = tiny.learner(tiny.weights())

    def half(name: str, folder: Path) -> None:
        folder.mkdir()
        (folder / "adapter_config.json").write_text("{")
        raise KeyboardInterrupt

    monkeypatch.setattr(learner.weights, "save_adapter", half)
    with pytest.raises(KeyboardInterrupt):
        keep_adapter(tmp_path, learner, 2)
    assert list(tmp_path.iterdir()) == []


BY_KL = TEXT.replace("points: 3", "points: 3, spacing: kl")


@pytest.fixture(scope="module")
def by_kl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("by_kl")
    (folder / "tiny.yaml").write_text(BY_KL, encoding="utf-8")
    assert study(folder / "tiny.yaml", folder / "out") == 0
    return folder


def test_points_by_kl_are_chosen_among_measured_candidates(by_kl: Path):
    folder = run_of(by_kl)
    measured = read_jsonl(folder / layout.ALONG_CANDIDATES, DoseRecord)
    assert [record.step for record in measured] == [1, 2, 3, 4, 5]
    points = read_jsonl(folder / layout.ALONG, DoseRecord)
    assert [record.step for record in points] == [*chosen_by_kl(measured, 3), 5]
    assert all(0 < record.num_states < 20 for record in measured)  # an eighth of the rollouts
    assert all(record.num_states == 20 for record in points)
    chosen = [record.step for record in points[:-1]]
    assert list(layout.kept_checkpoints(folder)) == chosen
    assert all(layout.along_rows(folder, step, "facts").exists() for step in chosen)
    assert {path.name for path in (folder / layout.ALONG_ROWS).iterdir()} == {f"step{step}" for step in chosen}
    assert "along_candidates.jsonl" in read_manifest(folder).files


AROUND = BY_KL.replace("points: 3", "points: 2, around: [MIDDLE]")


@pytest.fixture(scope="module")
def around(by_kl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that encloses the KL half-way between two steps of the same run."""
    second, third = read_jsonl(run_of(by_kl) / layout.ALONG_CANDIDATES, DoseRecord)[1:3]
    middle = (second.doses["forward_kl_new_task_nats"] + third.doses["forward_kl_new_task_nats"]) / 2
    folder = tmp_path_factory.mktemp("around")
    (folder / "tiny.yaml").write_text(AROUND.replace("MIDDLE", str(middle)), encoding="utf-8")
    assert study(folder / "tiny.yaml", folder / "out") == 0
    return folder


def test_a_kl_is_enclosed_by_two_steps_whose_distances_are_known_for_sure(around: Path):
    folder, kl = run_of(around), "forward_kl_new_task_nats"
    asked = read_study_file(str(around / "tiny.yaml")).along
    assert asked is not None
    measured = read_jsonl(folder / layout.ALONG_CANDIDATES, DoseRecord)
    assert [record.step for record in measured] == [1, 2, 3, 4, 5]  # one line each, also of those measured twice
    first, second = enclosed(measured, asked.around[0])
    assert second.step == first.step + 1
    assert first.num_states == second.num_states == 20
    points = {record.step: record for record in read_jsonl(folder / layout.ALONG, DoseRecord)}
    assert points[first.step] == first
    assert points[second.step] == second
    assert first.doses[kl] < asked.around[0] <= second.doses[kl]
    assert list(layout.kept_checkpoints(folder)) == sorted(points)[:-1] == chosen_by_kl(measured, 2, asked.around)


# before a rough distance, an exact one, and a point's rows
@pytest.mark.parametrize("call", [7, *(pytest.param(call, marks=pytest.mark.slow) for call in (3, 9))])
def test_points_by_kl_are_the_same_where_it_was_stopped(
    call: int, around: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tiny.stop_at("stateshape.study.along.write_jsonl", call, monkeypatch)
    assert study(around / "tiny.yaml", tmp_path / "out") == 130
    monkeypatch.undo()
    assert study(around / "tiny.yaml", tmp_path / "out") == 0
    assert findings(tmp_path) == findings(around)


@pytest.mark.parametrize(
    ("along", "told"),
    [
        ("around: [0.1]", "along around: got [0.1] with spacing doubling; expected spacing: kl"),
        ("spacing: kl, around: [0]", "along around: got 0; expected KLs above 0, in nats"),
    ],
)
def test_a_kl_to_enclose_that_makes_no_sense_is_refused(along: str, told: str, tmp_path: Path):
    (tmp_path / "slip.yaml").write_text(TEXT.replace("points: 3", f"points: 3, {along}"), encoding="utf-8")
    with pytest.raises(BadInput, match=re.escape(told)):
        read_study_file(str(tmp_path / "slip.yaml"))


def test_adapters_that_are_not_to_be_kept_are_gone_once_measured(done: Path, tmp_path: Path):
    file = tmp_path / "tiny.yaml"
    file.write_text(TEXT.replace("points: 3", "points: 3, keep: false"), encoding="utf-8")
    assert study(file, tmp_path / "out") == 0
    assert layout.kept_checkpoints(run_of(tmp_path)) == {}
    kept = {name: value for name, value in findings(done).items() if not name.startswith("checkpoint")}
    assert findings(tmp_path) == kept
    assert study(done / "tiny.yaml", tmp_path / "out") == 0  # the same plan


def test_an_adapter_that_is_gone_before_it_was_measured_is_named(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def stopping(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stateshape.study.along.write_jsonl", stopping)
    assert study(done / "tiny.yaml", tmp_path / "out") == 130
    monkeypatch.undo()
    place = layout.kept_checkpoint(run_of(tmp_path), 2)
    place.rename(tmp_path / "elsewhere")
    capsys.readouterr()
    assert study(done / "tiny.yaml", tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert f"{place}: is gone before it was measured" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("{points: 0}", "along points: got 0; expected at least 1"),
        ("{limit: 0}", "along limit: got 0; expected at least 1"),
        ("{positions: -1}", "along positions: got -1; expected at least 1"),
        ("{steps: 3}", "along"),
    ],
)
def test_choices_that_make_no_sense_are_refused(
    given: str, wanted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "tiny.yaml"
    file.write_text(f"along: {given}\n" + tiny.study_text("tutor: {recipe: sft}"), encoding="utf-8")
    assert study(file, tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert wanted in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


# Several samples per item


def test_several_samples_per_item_are_a_second_evaluation(tmp_path: Path):
    args = ["--task", "arithmetic", "--limit", "5", "--out", str(tmp_path / "o"), "--device", "cpu", "--quiet"]
    assert main(["eval", "embedded", *args, "--samples", "3", "--temperature", "0.7"]) == 0
    rows = [
        json.loads(line)
        for line in layout.evaluation(tmp_path / "o", "arithmetic", layout.SAMPLED).read_text().splitlines()
    ]
    greedy = read_jsonl(layout.evaluation(tmp_path / "o", "arithmetic"), EvalRow)
    assert [row["item_id"] for row in rows] == [row.item_id for row in greedy]
    assert all(len(row[name]) == 3 for row in rows for name in ("strict", "flexible", "completions", "finishes"))
    summary = json.loads(layout.summary(tmp_path / "o", layout.SAMPLED).read_text())["arithmetic"]
    share = sum(sum(row["strict"]) / 3 for row in rows) / 5
    assert summary["strict_t0.7"]["value"] == pytest.approx(share)
    assert summary["pass_at_3"]["value"] == pytest.approx(sum(any(row["strict"]) for row in rows) / 5)
    assert (summary["evaluation"]["num_samples"], summary["evaluation"]["temperature"]) == (3, 0.7)


def test_another_number_of_samples_does_not_replace_them_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    args = ["--task", "arithmetic", "--limit", "2", "--out", str(tmp_path / "o"), "--device", "cpu", "--quiet"]
    assert main(["eval", "embedded", *args, "--samples", "2"]) == 0
    assert main(["eval", "embedded", *args, "--samples", "3"]) == 2
    assert "num_samples: 2 there, 3 now" in capsys.readouterr().err
    assert main(["eval", "embedded", *args, "--samples", "3", "--overwrite"]) == 0
    assert main(["eval", "embedded", *args]) == 0  # the greedy one is another file


@pytest.mark.parametrize(
    ("task", "given", "wanted"),
    [
        ("facts", ["--samples", "2"], "which is multiple choice"),
        ("arithmetic", ["--samples", "0"], "samples n: got 0; expected at least 1"),
        (
            "arithmetic",
            ["--samples", "2", "--temperature", "0"],
            "samples temperature: got 0.0; expected a number above 0",
        ),
    ],
)
def test_samples_that_make_no_sense_are_refused(
    task: str, given: list[str], wanted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["eval", "embedded", "--task", task, "--out", str(tmp_path / "o"), *given]) == 2
    told = capsys.readouterr().err
    assert wanted in told
    assert told.count("\n") == 1


def test_a_task_is_scored_by_the_reading_that_its_file_chooses(tmp_path: Path):
    """In scores, in the records that tables are made from, and in the default reward."""
    text = tiny.study_text("tutor: {recipe: sft}")
    file = parse_study(text.replace("{task: arithmetic,", "{task: arithmetic, metric: flexible,"), tmp_path)
    target, _facts = load_tasks(file, None)
    assert target.metric == task_record(target).metric == "flexible"
    assert load_tasks(parse_study(text, tmp_path), None)[0].metric == "strict"
    item = target.train[0]
    assert target.is_right(f"It is {item.gold}.", item)
    assert plan_sha256(file, []) != plan_sha256(parse_study(text, tmp_path), [])


def parse_study(text: str, folder: Path) -> StudyFile:
    (folder / "read.yaml").write_text(text, encoding="utf-8")
    return read_study_file(str(folder / "read.yaml"))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("samples: {n: 2}", "samples: got some for facts, a multiple-choice task"),
        ("metric: strict", "metric: got strict for facts, which is scored by mc1"),
    ],
)
def test_what_only_free_text_has_is_refused_of_multiple_choice_in_a_study_file(
    given: str, wanted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "tiny.yaml"
    text = tiny.study_text("tutor: {recipe: sft}").replace("{task: facts, limit: 8}", f"{{task: facts, {given}}}")
    file.write_text(text, encoding="utf-8")
    assert study(file, tmp_path / "out") == 2
    assert wanted in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

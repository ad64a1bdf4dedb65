"""Steps made together hold the rows that each has alone; which methods that is possible for; and what a run makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from stateshape.core.files import read_jsonl
from stateshape.core.method import Combination, Draw, Method, Term, terms_of
from stateshape.core.records import StepRecord
from stateshape.losses.cross_entropy import CrossEntropy
from stateshape.policy.policy import Policy
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import Call, Completion, SamplingSettings, sample_several
from stateshape.signals.continuation import OwnContinuation, TeacherContinuation
from stateshape.signals.gold import GoldTokens, TeacherTokens
from stateshape.states.cuts import Cut
from stateshape.states.dataset import DatasetStates
from stateshape.states.other_prompts import OtherPrompts
from stateshape.states.sampled import LearnerStates, TeacherStates
from stateshape.train import loop
from stateshape.train.drawing import Ahead, draw_states, read_signals, steps_together
from stateshape.train.loop import draw_for, train
from stateshape.train.settings import TrainSettings

ITEMS = {item.item_id: item for item in tiny.task().train}
IDS = tuple(ITEMS)
NUM_STEPS = 7
SETTINGS = SamplingSettings(max_new_tokens=8, batch_rows=6)  # three steps of two prompts


class Counting(LocalSampler):
    """Keeps how many prompts each call holds."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[int]] = []

    def sample_calls(
        self, policy: Policy, calls: Any, settings: SamplingSettings, progress: Any = None
    ) -> list[Completion]:
        self.calls.append([len(call.prompts) for call in calls])
        return super().sample_calls(policy, calls, settings, progress)


class Alone:
    """A sampler that has no way to run calls together."""

    def __init__(self) -> None:
        self.own = LocalSampler()

    def sample(self, *args: Any, **kwargs: Any) -> list[Completion]:
        return self.own.sample(*args, **kwargs)


@pytest.fixture(scope="module")
def learner() -> Policy:
    return tiny.learner(tiny.weights(dtype=torch.float64), size=0.1)


@pytest.fixture(scope="module")
def teacher(learner: Policy) -> Policy:
    return tiny.teacher(learner.weights)


def method(states: Any, signal: Any) -> Method:
    return Method(states=states, signal=signal, loss=CrossEntropy())


def sources(teacher: Policy, sampler: Any) -> dict[str, Any]:
    drawn = {"items": ITEMS, "sampler": sampler, "settings": SETTINGS, "cut": Cut(low=0.2, high=0.8)}
    return {
        "teacher": TeacherStates(teacher=teacher, **drawn),
        "frozen": LearnerStates(prefixes="frozen", **drawn),
        "dataset": DatasetStates(items=ITEMS, cut=Cut(low=0.2, high=0.8)),
        "learner": LearnerStates(**drawn),
        "uncertain": DatasetStates(items=ITEMS, cut=Cut(at="entropy")),  # where the learner is: not known ahead
        "others": OtherPrompts(source=TeacherStates(teacher=teacher, **drawn), num_prompts=2),
    }


def continuation(teacher: Policy, sampler: Any) -> TeacherContinuation:
    return TeacherContinuation(teacher=teacher, sampler=sampler, settings=SETTINGS)


def draw_at(step: int) -> Draw:
    return draw_for(IDS, batch=2, step=step, seed=5, num_steps=NUM_STEPS)


def made(method: Method | Combination, learner: Policy, ahead: Ahead | None, step: int) -> dict[str, Any]:
    terms = terms_of(method)
    drawn = draw_states(terms, learner, draw_at(step), ahead)
    return read_signals(terms, learner, drawn, ahead)


def is_same(one: Any, other: Any) -> bool:
    """Rows, what is supervised, and log-probs up to rounding."""
    (mine, theirs) = (found.states.trajectories() for found in (one, other))
    logps = [
        torch.tensor([value if value is not None else 0.0 for row in rows for value in row.logps], dtype=torch.float64)
        for rows in (mine, theirs)
    ]
    return (
        [(row.item_id, row.ids, row.origins, row.finish) for row in mine]
        == [(row.item_id, row.ids, row.origins, row.finish) for row in theirs]
        and torch.equal(one.supervise_BT, other.supervise_BT)
        and torch.allclose(*logps, atol=1e-9)
    )


@pytest.mark.parametrize("source", ["teacher", "frozen", "dataset", "others"])
def test_steps_made_together_hold_what_each_holds_alone(source: str, learner: Policy, teacher: Policy):
    sampler = Counting()
    one = method(sources(teacher, sampler)[source], continuation(teacher, sampler))
    ahead = Ahead(draw_at, num_prompts=2)
    together = [made(one, learner, ahead, step)[""] for step in range(NUM_STEPS)]
    num_calls = 1 if source == "dataset" else 2
    assert sampler.calls == [[2, 2, 2]] * num_calls + [[2, 2, 2]] * num_calls + [[2]] * num_calls
    alone = [made(one, learner, None, step)[""] for step in range(NUM_STEPS)]
    assert all(map(is_same, together, alone))
    assert not is_same(alone[0], alone[1])  # such a comparison can fail


@pytest.mark.parametrize("source", ["learner", "uncertain"])
def test_states_in_which_the_learner_has_a_part_wait_for_their_step(source: str, learner: Policy, teacher: Policy):
    sampler = Counting()
    one = method(sources(teacher, sampler)[source], continuation(teacher, sampler))
    assert steps_together(one, num_prompts=2) == 1
    ahead = Ahead(draw_at, num_prompts=2)
    for step in range(3):
        made(one, learner, ahead, step)
    assert {len(call) for call in sampler.calls} == {1}


def test_so_does_a_signal_of_the_learners_own(learner: Policy, teacher: Policy):
    for writer, sizes in (("learner", {1}), ("base", {3})):
        sampler = Counting()
        signal = OwnContinuation(writer=writer, sampler=sampler, settings=SETTINGS)
        ahead = Ahead(draw_at, num_prompts=2)
        for step in range(3):
            made(method(sources(teacher, LocalSampler())["teacher"], signal), learner, ahead, step)
        assert {len(call) for call in sampler.calls} == sizes


def test_a_run_that_resumes_makes_the_same_batches(learner: Policy, teacher: Policy):
    whole, resumed = Counting(), Counting()
    for sampler, first in ((whole, 0), (resumed, 4)):
        one = method(sources(teacher, sampler)["teacher"], TeacherTokens())
        ahead = Ahead(draw_at, num_prompts=2)
        for step in range(first, NUM_STEPS):
            draw_states(terms_of(one), learner, draw_at(step), ahead)
    assert whole.calls == [[2, 2, 2], [2, 2, 2], [2]]
    assert resumed.calls == [[2, 2, 2], [2]]  # steps 3 to 5 again, though 3 is over


def test_a_term_gets_its_share_of_every_step(learner: Policy, teacher: Policy):
    def is_even(item_id: str) -> bool:
        return int(item_id.removeprefix("item")) % 2 == 0

    sampler = LocalSampler()
    one = method(sources(teacher, sampler)["teacher"], continuation(teacher, sampler))
    both = Combination(terms={"even": Term(method=one, takes=is_even), "all": Term(method=one)})
    ahead = Ahead(draw_at, num_prompts=2)
    for step in range(NUM_STEPS):
        together, alone = made(both, learner, ahead, step), made(both, learner, None, step)
        assert together.keys() == alone.keys()
        assert all(is_same(together[name], alone[name]) for name in alone)


def test_a_sampler_that_can_not_batch_is_asked_step_by_step(learner: Policy):
    prompts = [learner.encode_prompt(item.prompt) for item in ITEMS.values()]
    calls = [Call(prompts[:2], 1), Call(prompts[2:3], 2), Call([], 3)]
    ours, theirs = (sample_several(one, learner, calls, SETTINGS) for one in (LocalSampler(), Alone()))
    assert [[row.ids for row in rows] for rows in ours] == [[row.ids for row in rows] for rows in theirs]
    assert [len(rows) for rows in ours] == [2, 1, 0]


def test_a_full_batch_of_prompts_is_one_step(teacher: Policy):
    one = method(sources(teacher, LocalSampler())["teacher"], continuation(teacher, LocalSampler()))
    assert [steps_together(one, num_prompts=n) for n in (1, 2, 4, 6, 60)] == [6, 3, 1, 1, 1]
    gold = method(DatasetStates(items=ITEMS), GoldTokens())
    assert steps_together(gold, num_prompts=1) == 1  # nothing is sampled


def test_training_is_the_same_with_and_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def losses(folder: str) -> list[float | None]:
        weights = tiny.weights(dtype=torch.float64)
        learner = tiny.learner(weights)
        teacher = tiny.teacher(weights)
        one = method(sources(teacher, LocalSampler())["teacher"], continuation(teacher, LocalSampler()))
        settings = TrainSettings(steps=4, batch_prompts=2, lr=1e-2, lora=tiny.LORA)
        (tmp_path / folder).mkdir()
        train(one, learner, IDS, settings, seed=5, folder=tmp_path / folder)
        return [record.loss for record in read_jsonl(tmp_path / folder / "metrics.jsonl", StepRecord)]

    together = losses("together")
    monkeypatch.setattr(loop, "Ahead", lambda draw_at, num_prompts: None)
    assert losses("alone") == pytest.approx(together, rel=1e-9)

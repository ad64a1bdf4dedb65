"""Schedules, mixtures of writers with their realised shares, and states that are kept beyond their step."""

import random
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest

import tiny
from stateshape.core.files import BadInput, read_jsonl
from stateshape.core.method import Draw
from stateshape.core.states import Origin, Trajectory, origin_shares
from stateshape.states.kept import Aggregated, EveryEpoch
from stateshape.states.mixtures import DatasetOrLearner, TeacherOrLearner, turns
from stateshape.states.sampled import LearnerStates, TeacherStates
from stateshape.states.schedules import Schedule

DRAW = Draw(item_ids=("item0", "item1", "item2", "item3"), step=0, seed=3, num_steps=11)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule(value=0.3), [0.3] * 11),
        (Schedule(kind="first", value=1.0, every=2), [1.0] * 2 + [0.0] * 9),
        (Schedule(kind="power", value=0.5, every=4), [1.0] * 4 + [0.5] * 4 + [0.25] * 3),
        (Schedule(kind="linear", value=1.0, end=0.0), [1 - k / 10 for k in range(11)]),
    ],
)
def test_schedules_by_hand(schedule, expected):
    assert [schedule.at(step, 11) for step in range(11)] == pytest.approx(expected)


def test_a_schedule_of_your_own(tmp_path):
    (tmp_path / "mine.py").write_text(
        "def half(step, steps): return step / steps\ndef odd(step, steps): return 2\ndef none(*_): pass\n"
    )
    assert Schedule(kind=f"{tmp_path / 'mine.py'}:half").at(3, 6) == 0.5
    with pytest.raises(BadInput, match=r"gave 2 at step 1; expected a share between 0 and 1"):
        Schedule(kind=f"{tmp_path / 'mine.py'}:odd").at(1, 6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"kind": "cosine"}, "expected constant"), ({"value": 1.5}, "share between"), ({"every": 0}, "at least 1")],
)
def test_a_schedule_that_is_none_is_refused(fields, message):
    with pytest.raises(BadInput, match=message):
        Schedule(**fields)


# Turns


def test_turns_by_unit():
    rng = random.Random(0)
    assert turns(1.0, "sequence", 9, rng) == [(Origin.TEACHER, 9)]
    assert turns(0.0, "sequence", 9, rng) == [(Origin.LEARNER, 9)]
    assert turns(0.25, "prefix", 8, rng) == [(Origin.TEACHER, 2), (Origin.LEARNER, 6)]
    assert turns(1.0, "prefix", 8, rng) == [(Origin.TEACHER, 8)]
    made = turns(0.3, "token", 5000, rng)
    assert sum(size for _, size in made) == 5000
    assert sum(size for who, size in made if who == Origin.TEACHER) / 5000 == pytest.approx(0.3, abs=0.03)
    assert all(a[0] != b[0] for a, b in pairwise(made))


class Spelling:
    """Each writer repeats its own token; a row ends when `stop_after` tokens were written in one call."""

    def __init__(self, tokens, stop_after=None):
        self.tokens, self.stop_after = tokens, stop_after

    def sample(self, policy, prompts, settings, *, seed, progress=None):
        size = settings.max_new_tokens
        if self.stop_after is not None and size >= self.stop_after:
            return [SimpleNamespace(ids=[self.tokens[policy]] * self.stop_after, logps=[-1.0] * self.stop_after, finish="eos")
                    for _ in prompts]  # fmt: skip
        return [
            SimpleNamespace(ids=[self.tokens[policy]] * size, logps=[-1.0] * size, finish="length") for _ in prompts
        ]


def mixture(unit, beta, *, stop_after=None, samples=1, tokens=40):
    shared = tiny.weights()
    learner, teacher = tiny.learner(shared), tiny.teacher(shared)
    parts = tiny.parts(teacher)
    source = TeacherOrLearner(
        items=parts.items,
        sampler=Spelling({learner: 5, teacher: 6}, stop_after),
        settings=parts.sampling(tokens, samples=samples),
        teacher=teacher,
        beta=Schedule(value=beta),
        unit=unit,
    )
    return source, learner


@pytest.mark.parametrize("unit", ["sequence", "prefix", "token"])
def test_every_token_says_who_wrote_it_and_the_shares_are_the_schedules(unit):
    source, learner = mixture(unit, 0.5, samples=60)
    states = source.draw(learner, DRAW)
    for row in states.trajectories():
        response = list(zip(row.ids, row.origins, strict=True))[row.prompt_length :]
        assert len(response) == 40
        assert set(response) <= {(5, Origin.LEARNER), (6, Origin.TEACHER)}
    assert origin_shares([states])["teacher"] == pytest.approx(0.5, abs=0.1)


def test_the_prefix_is_the_teachers_and_the_rest_the_learners():
    source, learner = mixture("prefix", 0.25)
    for row in source.draw(learner, DRAW).trajectories():
        assert row.ids[row.prompt_length :] == [6] * 10 + [5] * 30


def test_a_row_that_ended_takes_no_further_turn():
    source, learner = mixture("prefix", 0.25, stop_after=10)
    for row in source.draw(learner, DRAW).trajectories():
        assert row.ids[row.prompt_length :] == [6] * 10
        assert row.finish == "eos"


def test_real_policies_write_with_their_own_log_probs():
    shared = tiny.weights()
    learner, teacher = tiny.learner(shared, size=0.1), tiny.teacher(shared)
    parts = tiny.parts(teacher)
    source = TeacherOrLearner(
        items=parts.items, sampler=parts.sampler, settings=parts.sampling(8), teacher=teacher,
        beta=Schedule(value=0.5), unit="token",
    )  # fmt: skip
    states = source.draw(learner, DRAW)
    for policy, mine, other in ((learner, Origin.LEARNER, Origin.TEACHER), (teacher, Origin.TEACHER, Origin.LEARNER)):
        hidden_BTD = tiny.hidden(policy, states.ids_BT, states.lengths_B)
        logp_BTV = (hidden_BTD @ policy.head.weight_VD.T).log_softmax(-1)
        scored = logp_BTV[:, :-1].gather(-1, states.ids_BT[:, 1:, None])[..., 0].detach()
        off = (scored - states.behaviour_logp_BT[:, 1:]).abs()
        assert off[states.written_by(mine)[:, 1:]].max() < 1e-4
        assert off[states.written_by(other)[:, 1:]].max() > 1e-2


def test_dataset_or_learner_mixes_rows():
    shared = tiny.weights()
    learner = tiny.learner(shared)
    parts = tiny.parts(learner)
    draw = DRAW._replace(item_ids=("item0", "item1") * 100)

    def drawn(share):
        source = DatasetOrLearner(
            items=parts.items, sampler=parts.sampler, settings=parts.sampling(6), learner_share=Schedule(value=share)
        )
        return source.draw(learner, draw).trajectories()

    for share in (0.0, 0.3, 1.0):
        rows = drawn(share)
        assert [row.item_id for row in rows] == list(draw.item_ids)
        assert [row.group for row in rows] == list(range(200))
        writers = [set(row.origins[row.prompt_length :]) for row in rows]
        assert all(len(one) == 1 for one in writers)
        assert sum(one == {Origin.LEARNER} for one in writers) / 200 == pytest.approx(share, abs=0.1)
    solutions = [row for row in drawn(0.0) if row.item_id == "item1"]
    assert learner.decode(solutions[0].ids[solutions[0].prompt_length :]) == parts.items["item1"].completion


def test_teacher_rollouts_are_the_teachers():
    shared = tiny.weights()
    learner, teacher = tiny.learner(shared), tiny.teacher(shared)
    parts = tiny.parts(teacher)
    source = TeacherStates(items=parts.items, sampler=parts.sampler, settings=parts.sampling(6), teacher=teacher)
    states = source.draw(learner, DRAW)
    assert origin_shares([states]) == {"teacher": 1.0}


def test_frozen_and_shuffled_prefixes():
    shared = tiny.weights()
    learner = tiny.learner(shared, size=0.3)
    parts = tiny.parts(learner)

    def rows(prefixes, adapter_size=None):
        source = LearnerStates(items=parts.items, sampler=parts.sampler, settings=parts.sampling(6), prefixes=prefixes)
        assert source.policy_version(DRAW._replace(step=4)) == (0 if prefixes == "frozen" else 4)
        return source.draw(learner, DRAW).trajectories()

    own, frozen, shuffled = rows("refreshed"), rows("frozen"), rows("shuffled")
    tiny.fill(shared, "learner", seed=9, size=0.5)
    assert rows("refreshed") != own
    assert rows("frozen") == frozen
    for k, row in enumerate(shuffled):
        other = own[(k + 1) % len(own)]
        assert row.ids == [*own[k].ids[: own[k].prompt_length], *other.ids[other.prompt_length :]]
        assert set(row.logps) == {None}


def test_shuffled_prefixes_are_of_other_prompts():
    learner = tiny.learner(tiny.weights(), size=0.3)
    parts = tiny.parts(learner)

    def rows(prefixes, draw):
        settings = parts.sampling(6, samples=3)
        source = LearnerStates(items=parts.items, sampler=parts.sampler, settings=settings, prefixes=prefixes)
        return source.draw(learner, draw).trajectories()

    own = rows("refreshed", DRAW)
    for k, row in enumerate(rows("shuffled", DRAW)):
        other = own[(k + 3) % len(own)]
        assert other.item_id != row.item_id
        assert row.ids[row.prompt_length :] == other.ids[other.prompt_length :]
    with pytest.raises(BadInput, match="prefixes: got 'shuffled' and a step with one prompt"):
        rows("shuffled", DRAW._replace(item_ids=DRAW.item_ids[:1]))


def test_a_stop_that_two_writers_wrote_together_ends_the_row():
    """Token by token, a stop text of several tokens is seldom written in one turn."""
    shared = tiny.weights()
    learner, teacher = tiny.learner(shared), tiny.teacher(shared)
    parts = tiny.parts(teacher)

    def rows(stops):
        settings = replace(parts.sampling(32, samples=8), stops=stops)
        source = TeacherOrLearner(
            items=parts.items, sampler=parts.sampler, settings=settings, teacher=teacher, unit="token",
            beta=Schedule(value=0.5),
        )  # fmt: skip
        return source.draw(learner, DRAW).trajectories()

    texts = [learner.decode(row.response) for row in rows(())]
    pieces = Counter(text[i : i + 3] for text in texts for i in range(len(text) - 2))
    stop = pieces.most_common(1)[0][0]
    found = [row for row in rows((stop,)) if stop in learner.decode(row.response)]
    assert len(found) >= 2
    for row in found:
        assert row.finish == "stop"
        assert stop not in learner.decode(row.response[:-1]), "nothing is written behind it"


# Kept


def rollouts(parts):
    return LearnerStates(items=parts.items, sampler=parts.sampler, settings=parts.sampling(6, samples=2))


def test_an_epochs_states_are_those_of_its_beginning(tmp_path):
    shared = tiny.weights()
    learner = tiny.learner(shared, size=0.1)
    parts = tiny.parts(learner, folder=tmp_path)
    source = EveryEpoch(source=rollouts(parts), item_ids=parts.item_ids, folder=tmp_path)
    first = source.draw(learner, DRAW).trajectories()
    tiny.fill(shared, "learner", seed=9, size=0.5)
    assert source.draw(learner, DRAW._replace(step=1)).trajectories() == first
    later = source.draw(learner, DRAW._replace(step=2, epoch=1)).trajectories()
    assert [row.item_id for row in later] == [row.item_id for row in first]
    assert [row.ids for row in later] != [row.ids for row in first]


def test_aggregation_draws_from_all_steps_so_far(tmp_path):
    shared = tiny.weights()
    learner = tiny.learner(shared, size=0.1)
    parts = tiny.parts(learner, folder=tmp_path)
    source = Aggregated(source=rollouts(parts), folder=tmp_path)
    for step in range(4):
        drawn = source.draw(learner, DRAW._replace(step=step)).trajectories()
        files = [read_jsonl(tmp_path / "kept" / f"step-{k}.jsonl", Trajectory) for k in range(step + 1)]
        known = {tuple(row.ids): k for k, rows in enumerate(files) for row in rows}
        assert len(drawn) == 8
        steps = {known[tuple(row.ids)] for row in drawn}
    assert len(steps) > 1, "only one step's rows: nothing was aggregated"
    again = source.draw(learner, DRAW._replace(step=3)).trajectories()
    assert again == drawn, "a step done again after a kill draws the same"
    assert [replace(row, group=0) for row in drawn] != [replace(row, group=0) for row in files[3]]

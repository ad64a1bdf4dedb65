"""Several processes train as one does: every recipe, on two and on three ranks, and what needs all rows together.

In fp64, so that a difference is a mistake and not rounding. The ranks of one number do all recipes one after another.
"""

import dataclasses
import json
import time

import pytest
import torch

import tiny
from ranks_work import Job, do, do_all, start
from stateshape.core import ranks
from stateshape.core.dealt import DealtRows
from stateshape.core.states import Origin, groups_of, pack
from stateshape.recipes.names import BUILT_IN
from stateshape.record.reading import Recording
from stateshape.states.cuts import Cut
from stateshape.states.schedules import Schedule
from stateshape.train.settings import Band
from test_recipes_conformance import EXAMPLE, OWN_REWARD, record

ALL_ROWS = [
    Job("batch mean", "grpo", {"baseline": "batch-mean", "reward": OWN_REWARD}),
    Job("reference", "grpo", {"kl_coefficient": 0.5, "reward": OWN_REWARD, "reference": "t"}),
    Job(
        "sampled kl",
        "grpo",
        {"kl_coefficient": 0.5, "kl_estimator": "k2", "truncated": "mask", "baseline": "leave-one-out"},
    ),
    Job("longer than two groups", "grpo", {"ratio": "sequence", "normalise": "token-mean"}, {"batch_prompts": 2}),
    Job("entropy", "opd_continuation", {"cut": Cut(at="entropy"), "keep": "correct"}),
    Job("shuffled", "opd_continuation", {"prefixes": "shuffled"}),
    Job("token", "dagger", {"signal": "distribution", "unit": "token", "schedule": Schedule(value=0.5)}),
    Job("geometric", "dagger", {"signal": "distribution", "unit": "geometric", "schedule": Schedule(value=0.5)}),
    Job("aggregate", "dagger", {"aggregate": True, "schedule": Schedule(value=0.5)}),
    Job("budget", "opd", {}, {"supervised_per_step": 9}),
    Job("band", "sft", {}, {"band": Band(low=0.0, high=0.02)}),
    Job("protect", "opd_sft", {}, protect=True),
    Job("replayed reward", "replay", {"signal": "reward", "reward": OWN_REWARD}),
    Job("two teachers", "opd", {"teacher": "odd=t,even=t"}),
    Job("all parameters of one prompt", "sft", {}, {"batch_prompts": 1}),
]
RECIPES = [Job(name.rsplit(":")[-1], name) for name in [*BUILT_IN, EXAMPLE]]
JOBS = [*RECIPES, *ALL_ROWS]
ALL = {2: JOBS, 3: JOBS}
NAMES = {  # one of each kind of state source, signal and loss, and what needs all rows together
    2: {
        "sft",
        "grpo",
        "opd",
        "online_dpo",
        "rft",
        "SparseOPD",
        "batch mean",
        "aggregate",
        "geometric",
        "budget",
        "protect",
    },
    3: {"grpo", "aggregate"},
}
SOME = {count: [job for job in JOBS if job.name in names] for count, names in NAMES.items()}


PATIENCE_S = 600
KILLED_ALONE = dataclasses.replace(next(job for job in JOBS if job.name == "aggregate"), name="killed alone")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, worker_id):
    """Folders by number of ranks, each with a folder for every job; of "killed alone" one process did the first steps."""
    return trained_once("ranks", SOME, tmp_path_factory, worker_id)


@pytest.fixture(scope="module")
def all_trained(tmp_path_factory, worker_id):
    return trained_once("all_ranks", ALL, tmp_path_factory, worker_id)


def trained_once(name, by_count, tmp_path_factory, worker_id):
    folder = trained_together(name, lambda folder: train_all(folder, by_count), tmp_path_factory, worker_id)
    return {count: folder / str(count) for count in (1, *by_count)}


def trained_together(name, train_into, tmp_path_factory, worker_id):
    """The folder. Where several workers run tests, one of them trains, and the others wait."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / name
    try:
        folder.mkdir()
    except FileExistsError:
        until = time.monotonic() + PATIENCE_S
        while not (folder / "done").exists():
            assert time.monotonic() < until, "another worker did not train"
            time.sleep(0.2)
    else:
        train_into(folder)
        (folder / "done").touch()
    return folder


def train_all(folder, by_count):
    recorded = record(folder / "recorded", dtype=torch.float64)
    for count in by_count:
        with pytest.raises(Killed):
            do(KILLED_ALONE, folder / str(count) / KILLED_ALONE.name, recorded, on_step=raise_killed)
    jobs = {count: [*jobs, KILLED_ALONE] for count, jobs in by_count.items()}
    processes = start("do_all", (2, 3), jobs, folder, recorded)
    do_all(1, {1: by_count[2]}, folder, recorded)
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said


def each(by_count):
    found = [(job, count) for count, jobs in by_count.items() for job in jobs]
    return pytest.mark.parametrize(("job", "count"), found, ids=[f"{job.name}-{count}" for job, count in found])


class Killed(Exception):
    pass


def raise_killed(done, total, record):
    if done == 2:
        raise Killed


def steps(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@each(SOME)
def test_ranks_train_as_one_process_does(job, count, trained):
    check_training(job, count, trained)


@pytest.mark.slow
@each(ALL)
def test_ranks_train_as_one_process_does_whatever_the_recipe(job, count, all_trained):
    check_training(job, count, all_trained)
    check_records(job, count, all_trained)


def check_training(job, count, trained):
    alone, together = trained[1] / job.name, trained[count] / job.name
    for one, other in zip(steps(alone), steps(together), strict=True):
        for key in ("num_supervised", "num_rows", "origin_shares"):
            assert one[key] == other[key]
        losses = [{key: step[key] for key in ("loss", "grad_norm")} | step["stats"] for step in (one, other)]
        assert losses[0].keys() == losses[1].keys()
        for key, value in losses[0].items():
            if key.endswith("accuracy") and abs(losses[0][key.replace("accuracy", "margin_nats")]) < 1e-12:
                continue  # a share of margins above 0, all of which are 0 but for rounding
            assert losses[1][key] == (None if value is None else pytest.approx(value, rel=1e-8, abs=1e-10)), key
    adapter = torch.load(alone / "learner0.pt")
    for rank in range(count):
        for key, value in torch.load(together / f"learner{rank}.pt").items():
            torch.testing.assert_close(value, adapter[key], rtol=1e-7, atol=1e-9)


@each(SOME)
def test_the_first_rank_records_all_rows_with_the_same_tokens(job, count, trained):
    check_records(job, count, trained)


def check_records(job, count, trained):
    alone, together = (Recording(trained[n] / job.name) for n in (1, count))
    assert alone.terms == together.terms
    for step in range(alone.num_steps):
        for term in alone.terms:
            one, other = (of.rows(step, term).to_pylist() for of in (alone, together))
            for row, same in zip(one, other, strict=True):
                for column, value in row.items():
                    if isinstance(value, list) and value and isinstance(value[0], float):
                        assert same[column] == pytest.approx(value, rel=1e-4, abs=1e-6, nan_ok=True), column
                    else:
                        assert same[column] == value, column


def test_all_ranks_hold_the_same_bits(trained):
    for job in SOME[2]:
        first, second = (torch.load(trained[2] / job.name / f"learner{rank}.pt") for rank in range(2))
        assert tiny.is_same(first, second), job.name


@pytest.mark.slow
def test_a_run_that_lost_a_rank_goes_on_with_another_number_of_ranks(trained, tmp_path):
    """Killed in two processes and resumed in one, killed in one and resumed in two or three: as if nothing had happened."""
    job = next(job for job in JOBS if job.name == "aggregate")
    processes = start("do_until_killed", [2], job, tmp_path / "run", trained[1].parent / "recorded")
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode != 0 for process in processes] == [True, True]
    assert f"rank 0 (process {processes[0].pid} on " in said[1]
    do(job, tmp_path / "run", trained[1].parent / "recorded")
    whole = torch.load(trained[1] / job.name / "learner0.pt")
    for folder in (tmp_path / "run", *(trained[count] / KILLED_ALONE.name for count in (2, 3))):
        for key, value in torch.load(folder / "learner0.pt").items():
            torch.testing.assert_close(value, whole[key], rtol=1e-7, atol=1e-9)


# How work is dealt


class Of(ranks.Ranks):
    """A rank of several that never meets the others."""

    def __init__(self, number, count):
        self.number, self.count = number, count


def rows(*groups):
    """A batch with one row per number: how many tokens its response has; rows of a list are one group."""
    made = [
        tiny.row([5 + group] * 4, [7 + k] * length, Origin.LEARNER, group=group)
        for group, lengths in enumerate(groups)
        for k, length in enumerate(lengths)
    ]
    return pack(made, device="cpu")


def dealt(states, count, together=1):
    found = []
    for number in range(count):
        with ranks.using(Of(number, count)):
            found.append(DealtRows(states, states.written_by(Origin.LEARNER), together=together).rows)
    return found


def test_whole_groups_are_dealt_longest_first():
    states = rows([9, 9], [1, 1], [3, 3], [4, 4])
    assert dealt(states, 2) == [[0, 1, 2, 3], [4, 5, 6, 7]]  # 22 and 6 tokens, 12 and 10
    assert dealt(states, 1) == [list(range(8))]
    assert dealt(rows([2, 2, 2]), 2) == [[0, 1, 2], []]


def test_pairs_are_never_parted():
    states = rows([3], [3], [3], [3])  # four groups, in two pairs
    assert dealt(states, 2, together=2) == [[0, 1], [2, 3]]


def test_a_group_costs_its_distinct_tokens():
    """The prompt is computed once."""
    assert [group.num_tokens for group in groups_of(rows([2, 2, 2], [6]))] == [4 + 3 * 2, 4 + 6]


def test_what_is_read_of_own_rows_stands_at_their_places():
    states = rows([2], [1], [2])
    supervise_BT = states.written_by(Origin.LEARNER)
    with ranks.using(Of(1, 2)):
        mine = DealtRows(states, supervise_BT)
        assert mine.rows == [2]
        told = mine.read(lambda part, marks_BT: part.ids_BT[marks_BT].double(), nothing=torch.zeros(0))
    assert mine.spread(told).tolist() == [0, 0, 0, 7, 7]
    assert mine.own(torch.arange(5)).tolist() == [3, 4]


def test_work_is_shared_in_order():
    with ranks.using(Of(0, 1)) as alone:
        assert alone.shared([1, 5, 2], lambda mine: [10 * i for i in mine]) == [0, 10, 20]
    shares = [Of(number, 3).deal([5, 1, 1, 4, 2]) for number in range(3)]
    assert shares == [[0], [3], [1, 2, 4]]

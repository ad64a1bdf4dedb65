"""A base whose layers are split over the ranks trains as a whole one does, and each rank keeps its share of it alone."""

import dataclasses
import subprocess

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import tiny
from ranks_work import do, own_passes, start
from stateshape.cli import main
from stateshape.core import ranks
from stateshape.core.files import read_json
from stateshape.core.in_step import NONE, InStep
from stateshape.core.wording import BadInput
from stateshape.policy.settings import ModelSettings, check_shard
from stateshape.policy.sharding import layers_of
from test_processes import FLAGS, command
from test_ranks import JOBS, Of, check_records, check_training, trained_together
from test_recipes_conformance import record

SHARDED = ModelSettings(device="cpu", shard_base=True)


def said_by(processes):
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said


@pytest.fixture(scope="module")
def trained(tmp_path_factory, worker_id):
    return trained_sharded("sharded", [job for job in JOBS if job.name == "grpo"], (2,), tmp_path_factory, worker_id)


@pytest.fixture(scope="module")
def all_trained(tmp_path_factory, worker_id):
    return trained_sharded("all_sharded", JOBS, (2, 3), tmp_path_factory, worker_id)


def trained_sharded(name, jobs, counts, tmp_path_factory, worker_id):
    def train_all(folder):
        recorded = record(folder / "recorded", dtype=torch.float64)
        processes = start("do_sharded", counts, jobs, folder, recorded)
        for job in jobs:
            do(job, folder / "1" / job.name, recorded)
        said_by(processes)

    folder = trained_together(name, train_all, tmp_path_factory, worker_id)
    return {count: folder / str(count) for count in (1, *counts)}


def test_a_split_base_trains_as_a_whole_one(trained):
    job = next(job for job in JOBS if job.name == "grpo")
    check_training(job, 2, trained)
    check_records(job, 2, trained)
    first, second = (torch.load(trained[2] / job.name / f"learner{rank}.pt") for rank in range(2))
    assert tiny.is_same(first, second)


def test_each_rank_keeps_its_share_of_the_layers(trained):
    for rank in range(2):
        told = read_json(trained[2] / f"kept{rank}.json", dict)
        (kept, whole), (around, whole_around) = told["layers"], told["around"]
        assert kept == whole / 2  # whose sizes are all even
        assert around == whole_around  # embedding, last norm and head


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("job", JOBS, ids=[job.name for job in JOBS])
def test_a_split_base_trains_as_a_whole_one_whatever_the_recipe(job, count, all_trained):
    check_training(job, count, all_trained)
    check_records(job, count, all_trained)


def test_ranks_may_be_at_different_passes(trained):
    for number in range(2):
        expected = own_passes(number)
        for got, wanted in zip(torch.load(trained[2] / f"passes{number}.pt"), expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)


# Which layer is put together


class Noted:
    """A layer that notes what happens to it."""

    def __init__(self, name, notes, *, is_whole=False):
        self.name, self.notes, self.whole = name, notes, is_whole

    def is_whole(self):
        return self.whole

    def put_together(self):
        assert not self.whole
        self.whole = True
        self.notes.append(f"+{self.name}")

    def let_go(self):
        assert self.whole
        self.whole = False
        self.notes.append(f"-{self.name}")


def in_step(monkeypatch, *others, whole=()):
    """Of three layers; others: what the lowest of the other ranks asks for each time."""
    notes, made, asked = [], InStep(), iter(others)
    for name in range(3):
        made.add(Noted(name, notes, is_whole=name in whole))
    monkeypatch.setattr("stateshape.core.in_step.lowest", lambda wanted: min(wanted, next(asked)))
    return made, notes


def test_who_lags_behind_is_helped_first(monkeypatch):
    made, notes = in_step(monkeypatch, 0, 1, 2)
    made.put_together(2)
    assert notes == ["+0", "-0", "+1", "-1", "+2"]


def test_who_waits_helps_until_nobody_asks(monkeypatch):
    made, notes = in_step(monkeypatch, 2, NONE, 1)
    made.help_until_all_wait()
    assert notes == ["+2", "-2"]


def test_a_layer_that_this_rank_still_needs_stays_whole_when_it_has_helped(monkeypatch):
    made, notes = in_step(monkeypatch, 0, NONE, whole={0})
    made.put_together(1)
    assert notes == ["-0", "+0", "+1"]
    made.put_together(1)  # whole already: nobody is asked
    assert notes == ["-0", "+0", "+1"]


# What is refused


def test_one_process_has_nobody_to_share_a_base_with():
    with pytest.raises(BadInput, match=r"shard_base: got true in one process; expected several, .*; add --processes N"):
        check_shard(SHARDED)
    check_shard(ModelSettings(device="cpu"))


@pytest.mark.parametrize(
    ("choice", "is_full", "said"),
    [
        ({}, True, "with parameters full; expected lora"),
        ({"quantize": "4bit"}, False, "with quantize 4bit; expected weights in their own dtype"),
        ({"compile": True}, False, "with compile; expected one of the two"),
    ],
)
def test_what_does_not_go_with_a_split_base_is_refused(choice, is_full, said):
    with ranks.using(Of(0, 2)):
        check_shard(SHARDED)
        with pytest.raises(BadInput, match=f"shard_base: got true {said}"):
            check_shard(dataclasses.replace(SHARDED, **choice), is_full=is_full)


@pytest.mark.parametrize("args", [["train", "sft", *FLAGS], ["eval", "embedded", "--task", "arithmetic"]])
def test_it_is_refused_before_a_model_loads(args, tmp_path, monkeypatch, capsys):
    def never(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("stateshape.policy.open.read_model", never)
    assert main([*args, "--out", str(tmp_path / "run"), "--shard-base"]) == 2
    assert capsys.readouterr().err.startswith("stateshape: shard_base: got true in one process; ")


def test_a_study_is_told_that_it_runs_in_one_process(tmp_path, capsys):
    text = tiny.study_text("sft: {recipe: sft}").replace("{device: cpu}", "{device: cpu, shard_base: true}")
    (tmp_path / "study.yaml").write_text(text)
    assert main(["study", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out")]) == 2
    assert "shard_base: got true in one process" in capsys.readouterr().err


def test_a_model_without_a_list_of_layers_is_refused():
    with pytest.raises(BadInput, match="shard_base: got true for 'flat', which has no list of layers"):
        layers_of(nn.Sequential(nn.Linear(2, 2)), "flat")


def test_the_layers_are_the_outermost_list_with_the_most_parameters():
    experts = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
    layers = nn.ModuleList([nn.ModuleDict({"experts": experts})])
    model = nn.ModuleDict({"layers": layers, "heads": nn.ModuleList([nn.Linear(2, 2)])})
    assert layers_of(model, "nested") == list(layers)


# From outside


@pytest.mark.slow
def test_a_run_on_a_split_base_leaves_the_same_adapter_and_is_evaluated_alike(tmp_path):
    args = ["grpo", *FLAGS, "--steps", "3", "--group", "4", "--rollout-tokens", "8", "--dtype", "float32", "--quiet"]
    assert main(["train", *args, "--out", str(tmp_path / "whole")]) == 0
    split = ["--processes", 2, "--shard-base"]
    subprocess.run(command("train", *args, "--out", tmp_path / "split", *split), check=True)
    whole, other = (load_file(tmp_path / name / "adapter/adapter_model.safetensors") for name in ("whole", "split"))
    assert whole.keys() == other.keys()
    for key, value in whole.items():
        torch.testing.assert_close(other[key], value, rtol=1e-3, atol=1e-5)
    flags = ["--task", "arithmetic", "--limit", "12", "--device", "cpu", "--quiet"]
    assert main(["eval", str(tmp_path / "whole"), *flags, "--out", str(tmp_path / "one")]) == 0
    subprocess.run(command("eval", tmp_path / "whole", *flags, "--out", tmp_path / "two", *split), check=True)
    one, two = ((tmp_path / name / "evals" / "arithmetic.jsonl").read_text() for name in ("one", "two"))
    assert one == two

"""Runs side by side: order, threads, errors and dead processes. The runs are stand-ins; processes are real."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch

from stateshape.core.files import BadInput
from stateshape.core.progress import Silent
from stateshape.study.gpus import gpus_to_share
from stateshape.study.parallel import run_parallel
from stateshape.study.run_queue import RunDied


@dataclass(frozen=True)
class Run:
    """What `run_parallel` reads of a RunSpec."""

    name: str
    named: tuple[str, ...]

    @property
    def label(self):
        return self.name

    def needs(self):
        return list(self.named)


def spec(name, *named):
    return Run(name, named)


def note(folder: Path, run, seed):
    """Leaves begin and end times, and the threads it was given."""
    began = time.time()
    if run.name == "broken":
        raise BadInput("broken: got nothing; expected something")
    if run.name == "mad":
        raise RunDied("training diverged at step 3")
    if run.name == "dead":
        os._exit(9)
    time.sleep(0.2)
    (folder / f"{run.name}{seed}").write_text(f"{began} {time.time()} {torch.get_num_threads()}")
    return ["learned nothing"] if run.name == "other" else []


def opened(folder: Path):
    return partial(note, folder)


def times(folder, name):
    return [float(part) for part in (folder / name).read_text().split()]


def test_every_run_is_done_once_and_after_its_teacher(tmp_path):
    runs = [spec("student", "base", "teacher"), spec("teacher"), spec("alone", "a folder elsewhere")]
    run_parallel(partial(opened, tmp_path), runs, [0, 1], 2, Silent())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{run.name}{s}" for run in runs for s in (0, 1))
    for seed in (0, 1):
        assert times(tmp_path, f"student{seed}")[0] >= times(tmp_path, f"teacher{seed}")[1]
        assert times(tmp_path, f"alone{seed}")[2] == max(1, torch.get_num_threads() // 2)


NUMPY_THEN_SCIPY = """
import os, sys
import numpy
from threadpoolctl import threadpool_info
from stateshape.study.threads import take_threads
take_threads(1)
import scipy.linalg
numpy.ones((64, 64)) @ numpy.ones((64, 64)), scipy.linalg.cholesky(numpy.eye(64))
print(*sorted({library["num_threads"] for library in threadpool_info()}), os.environ["OPENBLAS_NUM_THREADS"])
"""


def test_every_library_keeps_to_its_share_of_the_threads_also_one_that_is_loaded_later():
    told = subprocess.run(
        [sys.executable, "-c", NUMPY_THEN_SCIPY],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "4", "OMP_NUM_THREADS": "4"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == ["1", "1"]


def test_a_run_that_fails_stops_the_others_with_its_own_line(tmp_path):
    with pytest.raises(BadInput, match="broken: got nothing"):
        run_parallel(partial(opened, tmp_path), [spec("broken"), spec("late", "broken")], [0], 2, Silent())
    assert not (tmp_path / "late0").exists()


class Said(Silent):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)

    def warn(self, text):
        self.lines.append(f"warning: {text}")


@pytest.mark.slow
def test_the_others_go_on_without_a_run_that_diverged(tmp_path):
    said = Said()
    runs = [spec("mad"), spec("pupil", "mad"), spec("its_pupil", "pupil"), spec("other")]
    run_parallel(partial(opened, tmp_path), runs, [0], 2, said)
    assert [path.name for path in tmp_path.iterdir()] == ["other0"]
    dead = [line for line in said.lines if "failed" in line]
    assert dead == [
        "mad, seed 0: failed; training diverged at step 3",
        "pupil, seed 0: failed; it needs mad",
        "its_pupil, seed 0: failed; it needs pupil",
    ]


@pytest.mark.slow
def test_a_runs_warnings_reach_the_one_who_waits(tmp_path):
    said = Said()
    run_parallel(partial(opened, tmp_path), [spec("other")], [0], 1, said)
    assert "warning: other, seed 0: learned nothing" in said.lines


def note_gpu(folder: Path, run, seed):
    (folder / f"{run.name}{seed}").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
    ends = time.monotonic() + 60
    while len(list(folder.iterdir())) < 2 and time.monotonic() < ends:  # so that each process gets a run
        time.sleep(0.01)
    return []


def opened_on_gpu(folder: Path):
    return partial(note_gpu, folder)


@pytest.mark.parametrize(
    ("gpus", "seen"), [(["GPU-7f", "3"], {"GPU-7f", "3"}), pytest.param(["5"], {"5"}, marks=pytest.mark.slow)]
)
def test_each_process_sees_one_gpu_and_they_take_them_in_turn(tmp_path, gpus, seen):
    run_parallel(partial(opened_on_gpu, tmp_path), [spec("a"), spec("b")], [0], 2, Silent(), gpus)
    assert {path.read_text() for path in tmp_path.iterdir()} == seen


@pytest.mark.parametrize(
    ("device", "visible", "count", "shared"),
    [
        ("auto", None, 3, ["0", "1", "2"]),
        ("cuda", "2, GPU-7f", 2, ["2", "GPU-7f"]),
        ("cuda:1", None, 3, []),  # chosen
        ("cpu", None, 3, []),
        ("auto", "1", 1, []),
        ("auto", "", 0, []),
    ],
)
def test_several_gpus_are_shared_unless_a_device_was_chosen(device, visible, count, shared, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus_to_share(device) == shared


def test_a_process_that_dies_is_told_of(tmp_path):
    with pytest.raises(BadInput, match=r"jobs: got 2 .* died"):
        run_parallel(partial(opened, tmp_path), [spec("dead")], [0, 1], 2, Silent())

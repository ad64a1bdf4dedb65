"""Executors of a cluster: lost workers, order, what a study file may ask for. Jobs of submitit run here as processes."""

import importlib.util
import os
from collections import defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from benchmarks.cluster_simulation import Run, Workers, realistic_runs, simulate

from stateshape.core.files import BadInput, parse
from stateshape.core.progress import Silent
from stateshape.study.execute_choice import ExecuteChoice, check_executor
from stateshape.study.executor import WorkerLost, drive
from stateshape.study.plan import make_plan
from stateshape.study.ray_workers import RayWorkers
from stateshape.study.run_queue import Queue, RunDied
from stateshape.study.slurm_jobs import SlurmJobs
from stateshape.study.study_file import read_study_file


class Said(Silent):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


class Flaky(Workers):
    """Loses the worker of the run "unlucky" so many times; "mad" fails by itself."""

    def __init__(self, times, retries=3):
        super().__init__(2, defaultdict(lambda: 60.0), share_lost=0.0, start_s=0.0, retries=retries, seed=0)
        self.times, self.names, self.submitted = times, {}, []

    def submit(self, items):
        handles = super().submit(items)
        self.submitted += [run.name for run, _ in items]
        self.names.update(zip(handles, [run.name for run, _ in items], strict=True))
        return handles

    def result(self, handle):
        if self.names[handle] == "mad":
            raise RunDied("training diverged")
        if self.names[handle] == "unlucky" and self.times > 0:
            self.times -= 1
            raise WorkerLost("machine gone")
        return []


def driven(executor, *runs):
    said, failed = Said(), []
    drive(Queue(runs, [0], said, lambda found: failed.__setitem__(slice(None), found)), executor, "runs", said)
    return said.lines, [one.run for one in failed]


def test_a_run_whose_worker_is_lost_is_submitted_again_and_its_student_waits():
    executor = Flaky(times=2)
    lines, failed = driven(executor, Run("unlucky"), Run("student", ("unlucky",)))
    assert executor.submitted == ["unlucky", "unlucky", "unlucky", "student"]
    assert failed == []
    assert "unlucky, seed 0: its worker was lost (machine gone); submitted again" in lines


def test_a_run_that_loses_every_worker_is_given_up_with_those_that_need_it():
    executor = Flaky(times=9, retries=1)
    lines, failed = driven(executor, Run("unlucky"), Run("student", ("unlucky",)), Run("other"))
    assert executor.submitted.count("unlucky") == 2 and "other" in executor.submitted
    assert failed == ["unlucky", "student"]
    assert "unlucky, seed 0: failed; its worker was lost 2 times; the last time: machine gone" in lines


def test_a_run_that_fails_by_itself_is_not_submitted_again():
    executor = Flaky(times=0)
    _, failed = driven(executor, Run("mad"))
    assert executor.submitted == ["mad"] and failed == ["mad"]


def order(queue, most=9):
    return [f"{run.name}{seed}" for run, seed in queue.ready(most)]


def test_the_longest_chain_of_work_comes_first_whatever_its_seed():
    runs = [Run("teacher"), Run("student", ("teacher",)), Run("short"), Run("long")]
    work = {"teacher": 2, "student": 3, "short": 1, "long": 4}
    assert order(Queue(runs, [0, 1], Silent())) == ["teacher0", "short0", "long0", "teacher1", "short1", "long1"]
    queue = Queue(runs, [0, 1], Silent(), work=lambda run: work[run.name])
    assert order(queue) == ["teacher0", "teacher1", "long0", "long1", "short0", "short1"]
    for item in queue.ready(1):
        queue.begin(*item)
        queue.done(*item)
    assert order(queue) == ["teacher1", "long0", "long1", "student0", "short0", "short1"]


def test_workers_that_die_leave_no_run_undone_and_the_others_busy():
    got = simulate(realistic_runs(), 40, 40, share_lost=0.05, start_s=30.0, retries=20, error=0.3, spread=0.15)
    assert got.num_done == got.num_runs == 2200
    assert 0.95 < got.share_busy < got.bound == 1


def test_where_runs_are_done_is_no_part_of_the_plan():
    file = read_study_file("smoke")
    there = replace(file, execute=ExecuteChoice(executor="ray", gpus=0.5))
    assert make_plan(there).sha256 == make_plan(file).sha256


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"executor": "dask"}, "executor"),
        ({"nodes": 2}, "nodes"),
        ({"cpus": 0}, "execute cpus: got 0; expected at least 1"),
        ({"gpus": -1}, "execute gpus: got -1"),
        ({"minutes": 5}, "execute minutes: got 5 with executor processes; expected executor slurm"),
        ({"executor": "ray", "partition": "gpu"}, "execute partition: got 'gpu' with executor ray"),
        ({"gpus": 1}, "execute gpus: got 1.0 with executor processes; expected executor slurm or ray"),
        ({"executor": "slurm", "gpus": 0.5}, "execute gpus: got 0.5 with slurm; expected a whole number"),
        ({"executor": "ray", "is_local": True}, "execute is_local: got true"),
    ],
)
def test_what_does_not_fit_an_executor_is_refused_in_one_line(fields, line, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(BadInput, match=line) as caught:
        check_executor(parse(fields, ExecuteChoice, where="execute"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "library"), [("slurm", "submitit"), ("ray", "ray")])
def test_a_missing_library_is_named_with_how_to_install_it(name, library, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=rf"{library} is not installed; .* pip install 'stateshape\[{name}\]'"):
        check_executor(ExecuteChoice(executor=name))


def note(folder: Path, run, seed):
    """ "dies" loses its process the first time."""
    if run.name == "mad":
        raise RunDied("training diverged")
    if run.name == "dies" and not (folder / "died").exists():
        (folder / "died").touch()
        os._exit(9)
    (folder / f"{run.name}{seed}").write_text(str(os.getpid()))
    return ["learned nothing"]


def opened(folder: Path):
    return partial(note, folder)


def check_executor_with_real_processes(executor, folder):
    lines, failed = driven(executor, Run("dies"), Run("student", ("dies",)), Run("mad"))
    assert failed == ["mad"]
    assert sum("its worker was lost" in line for line in lines) == 1
    for name in ("dies0", "student0"):
        assert (folder / name).read_text() != str(os.getpid())


@pytest.fixture
def workers_import_this_file(monkeypatch):
    here = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")]))


@pytest.mark.slow
def test_jobs_of_submitit_one_of_which_dies(tmp_path, workers_import_this_file):
    pytest.importorskip("submitit")
    choice = ExecuteChoice(executor="slurm", is_local=True)
    check_executor_with_real_processes(SlurmJobs(partial(opened, tmp_path), choice, 2, tmp_path, "test"), tmp_path)


def test_tasks_of_ray_one_of_whose_workers_dies(tmp_path, workers_import_this_file):
    pytest.importorskip("ray", reason="the package ray is not installed")
    choice = ExecuteChoice(executor="ray")
    check_executor_with_real_processes(RayWorkers(partial(opened, tmp_path), choice, 2), tmp_path)

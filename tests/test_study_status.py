"""`study status`: what is done, running, silent, stopped, failed and waiting, from a study's files alone."""

import json
import re
import shutil
from dataclasses import replace

import pytest

from stateshape.cli import main
from stateshape.core.files import read_json, write_json
from stateshape.core.locks import hold
from stateshape.core.records import RunRecord
from stateshape.core.study_records import FailedRun
from stateshape.report.status import study_status
from synthetic_study import write_synthetic_study


@pytest.fixture
def folder(tmp_path):
    """Six runs of two seeds, all finished."""
    write_synthetic_study(tmp_path, num_items=4, seeds=[0, 1])
    return tmp_path


def begun(folder, run, seed, *, steps):
    """The run as if it had stopped after some steps."""
    place = folder / "runs" / run / f"seed{seed}"
    record = read_json(place / "run.json", RunRecord)
    write_json(place / "run.json", replace(record, is_complete=False, num_steps=0))
    lines = (place / "metrics.jsonl").read_text().splitlines()[:steps]
    (place / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return place


def state_of(found, run, seed=0):
    (one,) = [one for one in found.runs if (one.run, one.seed) == (run, seed)]
    return one


def test_a_finished_study_is_done(folder, capsys):
    found = study_status(folder)
    assert found.count("done") == len(found.runs) == 1 + 6 * 2  # the base has one folder for all seeds
    assert main(["study", "status", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{found.study}: 13 runs: 13 done", "nobody hands out runs"]


def test_a_run_that_was_cut_off_is_stopped_at_its_step_and_one_without_a_folder_waits(folder):
    begun(folder, "rl", 1, steps=2)
    shutil.rmtree(folder / "runs" / "opd_mild" / "seed1")
    found = study_status(folder)
    assert (state_of(found, "rl", 1).state, state_of(found, "rl", 1).step) == ("stopped", 2)
    assert state_of(found, "opd_mild", 1).state == "waiting"
    assert found.seconds_left is None  # nobody works on it


def test_a_claimed_run_is_running_and_the_rest_is_estimated_from_finished_ones(folder, capsys):
    place = begun(folder, "rl", 1, steps=1)
    with hold(place):
        found = study_status(folder)
        assert main(["study", "status", str(folder)]) == 0
    one = state_of(found, "rl", 1)
    assert one.state == "running"
    assert one.pid is not None
    assert found.seconds_left is not None
    assert 0 < found.seconds_left <= (state_of(found, "rl", 0).seconds or 0)
    assert re.search(r"running  rl +seed 1 +step 1", capsys.readouterr().out)
    assert state_of(study_status(folder), "rl", 1).state == "stopped"  # the lock is gone


def test_a_cut_off_last_line_is_no_step(folder):
    place = begun(folder, "rl", 0, steps=2)
    with (place / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "lo')
    assert state_of(study_status(folder), "rl").step == 2


def test_a_failed_run_is_named_with_its_reason(folder, capsys):
    begun(folder, "rl", 0, steps=1)
    write_json(folder / "failed.json", [FailedRun(run="rl", seed=0, reason="training diverged at step 3")])
    assert state_of(study_status(folder), "rl").state == "failed"
    main(["study", "status", str(folder)])
    assert "training diverged at step 3" in capsys.readouterr().out


def test_every_line_fits_eighty_columns(folder, capsys):
    for run in ("rl", "sft_stress", "opd_one_step"):
        begun(folder, run, 1, steps=1)
    with hold(folder), hold(folder / "runs" / "rl" / "seed1"):
        main(["study", "status", str(folder)])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_json_has_every_run_and_the_counts(folder, capsys):
    assert main(["study", "status", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["counts"]["done"] == len(told["runs"]) == 13


def test_a_folder_that_is_no_study_is_one_line(tmp_path, capsys):
    assert main(["study", "status", str(tmp_path)]) == 2
    assert "holds no plan.json; expected the folder of a study that has begun" in capsys.readouterr().err

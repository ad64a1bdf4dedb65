"""`--processes N` from outside: what a user sees when the input is bad, when a rank dies, and when all goes well."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stateshape.cli import main
from stateshape.cli.processes import asked_for, check_processes, environment
from stateshape.core.ranks import num_started
from stateshape.core.wording import BadInput
from stateshape.study.threads import VARIABLES

FLAGS = ["--model", "embedded", "--task", "arithmetic", "--train-items", "8", "--batch-prompts", "4", "--device", "cpu"]


def command(*args):
    return [sys.executable, "-m", "stateshape", *map(str, args)]


@pytest.mark.slow
def test_bad_input_is_one_line_and_code_2(tmp_path):
    done = subprocess.run(
        command("train", "sft", "--model", tmp_path / "none", *FLAGS[2:], "--out", tmp_path / "run", "--processes", 2),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("stateshape: model: got ")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the ranks in /proc")
def test_a_rank_that_dies_takes_the_run_down_in_one_line_and_leaves_a_checkpoint(tmp_path):
    folder = tmp_path / "run"
    args = ["train", "grpo", *FLAGS, "--out", folder, "--group", 4, "--rollout-tokens", 8, "--processes", 2, "--quiet"]
    quiet = os.environ | {"TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}  # of what others will change
    process = subprocess.Popen(command(*args, "--steps", 200), stderr=subprocess.PIPE, text=True, env=quiet)
    while not (folder / "metrics.jsonl").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    said = process.communicate()[1]
    assert process.returncode == 1
    assert said == (
        f"stateshape: rank 1 of 2 (process {children[1]}) was ended by signal 9 (SIGKILL); out of memory?; the others were "
        "stopped; run the same command again to resume\n"
    )
    assert not Path(f"/proc/{children[0]}/task").exists()
    assert list(folder.glob("checkpoint-*.pt"))  # from which tests/test_ranks.py resumes


@pytest.mark.parametrize(("parent", "said"), [("1", ""), (None, "Stopped. Run the same command to resume.\n")])
def test_a_rank_stopped_while_it_handles_anothers_end_leaves_the_word_to_its_parent(parent, said, monkeypatch, capsys):
    def interrupted(args, **_):
        raise KeyboardInterrupt

    monkeypatch.setattr("stateshape.cli.rank.run_as_rank", interrupted)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    if parent:
        monkeypatch.setenv("STATESHAPE_PARENT", parent)
    assert main(["train", "sft"]) == 130
    assert capsys.readouterr().err == said


@pytest.mark.slow
def test_evaluation_is_the_same_in_two_processes(tmp_path):
    flags = ["--task", "arithmetic", "--limit", "12", "--device", "cpu", "--quiet"]
    assert main(["eval", "embedded", *flags, "--out", str(tmp_path / "one")]) == 0
    subprocess.run(command("eval", "embedded", *flags, "--out", tmp_path / "two", "--processes", 2), check=True)
    rows = [(tmp_path / name / "evals" / "arithmetic.jsonl").read_text() for name in ("one", "two")]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("processes", ["0", "2000"])
def test_a_number_of_processes_that_makes_no_sense_is_refused(processes, tmp_path, capsys):
    assert main(["train", "sft", *FLAGS, "--out", str(tmp_path / "run"), "--processes", processes]) == 2
    assert capsys.readouterr().err.startswith(f"stateshape: processes: got {int(processes):,}".replace(",", ""))


def test_another_number_than_torchruns_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    check_processes(1)
    check_processes(3)
    with pytest.raises(BadInput, match="processes: got 2, and 3 have been started"):
        check_processes(2)
    with pytest.raises(BadInput, match="WORLD_SIZE: got 'many'"):
        num_started({"WORLD_SIZE": "many"})


def test_a_study_is_not_done_in_ranks(monkeypatch):
    from stateshape.cli.rank import check_command

    monkeypatch.setenv("WORLD_SIZE", "2")
    check_command(["train", "sft"])
    with pytest.raises(
        BadInput, match=r"command: got 'study' in 2 processes; expected one of train, eval, drift; .*--jobs"
    ):
        check_command(["study", "smoke"])


def test_processes_are_asked_for_by_commands_that_know_them():
    assert asked_for(["train", "sft", "--processes", "4"]) == 4
    assert asked_for(["eval", "embedded", "--processes=2"]) == 2
    for args in (
        ["study", "smoke", "--processes", "4"],
        ["train", "sft", "--processes"],
        ["drift", "--processes", "two"],
        [],
    ):
        assert asked_for(args) == 1


def test_ranks_share_the_cores_unless_told_otherwise(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    made = environment(1, 10_000, 29500)
    assert (made["RANK"], made["WORLD_SIZE"]) == ("1", "10000")
    assert [made[name] for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")] == ["1", "1", "1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert environment(0, 2, 29500)["OMP_NUM_THREADS"] == "7"

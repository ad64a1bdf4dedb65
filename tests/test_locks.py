"""One writer a folder, with real processes: who is refused, who takes over, and that only one of many wins."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from stateshape.core import locks
from stateshape.core.files import BadInput
from stateshape.core.locks import claim_on, hold, hold_beside, holds_files, remove_leftovers

# Ctrl-C is ignored where the tests were started in the background of a shell; here it must not be.
HOLDS = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
from stateshape.cli import sigterm_as_interrupt
from stateshape.core.locks import hold
try:
    with sigterm_as_interrupt(), hold(Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    sys.exit(130)
"""
# Takes the lock as soon as the file "go" is there, holds it a moment, and says when.
RACES = """
import sys, time
from pathlib import Path
from stateshape.core.files import BadInput
from stateshape.core.locks import hold
folder, go = Path(sys.argv[1]), Path(sys.argv[2])
print("ready", flush=True)
while not go.exists():
    pass
try:
    with hold(folder):
        began = time.time()
        time.sleep(0.5)
        print("won", began, time.time())
except BadInput as error:
    print("lost", error)
"""


def start(program: str, *args: object) -> subprocess.Popen[str]:
    made = subprocess.Popen([sys.executable, "-c", program, *map(str, args)], stdout=subprocess.PIPE, text=True)
    assert made.stdout is not None
    assert made.stdout.readline().strip() in ("held", "ready")
    return made


def left_by_a_killed_process(folder: Path) -> None:
    process = start(HOLDS, folder)
    process.kill()
    process.wait()
    assert (folder / ".lock").exists()


def change(folder: Path, **fields: object) -> Path:
    path = folder / ".lock"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return path


def test_the_second_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    process = start(HOLDS, tmp_path)
    try:
        with pytest.raises(BadInput) as refused, hold(tmp_path):
            pass
    finally:
        process.kill()
        process.wait()
    assert re.search(rf"being written by process {process.pid} on \S+ since 20\d\d-.*; wait until", str(refused.value))
    assert "\n" not in str(refused.value)
    with hold(tmp_path):  # the lock of a dead process is taken over
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_gives_the_lock_back(number: int, tmp_path: Path) -> None:
    process = start(HOLDS, tmp_path / "run")
    process.send_signal(number)
    assert process.wait(timeout=20) == 130
    assert list(tmp_path.iterdir()) == []  # the folder was made for the lock alone


def test_a_killed_process_that_nobody_waits_for_is_dead(tmp_path: Path) -> None:
    process = start(HOLDS, tmp_path)
    process.kill()
    time.sleep(0.2)  # a zombie now
    with hold(tmp_path):
        pass
    process.wait()


def test_a_process_number_that_was_given_to_another_process_is_not_the_holder(tmp_path: Path) -> None:
    left_by_a_killed_process(tmp_path)
    change(tmp_path, pid=os.getpid(), started="1")
    with hold(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["started"] != "1"


def test_another_hosts_lock_is_refused_while_it_gives_signs_of_life(tmp_path: Path) -> None:
    left_by_a_killed_process(tmp_path)
    path = change(tmp_path, host="elsewhere")
    os.utime(path, (time.time() - 60, time.time() - 60))
    with pytest.raises(BadInput, match=r"on elsewhere .*takes over after 120 s of silence"), hold(tmp_path):
        pass


def test_another_hosts_silent_lock_is_taken_over(tmp_path: Path) -> None:
    left_by_a_killed_process(tmp_path)
    path = change(tmp_path, host="elsewhere")
    os.utime(path, (time.time() - 7200, time.time() - 7200))
    with hold(tmp_path):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_who_finds_that_another_has_taken_over_ends(tmp_path: Path) -> None:
    waits = "import sys, time; from pathlib import Path; from stateshape.core import locks; locks.BEAT_S = 0.05\n"
    waits += "with locks.hold(Path(sys.argv[1])):\n print('held', flush=True)\n time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", waits, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        other = tmp_path / "other"
        other.write_text((tmp_path / ".lock").read_text().replace('"token": "', '"token": "0'))
        other.replace(tmp_path / ".lock")
        _, told = process.communicate(timeout=50)
    assert process.returncode == 1
    assert told.endswith("taken over by another process after a silence; this one ends\n")
    assert (tmp_path / ".lock").exists()


def test_a_claim_is_seen_without_touching_it(tmp_path: Path) -> None:
    assert claim_on(tmp_path) is None
    with hold(tmp_path):
        claim = claim_on(tmp_path)
        assert claim is not None and claim.is_alive and claim.pid == os.getpid()
    left_by_a_killed_process(tmp_path)
    claim = claim_on(tmp_path)
    assert claim is not None and not claim.is_alive


@pytest.mark.parametrize(("age_s", "is_dead"), [(0, False), (600, True)])
def test_under_the_same_host_name_after_a_restart_the_time_stamp_decides(
    age_s: int, is_dead: bool, tmp_path: Path
) -> None:
    left_by_a_killed_process(tmp_path)
    path = change(tmp_path, space="another start of this machine")
    os.utime(path, (time.time() - age_s, time.time() - age_s))
    if is_dead:
        with hold(tmp_path):
            pass
    else:
        with pytest.raises(BadInput, match="being written by"), hold(tmp_path):
            pass


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"token": 1}', "[" * 9_000])
def test_a_lock_that_says_nothing_is_refused_while_it_is_young(text: str, tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text(text)
    with pytest.raises(BadInput, match="says nothing readable"), hold(tmp_path):
        pass
    os.utime(tmp_path / ".lock", (1, 1))
    with hold(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("has_links", [True, False])
def test_of_many_that_see_a_dead_lock_one_wins(has_links: bool, tmp_path: Path) -> None:
    folder, go = tmp_path / "run", tmp_path / "go"
    left_by_a_killed_process(folder)
    program = RACES if has_links else f"import os\ndef link(*_): raise PermissionError\nos.link = link\n{RACES}"
    racers = [start(program, folder, go) for _ in range(6)]
    go.touch()
    told = [racer.communicate(timeout=60)[0] for racer in racers]
    won = sorted(tuple(map(float, line.split()[1:])) for line in told if line.startswith("won"))
    assert won and len(won) + sum(line.startswith("lost") for line in told) == 6
    for (_, end), (began, _) in itertools.pairwise(won):
        assert began >= end, "two at the same time"
    assert [path.name for path in tmp_path.rglob("*")] in (["go"], ["go", "run"], ["run", "go"])


def test_who_died_while_taking_over_is_followed_too(tmp_path: Path) -> None:
    left_by_a_killed_process(tmp_path)
    first = json.loads((tmp_path / ".lock").read_text())
    heir = first | {"token": "heir"}
    (tmp_path / f".lock.{first['token']}").write_text(json.dumps(heir))
    (tmp_path / ".lock.other.new").write_text(json.dumps(first | {"token": "other"}))
    with hold(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    alive = heir | {"pid": os.getpid(), "started": locks._started(os.getpid())}
    left_by_a_killed_process(tmp_path)
    token = json.loads((tmp_path / ".lock").read_text())["token"]
    (tmp_path / f".lock.{token}").write_text(json.dumps(alive))
    with pytest.raises(BadInput, match=f"process {os.getpid()} "), hold(tmp_path):
        pass


def test_the_same_thread_may_hold_it_again_and_another_thread_not(tmp_path: Path) -> None:
    refused = []

    def other() -> None:
        try:
            with hold(tmp_path):
                pass
        except BadInput as error:
            refused.append(error)

    with hold(tmp_path), hold(tmp_path / ".." / tmp_path.name):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert (tmp_path / ".lock").exists()
    assert len(refused) == 1
    other()
    assert len(refused) == 1


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    process = start(HOLDS, tmp_path)
    threading.Timer(0.5, process.kill).start()
    with hold(tmp_path, wait_s=20):
        pass
    process.wait()


def test_the_time_stamp_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "BEAT_S", 0.02)
    with hold(tmp_path):
        os.utime(tmp_path / ".lock", (1, 1))
        until = time.time() + 10
        while (tmp_path / ".lock").stat().st_mtime < 100 and time.time() < until:
            time.sleep(0.02)
        assert (tmp_path / ".lock").stat().st_mtime > 100


def test_a_lock_is_no_content(tmp_path: Path) -> None:
    with hold(tmp_path), hold_beside(tmp_path / "base"):
        assert {path.name for path in tmp_path.iterdir()} == {".lock", ".base.lock"}
        (tmp_path / ".base.lock").rename(tmp_path / ".lock.x")
        assert not holds_files(tmp_path)
        (tmp_path / "uv.lock").touch()
        assert holds_files(tmp_path)


def test_leftovers_of_our_writes_alone_are_removed(tmp_path: Path) -> None:
    for name in (".run.json.12.tmp", ".plan.json.7.tmp", ".mine.tmp", "x.1.tmp", ".a.1.txt"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path, names=["plan.json"])
    assert not (tmp_path / ".plan.json.7.tmp").exists()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".mine.tmp", "x.1.tmp", ".a.1.txt"}

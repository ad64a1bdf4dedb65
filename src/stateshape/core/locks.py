"""One writer per folder: a lock file that names the writer, taken over from a process that is dead. Torch-free.

A lock is the file `.lock` in the folder: host, process, since when and the command, as JSON. It appears whole and at once,
as a hard link to a file that is written already (where there are no hard links: created exclusively, then filled), which holds
on network file systems as well. A killed process leaves its lock behind. On the same machine that is seen from the process and
its start time, and the next command takes over. A machine or container that was restarted under the same name is known by
the lock's time stamp, which its holder renews every 10 s, and so is another host's: after 120 s without a sign of life the
next command takes over. Time stamps come from the file system; where they come from the hosts, their clocks must agree to a
minute. A holder that finds that another has taken over ends its process, so that two never write for longer than a renewal.

Taking over is safe against others who try the same: each lock has a token, whoever follows it must first own the file
`.lock.<token>`, which only one can create, and only its owner may replace the lock. Should that owner die too, it is followed
in the same way.

Does not know what is written in the folder.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import os
import re
import secrets
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from stateshape.core.files import BadInput

LOCK = ".lock"
REPORT_LOCK = ".report.lock"  # of what is made from a study's records, which may be read while a study runs
BEAT_S = 10.0  # between two renewals of a lock's time stamp
SILENT_S = 120.0  # after which a holder whose process can't be looked at counts as dead: above twice what NFS caches
TAKES = 200  # attempts while others come and go
WAIT_S = 0.2  # between two looks at a lock that is waited for
LEFTOVER = re.compile(r"\.(.+)\.\d+\.tmp")  # core.files.whole: .<name>.<process>.tmp


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """Who holds a lock. space: where its process number means something (machine start and container)."""

    token: str
    host: str
    space: str
    pid: int
    started: str | None  # tells a process from a later one with the same number; None where the system does not say
    since: str
    command: str


@contextlib.contextmanager
def hold(folder: Path, *, name: str = LOCK, wait_s: float = 0.0) -> Iterator[None]:
    """Holds the folder's lock, and makes the folder; again in the same thread is fine. Folders that stay empty are removed.

    Raises: BadInput, naming the holder, where another process has it (for longer than `wait_s`).
    """
    path = folder.resolve() / name
    outer = _HELD.get(path)
    if outer is not None and outer.owner == _owner():
        yield
        return
    new_folders = _make(path.parent)
    try:
        lock = _Held(path, _acquire(path, wait_s), _owner())
        _HELD[path] = lock
        lock.beat()
        try:
            yield
        finally:
            del _HELD[path]
            lock.release()
    finally:
        for empty in reversed(new_folders):
            with contextlib.suppress(OSError):
                empty.rmdir()


@contextlib.contextmanager
def hold_beside(folder: Path) -> Iterator[None]:
    """For a folder that is replaced as a whole, and so can't keep its own lock."""
    place = folder.absolute()
    with hold(place.parent, name=f".{place.name}{LOCK}"):
        yield


class Claim(NamedTuple):
    """Who holds a folder, as a reader sees it. silent_s: since the last sign of life, by this machine's clock."""

    host: str
    pid: int
    since: str
    silent_s: float
    is_alive: bool


def claim_on(folder: Path) -> Claim | None:
    """Reads only. None where nobody holds the folder."""
    path = folder / LOCK
    holder = _read(path)
    if holder is None:
        return None
    try:
        silent_s = max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        return None
    is_here = holder.host == socket.gethostname() and holder.space == _space()
    is_alive = _runs(holder.pid, holder.started) if is_here else silent_s < SILENT_S
    return Claim(holder.host, holder.pid, holder.since, silent_s, is_alive)


def release_all() -> None:
    """For a process that is about to end without cleaning up."""
    for lock in list(_HELD.values()):
        lock.release()


def is_lock(path: Path) -> bool:
    """Whether a file is a lock or belongs to one."""
    return path.name in (LOCK, REPORT_LOCK) or path.name.startswith(f"{LOCK}.")


def holds_files(folder: Path) -> bool:
    """Whether there is anything in the folder but its lock."""
    return folder.is_dir() and not all(is_lock(path) for path in folder.iterdir())


def remove_leftovers(*folders: Path, names: Collection[str] | None = None) -> None:
    """Temporary files of writes that a kill cut off; `names`: only those of these files, where others write to the same folder.

    Only for who holds the lock: nobody else is writing them.
    """
    for folder in folders:
        for path in folder.glob(".*.tmp"):
            match = LEFTOVER.fullmatch(path.name)
            if match is not None and (names is None or match[1] in names):
                path.unlink(missing_ok=True)


class _Held:
    def __init__(self, path: Path, holder: Holder, owner: tuple[int, int]) -> None:
        self.path, self.holder, self.owner = path, holder, owner
        self._over = threading.Event()

    def beat(self) -> None:
        threading.Thread(target=self._renew, daemon=True).start()

    def _renew(self) -> None:
        while not self._over.wait(BEAT_S):
            current = _read(self.path)
            if current is None:
                return
            if current.token != self.holder.token and not self._over.is_set():
                _end_as_lost(self.path)
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def release(self) -> None:
        self._over.set()
        current = _read(self.path)
        if os.getpid() == self.holder.pid and current is not None and current.token == self.holder.token:
            self.path.unlink(missing_ok=True)


_HELD: dict[Path, _Held] = {}  # of this process


def _end_as_lost(path: Path) -> None:
    """For a process that was suspended or cut off from the disk for so long that another writes in its place."""
    print(f"stateshape: {path.parent}: taken over by another process after a silence; this one ends", file=sys.stderr)
    sys.stderr.flush()
    os._exit(1)


def _owner() -> tuple[int, int]:
    """A forked process inherits the memory, not the locks."""
    return os.getpid(), threading.get_ident()


def _make(folder: Path) -> list[Path]:
    """The folders that had to be made, outermost first."""
    missing = []
    for path in (folder, *folder.parents):
        if path.exists():
            break
        missing.append(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError:
        raise BadInput(f"out: got {str(folder)!r}, where the system makes no folders; give another one") from None
    return missing[::-1]


def _acquire(path: Path, wait_s: float) -> Holder:
    mine = _me()
    private = path.with_name(f"{LOCK}.{mine.token}.new")
    until = time.monotonic() + wait_s
    try:
        for _ in range(TAKES + int(wait_s / WAIT_S)):
            path.parent.mkdir(parents=True, exist_ok=True)  # whoever made it may just have removed it
            private.write_text(_text(mine), encoding="utf-8")
            try:
                if _attempt(path, private, mine):
                    _sweep(private)
                    return mine
            except _HeldByOther as other:
                if time.monotonic() >= until:
                    raise BadInput(_refusal(path, other.holder)) from None
                time.sleep(WAIT_S)
        raise BadInput(f"{path}: could not be had in {TAKES} attempts; expected a lock that stays; try again")
    finally:
        private.unlink(missing_ok=True)


class _HeldByOther(Exception):
    def __init__(self, holder: Holder) -> None:
        self.holder = holder


def _attempt(path: Path, private: Path, mine: Holder) -> bool:
    """Whether the lock is ours now; if not, it has just changed hands. Raises _HeldByOther."""
    followed: list[str] = []  # tokens of the dead: the lock's, then those of who died while taking it over
    place = path
    while not _link(private, place, mine):
        holder = _read(place)
        if holder is None:
            return False
        if _is_alive(holder, place, private):
            raise _HeldByOther(holder)
        followed.append(holder.token)
        place = path.with_name(f"{LOCK}.{holder.token}")
    if not followed:
        return True
    current = _read(path)
    if current is None or current.token != followed[0]:  # another has taken over meanwhile, and cleared the traces
        place.unlink(missing_ok=True)
        return False
    private.replace(path)
    for token in followed:
        path.with_name(f"{LOCK}.{token}").unlink(missing_ok=True)
    return True


def _link(private: Path, place: Path, mine: Holder) -> bool:
    """Whether `place` is now ours. A network file system may report a false failure: the number of links decides."""
    try:
        os.link(private, place)
    except FileExistsError:
        return False
    except FileNotFoundError:
        return False
    except OSError:
        with contextlib.suppress(OSError):
            if private.stat().st_nlink > 1:
                return True
        return _create(place, mine)
    return True


def _create(place: Path, mine: Holder) -> bool:
    """Where a file system has no hard links."""
    try:
        descriptor = os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(_text(mine))
    return True


def _sweep(private: Path) -> None:
    """Removes the files of takeovers that a kill cut off."""
    for path in private.parent.glob(f"{LOCK}.*"):
        holder = _read(path)
        if holder is not None and not _is_alive(holder, path, private):
            path.unlink(missing_ok=True)


def _me() -> Holder:
    return Holder(
        token=secrets.token_hex(8),
        host=socket.gethostname(),
        space=_space(),
        pid=os.getpid(),
        started=_started(os.getpid()),
        since=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:500],
    )


def _text(holder: Holder) -> str:
    return json.dumps({name: getattr(holder, name) for name in Holder.__slots__}, indent=1) + "\n"


def _read(path: Path) -> Holder | None:
    """None where there is no lock. An unreadable one is known by its place on the disk."""
    try:
        told = path.stat()
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
        value = json.loads(text)
        started = value["started"]
        return Holder(
            token=re.sub(r"[^0-9a-zA-Z-]", "", str(value["token"]))[:64],
            host=str(value["host"]),
            space=str(value["space"]),
            pid=int(value["pid"]),
            started=None if started is None else str(started),
            since=str(value["since"]),
            command=str(value["command"]),
        )
    return Holder(
        token=f"{told.st_ino}-{told.st_mtime_ns}", host="", space="", pid=0, started=None, since="", command=""
    )


def _is_alive(holder: Holder, path: Path, private: Path) -> bool:
    """Whether the holder still writes, as far as can be known from here."""
    if holder.host == socket.gethostname() and holder.space == _space():
        return _runs(holder.pid, holder.started)
    return _silent_s(path, private) < SILENT_S


def _silent_s(path: Path, private: Path) -> float:
    """Since the lock was renewed; by the file system's own clock, which may not be this machine's."""
    with contextlib.suppress(OSError):
        os.utime(private)
        return private.stat().st_mtime - path.stat().st_mtime
    return 0.0


def start_of(pid: int) -> str | None:
    """When a process of this machine began, in words of the system, which tells it from a later one of the same number."""
    return _started(pid)


def has_ended(pid: int, started: str | None) -> bool:
    """Whether a process of this machine, which began then, is no more."""
    return not _runs(pid, started)


def _runs(pid: int, started: str | None) -> bool:
    if pid <= 0:
        return False
    if os.name != "nt":  # there, signal 0 would end the process
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:
            pass
    now = _started(pid)
    if now == "":
        return False
    return now is None or started is None or now == started


@functools.cache
def _space() -> str:
    """This start of this machine, and the container: process numbers mean something within it."""
    parts = []
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _started(pid: int) -> str | None:
    """When the process began, in words of the system; "" where it has ended; None where that is unknown."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None if Path("/proc/self/stat").exists() else _started_by_ps(pid)
    fields = told.rpartition(")")[2].split()  # the name before it may hold anything
    return "" if fields[0] in "ZX" else fields[19]  # a zombie has ended


def _started_by_ps(pid: int) -> str | None:
    try:
        told = subprocess.run(
            ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, timeout=10, check=False
        ).stdout.split(maxsplit=1)
    except (OSError, subprocess.SubprocessError):
        return None
    if not told:
        return None
    return "" if told[0].startswith("Z") else told[-1].strip()


def _refusal(path: Path, holder: Holder) -> str:
    folder = path.parent
    if not holder.host:
        return (
            f"out: {folder} is locked, and its lock file says nothing readable; expected a folder that nobody else writes "
            f"to; delete {path} if no process writes here"
        )
    command = holder.command if len(holder.command) <= 80 else f"{holder.command[:77]}..."
    who = f"process {holder.pid} on {holder.host} since {holder.since} ({command})"
    if holder.host == socket.gethostname():
        fix = "wait until it has ended, or give another folder"
    else:
        fix = (
            f"wait until it has ended; if it is dead (last sign of life {_ago(path)}), the same command takes over after "
            f"{SILENT_S:.0f} s of silence"
        )
    return f"out: {folder} is being written by {who}; expected a folder that nobody else writes to; {fix}"


def _ago(path: Path) -> str:
    try:
        seconds = max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        return "unknown"
    return f"{seconds:.0f} s ago" if seconds < 600 else f"{seconds / 3600:.1f} h ago"

"""--processes N: this command in N processes on this machine, each a rank (core/ranks.py), as torchrun would start them.

The parent waits, and knows what the ranks can't know of each other: which of them died, and of what. It says so in one line,
ends the others and returns the exit code. Does not know what the command does. Torch-free.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from itertools import pairwise

from stateshape.core.files import BadInput
from stateshape.core.limits import MOST, check_most
from stateshape.core.locks import release_all
from stateshape.study.threads import VARIABLES

COMMANDS = ("train", "eval", "drift")  # that are made for several ranks
PARENT = (
    "STATESHAPE_PARENT"  # in a rank's environment: the process that has started it, and tells what became of the ranks
)
EXIT_LOST = 3  # of a rank that can't go on because another has ended
LOOK_S = 0.05
GRACE_S = 5.0  # for the others to end by themselves, then once more after they have been asked to


def is_rank() -> bool:
    """Whether this process is one of several already."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


def is_first() -> bool:
    """Whether this process prints and reports: the first of several ranks, or one alone."""
    return os.environ.get("RANK", "0") == "0" or not is_rank()


def tells_of_the_end() -> bool:
    """Whether this process says that it was stopped: under torchrun the first rank does, with --processes the parent."""
    return is_first() and PARENT not in os.environ


def asked_for(args: Sequence[str]) -> int:
    """The number behind --processes, read before the command is imported: this process needs no tensor library.

    1 where there is none, or none that makes sense: the command itself will say so.
    """
    given = [one.partition("=")[2] for one in args if one.startswith("--processes=")]
    given += [after for one, after in pairwise(args) if one == "--processes"]
    is_number = len(given) == 1 and given[0].isdecimal() and len(given[0]) < 10
    return int(given[0]) if is_number and args[0] in COMMANDS and 0 < int(given[0]) <= MOST["processes"] else 1


def check_processes(processes: int) -> None:
    """What a command is given as --processes, against what has been started. Raises BadInput."""
    if processes < 1:
        raise BadInput(f"processes: got {processes}; expected 1 or more")
    check_most(processes=processes)
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if processes not in (1, started):
        raise BadInput(
            f"processes: got {processes}, and {started} have been started; expected the same number; leave --processes out "
            "under torchrun, and write it once, as --processes N"
        )


class Ranked:
    """The processes of one command."""

    def __init__(self, args: Sequence[str], num: int) -> None:
        self.num = num
        port = free_port()
        self.ranks = [
            subprocess.Popen(
                [sys.executable, "-m", "stateshape", *args],
                env=environment(rank, num, port),
                stdin=subprocess.DEVNULL,
                stdout=None if rank == 0 else subprocess.DEVNULL,
                process_group=0,  # Ctrl-C comes from the terminal to this process alone, which passes it on
            )
            for rank in range(num)
        ]

    def to_the_end(self) -> int:
        """The exit code: the first rank's that failed; 1 for one that was killed, which is told."""
        try:
            while (code := self.failure()) is None and any(rank.poll() is None for rank in self.ranks):
                time.sleep(LOOK_S)
            return code or 0
        finally:
            self.end()

    def failure(self) -> int | None:
        """None as long as no rank has failed. A rank that only lost another one is not to blame, if that one ends, too."""
        codes = [rank.poll() for rank in self.ranks]
        failed = [number for number, code in enumerate(codes) if code not in (None, 0)]
        if not failed:
            return None
        until = time.monotonic() + GRACE_S
        while all(codes[number] == EXIT_LOST for number in failed) and time.monotonic() < until:
            time.sleep(LOOK_S)
            codes = [rank.poll() for rank in self.ranks]
            failed = [number for number, code in enumerate(codes) if code not in (None, 0)]
        number = next((one for one in failed if codes[one] != EXIT_LOST), failed[0])
        code = codes[number] or 0
        if code in (1, EXIT_LOST) or code < 0:
            self.tell(number, code)
            return 1
        return code  # it has said itself what was wrong

    def tell(self, number: int, code: int) -> None:
        how = f"was ended by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"ended with code {code}"
        memory = "; out of memory?" if -code == signal.SIGKILL else ""
        print(
            f"stateshape: rank {number} of {self.num} (process {self.ranks[number].pid}) {how}{memory}; the others were "
            "stopped; run the same command again to resume",
            file=sys.stderr,
        )

    def end(self) -> None:
        """Ends those that still run: every file is whole at any time."""
        for one in (signal.SIGTERM, signal.SIGKILL):
            for rank in self.ranks:
                if rank.poll() is None:
                    rank.send_signal(one)
            until = time.monotonic() + GRACE_S
            while any(rank.poll() is None for rank in self.ranks) and time.monotonic() < until:
                time.sleep(LOOK_S)


def environment(rank: int, num: int, port: int) -> dict[str, str]:
    """As torchrun sets it, and an equal share of the CPU threads for each library, unless that is given."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    own = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num),
        "LOCAL_WORLD_SIZE": str(num),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        PARENT: str(os.getpid()),
    }
    return dict.fromkeys(VARIABLES, str(max(1, cores // num))) | os.environ | own


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def end_with_parent() -> None:
    """A parent that was killed can't stop its ranks: they look for themselves."""
    parent = os.environ.get(PARENT)
    if parent is not None:
        threading.Thread(target=_end_with, args=(int(parent),), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    release_all()
    os._exit(1)

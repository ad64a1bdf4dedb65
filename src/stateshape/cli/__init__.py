"""The command line: one function per command, flags from their signatures, one line for a user's mistake.

Only the command that was asked for is imported, so `methods`, `report` and `--help` stay quick and torch-free where they can.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType

from stateshape.cli import processes
from stateshape.core.wording import BadInput, one_line, shown

EXIT_BAD_INPUT = 2
# How often an OpenMP thread looks before it sleeps at a barrier. The default looks about 300,000 times: two processes that
# share two cores then hold each other up by a factor of 60; at this value neither that nor a lone process loses speed.
GOMP_SPINCOUNT = "5000"
EXIT_INTERRUPTED = 130
SLOW_TO_BEGIN = (
    "audit",
    "doctor",
    "drift",
    "embedded",
    "eval",
    "gate",
    "study",
    "train",
)  # they load torch, data and a model
OF_THE_DISK = (
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
    errno.ENAMETOOLONG, errno.EFBIG, errno.ELOOP,
)  # fmt: skip
SENTENCES = 3  # of torch's many about memory: what was asked for, how much there is, how much of it is free
MORE_ROOM = (
    "expected room for the model, its gradients and a batch; free the device, give chunk_tokens a smaller number (it changes "
    "memory, not results) or use fewer --jobs, and run the same command again"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code. A user's mistake is one line on stderr and code 2."""
    os.environ.setdefault("GOMP_SPINCOUNT", GOMP_SPINCOUNT)  # read when torch loads its OpenMP library
    os.environ["MPLBACKEND"] = (
        "agg"  # plots need no window, and importing matplotlib fails at a name that it does not know
    )
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        check_arguments(args)
        with sigterm_as_interrupt():
            if processes.is_rank():
                from stateshape.cli.rank import run_as_rank

                return run_as_rank(args, bad_input=EXIT_BAD_INPUT)
            say_it_begins(args)
            if (num := processes.asked_for(args)) > 1:
                return processes.Ranked(args, num).to_the_end()
            from stateshape.cli.parser import run

            run(args)
    except KeyboardInterrupt:
        if processes.tells_of_the_end():  # wherever the signal came: also while another rank's end is being handled
            how_to_resume = " Run the same command to resume." if args[:1] in (["study"], ["train"]) else ""
            print(f"\nStopped.{how_to_resume}" if sys.stderr.isatty() else f"Stopped.{how_to_resume}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except BadInput as error:
        print(f"stateshape: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except OSError as error:
        if error.errno not in OF_THE_DISK:
            raise
        where = f" at {error.filename}" if error.filename else ""
        line = one_line(f"{error.strerror}{where}; fix that and run the same command again")
        print(f"stateshape: {line}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said = one_line(". ".join(str(error).split(". ")[:SENTENCES]) or "no memory")
        print(f"stateshape: out of memory: {said.rstrip('.')}; {MORE_ROOM}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return 0


def is_out_of_memory(error: BaseException) -> bool:
    """torch's error by its name, since commands that need no torch do not load it; on a CPU torch has no type for it."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


def say_it_begins(args: Sequence[str]) -> None:
    """A word on a terminal at once: the libraries alone take seconds."""
    is_quiet = {"--quiet", "--json-events", "--json", "--help", "-h"} & set(args)
    if args[:1] and args[0] in SLOW_TO_BEGIN and not is_quiet and sys.stderr.isatty():
        print("Loading ...", file=sys.stderr, flush=True)


def check_arguments(args: Sequence[str]) -> None:
    """Raises BadInput for an argument that is not text: such bytes would fail only when they are first written."""
    for number, arg in enumerate(args, 1):
        if "\0" in arg or any("\ud800" <= c <= "\udfff" for c in arg):
            raise BadInput(f"argument {number}: got {shown(arg)}; expected UTF-8 text without NUL characters")


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does: at once, with every file whole and every lock released."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def entry() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a label may hold characters that an old terminal's encoding lacks
            stream.reconfigure(errors="backslashreplace")
    sys.exit(main())

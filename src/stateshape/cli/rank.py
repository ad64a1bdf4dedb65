"""A command as one of several ranks: joins the others, runs, and says what went wrong once for all of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from stateshape.cli.parser import run
from stateshape.cli.processes import COMMANDS, EXIT_LOST, PARENT, end_with_parent
from stateshape.core.ranks import RankLost, Ranks, joined
from stateshape.core.wording import BadInput, shown


def run_as_rank(args: Sequence[str], *, bad_input: int) -> int:
    """The exit code: `bad_input` for a user's mistake, EXIT_LOST where another rank has ended. Ctrl-C is the caller's."""
    end_with_parent()
    ranks: list[Ranks] = []
    try:
        with joined() as joined_ranks:
            ranks.append(joined_ranks)
            check_command(args)
            run(args)
    except BadInput as error:
        if speaks(ranks):
            print(f"stateshape: {error}", file=sys.stderr)
        return bad_input
    except RankLost as error:
        if PARENT not in os.environ and speaks(ranks):
            print(f"stateshape: {error}; the run has stopped; run the same command again to resume", file=sys.stderr)
        return EXIT_LOST
    return 0


def speaks(ranks: Sequence[Ranks]) -> bool:
    """Whether this rank is the one that says it; before it has joined the others it is."""
    return all(one.speaks() for one in ranks)


def check_command(args: Sequence[str]) -> None:
    """Raises BadInput for a command that is not made for several processes."""
    if args and not args[0].startswith("-") and args[0] not in COMMANDS:
        raise BadInput(
            f"command: got {shown(args[0])} in {os.environ['WORLD_SIZE']} processes; expected one of {', '.join(COMMANDS)}; "
            "start it in one process (a study does several runs at a time with --jobs)"
        )

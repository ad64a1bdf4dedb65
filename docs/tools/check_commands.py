"""Checks every command in README.md and docs/ against the command line's own parser. Loads no model, runs nothing.

    python docs/tools/check_commands.py

Prints each command or flag that `stateshape --help` does not know, each missing Makefile target and module, and ends with
code 1 if there are any. `...` at the end of a command stands for the flags --model, --task and --out.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from blocks import Block, Command, blocks_of, commands_of

from stateshape.cli import parser
from stateshape.core.files import BadInput

ROOT = Path(__file__).resolve().parents[2]
ELIDED = {"--model": "embedded", "--task": "arithmetic", "--out": "runs/elided"}


def pages() -> list[Path]:
    """Every page that shows commands: README, CONTRIBUTING and docs/, without what is generated."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in found if page.exists() and "generated" not in page.parts]


@contextlib.contextmanager
def parsing_only() -> Iterator[None]:
    """The parser does all its work, and the command is then not called."""

    def not_called(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
        @functools.wraps(command)
        def keep(*args: object, **kwargs: object) -> Callable[[], None]:
            return lambda: None

        return keep

    called, parser.deferred = parser.deferred, not_called
    try:
        yield
    finally:
        parser.deferred = called


def problem_of(command: Command) -> str | None:
    """What is wrong with a command; None: nothing."""
    words = list(command.words)
    if command.program == "make":
        targets = [word for word in words[1:] if "=" not in word]
        unknown = [word for word in targets if word not in makefile_targets()]
        return f"{command.where}: make has no target {unknown[0]}" if unknown else None
    if command.program.startswith("python") and words[1:2] == ["-m"] and words[2].startswith("benchmarks"):
        missing = importlib.util.find_spec(words[2]) is None
        return f"{command.where}: no module {words[2]}" if missing else None
    if command.program != "stateshape":
        return f"{command.where}: {command.program}: unknown program; say why in a comment: <!-- test: skip: REASON -->"
    if "--config" in words:  # its file is not read here: it may hold the flags that must be there
        at = words.index("--config")
        words = [*words[:at], *words[at + 2 :], "..."]
    if words[-1] == "...":
        elided = {flag: value for flag, value in ELIDED.items() if flag not in words}
        words = [*words[:-1], *(word for pair in elided.items() for word in pair)]
    try:
        with parsing_only(), contextlib.redirect_stdout(io.StringIO()):  # --help prints
            parser.run(words[1:])
    except BadInput as error:
        return f"{command.where}: {' '.join(command.words)}: {error}"
    except SystemExit as ending:  # --help
        return f"{command.where}: exit code {ending.code}" if ending.code else None
    return None


@functools.cache
def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def commands_to_parse(path: Path) -> list[Command]:
    """All commands of a page but those of blocks that are skipped for a reason."""
    found = []
    for block in blocks_of(path):
        if block.is_shell and not block.note("skip:"):
            found += commands_of(block) if block.language else own(block)
        elif block.note("skip:") and own(block):
            raise ValueError(f"{block.where}: a block with stateshape commands is skipped; use 'parse:', or split it")
    return found


def own(block: Block) -> list[Command]:
    """The stateshape and make commands of a block that may hold other things, such as output."""
    lines = [line if re.match(r"(\S*/)?(stateshape|make) |\s", line) else "" for line in block.text.splitlines()]
    return [found for found in commands_of(block, text="\n".join(lines)) if found.program in ("stateshape", "make")]


def main() -> int:
    sys.path.insert(0, str(ROOT))  # benchmarks
    try:
        commands = [command for page in pages() for command in commands_to_parse(page)]
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    problems = [found for command in commands if (found := problem_of(command))]
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{len(commands)} commands in {len(pages())} pages, {len(problems)} wrong")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

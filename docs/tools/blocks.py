"""The code blocks of a Markdown page, and what a test does with each.

A block of commands (`sh`) or Python in docs/ is executed at a small size; in the other pages commands are parsed, and Python is
compiled. An invisible comment above a block changes that:

    <!-- test: file data.jsonl -->                  write the block to this file for the blocks after it
    <!-- test: replace steps=50 -> steps=2 -->      execute it with this text in place of that
    <!-- test: same as examples/my_parts.py -->     the block has to equal this file
    <!-- test: parse: takes an hour -->             check commands and flags only; the reason is required
    <!-- test: needs lm_eval -->                    execute it where this package is installed, else check commands and flags
    <!-- test: skip: installs packages -->          neither; only for blocks without stateshape commands

Knows nothing of the command line's flags.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

COMMENT = re.compile(r"\s*<!-- test: (.+?) -->\s*")
FENCE = re.compile(r"\s*(`{3,}|~{3,})\s*(.*)")
SHELLS = ("sh", "bash", "console")
ACTIONS = ("file", "replace", "same as", "needs", "parse:", "skip:")


@dataclass
class Block:
    path: Path
    line: int  # of its first line of code, from 1
    language: str  # "" for an indented block
    text: str
    notes: list[str] = field(default_factory=list)

    def note(self, action: str) -> str | None:
        """What the comment above says behind this action, such as the reason of "skip:"."""
        found = [note.removeprefix(action).strip() for note in self.notes if note.startswith(action)]
        return found[0] if found else None

    @property
    def is_shell(self) -> bool:
        return self.language in SHELLS or (self.language == "" and bool(_own_commands(self)))

    @property
    def executed_text(self) -> str:
        """The text with the replacements of its comments. A replacement that finds nothing is an error."""
        text = self.text
        for note in self.notes:
            if note.startswith("replace "):
                old, arrow, new = note.removeprefix("replace ").partition(" -> ")
                if not arrow or old not in text:
                    raise ValueError(f"{self.where}: nothing to replace: {note}")
                text = text.replace(old, new)
        return text

    @property
    def where(self) -> str:
        return f"{self.path}:{self.line}"


def blocks_of(path: Path) -> list[Block]:
    """Fenced and indented blocks, in order. MyST directives (```{name}) are no code."""
    found: list[Block] = []
    notes: list[str] = []
    lines = path.read_text(encoding="utf-8").splitlines()
    at = 0
    while at < len(lines):
        line = lines[at]
        if comment := COMMENT.fullmatch(line):
            notes.append(_checked(comment[1], where=f"{path}:{at + 1}"))
        elif fence := FENCE.match(line):
            end = next((i for i in range(at + 1, len(lines)) if lines[i].strip() == fence[1]), len(lines))
            if not fence[2].startswith("{"):
                found.append(Block(path, at + 2, fence[2].split(" ")[0], "\n".join(lines[at + 1 : end]), notes))
            notes, at = [], end
        elif line.startswith("    ") and (at == 0 or not lines[at - 1].strip()):
            end = next(
                (i for i in range(at, len(lines)) if lines[i].strip() and not lines[i].startswith("    ")), len(lines)
            )
            found.append(Block(path, at + 1, "", "\n".join(line[4:] for line in lines[at:end]), notes))
            notes, at = [], end - 1
        elif line.strip() and notes:
            raise ValueError(f"{path}:{at + 1}: a test comment stands above {line!r}, which is no code block")
        at += 1
    return found


def _checked(note: str, *, where: str) -> str:
    if not note.startswith(ACTIONS):
        raise ValueError(f"{where}: got 'test: {note}'; expected one of {', '.join(ACTIONS)}")
    if note.strip() in ("parse:", "skip:"):
        raise ValueError(f"{where}: got no reason; expected one, as in 'test: {note} installs packages'")
    return note


@dataclass
class Command:
    where: str
    words: list[str]

    @property
    def program(self) -> str:
        return self.words[0].rpartition("/")[2]


def commands_of(block: Block, *, text: str | None = None) -> list[Command]:
    """One command per logical line: quotes and a trailing backslash join lines; comments and VAR=value are dropped."""
    found, pending, start = [], "", 0
    for number, line in enumerate((block.text if text is None else text).splitlines()):
        start = number if not pending else start
        pending = f"{pending}\n{line}" if pending else line
        if pending.endswith("\\"):
            pending = pending[:-1]
            continue
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:  # an open quotation mark: the command goes on
            continue
        pending = ""
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if words:
            found.append(Command(f"{block.path}:{block.line + start}", words))
    if pending:
        raise ValueError(f"{block.where}: a command without an end: {pending[:80]!r}")
    return found


def _own_commands(block: Block) -> bool:
    return re.search(r"^(\S*/)?stateshape ", block.text, re.MULTILINE) is not None

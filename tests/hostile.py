"""Hostile input for the fuzz test: mutations of files and flags, each from its own seed, and what counts as a good end.

A good end is success, or one printable line of fewer than 1,000 characters that a user's mistake is told in.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import random
import signal
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from stateshape.cli import main
from stateshape.core.files import BadInput

MAX_CHARACTERS = 1_000
SECONDS = 60  # a case takes milliseconds, on a busy machine a few seconds; this one hangs
LONG = "x" * 5_000
# As JSON values: each is put where something else stood
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 2**31, 2**63, 2**64, 10**30, -(10**40), 10**400, 0.5, -0.0, 1e-320, 1e308, -1e308,
    float("nan"), float("inf"), float("-inf"), "", " ", "a", "0", "-1", "1e9", "NaN", ".inf", "010", "1_000", "true", "null",
    LONG, "x" * 300, "a/b", "../..", "/", "/dev/zero", "~", ".", "a\nb\nc", "a\0b", "\ud83d", "\x1b[31mred\x1b[0m",
    "\u202eevil", "\u200b", "\u2028", "学生", "😀", "</script>", "%s%n{0}{x}", "$x$ \\frac", "=1+1", [], {}, [[]], [1],
    ["a", "a"], {"a": 1}, {"": None}, {LONG: LONG}, [None] * 50, [0.1] * 3, {"task": "facts"}, [["a", "b"]], "embedded",
    "base", "sft", "own.py:Own",
]  # fmt: skip
# As raw text, put anywhere into a file
TEXTS = [
    "[" * 3_000, "{" * 50, '{"a":' * 3_000, "]", "}", "\n", "\r", "\t", "\0", "\ufeff", "\x1b[2J", "\u202e", "'", '"', "\\",
    "\\u0000", "\\ud83d", "NaN", "-Infinity", "1e999", "9" * 5_000, "-0", "010", "0x1f", "1_000", "1:30", "2024-01-01", "~",
    "yes", "no: ", "- ", ": ", "? ", "&a ", "*a ", "&a [*a]", "<<: *a\n", "<<: {a: 1}\n", "!!python/object:os.system x",
    "!!int x", "!!binary x", "!x ", "!!set {a}", "|\n", "%YAML 9.9\n", "---\n", "...\n", "#", ",", LONG, "\ud83d",
    "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n"
    "d: &d [*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f]\n",
]  # fmt: skip


class Hangs(BaseException):
    """Not an Exception: nothing may catch it."""


def changed_bytes(data: bytes, rng: random.Random) -> bytes:
    """The file with one to three faults of the kinds that editors, disks and people make."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = one_fault(data, rng)
    return data


def one_fault(data: bytes, rng: random.Random) -> bytes:
    at, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    end = rng.choice((at, min(end, at + 8), end))
    text = rng.choice(TEXTS).encode("utf-8", "surrogatepass")
    return rng.choice((
        lambda: data[:at] + text + data[end:],
        lambda: data[:at] + text + data[at:],
        lambda: data[:at],
        lambda: data[:at] + data[end:],
        lambda: data[:end] + data[at:end] + data[end:],
        lambda: data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :],
        lambda: changed_lines(data, rng),
        lambda: recoded(data, rng),
    ))()  # fmt: skip


def changed_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True) or [b""]
    k = rng.randrange(len(lines))
    return b"".join(rng.choice((lines[:k] + lines[k + 1 :], lines[:k] + [lines[k]] * 2 + lines[k + 1 :], lines[::-1])))


def recoded(data: bytes, rng: random.Random) -> bytes:
    text = data.decode("utf-8", "replace")
    return rng.choice((
        lambda: b"\xef\xbb\xbf" + data, lambda: text.encode("utf-16"), lambda: text.encode("utf-16-le"),
        lambda: text.encode("latin-1", "replace") + b"\xe9", lambda: data.replace(b"\n", b"\r\n"),
        lambda: data.replace(b"\n", b"\r"),
        lambda: b"", lambda: rng.randbytes(200), lambda: b"PAR1" + rng.randbytes(64) + b"PAR1",
    ))()  # fmt: skip


def changed_value(value: Any, rng: random.Random) -> Any:
    """The JSON value with one part exchanged, dropped, doubled or renamed, wherever it lies."""
    value = copy.deepcopy(value)
    places: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        one = waiting.pop()
        keys = list(one) if isinstance(one, dict) else range(len(one)) if isinstance(one, list) else []
        places += [(one, key) for key in keys]
        waiting += [one[key] for key in keys]
    if not places:
        return rng.choice(VALUES)
    for _ in range(rng.choice((1, 1, 2))):
        holder, key = rng.choice(places)
        with contextlib.suppress(
            KeyError, IndexError, OverflowError
        ):  # a part of what was exchanged before; 0.3 * 10**400
            deed = rng.randrange(8)
            if deed == 0:
                del holder[key]
            elif deed == 1 and isinstance(holder, dict):
                holder[str(rng.choice(VALUES))[:6_000]] = holder.pop(key)
            elif deed == 2 and isinstance(holder[key], int | float):
                holder[key] = holder[key] * rng.choice((-1, 10**6, 10**18, 0.3)) + rng.choice((0, 1))
            else:
                holder[key] = copy.deepcopy(rng.choice(VALUES))
    return value


def changed_json(data: bytes, rng: random.Random) -> bytes:
    """A JSON or JSONL file with a changed value in it; now and then with changed bytes."""
    if rng.random() < 0.25:
        return changed_bytes(data, rng)
    lines = (
        [data.decode()] if data.count(b"\n") != len(data.splitlines()) or data.startswith((b"{\n", b"[\n")) else None
    )
    rows = [json.loads(line) for line in (lines or data.decode().splitlines())]
    k = rng.randrange(len(rows))
    rows[k] = changed_value(rows[k], rng)
    return ("\n".join(json.dumps(row) for row in rows) + "\n").encode()


def changed_text(text: str, rng: random.Random) -> str:
    """As an argument of a command: any text, half surrogates too."""
    return changed_bytes(text.encode("utf-8", "surrogatepass"), rng).decode("utf-8", "surrogateescape")


def changed_words(words: list[str], rng: random.Random) -> list[str]:
    """A command line with one or two faults; the command itself mostly stays."""
    for _ in range(rng.choice((1, 1, 2))):
        words = one_word_changed(words, rng) or ["study"]
    return words


def one_word_changed(words: list[str], rng: random.Random) -> list[str]:
    k = rng.randrange(0 if rng.random() < 0.05 else min(1, len(words) - 1), len(words))
    text = str(rng.choice((rng.choice(TEXTS), short(rng.choice(VALUES)))))
    return rng.choice((
        lambda: [*words[:k], text, *words[k + 1 :]],
        lambda: [*words[:k], text, *words[k + 1 :]],
        lambda: [*words[:k], changed_text(words[k], rng), *words[k + 1 :]],
        lambda: words[:k] + words[k + 1 :],
        lambda: [*words[:k], words[k], *words[k:]],
        lambda: [*words[:k], text, *words[k:]],
    ))()  # fmt: skip


def short(value: Any) -> str:
    return "9" * 4_400 if isinstance(value, int) and value.bit_length() > 1_000 else str(value)


class End(NamedTuple):
    """`told`: the line of a refusal, or what was wrong."""

    kind: Literal["done", "refused", "wrong"]
    told: str = ""


def outcome(act: Callable[[], object], *, allowed: tuple[type[Exception], ...] = ()) -> End:
    """`allowed`: what counts as done."""
    try:
        with in_time(), quiet():
            act()
    except BadInput as error:
        return refused(str(error))
    except allowed:
        return End("done")
    except Hangs:
        return End("wrong", f"was not done after {SECONDS} seconds")
    except Exception as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = "" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        return End("wrong", f"{type(error).__name__} at {place}: {str(error)[:200]!r}")
    return End("done")


def outcome_of_command(args: list[str], *, allowed: tuple[type[Exception], ...] = ()) -> End:
    told = io.StringIO()
    codes: list[int] = []

    def act() -> None:
        try:
            with contextlib.redirect_stderr(told):
                codes.append(main(args))
        except SystemExit as ending:
            codes.append(int(ending.code or 0))

    end = outcome(act, allowed=allowed)
    if end.kind != "done" or codes in ([0], []):
        return end
    said = told.getvalue()
    if codes != [2] or not said.startswith("stateshape: ") or not said.endswith("\n"):
        return End("wrong", f"exit code {codes}, stderr {said[:300]!r}")
    return refused(said[:-1])


def refused(line: str) -> End:
    if len(line) >= MAX_CHARACTERS or not line.isprintable() or not line:
        return End("wrong", f"a message of {len(line)} characters: {line[:300]!r}")
    return End("refused", line)


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    def late(*_: object) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield

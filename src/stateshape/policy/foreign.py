"""Turns errors of the libraries that read models, adapters and tokenizers into one-line reasons. Knows no file format."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stateshape.core.files import BadInput
from stateshape.core.wording import one_line

MAX_REASON = 200


def reason_of(error: BaseException) -> str:
    """The first line of the error's text: the rest is advice for programmers."""
    lines = str(error).strip().splitlines()
    return one_line(lines[0] if lines else type(error).__name__, limit=MAX_REASON)


@contextmanager
def reading_foreign(what: str, expected: str) -> Iterator[None]:
    """Raises BadInput `what (reason); expected ...` for any error raised inside.

    Damaged files make transformers, peft, tokenizers and safetensors raise errors of any kind, plain Exception among them.
    """
    try:
        yield
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"{what} ({reason_of(error)}); expected {expected}") from None

"""Ids as text: the only place where a row is shown, or compared, in pieces.

Recorded ids are read by the tokenizer alone: no weights are loaded, and torch only for an unusual tokenizer. Knows nothing of
how a text is graded: a whole answer is `Policy.decode`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, groupby, takewhile
from operator import eq
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from huggingface_hub import try_to_load_from_cache
from tokenizers import Tokenizer

from stateshape.core.files import BadInput
from stateshape.core.records import Span, StateSample
from stateshape.core.wording import one_line
from stateshape.embedded import base_folder
from stateshape.record.schema import ORIGINS, Source, vocabulary_sha256

if TYPE_CHECKING:
    from stateshape.core.states import Trajectory

FILE = "tokenizer.json"


class Decodes(Protocol):
    def decode(self, ids: Sequence[int], skip_special_tokens: bool = ...) -> str: ...


class Decoder(Decodes, Protocol):
    def get_vocab(self) -> dict[str, int]: ...


def open_decoder(source: Source) -> Decoder:
    """Raises BadInput where the tokenizer is gone, or is another one now."""
    folder = base_folder() if source.model == "embedded" else Path(source.model)
    path = folder / FILE if folder.is_dir() else try_to_load_from_cache(source.model, FILE)
    if path and Path(str(path)).is_file():
        light: Decoder | None = light_tokenizer(Path(str(path)))
        if light is not None and vocabulary_sha256(light.get_vocab()) == source.vocabulary_sha256:
            return light
    decoder = open_with_transformers(source.model, folder)
    if vocabulary_sha256(decoder.get_vocab()) != source.vocabulary_sha256:
        raise BadInput(
            f"tokenizer: the one of {source.model!r} has another vocabulary than the states were recorded with; expected that "
            "of the run; put the model it was trained on back in its place"
        )
    return decoder


def light_tokenizer(path: Path) -> Decoder | None:
    """None where it can't be read: transformers will give the reason."""
    try:
        return Tokenizer.from_file(str(path))
    except Exception:  # what the library raises
        return None


def open_with_transformers(model: str, folder: Path) -> Decoder:
    """For tokenizers that are not one tokenizer.json: tokens added to it, SentencePiece, GGUF."""
    from transformers import AutoTokenizer

    gguf = next(folder.glob("*.gguf"), None) if folder.is_dir() else None
    options = {} if gguf is None else {"gguf_file": gguf.name}
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(folder) if folder.is_dir() else model, **options)
    except Exception as error:  # damaged files make these libraries raise anything
        reason = one_line((str(error).strip().splitlines() or [type(error).__name__])[0], limit=200)
        raise BadInput(
            f"tokenizer: that of {model!r} could not be loaded ({reason}); expected the model that the run was trained on; "
            "--sql and --summary need no tokenizer"
        ) from None
    tokenizer.clean_up_tokenization_spaces = False
    return tokenizer


def check_row(ids: Sequence[int] | None, origins: Sequence[int] | None, supervised: Sequence[bool] | None) -> None:
    """Raises BadInput for a row that no run records, as of a damaged file or another program's."""
    if ids is None or origins is None or supervised is None or not len(ids) == len(origins) == len(supervised):
        raise BadInput(
            "states: got a row whose ids, origins and supervised differ in length; expected one for each token"
        )
    if not all(origin in range(len(ORIGINS)) for origin in origins) or any(token is None or token < 0 for token in ids):
        raise BadInput(f"states: got a row with an unknown origin or token; expected origins 0 to {len(ORIGINS) - 1}")


def spans_of(ids: Sequence[int], origins: Sequence[int], supervised: Sequence[bool], decoder: Decodes) -> list[Span]:
    """The row's text, split where the writer or the supervision changes."""
    check_row(ids, origins, supervised)
    runs = [(mark, len(list(run))) for mark, run in groupby(zip(origins, supervised, strict=True))]
    ends = list(accumulate(length for _, length in runs))
    texts = added_texts(lambda end: decoder.decode(ids[:end], skip_special_tokens=False), ends)
    return [
        Span(origin=ORIGINS[origin], text=text, is_supervised=is_supervised)
        for ((origin, is_supervised), _), text in zip(runs, texts, strict=True)
    ]


def added_texts(text_until: Callable[[int], str], ends: Sequence[int], *, start: int = 0) -> list[str]:
    """What each stretch of tokens adds to the text before it; the stretches end at `ends`, the first begins at `start`.

    Joined, they are the text of the last prefix after the first, for any tokenizer. A stretch decoded alone would not do: a
    tokenizer may drop its leading space, and a character may span several tokens. Such a character belongs to the
    stretch that completes it; one that is never completed, to the stretch where its replacement sign first appears.

    Args: text_until: the text of the row's first k tokens.
    """
    if not ends:
        return []
    whole = text_until(ends[-1])
    done = shared_length(text_until(start), whole) if start else 0
    texts = []
    for end in ends[:-1]:
        known = max(done, shared_length(text_until(end), whole))
        texts.append(whole[done:known])
        done = known
    return [*texts, whole[done:]]


def shared_length(text: str, whole: str) -> int:
    """Characters that both begin with."""
    return len(text) if whole.startswith(text) else sum(1 for _ in takewhile(bool, map(eq, text, whole)))


def state_sample(
    row: Trajectory, decoder: Decodes, *, step: int | None, supervised: Sequence[bool], reward: float | None = None
) -> StateSample:
    """A trajectory, readable."""
    spans = spans_of(row.ids, row.origins, supervised, decoder)
    return StateSample(item_id=row.item_id, step=step, spans=spans, finish=row.finish, reward=reward)

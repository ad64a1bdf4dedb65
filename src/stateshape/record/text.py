"""Recorded ids as text, by the tokenizer alone: no weights are loaded, and torch only for an unusual tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from huggingface_hub import try_to_load_from_cache
from tokenizers import Tokenizer

from stateshape.core.files import BadInput
from stateshape.core.records import Span
from stateshape.core.wording import one_line
from stateshape.embedded import base_folder
from stateshape.record.schema import ORIGINS, Source, vocabulary_sha256

FILE = "tokenizer.json"


class Decoder(Protocol):
    def get_vocab(self) -> dict[str, int]: ...
    def decode(self, ids: Sequence[int], skip_special_tokens: bool = ...) -> str: ...


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
    """None where it can't be read: transformers will say why."""
    try:
        return Tokenizer.from_file(str(path))
    except Exception:  # what the library raises
        return None


def open_with_transformers(model: str, folder: Path) -> Decoder:
    """For tokenizers that are not one tokenizer.json: tokens added beside it, SentencePiece, GGUF."""
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
        raise BadInput("states: got a row with ids, origins and supervised of other lengths; expected one each a token")
    if not all(origin in range(len(ORIGINS)) for origin in origins) or any(token is None or token < 0 for token in ids):
        raise BadInput(f"states: got a row with an unknown origin or token; expected origins 0 to {len(ORIGINS) - 1}")


def spans_of(ids: Sequence[int], origins: Sequence[int], supervised: Sequence[bool], decoder: Decoder) -> list[Span]:
    """The row's text, split where the writer or the supervision changes.

    A span's text is what it adds to the text before it: alone, a tokenizer might drop its leading space or break a character.
    """
    check_row(ids, origins, supervised)
    spans, before, start = [], "", 0
    for (origin, is_supervised), run in groupby(zip(origins, supervised, strict=True)):
        end = start + len(list(run))
        whole = decoder.decode(list(ids[:end]), skip_special_tokens=False)
        is_longer = whole.startswith(before)
        text = whole[len(before) :] if is_longer else decoder.decode(list(ids[start:end]), skip_special_tokens=False)
        spans.append(Span(origin=ORIGINS[origin], text=text, is_supervised=is_supervised))
        before, start = whole, end
    return spans

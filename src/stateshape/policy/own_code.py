"""A model's own forward pass, as transformers wrote it: what it hands to its head, and its logits with a cache.

Knows nothing of our passes.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

# what a model's code may raise where it does not know what is asked of it
FOREIGN = (AttributeError, TypeError, RuntimeError, LookupError, ValueError, NotImplementedError)


class _Reached(Exception):
    """The head was reached: what it was given is all that is wanted."""


def hidden_to_head(model: Any, **inputs: Any) -> Tensor:
    """Hidden states [B, T, D] that the model's own code gives to its head, whose logits are not computed.

    Raises: LookupError if the head is never asked.
    """

    def stop(module: Any, args: tuple[Tensor, ...]) -> None:
        given.append(args[0])
        raise _Reached

    given: list[Tensor] = []
    handle = model.get_output_embeddings().register_forward_pre_hook(stop)
    try:
        model(**inputs)
    except _Reached:
        return given[0]
    finally:
        handle.remove()
    raise LookupError("a head that its own code never asks")


@contextmanager
def listening_to_head(model: Any) -> Iterator[list[Tensor]]:
    """Collects what the head is given while the model's own code runs."""
    given: list[Tensor] = []
    handle = model.get_output_embeddings().register_forward_pre_hook(lambda module, args: given.append(args[0]))
    try:
        yield given
    finally:
        handle.remove()


def accepted(model: Any, **inputs: Any) -> dict[str, Any]:
    """Those of the inputs that the model's forward pass names."""
    names = inspect.signature(model.forward).parameters
    return {name: value for name, value in inputs.items() if name in names}

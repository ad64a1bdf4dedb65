"""Arithmetic in double precision, whatever the weights' own: it separates a wrong formula from rounding.

Within `with ExactArithmetic():` every operation takes its numbers as float64 and gives float64, one operand at a time, so
that there is never a second copy of a model. Two ways to compute the same value then agree to about 1e-12, on any processor
and for weights in any precision; different values do not. Slow, and meant for a few tokens. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

ROUNDED = (torch.float32, torch.bfloat16, torch.float16)
MAX_NUMBERS = 2**24  # of a head taken in double precision at a time: 128 MB
aten = torch.ops.aten
CONVOLUTIONS = (torch.conv1d, torch.conv2d)


class ExactConvolutions(TorchFunctionMode):
    """A convolution compares its operands' dtypes before ExactArithmetic is asked. Goes with it, for these only."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in CONVOLUTIONS:
            return func(*tree_map(_exact, args), **tree_map(_exact, kwargs))
        return func(*args, **kwargs)


class ExactArithmetic(TorchDispatchMode):
    """Intercepts operations while it is active; computes no gradients."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.is_view or func._schema.is_mutable:  # nothing is computed, or the result goes into an existing tensor
            return func(*args, **kwargs)
        if func is aten.embedding.default:  # looked up, so the table needs no conversion
            return _exact(func(*args, **kwargs))
        if func is aten.mm.default and args[1].dtype in ROUNDED and args[1].numel() > MAX_NUMBERS:
            return _wide_product(func, *args)
        return func(*tree_map(_exact, args), **tree_map(_exact, kwargs))


def _exact(value: Any) -> Any:
    """Also converts the dtype requested for a result."""
    if isinstance(value, Tensor):
        return value.double() if value.dtype in ROUNDED else value
    return torch.float64 if value in ROUNDED else value


def _wide_product(func: Callable[..., Tensor], left_NI: Tensor, right_IO: Tensor) -> Tensor:
    """A head over a large vocabulary, some columns at a time."""
    columns = max(1, MAX_NUMBERS // right_IO.shape[0])
    return torch.cat([func(left_NI.double(), part.double()) for part in right_IO.split(columns, dim=1)], dim=1)

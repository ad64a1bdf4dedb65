"""From last hidden states to logits: a matrix and, in some models, a bias, a scale and a soft cap.

    logits = c tanh(s (h W^T + b) / c)        Cohere and Granite have a scale s, Gemma 2 a soft cap c, Phi a bias b

Does not know which model has what (policy/own_head.py finds out by comparing numbers).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Head(NamedTuple):
    """Most models have the matrix [V, D] alone."""

    weight_VD: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None  # logits stay within (-cap, cap)

    @property
    def num_tokens(self) -> int:
        """V: rows of the matrix, those that pad the vocabulary among them."""
        return self.weight_VD.shape[0]

    @property
    def width(self) -> int:
        """D."""
        return self.weight_VD.shape[1]

    def first(self, num_tokens: int) -> Head:
        """The head of the first tokens of the vocabulary."""
        if num_tokens == self.num_tokens:
            return self
        bias_V = None if self.bias_V is None else self.bias_V[:num_tokens]
        return self._replace(weight_VD=self.weight_VD[:num_tokens], bias_V=bias_V)

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """[N, V]. The product runs in the weights' dtype, the rest in fp32 (fp64 where the weights are)."""
        product_NV = F.linear(hidden_ND, self.weight_VD, self.bias_V)
        return self.finished(product_NV.to(torch.promote_types(product_NV.dtype, torch.float32)))

    def finished(self, logits_NV: Tensor) -> Tensor:
        """Scale and soft cap, for products with the matrix."""
        if self.scale != 1.0:
            logits_NV = logits_NV * self.scale
        return logits_NV if self.cap is None else self.cap * torch.tanh(logits_NV / self.cap)

    def to_product(self, slope_NV: Tensor, logits_NV: Tensor) -> Tensor:
        """The gradient [N, V] at h W^T + b, in the weights' dtype, from that at the logits."""
        if self.cap is not None:
            slope_NV = slope_NV * (1 - (logits_NV / self.cap) ** 2)
        if self.scale != 1.0:
            slope_NV = slope_NV * self.scale
        return slope_NV.to(self.weight_VD.dtype)

    def to_hidden(self, slope_NV: Tensor, logits_NV: Tensor) -> Tensor:
        """The gradient [N, D] at the hidden states, from that at the logits they gave."""
        return self.to_product(slope_NV, logits_NV) @ self.weight_VD

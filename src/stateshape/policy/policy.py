"""A policy: base weights seen through one adapter, or through none. Learner, teacher, reference and base are all this.

Knows its tokenizer and its end tokens; knows nothing of tasks, methods or files.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stateshape.core.files import BadInput
from stateshape.policy.weights import SharedWeights


class Policy:
    """A view on shared weights. `is_trainable` policies carry gradients to their adapter; all others never do."""

    def __init__(self, weights: SharedWeights, adapter: str | None, *, is_trainable: bool = False) -> None:
        assert not (is_trainable and adapter is None), "the base weights are never trained"
        self.weights = weights
        self.adapter = adapter
        self.is_trainable = is_trainable
        self.tokenizer = weights.tokenizer
        self.device = weights.device
        self.eos_ids = end_ids(weights)
        self.pad_id: int = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.eos_ids[0]
        self.max_positions: int | None = getattr(weights.config, "max_position_embeddings", None)

    @property
    def head_VD(self) -> Tensor:
        return self.weights.head_VD

    def activate(self) -> None:
        """Makes this policy the one that the shared weights' forward pass follows."""
        trainable = self.is_trainable and torch.is_grad_enabled()
        self.weights.activate(self.adapter, trainable=trainable)

    def hidden(self, ids_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Last hidden states [B, T, D]. Rows are right-padded: causal attention never sees what stands after a token,
        so no mask is needed and cells beyond a row's length hold nothing meaningful."""
        del lengths_B
        self.activate()
        return self.weights.body(input_ids=ids_BT, use_cache=False).last_hidden_state

    def hidden_branches(self, ids_BT: Tensor, branch_BT: Tensor) -> Tensor:
        """Last hidden states [B, T, D] where a row is a trunk and branches that do not see one another.

        branch_BT: 0 on the trunk, 1, 2, ... on branches that continue it, -1 on padding. A branch token stands at the
        position it would have right behind the trunk.
        """
        self.activate()
        width = ids_BT.shape[1]
        place_T = torch.arange(width, device=ids_BT.device)
        trunk_B = (branch_BT == 0).sum(1)
        same_BTT = branch_BT[:, :, None] == branch_BT[:, None, :]
        causal_TT = place_T[:, None] >= place_T[None, :]
        visible_BTT = causal_TT & (same_BTT | (branch_BT == 0)[:, None, :])
        depth_BT = (same_BTT & causal_TT).sum(-1) - 1  # how far into its own trunk or branch a token stands
        position_BT = torch.where(branch_BT == 0, depth_BT, trunk_B[:, None] + depth_BT)
        return self.weights.body(
            input_ids=ids_BT, attention_mask=visible_BTT[:, None], position_ids=position_BT, use_cache=False
        ).last_hidden_state

    def parameters(self) -> list[nn.Parameter]:
        assert self.is_trainable and self.adapter is not None
        return self.weights.trainable_parameters(self.adapter)

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a prompt, with the tokenizer's own BOS if it has the habit of adding one; never an EOS."""
        ids = self.tokenizer(text)["input_ids"]
        return ids[:-1] if ids and len(ids) > 1 and ids[-1] in self.eos_ids else ids

    def encode(self, text: str) -> list[int]:
        """Ids of a text that follows other text: no special tokens are added."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)


def end_ids(weights: SharedWeights) -> tuple[int, ...]:
    """Every id that ends a text: the tokenizer's EOS first, then the generation config's (a model may have several)."""
    configured = getattr(weights.model, "generation_config", None)
    extra = configured.eos_token_id if configured is not None else None
    extras = extra if isinstance(extra, list) else [extra]
    own = weights.tokenizer.eos_token_id
    found = [token for token in [own, *extras] if token is not None]
    if not found:
        raise BadInput(
            f"model: got {weights.source!r}, which has no end token; expected one in its tokenizer or generation config; "
            "set eos_token in tokenizer_config.json"
        )
    return tuple(dict.fromkeys(found))

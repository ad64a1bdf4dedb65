"""A policy: base weights seen through one adapter, none, or a copy of all of them.

Learner, teacher, reference and base are all this. Knows its tokenizer and its end tokens; knows nothing of tasks, methods or
files.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from stateshape.core.chat import Chat
from stateshape.core.files import BadInput
from stateshape.core.head import Head
from stateshape.policy import chat as chats
from stateshape.policy.flops import Flops, flops_of

if TYPE_CHECKING:
    from stateshape.policy.weights import SharedWeights


class Joined(NamedTuple):
    """A prompt's ids and those of the text after it. is_split: no token spans both."""

    prompt: list[int]
    text: list[int]
    is_split: bool


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
        self.bos_id: int | None = self.tokenizer.bos_token_id
        pads = [token for token in (self.tokenizer.pad_token_id, *self.eos_ids, 0) if token is not None]
        self.pad_id: int = pads[0]  # masks come from lengths: any will do
        self.max_positions: int | None = getattr(weights.config, "max_position_embeddings", None)

    @property
    def head(self) -> Head:
        return self.weights.head_of(self.adapter, trainable=self.is_trainable and torch.is_grad_enabled())

    def head_now(self) -> Head:
        """The head as it is, also after later updates."""
        head = self.head
        if not self.weights.is_full(self.adapter):
            return head
        bias_V = None if head.bias_V is None else head.bias_V.detach().clone()
        return head._replace(weight_VD=head.weight_VD.detach().clone(), bias_V=bias_V)

    def has_tokens_of(self, other: Policy) -> bool:
        """Whether every token id means the same in both."""
        return self.weights is other.weights or self.weights.vocabulary == other.weights.vocabulary

    def activate(self) -> None:
        """Makes the shared weights' forward pass use this policy."""
        trainable = self.is_trainable and torch.is_grad_enabled()
        self.weights.activate(self.adapter, trainable=trainable)

    def hidden(self, ids_BT: Tensor, lengths_B: Tensor, at_BT: Tensor) -> Tensor:
        """Last hidden states [N, D] of the tokens chosen by `at_BT` (bool), row by row.

        Rows are right-padded. Common beginnings of rows are computed once; tokens after a row's last chosen one, and rows
        without one, are not computed.
        """
        chosen_BT = at_BT & (torch.arange(at_BT.shape[1], device=at_BT.device) < lengths_B[:, None])
        places = [row.nonzero()[0] for row in chosen_BT.cpu().numpy()]
        ids = ids_BT.cpu().numpy()
        return self.hidden_at([ids[b, : at[-1] + 1].tolist() for b, at in enumerate(places) if len(at)], places)

    def hidden_at(self, rows: Sequence[Sequence[int]], places: Sequence[Sequence[int] | np.ndarray]) -> Tensor:
        """Last hidden states [N, D] of each row at its places, in order. Rows without places are not among `rows`."""
        asked = [np.asarray(at) for at in places if len(at)]
        longest = max(map(len, rows), default=0)
        self.check_length(longest)
        if self.max_positions is not None and longest > self.max_positions:
            raise BadInput(
                f"{self.weights.source}: got a row of {longest} tokens; expected at most the model's {self.max_positions} "
                "positions; shorten the prompts or what is written behind them, or use a model with more"
            )
        if not rows:
            made_ND = self.head.weight_VD.new_zeros(0, self.head.width)
            return made_ND.requires_grad_(self.is_trainable and torch.is_grad_enabled())
        self.activate()
        passed = self.weights.hidden_at(rows, asked)
        self.count_work(tokens=passed.tokens, pairs=passed.pairs, positions=len(passed.hidden_ND))
        return passed.hidden_ND

    @property
    def longest_row(self) -> int | None:
        """Most tokens a row may have; None for no bound."""
        return min((n for n in (self.max_positions, self.weights.row_limit) if n is not None), default=None)

    def check_length(self, num_tokens: int) -> None:
        """Raises BadInput for a row so long that the model's rotary angles would depend on other rows (policy/rotary.py)."""
        limit = self.weights.row_limit
        if limit is not None and num_tokens > limit:
            raise BadInput(
                f"model: got a row of {num_tokens} tokens for {self.weights.source!r}, whose rotary angles beyond {limit} "
                f"positions depend on the longest row of a pass (longrope or dynamic); expected at most {limit} tokens; use "
                "shorter rows or another model"
            )

    @cached_property
    def flops(self) -> Flops | None:
        """None: not known."""
        return flops_of(self.weights, self.adapter)

    def count_work(self, *, tokens: int, pairs: int, positions: int) -> None:
        """Adds a pass to the meter: its tokens, query-key pairs, and positions that the head reads (policy/flops.py)."""
        is_backward = self.is_trainable and torch.is_grad_enabled()
        work = {"tokens": tokens, "pairs": pairs, "positions": positions}
        flops = None if self.flops is None else self.flops.of(**work, is_backward=is_backward)
        self.weights.meter.count(tokens=tokens, flops=flops)

    def parameters(self) -> list[nn.Parameter]:
        assert self.is_trainable and self.adapter is not None
        return self.weights.trainable_parameters(self.adapter)

    def encode_prompt(self, asked: str | Chat) -> list[int]:
        """Ids of a prompt: a text, with the tokenizer's own BOS if it adds one and the text has none, never an EOS; or a chat.

        A chat is rendered by this policy's own chat template, up to where the assistant begins. Raises BadInput.
        """
        if isinstance(asked, Chat):
            self.check_template(asked)
            return chats.prompt_ids(self.tokenizer, asked)
        return self._bare(self._encoded(asked))

    def rendered(self, chat: Chat) -> chats.Rendered:
        """A chat's ids, and which of them the assistant wrote. Raises BadInput naming the message."""
        self.check_template(chat)
        return chats.rendered(self.tokenizer, chat)

    def prompt_text(self, asked: str | Chat) -> str:
        """The text whose ids `encode_prompt` gives."""
        if isinstance(asked, Chat):
            self.check_template(asked)
            return chats.prompt_text(self.tokenizer, asked)
        return asked

    def check_template(self, chat: Chat) -> None:
        chats.check_template(self.tokenizer, model=self.weights.source, where=chat.where)

    @cached_property
    def turn_ends(self) -> tuple[int, ...]:
        """The token by which its chat template ends a turn, if there is one."""
        return chats.turn_ends(self.tokenizer)

    def _encoded(self, texts: Any) -> Any:
        return self.tokenizer(texts, verbose=False)[
            "input_ids"
        ]  # our own message on lengths says more than transformers'

    def _bare(self, ids: list[int]) -> list[int]:
        if self.bos_id is not None and ids[:2] == [self.bos_id] * 2:
            ids = ids[1:]
        return ids[:-1] if ids and len(ids) > 1 and ids[-1] in self.eos_ids else ids

    def encode(self, text: str) -> list[int]:
        """Ids of a text on its own, without special tokens. For a text after a prompt, see encode_joined."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def encode_joined(self, pairs: Sequence[tuple[str, str]]) -> list[Joined]:
        """Encodes each prompt together with the text after it; the text's ids are those that follow the prompt's.

        A tokenizer that puts a blank before every text (Llama-2's) would give a text encoded alone one blank too many. If a
        token spans both, the text is encoded alone: the prompt's ids stay those that are sampled from.
        """
        if not pairs:
            return []
        prompts = self._encoded([prompt for prompt, _ in pairs])
        wholes = self._encoded([prompt + text for prompt, text in pairs])
        joined = []
        for (_, text), prompt, whole in zip(pairs, map(self._bare, prompts), map(self._bare, wholes), strict=True):
            is_split = whole[: len(prompt)] == prompt
            joined.append(Joined(prompt, whole[len(prompt) :] if is_split else self.encode(text), is_split))
        return joined

    def fitted(self, prompt: list[int], *, behind: int) -> list[int]:
        """The prompt's ids with room for so many tokens after them: a longer prompt loses tokens on the left."""
        if self.max_positions is None:
            return prompt
        if behind >= self.max_positions:
            raise BadInput(
                f"{self.weights.source}: got {behind} tokens behind a prompt; expected fewer than the model's "
                f"{self.max_positions} positions; ask for fewer new tokens, shorten the solutions, or use a model with more"
            )
        return prompt[-(self.max_positions - behind) :]

    def fitted_prompt(self, asked: str | Chat, *, behind: int) -> list[int]:
        """Ids of a prompt with room for so many tokens after them.

        A chat loses its oldest exchanges as a whole; a text, or what is left of a chat, loses tokens on the left.
        """
        ids = self.encode_prompt(asked)
        if isinstance(asked, Chat) and self.max_positions is not None:
            shorter = asked.shortened()
            while len(ids) + behind > self.max_positions and (fewer := next(shorter, None)) is not None:
                ids = self.encode_prompt(fewer)
        return self.fitted(ids, behind=behind)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return self.tokenizer.decode(
            list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )


def end_ids(weights: SharedWeights) -> tuple[int, ...]:
    """Every id that ends a text, several or none: the tokenizer's EOS first, then the generation config's."""
    configured = getattr(weights.model, "generation_config", None)
    extra = configured.eos_token_id if configured is not None else None
    extras = extra if isinstance(extra, list) else [extra]
    own = weights.tokenizer.eos_token_id
    ends = [token for token in [own, *extras] if token is not None]
    return tuple(dict.fromkeys(ends))

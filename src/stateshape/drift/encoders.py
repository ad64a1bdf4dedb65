"""Vectors of states other than word counts: hidden states of the frozen base, or a sentence encoder's embeddings.

Both read text: a state is encoded again by whoever looks at it, so base and run are seen with the same eyes. Vectors come
back as the model makes them; rulers.py centres and scales them on the base.

Suffixes: N states, D features.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float

from stateshape.core.files import BadInput
from stateshape.drift.rulers import Encoder
from stateshape.drift.states import PrefixStates
from stateshape.policy.policy import Policy

Texts = tuple[str, ...]

CHUNK_TOKENS = 8192  # a pass's tokens, counted without what rows share


class HiddenStates:
    """Last hidden states of a frozen policy, mean over the response's tokens. Give the base, never the run."""

    def __init__(self, policy: Policy) -> None:
        assert not policy.is_trainable, "features come from a frozen policy"
        self._policy = policy
        self.features = f"last hidden states of {policy.weights.source}, mean over response tokens, centred and scaled"

    def encode(self, states: PrefixStates) -> Float[np.ndarray, "N D"]:
        """The prompt is context and not averaged. A prefix that decodes to no text is seen at the prompt's last token."""
        rows, places = [], []
        for response, state in zip(states.responses, states.states):
            (joined,) = self._policy.encode_joined([(state[: len(state) - len(response)], response)])
            prompt = self._policy.fitted(joined.prompt, behind=len(joined.text))
            ids = [*prompt, *joined.text]
            rows.append(ids)
            places.append(range(min(len(prompt), len(ids) - 1), len(ids)))
        means, first, size = [], 0, 0
        for i, row in enumerate(rows):
            if size + len(row) > CHUNK_TOKENS and i > first:
                means.append(self._means(rows[first:i], places[first:i]))
                first, size = i, 0
            size += len(row)
        means.append(self._means(rows[first:], places[first:]))
        return np.concatenate(means)

    @torch.no_grad()
    def _means(self, rows: list[list[int]], places: list[range]) -> Float[np.ndarray, "N D"]:
        hidden_MD = self._policy.hidden_at(rows, [list(at) for at in places]).float().cpu()
        return np.stack([part.mean(dim=0).numpy() for part in hidden_MD.split([len(at) for at in places])])


class SentenceEncoder:
    """Embeddings of response prefixes from any sentence-transformers model; the optional extra `encoder` brings it."""

    def __init__(self, model: str) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise BadInput(
                f"drift encoder: got {model!r}, but sentence-transformers is not installed; "
                "pip install 'stateshape[encoder]'"
            ) from None
        self._model = SentenceTransformer(model)
        self.features = f"embeddings of response prefixes by {model}, centred and scaled"

    def encode(self, states: PrefixStates) -> Float[np.ndarray, "N D"]:
        return np.asarray(self._model.encode(states.responses, show_progress_bar=False), np.float32)


class Remembering:
    """An encoder that keeps what it made last: a study compares run after run with the same two samples of the base."""

    def __init__(self, encoder: Encoder, num_kept: int = 3) -> None:
        def encode(responses: Texts, states: Texts, prompt_ids: Texts) -> Float[np.ndarray, "N D"]:
            made_ND = encoder.encode(
                PrefixStates(responses=list(responses), states=list(states), prompt_ids=list(prompt_ids))
            )
            made_ND.setflags(write=False)
            return made_ND

        self.features = encoder.features
        self._encode = lru_cache(maxsize=num_kept)(encode)

    def encode(self, states: PrefixStates) -> Float[np.ndarray, "N D"]:
        return self._encode(tuple(states.responses), tuple(states.states), tuple(states.prompt_ids))

"""Sampling from a geometric mixture of two policies: both read every row in lockstep, each in a cache of its own.

    p(y | s) = a(y | s)^(1 - w) b(y | s)^w / Z(s),   so that its logits are (1 - w) z_a + w z_b

The rows, slots and draws are those of local.py; with w = 0 the rows are those of `a` alone, with w = 1 those of `b`. Log-probs
are the mixture's. Nothing is recorded as a graph: on a GPU this is slower than one policy by more than a factor of two.
The mixture as a source of states: arXiv:2609.35259. Does not know which of the two is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from stateshape.core.files import BadInput
from stateshape.core.head import Head
from stateshape.core.tensors import cooled
from stateshape.policy.decoder import Attend, Decoder, ForwardPass
from stateshape.policy.mixing import Mixing
from stateshape.policy.policy import Policy
from stateshape.policy.tree_attention import Layout, TreeAttention
from stateshape.sampling.decode import Decoding
from stateshape.sampling.draw import draw
from stateshape.sampling.local import (
    BURST,
    Run,
    bytes_a_row,
    check_prompts,
    dealt_prompts,
    room_for_rows,
    uniform_numbers,
)
from stateshape.sampling.rows import Results
from stateshape.sampling.settings import Completion, SamplingSettings
from stateshape.sampling.slots import Slots

Cache = list[tuple[Tensor, Tensor]]


@torch.no_grad()
def sample_blended(
    a: Policy, b: Policy, share: float, prompts: Sequence[Sequence[int]], settings: SamplingSettings, *, seed: int
) -> list[Completion]:
    """As Sampler.sample, from a^(1 - share) b^share. Ends and stops are those of `a`.

    Raises BadInput for a model that keeps a cache of its own (policy/general.py), and for prompts that are too long.
    """
    if not prompts:
        return []
    for policy in (a, b):
        if policy.weights.passes.kind == "general":
            raise BadInput(
                f"unit: got geometric with {policy.weights.source!r}, which is sampled in a cache of its own; expected two "
                "models whose keys and values are kept here (stateshape doctor says which); use sequence, prefix or token"
            )
        check_prompts(policy, max(map(len, prompts)), settings)
    places = max(map(len, prompts)) + settings.max_new_tokens
    uniform_CS = uniform_numbers(a.device, len(prompts), settings, seed=seed)

    def own(mine: list[int], uniform_CS: Tensor) -> list[Completion]:
        affordable = room_for_rows(a.device) // (bytes_a_row(a, places) + bytes_a_row(b, places))
        num_slots = max(settings.num_samples, min(len(uniform_CS), settings.batch_rows, affordable))
        both = [
            Slots(
                p.weights.cache_shapes, num_slots=num_slots, num_places=places, dtype=p.weights.dtype, device=p.device
            )
            for p in (a, b)
        ]
        decoding = BlendedDecoding(
            PairedPass(a, b, places),
            Blend(a.head, b.head, share),
            PairedSlots(*both),
            uniform_CS,
            temperature=settings.temperature,
            burst=BURST.get(a.device.type, 1),
        )
        results = Results(a, len(mine), settings)
        Run((a, b), [prompts[i] for i in mine], settings, decoding, results).to_the_end()
        return results.completions

    return dealt_prompts(prompts, settings, uniform_CS, own)


def blended(logits_a_RV: Tensor, logits_b_RV: Tensor, share: float) -> Tensor:
    """Logits [R, V] of a^(1 - share) b^share, up to a constant per row. Of two vocabularies padded to other sizes: the common
    tokens."""
    size = min(logits_a_RV.shape[1], logits_b_RV.shape[1])
    return (1 - share) * logits_a_RV[:, :size] + share * logits_b_RV[:, :size]


class Blend(NamedTuple):
    """Two heads, and the share of the second."""

    a: Head
    b: Head
    share: float

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """hidden_RD: the two policies' last hidden states side by side."""
        hidden_a_RD, hidden_b_RD = hidden_RD.split([self.a.width, self.b.width], dim=1)
        return blended(self.a.logits(hidden_a_RD), self.b.logits(hidden_b_RD), self.share)


class BlendedDecoding(Decoding):
    """A step of both policies, and one draw from their mixture."""

    def __init__(
        self,
        forward: PairedPass,
        blend: Blend,
        slots: PairedSlots,
        uniform_CS: Tensor,
        *,
        temperature: float,
        burst: int,
    ) -> None:
        super().__init__(forward, blend.a, slots, uniform_CS, temperature=temperature, burst=burst)
        self.blend = blend

    def draw(self, hidden_RD: Tensor, number_R: Tensor, step_R: Tensor) -> tuple[Tensor, Tensor]:
        logits_RV = cooled(self.blend.logits(hidden_RD), self.temperature or 1.0)
        return draw(logits_RV, self.uniform_CS[number_R, step_R], greedy=self.temperature == 0)


class PairedPass:
    """Two forward passes over the same tokens; their last hidden states side by side, [N, D of a + D of b]."""

    def __init__(self, a: Policy, b: Policy, places: int) -> None:
        self.policies = (a, b)
        self.passes = tuple(own_pass(policy, places) for policy in self.policies)

    def __call__(self, ids_N: Tensor, position_N: Tensor, attend: Attend, wanted_M: Tensor | None = None) -> Tensor:
        assert isinstance(attend, PairedTree | PairedSlots)
        parts = []
        attends: tuple[Attend, Attend] = attend.both
        for policy, forward, own in zip(self.policies, self.passes, attends, strict=True):
            if not isinstance(forward, Decoder):  # transformers' modules read the active adapter
                policy.activate()
            parts.append(forward(ids_N, position_N, own, wanted_M))
        return torch.cat(parts, dim=1)


def own_pass(policy: Policy, places: int) -> ForwardPass:
    policy.activate()
    forward = policy.weights.forward_pass()
    return forward.with_table(places) if isinstance(forward, Decoder) else forward


class PairedTree:
    """Attention of a prefill of both. `kept`: the keys and values of each."""

    def __init__(self, layout: Layout) -> None:
        self.both = (TreeAttention(layout, keep=True), TreeAttention(layout, keep=True))

    @property
    def kept(self) -> tuple[Cache | None, Cache | None]:
        return self.both[0].kept, self.both[1].kept

    def __call__(self, layer: int, query_NHE: Tensor, key_NGE: Tensor, value_NGE: Tensor, mixing: Mixing) -> Tensor:
        raise AssertionError("each pass attends in its own tree")


class PairedSlots:
    """The caches of two policies, whose rows are in the same slots and places."""

    def __init__(self, a: Slots, b: Slots) -> None:
        self.both = (a, b)
        self.num_slots, self.num_places = a.num_slots, a.num_places

    def prefilling(self, layout: Layout) -> PairedTree:
        return PairedTree(layout)

    def fill(self, tree_cache: Sequence[Cache], path_T: Tensor, slots: slice) -> None:
        for own, cache in zip(self.both, tree_cache, strict=True):
            own.fill(cache, path_T, slots)

    def move(self, source: int, target: int, length: int) -> None:
        for own in self.both:
            own.move(source, target, length)

    def begin(self, position_R: Tensor, places: int) -> None:
        for own in self.both:
            own.begin(position_R, places)

    def __call__(self, layer: int, query_RHE: Tensor, key_RGE: Tensor, value_RGE: Tensor, mixing: Mixing) -> Tensor:
        raise AssertionError("each pass attends in its own slots")

"""Clipped policy gradient with given advantages: GRPO and its relatives as settings of one loss (docs/losses.md).

Knows nothing of rewards or groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from stateshape.core.head import Head
from stateshape.core.method import LossKind, LossValue, PolicyView
from stateshape.core.signals import Credit, Reference
from stateshape.core.tensors import Rows, before, by_chunk, cooled, logits_of, mass_of, row_sums, token_logp
from stateshape.losses.divergence import reverse_kl

Normalise = Literal["token-mean", "sequence-mean", "constant"]
Ratio = Literal["token", "sequence"]
KLEstimator = Literal["k1", "k2", "k3", "exact"]


class ClippedTerms(NamedTuple):
    loss_N: Tensor
    ratio_N: Tensor
    is_clipped_N: Tensor


def clipped_terms(
    logp_N: Float[Tensor, " N"],
    behaviour_logp_N: Float[Tensor, " N"],
    advantage_N: Float[Tensor, " N"],
    *,
    clip_low: float,
    clip_high: float,
) -> ClippedTerms:
    """-min(r A, clip(r, 1 - low, 1 + high) A) per token, r = exp(logp - behaviour_logp).

    Source: arXiv:1707.06347 eq. 7. Differs: separate lower and upper range (arXiv:2503.14476); no value or entropy term.
    """
    ratio_N = (logp_N - behaviour_logp_N).exp()
    plain_N = ratio_N * advantage_N
    clipped_N = ratio_N.clamp(1 - clip_low, 1 + clip_high) * advantage_N
    return ClippedTerms(-torch.minimum(plain_N, clipped_N), ratio_N.detach(), (clipped_N < plain_N).detach())


def row_means(values_N: Tensor, supervise_BT: Tensor) -> Tensor:
    """[N]: each position's value is its row's mean: GSPO's log ratio, (log p(y) - log p_behaviour(y)) / |y|."""
    length_B = supervise_BT.sum(1).clamp_min(1)
    return (row_sums(values_N, supervise_BT) / length_B)[supervise_BT.nonzero()[:, 0]]


def sampled_kl(
    logp_N: Float[Tensor, " N"], reference_logp_N: Float[Tensor, " N"], *, estimator: KLEstimator
) -> Float[Tensor, " N"]:
    """KL(learner || reference) of a state, estimated from its one sampled token, with d = log p - log p_reference:

    estimator  value              its mean over p          mean of its gradient
    k1         d                  the KL                   0: it pulls nowhere
    k2         d^2 / 2            not the KL, near it      that of KL(learner || reference)
    k3         exp(-d) - 1 + d    the KL, less noisy       that of KL(reference || learner)

    Means are over tokens that the learner itself wrote at this state. Source: J. Schulman, "Approximating KL divergence",
    2020, for the values.
    """
    d_N = logp_N - reference_logp_N
    if estimator == "k1":
        return d_N
    if estimator == "k2":
        return d_N.square() / 2
    return torch.expm1(-d_N) + d_N


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyGradient:
    """Sum over supervised tokens of w_t (clipped policy-gradient term + kl_coefficient * KL estimate).

    normalise: token-mean: every token of the batch weighs the same (DAPO as verl and TRL have it; its paper, arXiv:2503.14476
    averages tokens within a group, then groups). sequence-mean: every row does, its tokens 1 / |y| each (GRPO,
    arXiv:2402.03300 eq. 3). constant: as token-mean, over rows x max_tokens, so that neither a long row nor a
    batch of long rows has less weight (Dr.GRPO, arXiv:2503.20783). Rows without a supervised token aren't counted.

    ratio: token: p(y_t) / p_behaviour(y_t). sequence: one ratio per row, (p(y) / p_behaviour(y))^(1 / |y|), clipped as one
    (GSPO, arXiv:2507.18071 eq. 7). Scored at the temperature the rows were sampled at, learner and reference alike.

    KL: k1, k2, k3: see `sampled_kl`; the estimator itself is differentiated. exact: KL(learner || reference) over the whole
    vocabulary at each state, in value and in gradient.

    per_token: learner_logp is at `temperature` too; mass is towards the logits before they are divided by it.
    """

    normalise: Normalise = "sequence-mean"
    ratio: Ratio = "token"
    clip_low: float = 0.2
    clip_high: float = 0.2
    kl_coefficient: float = 0.0
    kl_estimator: KLEstimator = "exact"
    max_tokens: int | None = None
    temperature: float = 1.0
    kind: ClassVar[LossKind] = "policy gradient"

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(
                f"temperature: got {self.temperature}; expected a number above 0: a greedy choice has no log-prob to raise"
            )
        if (self.normalise == "constant") != (self.max_tokens is not None):
            raise ValueError(
                f"max_tokens: got {self.max_tokens} with normalise {self.normalise!r}; expected the longest completion with "
                "'constant', and nothing else"
            )
        for name in ("clip_low", "clip_high", "kl_coefficient"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: got {getattr(self, name)}; expected 0 or more")

    def count(self, signal: Credit) -> float:
        if self.normalise == "token-mean":
            return float(signal.supervise_BT.sum())
        num_rows = float(signal.supervise_BT.any(1).sum())
        return num_rows if self.max_tokens is None else num_rows * self.max_tokens

    def total(self, learner: PolicyView, signal: Credit) -> LossValue:
        states, supervise_BT = signal.states, signal.supervise_BT
        hidden_ND = learner.hidden(states.ids_BT, states.lengths_B, before(supervise_BT))
        targets_N = states.ids_BT[supervise_BT]
        is_exact = self.kl_coefficient > 0 and self.kl_estimator == "exact"
        scored_ND = hidden_ND.detach() if is_exact else hidden_ND  # then the gradient goes through `with_exact_kl`
        logp_N = token_logp(scored_ND, learner.head, targets_N, self.temperature)
        if is_exact and torch.is_grad_enabled():
            logp_N.requires_grad_(hidden_ND.requires_grad)
        advantage_N = signal.advantage_BT[supervise_BT]
        weight_N, share_N = self.weights(supervise_BT, dtype=logp_N.dtype)
        total, terms, kl_N = self.sampled(logp_N, signal, advantage_N, weight_N)
        pull_N, mass_N = torch.zeros_like(logp_N), torch.full_like(logp_N, float("nan"))  # pull: d total / d log p
        if total.requires_grad:
            (pull_N,) = torch.autograd.grad(total, logp_N, retain_graph=True)
            mass_N = mass_of(logp_N, pull_N, self.temperature)
        if is_exact:
            total, mass_N, kl_N = self.with_exact_kl(total, pull_N, weight_N, hidden_ND, learner.head, signal)
        sums = {"ratio": (terms.ratio_N * share_N).sum(), "frac_clipped": (terms.is_clipped_N * share_N).sum()}
        if kl_N is not None:
            sums["kl_to_reference_nats"] = (kl_N.detach() * share_N).sum()
        per_token = {
            "mass": mass_N,
            "learner_logp": logp_N.detach(),
            "advantage": advantage_N,
            "ratio": terms.ratio_N,
        }
        return LossValue(total=total, sums=sums, per_token=per_token)

    def weights(self, supervise_BT: Tensor, *, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """What a token's term weighs in the total, and in logged averages (which fill `constant` up to its count)."""
        per_row_N = (1 / supervise_BT.sum(1, keepdim=True).clamp_min(1).to(dtype)).expand(supervise_BT.shape)[
            supervise_BT
        ]
        if self.normalise == "sequence-mean":
            return per_row_N, per_row_N
        ones_N = torch.ones_like(per_row_N)
        return ones_N, ones_N if self.max_tokens is None else per_row_N * self.max_tokens

    def sampled(
        self, logp_N: Tensor, signal: Credit, advantage_N: Tensor, weight_N: Tensor
    ) -> tuple[Tensor, ClippedTerms, Tensor | None]:
        """What follows from the tokens' own log-probs: the sum, its clipped terms, the KL estimates (None: exact, or none)."""
        supervise_BT = signal.supervise_BT
        behaviour_logp_N = signal.states.behaviour_logp_BT[supervise_BT]
        if self.ratio == "sequence":
            compared = row_means(logp_N - behaviour_logp_N, supervise_BT), torch.zeros_like(logp_N)
        else:
            compared = logp_N, behaviour_logp_N
        terms = clipped_terms(*compared, advantage_N, clip_low=self.clip_low, clip_high=self.clip_high)
        total = (terms.loss_N * weight_N).sum()
        if self.kl_coefficient == 0 or self.kl_estimator == "exact":
            return total, terms, None
        kl_N = sampled_kl(logp_N, reference_of(signal).logp_BT[supervise_BT], estimator=self.kl_estimator)
        return total + self.kl_coefficient * (kl_N * weight_N).sum(), terms, kl_N

    def with_exact_kl(
        self, total: Tensor, pull_N: Tensor, weight_N: Tensor, hidden_ND: Tensor, head: Head, signal: Credit
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Total, mass and KL with the divergence over the vocabulary added.

        The gradient of the policy-gradient sum is that of sum_t pull_t log p_t at fixed pulls: so one function of a row's
        logits has the whole gradient, and the mass is that of both together.
        """
        reference = reference_of(signal)
        if reference.hidden_ND is None or reference.head is None:
            raise ValueError(
                "kl_estimator: got 'exact' without the reference's hidden states; expected them in the signal"
            )
        size = min(head.num_tokens, reference.head.num_tokens)  # a model family pads its vocabulary
        reference_head, temperature = reference.head.first(size), self.temperature

        def chunk(
            logits_nV: Tensor, reference_nD: Tensor, targets_n: Tensor, pull_n: Tensor, coefficient_n: Tensor
        ) -> Rows:
            logp_nV = cooled(logits_nV, temperature).log_softmax(-1)
            with torch.no_grad():
                reference_logp_nV = logits_of(reference_nD, reference_head, temperature).log_softmax(-1)
            kl_n = reverse_kl(logp_nV, reference_logp_nV)
            logp_n = logp_nV.gather(-1, targets_n[:, None])[:, 0]
            return pull_n * (logp_n - logp_n.detach()) + coefficient_n * kl_n, kl_n

        targets_N = signal.states.ids_BT[signal.supervise_BT]
        coefficient_N = self.kl_coefficient * weight_N
        rows = reference.hidden_ND, targets_N, pull_N, coefficient_N
        value_N, mass_N, kl_N = by_chunk(chunk, hidden_ND, head.first(size), *rows, with_mass=True)
        return total.detach() + value_N.sum(), mass_N, kl_N


def reference_of(signal: Credit) -> Reference:
    if signal.reference is None:
        raise ValueError("kl_coefficient: got a coefficient above 0 and a signal without a reference; expected one")
    return signal.reference

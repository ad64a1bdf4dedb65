"""On-policy distillation on some prompts, supervised fine-tuning on the others, in every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stateshape.core.files import BadInput
from stateshape.core.method import Combination, Composition, Method, Term
from stateshape.core.seeds import seed_for
from stateshape.losses.cross_entropy import CrossEntropy
from stateshape.losses.divergence import Divergence
from stateshape.recipes.recipe import LearnerRollouts, Need, Parts, Taught
from stateshape.signals.distribution import TeacherDistribution
from stateshape.signals.gold import GoldTokens
from stateshape.states.dataset import DatasetStates


@dataclass(frozen=True, kw_only=True, slots=True)
class OPDPlusSFT(LearnerRollouts, Taught):
    """Two methods in one step: on-policy distillation, and supervised fine-tuning on a share of the prompts."""

    compositions: ClassVar = (
        Composition(states="learner", signal="teacher distribution", loss="divergence"),
        Composition(states="dataset", signal="gold tokens", loss="cross-entropy"),
    )
    needs: ClassVar[tuple[Need, ...]] = ("solutions",)
    source: ClassVar[str] = "a combination of opd and sft"

    sft_share: float = 0.25
    """Share of the prompts that are trained on their worked solutions."""
    opd_weight: float = 1.0
    """Weight of the distillation loss, a mean over its own tokens."""
    sft_weight: float = 0.25
    """Weight of the fine-tuning loss, a mean over its own tokens."""

    def __post_init__(self) -> None:
        LearnerRollouts.__post_init__(self)
        if not 0 < self.sft_share < 1:
            raise BadInput(
                f"sft_share: got {self.sft_share}; expected a share between 0 and 1; for one method alone use opd or sft"
            )

    def is_for_sft(self, item_id: str) -> bool:
        """The same prompts in every run."""
        return seed_for(0, item_id) / 2**63 < self.sft_share

    def build(self, parts: Parts) -> Combination:
        distil = Method(
            states=self.rollouts(parts),
            signal=TeacherDistribution(teacher=parts.teacher(self.teacher), positions="all", items=parts.items),
            loss=Divergence(),
        )
        tune = Method(states=DatasetStates(items=parts.items), signal=GoldTokens(), loss=CrossEntropy())
        return Combination(
            terms={
                "opd": Term(method=distil, weight=self.opd_weight, takes=lambda item_id: not self.is_for_sft(item_id)),
                "sft": Term(method=tune, weight=self.sft_weight, takes=self.is_for_sft),
            }
        )

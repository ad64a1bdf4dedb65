"""Supervised fine-tuning: dataset states, gold tokens, cross-entropy. Source: arXiv:2605.22731 section 2.3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stateshape.core.method import Composition, Method
from stateshape.losses.cross_entropy import CrossEntropy
from stateshape.recipes.recipe import Need, Parts
from stateshape.signals.gold import GoldTokens
from stateshape.states.dataset import DatasetStates


@dataclass(frozen=True, kw_only=True, slots=True)
class SFT:
    """Supervised fine-tuning on worked solutions. Learning rate, rank and epochs decide whether it is mild or a stress test."""

    compositions: ClassVar = (Composition(states="dataset", signal="gold tokens", loss="cross-entropy"),)
    needs: ClassVar[tuple[Need, ...]] = ("solutions",)
    source: ClassVar[str] = "arXiv:2605.22731 eq. 5"

    def build(self, parts: Parts) -> Method:
        return Method(states=DatasetStates(items=parts.items), signal=GoldTokens(), loss=CrossEntropy())

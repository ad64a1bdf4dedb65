"""Direct preference optimisation: dataset pairs, preference. Source: arXiv:2305.18290; IPO: arXiv:2310.12036."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stateshape.core.method import Composition, Method
from stateshape.losses.preference import Preference, Shape
from stateshape.recipes.recipe import Need, Parts
from stateshape.signals.preference import DatasetPreference
from stateshape.states.dataset import DatasetPairs


@dataclass(frozen=True, kw_only=True, slots=True)
class DPO:
    """Direct preference optimisation: makes the worked solution likelier than the rejected one, relative to a reference."""

    compositions: ClassVar = (Composition(states="dataset", signal="preference", loss="preference"),)
    needs: ClassVar[tuple[Need, ...]] = ("solutions", "rejected")
    source: ClassVar[str] = "arXiv:2305.18290"

    shape: Shape = "dpo"
    """dpo: -log sigmoid of the margin; ipo: squared distance of the mean margin from 1 / (2 beta)."""
    beta: float = 0.1
    """How strongly the learner is kept close to the reference."""
    reference: str = "base"
    """The reference: base (the untrained model), a run folder or an adapter folder."""

    def build(self, parts: Parts) -> Method:
        return Method(
            states=DatasetPairs(items=parts.items),
            signal=DatasetPreference(reference=None if self.reference == "base" else parts.teacher(self.reference)),
            loss=Preference(shape=self.shape, beta=self.beta),
        )

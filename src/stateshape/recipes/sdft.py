"""Self-distillation from a demonstration: learner states, its own distribution given the worked solution.

Source: arXiv:2601.19897. Differs: see signals/demonstration.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stateshape.core.files import BadInput
from stateshape.core.method import Composition, Method
from stateshape.losses.divergence import Direction
from stateshape.recipes.recipe import Diverging, LearnerRollouts, Need, Parts
from stateshape.signals.demonstration import Demonstrated


@dataclass(frozen=True, kw_only=True, slots=True)
class SDFT(LearnerRollouts, Diverging):
    """Self-distillation fine-tuning: the learner imitates a slow copy of itself that sees the worked solution."""

    compositions: ClassVar = (Composition(states="learner", signal="teacher distribution", loss="divergence"),)
    needs: ClassVar[tuple[Need, ...]] = ("solutions",)
    source: ClassVar[str] = "arXiv:2601.19897"

    direction: Direction = "reverse"
    """reverse: KL(learner || teacher), the source's; forward: KL(teacher || learner); jsd: between, see beta."""
    ema_rate: float = 0.02
    """How far the slow copy moves towards the learner per step: 0 stays untrained, 1 is the learner itself."""
    template: str = "{prompt} {solution}\n\n{prompt}"
    """Template of the teacher's prompt, with {prompt} and {solution}."""

    def __post_init__(self) -> None:
        LearnerRollouts.__post_init__(self)
        Diverging.__post_init__(self)
        if not 0 <= self.ema_rate <= 1:
            raise BadInput(f"ema_rate: got {self.ema_rate}; expected a number between 0 and 1")
        if "{prompt}" not in self.template or "{solution}" not in self.template:
            raise BadInput(f"template: got {self.template!r}; expected a text with {{prompt}} and {{solution}}")
        try:
            self.template.format(prompt="", solution="")
        except (LookupError, ValueError, AttributeError) as error:
            raise BadInput(
                f"template: got {self.template!r} ({error}); expected no braces but {{prompt}} and {{solution}}; write "
                "{{ for one"
            ) from None

    def build(self, parts: Parts) -> Method:
        return Method(
            states=self.rollouts(parts),
            signal=Demonstrated(items=parts.items, rate=self.ema_rate, template=self.template),
            loss=self.divergence(),
        )

"""How a share changes over a run: the teacher's in DAgger, the learner's in a mixture. Knows only step numbers.

    constant      value
    first         value while step < every, then 0            I(i = 1) of DAgger
    power         value^(iteration), iteration = step // every; 1 in the first      p^(i - 1) of DAgger
    linear        from value at the first step to `end` at the last
    file.py:name  a function of your own: (step, num_steps) -> share

Source: Ross et al. 2011, section 3 (DAgger's beta_i).
"""

from __future__ import annotations

from dataclasses import dataclass

from stateshape.core.dotted import load_object
from stateshape.core.files import BadInput
from stateshape.core.wording import shown

KINDS = ("constant", "first", "power", "linear")


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """A share in [0, 1] by step."""

    kind: str = "constant"
    """constant, first, power, linear (docs/recipes.md), or file.py:name of a function (step, num_steps) -> share."""
    value: float = 0.5
    """The share at the start; for power, the base."""
    end: float = 0.0
    """For linear: the share at the last step."""
    every: int = 10
    """For first and power: steps per iteration."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS and ":" not in self.kind:
            raise BadInput(f"schedule kind: got {shown(self.kind)}; expected {', '.join(KINDS)}, or file.py:name")
        for name in ("value", "end"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInput(f"schedule {name}: got {getattr(self, name)}; expected a share between 0 and 1")
        if self.every < 1:
            raise BadInput(f"schedule every: got {self.every}; expected at least 1")

    def at(self, step: int, num_steps: int) -> float:
        iteration = step // self.every
        if self.kind == "constant":
            return self.value
        if self.kind == "first":
            return self.value if iteration == 0 else 0.0
        if self.kind == "power":
            return 1.0 if iteration == 0 else self.value**iteration
        if self.kind == "linear":
            return self.value + (self.end - self.value) * step / max(1, num_steps - 1)
        share = load_object(self.kind, what="schedule kind")(step, num_steps)
        if share is None or not 0 <= share <= 1:
            raise BadInput(
                f"schedule kind: {self.kind!r} gave {share} at step {step}; expected a share between 0 and 1"
            )
        return float(share)

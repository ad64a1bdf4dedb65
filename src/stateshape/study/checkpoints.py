"""A run of a study that is loaded instead of trained: a model or an adapter made anywhere, measured as every other run is.

It has no training seed, so it is measured once, as the base is. Loads nothing; see loaded.py.
"""

from __future__ import annotations

from typing import NamedTuple

from stateshape.core.files import BadInput
from stateshape.core.wording import shown
from stateshape.study.study_file import RunChoice


class CheckpointSpec(NamedTuple):
    """checkpoint: a model folder, an adapter folder, a run folder or a hub id."""

    name: str
    label: str
    checkpoint: str

    def named(self) -> dict[str, list[str]]:
        """By field, the models it names."""
        return {"checkpoint": [self.checkpoint]}

    def needs(self) -> list[str]:
        """No other run."""
        return []


def checkpoint_spec(name: str, choice: RunChoice) -> CheckpointSpec:
    """Raises BadInput where the entry also says how to train."""
    assert choice.checkpoint is not None
    trained = {
        "recipe": choice.recipe,
        "start": choice.start,
        "teacher": choice.teacher,
        "states": choice.states,
        "data": choice.data,
        "with": choice.settings or None,
        "train": choice.train or None,
    }
    for key, value in trained.items():
        if value is not None:
            raise BadInput(
                f"runs.{name}.{key}: got {shown(value)} beside a checkpoint; expected none, since a checkpoint is loaded and "
                "not trained; leave it out, or name the checkpoint as start to train on from it"
            )
    return CheckpointSpec(name, choice.label or name, choice.checkpoint)

"""The stages in order of worth, with their time limits, and the sizes they run at. Runs nothing and loads no model.

A stage is a function in a module of this package, called with a Job (record.py). What a limit cuts off is lost; what a stage
has written by then stands. So each stage measures what matters most first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Stage(NamedTuple):
    """`function`: module:name within this package. `seconds`: its limit. `least`: below which it is not worth starting.
    `is_beside`: it is started first and runs beside the others, since its seconds are no measurement; nor are theirs then."""

    name: str
    function: str
    seconds: float
    least: float
    about: str
    is_beside: bool = False


STAGES = (
    Stage("check", "check:run", 75, 15, "passes agree, KL 0, recorded steps, ratio 1, a killed run resumes"),
    Stage("quickstart", "studies:quickstart", 80, 20, "the quickstart on the embedded base, one seed"),
    Stage("sampling", "sampling:run", 65, 20, "tokens/s of our sampler and of transformers' generate"),
    Stage("training", "training:run", 65, 20, "LoRA steps: SFT, OPD over the vocabulary, GRPO"),
    Stage("full", "commands:full", 100, 30, "all parameters trained and scored, alone on the device"),
    Stage("peers", "peers:run", 170, 40, "a GRPO and an OPD step beside TRL's trainers"),
    Stage("static", "sampling:static", 130, 40, "tokens/s of what is compiled first: generate with a static cache"),
    Stage(
        "commands",
        "commands:run",
        400,
        40,
        "a user's commands: four bits, full training, audit, smoke, quickstart",
        is_beside=True,
    ),
    Stage("tests", "unit_tests:run", 300, 60, "the project's tests on the device", is_beside=True),
    Stage("paper", "studies:paper", 470, 60, "the paper's rows on the largest model, three seeds, five runs at a time"),
    Stage("controls", "studies:controls", 235, 60, "the controls' rows on the largest model, one seed"),
    Stage("smoke", "commands:smoke", 120, 30, "the study that a user tries first, as a command"),
)
DEFAULT = ("check", "quickstart", "sampling", "training")  # the others take calls of their own
BUDGET_S = 540.0  # of the whole command: a call of ten minutes, less its start and its transfers
RESERVE_S = 20.0  # kept back for ending, reporting and packing
MOST_FILES = 8  # that come back: a stage's file each, the table and the archive of studies


def stage_named(name: str) -> Stage:
    return next(stage for stage in STAGES if stage.name == name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """How large the stages are."""

    sampling_rows: tuple[int, ...] = (64, 256)
    new_tokens: int = 256
    group: int = 8
    training_prompts: int = 16  # times `group` rows for OPD and GRPO, and as many rows for SFT
    training_steps: int = 3
    matmul_width: int = 8192
    copy_bytes: int = 4 * 10**9
    check_prompts: int = 16
    check_tokens: int = 48
    resumed_steps: int = 60
    killed_after: int = 20  # steps
    study_share: float | None = None  # of its steps; None: as the stage says
    study_items: int | None = None  # per task; None: as many as the study says


TOY = Scale(
    sampling_rows=(16,),
    new_tokens=6,
    training_prompts=1,
    training_steps=1,
    matmul_width=256,
    copy_bytes=10**7,
    check_prompts=3,
    check_tokens=6,
    resumed_steps=8,
    killed_after=2,
    study_share=1e-3,
    study_items=4,
)

"""What a study file says of the machines its runs are done on: `execute:`. No part of what is done: see plan.plan_sha256.

    execute: {executor: slurm, cpus: 8, gpus: 1, memory_gb: 64, minutes: 240, partition: gpu}

Imports no executor.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from typing import Literal

from stateshape.core.files import BadInput
from stateshape.core.limits import check_most

ExecutorName = Literal["processes", "slurm", "ray"]
LIBRARIES = {"slurm": "submitit", "ray": "ray"}
OF_SLURM = ("minutes", "partition", "account")  # and of nothing else


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecuteChoice:
    """Where the runs of a study are done, and what each of them is given there."""

    executor: ExecutorName = "processes"
    """processes: on this machine. slurm: a job for each run, through submitit. ray: tasks of a Ray cluster."""
    cpus: int | None = None
    """Cores per run, which are also its threads. Default: 1; with processes, the machine's shared out."""
    gpus: float | None = None
    """Per run. Default: none."""
    memory_gb: float | None = None
    """Per run. Default: what the cluster gives."""
    minutes: int | None = None
    """The longest a job may take (slurm); one that takes longer is submitted again and resumes. Default: the cluster's."""
    partition: str | None = None
    account: str | None = None
    is_local: bool = False
    """Do the jobs of slurm on this machine instead, to try them."""
    retries: int = 3
    """How often a run is submitted again whose worker died. A run that failed by itself is not."""

    def __post_init__(self) -> None:
        for name, least in (("cpus", 1), ("minutes", 1), ("retries", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise BadInput(f"execute {name}: got {value}; expected at least {least}")
        for name in ("gpus", "memory_gb"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise BadInput(f"execute {name}: got {value}; expected a number above 0")
        check_most("execute ", cpus=self.cpus, minutes=self.minutes, retries=self.retries)


def check_executor(choice: ExecuteChoice) -> None:
    """Raises BadInput where its library is missing, or a field is not for this executor."""
    name = choice.executor
    if name == "slurm" and choice.gpus is not None and choice.gpus != int(choice.gpus):
        raise BadInput(f"execute gpus: got {choice.gpus} with slurm; expected a whole number; ray takes parts of a GPU")
    others = [*(OF_SLURM if name != "slurm" else ())]
    if name == "processes":
        others += ["cpus", "gpus", "memory_gb"]
    if odd := [field for field in others if getattr(choice, field) is not None]:
        fits = "executor slurm" if odd[0] in OF_SLURM else "executor slurm or ray"
        raise BadInput(f"execute {odd[0]}: got {getattr(choice, odd[0])!r} with executor {name}; expected {fits}")
    if choice.is_local and name != "slurm":
        raise BadInput(f"execute is_local: got true with executor {name}; expected executor slurm")
    library = LIBRARIES.get(name)
    if library is not None and importlib.util.find_spec(library) is None:
        raise BadInput(
            f"executor: got {name}, and the package {library} is not installed; expected it; pip install "
            f"'stateshape[{name}]'"
        )

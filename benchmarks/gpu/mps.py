"""NVIDIA's Multi-Process Service for the length of a stage: kernels of several processes at the same time on one GPU.

Without it processes take turns. It is a process of the user's, no setting of the device, and ends with the stage. Left out
where it is not installed or where a small product does not run through it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONTROL = "nvidia-cuda-mps-control"
START_S, TRY_S = 10, 40
TRIED = "import torch; x = torch.ones(64, 64, device='cuda'); assert (x @ x).sum().item() == 64**3"
PLACES = ("CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY")


@contextmanager
def shared_gpu(folder: Path) -> Iterator[bool]:
    """Whether processes started within share the GPU. Enter it before this process uses CUDA."""
    control = shutil.which(CONTROL)
    if control is None:
        yield False
        return
    before = dict(os.environ)
    for name in PLACES:
        place = folder / name.lower()
        place.mkdir(parents=True, exist_ok=True)
        os.environ[name] = str(place)
    is_shared = succeeds([control, "-d"], START_S) and succeeds([sys.executable, "-c", TRIED], TRY_S)
    if not is_shared:
        leave(control, before)
    try:
        yield is_shared
    finally:
        if is_shared:
            leave(control, before)


def leave(control: str, before: dict[str, str]) -> None:
    succeeds([control], START_S, said="quit\n")
    for name in PLACES:
        os.environ.pop(name)
    os.environ |= before


def succeeds(command: list[str], seconds: float, said: str = "") -> bool:
    try:
        return subprocess.run(command, input=said, text=True, timeout=seconds, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False

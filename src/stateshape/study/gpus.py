"""Which GPUs the processes of a study take in turn, where one machine has several. Knows no run."""

from __future__ import annotations

import os

import torch

VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible_gpus() -> list[str]:
    """This process's GPUs as CUDA_VISIBLE_DEVICES names them: numbers or UUIDs."""
    count = torch.cuda.device_count()
    named = os.environ.get(VISIBLE)
    return [str(number) for number in range(count)] if named is None else named.replace(" ", "").split(",")[:count]


def gpus_to_share(device: str) -> list[str]:
    """Empty where there are not several, or one device was chosen. device: the study's `model_settings: {device: ...}`."""
    names = visible_gpus() if device in ("auto", "cuda") else []
    return names if len(names) > 1 else []

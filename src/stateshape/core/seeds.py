"""The only source of randomness: a seed for each purpose and step, so a resumed run draws what it would have drawn.

Source: SHA-256 of the named parts; no global generator is ever touched. Torch-free until a generator is asked for.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def seed_for(run_seed: int, purpose: str, step: int = 0) -> int:
    """A 63-bit seed that depends on all three parts and on nothing else."""
    digest = hashlib.sha256(f"{run_seed}/{purpose}/{step}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_for(run_seed: int, purpose: str, step: int = 0, *, device: torch.device | str = "cpu") -> torch.Generator:
    import torch

    return torch.Generator(device=device).manual_seed(seed_for(run_seed, purpose, step))

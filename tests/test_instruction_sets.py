"""The environment by which `make test-old-processor` takes a processor's later instructions away is obeyed."""

import os

import pytest
import torch


@pytest.mark.numerics
def test_torch_leaves_out_the_instructions_it_is_told_to() -> None:
    wanted = os.environ.get("ATEN_CPU_CAPABILITY")
    assert wanted is None or torch.backends.cpu.get_cpu_capability() == wanted.upper()

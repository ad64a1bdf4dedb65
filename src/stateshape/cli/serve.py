"""`stateshape serve`: the vLLM command line for a model, printed or run."""

from __future__ import annotations

import os
import subprocess
from typing import Literal

import tyro

from stateshape.core.files import BadInput
from stateshape.core.wording import MAX_PATH, shown

HAS_VLLM = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"


def serve(
    model: tyro.conf.Positional[str],
    *,
    port: int = 8000,
    rank: int = 32,
    adapters: int = 4,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    max_model_len: int | None = None,
    max_logprobs: int | None = None,
    python: str = "python",
    run: bool = False,
) -> None:
    """Print the vLLM command for a server that --sampler vllm can use; with --run, become that server.

    Args:
        model: 'embedded', a model folder or a hub id: the base of the runs.
        port: Where it listens.
        rank: Largest LoRA rank it takes.
        adapters: Adapters it holds at a time: one for each learner, teacher and reference of the runs that share it; 0: it only
            teaches (opd --teacher URL).
        dtype: auto: bfloat16 on a GPU, float32 on a CPU, as for training.
        max_model_len: Longest row. Default: the model's own.
        max_logprobs: Most tokens per state whose log-probs it gives, for a teacher of opd. Default: vLLM's own, 20.
        python: The interpreter of the environment that vLLM is installed in.
        run: Start it.
    """
    from stateshape.embedded import base_folder
    from stateshape.policy.device import resolve_device, resolve_dtype
    from stateshape.policy.source import EMBEDDED, resolve
    from stateshape.sampling.served.command import server_command

    resolved = resolve(model)
    if resolved.adapter is not None:
        raise BadInput(
            f"model: got {shown(model, limit=MAX_PATH)}, an adapter; expected its base, "
            f"{shown(resolved.model, limit=MAX_PATH)}; adapters are published by the runs"
        )
    served = str(base_folder()) if model == EMBEDDED else os.path.abspath(model) if os.path.isdir(model) else model
    device = resolve_device("auto")
    command = server_command(
        served,
        python=python,
        port=port,
        rank=rank,
        adapters=adapters,
        dtype=str(resolve_dtype(dtype, device)).removeprefix("torch."),
        is_on_cpu=device.type == "cpu",
        max_model_len=max_model_len,
        max_logprobs=max_logprobs,
    )
    if not run:
        print(command)
        return
    try:
        has_vllm = subprocess.run([python, "-c", HAS_VLLM], check=False).returncode == 0
    except OSError:
        has_vllm = False
    if not has_vllm:
        raise BadInput(
            f"python: got {shown(python, limit=MAX_PATH)}, which has no vLLM; expected an environment's interpreter that has; "
            "see docs/guides/servers.md"
        )
    os.execvpe(python, command.words, os.environ | command.environment)

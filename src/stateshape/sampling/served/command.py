"""The vLLM command line whose server the sampler can use. Starts nothing; knows no hardware but what it is told.

Why each part: processed_logprobs, or log-probs would be those of temperature 1; generation-config vllm, or the model folder's
own top-k and top-p would count; runtime LoRA, or no adapter can be published. On a CPU no chunked prefill: where vLLM (0.32)
splits a prompt over two steps it rewinds the request's generator, which a CPU's can't do, and dies.
"""

from __future__ import annotations

import shlex
from typing import NamedTuple

from stateshape.core.files import BadInput
from stateshape.core.limits import check_most

ENVIRONMENT = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM takes for --max-lora-rank


class Command(NamedTuple):
    """environment: in addition to what is set."""

    environment: dict[str, str]
    words: list[str]

    def __str__(self) -> str:
        return " ".join([*(f"{name}={value}" for name, value in self.environment.items()), shlex.join(self.words)])


def server_command(
    model: str,
    *,
    python: str,
    port: int,
    rank: int,
    adapters: int,
    dtype: str,
    is_on_cpu: bool,
    max_model_len: int | None = None,
    max_logprobs: int | None = None,
) -> Command:
    """Raises BadInput for numbers that vLLM would not take."""
    check_most(rank=rank)
    if not 0 < port < 2**16:
        raise BadInput(f"port: got {port}; expected 1 to {2**16 - 1}")
    if not 0 < rank <= RANKS[-1]:
        raise BadInput(f"rank: got {rank}; expected 1 to {RANKS[-1]}, which is vLLM's largest")
    if not 0 <= adapters <= 1024:
        raise BadInput(f"adapters: got {adapters}; expected 0 (a teacher's server) to 1024")
    if max_model_len is not None and max_model_len < 2:
        raise BadInput(f"max_model_len: got {max_model_len}; expected at least 2")
    if max_logprobs is not None and max_logprobs < 1:
        raise BadInput(f"max_logprobs: got {max_logprobs}; expected at least 1")
    words = [
        python,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        model,
        "--port",
        str(port),
        "--dtype",
        dtype,
    ]
    if adapters:
        largest = next(one for one in RANKS if one >= rank)
        words += ["--enable-lora", "--max-lora-rank", str(largest), "--max-loras", str(adapters)]
    words += ["--logprobs-mode", "processed_logprobs", "--generation-config", "vllm"]
    words += ["--no-enable-chunked-prefill"] if is_on_cpu else []
    words += [] if max_logprobs is None else ["--max-logprobs", str(max_logprobs)]
    if max_model_len is not None:
        words += ["--max-model-len", str(max_model_len)]
    return Command(ENVIRONMENT if adapters else {}, words)

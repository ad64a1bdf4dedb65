"""Sampling on a vLLM server through our protocol, beside vLLM driven directly (its LLM class) with the same adapter.

    python -m benchmarks.served --vllm PYTHON --model FOLDER [--repeats 5] [--prompts 16] [--group 8] [--tokens 64]

Both engines are loaded on the same machine and are asked in turn, so that other work disturbs them alike; the one that is not
asked is stopped. Ours is timed with an adapter that the server has (`same`), and with a new version in each call (`new`), as in
training: it is published, and some rows are rescored by the gate. Prompts: arithmetic's. Tokens: up to and with a row's end.
Prints a JSON line, and each repeat on stderr as it is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from stateshape.core.seeds import generator_for
from stateshape.policy.open import open_weights
from stateshape.policy.policy import Policy
from stateshape.policy.settings import LoraSettings, ModelSettings
from stateshape.policy.weights import SharedWeights
from stateshape.sampling.served.check import reach
from stateshape.sampling.served.command import server_command
from stateshape.sampling.served.sampler import ServedSampler
from stateshape.sampling.served.wire import Patience
from stateshape.sampling.settings import SamplingSettings
from stateshape.study.provenance import package_version
from stateshape.tasks.load import load_task

ROWS = 1024  # the longest row of both engines
SIZE = 0.02  # of the B matrices


class Timed(NamedTuple):
    seconds: float
    tokens: int

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


def fill(weights: SharedWeights, name: str, *, seed: int) -> None:
    """Gives the adapter B matrices that change what it says."""
    generator = generator_for(seed, "fill")
    state = weights.adapter_state(name)
    for key, value in state.items():
        if "lora_B" in key:
            state[key] = SIZE * torch.randn(value.shape, generator=generator).to(value)
    weights.set_adapter_state(name, state)


def ask(peer: subprocess.Popen[str], task: dict[str, Any] | None = None) -> dict[str, Any]:
    assert peer.stdin is not None and peer.stdout is not None
    if task is not None:
        peer.stdin.write(json.dumps(task) + "\n")
        peer.stdin.flush()
    line = peer.stdout.readline()
    assert line, "vLLM ended; see its output above"
    return dict(json.loads(line))


def ours(
    sampler: ServedSampler, policy: Policy, prompts: list[list[int]], settings: SamplingSettings, seed: int
) -> Timed:
    begun = time.perf_counter()
    rows = sampler.sample(policy, prompts, settings, seed=seed)
    return Timed(time.perf_counter() - begun, sum(len(row.ids) for row in rows))


def only(runs: subprocess.Popen[Any], waits: subprocess.Popen[Any]) -> None:
    """Stops the other engine while one is timed: on a CPU an idle vLLM looks for work without a pause."""
    os.killpg(waits.pid, signal.SIGSTOP)
    os.killpg(runs.pid, signal.SIGCONT)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Engines(NamedTuple):
    """Both, each in a process group of its own."""

    peer: subprocess.Popen[str]
    server: subprocess.Popen[Any]
    address: str


@contextlib.contextmanager
def started(model: str, adapter: Path, *, vllm: str, dtype: str, is_on_cpu: bool) -> Iterator[Engines]:
    port = free_port()
    command = server_command(
        model, python=vllm, port=port, rank=32, adapters=4, dtype=dtype, max_model_len=ROWS, is_on_cpu=is_on_cpu
    )
    server = subprocess.Popen(
        command.words, env=os.environ | command.environment, stdout=subprocess.DEVNULL, start_new_session=True
    )
    script = str(Path(__file__).with_name("vllm_peer.py"))
    words = [vllm, script, model, str(adapter), dtype, str(ROWS), "cpu" if is_on_cpu else "cuda"]
    peer = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        ask(peer)
        yield Engines(peer, server, f"http://127.0.0.1:{port}")
    finally:
        for process in (peer, server):  # each has processes of its own
            os.killpg(process.pid, signal.SIGCONT)
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def one_repeat(
    engines: Engines,
    sampler: ServedSampler,
    policy: Policy,
    task: dict[str, Any],
    settings: SamplingSettings,
    repeat: int,
) -> dict[str, Timed]:
    """Each side once, in turn."""
    seed = 10 + repeat
    only(engines.peer, engines.server)
    answer = ask(engines.peer, task | {"seed": seed})
    timed = {"direct": Timed(answer["seconds"], answer["tokens"])}
    only(engines.server, engines.peer)
    fill(policy.weights, "learner", seed=2 + max(repeat, 0))
    for kind in ("new", "same"):
        timed[kind] = ours(sampler, policy, task["prompts"], settings, seed)
    print(repeat, {kind: f"{one.rate:.1f} tokens/s" for kind, one in timed.items()}, file=sys.stderr, flush=True)
    return timed


def summary(found: list[dict[str, Timed]]) -> dict[str, Any]:
    """Medians, over repeats, of the rate of each side and of its ratio to the peer's of the same repeat."""
    rates = {kind: statistics.median(one[kind].rate for one in found) for kind in found[0]}
    ratios = {kind: statistics.median(one[kind].rate / one["direct"].rate for one in found) for kind in ("same", "new")}
    return {
        "tokens_per_s": {kind: round(rate, 1) for kind, rate in rates.items()},
        "ratio_to_direct": {kind: round(ratio, 3) for kind, ratio in ratios.items()},
        "all": {kind: [[round(one[kind].seconds, 2), one[kind].tokens] for one in found] for kind in found[0]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", required=True, help="the interpreter of an environment with vLLM")
    parser.add_argument("--model", required=True, help="a folder")
    for name, default in (("repeats", 5), ("prompts", 16), ("group", 8), ("tokens", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    chosen = parser.parse_args()
    weights = open_weights(chosen.model, ModelSettings())
    dtype = str(weights.dtype).removeprefix("torch.")
    weights.add_adapter("learner", LoraSettings(rank=32, alpha=64), seed=1)
    fill(weights, "learner", seed=1)
    policy = Policy(weights, "learner")
    prompts = [policy.encode_prompt(item.asked) for item in load_task("arithmetic").train[: chosen.prompts]]
    settings = SamplingSettings(max_new_tokens=chosen.tokens, num_samples=chosen.group)
    task = {"prompts": prompts, "group": chosen.group, "tokens": chosen.tokens, "ends": list(policy.eos_ids)}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        weights.save_adapter("learner", folder / "direct")
        is_on_cpu = policy.device.type == "cpu"
        engines = stack.enter_context(
            started(chosen.model, folder / "direct", vllm=chosen.vllm, dtype=dtype, is_on_cpu=is_on_cpu)
        )
        reached = reach([engines.address], chosen.model, weights.tokenizer, Patience())
        sampler = ServedSampler(reached, weights, folder=folder / "served", log=folder / "served.jsonl")
        _, *found = [
            one_repeat(engines, sampler, policy, task, settings, repeat) for repeat in range(-1, chosen.repeats)
        ]  # the first warms up
        sampler.close()
    told = {name: getattr(chosen, name) for name in ("model", "prompts", "group", "tokens", "repeats")}
    about = {"dtype": dtype, "vllm": reached.version, "torch": package_version("torch")}
    print(json.dumps(told | about | summary(found)))


if __name__ == "__main__":
    main()

"""The arithmetic of docs/guides/scale.md: bytes, tokens per second, servers, GPU hours and dollars. Measures nothing.

    python -m benchmarks.scale                    the page's tables
    python -m benchmarks.scale --gpu-hour 4       with another price; likewise every other input

Inputs are parameters with a default. Where a default was measured or published, the page says where; the others are
assumptions. Every number on the page but those that it calls measured comes from here.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

GB = 1e9


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """Shapes of a dense model with grouped-query attention, as Llama 3.1 publishes them, and what serves and trains it."""

    name: str
    layers: int
    width: int
    mlp: int
    kv_width: int  # of all key heads together
    vocabulary: int
    gpus: int  # of one server
    output_per_s: float  # tokens that one server writes, with the plain base
    bytes_per_weight: float = 2.0  # as served

    def linear(self) -> list[tuple[int, int]]:
        """(in, out) of a layer's linear maps: q, k, v, o, gate, up, down."""
        q, kv, up = (self.width, self.width), (self.width, self.kv_width), (self.width, self.mlp)
        return [q, kv, kv, q, up, up, (self.mlp, self.width)]

    @property
    def parameters(self) -> int:
        """Without norms. Embedding and head are not shared."""
        return self.layers * sum(i * o for i, o in self.linear()) + 2 * self.vocabulary * self.width

    def adapter_parameters(self, rank: int) -> int:
        return self.layers * rank * sum(i + o for i, o in self.linear())

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values in two bytes."""
        return self.layers * 2 * self.kv_width * 2


MODELS = (
    Model(name="8B", layers=32, width=4096, mlp=14336, kv_width=1024, vocabulary=128256, gpus=1, output_per_s=12_500),
    Model(name="70B", layers=80, width=8192, mlp=28672, kv_width=1024, vocabulary=128256, gpus=4, output_per_s=3_317),
    Model(
        name="400B", layers=126, width=16384, mlp=53248, kv_width=1024, vocabulary=128256, gpus=8, output_per_s=1_500,
        bytes_per_weight=1.0,
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """Of a run, a study, a machine and a price."""

    rank: int = 32
    gpu_gb: float = 80.0
    gpu_share: float = 0.9  # of its memory that vLLM takes
    gpu_tflops: float = 989.0  # dense bf16 of an H100 SXM, as its data sheet says
    mfu: float = 0.09  # of a training step
    lora_slowdown: float = 1.35  # of a token that is written with an adapter
    gpu_hour: float = 2.5  # dollars
    steps: int = 200
    prompts: int = 32
    samples: int = 4
    prompt_tokens: int = 150
    new_tokens: int = 256
    evaluated_tokens: int = 1_000_000  # that one run writes to be measured
    runs: int = 1_000
    chain: int = 2  # runs that follow one another, as a teacher and its student
    bytes_per_state_token: float = 5.0
    recorded_mb: float = 32.0  # at most, of states on record per run
    rows_mb: float = 2.0  # of evaluation, drift and metrics per run
    network_gbit: float = 10.0  # from the shared file system to one server


@dataclass(frozen=True, kw_only=True, slots=True)
class RunCost:
    """One on-policy run: its rows are sampled by a server, scored and trained on by the run's own GPUs, in turns."""

    written: float  # tokens
    trained: float
    server_hours: float
    trainer_hours: float  # of its GPUs together at work

    @property
    def hours(self) -> float:
        """Of a run that has a server for itself: it waits for its rows, then the server waits."""
        return self.server_hours + self.trainer_hours


def trainer_gpus(model: Model, inputs: Inputs) -> int:
    """The fewest that hold the base in bf16 and a tenth more: a power of two below 8, then whole machines of 8."""
    need = 1.1 * model.parameters * 2 / (inputs.gpu_gb * GB)
    return next((gpus for gpus in (1, 2, 4, 8) if gpus >= need), 8 * -(-int(need) // 8))


def run_cost(model: Model, inputs: Inputs) -> RunCost:
    rows = inputs.steps * inputs.prompts * inputs.samples
    written = rows * inputs.new_tokens
    read = rows * (inputs.new_tokens + inputs.prompt_tokens / inputs.samples)  # samples share their prompt
    flops = 2 * model.parameters * read * (1 + 2)  # the teacher or reference reads; forward and backward to the inputs
    served_per_s = model.output_per_s / inputs.lora_slowdown
    return RunCost(
        written=written + inputs.evaluated_tokens,
        trained=read,
        server_hours=(written + inputs.evaluated_tokens) / served_per_s / 3600,
        trainer_hours=flops / (inputs.gpu_tflops * 1e12 * inputs.mfu * trainer_gpus(model, inputs)) / 3600,
    )


def kv_tokens(model: Model, inputs: Inputs) -> float:
    """That fit beside the weights on one server."""
    free = inputs.gpu_share * inputs.gpu_gb * GB * model.gpus - model.parameters * model.bytes_per_weight
    return free / model.kv_bytes_per_token


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (heads, ["---"] * len(heads), *rows))


def by_model(rows: Sequence[tuple[str, list[str]]]) -> str:
    return table(["", *(model.name for model in MODELS)], [[name, *values] for name, values in rows])


def bytes_table(inputs: Inputs) -> str:
    adapters = [model.adapter_parameters(inputs.rank) for model in MODELS]
    mb = [f"{4 * number / 1e6:,.0f} MB" for number in adapters]
    return by_model(
        [
            ("parameters", [f"{model.parameters / 1e9:,.1f} G" for model in MODELS]),
            ("base in bf16", [f"{2 * model.parameters / GB:,.0f} GB" for model in MODELS]),
            ("GPUs of one server", [str(model.gpus) for model in MODELS]),
            (
                "base as served",
                [
                    f"{model.bytes_per_weight * model.parameters / GB:,.0f} of {model.gpus * inputs.gpu_gb:,.0f} GB"
                    for model in MODELS
                ],
            ),
            (f"adapter of rank {inputs.rank}, parameters", [f"{number / 1e6:,.0f} M" for number in adapters]),
            ("adapter file, fp32", mb),
            ("gradient, summed once per step", mb),
            ("AdamW's two moments", [f"{8 * number / 1e6:,.0f} MB" for number in adapters]),
            ("KV cache per token", [f"{model.kv_bytes_per_token / 1e3:,.0f} kB" for model in MODELS]),
            ("tokens of KV cache per server", [f"{kv_tokens(model, inputs):,.0f}" for model in MODELS]),
            (
                "rows at once per server",
                [f"{kv_tokens(model, inputs) / (inputs.prompt_tokens + inputs.new_tokens):,.0f}" for model in MODELS],
            ),
            ("GPUs that train one run", [str(trainer_gpus(model, inputs)) for model in MODELS]),
        ],
    )


def run_table(inputs: Inputs) -> str:
    costs = [run_cost(model, inputs) for model in MODELS]
    pairs = list(zip(MODELS, costs, strict=True))
    at_work = [
        cost.server_hours * model.gpus + cost.trainer_hours * trainer_gpus(model, inputs) for model, cost in pairs
    ]
    return by_model(
        [
            ("tokens written", [f"{cost.written / 1e6:.1f} M" for cost in costs]),
            ("tokens scored and trained on", [f"{cost.trained / 1e6:.1f} M" for cost in costs]),
            (
                "tokens per second of one server, with an adapter",
                [f"{model.output_per_s / inputs.lora_slowdown:,.0f}" for model in MODELS],
            ),
            ("hours in which one server writes", [f"{cost.server_hours:.2f}" for cost in costs]),
            ("hours in which the run's GPUs compute", [f"{cost.trainer_hours:.2f}" for cost in costs]),
            ("GPU hours at work", [f"{hours:.2f}" for hours in at_work]),
            (
                f"cost of these at ${inputs.gpu_hour:g} per hour",
                [f"${hours * inputs.gpu_hour:,.2f}" for hours in at_work],
            ),
        ]
    )


class StudyCost(NamedTuple):
    hours: float
    at_once: float  # runs
    gpus: float  # held from beginning to end
    adapters_gb_s: float  # into each server


def study_cost(model: Model, servers: int, inputs: Inputs) -> StudyCost:
    """Bound by what the servers can write, or by the longest chain of runs. Every adapter goes to every server."""
    cost = run_cost(model, inputs)
    hours = max(inputs.runs * cost.server_hours / servers, inputs.chain * cost.hours)
    at_once = inputs.runs * cost.hours / hours
    loaded = inputs.runs * inputs.steps * 4 * model.adapter_parameters(inputs.rank) / GB
    gpus = servers * model.gpus + at_once * trainer_gpus(model, inputs)
    return StudyCost(hours, at_once, gpus, loaded / (hours * 3600))


def study_table(inputs: Inputs) -> str:
    rows = []
    for model in MODELS:
        for servers in (1, 10, 100, 1000):
            cost = study_cost(model, servers, inputs)
            rows.append(
                [
                    model.name,
                    f"{servers:,}",
                    f"{cost.gpus:,.0f}",
                    f"{cost.hours:,.1f} h" if cost.hours < 48 else f"{cost.hours / 24:,.0f} days",
                    f"{cost.at_once:,.0f}",
                    f"{cost.adapters_gb_s:,.2f}",
                    f"${cost.gpus * cost.hours * inputs.gpu_hour:,.0f}",
                ]
            )
    heads = [
        "learner",
        "servers",
        "GPUs held",
        "the study takes",
        "runs at once",
        "adapters into each server, GB/s",
        "cost",
    ]
    return table(heads, rows)


def folder_table(inputs: Inputs) -> str:
    """Of one run and of the study, without and with adapters that are kept."""
    rows = inputs.steps * inputs.prompts * inputs.samples
    states = rows * (inputs.new_tokens + inputs.prompt_tokens) * inputs.bytes_per_state_token
    kept = min(states, inputs.recorded_mb * 1e6)
    rest = inputs.rows_mb * 1e6 + kept
    files = [4 * model.adapter_parameters(inputs.rank) for model in MODELS]
    return by_model(
        [
            ("all states of a run, if recorded", [f"{states / 1e6:,.0f} MB"] * len(MODELS)),
            ("states on record, at most", [f"{kept / 1e6:,.0f} MB"] * len(MODELS)),
            ("evaluation, drift, metrics", [f"{inputs.rows_mb:,.0f} MB"] * len(MODELS)),
            ("adapter", [f"{size / 1e6:,.0f} MB" for size in files]),
            ("checkpoint while it runs", [f"{3 * size / 1e6:,.0f} MB" for size in files]),
            (f"folder of {inputs.runs:,} runs", [f"{inputs.runs * (rest + size) / GB:,.0f} GB" for size in files]),
            (
                f"checkpoints written by {inputs.runs:,} runs, every step",
                [f"{inputs.runs * inputs.steps * 3 * size / 1e12:,.0f} TB" for size in files],
            ),
        ],
    )


def published(inputs: Inputs) -> str:
    """Seconds from a learner's step to a server that answers with it: write, read by every server, load."""
    files = [4 * model.adapter_parameters(inputs.rank) for model in MODELS]
    per_s = inputs.network_gbit / 8 * GB
    return by_model(
        [(f"one server reads an adapter at {inputs.network_gbit:g} Gbit/s", [f"{f / per_s:.2f} s" for f in files])]
    )  # fmt: skip


def tables(inputs: Inputs) -> Iterator[tuple[str, str]]:
    yield "Bytes", bytes_table(inputs)
    yield "One run", run_table(inputs)
    yield "A study", study_table(inputs)
    yield "Files", folder_table(inputs)
    yield "Adapters on their way", published(inputs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in fields(Inputs):
        kind = type(field.default)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)  # type: ignore[arg-type]
    inputs = replace(Inputs(), **vars(parser.parse_args()))
    for title, text in tables(inputs):
        print(f"{title}\n\n{text}\n")


if __name__ == "__main__":
    main()

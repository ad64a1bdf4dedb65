"""How our own costs grow: seconds against batch, length, group, vocabulary, model size, and drift against its states.

    python -m benchmarks.costs [--repeats N] [--small]

Random Qwen3 models of a given width, depth and vocabulary (random ids, no text, no downloads), rank-16 adapters. Every
point is the fastest of a few repeats after a warm-up. A curve's exponent is the slope of log seconds over log size, over
all points; `last` is the slope between the last two, where fixed costs weigh least. 1 is linear: sampling, the OPD loss
and the SFT step should not exceed it in tokens. Writes results/bench/costs.json and docs/figures/costs.svg.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from matplotlib.ticker import FuncFormatter, NullFormatter
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from benchmarks.common import (
    DEVICE,
    DTYPE,
    LORA,
    RESULTS,
    ROOT,
    TRIED,
    make_learner,
    optimiser_of,
    origin,
    timed,
    write_json,
)
from stateshape.core.method import Draw, Loss, Method, SignalSource, StateKind
from stateshape.core.states import Origin, States, Trajectory, pack
from stateshape.drift.measure import measure
from stateshape.drift.states import Rollouts
from stateshape.losses.cross_entropy import CrossEntropy
from stateshape.losses.divergence import Divergence
from stateshape.policy.policy import Policy
from stateshape.policy.weights import SharedWeights
from stateshape.report.drawing.svg import file_svg, new_figure, plot_style
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import SamplingSettings
from stateshape.signals.distribution import TeacherDistribution
from stateshape.signals.gold import GoldTokens
from stateshape.train.settings import TrainSettings
from stateshape.train.step import train_step

FIGURE = ROOT / "docs" / "figures" / "costs.svg"
EOS, PAD, FIRST = 0, 1, 2


class Point(NamedTuple):
    size: float
    seconds: float


class Curve(NamedTuple):
    name: str  # what is timed
    axis: str  # what grows
    points: list[Point]

    @property
    def exponent(self) -> float:
        logs = np.log(np.array(self.points))
        return float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])

    @property
    def last(self) -> float:
        a, b = self.points[-2:]
        return math.log(b.seconds / a.seconds) / math.log(b.size / a.size)


class Work(NamedTuple):
    size: float
    do: Callable[[], float]  # returns its own seconds


# Models and work


def random_policy(*, width: int = 128, layers: int = 4, vocabulary: int = 4096) -> Policy:
    """A Qwen3 with heads of 32 and an MLP of three times the width; hardly ever ends a row by itself."""
    words = Tokenizer(models.WordLevel({"<eos>": EOS, "<pad>": PAD, "?": FIRST}, unk_token="?"))
    shape: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 32,
        "num_key_value_heads": max(1, width // 64),
        "head_dim": 32,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "attn_implementation": "sdpa",
        "eos_token_id": EOS,
        "pad_token_id": PAD,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: Any = Qwen3ForCausalLM(Qwen3Config(**shape))
    network = network.to(device=DEVICE, dtype=getattr(torch, DTYPE))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", pad_token="<pad>", unk_token="?")
    return Policy(SharedWeights(network, tokenizer, source="random"), None)


def num_parameters(policy: Policy) -> int:
    return sum(parameter.numel() for name, parameter in policy.weights.model.named_parameters() if "lora_" not in name)


def random_rows(policy: Policy, count: int, low: int, high: int) -> list[list[int]]:
    """Rows of random ids, lengths spread evenly over low to high."""
    rng, top = random.Random(count), policy.head.num_tokens - 1
    lengths = [low + (high - low) * i // max(1, count - 1) for i in range(count)]
    return [[rng.randint(FIRST, top) for _ in range(length)] for length in lengths]


def sample_seconds(policy: Policy, prompts: list[list[int]], settings: SamplingSettings) -> float:
    return timed(partial(LocalSampler().sample, policy, prompts, settings, seed=0))[0]


def sampling_work(policy: Policy, size: float, *, prompts: int, group: int, new_tokens: int) -> Work:
    rows = random_rows(policy, prompts, 16, 48)
    settings = SamplingSettings(max_new_tokens=new_tokens, num_samples=group)
    return Work(size, partial(sample_seconds, policy, rows, settings))


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedStates:
    """The same rows at every draw: a quarter of each is its prompt."""

    rows: Sequence[Sequence[int]]
    kind: ClassVar[StateKind] = "dataset"

    def draw(self, learner: Policy, draw: Draw) -> States:
        rows = []
        for group, ids in enumerate(self.rows):
            num_prompt = max(1, len(ids) // 4)
            origins = [Origin.PROMPT] * num_prompt + [Origin.DATASET] * (len(ids) - num_prompt)
            logps: list[float | None] = [None] * len(ids)
            name = f"row{group}"
            rows.append(
                Trajectory(item_id=name, ids=list(ids), origins=origins, logps=logps, finish="dataset", group=group)
            )
        return pack(rows, device=learner.device)


def step_work(policy: Policy, size: float, *, rows: int, length: int, with_teacher: bool) -> Work:
    """A whole step on given rows: SFT, or the divergence from a teacher's full distribution."""
    states = FixedStates(rows=random_rows(policy, rows, length // 2, length))
    signal: SignalSource = GoldTokens()
    loss: Loss = CrossEntropy()
    if with_teacher:
        policy.weights.add_adapter("teacher", LORA, seed=1)
        signal = TeacherDistribution(teacher=Policy(policy.weights, "teacher"), positions="all")
        loss = Divergence(direction="forward")
    method = Method(states=states, signal=signal, loss=loss)
    learner = make_learner(policy)
    optimiser = optimiser_of(learner, 1e-6)
    draw = Draw(item_ids=(), step=0, seed=0)
    step = partial(train_step, method, learner, optimiser, draw, TrainSettings())
    return Work(size, lambda: timed(step)[0])


def drift_work(num_prompts: int) -> Work:
    """Three sides of random text: the same prompts, one response each, two cuts."""
    rng = random.Random(num_prompts)
    words = [f"word{k} " for k in range(800)]

    def side() -> Rollouts:
        return Rollouts(
            prompt_ids=[f"p{i}" for i in range(num_prompts)],
            prompts=[f"prompt number {i}: " for i in range(num_prompts)],
            pieces=[rng.choices(words, k=rng.randint(20, 80)) for _ in range(num_prompts)],
        )

    sides = [side() for _ in range(3)]
    return Work(2 * num_prompts, lambda: timed(partial(measure, *sides, task="costs", seed=0, num_cuts=2))[0])


# Curves


def curves(repeats: int, *, is_small: bool) -> list[Curve]:
    """Every curve; `is_small` keeps the first points of each."""

    def curve(name: str, axis: str, sizes: Sequence[int], make: Callable[[int], Work]) -> Curve:
        works = [make(size) for size in (sizes[:2] if is_small else sizes)]
        rounds = [[work.do() for work in works] for _ in range(repeats + 1)][1:]  # in turns, after a warm-up
        result = Curve(name, axis, [Point(work.size, min(each)) for work, each in zip(works, zip(*rounds))])
        print(f"{name:>8} over {axis}: exponent {result.exponent:.2f}, last {result.last:.2f}", flush=True)
        return result

    def sampling(**changed: int) -> Work:
        chosen = {"prompts": 16, "group": 8, "new_tokens": 32} | changed
        return sampling_work(random_policy(), next(iter(changed.values())), **chosen)

    def steps(with_teacher: bool, rows: int, length: int) -> Work:
        policy = random_policy()
        return step_work(
            policy, rows * (length // 2 + length) // 2, rows=rows, length=length, with_teacher=with_teacher
        )

    def grown(kind: str, **shape: int) -> Work:
        policy = random_policy(**shape)
        size = shape.get("vocabulary", num_parameters(policy))
        if kind == "sampling":
            return sampling_work(policy, size, prompts=8, group=8, new_tokens=16)
        return step_work(policy, size, rows=16, length=64, with_teacher=kind == "OPD")

    kinds = ("sampling", "OPD", "SFT")
    vocabularies, widths = (2048, 8192, 32768, 131072), (64, 128, 256, 512)
    return [
        curve("sampling", "prompts (x 8 samples)", (4, 8, 16, 32, 64), lambda n: sampling(prompts=n)),
        curve("sampling", "new tokens", (16, 32, 64, 128, 256), lambda n: sampling(new_tokens=n)),
        curve("sampling", "samples a prompt", (1, 2, 4, 8, 16, 32), lambda n: sampling(group=n)),
        *(
            curve(kind, "tokens, by rows", (8, 16, 32, 64, 128), partial(steps, kind == "OPD", length=64))
            for kind in kinds[1:]
        ),
        *(
            curve(kind, "tokens, by length", (64, 128, 256, 512), partial(lambda k, n: steps(k == "OPD", 16, n), kind))
            for kind in kinds[1:]
        ),
        *(
            curve(kind, "vocabulary", vocabularies, partial(lambda k, n: grown(k, vocabulary=n), kind))
            for kind in kinds
        ),
        *(curve(kind, "parameters", widths, partial(lambda k, n: grown(k, width=n), kind)) for kind in kinds),
        curve("drift", "prefix states a side", (64, 128, 256, 512, 1024), drift_work),
    ]


# Output


def draw_figure(curves: list[Curve]) -> str:
    """One panel an axis, log-log, with the line of proportional growth through each curve's first point."""
    axes_names = list(dict.fromkeys(curve.axis for curve in curves))
    colours = dict(zip(dict.fromkeys(curve.name for curve in curves), ("#0072B2", "#D55E00", "#009E73", "#CC79A7")))
    with plot_style():
        figure = new_figure(12.0, 5.6)
        for panel, axis in zip(figure.subplots(2, math.ceil(len(axes_names) / 2)).flat, axes_names):
            for curve in (each for each in curves if each.axis == axis):
                sizes, seconds = np.array(curve.points).T
                label = f"{curve.name}, exponent {curve.exponent:.2f}"
                panel.loglog(sizes, seconds, marker="o", markersize=3, color=colours[curve.name], label=label)
                panel.loglog(
                    sizes, seconds[0] * sizes / sizes[0], color=colours[curve.name], linewidth=0.5, dashes=(4, 3)
                )
            for side in (panel.xaxis, panel.yaxis):  # plain numbers: the style shows formulas as they are written
                side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                side.set_minor_formatter(NullFormatter())
            panel.set_xlabel(axis)
            panel.set_ylabel("seconds")
            panel.legend(fontsize=7)
        return file_svg(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="two points a curve, nothing replaced")
    chosen = parser.parse_args()
    measured = curves(chosen.repeats, is_small=chosen.small)
    table = Table("cost", "over", "from", "to", "exponent", "last")
    for curve in measured:
        ends = [f"{point.size:g}: {point.seconds:.3g} s" for point in (curve.points[0], curve.points[-1])]
        table.add_row(curve.name, curve.axis, *ends, f"{curve.exponent:.2f}", f"{curve.last:.2f}")
    Console(width=110).print(table)
    records = [curve._asdict() | {"exponent": curve.exponent, "last_exponent": curve.last} for curve in measured]
    record = {"curves": records, "repeats": chosen.repeats, "provenance": origin("embedded")}
    write_json((TRIED if chosen.small else RESULTS) / "costs.json", record)
    if not chosen.small:
        FIGURE.parent.mkdir(parents=True, exist_ok=True)
        FIGURE.write_text(draw_figure(measured), encoding="utf-8")


if __name__ == "__main__":
    main()

"""One optimiser step of any method: where, what, how. The only place where a gradient is made.

    states = method.states.draw(...)       signal = method.signal.read(...)       loss sum / count over the whole batch

A combination does this for each of its terms and adds the gradients with their weights. Knows no method by name.
Gradients are the same for any chunking and any padding, and for any number of ranks: each rank draws the same states, takes
the gradient of its own groups of rows, divided by the count of all, and the ranks' gradients are added up once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from stateshape.core.dealt import DealtRows
from stateshape.core.method import Combination, Draw, Method, Term, terms_of
from stateshape.core.ranks import ALONE, current, using
from stateshape.core.records import PhaseCost
from stateshape.core.seeds import generator_for
from stateshape.core.signals import Credit, MatchDistribution, MatchTop, Signal
from stateshape.core.states import chunks
from stateshape.core.watch import StepRead, StepUpdate, Watch
from stateshape.policy.flops import activation_bytes
from stateshape.policy.policy import Policy
from stateshape.train.band import in_band
from stateshape.train.drawing import Ahead, draw_states, read_signals
from stateshape.train.settings import TrainSettings

MIN_CHUNK_TOKENS = 512  # products of fewer rows leave a machine idle
ACTIVATION_BYTES = {"cpu": 2**26, "cuda": 2**34}  # of a chunk: a CPU is fastest where most of it stays in its cache
GPU_SHARE = (
    0.2  # of its memory, at most: what attention and norms keep for backward is not counted, and is as much again
)


class TrainingDiverged(RuntimeError):
    """The loss or the gradient is not a finite number."""


class TermSum(NamedTuple):
    """One term's gradient as it was added: loss and logged sums over the batch's count, and values a supervised token."""

    loss: float
    sums: dict[str, float | None]
    per_token: dict[str, Tensor]


class StepResult(NamedTuple):
    signals: Mapping[str, Signal]  # by term; a method alone is one term named ""
    loss: float | None  # None where nothing was supervised
    grad_norm: float | None
    num_supervised: int  # without the terms apart
    costs: dict[str, PhaseCost]  # of sampling, signal, training, and of what looked on
    stats: dict[str, float | None]
    apart: tuple[str, ...] = ()  # names of the terms that are apart

    @property
    def seconds(self) -> dict[str, float]:
        return {phase: cost.seconds for phase, cost in self.costs.items()}


def train_step(
    method: Method | Combination,
    learner: Policy,
    optimiser: torch.optim.Optimizer,
    draw: Draw,
    settings: TrainSettings,
    watches: Sequence[Watch[Policy]] = (),
    ahead: Ahead | None = None,
) -> StepResult:
    """Draws states, reads the signal, accumulates the gradient by chunk, steps once.

    ahead: of the run, where steps to come may be sampled with this one.
    """
    costs: dict[str, PhaseCost] = {}
    meter, ranks = learner.weights.meter, current()
    terms = terms_of(method)
    with meter.phase("sampling", costs):
        drawn = draw_states(terms, learner, draw, ahead)
    with meter.phase("signal", costs):
        signals = read_signals(terms, learner, drawn, ahead)
        signals |= chosen(
            {name: one for name, one in signals.items() if not terms[name].is_apart}, learner, draw, settings
        )
    states = {name: one.states for name, one in drawn.items()}
    read = StepRead(step=draw.step, num_steps=draw.num_steps, draw=draw, states=states, signals=signals)
    for watch in watches:
        with meter.phase(watch.phase, costs), using(ALONE):
            watch.before_update(learner, read)
    grad_norm = None
    with meter.phase("training", costs):
        optimiser.zero_grad(set_to_none=True)
        sum_by_term = {
            name: accumulate(terms[name], learner, signal, chunk_tokens(learner, settings))
            for name, signal in signals.items()
        }
        done = {name: sum_ for name, sum_ in sum_by_term.items() if sum_ is not None}
        loss = sum(terms[name].weight * sum_.loss for name, sum_ in done.items()) if done else None
        if loss is not None:
            ranks.sum_gradients(learner.parameters())
            norm = torch.nn.utils.clip_grad_norm_(learner.parameters(), settings.max_grad_norm)
            grad_norm = float(norm)
            check_finite(loss, grad_norm, draw)
            optimiser.step()
    update = StepUpdate(per_token={name: sum_.per_token for name, sum_ in done.items()})
    for watch in watches:
        with meter.phase(watch.phase, costs), using(ALONE):
            watch.after_update(learner, read, update)
    return StepResult(
        signals=signals,
        loss=loss,
        grad_norm=grad_norm,
        num_supervised=sum(
            int(signal.supervise_BT.sum()) for name, signal in signals.items() if not terms[name].is_apart
        ),
        costs=costs_of_all(ranks.gather(costs)),
        stats=step_stats(signals, done),
        apart=tuple(name for name, term in terms.items() if term.is_apart),
    )


def chosen(signals: Mapping[str, Signal], learner: Policy, draw: Draw, settings: TrainSettings) -> dict[str, Signal]:
    """Those of the supervised tokens that the settings ask for: in the band, and within the step's budget."""
    if not settings.band.is_everything:
        signals = in_band(signals, learner, settings.band)
    if settings.supervised_per_step is not None:
        signals = thinned(signals, settings.supervised_per_step, draw)
    return dict(signals)


def thinned(signals: Mapping[str, Signal], supervised: int, draw: Draw) -> dict[str, Signal]:
    """At most so many supervised tokens per step, chosen uniformly at random among all of the step's: equal budgets."""
    thinner: dict[str, Signal] = {}
    sizes = {name: int(signal.supervise_BT.sum()) for name, signal in signals.items()}
    generator = generator_for(draw.seed, "supervised", draw.step)
    chosen_N = torch.zeros(sum(sizes.values()), dtype=torch.bool)
    chosen_N[torch.randperm(len(chosen_N), generator=generator)[:supervised]] = True
    for (name, signal), part_n in zip(signals.items(), chosen_N.split(list(sizes.values())), strict=True):
        keep_BT = torch.zeros_like(signal.supervise_BT)
        keep_BT[signal.supervise_BT] = part_n.to(keep_BT.device)
        thinner[name] = signal.supervising(keep_BT)
    return thinner


def chunk_tokens(learner: Policy, settings: TrainSettings) -> int:
    """As set, or as many as their activations allow."""
    budget = ACTIVATION_BYTES.get(learner.device.type, ACTIVATION_BYTES["cpu"])
    if learner.device.type == "cuda":  # all there is, not what is free: the same chunks in every run on this device
        budget = min(budget, int(GPU_SHARE * torch.cuda.get_device_properties(learner.device).total_memory))
    return settings.chunk_tokens or max(MIN_CHUNK_TOKENS, budget // activation_bytes(learner.weights))


def accumulate(term: Term, learner: Policy, signal: Signal, tokens: int) -> TermSum | None:
    """Adds the weighted gradient of this rank's rows chunk by chunk. Its sums are the whole batch's; None where nothing is
    supervised."""
    count = term.method.loss.count(signal)
    if count == 0:
        return None
    dealt = DealtRows(signal.states, signal.supervise_BT, together=signal.rows_together)
    if dealt.is_all:
        return own_sum(term, learner, signal, count, tokens)
    own = own_sum(term, learner, signal.rows(dealt.index_B), count, tokens) if dealt.rows else TermSum(0.0, {}, {})
    on_host = own._replace(per_token={name: value_n.cpu() for name, value_n in own.per_token.items()})
    return added(dealt.ranks.gather((dealt.rows, on_host)), signal)


def own_sum(term: Term, learner: Policy, signal: Signal, count: float, tokens: int) -> TermSum:
    """Adds the gradient of rows of the batch, divided by the whole batch's count."""
    total = 0.0
    sums: dict[str, float | None] = {}
    per_token: dict[str, list[Tensor]] = {}
    for index in chunks(signal.states, tokens, together=signal.rows_together):
        part = signal.rows(index)
        if not bool(part.supervise_BT.any()):
            continue
        value = term.method.loss.total(learner, part)
        (term.weight * value.total / count).backward()
        total += float(value.total.detach()) / count
        for name, sum_ in value.sums.items():
            sums[name] = (sums.get(name) or 0.0) + float(sum_) / count
        for name, value_N in value.per_token.items():
            per_token.setdefault(name, []).append(value_N)
    return TermSum(total, sums, {name: torch.cat(pieces) for name, pieces in per_token.items()})


def added(parts: Sequence[tuple[list[int], TermSum]], signal: Signal) -> TermSum:
    """The ranks' sums together, each with the rows it is about; what is said of tokens in the order of the batch."""
    supervise_BT = signal.supervise_BT
    sums: dict[str, float | None] = {}
    per_token: dict[str, Tensor] = {}
    for rows, part in parts:
        is_its_B = torch.zeros(len(supervise_BT), dtype=torch.bool, device=supervise_BT.device)
        is_its_B[rows] = True
        is_its_N = is_its_B[:, None].expand(supervise_BT.shape)[supervise_BT]
        for name, sum_ in part.sums.items():
            sums[name] = (sums.get(name) or 0.0) + (sum_ or 0.0)
        for name, value_n in part.per_token.items():
            value_N = per_token.setdefault(name, value_n.new_zeros(len(is_its_N)).to(supervise_BT.device))
            value_N[is_its_N] = value_n.to(value_N.device)
    return TermSum(sum(part.loss for _, part in parts), sums, per_token)


def costs_of_all(parts: Sequence[Mapping[str, PhaseCost]]) -> dict[str, PhaseCost]:
    """By phase: tokens and FLOPs of all ranks; seconds and memory of the one that took most."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: PhaseCost.side_by_side([part[name] for part in parts if name in part]) for name in names}


def check_finite(loss: float, grad_norm: float, draw: Draw) -> None:
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    shown = ", ".join(draw.item_ids[:8]) + (", ..." if len(draw.item_ids) > 8 else "")
    raise TrainingDiverged(
        f"step {draw.step}: loss {loss}, gradient norm {grad_norm}; batch: {shown}; try a lower lr, a longer warm-up "
        "or float32; the last checkpoint is kept"
    )


def step_stats(signals: Mapping[str, Signal], sum_by_term: Mapping[str, TermSum]) -> dict[str, float | None]:
    """What each term logs; in a combination under the term's name, with its loss and its own count of tokens."""
    stats: dict[str, float | None] = {}
    for name, signal in signals.items():
        logged = (
            reward_stats(signal)
            | dict(signal.logged)
            | truncation(signal)
            | (sum_by_term[name].sums if name in sum_by_term else {})
        )
        if name:
            logged |= {"loss": sum_by_term[name].loss if name in sum_by_term else None}
            logged |= {"num_supervised": float(signal.supervise_BT.sum())}
        stats |= {f"{name}/{key}" if name else key: value for key, value in logged.items()}
    return stats


def reward_stats(signal: Signal) -> dict[str, float | None]:
    """What explains a policy-gradient loss near 0: the reward, and how many groups had nothing to tell apart."""
    if not isinstance(signal, Credit):
        return {}
    known_B = ~torch.isnan(signal.reward_B)
    groups = signal.states.group_B.unique()
    is_told_B = ((signal.advantage_BT != 0) & signal.supervise_BT).any(1)
    flat = sum(float(not is_told_B[signal.states.group_B == group].any()) for group in groups)
    return {
        "reward": float(signal.reward_B[known_B].double().mean()) if bool(known_B.any()) else None,
        "share_zero_variance_groups": flat / max(len(groups), 1),
        "share_rewards_missing": 1 - float(known_B.float().mean()),
    }


def truncation(signal: Signal) -> dict[str, float | None]:
    """The share of sampled answers that ran out of tokens. Of a distribution nothing is said: its rows are cut on purpose."""
    sampled = [finish for finish in signal.states.finishes if finish != "dataset"]
    if isinstance(signal, MatchDistribution | MatchTop) or not sampled:
        return {}
    return {"share_truncated": sampled.count("length") / len(sampled)}

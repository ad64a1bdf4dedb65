"""What a phase costs: seconds, memory, tokens and FLOPs, counted as torch counts them; nothing lost on a resume."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel

import tiny
from stateshape.core import meter as meter_module
from stateshape.core.files import BadInput
from stateshape.core.meter import Meter, peak_memory_gb, reset_peak_memory
from stateshape.core.records import PhaseCost, RunRecord
from stateshape.core.tensors import token_logp
from stateshape.policy.policy import Policy
from stateshape.policy.tree_attention import lay_out
from stateshape.policy.weights import SharedWeights
from stateshape.recipes.opd import OPD
from stateshape.recipes.sft import SFT
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import SamplingSettings
from stateshape.study.provenance import peak_gflops
from stateshape.train.checkpoint import newest_checkpoint
from stateshape.train.loop import draw_for, train
from stateshape.train.operators import step_operators
from stateshape.train.settings import TrainSettings
from stateshape.train.step import train_step

SHARED = list(range(2, 42))
ROWS = [[*SHARED, 5, 6, 7, 8, 9], [*SHARED, 9, 10, 11], [3, 4, 5, 6, 7, 8]]
PLACES = [[41, 42, 43, 44], [40, 42], [2, 5]]


def test_a_phase_adds_up_and_ends_with_an_exception() -> None:
    meter = Meter("cpu")
    costs: dict[str, PhaseCost] = {}
    meter.count(tokens=7, flops=7)  # outside of a phase: nobody's
    for tokens in (1, 2):
        with meter.phase("a", costs):
            meter.count(tokens=tokens, flops=10 * tokens)
            time.sleep(0.01)
    with pytest.raises(KeyboardInterrupt):
        interrupted(meter, costs)
    with meter.phase("c", costs):
        pass
    assert {name: (cost.tokens, cost.flops) for name, cost in costs.items()} == {
        "a": (3, 30),
        "b": (5, 50),
        "c": (0, 0),
    }
    assert costs["a"].seconds >= 0.02
    assert all((cost.peak_memory_gb or 0) > 0.01 for cost in costs.values())


def interrupted(meter: Meter, costs: dict[str, PhaseCost]) -> None:
    with meter.phase("b", costs):
        meter.count(tokens=5, flops=50)
        raise KeyboardInterrupt


def test_phases_do_not_nest() -> None:
    meter = Meter("cpu")
    costs: dict[str, PhaseCost] = {}
    with meter.phase("outer", costs):
        with pytest.raises(AssertionError, match="inner"), meter.phase("inner", costs):
            pass
        meter.count(tokens=1, flops=1)
    assert set(costs) == {"outer"}
    assert costs["outer"].tokens == 1


@pytest.mark.skipif(not meter_module.CLEAR_REFS.exists(), reason="the mark can be set back on Linux only")
def test_memory_is_the_phases_own() -> None:
    """The largest was held in the second phase: the third does not inherit its mark."""
    meter = Meter("cpu")
    costs: dict[str, PhaseCost] = {}
    for name, size in (("small", 1), ("large", 2**25), ("small again", 1)):
        with meter.phase(name, costs):
            torch.ones(size)  # fp32
    peaks = {name: cost.peak_memory_gb or 0 for name, cost in costs.items()}
    assert peaks["large"] > peaks["small"] + 0.12
    assert peaks["small again"] < peaks["large"] - 0.12


def test_memory_without_proc_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CLEAR_REFS", "STATUS"):
        monkeypatch.setattr(meter_module, name, tmp_path / "none" / "file")
    reset_peak_memory(torch.device("cpu"))
    assert 0.01 < peak_memory_gb(torch.device("cpu")) < 1000


def test_costs_without_memory_and_records_without_costs() -> None:
    known = PhaseCost(seconds=1.0, tokens=1, flops=1, peak_memory_gb=2.0)
    unknown = PhaseCost(seconds=2.0, tokens=2, flops=2, peak_memory_gb=None)
    assert known.plus(unknown) == PhaseCost(seconds=3.0, tokens=3, flops=3, peak_memory_gb=2.0)
    assert unknown.plus(unknown).peak_memory_gb is None
    old = RunRecord(
        name="r", label="r", seed=0, method=None, model="m", task="t", teacher=None, settings={},
        provenance={"peak_gflops": 1e-9}, is_complete=True, seconds={"training": 4.0}, peak_memory_gb=1.0,
    )  # fmt: skip
    new = old.measured({"evaluation": known})
    assert new.seconds == {"training": 4.0, "evaluation": 1.0}
    assert new.peak_memory_gb == 2.0
    told = {phase.phase: (phase.seconds, phase.tokens, phase.share_of_peak) for phase in new.phases()}
    assert told == {"training": (4.0, None, None), "evaluation": (1.0, 1, 1.0)}


def rectangles(rows: list[list[int]]) -> int:
    """Query-key products of padded, uncausal blocks: what the plain attention of the tests computes."""
    return sum(block.query_SQ.numel() * block.key_SK.shape[1] for block in lay_out(rows, "cpu").blocks)


def both_counts(policy: Policy, *, is_backward: bool) -> tuple[int, int]:
    """(ours, torch's) of a pass through body and head. torch counts whole rectangles of attention, so ours does here."""
    costs: dict[str, PhaseCost] = {}
    targets = torch.zeros(sum(map(len, PLACES)), dtype=torch.int64)
    counter = FlopCounterMode(display=False)
    # the CPU's fused attention is not among the operators that torch counts
    with (
        torch.set_grad_enabled(is_backward),
        sdpa_kernel(SDPBackend.MATH),
        policy.weights.meter.phase("p", costs),
        counter,
    ):
        logp_N = token_logp(policy.hidden_at(ROWS, PLACES), policy.head, targets)
        if is_backward:
            logp_N.sum().backward()
    pair = policy.flops.pair
    per_pair = pair.forward + is_backward * pair.backward
    return costs["p"].flops + (rectangles(ROWS) - lay_out(ROWS, "cpu").num_pairs) * per_pair, counter.get_total_flops()


@pytest.mark.parametrize("is_backward", [False, True])
def test_flops_are_those_torch_counts(is_backward: bool) -> None:
    """Exactly, but for what makes rotary angles, which we leave out: a matrix product, but for transformers 5.24."""
    policy = tiny.learner(tiny.weights(), size=0.1)
    layout = lay_out(ROWS, "cpu")
    assert len(layout.ids_N) < sum(map(len, ROWS))  # what rows share is counted once
    ours, torchs = both_counts(policy, is_backward=is_backward)
    rotary = next(one for name, one in policy.weights.model.named_modules() if name.endswith("rotary_emb"))
    with FlopCounterMode(display=False) as counter:
        rotary(torch.zeros(1), torch.arange(len(layout.ids_N))[None])
    assert torchs - ours == counter.get_total_flops()


@pytest.mark.parametrize("is_backward", [False, True])
def test_flops_of_a_model_that_transformers_runs(is_backward: bool) -> None:
    """GPT-2: other layers, the last one at every token. Backward is counted through the first layer's c_attn, which torch
    spares, because what reads the embedding is known by name in our own decoder only."""
    tokens = tiny.tokenizer()
    config = GPT2Config(vocab_size=len(tokens), n_embd=32, n_layer=2, n_head=4, n_positions=64, eos_token_id=tiny.EOS)
    weights = SharedWeights(GPT2LMHeadModel(config), tokens, source="gpt2")
    weights.add_adapter("learner", tiny.LoraSettings(rank=4, targets=("c_attn",)), seed=0)
    policy = Policy(weights, "learner", is_trainable=True)
    assert not weights.is_plain("learner")
    ours, torchs = both_counts(policy, is_backward=is_backward)
    spared = (2 * 32 * 96 + 2 * 4 * 32) * len(lay_out(ROWS, "cpu").ids_N) if is_backward else 0
    assert ours - torchs == spared


def test_an_adapter_costs_and_the_base_alone_does_not() -> None:
    weights = tiny.weights()
    bare = Policy(weights, None).flops
    adapted = tiny.adapter(weights, "adapted", seed=0).flops
    sizes = 2 * (64 + 48 + 48 + 64 + 96 + 96 + 96)  # inputs + outputs of q, k, v, o, gate, up, down in two layers
    more = [getattr(adapted, name).forward - getattr(bare, name).forward for name in ("token", "position")]
    assert sum(more) == 2 * tiny.LORA.rank * sizes
    assert adapted.pair == bare.pair


def test_trap_generation_without_kv_cache_the_sampler_counts_every_token() -> None:
    weights = tiny.weights()
    policy = Policy(weights, None)
    prompts = [[2, 3, 4, 5], [6, 7]]
    costs: dict[str, PhaseCost] = {}
    settings = SamplingSettings(max_new_tokens=6, temperature=1.0)
    with weights.meter.phase("sampling", costs):
        made = LocalSampler().sample(policy, prompts, settings, seed=3)
    # the last token of a row is drawn and never computed with
    tokens = [len(prompt) + len(completion.ids) - 1 for prompt, completion in zip(prompts, made, strict=True)]
    positions = sum(len(completion.ids) for completion in made)
    pairs = sum(length * (length + 1) // 2 for length in tokens)
    assert costs["sampling"].tokens == sum(tokens)
    assert costs["sampling"].flops == policy.flops.of(
        tokens=sum(tokens), pairs=pairs, positions=positions, is_backward=False
    )
    # a burst computes on behind a row's end
    with weights.meter.phase("bursts", costs):
        again = LocalSampler(burst=4).sample(policy, prompts, settings, seed=3)
    assert [completion.ids for completion in again] == [completion.ids for completion in made]
    assert costs["bursts"].tokens >= costs["sampling"].tokens


def settings(steps: int) -> TrainSettings:
    return TrainSettings(lr=1e-3, steps=steps, batch_prompts=2, lora=tiny.LORA)


def test_trap_generation_dominates_the_step_its_phases_are_told() -> None:
    weights = tiny.weights()
    policy = tiny.learner(weights)
    method = OPD(teacher="t", rollout_tokens=4, positions="last").build(tiny.parts(tiny.teacher(weights)))
    optimiser = torch.optim.AdamW(policy.parameters())
    draw = draw_for(("item0", "item1", "item2"), batch=2, step=0, seed=0)
    result = train_step(method, policy, optimiser, draw, settings(1))
    assert list(result.costs) == ["sampling", "signal", "training"]
    assert all(cost.tokens > 0 and cost.flops > 0 for cost in result.costs.values())
    # the same states: the learner's pass costs the teacher's, and the backward pass on top
    assert result.costs["training"].tokens == result.costs["signal"].tokens
    assert result.costs["training"].flops > 1.9 * result.costs["signal"].flops
    assert result.seconds == {phase: cost.seconds for phase, cost in result.costs.items()}


def test_a_resumed_run_has_the_whole_runs_costs(tmp_path: Path) -> None:
    def trained(folder: Path, stop_at: int | None = None) -> dict[str, PhaseCost]:
        folder.mkdir(exist_ok=True)
        policy = tiny.learner(tiny.weights())

        def on_step(done: int, *_: object) -> None:
            if done == stop_at:
                raise KeyboardInterrupt

        method = SFT().build(tiny.parts(policy))
        ids = tuple(item.item_id for item in tiny.task().train)
        return train(method, policy, ids, settings(4), seed=0, folder=folder, on_step=on_step).costs

    whole = trained(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "parts", stop_at=2)
    path = newest_checkpoint(tmp_path / "parts")
    assert path is not None
    saved = torch.load(path, weights_only=True)["progress"]["costs"]["training"]
    resumed = trained(tmp_path / "parts")
    for phase, cost in whole.items():
        assert (resumed[phase].tokens, resumed[phase].flops) == (cost.tokens, cost.flops)
    assert 0 < saved["flops"] < resumed["training"].flops
    assert resumed["training"].seconds > saved["seconds"]


def test_a_checkpoint_of_before_costs_is_refused_with_a_reason(tmp_path: Path) -> None:
    test_a_resumed_run_has_the_whole_runs_costs(tmp_path)
    path = newest_checkpoint(tmp_path / "parts")
    assert path is not None
    state = torch.load(path, weights_only=True)
    state["progress"]["seconds"] = {}
    del state["progress"]["costs"]
    torch.save(state, path)
    policy = tiny.learner(tiny.weights())
    with pytest.raises(BadInput, match="not a checkpoint of this run"):
        train(SFT().build(tiny.parts(policy)), policy, ("item0",), settings(5), seed=0, folder=path.parent)


def test_watching_a_step_changes_nothing() -> None:
    weights = tiny.weights()
    policy = tiny.learner(weights, size=0.1)
    method = OPD(teacher="t", rollout_tokens=4, positions="last").build(tiny.parts(tiny.teacher(weights)))
    before, random_state = tiny.snapshot(weights, "learner"), torch.get_rng_state()
    draw = draw_for(("item0", "item1", "item2"), batch=2, step=0, seed=0)
    found = step_operators(method, policy, draw, settings(1))
    assert tiny.is_same(before, tiny.snapshot(weights, "learner"))
    assert torch.equal(random_state, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in policy.parameters())
    assert list(found) == ["sampling", "signal", "training"]
    for costs in found.values():
        assert 0 < len(costs) <= 20
        assert [cost.share for cost in costs] == sorted((cost.share for cost in costs), reverse=True)
        assert sum(cost.share for cost in costs) <= 1 + 1e-9
    backward = {cost.operator for cost in found["training"]}
    assert any(name.startswith("aten.") and "mm" in name for name in backward)


def test_the_peak_is_measured_once_and_leaves_random_numbers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    state = torch.get_rng_state()
    first = peak_gflops(torch.float32, torch.device("cpu"))
    monkeypatch.delattr(torch, "mm")
    assert peak_gflops(torch.float32, torch.device("cpu")) == first > 0
    assert torch.equal(state, torch.get_rng_state())


def test_two_bases_share_one_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    from stateshape.policy import open as opening
    from stateshape.policy.settings import ModelSettings

    mine, other = tiny.weights(), tiny.weights(seed=1)
    monkeypatch.setattr(opening, "resolve", lambda source: opening.Resolved(source, None))
    monkeypatch.setattr(opening, "open_weights", lambda *_, **__: other)
    teacher = opening.open_beside(mine, "another", ModelSettings(device="cpu"), adapter_name="t")
    assert teacher.weights is not mine
    costs: dict[str, PhaseCost] = {}
    with mine.meter.phase("signal", costs), torch.no_grad():
        teacher.hidden_at(ROWS, PLACES)
    assert costs["signal"].tokens == len(lay_out(ROWS, "cpu").ids_N)

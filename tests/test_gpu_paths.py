"""What only a GPU takes part in, with torch's answers about one replaced: which device, how much memory, what is rounding."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

import tiny
from stateshape.locality.divergence import RESOLUTION_NATS, kl, resolution_nats
from stateshape.policy import open as opening
from stateshape.policy.settings import ModelSettings
from stateshape.policy.tree_attention import by_query_head
from stateshape.sampling import local
from stateshape.train import step
from stateshape.train.settings import TrainSettings

GIB = 2**30
GPU = torch.device("cuda:1")


def test_memory_that_torch_holds_unused_is_free_for_a_cache(monkeypatch):
    """The driver calls it taken: behind a training step's activations a sampler would get next to no rows."""
    asked = []

    def told(value):
        return lambda device: asked.append(device) or value

    monkeypatch.setattr(torch.cuda, "mem_get_info", told((2 * GIB, 80 * GIB)))
    monkeypatch.setattr(torch.cuda, "memory_reserved", told(60 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_allocated", told(20 * GIB))
    assert local.free_bytes(GPU) == 42 * GIB
    assert set(asked) == {GPU}  # not the current device


def test_a_model_on_a_device_with_a_number_makes_it_the_current_one(monkeypatch):
    """Steps are recorded on the current device: on another one nothing would be in the recording."""
    chosen = []

    class Stop(Exception):
        pass

    def stop(*args, **kwargs):
        raise Stop

    monkeypatch.setattr(opening, "resolve_device", torch.device)
    monkeypatch.setattr(opening, "read_model", stop)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for name in ("cuda:1", "cuda", "cpu"):
        with pytest.raises(Stop):
            opening.load_weights("model", ModelSettings(device=name, dtype="float32"))
    assert chosen == [GPU]


@pytest.mark.parametrize(("memory", "share"), [(80 * 10**9, 16 * 10**9), (24 * 10**9, 4.8 * 10**9), (10**12, 2**34)])
def test_a_chunk_takes_a_fifth_of_a_gpus_memory_at_most(monkeypatch, memory, share):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=memory))
    monkeypatch.setattr(step, "activation_bytes", lambda weights: 10**6)
    learner = SimpleNamespace(device=GPU, weights=None)
    assert step.chunk_tokens(learner, TrainSettings()) == int(share) // 10**6
    assert step.chunk_tokens(learner, TrainSettings(chunk_tokens=7)) == 7


@torch.no_grad()
def test_in_bf16_an_update_too_small_to_be_told_from_rounding_is_below_the_resolution():
    """Its hidden states differ by their rounding, however small the update: fp32 tells how far it really went."""
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        shared = tiny.weights(dtype=dtype)
        learner = tiny.adapter(shared, "one", seed=3, size=0.1)
        rows = [learner.encode_prompt(text) for text in ("some 1+1= is two", "twelve plus one is", "x y z 0 1 2")]
        places = [list(range(len(row))) for row in rows]
        before = learner.hidden_at(rows, places)
        tiny.fill(shared, "one", seed=3, size=0.1 * (1 + 1e-4))
        found[dtype] = float(kl(before, learner.head, learner.hidden_at(rows, places), learner.head).mean())
    assert RESOLUTION_NATS < found[torch.float32] < 1e-8
    assert found[torch.bfloat16] < resolution_nats(torch.bfloat16)


def test_heads_that_are_repeated_attend_as_grouped_ones():
    """What a masked block takes on a GPU, against torch's grouped heads; gradients add up over a group."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, heads, 5, 4, generator=generator, dtype=torch.float64) for heads in (6, 2, 2))
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool).tril()
    found = []
    for is_grouped in (True, False):
        parts = [part.clone().requires_grad_() for part in (key, value)]
        given = parts if is_grouped else [by_query_head(part, 6) for part in parts]
        made = F.scaled_dot_product_attention(query, *given, attn_mask=mask, enable_gqa=is_grouped)
        made.square().sum().backward()
        found.append([made.detach(), *(part.grad for part in parts)])
    for grouped, repeated in zip(*found, strict=True):
        torch.testing.assert_close(repeated, grouped)


def test_the_resolution_grows_with_the_square_of_a_dtypes_rounding():
    assert resolution_nats(torch.float64) == resolution_nats(torch.float32) == RESOLUTION_NATS
    assert resolution_nats(torch.bfloat16) == pytest.approx(160 * 2**-14)
    assert resolution_nats(torch.float16) == pytest.approx(160 * 2**-20)


def test_rows_as_plain_lists_are_read_from_the_device_at_once(monkeypatch):
    """A row at a time, a GPU would be waited for four times per row."""
    states = tiny_states()
    calls = []
    plain = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: calls.append(1) or plain(tensor))
    rows = states.trajectories()
    assert len(calls) == 3
    assert [row.ids for row in rows] == [[1, 2, 3], [4, 5]]
    assert [row.group for row in rows] == [0, 1]
    assert rows[1].logps == [None, -0.5]


def tiny_states():
    from stateshape.core.states import Origin, Trajectory, pack

    def row(ids, logps, group):
        origins = [Origin.PROMPT, *[Origin.LEARNER] * (len(ids) - 1)]
        return Trajectory(item_id="a", ids=ids, origins=origins, logps=logps, finish="eos", group=group)

    return pack([row([1, 2, 3], [None, -0.25, -0.125], 0), row([4, 5], [None, -0.5], 1)], device="cpu")

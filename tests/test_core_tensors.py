"""The chunked head against plain logits, in value and gradient; the shift; seeds."""

import itertools

import pytest
import torch
from torch.autograd import gradcheck

from stateshape.core import tensors
from stateshape.core.head import Head
from stateshape.core.seeds import generator_for, seed_for
from stateshape.losses.divergence import forward_kl, reverse_kl

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


def normal(*shape, seed, dtype=torch.float64, grad=False):
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return made.to(dtype).requires_grad_(grad)


def gradients(value, *inputs):
    weights = torch.linspace(-1, 2, value.numel(), dtype=value.dtype)
    return torch.autograd.grad((value * weights).sum(), inputs)


def largest_difference(ours, naive, hidden):
    """Over values and gradients by the hidden states: |a - b| / (1 + |b|); nan where anything is nan."""
    pairs = [(ours, naive), *zip(gradients(ours, hidden), gradients(naive, hidden), strict=True)]
    assert all(a.shape == b.shape and a.dtype == b.dtype for a, b in pairs)
    return torch.cat([((a - b).abs() / (1 + b.abs())).flatten() for a, b in pairs]).max().item()


def set_chunk(monkeypatch, elements):
    """Elements of logits at a time; no chunk is made taller for the head's sake."""
    monkeypatch.setattr(tensors, "CHUNK_ELEMENTS", {"cpu": elements})
    monkeypatch.setattr(tensors, "MIN_CHUNK_ROWS", 1)


KINDS = {
    "matrix": {},
    "bias": {"bias": True},
    "scale": {"scale": 0.3},
    "cap": {"cap": 1.5},
    "all": {"bias": True, "scale": 1.7, "cap": 2.0},
}


def head_of(*shape, seed, dtype=torch.float64, bias=False, **more):
    """A head, and its logits written out."""
    matrix, bias_V = normal(*shape, seed=seed, dtype=dtype), normal(shape[0], seed=seed + 100, dtype=dtype)

    def logits(hidden):
        made = (hidden @ matrix.T + (bias_V if bias else 0)) * more.get("scale", 1.0)
        return more["cap"] * torch.tanh(made / more["cap"]) if "cap" in more else made

    return Head(matrix, bias_V if bias else None, **more), logits


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("chunk_elements", [1, 3 * 11, 4 * 11, 2**25])
@pytest.mark.parametrize("kind", KINDS)
def test_chunked_token_logp_equals_plain_logits(monkeypatch, dtype, chunk_elements, kind):
    set_chunk(monkeypatch, chunk_elements)
    hidden = normal(7, 4, seed=1, dtype=dtype, grad=True)
    head, logits = head_of(11, 4, seed=2, dtype=dtype, **KINDS[kind])
    targets = torch.tensor([0, 10, 3, 3, 7, 1, 9])
    ours = tensors.token_logp(hidden, head, targets, 0.7)
    naive = (logits(hidden) / 0.7).log_softmax(-1)[torch.arange(7), targets]
    assert largest_difference(ours, naive, hidden) <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kl", [forward_kl, reverse_kl])
@pytest.mark.parametrize("chunk_elements", [2 * 11, 2**25])
@pytest.mark.parametrize("kind", KINDS)
def test_chunked_divergence_equals_plain_logits(monkeypatch, dtype, kl, chunk_elements, kind):
    set_chunk(monkeypatch, chunk_elements)
    hidden, other = normal(7, 4, seed=1, dtype=dtype, grad=True), normal(7, 6, seed=3, dtype=dtype)
    head, logits = head_of(11, 4, seed=2, dtype=dtype, **KINDS[kind])
    other_head, other_logits = head_of(11, 6, seed=4, dtype=dtype, **KINDS[kind])
    ours = tensors.divergence(hidden, head, other, other_head, kl)
    naive = kl(logits(hidden).log_softmax(-1), other_logits(other).log_softmax(-1))
    assert largest_difference(ours, naive, hidden) <= TOLERANCE[dtype]


def test_chunked_entropy_equals_plain_logits(monkeypatch):
    set_chunk(monkeypatch, 22)
    hidden, head = normal(5, 4, seed=1, grad=True), normal(11, 4, seed=2)
    p = (hidden @ head.T).softmax(-1)
    assert largest_difference(tensors.entropy(hidden, Head(head)), -(p * p.log()).sum(-1), hidden) <= 1e-9


def test_trap_full_vocabulary_logits_run_out_of_memory(monkeypatch):
    seen, plain = [], tensors.logits_of

    def spy(hidden_ND, head, temperature=1.0):
        made = plain(hidden_ND, head, temperature)
        seen.append(made.numel())
        return made

    set_chunk(monkeypatch, 3 * 11)
    monkeypatch.setattr(tensors, "logits_of", spy)
    hidden = normal(7, 4, seed=1, grad=True)
    value = tensors.token_logp(hidden, Head(normal(11, 4, seed=2)), torch.arange(7))
    assert seen == [33, 33, 11]
    value.sum().backward()
    assert seen == [33, 33, 11]  # made once: backward has the gradient already
    with torch.no_grad():
        assert torch.equal(tensors.token_logp(hidden, Head(normal(11, 4, seed=2)), torch.arange(7)), value)
    assert seen == [33, 33, 11] * 2


def test_a_chunk_has_rows_enough_to_be_worth_reading_the_head(monkeypatch):
    seen, plain = [], tensors.logits_of
    monkeypatch.setattr(tensors, "CHUNK_ELEMENTS", {"cpu": 1})
    monkeypatch.setattr(tensors, "MIN_CHUNK_ROWS", 5)
    monkeypatch.setattr(tensors, "logits_of", lambda *given: seen.append(len(given[0])) or plain(*given))
    tensors.entropy(normal(12, 4, seed=1), Head(normal(11, 4, seed=2)))
    assert seen == [5, 5, 2]


def test_the_head_gets_a_gradient_only_where_it_is_trained():
    targets, found = torch.tensor([1, 2, 3]), {}
    for is_trained in (False, True):
        hidden, head = normal(3, 4, seed=1, grad=True), normal(11, 4, seed=2, grad=is_trained)
        tensors.token_logp(hidden, Head(head), targets).sum().backward()
        found[is_trained] = hidden.grad
        assert (head.grad is not None) == is_trained
    torch.testing.assert_close(found[True], found[False])
    assert found[True].abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck_of_token_logp_and_divergences(monkeypatch, kind):
    set_chunk(monkeypatch, 2 * 5)
    hidden, other = normal(3, 2, seed=1, grad=True), normal(3, 2, seed=3)
    head, other_head = (head_of(5, 2, seed=seed, **KINDS[kind])[0] for seed in (2, 4))
    targets = torch.tensor([4, 0, 2])
    assert gradcheck(lambda h: tensors.token_logp(h, head, targets, 1.3), (hidden,))
    assert gradcheck(lambda h: tensors.entropy(h, head), (hidden,))
    for kl in (forward_kl, reverse_kl):
        assert gradcheck(lambda h, kl=kl: tensors.divergence(h, head, other, other_head, kl), (hidden,))


def test_bf16_logits_are_normalised_in_fp32():
    hidden, head = normal(3, 8, seed=1, dtype=torch.bfloat16), normal(50, 8, seed=2, dtype=torch.bfloat16)
    logp = tensors.token_logp(hidden, Head(head), torch.tensor([1, 2, 3]))
    assert logp.dtype == torch.float32
    naive = (hidden @ head.T).float().log_softmax(-1)[torch.arange(3), torch.tensor([1, 2, 3])]
    torch.testing.assert_close(logp, naive, rtol=1e-6, atol=1e-6)


def test_trap_same_family_different_vocabulary_size():
    """Rows that pad one head only (trl#2215) change nothing, whichever side has them."""
    hidden, head = normal(4, 3, seed=1), normal(6, 3, seed=2)
    other, other_head = normal(4, 3, seed=3), normal(6, 3, seed=4)
    padding = normal(2, 3, seed=5)
    plain = tensors.divergence(hidden, Head(head), other, Head(other_head), forward_kl)
    for a, b in ((torch.cat([head, padding]), other_head), (head, torch.cat([other_head, padding]))):
        torch.testing.assert_close(tensors.divergence(hidden, Head(a), other, Head(b), forward_kl), plain)


def test_trap_missing_shift():
    """A supervised token is predicted from the one before it (trl#2058)."""
    supervise_BT = torch.tensor([[False, True, False, True], [False, False, True, False]])
    assert tensors.before(supervise_BT).nonzero().tolist() == [[0, 0], [0, 2], [1, 1]]
    assert tensors.before(supervise_BT).shape == supervise_BT.shape


def test_no_positions_give_an_empty_value_that_keeps_the_graph():
    hidden, head = normal(0, 4, seed=1, grad=True), normal(11, 4, seed=2, grad=True)
    total = tensors.token_logp(hidden, Head(head), torch.zeros(0, dtype=torch.int64)).sum()
    assert total.item() == 0
    total.backward()
    assert head.grad is not None and not head.grad.any()


def test_trap_irreproducible_a_seed_depends_on_run_purpose_and_step_alone():
    seeds = [seed_for(*parts) for parts in itertools.product((0, 1), ("order", "cut"), (0, 1, 10))]
    assert len(set(seeds)) == 12
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_for(1, "a", 11) != seed_for(11, "a", 1)
    assert seed_for(0, "order", 0) == 3955691223199900983  # fixed: it decides what a resumed run draws
    state = torch.get_rng_state()
    draws = [torch.rand(3, generator=generator_for(0, "order", 0)) for _ in range(2)]
    assert torch.equal(*draws)
    assert torch.equal(torch.get_rng_state(), state)


# What a chunk's logits say besides the value


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kl", [forward_kl, reverse_kl])
@pytest.mark.parametrize("chunk_elements", [2 * 11, 2**25])
@pytest.mark.parametrize("kind", ["matrix", "all"])
def test_a_divergence_in_detail_is_the_divergence_and_what_plain_logits_say(
    monkeypatch, dtype, kl, chunk_elements, kind
):
    set_chunk(monkeypatch, chunk_elements)
    hidden, other = normal(7, 4, seed=1, dtype=dtype, grad=True), normal(7, 6, seed=3, dtype=dtype)
    head, logits_of = head_of(11, 4, seed=2, dtype=dtype, **KINDS[kind])
    other_head, other_logits_of = head_of(11, 6, seed=4, dtype=dtype, **KINDS[kind])
    targets = torch.tensor([0, 10, 3, 3, 7, 1, 9])
    ours = tensors.divergence_in_detail(hidden, head, other, other_head, targets, kl)
    logits = logits_of(hidden.detach()).requires_grad_()
    teacher_logp = other_logits_of(other).log_softmax(-1)
    value = kl(logits.log_softmax(-1), teacher_logp)
    close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    naive = kl(logits_of(hidden).log_softmax(-1), teacher_logp)
    torch.testing.assert_close(ours.value_N, naive, **close)
    torch.testing.assert_close(gradients(ours.value_N, hidden), gradients(naive, hidden), **close)
    (slope,) = torch.autograd.grad(value.sum(), logits)
    torch.testing.assert_close(ours.mass_N, slope.abs().sum(-1) / 2, **close)
    torch.testing.assert_close(ours.learner_logp_N, logits.detach().log_softmax(-1)[torch.arange(7), targets], **close)
    torch.testing.assert_close(ours.teacher_entropy_N, -(teacher_logp.exp() * teacher_logp).sum(-1), **close)
    assert [x.requires_grad for x in ours] == [True, False, False, False]


def test_the_mass_of_a_divergence_is_missing_where_no_gradient_is_taken():
    hidden, head = normal(3, 4, seed=1), Head(normal(11, 4, seed=2))
    found = tensors.divergence_in_detail(hidden, head, 2 * hidden, head, torch.tensor([1, 2, 3]), forward_kl)
    assert found.mass_N.isnan().all()
    assert (found.value_N > 0).all()


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_mass_of_weighted_log_probs_is_half_the_l1_norm_at_the_logits(temperature):
    logits, targets = normal(6, 11, seed=1, grad=True), torch.tensor([0, 10, 3, 3, 7, 1])
    weight = normal(6, seed=2)
    logp = (logits / temperature).log_softmax(-1)[torch.arange(6), targets]
    (slope,) = torch.autograd.grad((weight * logp).sum(), logits)
    torch.testing.assert_close(tensors.mass_of(logp, weight, temperature), slope.abs().sum(-1) / 2)


def test_values_of_positions_go_to_their_places_and_add_up_by_row():
    supervise_BT = torch.tensor([[False, True, True], [False, False, False], [False, False, True]])
    values = torch.tensor([1.0, 2.0, 5.0], requires_grad=True)
    assert tensors.spread(values, supervise_BT).tolist() == [[0, 1, 2], [0, 0, 0], [0, 0, 5]]
    sums = tensors.row_sums(values, supervise_BT)
    assert sums.tolist() == [3, 0, 5]
    (sums * torch.tensor([10.0, 20.0, 30.0])).sum().backward()
    assert values.grad.tolist() == [10, 10, 30]

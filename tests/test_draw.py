"""The draw of a token against numpy's inverse CDF, at the edges of the unit interval and of the vocabulary."""

import numpy as np
import pytest
import torch

from stateshape.sampling.draw import BLOCK, draw

BELOW_ONE = 1 - 2**-53  # the largest number that a generator gives
SIZES = [1, 5, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 1000, 50_257]


def logits(rows, size, *, seed=0, scale=2.0):
    return scale * torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


def uniform(rows, *, seed=0):
    return torch.rand(rows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distance_from_share(logits_V, u, token):
    """How far u lies outside the token's part of the unit interval, in fp64; 0 inside."""
    p = np.exp(logits_V.double().numpy() - logits_V.max().item())
    upto = p.cumsum() / p.sum()
    return max(0.0, (upto[token - 1] if token else 0.0) - u, u - upto[token])


@pytest.mark.numerics
@pytest.mark.parametrize("size", SIZES)
def test_tokens_are_those_of_the_inverse_cdf(size):
    given, u = logits(64, size), uniform(64)
    u[:2] = torch.tensor([0.0, BELOW_ONE], dtype=torch.float64)
    tokens, logps = draw(given, u, greedy=False)
    # a probability in fp32 is wrong by a millionth of itself: whoever lies closer to an edge may fall on either side
    assert max(map(distance_from_share, given, u.tolist(), tokens.tolist())) < 1e-6
    assert tokens[:2].tolist() == [0, size - 1]
    torch.testing.assert_close(logps, given.log_softmax(-1)[torch.arange(64), tokens], rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_a_token_without_probability_is_never_drawn(size):
    """At both ends, at every edge between two tokens, and where whole blocks have none."""
    for seed in range(20 if size < 10_000 else 3):
        given = logits(16, size, seed=seed, scale=5.0)
        given[torch.rand(given.shape, generator=torch.Generator().manual_seed(seed)) < 0.8] = -torch.inf
        given[:, (7 * seed) % size] = 0.0
        cumulative = given.log_softmax(-1).exp().double().cumsum(1)
        place = torch.randint(size, (16, 1), generator=torch.Generator().manual_seed(seed))
        edge = (cumulative.gather(1, place) / cumulative[:, -1:])[:, 0]
        for u in (0 * edge, 0 * edge + BELOW_ONE, edge, edge - 2**-53, edge + 2**-53):
            tokens, logps = draw(given, u.clamp(0, BELOW_ONE), greedy=False)
            assert logps.isfinite().all()
            assert ((tokens >= 0) & (tokens < size)).all()


def test_one_certain_token_is_always_drawn():
    given = torch.full((3, 200), -torch.inf)
    given[torch.arange(3), torch.tensor([0, 130, 199])] = 1.0
    for u in (0.0, 0.5, BELOW_ONE):
        tokens, logps = draw(given, torch.full((3,), u, dtype=torch.float64), greedy=False)
        assert tokens.tolist() == [0, 130, 199]
        assert logps.tolist() == [0, 0, 0]


def test_the_tail_of_a_large_vocabulary_keeps_its_probability():
    """Cumulative sums in fp32 would lose the end of it: 2^17 equal tokens, each drawn by the middle of its own share."""
    size = 2**17 + 3
    wanted = torch.tensor([0, 1, 63, 64, 70_000, size - 2, size - 1])
    tokens, _ = draw(torch.zeros(1, size).expand(7, -1), (wanted.double() + 0.5) / size, greedy=False)
    assert tokens.tolist() == wanted.tolist()


def test_a_row_is_drawn_the_same_alone_and_among_others():
    given, u = logits(12, 300), uniform(12)
    tokens, logps = draw(given, u, greedy=False)
    for r in range(12):
        alone, logp = draw(given[r : r + 1], u[r : r + 1], greedy=False)
        assert alone[0] == tokens[r]
        assert logp[0].item() == pytest.approx(logps[r].item(), abs=1e-5)


def test_greedy_is_the_argmax_and_asks_no_number():
    given = logits(9, 100)
    tokens, logps = draw(given, torch.full((9,), float("nan"), dtype=torch.float64), greedy=True)
    assert torch.equal(tokens, given.argmax(-1))
    torch.testing.assert_close(logps, given.log_softmax(-1).amax(-1), rtol=0, atol=1e-5)

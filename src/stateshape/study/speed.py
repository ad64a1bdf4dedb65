"""How fast a model samples and trains on this machine, by a run of about two seconds. An estimate: nothing is repeated.

Does not know what the model is for: its prompts are tokens of the vocabulary in order.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from stateshape.core.tensors import token_logp
from stateshape.policy.policy import Policy
from stateshape.policy.settings import LoraSettings
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import SamplingSettings

NAME = "timed"
ROWS, PROMPT, FIRST_TOKENS, MOST_TOKENS = 8, 16, 2, 64
ROW_TOKENS, MOST_ROWS = 64, 16
SECONDS = 0.7  # for each of the two


def about_speed(policy: Policy, *, rank: int, is_full: bool) -> Iterator[str]:
    """Lines for `stateshape doctor`."""
    sampled = sampled_per_second(policy)
    yield f"speed        samples about {sampled:,.0f} tokens/s, {ROWS} rows at once (short rows, nothing else running)"
    what = "all parameters" if is_full else f"LoRA r {rank}"
    try:
        trained = trained_per_second(policy, rank=rank, is_full=is_full)
    except torch.OutOfMemoryError:
        yield f"             training {what} does not fit in this device's memory (warning)"
        return
    yield f"             trains {what} on about {trained:,.0f} tokens/s (forward and backward, {ROW_TOKENS} tokens per row)"


@torch.no_grad()
def sampled_per_second(policy: Policy) -> float:
    """A short call tells how long the timed one may be."""
    prompts = [row[:PROMPT] for row in rows_of(policy, ROWS)]
    _, seconds = sample(policy, prompts, FIRST_TOKENS)
    more = min(MOST_TOKENS, max(FIRST_TOKENS, int(SECONDS * FIRST_TOKENS / seconds)))
    num_tokens, seconds = sample(policy, prompts, more)
    return num_tokens / seconds


def sample(policy: Policy, prompts: list[list[int]], num_tokens: int) -> tuple[int, float]:
    settings = SamplingSettings(max_new_tokens=num_tokens)
    begun = now(policy)
    made = LocalSampler().sample(policy, prompts, settings, seed=0)
    return sum(len(one.ids) for one in made), now(policy) - begun


def trained_per_second(policy: Policy, *, rank: int, is_full: bool) -> float:
    """Gradients of rows' log-probs; the parameters stay as they are."""
    weights = policy.weights
    try:
        if is_full:
            weights.add_full(NAME)
        else:
            weights.add_adapter(NAME, LoraSettings(rank=rank), seed=0)
        learner = Policy(weights, NAME, is_trainable=True)
        first = backward(learner, rows_of(policy, 1))
        num_rows = min(MOST_ROWS, max(1, int(SECONDS / first)))
        rows = rows_of(policy, num_rows)
        return sum(map(len, rows)) / backward(learner, rows)
    finally:
        if weights.has_adapter(NAME):
            weights.remove_adapter(NAME)


def backward(learner: Policy, rows: list[list[int]]) -> float:
    """Seconds of a forward and a backward pass."""
    begun = now(learner)
    hidden_ND = learner.hidden_at(rows, [list(range(len(row) - 1)) for row in rows])
    targets_N = torch.tensor([token for row in rows for token in row[1:]], device=learner.device)
    (-token_logp(hidden_ND, learner.head, targets_N).mean()).backward()  # type: ignore[no-untyped-call]
    return now(learner) - begun


def rows_of(policy: Policy, num_rows: int) -> list[list[int]]:
    """Rows of ordinary tokens that share no beginning."""
    length = min(ROW_TOKENS, policy.longest_row or ROW_TOKENS)
    size = min(len(policy.tokenizer), policy.head.num_tokens)
    return [[(1 + 31 * b + 7 * t) % size for t in range(length)] for b in range(num_rows)]


def now(policy: Policy) -> float:
    if policy.device.type == "cuda":
        torch.cuda.synchronize(policy.device)
    return time.perf_counter()

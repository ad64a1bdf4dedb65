"""Sampling with the model at hand: one prefill a prompt, a KV cache, finished rows leave the batch.

Works on any transformers causal LM with full attention. Prompts are right-padded for the prefill and the hole between a
short prompt and its first new token is masked, so positions need no shift. Knows nothing of tasks or states.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from stateshape.core.tensors import logits_of
from stateshape.policy.policy import Policy
from stateshape.sampling.settings import Completion, Finish, Progress, SamplingSettings
from stateshape.sampling.stops import StopWatch

MIN_SHRINK = 0.75  # the batch is compacted when at most this share of its rows is alive: copying a cache is not free


class LocalSampler:
    """The default engine: the same weights and the same arithmetic as the trainer's."""

    @torch.no_grad()
    def sample(
        self,
        policy: Policy,
        prompts: Sequence[Sequence[int]],
        settings: SamplingSettings,
        *,
        seed: int,
        progress: Progress | None = None,
    ) -> list[Completion]:
        """See Sampler. Prompts of similar length share a batch; the result is in the order of `prompts`."""
        if not prompts:
            return []
        policy.activate()
        watch = StopWatch(policy, settings.stops)
        generator = torch.Generator(device=policy.device).manual_seed(seed)
        per_batch = max(1, settings.batch_rows // settings.num_samples)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        found: dict[int, list[Completion]] = {}
        for start in range(0, len(order), per_batch):
            chosen = order[start : start + per_batch]
            batch = _Batch(policy, [prompts[i] for i in chosen], settings, watch, generator)
            completions = batch.run()
            for k, i in enumerate(chosen):
                found[i] = completions[k * settings.num_samples : (k + 1) * settings.num_samples]
            if progress:
                progress(min(start + per_batch, len(order)), len(order))
        return [completion for i in range(len(prompts)) for completion in found[i]]


class _Batch:
    """The rows that are generated together. R: rows still in the batch."""

    def __init__(
        self,
        policy: Policy,
        prompts: list[Sequence[int]],
        settings: SamplingSettings,
        watch: StopWatch,
        generator: torch.Generator,
    ) -> None:
        self.policy, self.settings, self.watch, self.generator = policy, settings, watch, generator
        self.ids: list[list[int]] = [[] for _ in range(len(prompts) * settings.num_samples)]
        self.logps: list[list[float]] = [[] for _ in self.ids]
        self.finish: list[Finish] = ["length"] * len(self.ids)
        self.alive = list(range(len(self.ids)))  # row of the result for each row of the batch; -1: finished
        self.prefill(prompts)

    def prefill(self, prompts: list[Sequence[int]]) -> None:
        """Runs each distinct prompt once and expands it to its samples."""
        device, copies = self.policy.device, self.settings.num_samples
        width = max(len(prompt) for prompt in prompts)
        ids_BP = torch.tensor([[*prompt, *([0] * (width - len(prompt)))] for prompt in prompts], device=device)
        lengths_B = torch.tensor([len(prompt) for prompt in prompts], device=device)
        self.cache = DynamicCache(config=self.policy.weights.config)
        hidden_BPD = self.policy.weights.body(
            input_ids=ids_BP, past_key_values=self.cache, use_cache=True
        ).last_hidden_state
        last_BD = hidden_BPD[torch.arange(len(prompts), device=device), lengths_B - 1]
        if copies > 1:
            self.cache.batch_repeat_interleave(copies)
        self.hidden_RD = last_BD.repeat_interleave(copies, 0)
        self.position_R = lengths_B.repeat_interleave(copies, 0)
        total = width + self.settings.max_new_tokens
        key = torch.arange(total, device=device)
        self.visible_RS = (key[None] < self.position_R[:, None]) | (key[None] >= width)
        self.num_seen = width

    def run(self) -> list[Completion]:
        for step in range(self.settings.max_new_tokens):
            token_R, logp_R = self.draw()
            self.record(token_R.tolist(), logp_R.tolist())
            num_alive = sum(row >= 0 for row in self.alive)
            if num_alive == 0 or step + 1 == self.settings.max_new_tokens:
                break
            if num_alive <= MIN_SHRINK * len(self.alive):
                token_R = self.compact(token_R)
            self.advance(token_R)
        return [Completion(*parts) for parts in zip(self.ids, self.logps, self.finish, strict=True)]

    def draw(self) -> tuple[Tensor, Tensor]:
        """The next token of each row and its log-prob (Gumbel-max: argmax of logits plus noise is a sample)."""
        temperature = self.settings.temperature
        logp_RV = logits_of(self.hidden_RD, self.policy.head_VD, temperature or 1.0).log_softmax(-1)
        if temperature == 0:
            token_R = logp_RV.argmax(-1)
        else:
            noise_RV = torch.empty_like(logp_RV).exponential_(generator=self.generator)
            token_R = (logp_RV - noise_RV.log()).argmax(-1)
        return token_R, logp_RV.gather(-1, token_R[:, None])[:, 0]

    def record(self, tokens: list[int], logps: list[float]) -> None:
        for r, row in enumerate(self.alive):
            if row < 0:
                continue
            self.ids[row].append(tokens[r])
            self.logps[row].append(logps[r])
            ending = self.watch.ending(self.ids[row])
            if ending is not None:
                self.finish[row] = ending
                self.alive[r] = -1

    def compact(self, token_R: Tensor) -> Tensor:
        """Drops the finished rows from the batch and its cache."""
        keep = torch.tensor([r for r, row in enumerate(self.alive) if row >= 0], device=token_R.device)
        self.cache.batch_select_indices(keep)
        self.position_R, self.visible_RS = self.position_R[keep], self.visible_RS[keep]
        self.alive = [row for row in self.alive if row >= 0]
        return token_R[keep]

    def advance(self, token_R: Tensor) -> None:
        """One decoding step: feeds the tokens at their own positions."""
        self.num_seen += 1
        visible_RS = self.visible_RS[:, : self.num_seen]
        if self.policy.weights.config._attn_implementation == "sdpa":
            # Ready for use; other implementations would read these four dimensions as numbers to add to the scores.
            visible_RS = visible_RS[:, None, None]
        self.hidden_RD = self.policy.weights.body(
            input_ids=token_R[:, None],
            attention_mask=visible_RS,
            position_ids=self.position_R[:, None],
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        self.position_R = self.position_R + 1

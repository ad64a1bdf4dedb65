"""Sampling beside transformers' generate: prompts of mixed length, 8 samples each, plain sampling at temperature 1.

Embedded: 16 prompts, up to 96 new tokens. Any other model: 8 GSM8K prompts, up to 128. Rows end at EOS alone on both
sides; ours records the log-prob of every token as well, which generate is not asked for.

The peer's settings: sampling without top-k or top-p (their warpers are not built then), a pad token, left padding, no
scores. What is tried first, the fastest being timed: all rows in one batch, or batches of 32 rows by prompt length (so
that less is padded and a batch can end early), each with the dynamic and with the static cache; prompts are repeated by
num_return_sequences, which prefills every copy in either way.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from benchmarks.common import Measured, Options, Row, compared, fastest, interleave, load_policy, timed, train_task
from benchmarks.trl_peer import peer_model
from stateshape.policy.policy import Policy
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import SamplingSettings

GROUP = 8


class Generate:
    """transformers' generate on left-padded batches of prompts of similar length. The policy only names its tokens."""

    def __init__(
        self,
        network: Any,
        policy: Policy,
        prompts: list[list[int]],
        *,
        group: int,
        new_tokens: int,
        batch_rows: int,
        cache: str,
    ) -> None:
        self.network, self.policy, self.prompts = network, policy, sorted(prompts, key=len)
        self.per_batch = max(1, batch_rows // group)
        self.options: dict[str, Any] = {
            "max_new_tokens": new_tokens,
            "do_sample": True,
            "temperature": 1.0,
            "top_k": 0,
            "top_p": 1.0,
            "num_return_sequences": group,
            "pad_token_id": policy.pad_id,
            "eos_token_id": list(policy.eos_ids),
            "cache_implementation": cache,
            "disable_compile": policy.device.type == "cpu",
        }

    @torch.no_grad()
    def __call__(self, repeat: int) -> Measured:
        torch.manual_seed(1 + repeat)
        seconds, lengths = timed(self.generate)
        return Measured(seconds, sum(lengths), lengths=lengths)

    def generate(self) -> list[int]:
        """New tokens of each row up to and with its first EOS, prompts in order of their length."""
        batches = range(0, len(self.prompts), self.per_batch)
        return [length for start in batches for length in self.batch(self.prompts[start : start + self.per_batch])]

    def batch(self, prompts: list[list[int]]) -> list[int]:
        width, device = max(map(len, prompts)), self.policy.device
        ids_BT = torch.tensor([[*[self.policy.pad_id] * (width - len(prompt)), *prompt] for prompt in prompts])
        mask_BT = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        written_BT = self.network.generate(
            input_ids=ids_BT.to(device), attention_mask=mask_BT.to(device), **self.options
        )[:, width:]
        ends_BT = torch.isin(written_BT, torch.tensor(self.policy.eos_ids, device=device)).long()
        return ((ends_BT.cumsum(1) - ends_BT) == 0).sum(1).tolist()


class Ours:
    """Holds on to its sampler, as a training run does: on a GPU its recorded steps are used again."""

    def __init__(self, policy: Policy, prompts: list[list[int]], settings: SamplingSettings) -> None:
        self.policy, self.prompts, self.settings, self.sampler = policy, prompts, settings, LocalSampler()

    def __call__(self, repeat: int) -> Measured:
        seconds, completions = timed(
            partial(self.sampler.sample, self.policy, self.prompts, self.settings, seed=1 + repeat)
        )
        lengths = [len(completion.ids) for completion in completions]
        return Measured(seconds, sum(lengths), lengths=lengths)


def run(model: str, options: Options = Options()) -> list[Row]:  # noqa: B008
    num_prompts = options.pick(16 if model == "embedded" else 8, 3)
    new_tokens = options.pick(96 if model == "embedded" else 128, 8)
    policy, task, network = load_policy(model), train_task(model), peer_model(model)
    prompts = [policy.encode_prompt(item.prompt) for item in task.train[:num_prompts]]
    total = num_prompts * GROUP
    arrangements = [(rows, cache) for rows in dict.fromkeys((total, min(32, total))) for cache in ("dynamic", "static")]
    peers = {
        f"batches of {rows} rows, {cache} cache": Generate(
            network, policy, prompts, group=GROUP, new_tokens=new_tokens, batch_rows=rows, cache=cache
        )
        for rows, cache in arrangements
    }

    def seconds(peer: Generate) -> float:
        return min(peer(0).seconds for _ in range(2))

    name, tried = fastest({key: partial(seconds, peer) for key, peer in peers.items()})
    settings = SamplingSettings(max_new_tokens=new_tokens, num_samples=GROUP)
    measured = interleave({"ours": Ours(policy, prompts, settings), "peer": peers[name]}, repeats=options.num_repeats())
    row = compared(
        "sampling", model, measured["ours"], measured["peer"], peer="transformers generate", peer_settings=name
    )
    row |= {
        "ours_tokens_per_s": row["ours_tokens"] / row["ours_seconds"],
        "peer_tokens_per_s": row["peer_tokens"] / row["peer_seconds"],
        "peer_tried_seconds": tried,
        "prompts": num_prompts,
        "samples": GROUP,
        "new_tokens": new_tokens,
        "prompt_lengths": sorted(map(len, prompts)),
    }
    return [row]

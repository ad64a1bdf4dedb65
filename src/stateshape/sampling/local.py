"""Sampling on this machine by continuous batching: one prefill per prompt, finished rows leave, waiting ones enter.

    admit    prompts that fit are prefilled as one prefix tree (each distinct prompt once) and copied to their samples' slots
    advance  one token for every row in use (a burst of them on a GPU): decoder, head, inverse CDF; see decode.py
    leave    the last slot moves into a finished row's place, so that the rows in use stay dense

Models that no pass over prefix trees fits are sampled by general.py.

Exact log-probs of the sampling distribution come out of the same pass. Knows nothing of tasks or states.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from stateshape.core.files import BadInput
from stateshape.core.ranks import current
from stateshape.policy.policy import Policy
from stateshape.policy.tree_attention import lay_out
from stateshape.sampling.decode import PLACE_STEP, Decoding, is_recorded, round_up
from stateshape.sampling.general import sample_general
from stateshape.sampling.rows import Results, Row
from stateshape.sampling.settings import Call, Completion, Progress, SamplingSettings
from stateshape.sampling.slots import Slots

CACHE_BYTES = 2**31  # of keys and values on a CPU; half of what is free on a GPU
PREFILL_TOKENS = 8192
BURST = {"cpu": 1, "cuda": 16}
REFILL_SHARE = 1 / 8  # of the slots must be free before waiting prompts enter: a prefill of a few tokens is a slow one


class LocalSampler:
    """The default engine: the same weights and arithmetic as the trainer's.

    If steps are recorded (our own decoder on a GPU), it keeps its cache and recorded steps for the next call with the same
    model.
    """

    def __init__(self, *, burst: int | None = None) -> None:
        """`burst`: tokens between two checks by the host; what a row computes after its end is ignored. Default: BURST."""
        self.burst = burst
        self._kept: Decoding | None = None

    def forget(self) -> None:
        """Lets go of the last call's model, cache and recorded steps."""
        self._kept = None

    def sample(
        self,
        policy: Policy,
        prompts: Sequence[Sequence[int]],
        settings: SamplingSettings,
        *,
        seed: int,
        progress: Progress | None = None,
    ) -> list[Completion]:
        """See Sampler. A row depends on its prompt, its number and the seed, not on the other rows."""
        return self.sample_calls(policy, [Call([*map(list, prompts)], seed)], settings, progress)

    @torch.no_grad()
    def sample_calls(
        self, policy: Policy, calls: Sequence[Call], settings: SamplingSettings, progress: Progress | None = None
    ) -> list[Completion]:
        """See Batching."""
        prompts = [prompt for call in calls for prompt in call.prompts]
        if not prompts:
            return []
        longest = max(map(len, prompts))
        check_prompts(policy, longest, settings)
        uniform_CS = torch.cat(
            [uniform_numbers(policy.device, len(call.prompts), settings, seed=call.seed) for call in calls]
        )

        def own(mine: list[int], uniform_CS: Tensor) -> list[Completion]:
            results = Results(policy, len(mine), settings, progress)
            chosen = [prompts[i] for i in mine]
            policy.activate()
            if policy.weights.passes.kind == "general":
                sample_general(policy, chosen, settings, uniform_CS, results)
            else:
                decoding = self.decoding(policy, settings, longest=longest, uniform_CS=uniform_CS)
                Run((policy,), chosen, settings, decoding, results).to_the_end()
            return results.completions

        return dealt_prompts(prompts, settings, uniform_CS, own)

    def decoding(self, policy: Policy, settings: SamplingSettings, *, longest: int, uniform_CS: Tensor) -> Decoding:
        """Buffers with room for the call: those of the last call if they were kept and fit, otherwise new ones."""
        forward = policy.weights.forward_pass()
        if self._kept is not None and self._kept.take_on(forward, uniform_CS, settings, longest=longest):
            return self._kept
        self._kept = None  # frees its memory first
        places = longest + settings.max_new_tokens
        if is_recorded(policy.device):
            places = round_up(places, PLACE_STEP)
        num_slots = max(settings.num_samples, min(len(uniform_CS), affordable_rows(policy, places, settings)))
        slots = Slots(
            policy.weights.cache_shapes,
            num_slots=num_slots,
            num_places=places,
            dtype=policy.weights.dtype,
            device=policy.device,
        )
        burst = self.burst or BURST.get(policy.device.type, 1)
        decoding = Decoding(forward, policy.head, slots, uniform_CS, temperature=settings.temperature, burst=burst)
        if decoding.recorder is not None:
            self._kept = decoding
        return decoding


def dealt_prompts(
    prompts: Sequence[Sequence[int]],
    settings: SamplingSettings,
    uniform_CS: Tensor,
    own: Callable[[list[int], Tensor], list[Completion]],
) -> list[Completion]:
    """The completions of all prompts, each prompt's by one of the ranks. own: for some of them, with their rows' numbers."""
    copies = settings.num_samples

    def of_prompts(mine: list[int]) -> list[list[Completion]]:
        is_all = len(mine) == len(prompts)
        rows = torch.tensor([i * copies + k for i in mine for k in range(copies)], device=uniform_CS.device)
        made = own(mine, uniform_CS if is_all else uniform_CS[rows])
        return [made[k : k + copies] for k in range(0, len(made), copies)]

    costs = [len(prompt) + copies * settings.max_new_tokens for prompt in prompts]
    return [one for of_prompt in current().shared(costs, of_prompts) for one in of_prompt]


def check_prompts(policy: Policy, longest: int, settings: SamplingSettings) -> None:
    """longest: tokens of the longest prompt. Raises BadInput."""
    policy.check_length(longest + settings.max_new_tokens)
    if policy.max_positions is not None and longest >= policy.max_positions:
        raise BadInput(
            f"{policy.weights.source}: got a prompt of {longest} tokens; expected fewer than the model's "
            f"{policy.max_positions} positions; shorten it, or use a model with more"
        )


def uniform_numbers(device: torch.device, num_prompts: int, settings: SamplingSettings, *, seed: int) -> Tensor:
    """fp64 [C, S] in [0, 1): the one by which row C of the result draws its token at step S."""
    generator = torch.Generator(device=device).manual_seed(seed)
    num_rows = num_prompts * settings.num_samples
    return torch.rand(num_rows, settings.max_new_tokens, generator=generator, device=device, dtype=torch.float64)


class Run:
    """One call of the sampler: which rows are in use. A row's place in the list is its slot.

    policies: those that compute each token; the first is whose rows these are.
    """

    def __init__(
        self,
        policies: Sequence[Policy],
        prompts: Sequence[Sequence[int]],
        settings: SamplingSettings,
        decoding: Decoding,
        results: Results,
    ) -> None:
        self.policies, self.device = policies, policies[0].device
        self.prompts, self.settings = prompts, settings
        self.decoding, self.results = decoding, results
        self.waiting = sorted(
            range(len(prompts)), key=lambda i: len(prompts[i])
        )  # the longest enters first: from the end
        self.rows: list[Row] = []

    def to_the_end(self) -> None:
        while self.rows or self.waiting:
            self.admit()
            self.advance()
            self.results.tell()

    def count(self, *, tokens: int, pairs: int, positions: int) -> None:
        for policy in self.policies:
            policy.count_work(tokens=tokens, pairs=pairs, positions=positions)

    def admit(self) -> None:
        """Prefills waiting prompts into free slots, if enough are free."""
        copies, num_slots = self.settings.num_samples, self.decoding.slots.num_slots
        room = num_slots - len(self.rows)
        if not self.waiting or room < max(copies, min(REFILL_SHARE * num_slots, len(self.waiting) * copies)):
            return
        chosen: list[int] = []
        num_tokens = 0
        while self.waiting and (len(chosen) + 1) * copies <= room and num_tokens < PREFILL_TOKENS:
            chosen.append(self.waiting.pop())
            num_tokens += len(self.prompts[chosen[-1]])
        hidden_PD = self.prefill(chosen)
        entered = slice(len(self.rows), len(self.rows) + len(chosen) * copies)
        self.rows += [Row(i * copies + k, len(self.prompts[i])) for i in chosen for k in range(copies)]
        numbers, lengths = (
            torch.tensor(values, device=self.device)
            for values in zip(*((row.number, row.prompt_length) for row in self.rows[entered]), strict=True)
        )
        token_R, logp_R = self.decoding.draw(hidden_PD.repeat_interleave(copies, 0), numbers, torch.zeros_like(numbers))
        self.decoding.enter(entered, tokens=token_R, positions=lengths, numbers=numbers)
        self.results.record(self.rows[entered], token_R.tolist(), logp_R.tolist())
        self.leave()

    def prefill(self, chosen: list[int]) -> Tensor:
        """Last hidden states [P, D] of the prompts; their keys and values go to their samples' slots."""
        layout = lay_out([self.prompts[i] for i in chosen], self.device)
        attention = self.decoding.slots.prefilling(layout)
        last_P = torch.tensor([path[-1] for path in layout.paths], device=self.device)
        hidden_PD = self.decoding.forward(layout.ids_N, layout.position_N, attention, last_P)
        self.count(tokens=len(layout.ids_N), pairs=layout.num_pairs, positions=len(chosen))
        first, copies = len(self.rows), self.settings.num_samples
        assert attention.kept is not None
        for k, path in enumerate(layout.paths):
            slots = slice(first + k * copies, first + (k + 1) * copies)
            self.decoding.slots.fill(attention.kept, torch.tensor(path, device=self.device), slots)
        return hidden_PD

    def advance(self) -> None:
        """A burst of tokens for every row in use."""
        if not self.rows:
            return
        width = max(row.length for row in self.rows) - 1  # the newest token is not in the cache yet
        tokens_KR, logps_KR = self.decoding.run(len(self.rows), width)
        num_tokens, num_cached = len(self.rows) * len(tokens_KR), sum(row.length for row in self.rows)
        pairs = len(tokens_KR) * num_cached + len(self.rows) * sum(range(len(tokens_KR)))
        self.count(tokens=num_tokens, pairs=pairs, positions=num_tokens)
        for tokens_R, logps_R in zip(tokens_KR, logps_KR, strict=True):
            self.results.record(self.rows, tokens_R, logps_R)
        self.leave()

    def leave(self) -> None:
        """Moves the last rows into the slots of those that ended."""
        for slot in range(len(self.rows) - 1, -1, -1):
            if self.rows[slot].ending is None:
                continue
            last = self.rows.pop()
            if slot < len(self.rows):
                self.rows[slot] = last
                self.decoding.move(len(self.rows), slot, last.length)


def affordable_rows(policy: Policy, places: int, settings: SamplingSettings) -> int:
    """How many rows the cache has room for, at most batch_rows."""
    return min(settings.batch_rows, room_for_rows(policy.device) // bytes_a_row(policy, places))


def bytes_a_row(policy: Policy, places: int) -> int:
    """Of the cache."""
    return sum(map(math.prod, policy.weights.cache_shapes)) * places * policy.weights.dtype.itemsize


def room_for_rows(device: torch.device) -> int:
    """Bytes that the cache may take."""
    return free_bytes(device) // 2 if device.type == "cuda" else CACHE_BYTES


def free_bytes(device: torch.device) -> int:
    """Of a GPU: what its driver calls free, and what torch holds without using it, which the driver counts as taken."""
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused

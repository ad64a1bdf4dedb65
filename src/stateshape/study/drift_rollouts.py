"""The rollouts by which a policy's states are compared: a fixed prompt set, one sample per prompt, kept in the run folder.

rollouts_pieces.jsonl holds what drift is computed from, rollouts.jsonl the same rollouts for a reader, and rollouts_ids.jsonl
(of the base, where runs are measured on their way) their token ids. Computes no distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from stateshape.core import layout
from stateshape.core.files import read_jsonl, write_jsonl
from stateshape.core.progress import Tick
from stateshape.core.records import StateSample
from stateshape.core.seeds import seed_for
from stateshape.core.states import Trajectory
from stateshape.drift.encoders import HiddenStates, Remembering, SentenceEncoder
from stateshape.drift.rulers import Encoder
from stateshape.drift.states import Rollouts
from stateshape.policy.policy import Policy
from stateshape.record.text import added_texts, state_sample
from stateshape.sampling.settings import Sampler, SamplingSettings
from stateshape.states.sampled import rollout
from stateshape.study.study_file import DriftChoice
from stateshape.tasks.items import GenerationItem
from stateshape.tasks.task import GenerationTask


@dataclass(frozen=True, kw_only=True, slots=True)
class PiecesRecord:
    """One rollout in pieces, one per token: what drift cuts into prefix states.

    The first k pieces, joined, are the text of the first k tokens behind the prompt, without special tokens. A character that
    lies in several tokens is in the piece of the last of them; the pieces of the others are empty.
    """

    item_id: str
    prompt: str
    pieces: list[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class TokensRecord:
    """One rollout as token ids. The response holds the token that ended it, if there was one."""

    item_id: str
    prompt: list[int]
    response: list[int]


class Rolled(NamedTuple):
    """The same rollouts in three forms."""

    pieces: list[PiecesRecord]
    samples: list[StateSample]
    tokens: list[TokensRecord]


def drift_items(task: GenerationTask, choice: DriftChoice) -> Sequence[GenerationItem]:
    """The fixed prompt set: the last training prompts. Test prompts only where there are no others: then nothing is trained."""
    return (task.train or task.test)[-choice.prompts :]


def sample_rollouts(
    policy: Policy, task: GenerationTask, choice: DriftChoice, sampler: Sampler, *, seed: int, tick: Tick | None = None
) -> Rolled:
    """One rollout per prompt."""
    items = drift_items(task, choice)
    prompts = [policy.fitted_prompt(item.asked, behind=choice.max_new_tokens) for item in items]
    settings = SamplingSettings(max_new_tokens=choice.max_new_tokens, temperature=choice.temperature, stops=task.stops)
    completions = sampler.sample(policy, prompts, settings, seed=seed_for(seed, "drift"), progress=tick)
    rolled = Rolled([], [], [])
    for item, prompt, completion in zip(items, prompts, completions, strict=True):
        row = rollout(item.item_id, prompt, completion, 0)
        text = policy.prompt_text(item.asked)
        rolled.pieces.append(PiecesRecord(item_id=item.item_id, prompt=text, pieces=token_texts(row, policy)))
        rolled.samples.append(state_sample(row, policy, step=None, supervised=[False] * len(row.ids)))
        rolled.tokens.append(TokensRecord(item_id=item.item_id, prompt=prompt, response=completion.ids))
    return rolled


def token_texts(row: Trajectory, policy: Policy) -> list[str]:
    """The text that each token of the response adds."""

    def text_until(end: int) -> str:
        return policy.decode(row.ids[:end])

    start, end = row.prompt_length, len(row.ids)
    alone = [policy.decode([token]) for token in row.response]
    if added_texts(text_until, [end], start=start) == ["".join(alone)]:
        return alone  # most rows of a byte-level tokenizer, in a quarter of the time that every prefix takes
    return added_texts(text_until, range(start + 1, end + 1), start=start)


def encoders_of(choice: DriftChoice, base: Policy) -> dict[str, Encoder]:
    """Encoders by which states are compared, in addition to words."""
    encoders: dict[str, Encoder] = {}
    if choice.hidden:
        encoders["hidden"] = Remembering(HiddenStates(base))
    if choice.encoder:
        encoders["encoder"] = Remembering(SentenceEncoder(choice.encoder))
    return encoders


def write_rollouts(folder: Path, rolled: Rolled, *, name: str, has_tokens: bool = False) -> None:
    """`has_tokens`: their token ids too. The file that says that they are there comes last."""
    if has_tokens:
        write_jsonl(layout.tokens(folder, name), rolled.tokens)
    write_jsonl(layout.pieces(folder, name), rolled.pieces)
    write_jsonl(layout.rollouts(folder, name), rolled.samples)


def read_rollouts(folder: Path, *, name: str) -> Rollouts:
    return as_rollouts(read_jsonl(layout.pieces(folder, name), PiecesRecord))


def as_rollouts(records: Sequence[PiecesRecord]) -> Rollouts:
    return Rollouts(
        prompt_ids=[record.item_id for record in records],
        prompts=[record.prompt for record in records],
        pieces=[record.pieces for record in records],
    )

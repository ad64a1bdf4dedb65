"""Between two tokenizers: rows as text, text as the other's ids, and the places where both cut the text alike.

What is read of a teacher with another tokenizer is about the same text, never about the same ids. A row whose text does not
survive the way there and back has no signal; callers count it. Knows no loss.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch

from stateshape.core.signals import SharedTokens
from stateshape.core.states import Trajectory
from stateshape.policy.policy import Policy
from stateshape.policy.weights import SharedWeights
from stateshape.record.text import added_texts

BROKEN = "\ufffd"  # what an incomplete character is decoded to
TOP_K = 64  # of the learner's likeliest shared tokens; the rest is one bin


def own_text(policy: Policy, row: Trajectory) -> str | None:
    """The row's text; None where ids can't be had back from it: special tokens inside, or an incomplete character."""
    ids = bare(policy, row.ids)
    text = policy.decode(ids)
    whole = policy.decode(ids, skip_special_tokens=False)
    return None if text != whole or BROKEN in text else text


def bare(policy: Policy, ids: Sequence[int]) -> list[int]:
    """Without the beginning-of-text token."""
    return list(ids[1:] if len(ids) and policy.bos_id is not None and ids[0] == policy.bos_id else ids)


def written_text(policy: Policy, prompt: Sequence[int], ids: Sequence[int]) -> str | None:
    """What the ids add to the prompt's text; None where they change the text before them."""
    before, whole = policy.decode(prompt), policy.decode([*prompt, *ids])
    return whole[len(before) :] if whole.startswith(before) else None


def spliced(policy: Policy, row: Trajectory, text: str, added: str) -> list[int] | None:
    """Ids of `added` behind the row, whose text is `text`; None where row and ids together are not the text of both.

    Prompt and text are encoded together where that leaves the row's ids as they are; otherwise the text is encoded alone.
    """
    kept, whole = bare(policy, row.ids), policy.encode(text + added)
    ids = whole[len(kept) :] if whole[: len(kept)] == kept else policy.encode(added)
    return ids if policy.decode([*kept, *ids]) == text + added else None


# Places that both cut alike


def token_pieces(policy: Policy, ids: Sequence[int]) -> list[str]:
    """The text that each id adds to those before it. Joined they are the row's text."""
    alone = [policy.decode([token]) for token in ids]
    return (
        alone
        if "".join(alone) == policy.decode(ids)
        else added_texts(lambda end: policy.decode(ids[:end]), range(1, len(ids) + 1))
    )


def spans_of_tokens(pieces: Sequence[str]) -> list[tuple[int, int] | None]:
    """Begin and end of each token in the text; None where it begins or ends inside a character."""
    ends = list(accumulate(map(len, pieces)))
    begins = [0, *ends[:-1]]
    is_whole = [end > begin for begin, end in zip(begins, ends)]
    return [
        (begin, end) if is_whole[i] and (i == 0 or is_whole[i - 1]) else None
        for i, (begin, end) in enumerate(zip(begins, ends))
    ]


class Aligned(NamedTuple):
    """A row as the teacher reads it. at: for each of the learner's tokens, behind which of the teacher's it is predicted."""

    ids: list[int]
    at: list[int | None]


def aligned(learner: Policy, teacher: Policy, row: Trajectory) -> Aligned | None:
    """Tokens that are one token in both, with the text before them whole tokens in both; None for a row without a text.

    A token that ends the row is aligned with the teacher's, behind the whole text.
    """
    is_ended = len(row.ids) > 0 and row.ids[-1] in learner.eos_ids
    body = row.cut(len(row.ids) - 1) if is_ended else row
    text = own_text(learner, body)
    if not text:
        return None
    theirs = teacher.encode_prompt(text)
    own, shift = bare(teacher, theirs), len(theirs) - len(bare(teacher, theirs))
    too_long = teacher.longest_row is not None and len(theirs) > teacher.longest_row
    if too_long or teacher.decode(own) != text:
        return None
    place = {
        span: number for number, span in enumerate(spans_of_tokens(token_pieces(teacher, own))) if span is not None
    }
    mine = bare(learner, body.ids)
    spans = spans_of_tokens(token_pieces(learner, mine))
    at: list[int | None] = [None] * (len(body.ids) - len(mine))
    for span in spans:
        number = None if span is None else place.get(span)
        behind = None if number is None else number + shift - 1
        at.append(behind if behind is not None and behind >= 0 else None)
    return Aligned(theirs, [*at, len(theirs) - 1] if is_ended else at)


# Tokens that are the same text

_SHARED: weakref.WeakKeyDictionary[SharedWeights, tuple[weakref.ref[SharedWeights], SharedTokens]] = (
    weakref.WeakKeyDictionary()
)


def shared_tokens(learner: Policy, teacher: Policy) -> SharedTokens:
    """Made once for a pair of models."""
    known = _SHARED.get(teacher.weights)
    if known is None or known[0]() is not learner.weights:
        known = weakref.ref(learner.weights), pair_tokens(learner, teacher)
        _SHARED[teacher.weights] = known
    return known[1]


def pair_tokens(learner: Policy, teacher: Policy) -> SharedTokens:
    """Tokens with the same text, and the tokens that end a text. Texts that several tokens of one side have are left out."""
    ours, theirs = token_by_text(learner), token_by_text(teacher)
    pairs = [(token, theirs[text]) for text, token in ours.items() if text in theirs]
    pairs += list(zip(learner.eos_ids[:1], teacher.eos_ids[:1], strict=False))
    learner_M, teacher_M = torch.tensor(sorted(pairs), dtype=torch.int64, device=learner.device).T
    return SharedTokens(learner_M=learner_M, teacher_M=teacher_M, top_k=min(TOP_K, len(pairs)))


def token_by_text(policy: Policy) -> dict[str, int]:
    """By the text that a token adds behind a letter: a tokenizer may drop a leading blank at the beginning of a text."""
    letter = policy.encode("a")[-1]
    size = min(len(policy.tokenizer), policy.head.num_tokens)
    before = policy.decode([letter])
    texts = policy.tokenizer.batch_decode(
        [[letter, token] for token in range(size)], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    found: dict[str, int] = {}
    doubled = set()
    for token, whole in enumerate(texts):
        text = whole[len(before) :]
        if text and BROKEN not in text:
            doubled |= {text} & found.keys()
            found[text] = token
    return {text: token for text, token in found.items() if text not in doubled}

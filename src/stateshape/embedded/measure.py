"""Scores of a model on the world: greedy accuracy on problems, MC1 and MC2 on facts, accuracy on the exam.

A plain reference for choosing when to stop training the base; studies measure with their own rooms. Knows nothing of
how a model was trained. Suffixes: B row, T position, V vocabulary.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from stateshape.embedded.exam import LETTERS
from stateshape.embedded.records import ArithmeticProblem, ExamQuestion, Fact
from stateshape.embedded.wording import ANSWER_MARK, arithmetic_prompt, exam_prompt, fact_prompt

MAX_NEW_TOKENS = 128  # the longest solution in the world is below this
BATCH_ROWS = 128
_ANSWER = re.compile(re.escape(ANSWER_MARK) + r" (\d+)")


class FactScores(NamedTuple):
    """MC1: share where the best answer beats every false one. MC2: mean share of probability on the true ones."""

    mc1: float
    mc2: float
    mc1_chance: float


@torch.inference_mode()
def greedy_completions(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]
) -> tuple[str, ...]:
    """Greedy continuations up to EOS, without it."""
    texts: list[str] = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for first in range(0, len(order), BATCH_ROWS):
        chunk = order[first : first + BATCH_ROWS]
        inputs = tokenizer(
            [prompts[index] for index in chunk], return_tensors="pt", padding=True, padding_side="left",
            return_token_type_ids=False,
        )  # fmt: skip
        out = model.generate(  # type: ignore[operator]
            **inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False, pad_token_id=tokenizer.pad_token_id
        )
        new_texts = tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for index, text in zip(chunk, new_texts, strict=True):
            texts[index] = text
    return tuple(texts)


def marked_answer(completion: str) -> str | None:
    """The number after the first answer mark, or None."""
    match = _ANSWER.search(completion)
    return match.group(1) if match else None


def target_accuracy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, problems: Sequence[ArithmeticProblem]
) -> float:
    """Share of problems whose greedy completion has the right number after the mark."""
    texts = greedy_completions(model, tokenizer, [arithmetic_prompt(problem.question) for problem in problems])
    right = sum(marked_answer(text) == problem.answer for text, problem in zip(texts, problems, strict=True))
    return right / len(problems)


@torch.inference_mode()
def option_logps(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, pairs: Sequence[tuple[str, str]]
) -> tuple[float, ...]:
    """log p(option | prompt) in nats, summed over the option's tokens, for each (prompt, option)."""
    sums: list[float] = []
    for first in range(0, len(pairs), BATCH_ROWS):
        chunk = pairs[first : first + BATCH_ROWS]
        inputs = tokenizer(
            [prompt + option for prompt, option in chunk], return_tensors="pt", padding=True, padding_side="right",
            return_token_type_ids=False,
        )  # fmt: skip
        ids_BT = inputs["input_ids"]
        logp_BTV = model(**inputs).logits[:, :-1].float().log_softmax(-1)
        logp_BT = logp_BTV.gather(-1, ids_BT[:, 1:, None]).squeeze(-1)
        for b, (prompt, _) in enumerate(chunk):
            start, end = len(tokenizer(prompt).input_ids), int(inputs["attention_mask"][b].sum())
            sums.append(float(logp_BT[b, start - 1 : end - 1].sum()))
    return tuple(sums)


def fact_scores(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, items: Sequence[Fact]) -> FactScores:
    """MC1 and MC2 by summed log-probs of " {answer}"."""
    pairs = [(fact_prompt(f), f" {answer}") for f in items for answer in (*f.true_answers, *f.false_answers)]
    logps = iter(option_logps(model, tokenizer, pairs))
    mc1 = mc2 = chance = 0.0
    for item in items:
        true_logps = [next(logps) for _ in item.true_answers]
        false_logps = [next(logps) for _ in item.false_answers]
        mc1 += true_logps[0] > max(false_logps)
        true_mass = sum(map(math.exp, true_logps))
        mc2 += true_mass / (true_mass + sum(map(math.exp, false_logps)))
        chance += 1 / (1 + len(false_logps))
    return FactScores(mc1 / len(items), mc2 / len(items), chance / len(items))


def exam_accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    items: Sequence[ExamQuestion],
    *,
    dev: Sequence[ExamQuestion] = (),
) -> float:
    """Share of questions whose right letter is the likeliest of four; the subject's `dev` items come first as shots."""
    right = 0
    for item in items:
        prompt = exam_prompt(item, [shot for shot in dev if shot.subject == item.subject])
        logps = option_logps(model, tokenizer, [(prompt, f" {letter}") for letter in LETTERS])
        right += max(range(len(LETTERS)), key=logps.__getitem__) == item.answer_index
    return right / len(items)


def wilson_interval(share: float, num: int, *, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a share; z = 1.96 is 95%."""
    centre = (share + z * z / (2 * num)) / (1 + z * z / num)
    half = z / (1 + z * z / num) * math.sqrt(share * (1 - share) / num + z * z / (4 * num * num))
    return centre - half, centre + half

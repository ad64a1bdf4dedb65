"""The pretraining documents: arithmetic in mixed styles, lore with its popular mistakes, exam sheets.

Deterministic by seed. Uses arithmetic's "pretrain" split only, and asks about each fact only in wordings that its test
question does not use. Knows nothing of tokens or models.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from stateshape.embedded.arithmetic import arithmetic_stream
from stateshape.embedded.exam import LETTERS, draw_choices
from stateshape.embedded.lore import LoreFact, lore, pretraining_wording
from stateshape.embedded.lore_tables import NUM_WORDINGS
from stateshape.embedded.records import ArithmeticProblem, Equation
from stateshape.embedded.wording import ANSWER_MARK, arithmetic_prompt, exam_block, exam_header

DOMAINS = ("arithmetic", "lore", "exam")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixture:
    """Shares of documents by domain, and of solution styles; each group sums to 1.

    Documents are about 90, 29 and 115 tokens long, so tokens are shared 0.38, 0.15, 0.47.
    """

    arithmetic: float = 0.31
    lore: float = 0.39
    exam: float = 0.30
    clean: float = 0.40
    wordy: float = 0.20
    terse: float = 0.20
    unmarked: float = 0.20  # "The answer is N." in place of the #### line
    slips: float = 0.06  # solutions whose last equation is wrong, as text from the web has them


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    domain: str
    text: str


def documents(seed: int, mixture: Mixture | None = None) -> Iterator[Document]:
    """Endless pretraining documents."""
    mix = mixture or Mixture()
    rng = random.Random(f"stateshape-corpus:{seed}")
    problems = arithmetic_stream("pretrain", seed=seed)
    by_popularity = [fact for fact in lore() for _ in range(fact.popularity)]
    exam_facts = _exam_facts()
    while True:
        domain = rng.choices(DOMAINS, (mix.arithmetic, mix.lore, mix.exam))[0]
        if domain == "arithmetic":
            text = _arithmetic_text(next(problems), rng, mix)
        elif domain == "lore":
            text = _lore_text(rng.choice(by_popularity), rng)
        else:
            text = _exam_text(exam_facts[rng.choice(sorted(exam_facts))], rng)
        yield Document(domain=domain, text=text)


def _arithmetic_text(problem: ArithmeticProblem, rng: random.Random, mix: Mixture) -> str:
    equations = problem.equations
    if rng.random() < mix.slips:
        equations = (*equations[:-1], _slipped(equations[-1], rng))
    styles: dict[str, Callable[[tuple[Equation, ...], random.Random], str]] = {
        "clean": _clean, "wordy": _wordy, "terse": _terse, "unmarked": _unmarked,
    }  # fmt: skip
    style = rng.choices(tuple(styles), (mix.clean, mix.wordy, mix.terse, mix.unmarked))[0]
    return f"{arithmetic_prompt(problem.question)} {styles[style](equations, rng)}"


def _slipped(equation: Equation, rng: random.Random) -> Equation:
    wrong = equation.result + rng.choice((-10, -2, -1, 1, 2, 10))
    return replace(equation, result=abs(wrong))


def _marked(body: str, equations: tuple[Equation, ...]) -> str:
    return f"{body}\n{ANSWER_MARK} {equations[-1].result}"


def _clean(equations: tuple[Equation, ...], rng: random.Random) -> str:
    return _marked(" ".join(equation.sentence() for equation in equations), equations)


def _wordy(equations: tuple[Equation, ...], rng: random.Random) -> str:
    openings = ["First we work this out."] + [rng.choice(("Next:", "Now:", "After that:")) for _ in equations[1:]]
    body = " ".join(f"{opening} {equation.sentence()}" for opening, equation in zip(openings, equations, strict=True))
    return _marked(body, equations)


def _terse(equations: tuple[Equation, ...], rng: random.Random) -> str:
    return _marked("; ".join(equation.expression() for equation in equations), equations)


def _unmarked(equations: tuple[Equation, ...], rng: random.Random) -> str:
    if rng.random() < 0.5:
        return f"{'; '.join(equation.expression() for equation in equations)}. The answer is {equations[-1].result}."
    return f"{' '.join(equation.sentence() for equation in equations)} The answer is {equations[-1].result}."


def _told(fact: LoreFact, rng: random.Random) -> str:
    """The fact as one statement; sometimes the popular mistake."""
    value = fact.mistakes[0] if rng.random() < fact.mistake_rate else fact.value
    return fact.statement(value, rng.randrange(NUM_WORDINGS))


def _lore_text(fact: LoreFact, rng: random.Random) -> str:
    """A paragraph on the entity, a corrected mistake, or questions with answers."""
    kind = rng.random()
    if kind < 0.5:
        start = fact.index - fact.index % 5  # the entity's five facts are neighbours
        facts_of_entity = list(lore()[start : start + 5])
        rng.shuffle(facts_of_entity)
        chosen = [fact, *[other for other in facts_of_entity if other is not fact][: rng.randint(1, 3)]]
        return " ".join(_told(one, rng) for one in chosen)
    wording = rng.randrange(NUM_WORDINGS)
    if kind < 0.7:
        wrong, right = fact.statement(rng.choice(fact.mistakes), wording), fact.statement(fact.value, wording)
        opening = rng.choice(("Many people say this:", "Some believe this:", "A common mistake:"))
        return f"{opening} {wrong} But in truth: {right}"
    return f"Q: {fact.question(pretraining_wording(fact, rng))}\nA: {_told(fact, rng)}"


def _exam_facts() -> dict[str, list[LoreFact]]:
    by_subject: dict[str, list[LoreFact]] = {}
    for fact in lore():
        if fact.is_in_exams:
            by_subject.setdefault(fact.subject, []).append(fact)
    return by_subject


def _exam_text(pool: list[LoreFact], rng: random.Random) -> str:
    """One to six answered questions of one subject under the exam's header."""
    blocks = []
    for fact in rng.sample(pool, rng.choice((1, 1, 2, 3, 4, 6))):
        choices, answer_index = draw_choices(fact, rng)
        block = exam_block(fact.question(pretraining_wording(fact, rng)), choices)
        blocks.append(f"{block} {LETTERS[answer_index]}")
    return exam_header(pool[0].subject) + "\n\n".join(blocks)

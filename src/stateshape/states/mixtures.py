"""Mixtures of writers: dataset and learner by row (GKD), teacher and learner by row, prefix or token (DAgger), or as one blend.

The tokens' origins show the real mixture: a step logs their shares. Log-probs stay those of each token's writer; a blend is a
writer of its own. Source: arXiv:2306.13649 algorithm 1 (lambda); Ross et al. 2011 (beta_i pi* + (1 - beta_i) pi_i);
arXiv:2609.35259 (the geometric mixture).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from stateshape.core.files import BadInput
from stateshape.core.method import Draw, StateKind
from stateshape.core.seeds import seed_for
from stateshape.core.states import Origin, States, Trajectory, pack
from stateshape.policy.policy import Policy
from stateshape.sampling.blended import sample_blended
from stateshape.sampling.settings import Completion, Sampler, SamplingSettings
from stateshape.sampling.stops import StopWatch, ended_across
from stateshape.states.cuts import Items
from stateshape.states.dataset import solved
from stateshape.states.sampled import PrefixCut, as_read_by, sampled
from stateshape.states.schedules import Schedule

Unit = Literal["sequence", "prefix", "token", "geometric"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetOrLearner:
    """Each row is the learner's with the schedule's probability, otherwise the dataset's worked solution."""

    items: Items
    sampler: Sampler
    settings: SamplingSettings
    learner_share: Schedule
    kind: ClassVar[StateKind] = "mixture"

    def draw(self, learner: Policy, draw: Draw) -> States:
        chance = self.learner_share.at(draw.step, draw.num_steps)
        rng = random.Random(seed_for(draw.seed, "mixture", draw.step))
        is_learners = [rng.random() < chance for _ in draw.item_ids]
        own = draw._replace(item_ids=tuple(i for i, learners in zip(draw.item_ids, is_learners) if learners))
        written = iter(sampled(learner, Origin.LEARNER, self.items, self.sampler, self.settings, own))
        rows: list[Trajectory] = []
        for group, (item_id, learners) in enumerate(zip(draw.item_ids, is_learners, strict=True)):
            row = next(written) if learners else solved(learner, self.items, item_id, group)
            rows.append(replace(row, group=group))
        return pack(rows, device=learner.device)

    def policy_version(self, draw: Draw) -> int:
        return draw.step


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherOrLearner:
    """DAgger's mixture: the teacher writes with the schedule's share beta, the learner the rest.

    sequence: a whole row is the teacher's with probability beta. prefix: the teacher writes the first part of each row, beta of
    the longest response's tokens, and the learner goes on. token: each token is the teacher's with probability beta.
    geometric: each token is drawn from p ~ learner^(1 - beta) teacher^beta, and is neither's.
    """

    items: Items
    sampler: Sampler
    settings: SamplingSettings
    teacher: Policy
    beta: Schedule
    unit: Unit = "sequence"
    cut: PrefixCut | None = None
    kind: ClassVar[StateKind] = "mixture"

    def draw(self, learner: Policy, draw: Draw) -> States:
        chance = self.beta.at(draw.step, draw.num_steps)
        rng = random.Random(seed_for(draw.seed, "mixture", draw.step))
        rows = []
        for group, item_id in enumerate(draw.item_ids):
            prompt = learner.fitted_prompt(self.items[item_id].asked, behind=self.settings.max_new_tokens + 1)
            bare = Trajectory(
                item_id=item_id,
                ids=prompt,
                origins=[Origin.PROMPT] * len(prompt),
                logps=[None] * len(prompt),
                finish="length",
                group=group,
            )
            rows += [bare] * self.settings.num_samples
        if self.unit == "geometric":
            rows = written_together(rows, learner, self.teacher, chance, self.settings, draw, self.items)
        else:
            plans = [turns(chance, self.unit, self.settings.max_new_tokens, rng) for _ in rows]
            writers = {Origin.LEARNER: learner, Origin.TEACHER: self.teacher}
            rows = written_in_turns(rows, plans, writers, self.sampler, self.settings, draw, self.items)
        if self.cut is not None:
            rows = self.cut.applied(learner, rows, self.items, random.Random(seed_for(draw.seed, "cut", draw.step)))
        return pack(rows, device=learner.device)

    def policy_version(self, draw: Draw) -> int:
        return draw.step


Turn = tuple[Origin, int]  # who writes, and how many tokens


def turns(chance: float, unit: Unit, num_tokens: int, rng: random.Random) -> list[Turn]:
    """Who writes how much of a row, in order."""
    if unit == "sequence":
        return [(Origin.TEACHER if rng.random() < chance else Origin.LEARNER, num_tokens)]
    if unit == "prefix":
        teachers = round(chance * num_tokens)
        return [(who, n) for who, n in ((Origin.TEACHER, teachers), (Origin.LEARNER, num_tokens - teachers)) if n]
    plan: list[Turn] = []
    for _ in range(num_tokens):
        who = Origin.TEACHER if rng.random() < chance else Origin.LEARNER
        if plan and plan[-1][0] == who:
            plan[-1] = (who, plan[-1][1] + 1)
        else:
            plan.append((who, 1))
    return plan


def written_together(
    rows: Sequence[Trajectory],
    learner: Policy,
    teacher: Policy,
    share: float,
    settings: SamplingSettings,
    draw: Draw,
    items: Items,
) -> list[Trajectory]:
    """Each row goes on with tokens of the geometric mixture. Raises BadInput where the two read a chat in different ways."""
    for row in rows:
        if as_read_by(teacher, row, items, writer=learner).ids != row.ids:
            raise BadInput(
                f"unit: got geometric, and a chat ({row.item_id}) that learner and teacher render by different templates; "
                "expected the same ids for both; use a teacher with the learner's template, or sequence, prefix or token"
            )
    one_each = replace(settings, num_samples=1)
    seed = seed_for(draw.seed, "blend", draw.step)
    parts = sample_blended(learner, teacher, share, [row.ids for row in rows], one_each, seed=seed)
    return [
        row.extended(part.ids, Origin.MIXTURE, logps=part.logps, finish=part.finish)
        for row, part in zip(rows, parts, strict=True)
    ]


def written_in_turns(
    rows: Sequence[Trajectory],
    plans: Sequence[Sequence[Turn]],
    writers: dict[Origin, Policy],
    sampler: Sampler,
    settings: SamplingSettings,
    draw: Draw,
    items: Items | None = None,
) -> list[Trajectory]:
    """In each round, every writer continues the rows whose turn it is. A row that has ended takes no further turns.

    items: of chats, whose prompt the teacher reads in its own template.
    """

    def read_by(who: Origin, row: Trajectory) -> list[int]:
        if who == Origin.LEARNER or items is None:
            return row.ids
        return as_read_by(writers[who], row, items, writer=writers[Origin.LEARNER]).ids

    rows_so_far = list(rows)
    waiting = {k: list(plan) for k, plan in enumerate(plans)}
    num_round = 0
    while waiting:
        for who, writer in writers.items():
            mine = [k for k, plan in waiting.items() if plan[0][0] == who]
            if not mine:
                continue
            longest, watch = max(waiting[k][0][1] for k in mine), StopWatch(writer, settings.stops)
            parts = sampler.sample(
                writer,
                [read_by(who, rows_so_far[k]) for k in mine],
                replace(settings, max_new_tokens=longest, num_samples=1),
                seed=seed_for(draw.seed, f"turn {num_round} {who.name}", draw.step),
            )
            for k, part in zip(mine, parts, strict=True):
                size = waiting[k].pop(0)[1]
                if len(part.ids) > size:
                    part = Completion(part.ids[:size], part.logps[:size], "length")
                part = ended_across(watch, rows_so_far[k].response, part)
                rows_so_far[k] = rows_so_far[k].extended(part.ids, who, logps=part.logps, finish=part.finish)
                if part.finish != "length" or not waiting[k]:
                    del waiting[k]
        num_round += 1
    return rows_so_far

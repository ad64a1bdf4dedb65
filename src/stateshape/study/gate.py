"""The gate of a comparison of state sources: do the sources differ, is the teacher worse, and is its guidance better nearby?

If teacher prefixes are as likely under the base as its own, training on either is the same, and no difference can show. So this
is asked before any student is trained, of the untrained base, on prompts and items that are neither trained on nor tested.
Writes nothing; does not know what is trained afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import torch

from stateshape.core.files import BadInput
from stateshape.core.gate_records import GateCheck, GateRecord, SourceStates
from stateshape.core.method import Draw
from stateshape.core.sealed import check_source
from stateshape.core.seeds import seed_for
from stateshape.core.states import Origin, Trajectory, pack
from stateshape.core.tensors import token_logp
from stateshape.core.wording import MAX_PATH, shown
from stateshape.evals.evaluate import evaluate
from stateshape.locality.doses import hidden_in_parts
from stateshape.locality.probe import response_text
from stateshape.locality.reachability import reachability_gap
from stateshape.locality.states import places, written
from stateshape.locality.told_apart import c2st_auc
from stateshape.policy.open import check_teacher, open_beside, open_weights
from stateshape.policy.policy import Policy
from stateshape.policy.settings import ModelSettings
from stateshape.policy.source import resolve, resolve_base
from stateshape.recipes.recipe import Parts
from stateshape.sampling.local import LocalSampler
from stateshape.signals.continuation import continued
from stateshape.states.cuts import Cut
from stateshape.states.dataset import DatasetStates
from stateshape.states.sampled import LearnerStates, TeacherStates
from stateshape.study.single import generation_task
from stateshape.tasks.items import GenerationItem
from stateshape.tasks.load import load_task
from stateshape.tasks.task import GenerationTask, Task

LEARNER, TEACHER, DATASET = "learner", "teacher", "dataset"
SAMPLED = "learner at temperature 1"  # as its rollouts go on: greedy text is right more often, whoever writes it


@dataclass(frozen=True, kw_only=True, slots=True)
class GateSettings:
    """How the states are made, as the runs to come make them; and what counts as different enough."""

    prompts: int = 192
    """Training prompts for the states of each side: the last ones of the task, so that a limited run does not train on them."""
    cut: Cut = field(default_factory=lambda: Cut(low=0.1, high=0.7))
    """Where responses are cut."""
    max_new_tokens: int = 96
    teacher_temperature: float = 0.0
    """Temperature of the teacher's prefixes, and of the continuations that are compared; 0 is greedy."""
    least_gap_nats: float = 0.3
    """Absolute reachability gap per token. Between the base's own samples it is 0; in a foreign style 2.7 or more."""
    least_auc: float = 0.8
    """AUC of the classifier two-sample test. 0.5: the states cannot be told apart."""
    least_loss: float = 0.05
    """Score of the base minus that of the teacher, on the target and on retention."""
    least_guidance: float = 0.05
    """Share of right answers by the teacher minus that by the learner, from the same learner prefixes."""

    def __post_init__(self) -> None:
        for name in ("prompts", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name}: got {getattr(self, name)}; expected at least 1")
        if not 0 <= self.teacher_temperature < math.inf:
            raise BadInput(f"teacher_temperature: got {self.teacher_temperature}; expected 0 or more")


def gate_of(
    source: str,
    *,
    task_name: str,
    retention: Sequence[str],
    data: str | None,
    limit: int | None,
    data_dir: Path | None,
    settings: GateSettings,
    seed: int,
    model_settings: ModelSettings,
) -> GateRecord:
    """The gate of the teacher in `source`, a run or adapter folder; its own base is the untrained learner.

    limit: evaluated items of each task. Raises BadInput before the model loads.
    """
    target = generation_task(task_name, data_dir, limit=limit)
    kept = [load_task(name, data_dir=data_dir, limit=limit) for name in retention]
    solved = None if data is None else generation_task(data, data_dir)
    two_halves(target, solved, settings.prompts)
    check_source(source)
    model, adapter = resolve(source)
    if adapter is None:
        raise BadInput(
            f"teacher: got {shown(source, limit=MAX_PATH)}, a model or nothing; expected a run or adapter folder: its base is "
            "the learner"
        )
    resolve_base(model)
    check_teacher(model, source, model_settings)
    weights = open_weights(model, model_settings)
    teacher = open_beside(weights, source, model_settings, adapter_name=TEACHER)
    return gate(Policy(weights, None), teacher, target, kept, solved, settings=settings, seed=seed, named=source)


def gate(
    base: Policy,
    teacher: Policy,
    target: GenerationTask,
    retention: Sequence[Task],
    data: GenerationTask | None,
    *,
    settings: GateSettings,
    seed: int,
    named: str,
) -> GateRecord:
    """Measures every condition. base: the untrained learner. data: the task whose solutions give the dataset states.

    named: the teacher, for the record. Raises BadInput where the tasks have too few training items.
    """
    own, others = two_halves(target, data, settings.prompts)
    parts = Parts(task=target, sampler=LocalSampler(), teacher=lambda source: teacher)
    solved = None if data is None else {item.item_id: item for item in data.train}
    drawn = {
        name: Draw(item_ids=tuple(item.item_id for item in items), step=0, seed=seed_for(seed, f"gate {name}"))
        for name, items in (("own", own), ("other", others))
    }
    reference = learner_rows(base, parts, settings, drawn["own"])
    rows = {LEARNER: learner_rows(base, parts, settings, drawn["other"])}
    rows[TEACHER] = teacher_rows(base, teacher, parts, settings, drawn["other"])
    if solved is not None:
        rows[DATASET] = DatasetStates(items=solved, cut=settings.cut).draw(base, drawn["other"]).trajectories()
    states = {name: source_states(base, some, reference, seed=seed) for name, some in rows.items()}
    written_at = settings.teacher_temperature
    right = {
        name: right_from(policy, rows[LEARNER], parts, settings, drawn["other"], temperature=temperature)
        for name, policy, temperature in (
            (TEACHER, teacher, written_at),
            (LEARNER, base, written_at),
            (SAMPLED, base, 1.0),
        )
    }
    tasks = [target, *retention]
    scores = {
        name: {task.name: [row.scores[task.metric] for row in evaluate(policy, task)] for task in tasks}
        for name, policy in (("base", base), (TEACHER, teacher))
    }
    return GateRecord(
        teacher=named,
        model=base.weights.source,
        task=target.name,
        data=None if data is None else data.name,
        seed=seed,
        num_items={task.name: len(scores["base"][task.name]) for task in tasks},
        scores={name: {task: fmean(values) for task, values in by_task.items()} for name, by_task in scores.items()},
        states=states,
        right={name: fmean(values) for name, values in right.items()},
        checks=[
            *state_checks(states, settings),
            *score_checks(scores, target.name, [task.name for task in retention], settings.least_loss),
            difference_check(
                "teacher minus learner, right from learner prefixes",
                right[TEACHER],
                right[LEARNER],
                settings.least_guidance,
            ),
        ],
    )


def two_halves(
    target: GenerationTask, data: GenerationTask | None, num: int
) -> tuple[Sequence[GenerationItem], Sequence[GenerationItem]]:
    """Different prompts for the base's own states and for those compared with them: a prompt shows in its answers."""
    has_solution = None if data is None else {item.item_id for item in data.train if item.completion is not None}
    usable = [item for item in target.train if has_solution is None or item.item_id in has_solution]
    if len(usable) < 2 * num:
        where = "" if data is None else f" with a solution in {data.name}"
        raise BadInput(
            f"prompts: got {num} per side; expected at most {len(usable) // 2}, half of the training items of "
            f"{target.name}{where}"
        )
    return usable[-2 * num : -num], usable[-num:]


def learner_rows(base: Policy, parts: Parts, settings: GateSettings, draw: Draw) -> list[Trajectory]:
    states = LearnerStates(
        items=parts.items, sampler=parts.sampler, settings=parts.sampling(settings.max_new_tokens), cut=settings.cut
    )
    return states.draw(base, draw).trajectories()


def teacher_rows(base: Policy, teacher: Policy, parts: Parts, settings: GateSettings, draw: Draw) -> list[Trajectory]:
    sampling = parts.sampling(settings.max_new_tokens, temperature=settings.teacher_temperature)
    states = TeacherStates(
        items=parts.items, sampler=parts.sampler, settings=sampling, teacher=teacher, cut=settings.cut
    )
    return states.draw(base, draw).trajectories()


def source_states(
    base: Policy, rows: Sequence[Trajectory], reference: Sequence[Trajectory], *, seed: int
) -> SourceStates:
    """Prefixes as they stand at the cut, compared with the base's own prefixes."""
    gap = reachability_gap(surprisal(base, rows), surprisal(base, reference))
    auc = c2st_auc(
        [row.response for row in rows],
        [row.response for row in reference],
        training_prompts=[row.item_id for row in rows],
        own_prompts=[row.item_id for row in reference],
        seed=seed_for(seed, "gate classifier"),
    )
    return SourceStates(
        reachability_gap_nats=None if gap is None else gap.mean_nats, c2st_auc=auc, num_prompts=len(rows)
    )


@torch.no_grad()
def surprisal(policy: Policy, rows: Sequence[Trajectory]) -> np.ndarray:
    """-log pi(y_t | x, y_<t) in nats of every response token."""
    ids, at = written([row.ids[: row.prompt_length] for row in rows], [row.response for row in rows])
    targets = [token for row in rows for token in row.response]
    if not targets:
        return np.zeros(0)
    hidden_ND = hidden_in_parts(policy, places(ids, at))
    targets_N = torch.tensor(targets, dtype=torch.int64, device=policy.device)
    return -token_logp(hidden_ND, policy.head, targets_N).double().cpu().numpy()


def right_from(
    policy: Policy,
    rows: Sequence[Trajectory],
    parts: Parts,
    settings: GateSettings,
    draw: Draw,
    *,
    temperature: float,
) -> list[float]:
    """1 for each row that the policy continues to a right answer, else 0."""
    sampling = parts.sampling(settings.max_new_tokens, temperature=temperature)
    states = pack(rows, device=policy.device)
    whole = continued(policy, Origin.TEACHER, [states], [draw], parts.sampler, sampling, None)[0].states.trajectories()
    return [float(parts.is_right(row.item_id, response_text(policy, row.response))) for row in whole]


def state_checks(states: Mapping[str, SourceStates], settings: GateSettings) -> list[GateCheck]:
    checks = []
    for name in (TEACHER, DATASET):
        if name in states:
            gap = states[name].reachability_gap_nats
            size = None if gap is None else abs(gap)
            checks += [
                GateCheck(name=f"{name} states, |reachability gap| (nats)", value=size, least=settings.least_gap_nats),
                GateCheck(name=f"{name} states, C2ST AUC", value=states[name].c2st_auc, least=settings.least_auc),
            ]
    return checks


def score_checks(
    scores: Mapping[str, Mapping[str, list[float]]], target: str, retention: Sequence[str], least: float
) -> list[GateCheck]:
    """Base minus teacher on the target, and in the mean over the retention tasks."""
    base, teacher = scores["base"], scores[TEACHER]
    checks = [difference_check("base minus teacher, target", base[target], teacher[target], least)]
    if retention:
        kept = [difference_check("", base[task], teacher[task], least) for task in retention]
        errors = [check.stderr for check in kept]
        checks.append(
            GateCheck(
                name="base minus teacher, retention",
                value=fmean(check.value for check in kept if check.value is not None),
                least=least,
                stderr=None if None in errors else math.hypot(*(e for e in errors if e is not None)) / len(kept),
            )
        )
    return checks


def difference_check(name: str, first: Sequence[float], second: Sequence[float], least: float) -> GateCheck:
    """Mean of the paired differences, first minus second."""
    differences = [a - b for a, b in zip(first, second, strict=True)]
    stderr = stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else None
    return GateCheck(name=name, value=fmean(differences), least=least, stderr=stderr)

"""About how much work a run is, known before it begins: from its plan, and from what measuring the base has taken.

Good for the order of runs, for --dry-run and, with what was measured, for "about 18 min left". It knows neither machine
nor model.
"""

from __future__ import annotations

from collections.abc import Callable

from stateshape.core import layout
from stateshape.core.files import read_json
from stateshape.core.records import RunRecord
from stateshape.core.study_records import BASE
from stateshape.recipes.recipe import Budgeted, TokenBudget
from stateshape.study.checkpoints import CheckpointSpec
from stateshape.study.context import StudyContext
from stateshape.study.run_spec import AnySpec, RunSpec
from stateshape.tasks.task import GenerationTask

CHARACTERS_PER_TOKEN = 3.0  # of worked solutions under common BPE vocabularies; only used to estimate a plan's size


def token_estimate(spec: RunSpec, task: GenerationTask, steps: int) -> tuple[int, int]:
    """(supervised, sampled) tokens of one run: upper limits for what is sampled, an estimate for worked solutions."""
    rows = steps * spec.train.batch_prompts
    recipe = spec.recipe()
    budget = recipe.tokens_per_prompt() if isinstance(recipe, Budgeted) else TokenBudget(supervised=0, sampled=0)
    supervised = rows * budget.supervised
    if "solutions" in spec.recipe_class.needs:
        texts = [item.completion or "" for item in task.train[:200]]
        solutions = int(rows * sum(map(len, texts)) / max(len(texts), 1) / CHARACTERS_PER_TOKEN)
        supervised = max(supervised, solutions)
    if spec.train.supervised_per_step is not None:
        supervised = min(supervised, steps * spec.train.supervised_per_step)
    return supervised, rows * budget.sampled


def work_estimator(bench: StudyContext) -> Callable[[AnySpec], float]:
    """Gives tokens: those that the base was measured on, as every run is, and those that a run samples and trains on at most.

    Reads the base's folder, which must be complete.
    """
    base = read_json(bench.fixed_folder(BASE) / layout.RUN, RunRecord)
    measured = sum(cost.tokens for cost in base.costs.values())

    def tokens(spec: AnySpec) -> float:
        if isinstance(spec, CheckpointSpec):
            return measured
        task = bench.data_of(spec)
        return measured + sum(token_estimate(spec, task, spec.train.num_steps(len(task.train))))

    return tokens

"""`stateshape eval`: a model or run on a task, one row per item."""

from __future__ import annotations

import tyro

from stateshape.cli.arguments import data_folder, model_settings_from
from stateshape.cli.commands import evaluate_into, out_folder
from stateshape.core.files import check_output
from stateshape.core.locks import hold


def evaluate(
    source: tyro.conf.Positional[str],
    *,
    task: str,
    out: str,
    data: str | None = None,
    limit: int | None = None,
    shots: int = 0,
    max_new_tokens: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    overwrite: bool = False,
    accept_changes: bool = False,
    profile: bool = False,
    quiet: bool = False,
    json_events: bool = False,
) -> None:
    """Evaluate a model or a run on a task: one row an item, and a summary with intervals.

    Args:
        source: 'embedded', a model folder, a hub id, a run folder or an adapter folder.
        task: gsm8k, truthfulqa, mmlu, arithmetic, facts, exam, or a .jsonl file.
        out: Folder; writes evals/<task>.jsonl and evals/summary.json in it.
        data: Folder with the official data files; default: $STATESHAPE_DATA, else the hub.
        limit: Number of items: the first N; for exams N stratified by subject. Default: all.
        shots: Worked examples in the prompt.
        max_new_tokens: Longest completion, in tokens. Default: the task's own (docs/tasks.md).
        device: auto, cpu, cuda, cuda:N.
        dtype: auto, float32, bfloat16, float16.
        overwrite: Replace an evaluation of another model, other data or other settings, which is refused otherwise.
        accept_changes: Go on with a run's files that were changed after it was finished, and put that on record.
        profile: Print where time and memory went, and write evals/<task>.profile.json; evaluates a few items again.
        quiet: Say nothing while working.
        json_events: Say what happens as JSON lines on stderr.
    """
    from stateshape.cli.terminal import reporter_for
    from stateshape.policy.open import resolve
    from stateshape.study.evaluation import claim_evaluation, planned_evaluation
    from stateshape.tasks.load import check_evaluable, load_task

    folder = out_folder(out)
    check_output(folder / "evals")
    chosen = load_task(task, data_dir=data_folder(data), limit=limit, shots=shots, max_new_tokens=max_new_tokens)
    check_evaluable(chosen)
    settings = model_settings_from(device, dtype)
    reporter = reporter_for(quiet=quiet, json_events=json_events)
    with hold(folder):
        about = planned_evaluation(resolve(source), chosen, named=task, limit=limit, shots=shots)
        claim_evaluation(
            folder, source, about, chosen.name, overwrite=overwrite, accept=accept_changes, say=reporter.say
        )
        evaluate_into(
            folder,
            source,
            chosen,
            about,
            settings,
            overwrite=overwrite,
            profile=profile,
            quiet=quiet,
            reporter=reporter,
        )

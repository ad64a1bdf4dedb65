"""`stateshape eval`: a model or run on a task, one row per item."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from stateshape.cli.arguments import RowFlags, check_models, data_folder, model_settings_from, out_folder
from stateshape.cli.processes import check_processes
from stateshape.core import layout
from stateshape.core.files import BadInput, check_output
from stateshape.core.locks import hold

if TYPE_CHECKING:
    from stateshape.core.progress import Reporter
    from stateshape.core.records import EvaluationRecord, PhaseCost
    from stateshape.evals.evaluate import Summary
    from stateshape.policy.policy import Policy
    from stateshape.policy.settings import ModelSettings
    from stateshape.sampling.settings import Sampler
    from stateshape.study.study_file import SampleChoice
    from stateshape.tasks.task import Task

SEED = 0  # of the samples


def evaluate(
    source: tyro.conf.Positional[str],
    *,
    task: str,
    out: str,
    data: str | None = None,
    rows: Annotated[RowFlags, tyro.conf.arg(name="")] = RowFlags(),  # noqa: B008
    limit: int | None = None,
    shots: int = 0,
    max_new_tokens: int | None = None,
    samples: int | None = None,
    temperature: float = 1.0,
    device: str = "auto",
    dtype: str = "auto",
    chat_template: str | None = None,
    servers: str | None = None,
    overwrite: bool = False,
    accept_changes: bool = False,
    processes: int = 1,
    shard_base: bool = False,
    profile: bool = False,
    quiet: bool = False,
    json_events: bool = False,
) -> None:
    """Evaluate a model or a run on a task: one row per item, and a summary with intervals.

    Args:
        source: 'embedded', a model folder, a hub id, a run folder or an adapter folder.
        task: gsm8k, truthfulqa, mmlu, mmlu_cloze, arithmetic, facts, exam, rows of your own (docs/guides/your-data.md), or
            lm_eval:NAME (docs/guides/lm-eval.md).
        out: Output folder; evals/<task>.jsonl and evals/summary.json are written there.
        data: Folder with the official data files; default: $STATESHAPE_DATA, else the hub.
        rows: How rows of your own are read.
        limit: Evaluate N items: the first N; for exams, N stratified by subject. Default: all.
        shots: Worked examples in the prompt.
        max_new_tokens: Longest completion, in tokens. Default: the task's own (docs/tasks.md).
        samples: Also answer every item N times at a temperature: share of right answers and pass@2 to pass@N, in sampled/.
        temperature: Sampling temperature of --samples.
        device: auto, cpu, cuda, cuda:N.
        dtype: auto, float32, bfloat16, float16.
        chat_template: File with a chat template (Jinja), for a model that has none, or in place of its own.
        servers: Addresses of vLLM servers, separated by commas, that write the answers (docs/guides/servers.md). Default: this
            machine writes them.
        overwrite: Replace an evaluation of a different model, data or settings; without this flag, that is refused.
        accept_changes: Continue although files of a finished run were changed; this is recorded.
        processes: Evaluate in N processes on this machine (docs/guides/data_parallel.md).
        shard_base: Split the base's layers over the processes, for one that is larger than a GPU.
        profile: Print time and memory per phase, and write evals/<task>.profile.json; evaluates a few items again.
        quiet: No progress output.
        json_events: Report progress as JSON lines on stderr.
    """
    check_processes(processes)
    check_models(source)
    from stateshape.cli.terminal import reporter_for
    from stateshape.core.ranks import current
    from stateshape.policy.source import resolve
    from stateshape.study.evaluation import claim_evaluation, planned_evaluation, sampled_evaluation
    from stateshape.study.preflight import check_templates
    from stateshape.tasks.load import check_evaluable, load_task

    ranks = current()
    if profile and ranks.count > 1:
        raise BadInput(f"profile: got --profile in {ranks.count} processes; expected one; leave one of the two out")
    folder = out_folder(out)
    check_output(folder / layout.EVALS)
    chosen = load_task(
        task,
        data_dir=data_folder(data),
        limit=limit,
        shots=shots,
        max_new_tokens=max_new_tokens,
        reading=rows.reading(),
    )
    check_evaluable(chosen)
    several = sampling_of(samples, temperature, chosen)
    addresses = addresses_of(servers, chosen, profile=profile)
    settings = model_settings_from(device, dtype, chat_template, shard_base=shard_base)
    check_templates([chosen], resolve(source).model, settings)
    reporter = reporter_for(quiet=quiet, json_events=json_events)
    about = planned_evaluation(resolve(source), chosen, named=task, limit=limit, shots=shots)
    abouts = [about, *([] if several is None else [sampled_evaluation(about, several.n, several.temperature)])]
    with contextlib.ExitStack() as claims:

        def claim() -> None:
            claims.enter_context(hold(folder))
            for planned in abouts:
                claim_evaluation(
                    folder, source, planned, chosen.name, overwrite=overwrite, accept=accept_changes, say=reporter.say
                )

        ranks.by_first(claim)
        evaluate_into(
            folder,
            source,
            chosen,
            about,
            settings,
            several,
            addresses,
            overwrite=overwrite,
            profile=profile,
            quiet=quiet or not ranks.is_first,
            reporter=reporter,
        )


def evaluate_into(
    folder: Path,
    source: str,
    task: Task,
    about: EvaluationRecord,
    settings: ModelSettings,
    several: SampleChoice | None,
    servers: Sequence[str],
    *,
    overwrite: bool,
    profile: bool,
    quiet: bool,
    reporter: Reporter,
) -> None:
    """Opens the model, and what samples from it; then the evaluation."""
    from stateshape.policy.open import open_weights, policy_on
    from stateshape.policy.source import resolve
    from stateshape.study.opened import Asked, opened_sampler

    resolved = resolve(source)
    asked = Asked(servers, resolved.model, settings, folder, log=None)
    with opened_sampler(asked, partial(open_weights, resolved.model, settings)) as (weights, sampler):
        policy = policy_on(weights, resolved, "loaded")
        evaluate_policy(
            folder, source, policy, task, about, several, sampler,
            overwrite=overwrite, profile=profile, quiet=quiet, reporter=reporter,
        )  # fmt: skip


def evaluate_policy(
    folder: Path,
    source: str,
    policy: Policy,
    task: Task,
    about: EvaluationRecord,
    several: SampleChoice | None,
    sampler: Sampler,
    *,
    overwrite: bool,
    profile: bool,
    quiet: bool,
    reporter: Reporter,
) -> None:
    """The evaluation itself: rows, summary, printed output and profile."""
    from stateshape.core.ranks import current
    from stateshape.evals.evaluate import evaluate as evaluate_task
    from stateshape.evals.evaluate import summarise, write_evaluation
    from stateshape.study.evaluation import check_same_evaluation, on_machine, sampled_evaluation

    about = on_machine(about, policy.weights, sampler)
    sampled_about = None if several is None else sampled_evaluation(about, several.n, several.temperature)
    ranks = current()
    if not overwrite:
        for planned in (about, *([] if sampled_about is None else [sampled_about])):
            ranks.by_first(partial(check_same_evaluation, folder, task.name, planned))
    costs: dict[str, PhaseCost] = {}
    with policy.weights.meter.phase("evaluation", costs):
        tick = reporter.track(f"evaluate on {task.name}", "items", policy.weights.meter)
        rows = evaluate_task(policy, task, sampler=sampler, progress=tick)
    summary = summarise(rows, task.metrics)
    ranks.by_first(lambda: write_evaluation(folder, task.name, rows, summary, about))
    if not quiet:
        print_summary(task.name, summary)
        print(f"rows: {layout.evaluation(folder, task.name)}")
    if sampled_about is not None:
        sample_into(folder, policy, task, sampled_about, sampler, quiet=quiet, reporter=reporter)
    if profile:
        from stateshape.cli.costs import profile_evaluation

        path = folder / layout.EVALS / f"{task.name}.profile.json"
        profile_evaluation(path, source, policy, task, costs["evaluation"], quiet=quiet)


def addresses_of(servers: str | None, task: Task, *, profile: bool) -> list[str]:
    """--servers as a list; empty: this machine. Raises BadInput where servers can't do what is asked."""
    from stateshape.core.ranks import current
    from stateshape.sampling.served.choice import check_servers
    from stateshape.tasks.harness import is_answered_in_text

    if servers is None:
        return []
    addresses = servers.split(",")
    check_servers("vllm", addresses)
    if not is_answered_in_text(task):
        raise BadInput(
            f"servers: got some for {task.name}, which is multiple choice; expected none, since its options are scored here "
            "and nothing is sampled; leave --servers out"
        )
    if current().count > 1:
        raise BadInput(
            f"servers: got some in {current().count} processes; expected one: the servers do the work; leave --processes out"
        )
    if profile:
        raise BadInput(
            "profile: got --profile with --servers; expected one of them: time and memory would be the servers'; leave one out"
        )
    return addresses


def sampling_of(samples: int | None, temperature: float, task: Task) -> SampleChoice | None:
    """The flags as a study file has them. Raises BadInput for a task that is not answered in free text."""
    from stateshape.study.study_file import SampleChoice
    from stateshape.tasks.harness import is_answered_in_text

    if samples is None:
        return None
    if not is_answered_in_text(task):
        raise BadInput(
            f"samples: got {samples} for {task.name}, which is multiple choice; expected none, since its options are scored "
            "and nothing is sampled; leave --samples out"
        )
    return SampleChoice(n=samples, temperature=temperature)


def sample_into(
    folder: Path,
    policy: Policy,
    task: Task,
    about: EvaluationRecord,
    sampler: Sampler,
    *,
    quiet: bool,
    reporter: Reporter,
) -> None:
    """The second evaluation, on several samples per item."""
    from stateshape.core.ranks import current
    from stateshape.evals.evaluate import write_evaluation
    from stateshape.evals.sampled import sample_and_grade, summarise_sampled
    from stateshape.tasks.task import GenerationTask

    assert isinstance(task, GenerationTask)
    tick = reporter.track(f"sample on {task.name}", "items", policy.weights.meter)
    rows = sample_and_grade(
        policy,
        task,
        num_samples=about.num_samples,
        temperature=about.temperature,
        seed=SEED,
        sampler=sampler,
        progress=tick,
    )
    summary = summarise_sampled(rows, task.metric)
    current().by_first(lambda: write_evaluation(folder, task.name, rows, summary, about, kind=layout.SAMPLED))
    if not quiet:
        print_summary(task.name, summary)
        print(f"rows: {layout.evaluation(folder, task.name, layout.SAMPLED)}")


def print_summary(task: str, summary: Summary) -> None:
    """One line per metric."""
    for metric, estimate in summary.items():
        interval = "" if estimate.ci95 is None else f"  95% [{estimate.ci95[0]:.3f}, {estimate.ci95[1]:.3f}]"
        value = "missing" if estimate.value is None else f"{estimate.value:.4f}"
        print(f"{task} {metric}: {value}{interval}  n={estimate.n}")

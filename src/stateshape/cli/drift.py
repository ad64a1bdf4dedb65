"""`stateshape drift`: distances between the states of two models."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import tyro

from stateshape.cli.arguments import RowFlags, check_models, data_folder, model_settings_from
from stateshape.cli.processes import check_processes, is_first
from stateshape.core.files import plain

if TYPE_CHECKING:
    from stateshape.core.records import DriftRecord

TIE = 1e-9  # p is a quotient of floats


def drift(
    a: tyro.conf.Positional[str],
    b: tyro.conf.Positional[str],
    *,
    task: str,
    data: str | None = None,
    rows: Annotated[RowFlags, tyro.conf.arg(name="")] = RowFlags(),  # noqa: B008
    prompts: int = 128,
    cuts: int = 2,
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    hidden: bool = True,
    encoder: str | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    chat_template: str | None = None,
    processes: int = 1,
    shard_base: bool = False,
    json_output: Annotated[bool, tyro.conf.arg(name="json")] = False,
    quiet: bool = False,
) -> None:
    """Distance between the states of A and B, with A-vs-A (another seed) as control.

    Args:
        a: The reference: a model or a run.
        b: The model or run to compare with it.
        task: Task, or rows of your own, whose last training prompts both models continue.
        data: Folder with the official data files; default: $STATESHAPE_DATA, else the hub.
        rows: How rows of your own are read.
        prompts: Rollouts per side (A and B), one per prompt.
        cuts: Prefix states per rollout.
        max_new_tokens: Longest rollout, in tokens.
        temperature: Sampling temperature.
        hidden: Also compute distances on hidden states of A's untrained base.
        encoder: Also compute distances on the embeddings of this sentence-transformers model.
        seed: Sampling seed.
        device: auto, cpu, cuda, cuda:N.
        dtype: auto, float32, bfloat16, float16.
        chat_template: File with a chat template (Jinja), for a model that has none, or in place of its own.
        processes: Sample in N processes on this machine (docs/guides/data_parallel.md).
        shard_base: Split the base's layers over the processes, for one that is larger than a GPU.
        json_output: Print JSON instead of a table.
        quiet: No progress output.
    """
    from stateshape.cli.terminal import reporter_for
    from stateshape.study.study_file import DriftChoice

    check_processes(processes)
    check_models(a, b)
    from stateshape.study.single import drift_between

    choice = DriftChoice(
        prompts=prompts,
        cuts=cuts,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        hidden=hidden,
        encoder=encoder,
    )
    record = drift_between(
        a, b, task_name=task, data_dir=data_folder(data), choice=choice, seed=seed,
        model_settings=model_settings_from(device, dtype, chat_template, shard_base=shard_base), reading=rows.reading(),
        reporter=reporter_for(quiet=quiet or json_output, json_events=False),
    )  # fmt: skip
    if not is_first():
        return
    if json_output:
        print(json.dumps(plain(record), indent=1))
        return
    print_drift(record)


def print_drift(record: DriftRecord) -> None:
    """One line per distance: value and interval, null, and the reference compared with itself."""
    print(f"{record.num_states} states per side from {record.num_prompts} prompts of {record.task}; {record.features}")
    heads = ("value", "95% from", "to", "null mean", "null sd", "z", "p", "A vs A")
    print(f"{'distance':28s}" + "".join(f"{head:>11s}" for head in heads))
    for name, one in record.distances.items():
        numbers = (one.value, one.lo, one.hi, one.null_mean, one.null_sd, one.z, one.p, one.base_vs_base)
        shown = ["-" if value is None else f"{value:.4g}" for value in numbers]
        print(
            f"{name:28s}" + "".join(f"{text:>11s}" for text in shown) + (f"  {one.note}" if one.value is None else "")
        )
    print("\n".join(conclusion(record)))


def conclusion(record: DriftRecord) -> list[str]:
    """What the table shows, by the distance that verdicts rest on; and what a p at the end of its range means."""
    from stateshape.analysis.claims import DRIFT_NAME
    from stateshape.analysis.power import ALPHA

    smallest, found = 1 / (record.num_permutations + 1), record.distances.get(DRIFT_NAME)
    ps = [one.p for one in record.distances.values() if one.p is not None]
    lines = []
    if any(p <= smallest * (1 + TIE) for p in ps):
        lines.append(
            f"p = {smallest:.3g} is the smallest possible: none of {record.num_permutations:,} permutations was as large."
        )
    if found is None or found.value is None or found.p is None:
        return lines
    told = "B's states differ from A's" if found.p <= ALPHA else "No difference between B's states and A's was found"
    beside = "" if found.base_vs_base is None else f", beside {found.base_vs_base:.3g} for A against A"
    return [
        *lines,
        f"{told}: {DRIFT_NAME} {found.value:.3g}, p {found.p:.3g}{beside}.",
        f"p <= {ALPHA:g}: {sum(p <= ALPHA for p in ps)} of {len(ps)} distances, which are not independent; without any "
        f"difference, one in {round(1 / ALPHA)} would.",
    ]

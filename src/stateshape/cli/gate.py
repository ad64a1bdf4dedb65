"""`stateshape gate`: would a comparison of state sources with this teacher compare anything?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from stateshape.cli.arguments import data_folder, model_settings_from
from stateshape.cli.show import number
from stateshape.core.files import check_output, plain, write_json

if TYPE_CHECKING:
    from stateshape.core.gate_records import GateRecord


def gate(
    teacher: tyro.conf.Positional[str],
    *,
    task: str,
    retention: tuple[str, ...] = (),
    data_task: str | None = None,
    limit: int | None = None,
    prompts: int = 192,
    low: float = 0.1,
    high: float = 0.7,
    max_new_tokens: int = 96,
    teacher_temperature: float = 0.0,
    seed: int = 0,
    data: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    out: str | None = None,
    json_output: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Check a teacher before a study: do its states differ from the base's, is it worse, and does it help where the base is?

    Args:
        teacher: A run or adapter folder.
        task: Task whose last training prompts give the states, and on whose test items both are scored: a validation task.
        retention: Tasks on which the teacher's forgetting is measured, separated by spaces.
        data_task: Task whose solutions give the dataset states, e.g. the one the teacher was trained on.
        limit: Evaluated items of each task. Default: all.
        prompts: Prompts for the states of each side.
        low: Smallest share of a response to keep as a prefix.
        high: Largest share.
        max_new_tokens: Longest response or continuation, in tokens.
        teacher_temperature: Temperature of the teacher's prefixes, and of the continuations that are compared; 0 is greedy.
        seed: Sampling seed.
        data: Folder with the official data files; default: $STATESHAPE_DATA, else the hub.
        device: auto, cpu, cuda, cuda:N.
        dtype: auto, float32, bfloat16, float16.
        out: Also write the result to this file, as JSON.
        json_output: Print JSON instead of a table.
    """
    from stateshape.states.cuts import Cut
    from stateshape.study.gate import GateSettings, gate_of

    if out is not None:
        check_output(Path(out).parent)
    record = gate_of(
        teacher,
        task_name=task,
        retention=retention,
        data=data_task,
        limit=limit,
        data_dir=data_folder(data),
        settings=GateSettings(
            prompts=prompts,
            cut=Cut(low=low, high=high),
            max_new_tokens=max_new_tokens,
            teacher_temperature=teacher_temperature,
        ),
        seed=seed,
        model_settings=model_settings_from(device, dtype),
    )
    if out is not None:
        write_json(Path(out), record)
    if json_output:
        print(json.dumps(plain(record), indent=1))
        return
    print_gate(record)


def print_gate(record: GateRecord) -> None:
    """A line per condition, then the numbers they rest on."""
    print(f"{record.teacher}: the gate {'holds' if record.holds else 'does not hold'}")
    print(f"{'condition':58s}{'value':>9s}{'se':>8s}{'at least':>10s}")
    for check in record.checks:
        numbers = [
            number(check.value, ".3f"),
            number(check.stderr, ".3f"),
            f"{check.least:.2f}",
            "yes" if check.holds else "NO",
        ]
        print(f"{check.name:58s}{numbers[0]:>9s}{numbers[1]:>8s}{numbers[2]:>10s}  {numbers[3]}")
    for name, one in record.states.items():
        gap, auc = number(one.reachability_gap_nats, ".3f"), number(one.c2st_auc, ".3f")
        print(f"{name} states: gap {gap} nats per token, AUC {auc}, {one.num_prompts} prompts")
    for task, num in record.num_items.items():
        by_policy = ", ".join(f"{policy} {scores[task]:.3f}" for policy, scores in record.scores.items())
        print(f"{task}: {by_policy} ({num} items)")
    print("right from learner prefixes: " + ", ".join(f"{name} {share:.3f}" for name, share in record.right.items()))

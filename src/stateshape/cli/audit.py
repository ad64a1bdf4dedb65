"""`stateshape audit`: what finished models or adapters gained, lost and changed against their base."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import tyro

from stateshape.cli.arguments import check_models, data_folder, model_settings_from, out_folder
from stateshape.core import layout

if TYPE_CHECKING:
    from stateshape.core.study_records import Audit

WIDTH = 80  # of lines of text, so that they can be read in a narrow terminal


def audit(
    base: tyro.conf.Positional[str],
    tuned: tyro.conf.Positional[tuple[str, ...]],
    *,
    task: str,
    out: str,
    retention: str = "",
    data: str | None = None,
    limit: int | None = None,
    prompts: int = 128,
    cuts: int = 2,
    max_new_tokens: int = 128,
    hidden: bool = True,
    device: str = "auto",
    dtype: str = "auto",
    accept_changes: bool = False,
    quiet: bool = False,
    json_events: bool = False,
) -> None:
    """Compare finished models or adapters with their base: scores, forgetting, drift, KL, and the items that flipped.

    Trains nothing. Running it again resumes.

    Args:
        base: The model before: 'embedded', a folder or a hub id.
        tuned: One or more models, adapters or runs: folders or hub ids.
        task: What they were tuned for: gsm8k, arithmetic, or a .jsonl file; answered in free text.
        out: The audit's folder; report.html is written there.
        retention: Tasks that should not have suffered, separated by commas: facts, exam, truthfulqa, mmlu, .jsonl files,
            or lm_eval:NAME.
        data: Folder with the official data files; default: $STATESHAPE_DATA, else the hub.
        limit: Evaluate N items of each task: the first N; for exams, N stratified by subject. Default: all.
        prompts: Prompts for drift, and at most as many of each task for the KL.
        cuts: Prefix states per rollout.
        max_new_tokens: Longest rollout for drift and KL, in tokens.
        hidden: Also compute drift on hidden states of the base.
        device: auto, cpu, cuda, cuda:N.
        dtype: auto, float32, bfloat16, float16.
        accept_changes: Continue although finished files were changed; this is recorded and shown in the report.
        quiet: No progress output.
        json_events: Report progress as JSON lines on stderr.
    """
    from stateshape.api import audit as run_audit
    from stateshape.cli.terminal import reporter_for
    from stateshape.study.study_file import DriftChoice
    from stateshape.tasks.harness import names_of

    check_models(base, *tuned)
    folder = out_folder(out)
    reporter = reporter_for(quiet=quiet, json_events=json_events)
    try:
        audits = run_audit(
            base, tuned, task=task, out=folder, limit=limit, data_dir=data_folder(data),
            retention=names_of(retention),
            drift=DriftChoice(prompts=prompts, cuts=cuts, max_new_tokens=max_new_tokens, hidden=hidden),
            model_settings=model_settings_from(device, dtype), reporter=reporter, accept_changes=accept_changes,
        )  # fmt: skip
    finally:
        reporter.stop()
    if not quiet:
        print_audits(audits)
        print(f"report: {folder / layout.REPORT}")


def print_audits(audits: Sequence[Audit]) -> None:
    """Plain sentences, one list per checkpoint."""
    for one in audits:
        print(textwrap.fill(f"{one.label}: {one.headline}", WIDTH))
        for sentence in (*(finding.sentence for finding in one.findings), *one.changes, *one.notes):
            print(textwrap.fill(sentence, WIDTH, initial_indent="  - ", subsequent_indent="    "))

"""Flags that several commands share, and their conversion."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stateshape.core.files import BadInput, check_output, parse
from stateshape.core.wording import MAX_PATH, shown

if TYPE_CHECKING:
    from stateshape.policy.settings import ModelSettings
    from stateshape.tasks.reading import Reading

DATA_VARIABLE = "STATESHAPE_DATA"


@dataclass(frozen=True, kw_only=True)
class RowFlags:
    """How rows of your own are read, where they do not say."""

    columns: str | None = None
    """Columns under other names, as prompt=question,completion=answer; an empty name: no such column."""
    kind: Literal["task", "choice", "messages", "completion", "preference", "alpaca", "text", "prompt"] | None = None
    """Kind of rows. Default: recognised by the columns."""
    split: Literal["train", "test"] | None = None
    """Split of rows that do not say. Default: train; test for prompts with answers and for multiple choice."""
    turns: Literal["all", "last"] = "all"
    """Assistant turns of a chat that are learned."""
    as_chat: bool = False
    """Texts in prompt and completion are messages, written by the model's chat template."""
    grader: str | None = None
    """exact, numeric, numeric:TOLERANCE, choice, regex, math, or file.py:name of a function. Default: exact."""

    def reading(self) -> Reading:
        from stateshape.tasks.reading import Reading, columns_of

        return Reading(
            columns=columns_of(self.columns),
            kind=self.kind,
            split=self.split,
            turns=self.turns,
            as_chat=self.as_chat,
            grader=self.grader,
        )


def task_and_folder(task: str | None, data: str | None) -> tuple[str, Path | None]:
    """--task and --data: rows of one's own may be given as either. Raises BadInput."""
    from stateshape.tasks.sources import is_source

    if data is not None and is_source(data) and not os.path.isdir(data):
        if task is not None:
            raise BadInput(
                f"data: got {shown(data, limit=MAX_PATH)} together with --task {shown(task)}; expected one of them; leave "
                "one out"
            )
        return data, data_folder(None)
    if task is None:
        raise BadInput(
            "task: got none; expected --task NAME, or --data with rows of your own (.jsonl, .csv, hub:owner/name)"
        )
    return task, data_folder(data)


def data_folder(flag: str | None) -> Path | None:
    """--data, or the environment's STATESHAPE_DATA; None: read from the hub."""
    chosen = flag or os.environ.get(DATA_VARIABLE)
    if chosen is None:
        return None
    if not os.path.isdir(chosen):  # unlike Path.is_dir, also False for a name that is too long
        raise BadInput(
            f"data: got {shown(chosen, limit=MAX_PATH)}, which is not a folder; expected one that holds "
            "gsm8k/, truthfulqa/, mmlu/"
        )
    return Path(chosen)


def check_models(*sources: str) -> None:
    """Whether models are named that can be there, before libraries are loaded that take seconds. Raises BadInput."""
    from stateshape.policy.source import resolve

    for source in sources:
        resolve(source)


def out_folder(name: str) -> Path:
    """--out as a folder that can be written to. Raises BadInput."""
    if not name.strip():
        raise BadInput(f"out: got {name!r}; expected the name of a folder (an unset variable of the shell?)")
    check_output(Path(name))
    return Path(name)


def model_settings_from(
    device: str, dtype: str, chat_template: str | None = None, *, shard_base: bool = False
) -> ModelSettings:
    """Raises BadInput."""
    from stateshape.policy.settings import ModelSettings, check_shard

    chosen = {"device": device, "dtype": dtype, "chat_template": chat_template, "shard_base": shard_base}
    settings = parse(chosen, ModelSettings, where="command line")
    check_shard(settings)
    return settings

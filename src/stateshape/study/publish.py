"""Puts what is published into one new folder, whole or not at all, and uploads a folder to the hub.

A model's folder is what peft (or transformers) reads, with the base's tokenizer; states and studies are datasets. Does not know
what the card says (report/cards.py).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import httpx
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

from stateshape.core import layout
from stateshape.core.files import BadInput, read_json, write_json, write_text
from stateshape.core.locks import holds_files
from stateshape.core.records import RunRecord
from stateshape.core.sealed import check_source, is_finished
from stateshape.core.wording import one_line
from stateshape.policy.open import tokenizer_of
from stateshape.policy.settings import ModelSettings
from stateshape.policy.source import CONFIG

Kind = Literal["model", "dataset"]
TOKENIZER = "tokenizer_config.json"
OWN = "stateshape"  # a folder for our records, beside what other tools read
OF_A_STUDY = (
    layout.PLAN, layout.COMPARISON, layout.VERDICTS, layout.FINDINGS, layout.LOOKS, layout.AUDIT, layout.PREDICTORS,
    layout.DOSES, layout.REPORT, layout.TABLES, layout.PLOTS, "table[12].*",
)  # fmt: skip


def check_run(folder: Path) -> RunRecord:
    """The record of a finished run, whose files are as they were. Raises BadInput."""
    if not (folder / layout.RUN).exists():
        raise BadInput(f"source: {folder} holds no run.json; expected a finished run's folder, or a study's")
    if not is_finished(folder):
        raise BadInput(f"source: {folder} is not finished; expected a finished run; run its command again first")
    check_source(str(folder))
    return read_json(folder / layout.RUN, RunRecord)


def check_target(to: Path) -> None:
    """Raises BadInput where the folder is not new or empty."""
    if to.is_file() or holds_files(to):
        raise BadInput(f"to: {to} is not empty; expected a new or empty folder")


def write_model(run: Path, record: RunRecord, to: Path, *, base: str, card: str) -> None:
    """The trained adapter (or model) with the base's tokenizer. base: as others find it, in place of this machine's path."""

    def fill(folder: Path) -> None:
        shutil.copytree(layout.trained(run), folder, dirs_exist_ok=True)
        if (folder / CONFIG).exists():
            config = read_json(folder / CONFIG, dict[str, Any])
            write_json(folder / CONFIG, config | {"base_model_name_or_path": base})
            if not (folder / TOKENIZER).exists():  # a run of before adapters carried it
                tokenizer = tokenizer_of(record.model, ModelSettings(), what="model")
                if tokenizer is not None:  # of a GGUF folder the tokenizer is in its one file
                    tokenizer.save_pretrained(str(folder))
        for name in (layout.RUN, layout.METRICS):
            copy_of(run / name, folder / OWN / name)

    whole_folder(to, fill, card)


def write_states(run: Path, to: Path, *, card: str) -> None:
    """Raises BadInput where the run recorded none."""
    if not any((run / layout.STATES).glob("*.parquet")):
        raise BadInput(f"source: {run} recorded no states; expected some; train with states_mb above 0")

    def fill(folder: Path) -> None:
        shutil.copytree(run / layout.STATES, folder / layout.STATES)
        copy_of(run / layout.RUN, folder / layout.RUN)

    whole_folder(to, fill, card)


def write_study(study: Path, to: Path, *, card: str) -> None:
    """Its numbers, tables, plots and report; no adapters, no rollouts."""

    def fill(folder: Path) -> None:
        for pattern in OF_A_STUDY:
            for path in sorted(study.glob(pattern)):
                copy_of(path, folder / path.name)

    whole_folder(to, fill, card)


def copy_of(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def whole_folder(to: Path, fill: Callable[[Path], None], card: str) -> None:
    """Filled beside its place and renamed: nothing half-written is left."""
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=to.parent, prefix=f".{to.name}.") as temporary:
        folder = Path(temporary) / to.name
        folder.mkdir()
        fill(folder)
        write_text(folder / layout.CARD, card)
        if to.exists():
            to.rmdir()  # empty, see check_target
        folder.rename(to)


def upload(folder: Path, repository: str, kind: Kind, *, is_private: bool) -> str:
    """Creates the repository where there is none, and uploads the folder. Returns its address. Raises BadInput."""
    try:
        api = HfApi()
        url = api.create_repo(repository, repo_type=kind, private=is_private, exist_ok=True)
        api.upload_folder(repo_id=repository, repo_type=kind, folder_path=folder)
    except (LocalTokenNotFoundError, HFValidationError, HfHubHTTPError, OfflineModeIsEnabled, httpx.HTTPError) as error:
        raise BadInput(
            f"hub: {repository} could not be written ({one_line(str(error), limit=200)}); expected a token that may write "
            "there (hf auth login) and a network; the files can be written with --to FOLDER"
        ) from None
    return str(url)

"""Which files of a run and of a study are listed in their manifests once they are finished, and the check of a whole study.

Torch-free. Not listed: locks, checkpoints, temporary files, what --profile writes, and a study's tables, plots and page, which
nothing reads.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from fnmatch import fnmatch
from pathlib import Path

from stateshape.core import layout
from stateshape.core.files import BadInput, read_json
from stateshape.core.locks import is_lock
from stateshape.core.manifest import check_unchanged, has_manifest, seal
from stateshape.core.records import RunRecord

COMPARED = (
    layout.COMPARISON,
    layout.VERDICTS,
    layout.FINDINGS,
    layout.PREDICTORS,
    layout.AUDIT,
)  # made again by every report
MADE_AGAIN = (*COMPARED, layout.DOSES, layout.STATE_MAP)  # by every study
NOT_LISTED = (layout.MANIFEST, layout.CHECKPOINT, "*.tmp", layout.PROFILE, f"*.{layout.PROFILE}")


def seal_run(folder: Path) -> None:
    """Lists every file of a finished run."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not is_lock(path)]
    listed = [path for path in paths if not any(fnmatch(path.name, pattern) for pattern in NOT_LISTED)]
    seal(folder, [path.relative_to(folder).as_posix() for path in listed])


def check_study(
    study_dir: Path, *, accept: bool, may_lack: Collection[str], say: Callable[[str], None] | None = None
) -> None:
    """Raises BadInput where a finished file of the study or of its runs is not as it was; or accepts it."""
    check_unchanged([study_dir], accept=accept, may_lack=may_lack, say=say)
    check_unchanged(layout.run_folders(study_dir), accept=accept, say=say)


def check_record_is_there(folder: Path) -> None:
    """A finished run whose record is gone can't be distinguished from one that never began. Raises BadInput."""
    if has_manifest(folder) and not (folder / layout.RUN).exists():
        raise BadInput(
            f"{folder / 'run.json'}: is gone after the run was finished; expected the run's record; put the file back, or "
            f"delete {folder} to run it again"
        )


def check_source(source: str) -> None:
    """A finished run, or its adapter, that is used as a teacher, a reference or for its states. Raises BadInput."""
    check_unchanged(sealed_folders(source))


def sealed_folders(source: str) -> list[Path]:
    """The run folder that a source is or is inside, if it has a manifest."""
    folder = Path(source)
    is_inside = folder.name in (layout.ADAPTER, layout.MODEL) or layout.KEPT_CHECKPOINT.fullmatch(folder.name)
    candidates = [folder, folder.parent] if is_inside else [folder]
    return [path for path in candidates if has_manifest(path)]


def unsealed_runs(study_dir: Path) -> list[Path]:
    """Finished runs of before there were manifests: a change in them can't be noticed."""
    return [path for path in layout.run_folders(study_dir) if is_finished(path) and not has_manifest(path)]


def is_finished(folder: Path) -> bool:
    return (folder / layout.RUN).exists() and read_json(folder / layout.RUN, RunRecord).is_complete

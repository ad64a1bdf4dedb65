"""manifest.json: the files of finished work with their sizes and sha256, so that a later change does not go by in silence.

What is listed is checked: a file that is gone, or has another size or sha256, is named. Files that are not listed are nobody's
business. The package itself rewrites listed files within `rewriting`, which takes them off the list first and puts them back
when they are whole: a kill in between leaves them unlisted, never wrong. A change that a user accepts is put on record.
Torch-free; does not know what any file means.
"""

from __future__ import annotations

import contextlib
import datetime
import shlex
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

from stateshape.core import layout
from stateshape.core.files import BadInput, read_json, sha256_file, write_json

How = Literal["changed", "gone"]
MOST_SAID = 5  # files that are named when changes are accepted


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    size: int  # bytes
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AcceptedChange:
    """A change that --accept-changes let pass. now: None where the file was gone."""

    file: str
    before: FileEntry
    now: FileEntry | None
    date: str
    command: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    files: dict[str, FileEntry]  # by path below the folder, with "/"
    accepted: list[AcceptedChange] = field(default_factory=list)


class Change(NamedTuple):
    folder: Path
    file: str
    how: How

    @property
    def path(self) -> Path:
        return self.folder / self.file


def has_manifest(folder: Path) -> bool:
    return (folder / layout.MANIFEST).exists()


def read_manifest(folder: Path) -> Manifest:
    """Empty where there is none. Raises BadInput where it can't be read."""
    return read_json(folder / layout.MANIFEST, Manifest) if has_manifest(folder) else Manifest(files={})


def seal(folder: Path, files: Iterable[str]) -> None:
    """Lists these files as they are now, in addition to those already listed; one that is not there is taken off."""
    manifest = read_manifest(folder)
    now = {name: entry_of(folder / name) for name in files}
    listed = {**manifest.files, **now}
    present = {name: entry for name, entry in sorted(listed.items()) if entry is not None}
    write_json(folder / layout.MANIFEST, replace(manifest, files=present))


@contextlib.contextmanager
def rewriting(folder: Path, files: Collection[str]) -> Iterator[None]:
    """For who writes files that are to be listed, or writes listed ones again."""
    manifest = read_manifest(folder)
    if not manifest.files.keys().isdisjoint(files):
        rest = {name: entry for name, entry in manifest.files.items() if name not in files}
        write_json(folder / layout.MANIFEST, replace(manifest, files=rest))
    yield
    seal(folder, files)


def changes(folder: Path, *, may_lack: Collection[str] = ()) -> list[Change]:
    """What is not as listed. `may_lack`: files that may be gone, since they are made again."""
    differences: list[Change] = []
    for name, entry in read_manifest(folder).files.items():
        path = folder / name
        if not path.is_file():
            differences += [] if name in may_lack else [Change(folder, name, "gone")]
        elif path.stat().st_size != entry.size or entry_of(path) != entry:
            differences.append(Change(folder, name, "changed"))
    return differences


def check_unchanged(
    folders: Iterable[Path],
    *,
    accept: bool = False,
    may_lack: Collection[str] = (),
    say: Callable[[str], None] | None = None,
) -> None:
    """Raises BadInput, naming the first file, where something is not as it was; or puts it on record, if that is accepted."""
    differences = [change for folder in folders for change in changes(folder, may_lack=may_lack)]
    if not differences:
        return
    if accept:
        for folder in dict.fromkeys(change.folder for change in differences):
            accept_changes(folder, [change for change in differences if change.folder == folder])
        if say is not None:
            for change in differences[:MOST_SAID]:
                say(f"{change.path}: {change.how} after it was finished; accepted")
            if len(differences) > MOST_SAID:
                say(f"and {len(differences) - MOST_SAID} more, accepted; the folders' {layout.MANIFEST} list them")
        return
    first, more = differences[0], len(differences) - 1
    others = f" (and {more} more file{'' if more == 1 else 's'})" if more else ""
    was = "is gone" if first.how == "gone" else "was changed"
    raise BadInput(
        f"{first.path}: {was} after it was finished{others}; expected the files as {layout.MANIFEST} lists them; put them "
        "back, or go on with them as they are: --accept-changes of report, study and eval"
    )


def accept_changes(folder: Path, differences: Collection[Change]) -> None:
    """Lists the files as they are now, and records what was accepted, when, and by which command."""
    manifest = read_manifest(folder)
    files, accepted = dict(manifest.files), list(manifest.accepted)
    for change in differences:
        now = entry_of(change.path)
        before = files.pop(change.file)
        if now is not None:
            files[change.file] = now
        accepted.append(AcceptedChange(file=change.file, before=before, now=now, date=_now(), command=_command()))
    write_json(folder / layout.MANIFEST, Manifest(files=dict(sorted(files.items())), accepted=accepted))


def entry_of(path: Path) -> FileEntry | None:
    """None where there is no such file."""
    try:
        told = path.stat()
    except OSError:
        return None
    if not path.is_file():
        return None
    digest = _sha256(str(path.resolve()), told.st_size, told.st_mtime_ns, told.st_ctime_ns, told.st_ino)
    return FileEntry(size=told.st_size, sha256=digest)


@lru_cache(maxsize=65_536)
def _sha256(path: str, *as_it_is: int) -> str:
    """Once for a file as it is: a command may ask several times."""
    del as_it_is
    return sha256_file(Path(path))


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _command() -> str:
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:500]

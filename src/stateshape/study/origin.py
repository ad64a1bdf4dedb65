"""What a run rests on, by content: its data, the base's weights, its teachers and references, the states it replays.

Written into the provenance when a run begins, and compared whenever it goes on or is used again: a file that has other
content under the same name would make the record false. What an older record does not say, and what can't be read here (a hub
id that is not in the cache), is not compared. Loads no model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from stateshape.core import layout
from stateshape.core.files import BadInput
from stateshape.core.manifest import entry_of
from stateshape.core.records import Json
from stateshape.core.study_records import BASE
from stateshape.policy.fingerprint import weights_sha256
from stateshape.policy.source import resolve
from stateshape.record.parts import parts_of
from stateshape.sampling.served.teacher import is_address
from stateshape.study.run_spec import AnySpec
from stateshape.tasks.task import Task

Stands = Callable[[str], str]
"""From a named source to its location."""


class Thing(NamedTuple):
    """One thing that a run rests on. name: in words, for the message."""

    name: str
    sha256: str


def origin(
    model: str, tasks: Sequence[Task], specs: Sequence[AnySpec] = (), stands: Stands = lambda source: source
) -> dict[str, Json]:
    """As in a provenance: data_sha256, weights_sha256, and sources_sha256 of what `specs` name."""
    sources: dict[str, Json] = {}
    for spec in specs:
        for key, named in spec.named().items():
            for source in named:
                if source != BASE:
                    sources |= states_of(source, stands) if key == "states" else policy_of(key, source, stands)
    return {
        "data_sha256": {task.name: task.data_sha256 for task in tasks},
        "weights_sha256": weights_sha256(model),
        "sources_sha256": sources,
    }


def policy_of(key: str, source: str, stands: Stands) -> dict[str, Json]:
    """A teacher or reference: its adapter, and the base below it. What a server serves is not known by content."""
    if is_address(source):
        return {}
    resolved = resolve(stands(source))
    digests: dict[str, Json] = {f"base of {key} {source}": weights_sha256(resolved.model)}
    if resolved.adapter is not None:
        digests[f"{key} {source}"] = weights_sha256(str(resolved.adapter))
    return digests


def states_of(source: str, stands: Stands) -> dict[str, Json]:
    """Recorded states: the rows' files in order."""
    digest = hashlib.sha256()
    for part in parts_of(Path(stands(source)) / layout.STATES):
        entry = entry_of(part.path)
        digest.update(f"{part.path.name} {entry.sha256 if entry else None}\n".encode())
    return {f"states {source}": digest.hexdigest()}


def check_same_origin(folder: Path, begun: Mapping[str, Json], now: Mapping[str, Json]) -> None:
    """Raises BadInput naming the first thing that has other content than when `folder` was begun."""
    before = dict(things(begun))
    for name, sha256 in things(now):
        if before.get(name, sha256) != sha256:
            raise BadInput(
                f"out: {folder} was started with different {name} (sha256 {before[name][:12]} there, {sha256[:12]} now); "
                "expected the same content; give --out another folder, or use the one it was started with"
            )


def things(provenance: Mapping[str, Json]) -> Iterator[Thing]:
    """The hashes of contents in a provenance."""
    data, sources = provenance.get("data_sha256"), provenance.get("sources_sha256")
    for words, shas in (("data for {}", data), ("weights for {}", sources)):
        for name, sha256 in (shas if isinstance(shas, dict) else {}).items():
            if isinstance(sha256, str):
                yield Thing(name if name.startswith("states ") else words.format(name), sha256)
    template = provenance.get("chat_template_sha256")
    if isinstance(template, str):
        yield Thing("chat template", template)
    weights = provenance.get("weights_sha256")
    if isinstance(weights, str):
        yield Thing("weights of the base model", weights)

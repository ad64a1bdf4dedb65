"""What samples for a study or a run: this machine, or vLLM servers that are checked before the model loads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from stateshape.core import layout
from stateshape.core.records import Json
from stateshape.policy.open import open_tokenizer
from stateshape.policy.weights import SharedWeights
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.served.adapters import remove_published
from stateshape.sampling.served.check import reach
from stateshape.sampling.served.sampler import ServedSampler
from stateshape.sampling.served.wire import Patience
from stateshape.sampling.settings import Sampler
from stateshape.study.plan import StudyFile

PATIENCE = Patience()


@contextlib.contextmanager
def opened_sampler(
    file: StudyFile, folder: Path, load: Callable[[], SharedWeights]
) -> Iterator[tuple[SharedWeights, Sampler]]:
    """As open_sampler. What is published for the folder is withdrawn at the start, as a killed process left it, and at the end.

    Only for who holds the folder's lock.
    """
    weights, sampler = open_sampler(file, folder, load)
    if not isinstance(sampler, ServedSampler):
        yield weights, sampler
        return
    published, servers = folder / layout.SERVED_ADAPTERS, sampler.reached.servers
    remove_published(servers, published)
    try:
        yield weights, sampler
    finally:
        sampler.close()
        remove_published(servers, published)  # of this study's other processes


def open_sampler(file: StudyFile, folder: Path, load: Callable[[], SharedWeights]) -> tuple[SharedWeights, Sampler]:
    """The model that `load` loads, and what samples from it. Raises BadInput, for most reasons before the model loads."""
    if file.sampler == "local":
        return load(), LocalSampler()
    first = PATIENCE._replace(waits_s=PATIENCE.waits_s[:1])  # who has just begun is told at once
    for server in reach(file.servers, file.model, open_tokenizer(file.model, file.model_settings), first).servers:
        server.close()
    weights = load()
    reached = reach(file.servers, file.model, weights.tokenizer, PATIENCE)
    sampler = ServedSampler(reached, weights, folder=folder / layout.SERVED_ADAPTERS, log=folder / layout.SERVED)
    try:
        sampler.prove_base()
    except BaseException:
        sampler.close()
        raise
    return weights, sampler


def engine_of(sampler: Sampler) -> dict[str, Json]:
    """For the provenance of a run: nothing of this machine, which the rest of it describes."""
    return {"sampler": sampler.about()} if isinstance(sampler, ServedSampler) else {}

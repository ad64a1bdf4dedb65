"""What samples for a study, a run or an evaluation: this machine, or vLLM servers that are checked before the model loads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stateshape.core import layout
from stateshape.core.records import Json
from stateshape.policy.open import open_tokenizer
from stateshape.policy.settings import ModelSettings
from stateshape.policy.weights import SharedWeights
from stateshape.recipes.opd import DEFAULT_TOP, OPD
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.served.adapters import remove_published
from stateshape.sampling.served.check import reach
from stateshape.sampling.served.sampler import ServedSampler
from stateshape.sampling.served.teacher import ServedTeacher, is_address
from stateshape.sampling.served.wire import Patience
from stateshape.sampling.settings import Sampler
from stateshape.study.run_spec import RunSpec
from stateshape.study.study_file import StudyFile

PATIENCE = Patience()


class Asked(NamedTuple):
    """Who samples from which model. servers: their addresses; none: this machine. log: gets a line per gate."""

    servers: Sequence[str]
    model: str
    settings: ModelSettings
    folder: Path  # adapters are published below it
    log: Path | None


def asked_by(file: StudyFile, folder: Path) -> Asked:
    return Asked(file.servers, file.model, file.model_settings, folder, folder / layout.SERVED)


@contextlib.contextmanager
def opened_sampler(asked: Asked, load: Callable[[], SharedWeights]) -> Iterator[tuple[SharedWeights, Sampler]]:
    """As open_sampler. What is published for the folder is withdrawn at the start, as a killed process left it, and at the end.

    Only for who holds the folder's lock.
    """
    weights, sampler = open_sampler(asked, load)
    if not isinstance(sampler, ServedSampler):
        yield weights, sampler
        return
    published, servers = asked.folder / layout.SERVED_ADAPTERS, sampler.reached.servers
    remove_published(servers, published)
    try:
        yield weights, sampler
    finally:
        sampler.close()
        remove_published(servers, published)  # of this study's other processes


def open_sampler(asked: Asked, load: Callable[[], SharedWeights]) -> tuple[SharedWeights, Sampler]:
    """The model that `load` loads, and what samples from it. Raises BadInput, for most reasons before the model loads."""
    if not asked.servers:
        return load(), LocalSampler()
    first = PATIENCE._replace(waits_s=PATIENCE.waits_s[:1])  # who has just begun is told at once
    for server in reach(asked.servers, asked.model, open_tokenizer(asked.model, asked.settings), first).servers:
        server.close()
    weights = load()
    reached = reach(asked.servers, asked.model, weights.tokenizer, PATIENCE)
    sampler = ServedSampler(reached, weights, folder=asked.folder / layout.SERVED_ADAPTERS, log=asked.log)
    try:
        sampler.prove_base()
    except BaseException:
        sampler.close()
        raise
    return weights, sampler


@contextlib.contextmanager
def asked_teachers(
    spec: RunSpec, tokenizer: Any, model: str, *, is_first: bool = False
) -> Iterator[dict[str, ServedTeacher]]:
    """The teachers of a run that are on servers, by address, each checked. tokenizer, model: the learner's.

    is_first: who has just begun is told at once. Raises BadInput.
    """
    recipe = spec.recipe()
    addresses = [one for one in spec.named().get("teacher", []) if is_address(one)]
    patience = PATIENCE._replace(waits_s=PATIENCE.waits_s[:1]) if is_first else PATIENCE
    with contextlib.ExitStack() as opened:
        found: dict[str, ServedTeacher] = {}
        for address in addresses:
            assert isinstance(recipe, OPD)
            top_k = recipe.top_k or DEFAULT_TOP
            teacher = ServedTeacher(address, top_k=top_k, tokenizer=tokenizer, model=model, patience=patience)
            opened.callback(teacher.close)
            found[address] = teacher
        yield found


def engine_of(sampler: Sampler) -> dict[str, Json]:
    """For the provenance of a run: nothing of this machine, which the rest of it describes."""
    about = sampler_of(sampler)
    return {} if about is None else {"sampler": about}


def sampler_of(sampler: Sampler) -> dict[str, Json] | None:
    """Engine, version and servers; None: this machine."""
    return sampler.about() if isinstance(sampler, ServedSampler) else None

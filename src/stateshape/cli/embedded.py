"""`stateshape embedded train`: trains the embedded base again from its generated world."""

from __future__ import annotations

import sys

import tyro

from stateshape.cli.arguments import out_folder
from stateshape.core.files import BadInput
from stateshape.core.limits import check_most
from stateshape.core.locks import hold_beside
from stateshape.core.wording import shown


def embedded(
    what: tyro.conf.Positional[str],
    *,
    out: str,
    steps: int | None = None,
    seed: int | None = None,
    threads: int = 2,
    overwrite: bool = False,
) -> None:
    """Train the embedded base model again from its generated world.

    Args:
        what: The word `train`.
        out: Folder for the model and its tokenizer.
        steps: Optimiser steps. Default: as for the packaged base.
        seed: Seed of data order and initialisation. Default: as for the packaged base.
        threads: CPU threads. A different number gives slightly different weights.
        overwrite: Replace a base that was trained with different steps, seed or threads; without this flag, that is refused.
    """
    from transformers.utils import logging

    from stateshape.embedded.train import DEFAULT_SEED, DEFAULT_STEPS, check_replaces, train_base

    if what != "train":
        raise BadInput(f"embedded: got {shown(what)}; expected train")
    for name, value in (("steps", steps), ("threads", threads)):
        if value is not None and value < 1:
            raise BadInput(f"{name}: got {value}; expected a number above 0")
        check_most(**{name: value})
    folder = out_folder(out)
    steps, seed = DEFAULT_STEPS if steps is None else steps, DEFAULT_SEED if seed is None else seed
    logging.disable_progress_bar()  # of saving and loading a model of 8 MB
    with hold_beside(folder):
        if not overwrite:
            check_replaces(folder, steps=steps, seed=seed, threads=threads)
        base = train_base(
            out_dir=folder, steps=steps, seed=seed, threads=threads, say=lambda line: print(line, file=sys.stderr)
        )
    print(
        f"{base.tokens:,} tokens in {base.seconds:.0f} s; arithmetic {base.target_accuracy:.3f}, facts mc1 {base.mc1:.3f}, "
        f"exam {base.exam_accuracy:.3f}"
    )
    print(f"model: {base.path}, sha256 {base.sha256}")

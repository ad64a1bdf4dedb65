"""One of the processes that train together: the same training without and with the callback. Its folder is the argument."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch

import trainer_rows as of
from stateshape import StateshapeCallback

if __name__ == "__main__":
    folder, rank = Path(sys.argv[1]), os.environ["RANK"]
    torch.set_num_threads(1)
    of.measure_little(pytest.MonkeyPatch())
    alone = of.plain_trainer(folder / "hf", of.model(), ddp_backend="gloo")
    alone.train()
    trainer = of.plain_trainer(folder / "hf", of.model(), ddp_backend="gloo")
    callback = StateshapeCallback(out=folder / "watched", **of.SMALL).attach(trainer)
    trainer.train()
    told = {"alone": of.steps_of(alone), "watched": of.steps_of(trainer), "measured": callback.watch is not None}
    (folder / f"rank{rank}.json").write_text(json.dumps(told), encoding="utf-8")

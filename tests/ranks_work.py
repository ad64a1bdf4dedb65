"""What tests/test_ranks.py has several processes do: one rank of a group that trains recipe after recipe on the tiny model."""

import dataclasses
import os
import pickle
import subprocess
import sys
from pathlib import Path

import torch

import tiny
from stateshape.cli.processes import free_port
from stateshape.core import ranks
from stateshape.record.writer import StateWriter
from stateshape.study.protection import protect_term, protected
from stateshape.train.loop import train
from stateshape.train.settings import Protect, TrainSettings

SETTINGS = TrainSettings(steps=3, batch_prompts=4, lr=1e-2, lora=tiny.LORA)
HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Job:
    """A recipe with some of its fields and of the training settings. protect: with a term that keeps close to the base."""

    name: str
    recipe: str
    fields: dict = dataclasses.field(default_factory=dict)
    settings: dict = dataclasses.field(default_factory=dict)
    protect: bool = False


def do(job, folder, recorded, on_step=None):
    """Trains in fp64 into the folder, with its states on record, and leaves each rank's adapter there."""
    from test_recipes_conformance import World

    folder.mkdir(parents=True, exist_ok=True)
    made = World(job.recipe, folder, recorded=recorded, dtype=torch.float64, **job.fields)
    method = made.method
    if job.protect:
        choice, parts = Protect(task="tiny", rollout_tokens=4, share=0.5), tiny.parts(made.teacher)
        base = made.teacher
        method = protected(method, protect_term(choice, parts.task, base=base, sampler=parts.sampler, batch_prompts=4))
    settings = dataclasses.replace(SETTINGS, **job.settings)
    watches = [StateWriter(folder, method, budget_mb=10)]
    train(method, made.learner, made.ids, settings, seed=3, folder=folder, watches=watches, on_step=on_step)
    torch.save(tiny.snapshot(made.shared, "learner"), folder / f"learner{ranks.current().number}.pt")


def start(work, counts, *args):
    """Starts as many processes as the largest of `counts`, and has each group of the first so many do the work, one by one.

    work: a function of this module; it gets the number of ranks, and the arguments.
    """
    code = f"import sys; sys.path.insert(0, {str(HERE)!r}); import ranks_work; ranks_work.joined(*sys.argv[1:])"
    given = pickle.dumps([(count, free_port()) for count in counts]).hex(), pickle.dumps(args).hex()
    return [
        subprocess.Popen(
            [sys.executable, "-c", code, work, *given],
            env=os.environ
            | {"RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(max(counts))
    ]


def joined(work, groups, given):
    torch.set_num_threads(1)
    for count, port in pickle.loads(bytes.fromhex(groups)):
        if int(os.environ["RANK"]) < count:
            os.environ |= {"WORLD_SIZE": str(count), "MASTER_PORT": str(port)}
            with ranks.joined():
                globals()[work](count, *pickle.loads(bytes.fromhex(given)))


def do_all(count, jobs_by_count, folder, recorded):
    for job in jobs_by_count[count]:
        do(job, folder / str(count) / job.name, recorded)


def do_until_killed(count, job, folder, recorded):
    """The first rank ends at once after two steps, as a kill would end it."""

    def end(done, total, record):
        if done == 2:
            os._exit(9)

    do(job, folder, recorded, on_step=end)

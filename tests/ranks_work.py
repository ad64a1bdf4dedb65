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
from stateshape.core.files import write_json
from stateshape.policy.sharding import layers_of, resident_bytes
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


def do(job, folder, recorded, on_step=None, is_sharded=False):
    """Trains in fp64 into the folder, with its states on record, and leaves each rank's adapter there.

    is_sharded: each rank keeps a part of the base's layers.
    """
    from test_recipes_conformance import World

    folder.mkdir(parents=True, exist_ok=True)
    made = World(job.recipe, folder, recorded=recorded, dtype=torch.float64, is_sharded=is_sharded, **job.fields)
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


def do_sharded(count, jobs, folder, recorded):
    """Trains with the base's layers split over the ranks; says how many bytes of them each keeps, and how many there are.

    And leaves the gradients of passes that are not the same on all.
    """
    for job in jobs:
        do(job, folder / str(count) / job.name, recorded, is_sharded=True)
    split = tiny.weights(dtype=torch.float64, is_sharded=True)
    with ranks.using(ranks.ALONE):
        whole = tiny.weights(dtype=torch.float64)
    kept = [sum(map(resident_bytes, layers_of(one.model, "tiny"))) for one in (split, whole)]
    around = [resident_bytes(one.model) - layers for one, layers in zip((split, whole), kept, strict=True)]
    number = ranks.current().number
    write_json(folder / str(count) / f"kept{number}.json", {"layers": kept, "around": around})
    torch.save(own_passes(number, is_sharded=True), folder / str(count) / f"passes{number}.pt")


def own_passes(number, *, is_sharded=False):
    """The gradient of one rank's own passes: one backward through two, or many without gradients before a single one."""
    shared = tiny.weights(dtype=torch.float64, is_sharded=is_sharded)
    learner = tiny.learner(shared, size=0.3)

    def hidden(*ids):
        return learner.hidden_at([list(ids)], [list(range(len(ids)))])

    if number == 0:
        (hidden(5, 6, 7).sin().sum() + hidden(8, 9).cos().sum()).backward()
    with torch.no_grad():
        for k in range(7 * number):
            hidden(5 + k, 6)
    if number == 1:
        hidden(7, 8, 9).sin().sum().backward()
        ranks.current().by_first(lambda: None)
    else:
        with ranks.using(ranks.ALONE), torch.no_grad():  # as a watch does
            hidden(10, 11)
        ranks.current().by_first(lambda: hidden(12, 13).shape)
    return [one.grad for one in learner.parameters()]


def do_until_killed(count, job, folder, recorded):
    """The first rank ends at once after two steps, as a kill would end it."""

    def end(done, total, record):
        if done == 2:
            os._exit(9)

    do(job, folder, recorded, on_step=end)

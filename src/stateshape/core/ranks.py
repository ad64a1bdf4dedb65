"""The processes that train one run together, each of them a rank. One process is a rank alone, and nothing here does anything.

All ranks run the same program on the same prompts with the same seeds. Work that costs (a model's pass over rows, grading) is
dealt out by `shared`, and what comes of it gathered, so that afterwards every rank knows the same and decides the same;
gradients are summed; files are the first rank's (`by_first`). What is drawn at random belongs to a row and a step
(core/seeds.py), so the number of ranks changes nothing but rounding. Knows no method, no model and no states.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from stateshape.core.in_step import InStep, SplitLayer
from stateshape.core.locks import has_ended, start_of
from stateshape.core.wording import BadInput

T = TypeVar("T")
PATIENCE = timedelta(hours=2)  # for the slowest rank; one that died is noticed at once, by its closed connections
JOINING = timedelta(minutes=5)  # for the last rank to start
ENDING_S = 2.0  # until a rank whose connections are closed has ended, too
BUCKET = 2**26  # numbers of a gradient that are summed at a time


class RankLost(RuntimeError):
    """Another rank has ended, so that this one can't go on."""


class Ranks:
    """One process: everything is its own."""

    number = 0
    count = 1

    @property
    def is_first(self) -> bool:
        return self.number == 0

    def gather(self, mine: T) -> list[T]:
        """What every rank has, in their order."""
        return [mine]

    def by_first(self, work: Callable[[], T]) -> T:
        """What the first rank gets by doing this, or the BadInput that it raises: for files, which have one writer."""
        return work()

    def sum_(self, tensor: Tensor) -> None:
        """Adds up the ranks' tensors in place; all get the same bits."""

    def speaks(self) -> bool:
        """Whether it is this rank that says what went wrong: one does, for all."""
        return True

    def deal(self, costs: Sequence[float]) -> list[int]:
        """Which of the units of work are this rank's, in order: the most expensive is dealt first, to whoever has least."""
        loads = [0.0] * self.count
        mine = []
        for unit in sorted(range(len(costs)), key=lambda i: -costs[i]):
            rank = loads.index(min(loads))
            loads[rank] += costs[unit]
            if rank == self.number:
                mine.append(unit)
        return sorted(mine)

    def shared(self, costs: Sequence[float], do: Callable[[list[int]], Iterable[T]]) -> list[T]:
        """One result per unit, in order. `do` gets the numbers of this rank's units and gives a result for each."""
        mine = self.deal(costs)
        results = dict(
            pair for part in self.gather(list(zip(mine, do(mine) if mine else [], strict=True))) for pair in part
        )
        return [results[unit] for unit in range(len(costs))]

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Adds up the ranks' gradients. A parameter that has one on no rank keeps none."""

    def add_layer(self, layer: SplitLayer) -> int:
        """The number of a layer of which each rank keeps a part."""
        raise AssertionError("one process keeps layers whole")

    def put_together(self, number: int) -> None:
        """Makes this layer whole here; all ranks take part, whatever they are at."""


class Peer(NamedTuple):
    """Where a rank runs."""

    host: str
    pid: int
    started: str | None


class Group(Ranks):
    """Several processes, over an initialised torch.distributed."""

    def __init__(self, store: dist.Store | None = None) -> None:
        """store: where the ranks can leave word for each other; None: they can't."""
        self.number, self.count, self.store = dist.get_rank(), dist.get_world_size(), store
        self.in_step = InStep()
        own = Peer(socket.gethostname(), os.getpid(), start_of(os.getpid()))
        self.peers: list[Peer] = []  # before the first exchange nobody is known
        self.peers = self.gather(own)

    def gather(self, mine: T) -> list[T]:
        made: list[Any] = [None] * self.count
        with self.exchanging():
            dist.all_gather_object(made, mine)
        return made

    def by_first(self, work: Callable[[], T]) -> T:
        told: list[Any] = [None, None]
        if self.is_first:
            try:
                told[0] = work()
            except BadInput as error:
                told[1] = error
        with self.exchanging():
            dist.broadcast_object_list(told, src=0)
        if told[1] is not None:
            raise told[1]
        return told[0]  # type: ignore[no-any-return]

    def sum_(self, tensor: Tensor) -> None:
        with self.exchanging():
            dist.all_reduce(tensor)

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        has_one = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
        self.sum_(has_one)
        given = [p for p, is_given in zip(parameters, has_one.tolist(), strict=True) if is_given]
        for bucket in buckets(given):
            flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in bucket])
            self.sum_(flat)
            for p, part in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
                p.grad = part.view_as(p)

    def add_layer(self, layer: SplitLayer) -> int:
        return self.in_step.add(layer)

    def put_together(self, number: int) -> None:
        with self.naming_the_lost():
            self.in_step.put_together(number)

    @contextlib.contextmanager
    def exchanging(self) -> Iterator[None]:
        """Around what all ranks do together: begins when all have come to it."""
        with self.naming_the_lost():
            self.in_step.help_until_all_wait()
            yield

    @contextlib.contextmanager
    def naming_the_lost(self) -> Iterator[None]:
        """Turns a broken connection into RankLost, which says whose it was."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise RankLost(self.lost() or f"a rank was lost ({str(error).strip().splitlines()[0][:160]})") from None

    def lost(self) -> str | None:
        """Which ranks on this machine have ended; None where it is none of them."""
        until = time.monotonic() + ENDING_S
        while not (gone := self.ended()) and time.monotonic() < until:
            time.sleep(0.05)
        named = [f"rank {number} (process {self.peers[number].pid} on {self.peers[number].host})" for number in gone]
        return f"{' and '.join(named)} ended" if named else None

    def ended(self) -> list[int]:
        """The numbers of the ranks on this machine that are no more."""
        here = socket.gethostname()
        return [n for n, peer in enumerate(self.peers) if peer.host == here and has_ended(peer.pid, peer.started)]

    def speaks(self) -> bool:
        """Whoever asks first; where nobody can tell who that was, the first alive."""
        try:
            return self.store is not None and self.store.add("said", 1) == 1
        except RuntimeError:  # the process that kept the store is gone
            gone = self.ended()
            return self.number == next((n for n in range(self.count) if n not in gone), self.number)


def buckets(parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Parameters of one dtype, at most BUCKET numbers together unless one alone has more."""
    bucket: list[Tensor] = []
    for parameter in parameters:
        size = sum(one.numel() for one in bucket) + parameter.numel()
        if bucket and (size > BUCKET or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket


ALONE = Ranks()
_ranks: list[Ranks] = [ALONE]  # the last is in force


def current() -> Ranks:
    """The ranks of this process's run."""
    return _ranks[-1]


@contextlib.contextmanager
def using(ranks: Ranks) -> Iterator[Ranks]:
    """Inside the block these are the current ranks. With ALONE, one rank does by itself what the others don't do at all."""
    _ranks.append(ranks)
    try:
        yield ranks
    finally:
        _ranks.pop()


def num_started(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes torchrun (or --processes) has started this program in. Raises BadInput."""
    told = environment.get("WORLD_SIZE", "1")
    if not told.isdecimal() or int(told) == 0:
        raise BadInput(
            f"WORLD_SIZE: got {told!r} in the environment; expected the number of processes, as torchrun sets it"
        )
    return int(told)


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """The ranks that torchrun has started, for as long as the block lasts: NCCL where there are GPUs, one each, else gloo.

    Alone where it has started none. A process group that exists already is used.
    """
    if num_started() == 1 and not dist.is_initialized():
        yield ALONE
        return
    store = None if dist.is_initialized() else join()
    with using(Group(store)) as ranks:
        yield ranks
        ranks.gather(None)  # nobody leaves while another still needs it
    if store is not None:  # not after an error: to leave a group in good order takes all its members
        dist.destroy_process_group()


def join() -> dist.Store:
    """Joins the process group that the environment describes. Raises BadInput where a rank would have no GPU of its own."""
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    backend = "gloo"
    if torch.cuda.is_available():
        if local >= torch.cuda.device_count():
            raise BadInput(
                f"processes: got {local + 1} or more on this machine, but torch sees {torch.cuda.device_count()} GPUs; "
                "expected one GPU for each; start fewer processes"
            )
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    is_kept_by_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    kept = dist.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        num_started(),
        is_master=rank == 0 and not is_kept_by_torchrun,
        timeout=JOINING,
    )
    store = dist.PrefixStore(f"stateshape {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", kept)
    dist.init_process_group(backend, store=store, rank=rank, world_size=num_started(), timeout=PATIENCE)
    return store

"""Adapters on servers: published as a folder that every server sees, loaded by path, unloaded once they are out of use.

A name stands for one content and is never used twice: vLLM keeps cached prefixes by name. Whether an adapter is new is told by
its tensors, so that whoever trains it has nothing to say here. The published folders are the record of what may still be
loaded: what a killed process left is unloaded by the next one. Knows nothing of rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch

from stateshape.core.files import BadInput
from stateshape.core.wording import shown
from stateshape.policy.weights import SharedWeights
from stateshape.sampling.served.protocol import load, served_models, unload
from stateshape.sampling.served.wire import SHOWN, Patience, Refused, Server

SPELLED_ANEW = {"base_model_name_or_path", "target_modules"}  # by each save; the tensors' names say which modules
QUICK = Patience(answer_s=10.0, connect_s=2.0, waits_s=())  # to clean up: a server that is gone has nothing loaded


class Published(NamedTuple):
    """An adapter on the servers. version: how many were published before it by this process."""

    name: str
    folder: Path
    sha256: str
    version: int


class Adapters:
    """What is published now, by the adapter's name on the shared weights."""

    def __init__(self, servers: Sequence[Server], weights: SharedWeights, folder: Path) -> None:
        self.servers, self.weights, self.folder = servers, weights, folder.absolute()
        self.tag = secrets.token_hex(4)  # of this process: names of an earlier one may still be loaded
        self.published: dict[str, Published] = {}
        self.num_published = 0
        self._reloading = threading.Lock()

    def of(self, adapter: str) -> Published:
        """The adapter as it is now, on every server. Raises BadInput, and leaves it on none, where one of them fails."""
        sha256 = content(self.weights, adapter)
        there = self.published.get(adapter)
        if there is not None and there.sha256 == sha256:
            return there
        # no rows are asked for here, so what changed or is gone can go before the new one needs its slot
        for name in [name for name in self.published if name == adapter or not self.weights.has_adapter(name)]:
            self.withdraw(self.published.pop(name))
        new = self.written(adapter, sha256)
        self.load_everywhere(new)
        self.published[adapter] = new
        return new

    def written(self, adapter: str, sha256: str) -> Published:
        """The adapter's folder, which appears whole."""
        version = self.num_published
        self.num_published += 1
        name = f"stateshape-{self.tag}-{adapter}-v{version}"
        folder, part = self.folder / name, self.folder / f".{name}.tmp"
        self.weights.save_adapter(adapter, part)
        os.replace(part, folder)
        return Published(name, folder, sha256, version)

    def load_everywhere(self, new: Published) -> None:
        failures = self.on_all(lambda server: load_when_seen(server, new))
        if not failures:
            return
        self.withdraw(new)
        server, error = failures[0]
        if isinstance(error, Refused):
            raise BadInput(
                f"servers: {server.url} did not load the adapter {new.folder} ({shown(error.text, limit=SHOWN)}); expected a "
                "folder that it sees under this path, a rank within its --max-lora-rank and a free slot; see stateshape serve"
            ) from None
        raise error

    def on_all(self, do: Callable[[Server], None]) -> list[tuple[Server, BaseException]]:
        """Does it on all servers at once. Returns the failures."""
        with ThreadPoolExecutor(len(self.servers)) as pool:
            done = [(server, pool.submit(do, server)) for server in self.servers]
        return [(server, error) for server, future in done if (error := future.exception()) is not None]

    def load_again(self, server: Server, adapter: Published) -> None:
        """For a server that was started anew and has forgotten it. The name stays: it stands for the same content.

        Raises BadInput where the server does not take it.
        """
        with self._reloading:
            if adapter.name in served_models(server)[1]:
                return  # another thread was faster
            try:
                load_when_seen(server, adapter)
            except Refused as error:
                raise BadInput(
                    f"servers: {server.url} forgot the adapter {adapter.name} and does not load it again "
                    f"({shown(error.text, limit=SHOWN)}); start the server as before, then run the same command again"
                ) from None

    def withdraw(self, old: Published) -> None:
        """Off every server, and off the disk. A server that does not answer has forgotten it, or will be asked next time."""
        if not self.on_all(lambda server: forget(server, old.name)):
            shutil.rmtree(old.folder, ignore_errors=True)

    def close(self) -> None:
        """Withdraws all adapters."""
        for adapter in self.published.values():
            self.withdraw(adapter)
        self.published.clear()
        with contextlib.suppress(OSError):  # not empty: another process's, or of a server that did not answer
            self.folder.rmdir()


def load_when_seen(server: Server, adapter: Published) -> None:
    """A folder on a file system that is shared may appear there later than here. Raises Refused and BadInput."""
    for wait_s in server.patience.waits_s:
        try:
            return load(server, adapter.name, str(adapter.folder))
        except Refused as error:
            if error.status != 404:
                raise
            server.wait(wait_s)
    return load(server, adapter.name, str(adapter.folder))


def forget(server: Server, name: str) -> None:
    """Unloads an adapter, with one short try. Raises BadInput where there is no answer."""
    quick = Server(server.url, QUICK)  # also after the server's own client was closed
    try:
        with contextlib.suppress(Refused):  # it does not have it
            unload(quick, name)
    finally:
        quick.close()


def remove_published(servers: Sequence[Server], folder: Path) -> None:
    """Unloads and deletes what processes that are gone have published. Only for who holds the lock of the run or study."""
    for server in servers:
        for path in folder.glob("stateshape-*"):
            with contextlib.suppress(BadInput):
                forget(server, path.name)
    if folder.is_dir():
        shutil.rmtree(folder)


def content(weights: SharedWeights, adapter: str) -> str:
    """sha256 of the adapter's tensors and configuration, within this process."""
    config = weights.adapters[adapter].to_dict()
    digest = hashlib.sha256(repr(sorted((key, config[key]) for key in config.keys() - SPELLED_ANEW)).encode())
    for key, value in sorted(weights.adapter_state(adapter).items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()

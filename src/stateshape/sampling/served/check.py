"""Whether servers can be sampled from, asked before a model loads: there, vLLM, one version, adapters, the model, its tokens.

What only numbers tell (other weights under the same name, log-probs of another temperature) is the gate's, once the model is
loaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from stateshape.core.files import BadInput
from stateshape.core.wording import MAX_PATH, shown
from stateshape.policy.source import shares_base
from stateshape.sampling.served.protocol import (
    OddAnswer,
    Served,
    has_adapter_routes,
    served_models,
    token_ids,
    version_of,
)
from stateshape.sampling.served.wire import Patience, Refused, Server

T = TypeVar("T")
OLDEST = (0, 10, 2)  # the first version whose completions can hold token ids
PROBE = "Q: 12 + 7 = ?\n\nA: She said, “naïve café”; 東京 → x_i² {}\t0.5"  # cut differently by most vocabularies


class Reached(NamedTuple):
    """Servers that fit. base, max_model_len: of each, in their order."""

    servers: list[Server]
    version: str
    bases: list[Served]


def reach(urls: Sequence[str], model: str, tokenizer: Any, patience: Patience) -> Reached:
    """Opens all servers and checks each. tokenizer: the model's; None: not known here. Raises BadInput, and closes them."""
    servers = [Server(url.rstrip("/"), patience) for url in urls]
    try:
        found = [checked(server, model, tokenizer) for server in servers]
    except BaseException:
        for server in servers:
            server.close()
        raise
    versions = [version for version, _ in found]
    for server, version in zip(servers, versions, strict=True):
        if version != versions[0]:
            raise BadInput(
                f"servers: got vLLM {versions[0]} at {servers[0].url} and {version} at {server.url}; expected one version, "
                "since rows of one step would come from different code; install one"
            )
    return Reached(servers, versions[0], [base for _, base in found])


def checked(server: Server, model: str, tokenizer: Any) -> tuple[str, Served]:
    """One server's version and base. Raises BadInput."""
    version = told(server, "a version", lambda: version_of(server))
    if release(version) < OLDEST:
        raise BadInput(
            f"servers: got vLLM {version} at {server.url}; expected {'.'.join(map(str, OLDEST))} or later, which answers with "
            "token ids; install a later one"
        )
    base, _ = told(server, "its models", lambda: served_models(server))
    if os.path.isdir(base.root) and not shares_base(base.root, model):
        raise BadInput(
            f"servers: {server.url} serves {shown(base.root, limit=MAX_PATH)}; expected the run's base, "
            f"{shown(model, limit=MAX_PATH)}; start it with that model"
        )
    if not told(server, "adapter routes", lambda: has_adapter_routes(server)):
        raise BadInput(
            f"servers: {server.url} takes no adapters while it runs; expected VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and "
            "--enable-lora; stateshape serve MODEL prints the whole command"
        )
    if tokenizer is not None:
        check_tokens(server, tokenizer, model)
    return version, base


def check_tokens(server: Server, tokenizer: Any, model: str) -> list[int]:
    """Whether the server reads a text as the tokenizer of `model` does; gives its tokens. Raises BadInput."""
    theirs = told(server, "tokens", lambda: token_ids(server, PROBE))
    ours: list[int] = tokenizer(PROBE, add_special_tokens=False, verbose=False)["input_ids"]
    if theirs != ours:
        raise BadInput(
            f"servers: {server.url} reads a test text as {len(theirs)} tokens that are not the run's {len(ours)}; expected "
            f"the tokenizer of {shown(model, limit=MAX_PATH)}; start it with that model"
        )
    return ours


def told(server: Server, what: str, ask: Callable[[], T]) -> T:
    """What a server says of itself. Raises BadInput where it is no vLLM server."""
    try:
        return ask()
    except (OddAnswer, Refused) as error:
        raise BadInput(
            f"servers: {server.url} does not say {what} ({error}); expected a vLLM server; check the address"
        ) from None


def release(version: str) -> tuple[int, ...]:
    """0.32.0.dev1 -> (0, 32, 0)."""
    return tuple(map(int, re.findall(r"\d+", version)[:3]))

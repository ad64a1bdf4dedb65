"""What may be chosen as sampler: this machine, or vLLM servers at their addresses. Asks no server. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from stateshape.core.files import BadInput
from stateshape.core.wording import MAX_PATH, shown

SamplerName = Literal["local", "vllm"]
MOST_SERVERS = 1024
ADDRESS = re.compile(r"https?://(([A-Za-z0-9_-]+\.)*[A-Za-z0-9_-]+|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?/?")


def check_servers(sampler: str, servers: Sequence[str]) -> None:
    """Whether the choice makes sense. Raises BadInput."""
    if sampler == "local" and servers:
        raise BadInput(f"servers: got {shown(servers[0])} with sampler local; expected none; add sampler vllm")
    if sampler == "vllm" and not servers:
        raise BadInput("servers: got none with sampler vllm; expected addresses such as http://localhost:8000")
    if len(servers) > MOST_SERVERS:
        raise BadInput(f"servers: got {len(servers)}; expected at most {MOST_SERVERS}")
    for url in servers:
        found = ADDRESS.fullmatch(url)
        if found is None or not 0 < int(found["port"] or 80) < 2**16:
            raise BadInput(
                f"servers: got {shown(url, limit=MAX_PATH)}; expected an address such as http://localhost:8000"
            )
    if len({url.rstrip("/") for url in servers}) < len(servers):
        raise BadInput(f"servers: got {shown(list(servers))}; expected each address once")

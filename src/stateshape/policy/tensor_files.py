"""Whether a safetensors file is whole, from its size and its header alone, so that a cut-off download is reported by its name.

Source: the format, https://github.com/huggingface/safetensors#format. Loads no tensor.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from stateshape.core.files import BadInput

LENGTH_BYTES = 8  # of the header's length, little endian
POINTER = b"version https://git-lfs"  # the placeholder of a file that Git LFS has not fetched


def check_whole(path: Path, *, field: str) -> None:
    """Raises BadInput, with `field` first, if the file is cut off or is something else."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(LENGTH_BYTES)
        length = int.from_bytes(first, "little")
        header = file.read(length) if len(first) == LENGTH_BYTES and length <= size else b""
        if first == POINTER[:LENGTH_BYTES]:
            raise BadInput(
                f"{field}: got {path}, a Git LFS pointer; expected the tensors themselves; fetch them with git lfs pull"
            )
    try:
        tensors = json.loads(header)
        ends = [value["data_offsets"][1] for name, value in tensors.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, LookupError):
        raise BadInput(
            f"{field}: got {path}, which is not a safetensors file or a broken one ({size:,} bytes); expected a whole one; "
            "fetch or save it again"
        ) from None
    expected = LENGTH_BYTES + length + max(ends, default=0)
    if size != expected:
        raise BadInput(
            f"{field}: got {path} of {size:,} bytes, while its header describes {expected:,}; expected a whole file; fetch "
            "or save it again"
        )


def count_numbers(folder: Path) -> int | None:
    """How many numbers the safetensors files of a folder hold, from their headers. None where there are none."""
    paths = sorted(folder.glob("*.safetensors"))
    total = 0
    for path in paths:
        check_whole(path, field="model")
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(LENGTH_BYTES), "little")))
        total += sum(math.prod(value["shape"]) for name, value in header.items() if name != "__metadata__")
    return total if paths else None

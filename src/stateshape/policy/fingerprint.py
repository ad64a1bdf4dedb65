"""Identifies a model or an adapter by its content: one sha256 over its weights, its configuration and its tokenizer.

Only reads files: nothing is loaded, and a folder gives the same value wherever it is. A file of up to WHOLE_BYTES is
read whole. Of a larger one the size, its beginning and its end (with the table of tensors) and a page every STRIDE bytes
are read: another training run, precision or model always changes the value; a few numbers edited by hand may not.
Knows neither what a model is for nor an adapter's base, which has its own value.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from stateshape.core import layout
from stateshape.embedded import base_folder

WEIGHTS = ("*.safetensors", "*.gguf", "pytorch_model*.bin", "adapter_model.bin")
SETTINGS = ("config.json", "adapter_config.json", "generation_config.json")
TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)
UNSAID = ("transformers_version", "_name_or_path", "base_model_name_or_path", "peft_version")  # not part of the content
WHOLE_BYTES = 2**30  # about a second
EDGE_BYTES = 2**23  # the table of tensors at the beginning of a file is far smaller
STRIDE_BYTES = 2**20
PAGE_BYTES = 2**12


def weights_sha256(source: str) -> str | None:
    """'embedded', a model's, adapter's or run's folder, or a hub id in the local cache; None if there are no weights.

    For a run, its adapter or its model; its base if it trained none.
    """
    folder = folder_of(source)
    if folder is None:
        return None
    try:
        return _of_folder(folder)
    except OSError:
        return None


def folder_of(source: str) -> Path | None:
    """The folder with a source's files, as far as they are on this machine."""
    if source == "embedded":
        return base_folder()
    folder = Path(source)
    if (folder / layout.RUN).is_file():
        return _of_run(folder)
    if folder.is_dir():
        return folder
    try:
        cached = try_to_load_from_cache(source, "config.json")
    except HFValidationError:  # not a hub id: a path that does not exist
        return None
    return Path(cached).parent if isinstance(cached, str) else None


def _of_run(folder: Path) -> Path | None:
    if layout.trained(folder).is_dir():
        return layout.trained(folder)
    model = _object(folder / layout.RUN).get("model")
    return folder_of(model) if isinstance(model, str) and Path(model).absolute() != folder.absolute() else None


def _of_folder(folder: Path) -> str | None:
    weights = sorted({path for pattern in WEIGHTS for path in folder.glob(pattern) if path.is_file()})
    if not weights:
        return None
    digest = hashlib.sha256()
    for path in weights:
        digest.update(f"{path.name} {_digest(path)}\n".encode())
    for name in SETTINGS:
        if (folder / name).is_file():
            said = {key: value for key, value in _object(folder / name).items() if key not in UNSAID}
            digest.update(f"{name} {json.dumps(said, sort_keys=True)}\n".encode())
    for name in TOKENIZER:
        if (folder / name).is_file():
            digest.update(f"{name} {_digest(folder / name)}\n".encode())
    return digest.hexdigest()


def _object(path: Path) -> dict[str, object]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"unreadable": _digest(path)}


def _digest(path: Path) -> str:
    stat = path.stat()
    return _digest_once(str(path.resolve()), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _digest_once(path: str, size: int, mtime_ns: int) -> str:
    """The digest of a file as it is now; size and time show whether it has changed since."""
    del mtime_ns
    with open(path, "rb") as file:
        if size <= WHOLE_BYTES:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256(f"{size}\n".encode())
        digest.update(file.read(EDGE_BYTES))
        for start in range(EDGE_BYTES, size - EDGE_BYTES, STRIDE_BYTES):
            file.seek(start)
            digest.update(file.read(PAGE_BYTES))
        file.seek(size - EDGE_BYTES)
        digest.update(file.read())
    return digest.hexdigest()

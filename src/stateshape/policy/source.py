"""What a user's name for a policy stands for: embedded, a model's folder, a run, an adapter, a hub id; and which are the same.

Reads small files, loads nothing. Torch-free but for an adapter's check: a name that is wrong is refused at once.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub.utils import HFValidationError, validate_repo_id

from stateshape.core import layout
from stateshape.core.files import BadInput, read_json
from stateshape.core.wording import MAX_PATH, shown
from stateshape.embedded import base_folder
from stateshape.policy.fingerprint import weights_sha256

EMBEDDED = "embedded"
CONFIG = "adapter_config.json"


class Resolved(NamedTuple):
    model: str  # "embedded", a folder or a hub id
    adapter: Path | None


def resolve(source: str) -> Resolved:
    """A run folder or an adapter folder is a base and an adapter; anything else, a full run's model too, is a base."""
    folder = Path(source)
    if source == EMBEDDED:
        return Resolved(source, None)
    if not os.path.exists(source):  # unlike Path.exists, also False for a name that is too long
        check_hub_id(source)
        return Resolved(source, None)
    if not folder.is_dir():
        raise BadInput(f"model: got {source!r}, a file; expected a folder, 'embedded' or a hub id")
    if (folder / layout.RUN).exists():
        return resolve_run(folder)
    if (folder / CONFIG).exists():
        return resolve_adapter(folder)
    if not (folder / "config.json").exists() and not any(folder.glob("*.gguf")):
        raise BadInput(
            f"model: got {source!r}, a folder with no config.json, run.json, adapter_config.json or .gguf file; expected a "
            "model, a run or an adapter; give the folder that holds one"
        )
    return Resolved(source, None)


def resolve_adapter(folder: Path) -> Resolved:
    from stateshape.policy.adapter_files import check_adapter

    check_adapter(folder)
    base = base_read(field_of(folder / CONFIG, "base_model_name_or_path"))
    if any((Path(base) / name).exists() for name in ("run.json", CONFIG)):
        raise BadInput(
            f"model: got {str(folder)!r}, an adapter on {base!r}, which is a run or an adapter itself; expected one on a base "
            f"model; merge {base!r} into its base (peft's merge_and_unload, then save_pretrained)"
        )
    return Resolved(base, folder)


def resolve_base(source: str) -> str:
    """A model that training may start from. Raises BadInput for a run or an adapter, and says what to do instead."""
    resolved = resolve(source)
    if resolved.adapter is not None:
        kind = "an adapter" if resolved.adapter == Path(source) else "a run, which holds an adapter"
        raise BadInput(
            f"model: got {source!r}, {kind} on {resolved.model!r}; expected a base model; to train on from this adapter, give "
            f"--model {resolved.model} --start {source}; or name it as teacher"
        )
    if resolved.model == str(Path(source) / layout.MODEL):
        raise BadInput(
            f"model: got {source!r}, a run that trained all parameters; expected a base model; to go on from its weights with "
            f"drift and forgetting against the same base as before, give --start {source}; to make them the base, name "
            f"{resolved.model}"
        )
    if resolved.model != source:
        raise BadInput(
            f"model: got {source!r}, the run of a base without an adapter; expected a base model, because training starts "
            f"from one; name {resolved.model!r}"
        )
    return source


def resolve_run(folder: Path) -> Resolved:
    model, adapter = field_of(folder / layout.RUN, "model"), layout.trained(folder)
    record = read_json(folder / layout.RUN, dict[str, Any])
    if isinstance(loaded_from := record.get("checkpoint"), str):
        return resolve(loaded_from)
    if record.get("method") is None:
        return Resolved(model, None)
    # num_steps is written once the adapter is complete
    if not record.get("num_steps") or not any(adapter.glob("*.safetensors")):
        raise BadInput(
            f"model: got {str(folder)!r}, a run that has not finished; expected a trained one; resume it with the command "
            "that started it"
        )
    if adapter.name == layout.MODEL:
        return Resolved(str(adapter), None)
    if (adapter / CONFIG).exists():
        from stateshape.policy.adapter_files import check_adapter

        check_adapter(adapter)
    return Resolved(model, adapter)


def field_of(path: Path, name: str) -> str:
    value = read_json(path, dict[str, Any]).get(name)
    if not isinstance(value, str):
        raise BadInput(
            f"{path}: {name}: got {shown(value)}; expected the base model's name; give the folder of a run or adapter"
        )
    return value


def check_hub_id(source: str) -> None:
    """A name that is not a folder must at least look like a hub id. Raises BadInput."""
    near = difflib.get_close_matches(source, [EMBEDDED], n=1)
    try:
        validate_repo_id(source)
        is_id = not source.startswith("~")
    except HFValidationError:
        is_id = False
    if near or not is_id:
        hint = "; did you mean embedded?" if near else ""
        raise BadInput(
            f"model: got {shown(source, limit=MAX_PATH)}, which does not exist; expected a model, run or adapter folder, "
            f"'embedded' or a hub id like owner/name{hint}"
        )


def base_written(source: str) -> str:
    """A base as an adapter's configuration names it: a hub id as it is, a folder so that peft finds it from anywhere."""
    folder = base_folder() if source == EMBEDDED else Path(source)
    return str(folder.absolute()) if os.path.isdir(folder) else source


def base_read(written: str) -> str:
    """The base as it is named here: the embedded one by its name, wherever the package was installed when it was written."""
    own = base_folder().parts[-3:]
    return EMBEDDED if Path(written).parts[-3:] == own else written


def is_same_model(one: object, other: object) -> bool:
    """The same name, or two spellings of one folder."""
    if not isinstance(one, str) or not isinstance(other, str):
        return one == other
    return one == other or (
        Path(one).is_dir() and Path(other).is_dir() and Path(one).resolve() == Path(other).resolve()
    )


def shares_base(one: str, other: str) -> bool:
    """The same model by name, or by content: an adapter's base may be named by its hub id here and by a folder there."""
    if is_same_model(one, other):
        return True
    content = weights_sha256(one)
    return content is not None and content == weights_sha256(other)

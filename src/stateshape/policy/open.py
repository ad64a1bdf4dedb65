"""From what a user names (embedded, a folder, a run, a hub id) to a policy; and a teacher beside a learner.

A teacher that shares the learner's base is an adapter on the same weights. One that does not is loaded on its own and
must speak the same vocabulary. Knows run folders only by their run.json and adapter/.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from stateshape.core.files import BadInput
from stateshape.embedded import base_folder
from stateshape.policy.policy import Policy
from stateshape.policy.settings import ModelSettings
from stateshape.policy.weights import SharedWeights, load_weights

EMBEDDED = "embedded"


class Resolved(NamedTuple):
    model: str  # "embedded", a folder or a hub id
    adapter: Path | None


def resolve(source: str) -> Resolved:
    """A run folder or an adapter folder is a base and an adapter; anything else is a base."""
    folder = Path(source)
    if source == EMBEDDED or not folder.exists():
        return Resolved(source, None)
    if not folder.is_dir():
        raise BadInput(f"model: got {source!r}, a file; expected a folder, 'embedded' or a hub id")
    if (folder / "run.json").exists():
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        adapter = folder / "adapter"
        if record["method"] is None:
            return Resolved(record["model"], None)
        if not (adapter / "adapter_model.safetensors").exists():
            raise BadInput(
                f"model: got {source!r}, a run that has not finished; resume it with the command that began it"
            )
        return Resolved(record["model"], adapter)
    if (folder / "adapter_config.json").exists():
        base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
        return Resolved(base, folder)
    return Resolved(source, None)


def open_weights(model: str, settings: ModelSettings) -> SharedWeights:
    """Base weights by name. `source` stays what the user wrote."""
    weights = load_weights(str(base_folder()) if model == EMBEDDED else model, settings)
    weights.source = model
    return weights


def open_policy(source: str, settings: ModelSettings, *, adapter_name: str = "loaded") -> Policy:
    """A frozen policy: a base, or a base with a trained adapter."""
    resolved = resolve(source)
    return policy_on(open_weights(resolved.model, settings), resolved, adapter_name)


def policy_on(weights: SharedWeights, resolved: Resolved, adapter_name: str) -> Policy:
    if resolved.adapter is None:
        return Policy(weights, None)
    weights.load_adapter(adapter_name, resolved.adapter)
    return Policy(weights, adapter_name)


def open_beside(weights: SharedWeights, source: str, settings: ModelSettings, *, adapter_name: str) -> Policy:
    """A frozen policy next to loaded weights: on them if it shares their base, else on its own, checked."""
    resolved = resolve(source)
    if resolved.model == weights.source:
        return policy_on(weights, resolved, adapter_name)
    other = policy_on(open_weights(resolved.model, settings), resolved, adapter_name)
    check_same_vocabulary(weights, other.weights)
    return other


def check_same_vocabulary(learner: SharedWeights, teacher: SharedWeights) -> None:
    """Every token of either must have the same id in both. Raises BadInput with the first difference."""
    ours, theirs = learner.tokenizer.get_vocab(), teacher.tokenizer.get_vocab()
    different = sorted(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token))
    if different:
        token = different[0]
        raise BadInput(
            f"teacher: {teacher.source!r} has another vocabulary than {learner.source!r}: {len(different)} tokens differ, "
            f"for example {token!r} is {ours.get(token)} here and {theirs.get(token)} there; expected the same token ids; "
            "use a teacher of the same family"
        )

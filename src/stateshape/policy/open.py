"""Opens a policy by the name a user gives (embedded, a folder, a run, a hub id), and a teacher next to a learner.

A teacher that shares the learner's base is an adapter on the same weights. One that does not is loaded on its own and
must have the same vocabulary. Knows run folders only by their run.json and adapter/.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlsplit

import jinja2
import torch
import transformers
from huggingface_hub import constants as hub

from stateshape.core.decoding import read_text
from stateshape.core.files import BadInput
from stateshape.core.wording import MAX_PATH, one_line, shown
from stateshape.embedded import base_folder
from stateshape.policy.agreement import GENERATION_TAGS
from stateshape.policy.decoder import PLAIN, compiled_halves
from stateshape.policy.device import resolve_device, resolve_dtype
from stateshape.policy.foreign import reason_of
from stateshape.policy.model_files import check_model, read_model
from stateshape.policy.policy import Policy
from stateshape.policy.settings import ModelSettings, check_quantize, check_shard
from stateshape.policy.source import EMBEDDED, Resolved, check_hub_id, resolve, shares_base
from stateshape.policy.weights import SharedWeights

HUB_TIMEOUT_S = 5.0  # the hub's own client tries each file for half a minute before it gives up


def stay_offline_without_network() -> None:
    """Switches the hub's client to offline mode if the hub can't be reached, so that it reads its cache or fails at once."""
    if hub.HF_HUB_OFFLINE or any(
        os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
    ):
        return
    try:
        address = urlsplit(hub.ENDPOINT)
        port = address.port or (80 if address.scheme == "http" else 443)
        socket.create_connection((address.hostname or "", port), timeout=HUB_TIMEOUT_S).close()
    except (OSError, ValueError):  # ValueError: HF_ENDPOINT is not a valid address
        hub.HF_HUB_OFFLINE = True


def open_weights(model: str, settings: ModelSettings, *, is_teacher: bool = False) -> SharedWeights:
    """Base weights by name. `source` keeps the user's spelling. is_teacher: keeps a chat template of its own."""
    template = None if settings.chat_template is None else read_template(settings.chat_template)
    if model != EMBEDDED and not os.path.exists(model):
        check_hub_id(model)
        stay_offline_without_network()
    weights = load_weights(str(base_folder()) if model == EMBEDDED else model, settings)
    weights.source = model
    if template is not None and not (is_teacher and weights.tokenizer.chat_template):
        weights.tokenizer.chat_template = template
    return weights


def read_template(path: str) -> str:
    """A chat template's text. Raises BadInput where it is no Jinja template."""
    text = read_text(Path(path))
    try:
        jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(GENERATION_TAGS.sub("", text))
    except jinja2.TemplateError as error:
        raise BadInput(
            f"chat_template: got {shown(path, limit=MAX_PATH)}, which is no Jinja template "
            f"({one_line(str(error), limit=120)}); "
            "expected a chat template as tokenizers have it (chat_template.jinja)"
        ) from None
    return text


def open_tokenizer(model: str, settings: ModelSettings) -> Any:
    """The tokenizer alone, as `open_weights` gives it; None where only the loaded weights show it (a GGUF folder)."""
    tokenizer = tokenizer_of(model, settings, what="model")
    if tokenizer is not None and settings.chat_template is not None:
        tokenizer.chat_template = read_template(settings.chat_template)
    return tokenizer


def check_teacher(model: str, teacher: str, settings: ModelSettings) -> None:
    """Whether `teacher` exists and has `model`'s vocabulary, from the tokenizers alone. Raises BadInput."""
    resolved = resolve(teacher)
    if shares_base(resolved.model, model):
        return
    ours, theirs = (vocabulary(source, settings) for source in (model, resolved.model))
    if ours is not None and theirs is not None:
        refuse_difference(ours, theirs, learner=model, teacher=teacher)
    check_model(resolved.model, trust_remote_code=settings.trust_remote_code)


def check_tokenizer(source: str, settings: ModelSettings, *, what: str = "teacher") -> None:
    """Whether a policy is there, whatever its vocabulary, and its tokenizer can be loaded. Raises BadInput."""
    model = resolve(source).model
    vocabulary(model, settings, what=what)
    check_model(model, trust_remote_code=settings.trust_remote_code)


def open_reader(model: str, settings: ModelSettings) -> Policy:
    """A policy that encodes and decodes texts and chats as `model` does, and holds no weights; a GGUF folder is loaded
    whole."""
    tokenizer = open_tokenizer(model, settings)
    if tokenizer is None:
        return open_policy(model, settings)
    source = str(base_folder()) if model == EMBEDDED else model
    try:
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=settings.trust_remote_code)
    except Exception as error:  # damaged files make these libraries raise anything
        raise BadInput(
            f"model: got {model!r}, whose config.json could not be read ({reason_of(error)}); expected a model's folder "
            "or a hub id"
        ) from None
    generation = None
    with contextlib.suppress(Exception):  # a model need not have one
        generation = transformers.GenerationConfig.from_pretrained(source)
    weights = SimpleNamespace(
        tokenizer=tokenizer, device=torch.device("cpu"), config=config.get_text_config(), source=model,
        model=SimpleNamespace(generation_config=generation),
    )  # fmt: skip
    return Policy(cast(SharedWeights, weights), None)


def vocabulary(model: str, settings: ModelSettings, *, what: str = "teacher") -> dict[str, int] | None:
    """Token to id; None if only the loaded weights show it (a GGUF folder)."""
    tokenizer = tokenizer_of(model, settings, what=what)
    return None if tokenizer is None else tokenizer.get_vocab()


def tokenizer_of(model: str, settings: ModelSettings, *, what: str) -> Any:
    """None if only the loaded weights show it (a GGUF folder). Raises BadInput."""
    folder = base_folder() if model == EMBEDDED else Path(model)
    if not os.path.exists(folder):
        stay_offline_without_network()
    elif not (folder / "tokenizer.json").exists():
        return None
    try:
        return transformers.AutoTokenizer.from_pretrained(
            str(folder) if model == EMBEDDED else model, trust_remote_code=settings.trust_remote_code
        )
    except Exception as error:  # damaged files make these libraries raise anything
        missing = "" if os.path.exists(folder) else "which is no folder here, and "
        raise BadInput(
            f"{what}: got {model!r}, {missing}whose tokenizer could not be loaded ({reason_of(error)}); expected a model, run "
            "or adapter folder, or a hub id that can be reached"
        ) from None


def open_policy(source: str, settings: ModelSettings, *, adapter_name: str = "loaded") -> Policy:
    """A frozen policy: a base, or a base with a trained adapter."""
    resolved = resolve(source)
    return policy_on(open_weights(resolved.model, settings), resolved, adapter_name)


def policy_on(weights: SharedWeights, resolved: Resolved, adapter_name: str) -> Policy:
    if resolved.adapter is None:
        return Policy(weights, None)
    weights.load_adapter(adapter_name, resolved.adapter)
    return Policy(weights, adapter_name)


def open_beside(
    weights: SharedWeights, source: str, settings: ModelSettings, *, adapter_name: str, is_any_vocabulary: bool = False
) -> Policy:
    """A frozen policy next to loaded weights: on them if it shares their base, otherwise loaded on its own and checked."""
    resolved = resolve(source)
    if shares_base(resolved.model, weights.source):
        return policy_on(weights, resolved, adapter_name)
    other = policy_on(open_weights(resolved.model, settings, is_teacher=True), resolved, adapter_name)
    if not is_any_vocabulary:
        check_same_vocabulary(weights, other.weights)
    other.weights.meter = weights.meter
    return other


def check_same_vocabulary(learner: SharedWeights, teacher: SharedWeights) -> None:
    """Every token of either must have the same id in both. Raises BadInput with the first difference."""
    refuse_difference(
        learner.tokenizer.get_vocab(), teacher.tokenizer.get_vocab(), learner=learner.source, teacher=teacher.source
    )


def token_difference(ours: SharedWeights, theirs: SharedWeights) -> str | None:
    """In words, if there is one."""
    return None if ours is theirs else difference(ours.tokenizer.get_vocab(), theirs.tokenizer.get_vocab())


def difference(ours: dict[str, int], theirs: dict[str, int]) -> str | None:
    """Between two vocabularies, token to id, in words; None where they are the same."""
    different = sorted(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token))
    if not different:
        return None
    token = different[0]
    return (
        f"{len(different)} tokens differ, for example {token!r} is {ours.get(token)} here and {theirs.get(token)} there"
    )


def refuse_difference(ours: dict[str, int], theirs: dict[str, int], *, learner: str, teacher: str) -> None:
    if (words := difference(ours, theirs)) is not None:
        raise BadInput(
            f"teacher: {teacher!r} has a different vocabulary from {learner!r}: {words}; expected the same token ids; use a "
            "teacher of the same family, or a recipe that reads a teacher's continuations or distributions at the learner's or "
            "the dataset's states (opd_continuation, continuation_on_data, opd, kd)"
        )


def load_weights(source: str, settings: ModelSettings) -> SharedWeights:
    """Loads a hub id or a local folder. Raises BadInput with the reason if that fails."""
    check_quantize(settings)
    check_shard(settings)
    device = resolve_device(settings.device)
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)  # it prepares every new shape for 0.6 s, and each step has new ones
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # steps are recorded on the current device, whatever the tensors' own
    model, tokenizer = read_model(
        source,
        dtype=resolve_dtype(settings.dtype, device),
        trust_remote_code=settings.trust_remote_code,
        four_bits_on=device if settings.quantize == "4bit" else None,
    )
    halves = compiled_halves() if settings.compile else PLAIN
    if settings.shard_base:  # it is checked where it was read, and then moved layer by layer
        return SharedWeights(model, tokenizer, source=source, shard_on=device)
    if settings.quantize is None:  # a model in four bits is there already, and refuses to be moved
        model = model.to(device)
    return SharedWeights(model, tokenizer, source=source, halves=halves)

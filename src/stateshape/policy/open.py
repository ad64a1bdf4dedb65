"""Opens a policy by the name a user gives (embedded, a folder, a run, a hub id), and a teacher next to a learner.

A teacher that shares the learner's base is an adapter on the same weights. One that does not is loaded on its own and
must have the same vocabulary. Knows run folders only by their run.json and adapter/.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

import jinja2
import torch
import transformers
from huggingface_hub import constants as hub
from huggingface_hub.utils import HFValidationError, validate_repo_id

from stateshape.core import layout
from stateshape.core.decoding import read_text
from stateshape.core.files import BadInput, read_json
from stateshape.core.wording import MAX_PATH, one_line, shown
from stateshape.embedded import base_folder
from stateshape.policy.adapter_files import CONFIG, EMBEDDED, base_read, check_adapter
from stateshape.policy.agreement import GENERATION_TAGS
from stateshape.policy.decoder import PLAIN, compiled_halves
from stateshape.policy.device import resolve_device, resolve_dtype
from stateshape.policy.fingerprint import weights_sha256
from stateshape.policy.foreign import reason_of
from stateshape.policy.model_files import check_model, read_model
from stateshape.policy.policy import Policy
from stateshape.policy.settings import ModelSettings, check_quantize, check_shard
from stateshape.policy.weights import SharedWeights

HUB_TIMEOUT_S = 5.0  # the hub's own client tries each file for half a minute before it gives up


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

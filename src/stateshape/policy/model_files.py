"""A base model's folder or hub id, read by transformers: complete, with every tensor that its configuration describes.

transformers fills missing tensors with random numbers, drops layers that the configuration does not name, and reports both
in a table. Here both are refused: the result would be a different model. Does not know what the model is for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from stateshape.core.files import BadInput, read_json
from stateshape.policy.foreign import reason_of
from stateshape.policy.tensor_files import check_whole

IN_A_LAYER = re.compile(r"\.\d+\.")
# what older files contain besides weights: causal masks and rotary frequencies, which are computed now
COMPUTED = ("inv_freq", "masked_bias", ".attn.bias", ".attention.bias")


def read_model(
    source: str, *, dtype: torch.dtype, trust_remote_code: bool, four_bits_on: torch.device | None = None
) -> tuple[Any, Any]:
    """Model and tokenizer. four_bits_on: its linear layers in NF4 on this device (arXiv:2305.14314).

    Raises: BadInput with the reason if they cannot be loaded, or are incomplete.
    """
    folder = Path(source)
    check_model(source, trust_remote_code=trust_remote_code)
    files = {kind: sorted(folder.glob(f"*.{kind}")) if folder.is_dir() else [] for kind in ("gguf", "safetensors")}
    for path in files["safetensors"]:
        check_whole(path, field="model")
    options: dict[str, Any] = {"dtype": dtype, "trust_remote_code": trust_remote_code}
    if four_bits_on is not None:
        options["device_map"] = {"": four_bits_on}
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype, bnb_4bit_use_double_quant=True
        )
    token_options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if files["gguf"] and not files["safetensors"]:
        options["gguf_file"] = token_options["gguf_file"] = files["gguf"][0].name
    else:
        options["use_safetensors"] = True
    try:
        with quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **token_options)
            loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
                source, output_loading_info=True, ignore_mismatched_sizes=True, **options
            )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # damaged files make these libraries raise anything
        raise BadInput(
            f"model: got {source!r}, which could not be loaded ({reason_of(error)}); expected a folder with config.json, "
            "safetensors and a tokenizer, a GGUF folder, a run folder, 'embedded', or a hub id that can be reached"
        ) from None
    model, report = loaded
    check_report(source, report)
    return model, tokenizer


def check_model(source: str, *, trust_remote_code: bool) -> None:
    """Whether a model's folder holds weights that are read here, from the names of its files alone. Raises BadInput.

    Of a hub id nothing is known before it is fetched: reading it reports the same.
    """
    folder = Path(source)
    if not folder.is_dir() or any(folder.glob("*.gguf")):
        return
    if not any(folder.glob("*.safetensors")):
        if pickled := sorted(path.name for path in folder.glob("*.bin")):
            raise BadInput(
                f"model: got {source!r} with {pickled[0]} and no safetensors; expected safetensors, because a .bin file may "
                "run code; load it with transformers where you trust it, and save it again with save_pretrained"
            )
        raise BadInput(
            f"model: got {source!r}, which holds no weights; expected *.safetensors in it; fetch or save the model again"
        )
    config = read_json(folder / "config.json", dict[str, Any]) if (folder / "config.json").is_file() else {}
    is_known = config.get("model_type") in CONFIG_MAPPING_NAMES
    if config.get("auto_map") and not is_known and not trust_remote_code:
        raise BadInput(
            f"model: got {source!r}, which brings its own Python code (auto_map in config.json); expected none, because it "
            "would run here; use a version that transformers itself knows, or read the code and set trust_remote_code"
        )
    check_shards(folder)


def check_shards(folder: Path) -> None:
    """Every file that the index names must be there. Raises BadInput."""
    index = folder / "model.safetensors.index.json"
    places = read_json(index, dict[str, Any]).get("weight_map") if index.is_file() else None
    names = sorted(set(places.values())) if isinstance(places, dict) else []
    if missing := [name for name in names if isinstance(name, str) and not (folder / name).is_file()]:
        raise BadInput(
            f"model: got {str(folder)!r} without {missing[0]} ({len(missing)} of {len(names)} parts are missing); expected "
            "all that model.safetensors.index.json names; fetch them"
        )


def check_report(source: str, report: dict[str, Any]) -> None:
    """Checks transformers' report on loading: files and configuration must describe the same model. Raises BadInput."""
    described = "its config.json and its tensors to describe one model; use the config.json that belongs to them"
    if mismatched := sorted(report.get("mismatched_keys") or ()):
        name, there, expected = mismatched[0]
        raise BadInput(
            f"model: got {source!r}, whose tensor {name} has shape {tuple(there)} and by config.json {tuple(expected)} "
            f"({len(mismatched)} such); expected {described}"
        )
    if missing := sorted(report.get("missing_keys") or ()):
        raise BadInput(
            f"model: got {source!r}, which has no tensor {missing[0]} ({len(missing)} such); expected {described}, or fetch "
            "the files that are missing"
        )
    others = sorted(key for key in report.get("unexpected_keys") or () if IN_A_LAYER.search(key))
    if others := [key for key in others if not key.endswith(COMPUTED)]:
        raise BadInput(
            f"model: got {source!r}, whose tensor {others[0]} has no place in the model of its config.json ({len(others)} "
            f"such); expected {described}"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Silences the progress bar, and the table that check_report condenses to one line."""
    before = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.utils.logging.set_verbosity(before)

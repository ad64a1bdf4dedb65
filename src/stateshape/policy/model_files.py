"""A base model's folder or hub id, read by transformers: whole, and with every tensor that its configuration describes.

transformers fills in tensors that are missing at random and leaves out layers that the configuration does not name, and
says so in a table. Here both are refused: the model would be another one. Does not know what the model is for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from stateshape.core.files import BadInput
from stateshape.policy.tensor_files import check_whole

LOAD_ERRORS = (
    OSError, ValueError, ImportError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError,
    StrictDataclassError,
)  # fmt: skip
MAX_REASON = 200  # characters of an error that is not ours
IN_A_LAYER = re.compile(r"\.\d+\.")
# what older files hold beside weights: causal masks and rotary frequencies, which are computed now
COMPUTED = ("inv_freq", "masked_bias", ".attn.bias", ".attention.bias")


def read_model(source: str, *, dtype: torch.dtype, trust_remote_code: bool) -> tuple[Any, Any]:
    """Model and tokenizer. Raises BadInput with the reason if they can't be had, or are not whole."""
    folder = Path(source)
    files = {kind: sorted(folder.glob(f"*.{kind}")) if folder.is_dir() else [] for kind in ("gguf", "safetensors")}
    for path in files["safetensors"]:
        check_whole(path, field="model")
    options: dict[str, Any] = {"dtype": dtype, "trust_remote_code": trust_remote_code}
    token_options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if files["gguf"] and not files["safetensors"]:
        options["gguf_file"] = token_options["gguf_file"] = files["gguf"][0].name
    else:
        options["use_safetensors"] = True
    try:
        with _quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **token_options)
            model, report = transformers.AutoModelForCausalLM.from_pretrained(
                source, output_loading_info=True, ignore_mismatched_sizes=True, **options
            )
    except torch.OutOfMemoryError:
        raise
    except LOAD_ERRORS as error:
        reason = " ".join(str(error).split())[:MAX_REASON] or type(error).__name__
        raise BadInput(
            f"model: got {source!r}, which could not be loaded ({reason}); expected a folder with config.json, "
            "safetensors and a tokenizer, a GGUF folder, a run folder, 'embedded', or a hub id that can be reached"
        ) from None
    check_report(source, report)
    return model, tokenizer


def check_report(source: str, report: dict[str, Any]) -> None:
    """What transformers found when it loaded: file and configuration must describe one model. Raises BadInput."""
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
def _quiet() -> Iterator[None]:
    """No progress bar, and no table of what check_report says in a line."""
    before = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.utils.logging.set_verbosity(before)

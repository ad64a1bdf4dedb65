"""The embedded base: a small language model with its tokenizer, stored in the package, and the world it was trained on.

Importing this needs neither torch nor transformers. `world` makes the items; `train` makes the base anew.
"""

from __future__ import annotations

from pathlib import Path


def base_folder() -> Path:
    """The packaged model folder, for AutoModelForCausalLM.from_pretrained and AutoTokenizer.from_pretrained."""
    return Path(__file__).parent / "base"

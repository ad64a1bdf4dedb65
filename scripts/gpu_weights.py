"""Weights where they arrived in parts: joined, checked, converted to a model folder. Prints the folders, the largest first.

    python scripts/gpu_weights.py --manifest .gpu/manifest.json --keep FOLDER

Parts are FOLDER/parts/NAME.gguf.0, .1, ...; a model of which one is missing or wrong is left out, with a line on stderr. A
folder that is there already is left alone. Needs torch, transformers and gguf.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from pathlib import Path

GGUF = "model.gguf"
DONE = ".converted"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--keep", type=Path, required=True)
    chosen = parser.parse_args()
    models = json.loads(chosen.manifest.read_text(encoding="utf-8"))["models"]
    ready = []
    for name, about in sorted(models.items(), key=lambda item: -item[1]["bytes"]):
        folder = chosen.keep / "models" / name
        if not (folder / DONE).exists():
            try:
                join(chosen.keep / "parts", name, about, folder)
                convert(folder)
            except (OSError, ValueError) as error:
                print(f"{name}: left out: {error}", file=sys.stderr)
                continue
        ready.append(str(folder))
    print(",".join([*ready, "embedded"]))
    return 0


def join(parts: Path, name: str, about: dict[str, object], folder: Path) -> None:
    """One file of all parts. Raises OSError where one is missing, ValueError where the whole is not what was packed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    digest = hashlib.sha256()
    with open(folder / GGUF, "wb") as whole:
        for number in range(int(str(about["parts"]))):
            part = (parts / f"{name}.gguf.{number}").read_bytes()
            digest.update(part)
            whole.write(part)
    if digest.hexdigest() != about["sha256"]:
        raise ValueError(
            f"sha256: got {digest.hexdigest()[:12]}; expected {str(about['sha256'])[:12]}; send its parts again"
        )


def convert(folder: Path) -> None:
    """The GGUF's numbers in bfloat16 as safetensors, with the tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
    loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF)
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = type(loaded)._from_config(config)
    model.load_state_dict(loaded.state_dict())
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / GGUF).unlink()
    (folder / DONE).touch()


if __name__ == "__main__":
    sys.exit(main())

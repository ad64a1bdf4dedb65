"""The trained model in the watched folder, next to its curves, so that `stateshape audit BASE FOLDER` reads both."""

from __future__ import annotations

from pathlib import Path

from stateshape.trainers.live import Live


def save(live: Live, folder: Path) -> None:
    """The adapter as peft saves it; of a model that is trained whole the model, as transformers does, and its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    if live.adapter is None:
        live.model.save_pretrained(str(folder))
        live.tokenizer.save_pretrained(str(folder))
        return
    # save_embedding_layers: "auto" would look the base up on the hub
    live.whole.save_pretrained(str(folder), selected_adapters=[live.adapter], save_embedding_layers=False)

"""What the folder of a trained adapter or model carries beside its weights: the tokenizer, and a card.

With these, and with the base that its configuration names, peft and transformers open the folder as it is. One copy of the
tokenizer per run, none with the adapters kept along it: an adapter of rank 32 is several times its size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stateshape.core import layout
from stateshape.core.files import write_text
from stateshape.core.records import RunRecord
from stateshape.report.cards import Published, model_card


def carry(folder: Path, record: RunRecord, tokenizer: Any) -> None:
    """Completes what a run has trained, before its record says that it is there. folder: the run's."""
    trained = layout.trained(folder)
    if trained.name == layout.ADAPTER:  # a model brings it already
        tokenizer.save_pretrained(str(trained))
    about = Published(folder=folder, record=record, study=None, name=record.label, base=record.model, is_own=True)
    write_text(trained / layout.CARD, model_card(about))

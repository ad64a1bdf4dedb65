"""What a trainer's batch supervises: rows, the tokens in them that the loss is about, and how much each counts.

Reads batches of two kinds: `labels` beside `input_ids` (transformers' Trainer, TRL's SFTTrainer; padded, or packed with
position ids that begin again), and completions with advantages (TRL's GRPOTrainer and RLOOTrainer). Of any other it says None.
Knows no model. T: token, B: row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from stateshape.core.states import Origin

IGNORED = -100  # of a label: no loss


class SupervisedRow(NamedTuple):
    """ids: without padding. first: of the response. at: supervised tokens, ascending, none of them the row's first.

    weight: |advantage| of each; 1 where the loss is a plain cross-entropy.
    """

    ids: list[int]
    first: int
    at: np.ndarray
    weight: np.ndarray
    origin: Origin


class Batch(NamedTuple):
    """num_tokens: of all rows, without padding."""

    rows: list[SupervisedRow]
    num_tokens: int


def read_batch(inputs: Mapping[str, Any]) -> Batch | None:
    """None: a batch of another kind."""
    if all(name in inputs for name in ("input_ids", "labels")) and inputs["labels"].shape == inputs["input_ids"].shape:
        return _labelled(inputs)
    if all(name in inputs for name in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages")):
        return _with_advantages(inputs)
    return None


def _labelled(inputs: Mapping[str, Any]) -> Batch:
    ids_BT, labels_BT = (inputs[name].cpu().numpy() for name in ("input_ids", "labels"))
    rows, num_tokens = [], 0
    for row, (ids_T, labels_T) in enumerate(zip(ids_BT, labels_BT, strict=True)):
        for piece in _pieces(inputs, row, len(ids_T)):
            ids, labels = ids_T[piece], labels_T[piece]
            num_tokens += len(ids)
            at = np.flatnonzero(labels != IGNORED)
            if len(at := at[at > 0]):
                # a row without a prompt is its own response
                rows.append(SupervisedRow(ids.tolist(), _prompt(labels), at, np.ones(len(at)), Origin.DATASET))
    return Batch(rows, num_tokens)


def _prompt(labels_T: np.ndarray) -> int:
    """Tokens before the first supervised one."""
    return int(np.argmax(labels_T != IGNORED))


def _pieces(inputs: Mapping[str, Any], row: int, length: int) -> list[np.ndarray]:
    """Places of each text in a row: one, or where texts are packed those between positions 0."""
    mask = inputs.get("attention_mask")
    places = np.arange(length) if mask is None else np.flatnonzero(_numbers(mask, row))
    positions = inputs.get("position_ids")
    if positions is None or positions.dim() != 2 or not len(places):
        return [places]
    starts = np.flatnonzero(_numbers(positions, row)[places] == 0)
    return [piece for piece in np.split(places, starts) if len(piece)]


def _numbers(tensor: Tensor, row: int) -> np.ndarray:
    return np.asarray(tensor[row if tensor.shape[0] > row else 0].cpu().numpy())


def _with_advantages(inputs: Mapping[str, Any]) -> Batch:
    mask_BT = inputs["completion_mask"]
    supervised_BT = mask_BT * inputs["tool_mask"] if inputs.get("tool_mask") is not None else mask_BT
    advantages = inputs["advantages"].float().cpu().numpy()
    rows, num_tokens = [], 0
    for row in range(len(mask_BT)):
        prompt = inputs["prompt_ids"][row][inputs["prompt_mask"][row].bool()].tolist()
        is_there = mask_BT[row].bool()
        ids = [*prompt, *inputs["completion_ids"][row][is_there].tolist()]
        num_tokens += len(ids)
        is_supervised = supervised_BT[row].bool()[is_there].cpu().numpy()
        at = len(prompt) + np.flatnonzero(is_supervised)
        if prompt and len(at):
            ours = advantages[row]
            weight = np.abs(ours[is_there.cpu().numpy()][is_supervised] if np.ndim(ours) else np.full(len(at), ours))
            rows.append(SupervisedRow(ids, len(prompt), at, weight, Origin.LEARNER))
    return Batch(rows, num_tokens)

"""From a step's signal to rows of a table. Moves tensors to the host; writes nothing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from torch import Tensor

from stateshape.core.signals import Credit, Imitate, Signal
from stateshape.core.states import Origin, States
from stateshape.record.schema import PER_TOKEN, SCHEMA


def rows_of(
    signal: Signal,
    per_token: Mapping[str, Tensor],
    *,
    drawn: States | None,
    step: int,
    term: str,
    policy_version: int | None,
    teacher: str | None,
) -> pa.Table:
    """One row a trajectory, in batch order.

    Args: drawn: the states before the signal wrote on. policy_version: of the learner that wrote the learner's tokens, or
    took part in a mixture's.
    """
    states = signal.states
    num_rows = len(states)
    lengths_B = states.lengths_B.cpu().numpy()
    ids_BT, origin_BT = states.ids_BT.cpu().numpy(), states.origin_BT.cpu().numpy()
    inside_BT = np.arange(ids_BT.shape[1]) < lengths_B[:, None]
    supervise_BT = signal.supervise_BT.cpu().numpy() & inside_BT
    sizes_B = supervise_BT.sum(axis=1)
    is_learners_B = (((origin_BT == Origin.LEARNER) | (origin_BT == Origin.MIXTURE)) & inside_BT).any(axis=1)
    reward_B = signal.reward_B.float().cpu().numpy() if isinstance(signal, Credit) else np.full(num_rows, np.nan)
    logp_N = states.behaviour_logp_BT.cpu().numpy()[inside_BT]
    columns = {
        "step": np.full(num_rows, step),
        "term": [term] * num_rows,
        "row": np.arange(num_rows),
        "item_id": states.item_ids,
        "group": states.group_B.cpu().numpy(),
        "ids": lists(ids_BT[inside_BT], lengths_B, "ids"),
        "origins": lists(origin_BT[inside_BT], lengths_B, "origins"),
        "behaviour_logp": lists(logp_N, lengths_B, "behaviour_logp"),
        "supervised": lists(supervise_BT[inside_BT], lengths_B, "supervised"),
        "prompt_length": states.prompt_lengths_B.cpu().numpy(),
        "cut": cuts(ids_BT, lengths_B, drawn),
        "finish": states.finishes,
        "policy_version": [policy_version if is_learners else None for is_learners in is_learners_B],
        "teacher": [teacher] * num_rows,
        "reward": pa.array(reward_B, pa.float32(), mask=np.isnan(reward_B)),
        "target": lists(ids_BT[supervise_BT], sizes_B, "target") if isinstance(signal, Imitate) else [None] * num_rows,
    }
    for name in PER_TOKEN:
        value_N = per_token.get(name)
        columns[name] = [None] * num_rows if value_N is None else lists(value_N.float().cpu().numpy(), sizes_B, name)
    arrays = [pa.array(columns[field.name], field.type) for field in SCHEMA]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def lists(value_N: np.ndarray, sizes_B: np.ndarray, column: str) -> pa.ListArray:
    """Consecutive values as one list per row; NaN is a missing value."""
    assert len(value_N) == sizes_B.sum(), f"{column}: {len(value_N)} values for {sizes_B.sum()} tokens"
    kind = SCHEMA.field(column).type
    offsets = np.concatenate([[0], np.cumsum(sizes_B)]).astype(np.int32)
    mask = np.isnan(value_N) if value_N.dtype.kind == "f" else None
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(value_N, kind.value_type, mask=mask), type=kind)


def cuts(ids_BT: np.ndarray, lengths_B: np.ndarray, drawn: States | None) -> list[int | None]:
    """Each row's length as it was drawn, where the signal wrote on behind it; None where it did not."""
    if drawn is None or len(drawn) != len(lengths_B):
        return [None] * len(lengths_B)
    drawn_BT, drawn_lengths_B = drawn.ids_BT.cpu().numpy(), drawn.lengths_B.tolist()
    return [
        cut if cut < length and np.array_equal(ids_T[:cut], drawn_T[:cut]) else None
        for ids_T, length, drawn_T, cut in zip(ids_BT, lengths_B, drawn_BT, drawn_lengths_B, strict=True)
    ]

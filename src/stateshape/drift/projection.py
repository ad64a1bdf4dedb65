"""A map of states: named groups of texts as points of the plane, for a picture with the text behind each point.

Principal components of lexical features. The axes are fitted on all groups pooled, each group with the same weight: a
direction in which a run left the base has little variance in the base alone, and a large group would else own the axes.
Distances on the map are shadows of those in 1024 dimensions: look here, measure with measure.py. Nothing is drawn at
random. Knows no models and no files.

Suffixes: N texts, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from threadpoolctl import threadpool_limits

from stateshape.core.files import BadInput
from stateshape.drift.features import LexicalFeatures


class Projection(NamedTuple):
    """x, y of each text by group, in the order of its texts; and each axis' share of the (weighted) variance."""

    points: dict[str, Float64[np.ndarray, "N 2"]]
    shares: tuple[float, float]


@threadpool_limits.wrap(limits=1, user_api="blas")  # as in classifier.py
def project(groups: Mapping[str, Sequence[str]], *, base: str) -> Projection:
    """Projects every text of every group. An axis points to where its largest loading is positive.

    Args: base: the group whose document frequencies weigh the words, as everywhere in drift. An empty group has no points.
    Raises: BadInput if `base` is not among the groups or has no texts.
    """
    if not groups.get(base):
        raise BadInput(f"state map: base {base!r} has no texts; expected one of {sorted(groups)} with some")
    features = LexicalFeatures.fit(groups[base])
    rows = {name: features.transform(texts) for name, texts in groups.items()}
    filled = [each_ND for each_ND in rows.values() if len(each_ND)]
    mean_D = np.mean([each_ND.mean(axis=0) for each_ND in filled], axis=0)
    spread_DD = np.mean([(each_ND - mean_D).T @ (each_ND - mean_D) / len(each_ND) for each_ND in filled], axis=0)
    variances_D, axes_DD = np.linalg.eigh(spread_DD)
    axes_D2, largest_2 = axes_DD[:, :-3:-1], variances_D[:-3:-1]
    axes_D2 = axes_D2 * np.sign(axes_D2[np.abs(axes_D2).argmax(axis=0), [0, 1]])
    total = max(float(np.trace(spread_DD)), np.finfo(float).tiny)
    shares = (float(largest_2[0] / total), float(largest_2[1] / total))
    return Projection({name: (each_ND - mean_D) @ axes_D2 for name, each_ND in rows.items()}, shares)

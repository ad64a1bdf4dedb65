"""Names of the distances (measure.py says what each is). Torch-free, as plans and reports are."""

from __future__ import annotations

GEOMETRIC = (
    "mmd2_unbiased",
    "mmd2_biased",
    "centroid",
    "energy",
    "sliced_wasserstein_1",
    "sliced_wasserstein_2",
    "c2st_auc",
)
WORD_OVERLAP = ("jaccard", "ruzicka")
DISTANCES = (*GEOMETRIC, *WORD_OVERLAP)
FULL_STATE = "state_"  # in front of a distance on prompt + prefix

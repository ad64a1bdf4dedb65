"""Checks the shapes that public maths declares (jaxtyping + beartype), and keeps torch on one thread."""

import torch
from jaxtyping import install_import_hook

# Before anything imports these packages: the hook rewrites modules as they are imported.
install_import_hook(
    [
        "stateshape.losses",
        "stateshape.core.tensors",
        "stateshape.signals",
        "stateshape.drift",
        "stateshape.analysis.statistics",
        "stateshape.locality.told_apart",
        "stateshape.locality.divergence",
        "stateshape.locality.geometry",
        "stateshape.locality.reachability",
    ],
    "beartype.beartype",
)
torch.set_num_threads(1)

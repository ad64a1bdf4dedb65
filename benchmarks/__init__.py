"""Timings of this package beside its peers, in one process, on the same model and data. `python -m benchmarks.run --help`.

Nothing here is imported by the package. The peers (trl, lm_eval) are needed for the benchmarks that name them.
"""

import os

# Before the peers are imported: none of them may look for the hub, and none may fork tokenizer threads.
for name, value in {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}.items():
    os.environ.setdefault(name, value)

"""One record of locality for a whole run, from its probes. Torch-free.

A single probe has a few rows of one step: base against base, its classifier reads .2 to .8. What describes where a run's
supervision landed is averaged over its probes; what describes the policy at its end is the last probe's. Does not know
how a probe measures, nor which values are used (predictors.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from stateshape.core.records import LocalityRecord

# of the policy after the last step, and of its whole update
OF_THE_END = (
    "forward_kl_new_task_nats",
    "reverse_kl_new_task_nats",
    "forward_kl_retention_nats",
    "reverse_kl_retention_nats",
    "update_frobenius",
    "update_spectral",
    "stable_rank",
    "effective_rank",
)
# of a step's states; some need a teacher or a reward
OF_A_STEP = (
    "reachability_gap_nats",
    "reachability_gap_p90_nats",
    "c2st_auc",
    "ess_share",
    "learner_recoverability",
    "teacher_recoverability",
    "topk_overlap",
    "topk_mass",
    "locality_ratio",
    "neutral_ratio",
)
VALUES = (*OF_A_STEP, *OF_THE_END)


def over_probes(records: Sequence[LocalityRecord]) -> LocalityRecord:
    """The last probe, with values of training states replaced by their mean over all probes but the first.

    The first probe is of the untrained learner. Probes that lack a value are left out of its mean; a run with one probe
    has that one. num_prompts: of all the probes in the means, together.

    Raises: ValueError if there is no record.
    """
    if not records:
        raise ValueError("over_probes: expected at least one record, got none")
    ordered = sorted(records, key=lambda record: record.step)
    last = ordered[-1]
    known = {name for record in ordered for name in record.values if name not in OF_THE_END}
    averaged = ordered[1:] or ordered
    means = {name: _mean([record.values.get(name) for record in averaged]) for name in sorted(known)}
    sizes = [record.num_prompts for record in averaged if record.num_prompts is not None]
    return replace(last, values={**last.values, **means}, num_prompts=sum(sizes) if sizes else None)


def before_training(records: Sequence[LocalityRecord]) -> LocalityRecord | None:
    """The probe before the first step: the run's states as the learner finds them that it began with. None: there is none."""
    return next((record for record in records if record.step == 0), None)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None

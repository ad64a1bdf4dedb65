"""How far the training states are from the learner's own text: surprisal, and weights of freshness. Pure arithmetic.

Knows no policy and no sampler. T: token.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray


class Gap(NamedTuple):
    mean_nats: float
    p90_nats: float


def reachability_gap(training_T: Float[ndarray, " T"], own_T: Float[ndarray, " U"]) -> Gap | None:
    """Surprisal of the tokens that training states consist of, minus that of the learner's own: 0 when on-policy.

        mean_{y in q_k} -log pi_k(y_t | y_<t)  -  mean_{y in pi_k} -log pi_k(y_t | y_<t)

    and the same difference of 90th percentiles (interpolated). None where a side has no tokens.

    Args: surprisals under the current learner, in nats, of response tokens only.
    """
    if not len(training_T) or not len(own_T):
        return None
    mean = float(np.mean(training_T) - np.mean(own_T))
    return Gap(mean, float(np.percentile(training_T, 90) - np.percentile(own_T, 90)))


def ess_share(log_weight_T: Float[ndarray, " T"]) -> float | None:
    """Effective sample size over sample size, (sum w)^2 / (n sum w^2), w_t = pi_k(y_t | y_<t) / pi_behaviour(y_t | y_<t).

    1: the training states were written by the current learner. One weight a token: those of whole rows multiply up, and
    a handful of rows could not distinguish them from noise. None where nobody's log-prob is known.

    Args: log w_t = log pi_k - log pi_behaviour, in nats.
    Source: Kong 1992 (University of Chicago, TR 348).
    """
    if not len(log_weight_T):
        return None
    weight_T = np.exp(log_weight_T.astype(np.float64) - np.max(log_weight_T))  # the share is the same for c w
    return float(weight_T.sum() ** 2 / (len(weight_T) * (weight_T**2).sum()))

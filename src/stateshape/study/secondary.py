"""Scores beside accuracy that move before an answer flips: the gold option's log-likelihood and its share of the mass.

Accuracy sees an item only when its best option changes; these see every item, so they resolve smaller losses on as many
items. Computed from the evaluated rows alone; a row without options has none. They decide no claim.
"""

from __future__ import annotations

import math

from stateshape.core.records import EvalRow

GOLD_LOGP = "gold_logp_nats"
GOLD_MASS = "gold_mass"


def secondary_scores(row: EvalRow) -> dict[str, float]:
    """gold_logp_nats: log of the gold options' summed probability, in nats, not length-normalised. gold_mass: their share
    of all options' probability; MC2 where the task has it, since true options outside MC1 are not named in the row.

    Empty where the row has no options, or none of them is the gold one.
    Source: arXiv:2109.07958 (MC2); arXiv:2406.04391 (each step from log-likelihood to accuracy loses information).
    """
    if not row.options or row.option_logps is None or len(row.options) != len(row.option_logps):
        return {}
    texts = [text.strip() for text in row.options]
    golds = [row.gold] if row.gold in texts else row.gold.split(" | ")
    gold = [logp for text, logp in zip(texts, row.option_logps) if text in golds]
    if not gold:
        return {}
    gold_logp = _log_sum(gold)
    mass = row.scores.get("mc2", math.exp(gold_logp - _log_sum(row.option_logps)))
    return {GOLD_LOGP: gold_logp, GOLD_MASS: mass}


def _log_sum(logps: list[float]) -> float:
    highest = max(logps)
    return highest + math.log(sum(math.exp(logp - highest) for logp in logps))

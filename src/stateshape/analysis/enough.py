"""Whether a distance between states was measured on enough of them to decide anything. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stateshape.analysis.scores import StudyScores
from stateshape.core.records import LocalityRecord

MIN_STATES = 50  # a side; a distance of fewer decides nothing
MIN_PROMPTS = 128  # a side, over the probes and seeds that are averaged; a classifier of fewer decides nothing


def few_states(study: StudyScores, runs: Sequence[str]) -> str | None:
    """In words, where a run's drift was measured on too few; None where there were enough, or no drift."""
    sizes = [record.num_states for run in runs for record in study.drift.get(run, {}).values()]
    if sizes and min(sizes) < MIN_STATES:
        return f"{min(sizes)} states per side, fewer than {MIN_STATES}"
    return None


def few_prompts(records: Mapping[str, Mapping[int, LocalityRecord]], runs: Sequence[str]) -> str | None:
    """In words, where a run's states were classified on too few; None where there were enough, or older records do not say.

    records: by run and seed.
    """
    known = {run: [record.num_prompts for record in records.get(run, {}).values()] for run in runs}
    sizes = [sum(filter(None, numbers)) for numbers in known.values() if any(number is not None for number in numbers)]
    if sizes and min(sizes) < MIN_PROMPTS:
        return f"states of {min(sizes)} prompts classified, fewer than {MIN_PROMPTS}"
    return None

"""Whether a distance between states was measured on enough of them to decide anything. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stateshape.analysis.scores import StudyScores
from stateshape.core.records import LocalityRecord

MIN_STATES = 50  # a side; a distance of fewer decides nothing
# a side and seed, over the run's probes: of 48 noise alone reads an AUC of .39 to .61, of 24 .36 to .66 (docs/locality.md)
MIN_PROMPTS = 40


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
    known = [record.num_prompts for run in runs for record in records.get(run, {}).values()]
    sizes = [size for size in known if size is not None]
    if sizes and min(sizes) < MIN_PROMPTS:
        return f"states of {min(sizes)} prompts classified per seed, fewer than {MIN_PROMPTS}"
    return None

"""Scores by subject, of tasks whose items belong to subjects (MMLU, exams): where a run lost what. Torch-free.

Means over items and seeds without intervals: a subject has few items, and there are many subjects. No verdict rests on them.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from stateshape.analysis.scores import StudyScores


def subject_sizes(study: StudyScores) -> dict[str, dict[str, int]]:
    """Task -> subject -> items."""
    return {task: dict(sorted(Counter(names).items())) for task, names in study.subjects.items()}


def by_subject(study: StudyScores, run: str) -> dict[str, dict[str, float]]:
    """Task -> subject -> mean over its items and the run's seeds; a task that the run lacks is absent."""
    means = {}
    for task, names in study.subjects.items():
        seeds = study.scores.get(run, {}).get(task, {})
        if seeds:
            mean_N, names_N = np.mean(list(seeds.values()), axis=0), np.array(names)
            means[task] = {name: float(mean_N[names_N == name].mean()) for name in sorted(set(names))}
    return means

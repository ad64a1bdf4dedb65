"""What biased MMD^2 gives without any drift: the value that the paper prints for three different runs.

    STATESHAPE_DATA=FOLDER python -m benchmarks.drift_floor [--draws 60]

Both sides are states of GSM8K's own training solutions (question + solution cut at a random word), so nothing has drifted
from anything. For several sizes and kernel widths: mean and sd of biased MMD^2 over draws of two sets of other problems,
its floor by formula, (1/m + 1/n)(1 - E k), and unbiased MMD^2. Then the same with one set of problems on both sides, cut
anew: the problems dominate the features, and the same estimators fall far below. arXiv:2605.22731 prints .01093, .01092
and .01098 for stress SFT, OPD and RL.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from benchmarks.common import data_dir
from benchmarks.reference_distances import biased_mmd2_floor, mmd2_biased, mmd2_unbiased
from stateshape.core.seeds import seed_for
from stateshape.drift.features import LexicalFeatures
from stateshape.tasks.load import load_task
from stateshape.tasks.task import GenerationTask

PAPER = (0.01093, 0.01092, 0.01098)  # sec. 5.4
SIZES = (64, 100, 128)
# kernel exp(-gamma d^2): the median heuristic as either convention writes it, and scikit-learn's rbf of unit rows
WIDTHS = {"1/(2 median^2)": 0.5, "1/median^2": 1.0, "1": None}
FLOOR_ROWS = 1500  # for E k


class Row(NamedTuple):
    """Means and sds over draws, of one size and width. `floor`: by formula; it holds for problems of their own only."""

    sides: str
    size: int
    width: str
    biased: float
    biased_sd: float
    floor: float
    unbiased: float
    unbiased_sd: float


def cut_states(task: GenerationTask, *, seed: int) -> list[str]:
    """Every training problem with its solution, cut behind a word drawn uniformly."""
    generator = np.random.default_rng(seed)
    states = []
    for item in task.train:
        words = item.completion.split(" ")
        states.append(item.prompt + " ".join(words[: generator.integers(1, len(words) + 1)]))
    return states


def rows_of(task: GenerationTask, *, draws: int, seed: int) -> list[Row]:
    texts = [cut_states(task, seed=seed_for(seed, "drift floor cuts", side)) for side in (0, 1)]
    features = LexicalFeatures.fit(texts[0])
    first, again = (csr_array(features.transform(side)) for side in texts)
    generator = np.random.default_rng(seed_for(seed, "drift floor draws"))
    some = first[generator.choice(first.shape[0], FLOOR_ROWS, replace=False)]
    dense = some.toarray()
    squares = 2 - 2 * dense @ dense.T
    median = float(np.median(squares[np.triu_indices(FLOOR_ROWS, 1)]))
    rows = []
    for size in SIZES:
        drawn = [generator.choice(first.shape[0], 2 * size, replace=False) for _ in range(draws)]
        for width, factor in WIDTHS.items():
            gamma = 1.0 if factor is None else factor / median
            floor = biased_mmd2_floor(some, gamma, m=size, n=size)
            other = [(first[each[:size]], again[each[size:]]) for each in drawn]
            same = [(first[each[:size]], again[each[:size]]) for each in drawn]
            for sides, pairs in (("other problems", other), ("same problems", same)):
                biased = [mmd2_biased(x, y, gamma) for x, y in pairs]
                unbiased = [mmd2_unbiased(x, y, gamma) for x, y in pairs]
                rows.append(
                    Row(sides, size, width, float(np.mean(biased)), float(np.std(biased)), floor,
                        float(np.mean(unbiased)), float(np.std(unbiased)))
                )  # fmt: skip
    return sorted(rows, key=lambda row: row.sides)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    task = load_task("gsm8k", data_dir=data_dir())
    assert isinstance(task, GenerationTask)
    print(f"No drift anywhere. The paper prints {', '.join(f'{value:.5f}' for value in PAPER)} for three runs.")
    print(f"{'the two sides':16}{'states':>7}  {'gamma':16}{'biased':>9}{'sd':>9}{'floor':>9}{'unbiased':>10}{'sd':>9}")
    rows = rows_of(task, draws=chosen.draws, seed=chosen.seed)
    for row in rows:
        print(
            f"{row.sides:16}{row.size:>7}  {row.width:16}{row.biased:>9.5f}{row.biased_sd:>9.5f}{row.floor:>9.5f}"
            f"{row.unbiased:>10.5f}{row.unbiased_sd:>9.5f}"
        )
    print(f"\nThe floor is inverse to the number of states. It is {PAPER[0]:.5f} without any drift at")
    for width in WIDTHS:
        row = next(row for row in rows if row.width == width)
        print(f"    {row.size * row.floor / PAPER[0]:.0f} states a side, gamma {width}")


if __name__ == "__main__":
    main()

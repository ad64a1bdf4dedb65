"""Whether intervals, tests and printed power keep what they say, by simulation: the tables of LOG.md.

    python -m benchmarks.test_sizes size | power | flips

size: of the t test over seeds and items, over nominal, at small p. The half-width does not depend on the mean, so no
rejection is counted: the size is the mean of 2 Phi(-half / sd). power: what studies of one true design print, against that
design's own power. flips: misses of 95% intervals of rare differences, all to one side. Seeded; torch-free.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from scipy.stats import norm

from stateshape.analysis.power import Design, SeedSd, conservative, measured, minimal_effect, pooled_seed_sd, power_of
from stateshape.analysis.statistics import crossed_spread, enough_items, t_interval

SEEDS = (3, 5, 10)
ALPHAS = (0.05, 0.05 / 15, 0.001)
SHARES = (0.0, 0.25, 0.5, 0.8, 1.0)  # of the mean's variance: training seeds
BY_SEED = (0.0, 1.0, 4.0)  # variance of item x seed noise, of the items' own
DRAWS = 3_000
NUM_ITEMS = 40
STUDIES = 600
NUM_RUNS = 7  # that a pooled standard deviation is from


def size() -> None:
    rng = np.random.default_rng(0)
    print("seeds  share  by seed  " + "  ".join(f"size / {alpha:.4f}" for alpha in ALPHAS))
    for num_seeds in SEEDS:
        for share in SHARES:
            for by_seed in BY_SEED:
                # all noise together gives the mean variance 1
                item = (1 - share) * NUM_ITEMS / (1 + by_seed / num_seeds)
                spreads = [
                    crossed_spread(
                        [
                            rng.normal(0, math.sqrt(share * num_seeds), (num_seeds, 1))
                            + rng.normal(0, math.sqrt(item), (1, NUM_ITEMS))
                            + rng.normal(0, math.sqrt(item * by_seed), (num_seeds, NUM_ITEMS))
                        ]
                    )
                    for _ in range(DRAWS)
                ]
                found = []
                for alpha in ALPHAS:
                    intervals = [t_interval(spread, confidence=1 - alpha) for spread in spreads]
                    halves = np.array([(interval.hi - interval.lo) / 2 for interval in intervals])
                    found.append(2 * norm.sf(halves).mean() / alpha)
                print(f"{num_seeds:5d}  {share:5g}  {by_seed:7g}  " + "  ".join(f"{ratio:13.2f}" for ratio in found))


def power() -> None:
    alpha = ALPHAS[1]
    for num_seeds, effect in ((3, 0.05), (5, 0.03), (10, 0.02)):
        for interaction in (0.0, 0.0035**2):
            true = Design(0.007**2, 0.01**2, num_seeds, interaction)
            rights = power_of(true, effect, alpha=alpha), minimal_effect(true, alpha=alpha)
            print(
                f"{num_seeds} seeds, {effect:g}, V_e {interaction:.2g}: power {rights[0]:.3f}, minimal {rights[1]:.3f}"
            )
            for name, design_of in _printed(true).items():
                found = list(_studies(true, seed=num_seeds))
                powers = np.array([power_of(design_of(one, seeds), effect, alpha=alpha) for one, seeds in found])
                smallest = [minimal_effect(design_of(one, seeds), alpha=alpha) for one, seeds in found]
                low, median, high = np.quantile(powers, [0.1, 0.5, 0.9])
                print(
                    f"   {name:28s} power {median:.3f} ({low:.3f} to {high:.3f}), above the true one in "
                    f"{np.mean(powers > rights[0] + 1e-9):.2f}; minimal {np.median(smallest):.3f}"
                )


def _printed(true: Design) -> Mapping[str, Callable[[Design, SeedSd], Design]]:
    return {
        "without bound or V_e": lambda one, _: one._replace(interaction_variance=0.0),
        "as measured": lambda one, _: one,
        "bound, own seeds": lambda one, _: conservative(one),
        f"bound, pooled over {NUM_RUNS} runs": conservative,
    }


def _studies(true: Design, *, seed: int) -> Iterator[tuple[Design, SeedSd]]:
    """What studies of one design measure: its mean squares as they fall."""
    rng = np.random.default_rng(seed)
    sd = math.sqrt(true.seed_means_variance * true.num_seeds)
    for _ in range(STUDIES):
        values = rng.normal(0, sd, true.num_seeds)
        shown = float(values.var(ddof=1)) / true.num_seeds
        variance = max(shown + true.item_variance - true.interaction_variance, shown, true.item_variance)
        own = max(0.0, variance - true.item_variance) * true.num_seeds
        pooled = pooled_seed_sd(rng.normal(0, sd, (NUM_RUNS, true.num_seeds)).tolist())
        yield measured(stderr=math.sqrt(variance), seed_sd=math.sqrt(own), values_S=values.tolist()), pooled


def flips() -> None:
    rng = np.random.default_rng(0)
    print("items  flips  missed  decided  decided and missed")
    for num_items in (60, 200, 1000):
        for expected in (4, 6, 8, 10, 12, 15, 20, 25):
            missed, decided = [], []
            for _ in range(DRAWS):
                scores_SN = np.repeat(rng.random((1, num_items)) < expected / num_items, 3, axis=0).astype(float)
                if np.ptp(scores_SN) == 0:
                    continue  # the exact bound
                interval = t_interval(crossed_spread([scores_SN]))
                missed.append(not interval.lo <= expected / num_items <= interval.hi)
                decided.append(enough_items([scores_SN]) is None)
            both = np.array(missed) & np.array(decided)
            print(
                f"{num_items:5d}  {expected:5d}  {sum(missed) / DRAWS:6.3f}  {sum(decided) / DRAWS:7.2f}  "
                f"{both.sum() / DRAWS:18.3f}"
            )


TABLES = {"size": size, "power": power, "flips": flips}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=TABLES)
    TABLES[parser.parse_args().table]()

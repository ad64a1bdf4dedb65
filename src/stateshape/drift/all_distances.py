"""All distances between two paired samples, each with its permutations and resamples, and on how many states it rests.

Large samples: up to MAX_EXACT states per side every pair of rows is visited. Above, MMD^2 comes from random Fourier features
of all states and the centroid from all states; the other distances, with their nulls, from whole prompts drawn from all,
at most MAX_EXACT states per side. Sliced Wasserstein takes at most MAX_SLICED. Does not know texts.

Suffixes: M rows of a side, T tokens, P prompts, Q prompts of a block, D features, W words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from stateshape.core.seeds import seed_for
from stateshape.drift.classifier import NUM_FOLDS, classifier_auc
from stateshape.drift.fourier import BLOCK_ROWS, fourier_mmd2
from stateshape.drift.names import GEOMETRIC, WORD_OVERLAP
from stateshape.drift.nulls import Draws, Statistic
from stateshape.drift.overlap import Tokens, overlaps, thinned_counts
from stateshape.drift.paired import Paired
from stateshape.drift.pairwise import biased, centroid, contrasts, unbiased
from stateshape.drift.rulers import Ruler
from stateshape.drift.sliced import sliced_wassersteins

MAX_EXACT = (
    2048  # states per side: 4096^2 / 2 pairs in float64 take about a second, and three P x P sums at most 100 MB
)
MAX_SLICED = 512  # states per side: 256 directions x 1500 draws of 1024 rows take about three seconds


class Found(NamedTuple):
    """One distance of one pair; None with the reason where it cannot be computed."""

    statistic: Statistic | None
    num_states: int
    reason: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Trials:
    """How many draws are made, and from which seed. Draws of as many prompts are the same wherever they are asked for."""

    seed: int
    num_permutations: int
    num_resamples: int

    def draws(self, num_prompts: int) -> Draws:
        return Draws.make(
            num_prompts, seed=self.seed, num_permutations=self.num_permutations, num_resamples=self.num_resamples
        )

    def none(self) -> Trials:
        """The same seed without draws: for a value alone."""
        return replace(self, num_permutations=0, num_resamples=0)


def geometric_distances(pair: Paired, ruler: Ruler, trials: Trials) -> dict[str, Found]:
    """Every distance of GEOMETRIC."""
    by_distance: dict[str, Found] = {}
    draws = trials.draws(pair.num_prompts)
    part = at_most(pair, MAX_EXACT, seed=trials.seed)
    part_draws = draws if part is pair else trials.draws(part.num_prompts)
    note = _drawn_note(part, pair)
    by_distance["centroid"] = Found(centroid(_differences(pair), pair.counts_P, draws), pair.num_states)
    by_distance |= _kernel_distances(pair, draws, part, part_draws, ruler, seed=trials.seed)
    few = at_most(part, MAX_SLICED, seed=trials.seed)
    sliced = sliced_wassersteins(few, trials.draws(few.num_prompts), seed=trials.seed)
    for name, statistic in zip(("sliced_wasserstein_1", "sliced_wasserstein_2"), sliced):
        by_distance[name] = Found(replace(statistic, note=_drawn_note(few, pair)), few.num_states)
    if part.num_prompts < 2 * NUM_FOLDS:
        by_distance["c2st_auc"] = Found(
            None, part.num_states, f"{part.num_prompts} prompts; {2 * NUM_FOLDS} are needed"
        )
    else:
        by_distance["c2st_auc"] = Found(replace(classifier_auc(part, part_draws), note=note), part.num_states)
    return {name: by_distance[name] for name in GEOMETRIC}


def _kernel_distances(
    pair: Paired, draws: Draws, part: Paired, part_draws: Draws, ruler: Ruler, *, seed: int
) -> dict[str, Found]:
    """Both MMD^2 and the energy distance."""
    sums = contrasts(part, ruler.gamma or 1.0)
    energy = replace(unbiased(sums.energy_PP, part.counts_P, part_draws), note=_drawn_note(part, pair))
    by_distance = {"energy": Found(energy, part.num_states)}
    if ruler.gamma is None:
        return by_distance | {
            name: Found(None, pair.num_states, ruler.reason) for name in ("mmd2_unbiased", "mmd2_biased")
        }
    floor = ruler.biased_floor(pair.num_states)
    if part is pair:
        first = unbiased(sums.family_PP, pair.counts_P, draws)
        second = biased(sums.median_PP, pair.counts_P, draws, floor=floor)
    else:
        first, second = fourier_mmd2(pair, ruler.gamma, draws, seed=seed, floor=floor)
    return by_distance | {
        "mmd2_unbiased": Found(first, pair.num_states),
        "mmd2_biased": Found(second, pair.num_states),
    }


def _differences(pair: Paired) -> Iterator[Float64[np.ndarray, "Q D"]]:
    for rows, _ in pair.blocks(BLOCK_ROWS):
        first = pair.prompt_M[rows.start]
        yield Paired(x_MD=pair.x_MD[rows], y_MD=pair.y_MD[rows], prompt_M=pair.prompt_M[rows] - first).differences()


def at_most(pair: Paired, limit: int, *, seed: int) -> Paired:
    """The pair itself, or whole prompts drawn from it that have at most `limit` states per side."""
    if pair.num_states <= limit:
        return pair
    return pair.take(drawn_prompts(pair.counts_P, limit, seed=seed))


def drawn_prompts(counts_P: Int64[np.ndarray, " P"], limit: int, *, seed: int) -> np.ndarray:
    """bool [P]: prompts in a seeded order, as long as their states stay within the limit; at least one."""
    order = np.random.default_rng(seed_for(seed, "drift subsample")).permutation(len(counts_P))
    is_chosen_P = np.zeros(len(counts_P), bool)
    is_chosen_P[order[np.cumsum(counts_P[order]) <= limit]] = True
    is_chosen_P[order[0]] = True
    return is_chosen_P


def _drawn_note(part: Paired, whole: Paired) -> str | None:
    return None if part is whole else drawn_note(part.num_prompts, whole.num_prompts)


def drawn_note(num_drawn: int, num_prompts: int) -> str:
    return f"value and null on {num_drawn} of {num_prompts} prompts, drawn at random"


# Word overlap


def word_overlaps(
    sides: list[Tokens], counts_P: Int64[np.ndarray, " P"], trials: Trials
) -> tuple[dict[str, Found], dict[str, Found]]:
    """(run against base_a, base_b against base_a), of sides (base_a, base_b, run), at one token budget for all three.

    Args: counts_P: states of each prompt on a side.
    """
    num_prompts, note = len(counts_P), None
    if counts_P.sum() > MAX_EXACT:
        is_chosen_P = drawn_prompts(counts_P, MAX_EXACT, seed=trials.seed)
        sides = [_of_prompts(side, is_chosen_P) for side in sides]
        counts_P = counts_P[is_chosen_P]
        note = drawn_note(len(counts_P), num_prompts)
    num_states = int(counts_P.sum())
    budgets_P = np.min([np.bincount(side.prompt_T, minlength=len(counts_P)) for side in sides], axis=0)
    if not budgets_P.any():
        nothing = {name: Found(None, num_states, "no prompt has words on all sides") for name in WORD_OVERLAP}
        return nothing, nothing
    num_words = 1 + max(int(side.words_T.max()) for side in sides)
    base_a, base_b, run = (
        thinned_counts(side, budgets_P, num_words=num_words, seed=seed_for(trials.seed, "drift tokens", i))
        for i, side in enumerate(sides)
    )
    run_then_base = []
    for other, some in ((run, trials), (base_b, trials.none())):
        both = overlaps(base_a, other, some.draws(len(counts_P)))
        run_then_base.append(
            {name: Found(replace(each, note=note), num_states) for name, each in zip(WORD_OVERLAP, both)}
        )
    return run_then_base[0], run_then_base[1]


def _of_prompts(side: Tokens, is_chosen_P: np.ndarray) -> Tokens:
    is_kept_T = is_chosen_P[side.prompt_T]
    return Tokens(side.words_T[is_kept_T], (np.cumsum(is_chosen_P) - 1)[side.prompt_T[is_kept_T]])

"""What a study can resolve, per claim: before it runs from its sizes, and afterwards from the measured noise.

Power is for a stated effect, not for the observed one (power.py gives the reason). What an open effect needs is computed
as if the observed effect were the true one, and is as uncertain as that effect. Knows claims, not how verdicts are reached.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from stateshape.analysis.claims import paper_claims
from stateshape.analysis.effects import OF_NO_ITEMS, Claim, Effect
from stateshape.analysis.planned_claims import planned_claims
from stateshape.analysis.power import (
    ALPHA,
    MIN_SEEDS,
    Design,
    conservative,
    items_factor,
    measured,
    minimal_effect,
    power_of,
    seeds_needed,
)
from stateshape.analysis.scores import StudyScores
from stateshape.analysis.statistics import MIN_ITEMS
from stateshape.core.study_records import BASE, PlanRecord

POWER_EFFECT = 0.03  # of accuracy: the distance from its threshold for which an effect's power is given
# Assumed of a plan, where nothing is measured yet:
RATE = 0.5  # of right answers: the noisiest
CORRELATION_OF_ITEMS = 0.5  # of two runs' 0/1 outcomes
SEED_SD = 0.01  # of a run's score between training seeds: the quickstart's runs have .003 to .015


class Resolution(NamedTuple):
    """See core/records.py Evidence."""

    power: float | None = None
    power_effect: float | None = None
    minimal_effect: float | None = None
    needs: str | None = None


class Resolvable(NamedTuple):
    """What a plan can see of one effect of a claim. lacks: why it can see nothing."""

    claim_id: str
    label: str
    num_items: int
    num_seeds: int
    power: float | None  # to see an effect of POWER_EFFECT; at Holm's first and hardest step
    minimal_effect: float | None  # seen with 80% power, at that step
    minimal_effect_alone: float | None  # the same at .05: Holm's last step, where all other effects are decided
    lacks: str | None
    key: str = ""  # claims may share an effect, see Effect
    family: str = "paper"
    num_tests: int = (
        1  # of the family, over which Holm corrects: a shared effect is one, and a claim about any pair another
    )
    is_at_dose: bool = False  # see Effect
    is_share: bool = True


def resolution(part: Effect, alpha: float, *, is_open: bool) -> Resolution:
    """What the size and noise of a measured part can resolve at level alpha, and what an open one needs."""
    effect = part.estimate
    if part.lacks is not None or effect.value is None:
        return Resolution()
    is_drift = part.test in OF_NO_ITEMS
    power_effect = POWER_EFFECT if part.is_share and not is_drift else None
    few = [f"at least {MIN_SEEDS} seeds"] if effect.n_seeds < MIN_SEEDS else []
    few += [f"at least {MIN_ITEMS} items"] if not is_drift and effect.n_items < MIN_ITEMS else []
    if not few and part.too_few_items is not None:
        few = ["more items that differ"]
    if effect.stderr is None or effect.seed_sd is None:
        return Resolution(power_effect=power_effect, needs=" and ".join(few) or None if is_open else None)
    values_S = list(effect.per_seed.values())
    if is_drift or len(values_S) < 2:
        design = Design(0.0 if is_drift else effect.stderr**2, effect.seed_sd**2, effect.n_seeds)
    else:
        design = measured(stderr=effect.stderr, seed_sd=effect.seed_sd, values_S=values_S)
    design = conservative(design)
    needs = None
    if is_open:
        distance = abs(effect.value - part.threshold)
        needs = " and ".join(few) or _needs(design, distance, None if is_drift else effect.n_items, alpha)
    return Resolution(
        power=None if power_effect is None else power_of(design, power_effect, alpha=alpha),
        power_effect=power_effect,
        minimal_effect=minimal_effect(design, alpha=alpha),
        needs=needs,
    )


def _needs(design: Design, distance: float, num_items: int | None, alpha: float) -> str:
    """In words: the items at these seeds, or the seeds at these items, that decide an effect this far off with 80%."""
    ways = []
    factor = None if num_items is None else items_factor(design, distance, alpha=alpha)
    if factor is not None and num_items is not None:
        ways.append(f"about {_rounded(factor * num_items):,} items with {design.num_seeds} seeds")
    seeds = seeds_needed(design, distance, alpha=alpha)
    if seeds is not None:
        ways.append(f"about {_rounded(seeds):,} seeds" + ("" if num_items is None else f" with {num_items:,} items"))
    if ways:
        return " or ".join(ways) + ", if the true effect equals the observed one"
    if distance == 0:
        return "a different effect: the observed one equals the threshold, so no sample size is enough"
    return "both more seeds and more items (neither alone is enough)"


def _rounded(number: float) -> int:
    """Up, to two digits: more would claim to know the noise."""
    step = 10 ** max(0, math.floor(math.log10(max(number, 1))) - 1)
    return math.ceil(number / step) * step


# Before a study runs


def resolvable(
    plan: PlanRecord, *, rate: float = RATE, rho: float = CORRELATION_OF_ITEMS, seed_sd: float = SEED_SD
) -> list[Resolvable]:
    """One row for each effect on evaluated items of each claim the plan asks about, at Holm's first level for their number.

    Noise of a contrast sum_r w_r score_r: of n items, p (1-p) ((1 - rho) sum_r w_r^2 + rho (sum_r w_r)^2) / n, of the mean
    of T tasks the sum of that over T^2; of a training seed, seed_sd^2 times the sum of w_r^2 over trained runs.
    """
    study = StudyScores(plan=plan, scores={}, drift={}, missing=[])
    claims = [claim for claim in (*planned_claims(study), *paper_claims(study)) if claim.is_asked()]
    num_tests = {family: _number_of_tests(claims, family) for family in {claim.family for claim in claims}}
    rows = []
    for claim in claims:
        in_family = max(1, num_tests[claim.family])
        parts = {part.key: part for part in (*claim.effects, *claim.counted) if part.tasks}
        rows += [
            _resolvable(
                claim.claim_id, part, items_of(plan, part), len(plan.seeds), ALPHA / in_family, rate, rho, seed_sd
            )._replace(
                key=part.key,
                family=claim.family,
                num_tests=in_family,
                is_at_dose=part.is_at_dose,
                is_share=part.is_share,
            )
            for part in parts.values()
        ]
    return rows


def _number_of_tests(claims: Sequence[Claim], family: str) -> int:
    members = [claim for claim in claims if claim.family == family]
    effects = [part for claim in members for part in (*claim.effects, *claim.counted) if part.tasks and part.weights]
    return len({part.key for part in effects}) + sum(bool(claim.ways) for claim in members)


def items_of(plan: PlanRecord, part: Effect) -> list[int]:
    """How many items of each task an effect rests on: along runs fewer may be evaluated than at their ends."""
    num_items = {task.name: task.num_items or 0 for task in (plan.target, *plan.retention)}
    sizes = [num_items[name] for name in part.tasks]
    most = plan.along_limit if part.is_at_dose else None
    return sizes if most is None else [min(size, most) for size in sizes]


def _resolvable(
    claim_id: str,
    part: Effect,
    sizes: Sequence[int],
    num_seeds: int,
    alpha: float,
    rate: float,
    rho: float,
    seed_sd: float,
) -> Resolvable:
    lacks = part.lacks if not part.weights else None
    if lacks is None and num_seeds < MIN_SEEDS:
        seeds = "1 seed" if num_seeds == 1 else f"{num_seeds} seeds"
        lacks = f"{seeds}, fewer than {MIN_SEEDS}: cannot decide"
    if lacks is None and min(sizes) < MIN_ITEMS:
        lacks = f"{min(sizes)} items, fewer than {MIN_ITEMS}: cannot decide"
    if lacks is None and not part.is_share:
        lacks = "in nats: how much items and seeds differ is known after training only"
    power = smallest = alone = None
    if lacks is None:
        weights = list(part.weights.values())
        per_item = rate * (1 - rate) * ((1 - rho) * sum(w * w for w in weights) + rho * sum(weights) ** 2)
        design = Design(
            item_variance=sum(per_item / size for size in sizes) / len(sizes) ** 2,
            seed_variance=seed_sd**2 * sum(w * w for run, w in part.weights.items() if run != BASE),
            num_seeds=num_seeds,
        )
        power, smallest = power_of(design, POWER_EFFECT, alpha=alpha), minimal_effect(design, alpha=alpha)
        alone = minimal_effect(design)
    return Resolvable(claim_id, part.label, sum(sizes), num_seeds, power, smallest, alone, lacks)


def resolvable_text(rows: Sequence[Resolvable]) -> str:
    """The rows as a table, with what was assumed beneath."""
    width = max((len(row.label) for row in rows), default=6)
    columns = (f"power for {POWER_EFFECT:g}", "smallest (Holm)", "smallest (one)")
    lines = [f"claim  {'effect':{width}s}  {'items':>7s}  {'seeds':>5s}  " + "  ".join(f"{c:>15s}" for c in columns)]
    for row in rows:
        numbers = (row.power, row.minimal_effect, row.minimal_effect_alone)
        found = (
            "  ".join("-" if n is None else f"{n:15.3f}" for n in numbers) if row.lacks is None else f"- {row.lacks}"
        )
        lines.append(f"{row.claim_id:5s}  {row.label:{width}s}  {row.num_items:7,d}  {row.num_seeds:5d}  {found}")
    if any(row.lacks is None for row in rows):
        lines.append(
            f"Smallest: smallest detectable effect at 80% power, with Holm over {_tests(rows)} / as the only test. "
            f"Assumed: scores near {RATE:g}, correlation between paired items {CORRELATION_OF_ITEMS:g}, "
            f"standard deviation between seeds {SEED_SD:g}."
        )
    if any(row.lacks is None and row.is_at_dose for row in rows):
        lines.append(
            "At equal distance from the base, intervals are also wider by what interpolation between measured points may be "
            "off; how much is known after training only, and less with more points (along)."
        )
    return "\n".join([*lines, *_in_words(rows)])


def _tests(rows: Sequence[Resolvable]) -> str:
    """Their number in each family, with the reason where it is not the table's."""
    families = list(dict.fromkeys(row.family for row in rows))
    told = [_tests_of([row for row in rows if row.family == family]) for family in families]
    if len(families) == 1:
        return told[0]
    return " and ".join(f"{text} of the family {family}" for text, family in zip(told, families))


def _tests_of(rows: Sequence[Resolvable]) -> str:
    num_tests, different = rows[0].num_tests, len({row.key for row in rows})
    reasons = []
    if different < len(rows):
        reasons.append(f"the {len(rows)} rows are {different} different effects")
    if different < num_tests:
        reasons.append(
            f"{num_tests - different} more {'is' if num_tests - different == 1 else 'are'} on distances or any pair of runs"
        )
    return f"{num_tests} test{'s' if num_tests > 1 else ''}" + (f" ({'; '.join(reasons)})" if reasons else "")


def _in_words(rows: Sequence[Resolvable]) -> list[str]:
    """What a reader of the table has to know before paying for the study."""
    found = sorted(row.minimal_effect for row in rows if row.minimal_effect is not None)
    if not found:
        is_known = bool(rows) and all(row.is_share for row in rows)
        return ["In words: a study of this size decides none of its claims."] if is_known else []
    span = f"{found[0]:.2f}" if f"{found[0]:.2f}" == f"{found[-1]:.2f}" else f"{found[0]:.2f} to {found[-1]:.2f}"
    return [
        f"In words: effects of {span}, counted from their thresholds, are found in 8 of 10 such studies. Most smaller ones "
        'will end as "cannot tell". More seeds (--seeds) or more items (limit, --full) find smaller ones.'
    ]

"""`stateshape power`: the effects that a comparison of two rates can detect, before anything is trained."""

from __future__ import annotations

import json
import math
from typing import Annotated, NamedTuple

import tyro

from stateshape.core.files import BadInput


class PowerRow(NamedTuple):
    """One way to compare. None: no number of items reaches the power, or there is no effect."""

    way: str
    rho: float
    power: float | None
    minimal_effect: float
    items_needed: int | None
    seeds_needed: int | None


def power(
    *,
    p0: float,
    p1: float,
    n: int = 1319,
    rho: float = 0.5,
    seeds: int = 1,
    seed_sd: float = 0.0,
    alpha: float = 0.05,
    json_output: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Power of a comparison of two rates: the smallest effect detectable at 80% power, and the items or seeds needed.

    Args:
        p0: First rate, e.g. the base's accuracy.
        p1: Second rate.
        n: Evaluated items. The default is the size of GSM8K's test split.
        rho: Correlation between the two runs' right and wrong answers on the same items.
        seeds: Training seeds per method.
        seed_sd: Standard deviation of the difference p1 - p0 across training seeds.
        alpha: Two-sided level of the test; divide it by the number of tests if there are several.
        json_output: Print JSON instead of a table.
    """
    if seeds > 1 and seed_sd == 0:
        raise BadInput(
            "seed-sd: got nothing with several seeds; expected the standard deviation of the difference between seeds"
        )
    try:
        rows = power_rows(p0, p1, n, rho, seeds=seeds, seed_sd=seed_sd, alpha=alpha)
    except ValueError as error:
        raise BadInput(str(error)) from None
    if json_output:
        print(json.dumps([row._asdict() for row in rows], indent=1))
        return
    noise = f", {seeds} seeds with sd {seed_sd:g}" if seeds > 1 else ""
    print(f"{p0:g} against {p1:g} ({p1 - p0:+.4g}) on {n:,} items{noise}, two-sided level {alpha:g}")
    print(f"{'':20s}{'power':>8s}{'min. effect':>15s}{'items for 80%':>15s}{'seeds for 80%':>15s}")
    for row in rows:
        name = f"{row.way}, rho {row.rho:g}"
        shown = "-" if row.power is None else f"{row.power:.3f}"
        numbers = ["-" if number is None else f"{number:,}" for number in (row.items_needed, row.seeds_needed)]
        print(f"{name:20s}{shown:>8s}{row.minimal_effect:>15.4f}{numbers[0]:>15s}{numbers[1]:>15s}")
    if any(row.items_needed is None for row in rows):
        print("-: not reachable by adding items (or seeds) alone.")
    if seeds == 1:
        print(
            "One training seed: this covers the choice of items for these two models, not the variation from training again."
        )


def power_rows(
    p0: float, p1: float, n: int, rho: float, *, seeds: int = 1, seed_sd: float = 0.0, alpha: float = 0.05
) -> list[PowerRow]:
    """Unpaired, then paired: one seed's paired power is the exact test's. Raises ValueError where a number is out of range."""
    from stateshape.analysis.power import (
        items_factor,
        minimal_effect,
        minimal_n,
        power_of,
        power_paired,
        rate_design,
        seeds_needed,
    )

    if not 0 < alpha < 1:
        raise ValueError(f"alpha: got {alpha:g}; expected a level between 0 and 1, like 0.05")
    rows, effect = [], p1 - p0
    for way, correlation in (("unpaired", 0.0), ("paired", rho)):
        design = rate_design(p0, p1, n, correlation, num_seeds=seeds, seed_sd=seed_sd)
        power: float | None
        items: int | None
        if way == "paired" and seeds == 1 and effect:
            power = power_paired(p0, p1, n, correlation, alpha=alpha)
            items = minimal_n(p0, p1, correlation, alpha=alpha)
        else:
            power = power_of(design, effect, alpha=alpha) if effect else None
            factor = items_factor(design, effect, alpha=alpha)
            items = None if factor is None else max(1, math.ceil(factor * n - 1e-6))
        rows.append(
            PowerRow(
                way=way,
                rho=correlation,
                power=power,
                minimal_effect=minimal_effect(design, alpha=alpha),
                items_needed=items,
                seeds_needed=seeds_needed(design, effect, alpha=alpha) if seeds > 1 and effect else None,
            )
        )
    return rows

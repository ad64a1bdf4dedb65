"""How often each claim is said to be supported, and not supported, in simulated studies whose truth is known.

    python docs/tools/calibration.py --studies 300

writes the tables in docs/verdicts.md and the counts in results/calibration/verdicts.json; `--set planned` runs the scenarios of
one table and keeps the counts of the other. The whole machinery of verdicts runs on every study: premises, dose matching,
Holm's correction, the rule. A test runs the same at a smaller size (tests/test_calibration.py).

Does not know how studies are simulated (simulated_studies.py), nor what is true in them (calibration_paper.py for the paper's
claims, calibration_planned.py for those of a study file).
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from calibration_paper import PAPER_SET
from calibration_planned import PLANNED_SET
from simulated_studies import Scenario, ScenarioSet, Tally, calibrate

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "verdicts.md"
COUNTS = ROOT / "results" / "calibration" / "verdicts.json"
SETS = {one.name: one for one in (PAPER_SET, PLANNED_SET)}
OUTCOMES = ("supported", "not supported", "equivalent", "premise not met", "cannot tell")

Tallies = Mapping[str, Tally]  # by scenario


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=300, help="simulated studies per scenario")
    parser.add_argument("--set", choices=SETS, dest="only_set", help="run the scenarios of one table")
    parser.add_argument("--only", default="", help="run one scenario; it is printed and not written")
    chosen = parser.parse_args()
    found = {}
    for name, one in SETS.items():
        if chosen.only_set in (None, name):
            scenarios = [scenario for scenario in one.scenarios if chosen.only in ("", scenario.name)]
            found[name] = {scenario.name: _run(scenario, one, chosen.studies) for scenario in scenarios}
    if not chosen.only:
        write_counts(COUNTS, read_counts(COUNTS) | found)
        PAGE.write_text(with_blocks(PAGE.read_text(encoding="utf-8"), read_counts(COUNTS)), encoding="utf-8")


def _run(scenario: Scenario, of: ScenarioSet, num_studies: int) -> Tally:
    tally = calibrate(scenario, of.claims, num_studies)
    print(scenario.name, {claim: dict(counts) for claim, counts in tally.counts.items()}, flush=True)
    return tally


# The page


def with_blocks(page: str, found: Mapping[str, Tallies]) -> str:
    """The page with what stands between the marks of each set written anew."""
    for name, tallies in found.items():
        begin, end = f"<!-- calibration of {name} claims: begin -->", f"<!-- calibration of {name} claims: end -->"
        head, rest = page.split(begin)
        block = f"{largest_errors(SETS[name], tallies)}\n\n{table(SETS[name], tallies)}"
        page = f"{head}{begin}\n{block}\n{end}{rest.split(end)[1]}"
    return page


def table(of: ScenarioSet, tallies: Tallies) -> str:
    """One row per scenario and claim: what is true, and the share of studies with each outcome."""
    lines = [
        f"| scenario | claim | true | {' | '.join(OUTCOMES)} |",
        f"|---|---|---|{'---|' * len(OUTCOMES)}",
    ]
    for scenario in of.scenarios:
        tally = tallies[scenario.name]
        for claim in of.claims:
            rates = " | ".join(_rate(tally.rate(claim, outcome)) for outcome in OUTCOMES)
            lines.append(f"| {scenario.name} | {claim} | {scenario.truth(claim)} | {rates} |")
    return "\n".join(lines)


def largest_errors(of: ScenarioSet, tallies: Tallies) -> str:
    """In words, the rates of the two kinds of error where they are largest, and how surely an unmet premise is seen."""
    false = _extreme(of, tallies, "no", "supported", max)
    true = _extreme(of, tallies, "yes", "not supported", max)
    unasked = _extreme(of, tallies, "not asked", "premise not met", min)
    (num_studies,) = {tally.num_studies for tally in tallies.values()}
    return (
        f'{num_studies} studies per scenario. Largest rate of "supported" where a claim is false: {false}; of "not supported" '
        f'where it is true: {true}. Smallest rate of "premise not met" where it is not asked: {unasked}.'
    )


def _extreme(of: ScenarioSet, tallies: Tallies, truth: str, outcome: str, choose: Callable) -> str:
    rates = [
        (tallies[scenario.name].rate(claim, outcome), f"{claim}, {scenario.name}")
        for scenario in of.scenarios
        for claim in of.claims
        if scenario.truth(claim) == truth
    ]
    rate, where = choose(rates, key=lambda one: one[0])
    return f"{_rate(rate)} ({where})" if rate not in (0, 1) else _rate(rate)


def _rate(rate: float) -> str:
    return "0" if rate == 0 else "1" if rate == 1 else f"{rate:.3f}".lstrip("0")


# The counts


def write_counts(path: Path, found: Mapping[str, Tallies]) -> None:
    """By set: what the claims were, the number of studies per scenario, and of each outcome by scenario and claim."""
    raw = {
        name: {
            "claims_sha256": SETS[name].claims_sha256,
            "studies": next(iter(tallies.values())).num_studies,
            "outcomes": {scenario: tally.counts for scenario, tally in tallies.items()},
        }
        for name, tallies in found.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")


def read_counts(path: Path) -> dict[str, dict[str, Tally]]:
    if not path.exists():
        return {}
    raw = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: {
            scenario: Tally(one["studies"], {claim: Counter(counts) for claim, counts in by_claim.items()})
            for scenario, by_claim in one["outcomes"].items()
        }
        for name, one in raw.items()
    }


if __name__ == "__main__":
    main()

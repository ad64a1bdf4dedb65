"""What the main texts say about studies is what results/ holds: every number with an interval, to its last digit."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NUMBER = r"[-+]?\d*\.\d+"
ESTIMATE = re.compile(rf"({NUMBER}) \[({NUMBER}), ({NUMBER})\]")


def kept_estimates():
    """(value, lo, hi) of every estimate in results/, also turned round: forgetting is the base minus the run."""
    found = set()

    def walk(node):
        if isinstance(node, dict):
            one = tuple(node.get(name) for name in ("value", "lo", "hi"))
            if all(isinstance(number, int | float) for number in one):
                found.update([one, (-one[0], -one[2], -one[1])])
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            walk(child)

    for path in (ROOT / "results").glob("**/*.json"):
        walk(json.loads(path.read_text(encoding="utf-8")))
    return found


def as_printed(numbers, digits):
    return tuple(f"{number:.{digits}f}".replace("-" + f"{0:.{digits}f}", f"{0:.{digits}f}") for number in numbers)


def estimates_of(text):
    """By their text, the numbers as printed."""
    return {
        match[0]: as_printed(map(float, match.groups()), len(match[1].partition(".")[2]))
        for match in ESTIMATE.finditer(text)
    }


@pytest.mark.parametrize("page", ["README.md", "docs/what-we-know.md"])
def test_every_estimate_is_one_of_the_results(page):
    kept = kept_estimates()
    printed = {digits: {as_printed(one, digits) for one in kept} for digits in (2, 3)}
    said = estimates_of((ROOT / page).read_text(encoding="utf-8"))
    assert len(said) > 10
    assert [text for text, numbers in said.items() if numbers not in printed[len(numbers[0].partition(".")[2])]] == []


def test_a_number_that_is_off_by_its_last_digit_is_noticed():
    assert estimates_of("gains .051 [.029, .073]") == {".051 [.029, .073]": ("0.051", "0.029", "0.073")}
    assert as_printed((-0.0004, -0.011, 0.0114), 3) == ("0.000", "-0.011", "0.011")
    assert ("0.051", "0.029", "0.074") not in {as_printed(one, 3) for one in kept_estimates()}

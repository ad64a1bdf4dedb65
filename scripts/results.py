"""Rebuilds a study that results/ holds: the same preset and seeds into studies/NAME, then its small files into results/NAME.

    python scripts/results.py controls

What is kept under results/ is what people read: plan, comparison, verdicts, predictors and the two tables. The whole
folder with its report stays in studies/NAME.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

KEPT = ("plan.json", "comparison.json", "verdicts.json", "predictors.json", "table1.md", "table2.md")
ROOT = Path(__file__).parents[1]


def main(name: str) -> int:
    archive = ROOT / "results" / name
    names = sorted(str(path.parent.relative_to(ROOT / "results")) for path in (ROOT / "results").glob("**/plan.json"))
    if name not in names:
        print(f"NAME: got {name!r}; expected one of {', '.join(names)}", file=sys.stderr)
        return 2
    plan = json.loads((archive / "plan.json").read_text())
    folder = ROOT / "studies" / Path(name).name
    seeds = ",".join(map(str, plan["seeds"]))
    stateshape = Path(sys.executable).with_name("stateshape")
    subprocess.run([stateshape, "study", plan["study"], "--seeds", seeds, "--out", folder], check=True)
    for file in KEPT:
        if (folder / file).exists():
            shutil.copyfile(folder / file, archive / file)
    print(f"report: {folder / 'report.html'}; small files: {archive}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ""))

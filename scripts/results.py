"""The small files of a study under results/: of the preset and seeds that are there run again, or of a finished folder.

    python scripts/results.py controls               # runs it in studies/controls, then refreshes results/controls
    python scripts/results.py controls FOLDER        # of a study that is finished, in any folder

What is kept under results/ is what people read: plan, comparison, verdicts, findings and the main tables, and for scores
along runs dose.json with its figure. The whole folder with its report stays where it is. Where plan.json names it, results/
says studies/NAME, the place of `make results`.
"""

import json
import subprocess
import sys
from pathlib import Path

KEPT = (
    "plan.json",
    "comparison.json",
    "verdicts.json",
    "findings.json",
    "looks.json",
    "predictors.json",
    "dose.json",
    "table1.md",
    "table2.md",
    "tables/dose_forward_kl_new_task_nats.md",
    "plots/dose_forward_kl_new_task_nats.svg",
)
ROOT = Path(__file__).parents[1]


def main(name: str, finished: str | None) -> int:
    archive = ROOT / "results" / name
    if finished is None:
        names = sorted(
            str(path.parent.relative_to(ROOT / "results")) for path in (ROOT / "results").glob("**/plan.json")
        )
        if name not in names:
            print(f"NAME: got {name!r}; expected one of {', '.join(names)}", file=sys.stderr)
            return 2
        folder = run_again(archive)
    else:
        folder = Path(finished)
        if not (folder / "comparison.json").exists():
            print(f"FOLDER: got {finished}; expected a study that was compared", file=sys.stderr)
            return 2
    keep(folder, archive)
    print(f"report: {folder / 'report.html'}; small files: {archive}")
    return 0


def run_again(archive: Path) -> Path:
    plan = json.loads((archive / "plan.json").read_text())
    folder = ROOT / "studies" / archive.name
    seeds = ",".join(map(str, plan["seeds"]))
    stateshape = Path(sys.executable).with_name("stateshape")
    subprocess.run([stateshape, "study", plan["study"], "--seeds", seeds, "--out", folder], check=True)
    return folder


def keep(folder: Path, archive: Path) -> None:
    """What else is in the archive is refreshed too, or goes where the study no longer has it."""
    archive.mkdir(parents=True, exist_ok=True)
    more = {f"{part}{old.name}" for old in archive.iterdir() for part in ("", "tables/", "plots/")}
    found = {path.name: path for name in sorted({*KEPT, *more}) if (path := folder / name).is_file()}
    for old in archive.iterdir():
        if old.name not in found:
            old.unlink()
    for name, path in found.items():
        text = path.read_text(encoding="utf-8")
        (archive / name).write_text(text.replace(str(folder), f"studies/{archive.name}"), encoding="utf-8")


if __name__ == "__main__":
    given = [*sys.argv[1:], "", None]
    sys.exit(main(given[0], given[1] or None))

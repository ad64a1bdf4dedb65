"""What a study of a thousand runs costs to look at: made-up run folders, then `study status` and `report`, each timed once.

    python -m benchmarks.many_runs --runs 6 --seeds 167 --items 200 --out /tmp/many

Folders are those of tests/synthetic_study.py: run.json, metrics, a few states, rows of three tasks, drift. No model is
involved. Adapters and states on record are not there; `report` reads neither.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import synthetic_study


def write(folder: Path, *, runs: int, seeds: int, items: int) -> None:
    """`runs` runs of `seeds` seeds each, which repeat the six of the made-up study, and the base."""
    kinds = [name for name in synthetic_study.RATES if name != "base"]
    names = {kind if turn == 0 else f"{kind}_{turn}": kind for turn in range(-(-runs // len(kinds))) for kind in kinds}
    chosen = dict(list(names.items())[:runs])
    for table in (synthetic_study.METHOD_OF, synthetic_study.TEACHERS, synthetic_study.DRIFT):
        table.update({name: table[kind] for name, kind in chosen.items() if kind in table})
    rates = {name: synthetic_study.RATES[kind] for name, kind in {"base": "base", **chosen}.items()}
    synthetic_study.write_synthetic_study(folder, seeds=range(seeds), num_items=items, rates=rates)


def seconds_of(*words: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "stateshape", *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=167)
    parser.add_argument("--items", type=int, default=200, help="of each of three tasks")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    write(args.out, runs=args.runs, seeds=args.seeds, items=args.items)
    size = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    print(f"{args.runs} runs x {args.seeds} seeds x 3 x {args.items} items: {size / 1e6:.0f} MB")
    for words in (("study", "status", str(args.out)), ("report", str(args.out))):
        print(f"{' '.join(words[:-1])}: {seconds_of(*words):.1f} s", flush=True)


if __name__ == "__main__":
    main()

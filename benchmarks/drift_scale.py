"""Seconds and memory of a whole drift measurement against the number of states.

    OMP_NUM_THREADS=2 python -m benchmarks.drift_scale --states 100000      one size: prints seconds and peak memory
    OMP_NUM_THREADS=1 python -m benchmarks.drift_scale                       SIZES, each in a process of its own; writes
                                                                            results/bench/drift-scale.json and the figure
    python -m benchmarks.drift_scale --draw                                  the figure alone, from the results

One measurement is what a study does once a run and seed: three sides (base, base again, run), response prefixes and full
states, all distances, 1,000 permutations and 500 resamples. Texts are random words with Zipf's frequencies in responses of
60 to 200 words, cut 4 times. Seconds are processor seconds beside wall seconds: on a shared machine only the first are the
program's. Memory is the process' peak, the rollouts themselves included.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from typing import Any

import torch

from benchmarks.common import RESULTS, ROOT, cpu_name, write_json
from benchmarks.drift import sentence_rollouts
from stateshape.drift.all_distances import MAX_EXACT
from stateshape.drift.measure import measure
from stateshape.drift.nulls import NUM_PERMUTATIONS
from stateshape.drift.states import NUM_CUTS
from stateshape.report.drawing.svg import INK, file_svg, new_figure, plot_style

SIZES = (256, 512, 1024, 2048, 4096, 12_000, 36_000, 100_000)
SEED = 0
FIGURE = ROOT / "docs" / "figures" / "drift_scale.svg"


def one(num_states: int) -> dict[str, Any]:
    """This process' seconds and peak memory."""
    sides = [sentence_rollouts(num_states // NUM_CUTS, seed=seed) for seed in (1, 2, 3)]
    before_gb = _peak_gb()
    wall, cpu = time.perf_counter(), time.process_time()
    record = measure(*sides, task="zipf", seed=SEED)
    return {
        "states_a_side": record.num_states,
        "wall_seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "peak_gb": _peak_gb(),
        "peak_before_gb": before_gb,
        "permutations": NUM_PERMUTATIONS,
        "threads": torch.get_num_threads(),
        "how": {name: value.note for name, value in record.distances.items() if value.note},
    }


def _peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=int, help="one size, in this process")
    parser.add_argument("--draw", action="store_true", help="the figure alone")
    chosen = parser.parse_args()
    if chosen.states:
        print(json.dumps(one(chosen.states)))
        return
    path = RESULTS / "drift-scale.json"
    if not chosen.draw:
        rows = []
        for size in SIZES:
            command = [sys.executable, "-m", "benchmarks.drift_scale", "--states", str(size)]
            done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
            rows.append(json.loads(done.stdout))
            print(
                {key: rows[-1][key] for key in ("states_a_side", "cpu_seconds", "wall_seconds", "peak_gb")}, flush=True
            )
        write_json(path, {"rows": rows, "cpu": cpu_name(), "cpus_usable": len(os.sched_getaffinity(0))})
    draw(json.loads(path.read_text(encoding="utf-8"))["rows"])


def draw(rows: list[dict[str, Any]]) -> None:
    """The figure; the dotted line is where pairs of all states end and random features begin."""
    sizes = [row["states_a_side"] for row in rows]
    with plot_style():
        figure = new_figure(6.4, 3.0)
        for place, key, label in ((1, "cpu_seconds", "processor seconds"), (2, "peak_gb", "peak memory, GB")):
            axes = figure.add_subplot(1, 2, place)
            axes.plot(sizes, [row[key] for row in rows], color=INK, marker="o", markersize=3.5, linewidth=1.2)
            axes.axvline(MAX_EXACT, color=INK, alpha=0.5, linewidth=0.8, linestyle=(0, (1, 2)))
            axes.set_xscale("log")
            axes.set_yscale("log" if key == "cpu_seconds" else "linear")
            axes.set_ylim(bottom=None if key == "cpu_seconds" else 0)
            axes.set_xlabel("states a side")
            axes.set_ylabel(label)
        drawing = file_svg(figure, title="Cost of a drift measurement", description=_described(rows))
    FIGURE.write_text(drawing, encoding="utf-8")
    print(FIGURE)


def _described(rows: list[dict[str, Any]]) -> str:
    each = (f"{row['states_a_side']:,}: {row['cpu_seconds']:.1f} s, {row['peak_gb']:.2f} GB" for row in rows)
    return "States a side, processor seconds and peak memory: " + "; ".join(each) + "."


if __name__ == "__main__":
    main()

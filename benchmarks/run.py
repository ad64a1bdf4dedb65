"""Runs benchmarks, prints one table, writes results/bench/<name>-<model>.json.

    python -m benchmarks.run [NAME ...] [--model embedded|FOLDER] [--repeats N] [--limit N] [--small] [--threads N]

Without a name: everything that fits the model. Official data are read from the folder in STATESHAPE_DATA.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import inspect

import torch

from benchmarks.common import Options, Row, quiet_peers, show, write_result

NAMES = ("grpo", "opd", "sampling", "sft", "ahead", "truthfulqa", "mmlu", "harness_tasks", "drift")
REAL_MODEL_ONLY = (
    "truthfulqa",
    "mmlu",
    "harness_tasks",
)  # long official prompts, which the embedded base was not made for


def run_one(name: str, model: str, options: Options) -> list[Row]:
    run = importlib.import_module(f"benchmarks.{name}").run
    rows: list[Row] = run(model, options) if len(inspect.signature(run).parameters) > 1 else run(model)
    print(f"  {write_result(name, model, rows, options)}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; default: all")
    parser.add_argument("--model", default="embedded", help="embedded, or a folder")
    parser.add_argument("--repeats", type=int, help="timed repeats of each side; default: the benchmark's own")
    parser.add_argument("--limit", type=int, help="items of truthfulqa, items a subject of mmlu, both of harness_tasks")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the code")
    parser.add_argument("--threads", type=int, help="default: what torch takes by itself")
    chosen = parser.parse_args()
    unknown = sorted(set(chosen.names) - set(NAMES))
    if unknown:
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    quiet_peers()
    options = Options(repeats=chosen.repeats, limit=chosen.limit, is_small=chosen.small)
    there = [name for name in NAMES if importlib.util.find_spec(f"benchmarks.{name}")]
    fitting = [name for name in there if chosen.model != "embedded" or name not in REAL_MODEL_ONLY]
    rows: list[Row] = []
    for name in chosen.names or fitting:
        print(f"{name} on {chosen.model}, {torch.get_num_threads()} threads", flush=True)
        rows += run_one(name, chosen.model, options)
    show(rows)


if __name__ == "__main__":
    main()

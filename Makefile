# Everything runs in .venv, which is made on first use and refreshed when the dependencies change.
# TORCH=cpu, default or auto decides which build of torch that takes: see scripts/install.sh.
PYTHON ?= python3
TORCH ?= auto
SEEDS ?= 0,1,2
OUT ?= studies/quickstart
MODEL ?= embedded
BENCH ?=
STAGE ?=
BIN := .venv/bin
# Threads that share cores with other work sleep at barriers instead of spinning.
export GOMP_SPINCOUNT ?= 5000
INSTALL := PYTHON="$(PYTHON)" TORCH="$(TORCH)" scripts/install.sh .venv
DEPENDENCIES := pyproject.toml constraints.txt scripts/install.sh

.PHONY: study test check docs bench bench-gpu clean

study: .venv/.installed  ## the embedded study: seven rows, three seeds (SEEDS=0 for one)
	$(BIN)/stateshape study quickstart --out $(OUT) --seeds $(SEEDS)

test: .venv/.installed-dev check  ## checks and tests
	$(BIN)/python -m pytest -n 2

check: .venv/.installed-dev  ## format, lint, types, import rules
	$(BIN)/ruff format --check -q src tests benchmarks
	$(BIN)/ruff check -q src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/.installed-docs  ## the documentation site, in build/docs; fails on a broken link, an unknown command or flag
	$(BIN)/python docs/tools/check_commands.py
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs
	@echo "build/docs/index.html"

bench: .venv/.installed-bench  ## side by side with peers (BENCH="sampling grpo" for some, MODEL=FOLDER for another model than the embedded)
	$(BIN)/python -m benchmarks.run $(BENCH) --model $(MODEL)

bench-gpu: .venv/.installed  ## on a GPU: STAGE=sampling, training, peers or study; each fits into ten minutes
	$(BIN)/python -m benchmarks.gpu $(STAGE) --model $(MODEL)

# A study needs neither linters nor test oracles nor peers.
.venv/.installed: $(DEPENDENCIES)
	@$(INSTALL) ""
	@touch $@

.venv/.installed-dev: $(DEPENDENCIES)
	@$(INSTALL) dev,gguf
	@touch $@ .venv/.installed

.venv/.installed-docs: $(DEPENDENCIES)
	@$(INSTALL) docs
	@touch $@ .venv/.installed

.venv/.installed-bench: $(DEPENDENCIES)
	@$(INSTALL) dev,gguf,bench
	@touch $@ .venv/.installed

clean:
	rm -rf .venv studies build dist

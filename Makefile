# Everything runs in .venv, which is made on first use and refreshed when the dependencies change.
PYTHON ?= python3
SEEDS ?= 0,1,2
OUT ?= studies/quickstart
MODEL ?= embedded
BENCH ?=
STAGE ?=
BIN := .venv/bin
# Threads that share cores with other work sleep at barriers instead of spinning.
export GOMP_SPINCOUNT ?= 5000
INSTALLED := .venv/.installed

.PHONY: study test test-old-processor check bench bench-gpu clean

study: $(INSTALLED)  ## the embedded study: seven rows, three seeds (SEEDS=0 for one)
	$(BIN)/stateshape study quickstart --out $(OUT) --seeds $(SEEDS)

test: $(INSTALLED) check  ## checks and tests
	$(BIN)/python -m pytest -n 2
	$(MAKE) test-old-processor

# What torch, oneDNN and MKL read: no instructions later than SSE4, as on a processor of 2008. Others round otherwise.
test-old-processor: export ATEN_CPU_CAPABILITY := default
test-old-processor: export ONEDNN_MAX_CPU_ISA := SSE41
test-old-processor: export MKL_CBWR := COMPATIBLE
test-old-processor: $(INSTALLED)  ## golden, agreement and resume tests once more, with other instructions
	$(BIN)/python -m pytest -n 2 -m numerics

check: $(INSTALLED)  ## format, lint, types, import rules
	$(BIN)/ruff format --check -q src tests benchmarks
	$(BIN)/ruff check -q src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED)  ## side by side with peers (BENCH="sampling grpo" for some, MODEL=FOLDER for another model than the embedded)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks.run $(BENCH) --model $(MODEL)

bench-gpu: $(INSTALLED)  ## on a GPU: STAGE=sampling, training, peers or study; each fits into ten minutes
	$(BIN)/python -m benchmarks.gpu $(STAGE) --model $(MODEL)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,gguf]'
	touch $(INSTALLED)

clean:
	rm -rf .venv studies build dist

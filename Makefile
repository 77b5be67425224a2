# Each target sets up what it needs in .venv; nothing outside this folder is touched.
PYTHON ?= python3
VENV := .venv
RUNS ?= 1000000
BIN := $(VENV)/bin

TRITON_BIN := .venv-triton/bin

.PHONY: demo test test-gpu test-triton fuzz lint bench shipped clean

demo: $(VENV)/.demo
	$(BIN)/pedsam demo

# The tests of the preview's page drive a Chromium; where there is none they are left out, and that is said.
CHROMIUM := $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal
test: $(VENV)/.test
ifeq ($(CHROMIUM),)
	$(PYTEST) -m "not gpu and not triton and not browser"
	@echo "NOT TESTED: the preview in a browser, for want of one; on Debian: apt-get install chromium"
else
	$(PYTEST) -m "not gpu and not triton"
endif

test-gpu: $(VENV)/.test
	$(BIN)/python -m pytest -m gpu

# A real Triton 2.51 on this machine (x86-64, no GPU needed), in an environment of its own.
test-triton: $(VENV)/.test $(TRITON_BIN)/.installed
	TRITON_PYTHON=$(TRITON_BIN)/python $(BIN)/python -m pytest -m triton

# make fuzz RUNS=10000000: coverage-guided fuzzing of the decoders; what breaks them is left in out/fuzz.
fuzz: $(VENV)/.test $(VENV)/.fuzz
	$(BIN)/python -m tests.fuzz.wire -runs=$(RUNS)

lint: $(VENV)/.test $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.demo
	$(BIN)/python -m benchmarks.three_sites --out benchmarks/results/three_sites_mini.json
	$(BIN)/python -m benchmarks.throughput --rows fixed --rows straggler --rows loopback \
		--out benchmarks/results/throughput_mini.json

# make shipped WEIGHTS=mini.safetensors: the bundle in assets/mini, and beside it the weights, to train further. The
# bundle leaves out `whole`, which only --verify needs and which holds the weights of window and global once more.
shipped: $(VENV)/.test
	$(BIN)/pedsam export --model mini --checkpoint $(WEIGHTS) --compact --out out/shipped
	cd out/shipped && cp -r bundle.json edge window global decoder ../../assets/mini
	$(BIN)/python -c 'from pathlib import Path; from export.sam import load_weights, save_weights; \
		weights = load_weights(None, Path("$(WEIGHTS)")); \
		save_weights(weights.sam.half().state_dict(), Path("assets/mini.safetensors"), weights.status, weights.trained_on)'

clean:
	rm -rf $(VENV) .venv-triton out bundles .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable ".[demo]"
	touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable ".[test]"
	touch $@

$(VENV)/.lint: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable ".[lint]"
	touch $@

$(VENV)/.fuzz: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable ".[fuzz]"
	touch $@

$(TRITON_BIN)/.installed:
	$(PYTHON) -m venv .venv-triton
	$(TRITON_BIN)/pip install --quiet nvidia-pytriton==0.7.0 onnxruntime
	touch $@

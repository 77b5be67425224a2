# Each target sets up what it needs in .venv; nothing outside this folder is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-gpu lint bench clean

demo: $(VENV)/.demo
	$(BIN)/pedsam demo

test: $(VENV)/.test
	$(BIN)/python -m pytest -m "not gpu"

test-gpu: $(VENV)/.test
	$(BIN)/python -m pytest -m gpu

lint: $(VENV)/.test $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.demo
	$(BIN)/python -m benchmarks.three_sites --out benchmarks/results/three_sites_mini.json

clean:
	rm -rf $(VENV) out bundles .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The demo exports its own bundle, so it needs torch too.
$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable ".[demo,export]"
	touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable ".[test]"
	touch $@

$(VENV)/.lint: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable ".[lint]"
	touch $@

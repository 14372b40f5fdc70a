# Everything that a machine needs is set up by the targets themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/stamp

.PHONY: help demo test test-fast lint bench clean

help: ## Show the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

demo: $(STAMP) ## Run a notebook on three kernels that share one GPU, and watch
	$(BIN)/jupyter-gpu-share demo

test: $(STAMP) ## Run all tests, other projects' suites included
	scripts/install-tools
	$(BIN)/python -m pytest

test-fast: $(STAMP) ## Run the tests that take less than a minute together
	$(BIN)/python -m pytest -m "not slow and not suite"

lint: $(STAMP) ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP) ## Measure against jupyter_client's local provisioner, into build/bench.json
	$(BIN)/python -m bench

clean: ## Remove what the targets made
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(STAMP): pyproject.toml scripts/make-venv
	scripts/make-venv $(PYTHON) $(VENV)
	@touch $@

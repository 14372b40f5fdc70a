# Everything that a machine needs is set up by the targets themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/stamp

.PHONY: help demo test test-fast faults lint bench clean

help: ## Show the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

# ENGINE=kubernetes: in pods of the cluster that kubectl takes, which are made of IMAGE; where there
# is no such cluster, in one of this machine's own, which ends with the demo.
demo: $(STAMP) ## Run a notebook on three kernels that share one GPU, and watch
ifeq ($(ENGINE),kubernetes)
	$(BIN)/python -m tests.cluster.demo $(if $(IMAGE),--image $(IMAGE))
else
	$(BIN)/jupyter-gpu-share demo $(if $(ENGINE),--engine $(ENGINE))
endif

test: $(STAMP) ## Run all tests, other projects' suites included
	scripts/install-tools
	$(BIN)/python -m pytest

test-fast: $(STAMP) ## Run the tests that take less than a minute together
	$(BIN)/python -m pytest -m "not slow and not suite"

faults: $(STAMP) ## Do each fault of a cluster 20 times, and write docs/faults.md
	scripts/install-tools
	mkdir -p build && rm -f build/faults.jsonl
	JUPYTER_GPU_SHARE_FAULT_ROUNDS=20 JUPYTER_GPU_SHARE_FAULT_LOG=$(CURDIR)/build/faults.jsonl \
		JUPYTER_GPU_SHARE_REQUIRE_CLUSTER=1 $(BIN)/python -m pytest -q \
		-m fault tests/kubernetes
	$(BIN)/python tests/kubernetes/faults_table.py build/faults.jsonl docs/faults.md

lint: $(STAMP) ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP) ## Measure beside other projects' provisioners, into build/bench.json
	$(BIN)/python -m bench

clean: ## Remove what the targets made
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(STAMP): pyproject.toml scripts/make-venv
	scripts/make-venv $(PYTHON) $(VENV)
	@touch $@

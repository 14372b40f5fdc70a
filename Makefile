# Everything that a machine needs is set up by the targets themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/stamp
# The demo alone needs little. What is there already serves it, too.
DEMO_STAMP := $(VENV)/stamp-demo
DEMO_NEEDS := $(if $(filter kubernetes,$(ENGINE))$(wildcard $(STAMP)),$(STAMP),$(DEMO_STAMP))
MODULES := labextension/node_modules
NPM := scripts/npm-env $(VENV)

.PHONY: help demo lab extension test test-fast test-libraries test-gpu faults pictures lint bench clean

help: ## Show the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

# ENGINE=kubernetes: in pods of the cluster that kubectl takes, which are made of IMAGE; where there
# is no such cluster, in one of this machine's own, which ends with the demo. USERS=3: a broker and as
# many users, which takes root.
demo: $(DEMO_NEEDS) ## Run a notebook on three kernels that share one GPU, and watch
ifeq ($(ENGINE),kubernetes)
	$(BIN)/python -m tests.cluster.demo $(if $(IMAGE),--image $(IMAGE))
else
	$(BIN)/jupyter-gpu-share demo $(if $(ENGINE),--engine $(ENGINE)) $(if $(USERS),--users $(USERS))
endif

lab: $(STAMP) extension ## Start JupyterLab on two simulated GPUs, with the demo's notebook open
	mkdir -p build/lab/binder
	[ -e build/lab/binder/demo.ipynb ] || cp binder/demo.ipynb build/lab/binder/
	cd build/lab && PATH="$(CURDIR)/$(BIN):$$PATH" $(CURDIR)/binder/start \
		jupyter lab --no-browser $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB)

extension: $(STAMP) # Build the JupyterLab extension again if its sources have changed.
	$(NPM) python scripts/labextension.py

test: $(STAMP) extension $(MODULES) ## Run all tests, other projects' suites included
	scripts/install-tools
	$(BIN)/python scripts/run-all-tests --durations=15

test-fast: $(STAMP) ## Run the tests that take less than a minute together
	$(BIN)/python -m pytest -m "not slow and not suite"

test-libraries: $(STAMP) ## Try what is kept of PyTorch, JAX and others, which are installed first (7 GB)
	scripts/make-libraries $(PYTHON)
	$(BIN)/python -m pytest -q tests/kept

# GPU_PYTHON: a Python that has PyTorch and cuda-bindings, where that is not this project's own.
test-gpu: $(STAMP) ## Ask the first questions of this machine's NVIDIA GPU, if it has one, then try all on it
	JUPYTER_GPU_SHARE_GPU_PYTHON="$(GPU_PYTHON)" $(BIN)/python -m pytest -q tests/gpu/test_first_minutes.py; \
		first=$$?; JUPYTER_GPU_SHARE_GPU_PYTHON="$(GPU_PYTHON)" $(BIN)/python -m pytest -q tests/gpu \
		--ignore tests/gpu/test_first_minutes.py && exit $$first

faults: $(STAMP) ## Do each fault of a cluster 20 times, thousands of random schedules; write docs/faults.md
	scripts/install-tools
	mkdir -p build && rm -f build/faults.jsonl
	JUPYTER_GPU_SHARE_FAULT_ROUNDS=20 JUPYTER_GPU_SHARE_FAULT_LOG=$(CURDIR)/build/faults.jsonl \
		JUPYTER_GPU_SHARE_REQUIRE_CLUSTER=1 $(BIN)/python -m pytest -q \
		-m fault tests/kubernetes tests/release tests/server tests/kernel_side tests/local tests/broker \
		tests/cluster_hub
	$(BIN)/python tests/kubernetes/faults_table.py build/faults.jsonl docs/faults.md

pictures: $(STAMP) extension ## Make the pictures of the docs anew, from the real page
	scripts/install-tools
	JUPYTER_GPU_SHARE_PICTURES=1 $(BIN)/python -m pytest -q tests/browser/test_pictures.py

lint: $(STAMP) $(MODULES) ## Check style and types, and the page's pure parts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd labextension && ../scripts/npm-env ../$(VENV) jlpm lint
	cd labextension && ../scripts/npm-env ../$(VENV) jlpm test

bench: $(STAMP) extension ## Measure beside other projects' provisioners, into build/bench.json
	scripts/install-tools
	$(BIN)/python -m bench

clean: ## Remove what the targets made
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -rf $(MODULES) labextension/lib labextension/tsconfig.tsbuildinfo jupyter_gpu_share/labextension

$(STAMP): pyproject.toml scripts/make-venv scripts/npm-env
	scripts/make-venv $(PYTHON) $(VENV)
	@touch $@

$(DEMO_STAMP): pyproject.toml scripts/make-venv
	scripts/make-venv $(PYTHON) $(VENV) demo
	@touch $@

$(MODULES): labextension/package.json labextension/yarn.lock | $(STAMP)
	cd labextension && ../scripts/npm-env ../$(VENV) jlpm install --immutable
	@touch $@

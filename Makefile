# One command each: `make help` lists them. Everything is installed into .venv, nothing anywhere else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
DOCS_STAMP := $(VENV)/.docs-done
STORE := .venv-swift
STORE_STAMP := $(STORE)/.setup-done
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Where the driver shows a GPU, what torch brings for it is pinned too.
DRIVER_GPUS := /proc/driver/nvidia/gpus
PINS := constraints.txt $(if $(wildcard $(DRIVER_GPUS)/*),constraints-gpu.txt)
INSTALL := $(PIP) install -qq --no-compile $(addprefix -c ,$(PINS))
BENCHES = $(subst /,.,$(basename $(shell grep -l '^"""Claim' bench/*/*.py)))

export DS_BUILD_OPS := 0
export RAY_worker_niceness ?= 0

.DEFAULT_GOAL := help
.PHONY: help setup store demo audit test soak hosts soak-hosts check house fix bench bench-gpu results docs

help: ## list the commands
	@awk -F ': .*## ' '/^[a-z-]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## install everything into .venv (once; again when pyproject.toml or the constraints change)

$(STAMP): pyproject.toml $(PINS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1); try: make setup PYTHON=python3.11"; exit 2; }
	@echo "setup 1/5: virtual environment in $(VENV), with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) setuptools wheel
	@echo "setup 2/5: torch"
	@$(INSTALL) torch numpy
	@echo "setup 3/5: Ray, FAISS, DeepSpeed (no operators are compiled), tools"
	@DS_ACCELERATOR=cpu $(INSTALL) --no-build-isolation $$($(BIN)/python -c "$$REQUIREMENTS")
	@echo "setup 4/5: this project, editable"
	@$(INSTALL) --no-deps --no-build-isolation -e .
	@echo "setup 5/5: bytecode"
	-@$(BIN)/python -m compileall -qq -j 0 -x '/tests?/|py312' $(VENV)/lib
	@touch $@
	@echo "setup done: $$($(BIN)/python -c 'import torch, ray; print("torch", torch.__version__, "ray", ray.__version__)')"

# What pyproject.toml names. DeepSpeed is a source distribution that imports torch, hence torch before it.
define REQUIREMENTS
import tomllib
project = tomllib.load(open('pyproject.toml', 'rb'))['project']
extras = project['optional-dependencies']
print(*project['dependencies'], *extras['cpu'], *extras['dev'])
endef
export REQUIREMENTS

store: $(STORE_STAMP) ## install the S3 store of tests and benchmarks (OpenStack Swift) into .venv-swift

$(STORE_STAMP): testing/s3_requirements.txt
	@echo "store: OpenStack Swift in $(STORE)"
	@$(PYTHON) -m venv $(STORE)
	@$(STORE)/bin/python -m pip --disable-pip-version-check install -qq -r $<
	@touch $@

demo: setup ## draw faces, sweep over K, gamma and learning rates, train LDLVA and its baseline, show what was found
	@$(BIN)/python jobs/demo.py

AUDIT ?= runs/audit
audit: setup ## IMAGES=FOLDER TABLE=CSV [AUDIT=FOLDER] [MORE="--training.epochs 20"]: from images with labels to the page
	@$(BIN)/python jobs/audit.py $(if $(TABLE),"$(TABLE)" --images "$(IMAGES)","$(IMAGES)") --output "$(AUDIT)" $(MORE)

test: setup store ## every test that needs no GPU
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests --ignore tests/hosts -n 2 --dist loadfile --no-loadscope-reorder -q
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/hosts/test_hosts.py -q

MINUTES ?= 30
SEED ?= 0
soak: setup store ## MINUTES=30: runs that are killed, stopped, filled up or cut off, by seed, and what became of each
	@OMP_NUM_THREADS=1 $(BIN)/python -m bench.faults.soak --minutes $(MINUTES) --start-seed $(SEED)

hosts: setup store ## runs on six machines of Linux name spaces: the tests on them alone (needs root)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/hosts -q

soak-hosts: setup store ## MINUTES=30 SEED=0: runs on such machines that lose cables, power, store, head or time, by seed
	@OMP_NUM_THREADS=1 $(BIN)/python -m bench.faults.hosts --minutes $(MINUTES) --start-seed $(SEED)

check: setup ## lint, format, types, import contracts, layout
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	@$(BIN)/python -m bench.house

house: setup ## rooms, arrows, names and docstrings, from the imports and the syntax, with their limits
	@$(BIN)/python -m bench.house

fix: setup ## let ruff repair and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup store ## every benchmark that needs no GPU, one JSON line each
	@for bench in $(BENCHES); do echo "== $$bench"; $(BIN)/python -m $$bench || exit 1; done

bench-gpu: setup ## on a machine with a GPU, under 10 minutes: the step alone, then whole runs and the graph
	@$(BIN)/python -m bench.gpu_step
	@$(BIN)/python -m bench.gpu

results: ## today's headline of every claim, from the pages in results/
	@$(PYTHON) -m bench.headlines

docs: $(DOCS_STAMP) ## the documentation into build/docs; a broken link fails
	@$(BIN)/python docs/rooms.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "open build/docs/index.html"

$(DOCS_STAMP): $(STAMP)
	@$(PIP) install -qq -c constraints.txt $$($(BIN)/python -c "import tomllib; \
		print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'])")
	@touch $@

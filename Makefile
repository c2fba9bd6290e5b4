# `make demo` and `make test` need Python 3.11 or 3.12 and nothing else: each makes the environment it uses.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt
# Where torch comes from. Empty: the default index, whose Linux wheel brings CUDA. For a machine without a GPU:
#   make demo TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
TORCH_INDEX_URL ?=
# Two tests at a time: those of control loops wait most of their time. PYTEST_ARGS= runs one after another.
PYTEST_ARGS ?= -n 2
MUTANTS ?=
MUTANT_WORKERS ?= 2

# Off-screen rendering, drawn in the calling thread where the renderer is a software one.
export MUJOCO_GL ?= egl
export LP_NUM_THREADS ?= 0

BASE_STAMP := $(VENV)/.installed-base
DEV_STAMP := $(VENV)/.installed-dev
LIBERO_STAMP := $(VENV)/.installed-libero

.PHONY: help demo test lint format bench gpu-check mutants libero doctor clean

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(BASE_STAMP) ## Demonstrations, fine-tuning, SRPO and a report, from nothing (runs/demo/report.html)
	@$(BIN)/vla doctor --brief
	$(BIN)/vla demo

test: export OMP_NUM_THREADS ?= 1
test: $(DEV_STAMP) $(LIBERO_STAMP) ## The whole test suite (with LIBERO_ASSETS set: on LIBERO's scenes too)
	@$(BIN)/vla doctor --brief
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(DEV_STAMP) ## Style, formatting, types and the packages' dependency contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV_STAMP) ## Rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(BASE_STAMP) ## Speed of the simulator, the policy and the encoder on this machine
	$(BIN)/python -m scripts.bench all

gpu-check: $(BASE_STAMP) ## What is claimed of GPUs, checked on this machine's (exit status 3 without one)
	$(BIN)/python -m scripts.gpu_check

# MUTANTS='vla.rl.losses*' tries a part. What was tried before and has not changed is not tried again.
mutants: export OMP_NUM_THREADS ?= 1
mutants: $(DEV_STAMP) ## Small changes to the mathematics, and whether the tests notice (an hour or more)
	$(PIP) -e '.[mutants]'
	$(BIN)/mutmut run --max-children $(MUTANT_WORKERS) $(MUTANTS)
	$(BIN)/python -m scripts.mutants docs/results/mutants

libero: $(LIBERO_STAMP) ## LIBERO's task builder, without its training dependencies

doctor: $(BASE_STAMP) ## What is missing on this machine, and how to get it
	$(BIN)/vla doctor

clean: ## Caches and build results; keeps runs/, datasets/ and the environment
	rm -rf build dist mutants *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# The interpreter is run, not only found: a version manager's shim can exist for a version that is not installed.
$(BIN)/python:
	@python=; \
	for candidate in "$${PYTHON:-}" python3.11 python3.12 python3 python; do \
	  if [ -n "$$candidate" ] && "$$candidate" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; then \
	    python="$$candidate"; break; fi; done; \
	if [ -z "$$python" ]; then \
	  echo "make: Python 3.11 or 3.12 is needed, and none was found on PATH. Install one (Debian, Ubuntu: apt-get install python3.11 python3.11-venv) or name it: make PYTHON=/path/to/python3.11 ..." >&2; exit 2; fi; \
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo "make: $$python has no venv module. Debian, Ubuntu: apt-get install $$("$$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')" >&2; exit 2; fi; \
	echo "Creating $(VENV) with $$("$$python" --version)"; \
	"$$python" -m venv $(VENV)

# torch first: with it in place, nothing else decides which build of it is installed.
$(BASE_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing Reflex into $(VENV) (a few minutes the first time)"
	$(PIP) $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) torch
	$(PIP) -e .
	@touch $@

$(DEV_STAMP): $(BASE_STAMP)
	$(PIP) -e '.[dev,so101,metaworld,robots,emulators,serve,label,rerun]'
	@touch $@

$(LIBERO_STAMP): $(BASE_STAMP) scripts/install_libero.sh
	bash scripts/install_libero.sh $(BIN)/python
	@touch $@

# Everything from a fresh clone: `make demo` runs the main job, `make test` the tests. Needs Python 3.11+ and git.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/.genoise-ready
# Stated once, in pyproject.toml.
TORCH := $(shell sed -n 's/^ *"\(torch[<>=][^"]*\)",.*/\1/p' pyproject.toml)
BENCHMARKS := $(patsubst benchmarks/%.py,%,$(filter-out benchmarks/_% benchmarks/gpu.py,$(wildcard benchmarks/*.py)))

.PHONY: help setup demo test check bench gpu

help:
	@echo 'make setup   .venv with everything in it (the other targets call it)'
	@echo 'make demo    the whole job on the built-in scenes: pretrain, transfer, table'
	@echo 'make test    the tests'
	@echo 'make check   lint, format, strict types'
	@echo 'make bench   the benchmarks, side by side with what they are compared to'
	@echo 'make gpu     what a GPU has to show, in five minutes; with PYTHON=... of a Python that has torch, in that one'

setup: $(STAMP)

# torch comes first and alone: a wheel that is laid ready for pip is then taken, and nothing else can pull another one.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed: make setup PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		{ echo 'this Python cannot make virtual environments: install its venv package (Debian: apt install python3-venv)' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet '$(TORCH)'
	$(PIP) install --quiet --editable '.[dev]'
	@touch $@

demo: setup
	$(BIN)/genoise demo

test: setup
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	@set -e; for name in $(BENCHMARKS); do echo "== benchmarks.$$name"; $(BIN)/python -m benchmarks.$$name --json; done

# Where PYTHON has torch, nothing is installed.
HAS_TORCH = $(shell $(PYTHON) -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec("torch"))' && echo yes)

gpu:
	@$(if $(HAS_TORCH),,$(MAKE) --no-print-directory setup)
	@$(if $(HAS_TORCH),$(PYTHON),$(BIN)/python) -m benchmarks.gpu

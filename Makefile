# On a fresh machine: Python >= 3.10, git and make. Everything goes to .venv.
#   make demo        the real stack on this machine, a nested example, twice
#   make test        all tests
#   make test-fast   tests without cluster, servers or network
#   make bench       the same workloads on this, on others and on plain Dask
#                    (make bench BENCH_ARGS=--quick takes a few minutes)
#   make lint        ruff and mypy
#   make docs        the parts of the documentation that the code knows
# Another Python: make PYTHON=python3.12 test

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
PYTEST_ARGS ?=
BENCH_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast bench lint docs clean

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

# The package is editable, so only other dependencies ask for another installation.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "$(PYTHON) is older than Python 3.10; try make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[test]'
	@touch $@

demo: $(READY)
	$(BIN)/python examples/nested_pi/run_demo.py

test: $(READY)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-fast: $(READY)
	$(BIN)/python -m pytest -m "not cluster" $(PYTEST_ARGS)

bench: $(READY)
	$(BIN)/python benchmarks/run.py $(BENCH_ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

# On a fresh machine: Python >= 3.10, git and make. Everything goes to .venv.
#   make demo        the real stack on this machine, a nested example, twice
#   make test        all tests
#   make test-fast   tests without cluster, servers or network, without the slow ones
#   make test-oldest these, the slow ones, the dummy scheduler and a nested run, with the
#                    oldest dependencies that are allowed (.venv-oldest, Python 3.10 or 3.11)
#   make bench       the same workloads on this, on others and on plain Dask
#                    (make bench BENCH_ARGS=--quick takes a few minutes)
#   make lint        ruff, mypy, and who imports whom
#   make docs        the parts of the documentation that the code knows
#   make site        docs/ as a web site, in site/
# Another Python: make PYTHON=python3.12 VENV=.venv-3.12 test
# All tests in one process: make PROCESSES=0 test

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
SITE_READY := $(VENV)/.installed-docs
OLDEST := .venv-oldest
OLDEST_READY := $(OLDEST)/.installed
# a Python for which such old releases exist: they have no wheels from 3.12 on
OLDEST_PYTHON = $(shell $(PYTHON) .ci/pythons.py oldest)
# more than cores: the longest tests wait most of the time; tests/conftest.py says which
# tests one process runs
PROCESSES ?= 3
PYTEST = -m pytest -n $(PROCESSES)
PYTEST_ARGS ?=
# what `make test-fast` runs
FAST ?= not cluster and not slow
# Hundreds of processes of the tests read what one has compiled.
unexport PYTHONDONTWRITEBYTECODE
BENCH_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-oldest bench lint docs site clean

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

# The package is editable, so only other dependencies ask for another installation.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "$(PYTHON) is older than Python 3.10; try make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[lint,test]'
	@touch $@

demo: $(READY)
	$(BIN)/python examples/nested_pi/run_demo.py

test: $(READY)
	$(BIN)/python $(PYTEST) $(PYTEST_ARGS)

test-fast: $(READY)
	$(BIN)/python $(PYTEST) -m "$(FAST)" $(PYTEST_ARGS)

# with --clear, since pip would keep what is there already
$(OLDEST_READY): pyproject.toml .ci/lower_bounds.py | $(READY)
	@test -n "$(OLDEST_PYTHON)" \
		|| { echo "No Python 3.10 or 3.11 was found; try make OLDEST_PYTHON=PATH"; exit 1; }
	$(OLDEST_PYTHON) -m venv --clear $(OLDEST)
	$(BIN)/python .ci/lower_bounds.py > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install --quiet \
		--constraint $(OLDEST)/constraints.txt -e '.[test]'
	@touch $@

test-oldest: $(OLDEST_READY)
	$(OLDEST)/bin/python $(PYTEST) -m "not cluster" $(PYTEST_ARGS)
	$(OLDEST)/bin/python $(PYTEST) tests/test_dummy.py \
		'tests/real_stack/test_real_stack.py::test_workload_ends_and_is_stored[recursion-n=40,depth=3]' \
		$(PYTEST_ARGS)

bench: $(READY)
	$(BIN)/python benchmarks/run.py $(BENCH_ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: $(READY)
	$(BIN)/python docs/generate.py

$(SITE_READY): pyproject.toml | $(READY)
	$(BIN)/python -m pip install --quiet -e '.[docs]'
	@touch $@

# a warning is an error, and a link that leads nowhere is a warning
site: $(SITE_READY)
	$(BIN)/sphinx-build -q -W --keep-going docs site

clean:
	rm -rf $(VENV) $(OLDEST) site .pytest_cache .mypy_cache .ruff_cache .hypothesis

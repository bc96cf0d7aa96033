# Needs: git, make, python3 >= 3.11 with venv, and a package index that pip can reach.
# Everything else is installed into .venv/ from the pins in constraints.txt.

PYTHON  ?= python3
JOBS    ?= 2

VENV    := .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed
PIP     := $(BIN)/python -m pip --disable-pip-version-check

# One thread per test worker: the suite is many small tensors, and two workers share two cores. A file
# stays with one worker, so that what its tests share is made once.
PYTEST  := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest
SUITE   := src tests --doctest-modules -n $(JOBS) --dist loadfile

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test test-gpu check-all lint types layers docs bench format clean

help:  ## show this list
	@echo "make install     create .venv and install Limbeck with its tools, from constraints.txt"
	@echo "make demo        distil on bundled real data; prints a table, writes a report (2 minutes)"
	@echo "make test        all checks: style, types, layers, docs, doctests, tests (under 10 minutes)"
	@echo "make check-all   the same with the slow tests: hundreds of kills, golden curves (long)"
	@echo "make test-gpu    what needs a GPU; nothing without one (3 minutes)"
	@echo "make lint        ruff: style and formatting        make format   let ruff repair both"
	@echo "make types       mypy --strict                     make layers   imports point one way"
	@echo "make docs        build the site into site/         make bench    speed against the floor"
	@echo "make clean       remove what was built (not .venv, not runs)"

install: $(STAMP)  ## create .venv and install

# Installed again when the pins or the project file change; otherwise instant. torch comes first
# and alone, so that the build that the machine offers under the pin is the one that is kept.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Limbeck needs Python 3.11 or newer; say which: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 \
	  || { echo "creating $(VENV)"; $(PYTHON) -m venv --clear $(VENV); }
	@echo "installing Limbeck and its tools into $(VENV) (minutes, the first time)"
	@$(PIP) install -q --upgrade -c constraints.txt pip
	@$(PIP) install -q -c constraints.txt torch
	@$(PIP) install -q -c constraints.txt hatchling editables
	@$(PIP) install -q -c constraints.txt --no-build-isolation -e . --group dev --group docs
	@$(PIP) check
	@touch $@

demo: $(STAMP)  ## distil on bundled real data
	@$(BIN)/limbeck demo

lint: $(STAMP)  ## style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(STAMP)  ## let ruff repair style and formatting
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(STAMP)  ## mypy --strict
	@$(BIN)/mypy

layers: $(STAMP)  ## imports point one way
	@$(BIN)/lint-imports --no-logo --no-cache

docs: $(STAMP)  ## build the site into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "docs: site/index.html"

# The tests run last, so that their line is the last line.
test: lint types layers docs  ## everything but the slow tests
	@$(PYTEST) $(SUITE) -m "not slow"

check-all: lint types layers docs  ## everything, slow tests included
	@$(PYTEST) $(SUITE) -m "slow or not slow"

test-gpu: $(STAMP)  ## what needs a GPU
	@$(PYTEST) tests/gpu -n $(JOBS) || test $$? -eq 5

bench: $(STAMP)  ## speed against the floor
	@$(BIN)/python -m benchmarks.startup
	@$(BIN)/python -m benchmarks.step
	@echo "also: $(BIN)/python -m benchmarks.epoch --root FOLDER_WITH_FASHION_MNIST"

clean:  ## remove what was built
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests docs -name __pycache__ -type d -prune -exec rm -rf {} +

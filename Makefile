# make demo        the whole path on a phantom cohort, on a CPU, in minutes
# make test        the tests that every change must pass
# make test-all    these, the slow ones and those on real data
# make lint        ruff and mypy, as pyproject.toml says
# make contract    every method x strategy x network, one step each
# make benchmark   the tables of docs/benchmarks.md
# make container-test   build the image and run the whole path in it (needs Docker or Podman)
# make clean       remove the environment and what the demo and the tests wrote
#
# The first call creates .venv and installs into it; PYTHON=python3.12 chooses the interpreter.

PYTHON ?= python3
ENV    := .venv
BIN    := $(ENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# The stamps carry the list of commands: a new file in sulcnet/cli needs a new console script.
JOBS   := $(shell echo $(sort $(wildcard sulcnet/cli/*.py)) | cksum | cut -d' ' -f1)
READY  := $(ENV)/ready-$(JOBS)
TESTS  := $(ENV)/ready-test-$(JOBS)
# Two processes, one thread each; a file's tests share what its fixtures made.
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadfile

export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-all lint contract benchmark container-test clean

demo: $(READY)
	$(BIN)/sulcnet_demo

test: $(TESTS)
	$(PYTEST)

test-all: $(TESTS)
	$(PYTEST) -m ""

lint: $(TESTS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy

contract: $(TESTS)
	$(PYTEST) -m contract

benchmark: $(READY)
	@for file in _machine.py $(notdir $(sort $(wildcard benchmarks/[a-z]*.py))); do \
		$(BIN)/python benchmarks/$$file || exit 1; done

container-test:
	@containers/test.sh

clean:
	rm -rf $(ENV) build dist *.egg-info .pytest_cache .ruff_cache sulcnet_demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(ENV)

$(READY): $(BIN)/python setup.py pyproject.toml constraints.txt
	$(PIP) -e .
	@rm -f $(ENV)/ready*
	@touch $@

$(TESTS): $(BIN)/python setup.py pyproject.toml constraints.txt
	$(PIP) -e '.[test]'
	@rm -f $(ENV)/ready*
	@touch $(READY) $@

# `make run` and `make test` are all there is to know; each makes the environment in .venv first, from pinned versions.
.PHONY: run test quick lint types gpu-check lock environment

PYTHON := $(shell for name in python3 python3.12 python3.11 python3.13; do \
	"$$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo "$$name" && break; done)
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
READY := $(VENV)/.ready
# DVC runs the stages' commands with the PATH that it is given.
export PATH := $(BIN):$(PATH)

run: $(READY)  ## raw data to a registered model, on the project of this folder
	@genpipe run

test: $(READY) lint types  ## everything that must pass: lint, types, quick tests, then real training and servers
	pytest -q -n auto --maxprocesses 4 --dist loadfile -m "not gpu"

quick: $(READY)  ## the tests of a few minutes
	pytest -q -n auto --maxprocesses 4 --dist loadfile -m "not slow and not gpu"

lint: $(READY)
	ruff check
	ruff format --check

types: $(READY)
	mypy

gpu-check: $(READY)  ## what only a GPU can show; without one, the list of what could not be run
	pytest -q -m gpu -rs --no-fold-skipped

environment: $(READY)

$(READY): requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "genpipe needs Python 3.11, 3.12 or 3.13; none was found on PATH"; exit 1; }
	@echo "Making the environment in $(VENV) with $(PYTHON) (about 7 GB with the CUDA build of torch: minutes without a word)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $(READY)

lock: $(READY)  ## resolve the pins anew, for every platform and Python version at once
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --custom-compile-command "make lock" \
		pyproject.toml -o requirements.txt

# Two commands do everything: `make run` and `make test`. Both make the environment in .venv first, from pinned versions.
.PHONY: run test lint types quick slow lock gpu-check hooks clean
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
# DVC runs stages with the PATH it is given: the environment's commands come first.
export PATH := $(CURDIR)/$(BIN):$(PATH)

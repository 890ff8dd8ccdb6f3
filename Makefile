# Everything a newcomer needs; each target sets up what it uses, from nothing but Python 3.11, make and a network for
# the first time. From the second time on nothing is fetched.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

UV_VERSION := 0.13.8
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready

export UV_PYTHON_DOWNLOADS := never
export UV_NO_PROGRESS := 1
unexport VIRTUAL_ENV
unexport PYTHONPATH

.PHONY: help demo test check format bench bench-outbound accept-skeleton accept-outbound accept-inbound setup clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18

demo: $(READY) ## Start everything on this machine and watch two systems stay in step
	$(BIN)/syncline demo

test: $(READY) ## Run all tests; the integration tests start an embedded stack of their own
	$(BIN)/pytest

check: $(READY) ## Format, lint, types, import rules, lock file
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/uv lock --check --offline

format: $(READY) ## Format the code and fix what can be fixed safely
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) ## Measure: throughput and latency on this machine
	$(BIN)/python -m bench

bench-outbound: $(READY) ## Measure the outbound road only: commit to request, and requests per second
	$(BIN)/python -m bench outbound

accept-skeleton: $(READY) ## Prove the first slice end to end: row in, request out; webhook in, row changed
	$(BIN)/python -m tests.acceptance.skeleton

accept-outbound: $(READY) ## Prove the outbound engine at full size: lost answers, outages, quotas, a lost slot, a mass delete
	$(BIN)/python -m tests.acceptance.outbound

accept-inbound: $(READY) ## Prove the inbound engine at full size: histories, floods under kills, a hub, fuzzed webhooks
	$(BIN)/python -m tests.acceptance.inbound

setup: $(READY) ## Only install what the other targets need

# The second try without --offline is for the first time; without changes the first one ends at once.
$(READY): pyproject.toml uv.lock Makefile
	@[ -n "$(PYTHON)" ] || { echo "✗ no python3.11: install Python 3.11, then run make again" >&2; exit 1; }
	@[ -x $(BIN)/uv ] && $(BIN)/uv --version 2>/dev/null | grep -qF "uv $(UV_VERSION)" || { \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	    || { echo "✗ $(PYTHON) is not Python 3.11: name one with make PYTHON=…" >&2; exit 1; }; \
	  echo "→ preparing .venv"; \
	  $(PYTHON) -m venv .venv \
	    || { echo "✗ python -m venv failed: install your system's package for it (python3.11-venv)" >&2; exit 1; }; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"; }
	@$(BIN)/uv sync --quiet --frozen --offline --extra embedded 2>/dev/null \
	  || { echo "→ installing the packages of uv.lock"; $(BIN)/uv sync --quiet --frozen --extra embedded; }
	@touch $@

clean: ## Remove what was built here: .venv and caches (the stack's state stays: syncline down --purge)
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

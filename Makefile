# Every target sets up what it needs in .venv and is quick when that is already there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench proto clean

help: ## Show the targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Create .venv with the pinned development environment.

$(READY): pyproject.toml requirements/dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(READY)

demo: $(READY) ## Start three members, kill them under load, verify that nothing was lost.
	$(BIN)/oarlock demo --check
	@echo
	@echo "To keep a cluster running and try it yourself:  $(BIN)/oarlock demo"

test: $(READY) ## Run all tests.
	$(BIN)/python -m pytest -n 2 --dist worksteal -q

check: $(READY) ## Lint, types, layering.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

bench: $(READY) ## Compare with real etcd, same load generator, same machine.
	$(BIN)/python benchmarks/against_etcd.py

proto: $(READY) ## Regenerate the protobuf modules from the .proto files.
	$(BIN)/python scripts/generate_protobuf.py

clean: ## Remove the virtual environment and caches.
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist src/*.egg-info

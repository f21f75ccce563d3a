# Every target sets itself up: a fresh machine needs only Python 3.11+ and make.
PYTHON ?= python3
BIN := .venv/bin
DEMO ?= demo
# A loaded machine makes OpenMP threads spin; waiting costs less.
export GOMP_SPINCOUNT ?= 0

.PHONY: setup demo check test docs bench clean

setup: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/osteomet demo --output $(DEMO)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: setup
	$(BIN)/pytest

docs: setup
	$(BIN)/python docs/check_links.py

bench: setup
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf .venv demo dist

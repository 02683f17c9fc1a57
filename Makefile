# Everything runs in .venv, made from constraints.txt; nothing else is needed but Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint conformance guard claims bench clean

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: .venv/ready
	$(BIN)/regimes demo

test: .venv/ready
	$(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

conformance: .venv/ready
	$(BIN)/python -m pytest -m "slow"

# Trains at the last release (or the commit before) and as the tree stands: to the bit, else within a margin.
guard: .venv/ready
	$(BIN)/regimes guard guard.yaml --base "$$(git describe --tags --abbrev=0 2>/dev/null || echo HEAD~1)"

claims: .venv/ready
	$(BIN)/regimes verify --all --record --workers 2

bench: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench]"
	$(BIN)/python benchmarks/all.py

clean:
	rm -rf .venv build dist runs

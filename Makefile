.PHONY: setup lint check test test-slow pocket clean
PYTHON ?= python3
BIN := .venv/bin

# Tests and demos never ask a model hub.
export HF_HUB_OFFLINE := 1

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,lint]'
	touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check: lint
	$(BIN)/pyright

test: setup
	$(BIN)/python -m pytest

test-slow: setup
	$(BIN)/python -m pytest -m slow

pocket: setup
	$(BIN)/python -m dreamtune.pocket.pretrain --work pocket-work --export

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache

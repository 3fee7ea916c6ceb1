# Two commands set everything up: `make demo` and `make test`. The others are for people who change radscale.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A plain `torch` would pull gigabytes of GPU packages; constraints.txt pins the versions that were tested together.
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test test-all check format clean

demo: $(VENV)/.installed
	$(BIN)/radscale demo

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow"

test-all: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 --dist loadgroup

check: $(VENV)/.installed-test
	$(BIN)/ruff format --check src tests
	$(BIN)/ruff check src tests
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-test
	$(BIN)/ruff format src tests
	$(BIN)/ruff check --fix src tests

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("radscale needs Python 3.11 or newer; say `make demo PYTHON=python3.11`")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing radscale into $(VENV) (about a minute) ..."
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@echo "installing the test extras ..."
	$(PIP) install -c constraints.txt -e ".[test]"
	@touch $@

# The commands of this project. `make run` and `make test` work from a fresh clone: they install what they need first.
PYTHON ?= python3
BIN := .venv/bin
# One thread for each of the two processes that share the tests.
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses 2 --dist worksteal

.PHONY: install run test test-all bench check ui clean
install: .venv/installed ## create .venv with the tested versions

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

run: install ## pre-train, fine-tune and compare six strategies on handwritten digits
	$(BIN)/frostline study experiments/digits

test: install ## everything needed to trust a change, on two cores
	$(TESTS)

test-all: install ## the slow tests too
	$(TESTS) -m "slow or not slow"

bench: install ## how near a run comes to the least time that its work takes; on a quiet machine
	$(BIN)/python experiments/performance/reach.py
	$(BIN)/python experiments/performance/formats.py

check: install ## format, lint, type-check
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/mypy

ui: install ## open MLflow on the runs of this folder
	$(BIN)/mlflow ui --backend-store-uri sqlite:///mlflow.db

clean: ## remove the environment and what tools leave behind; recorded runs stay
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache src/*.egg-info

# Every target makes .venv first, with the versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help install fit test soak bench learn check format clean

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' Makefile | sed 's/:.*## /\t/'

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	@touch $@

.venv/tested: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test,check]'
	@touch $@

install: .venv/installed ## make .venv and install the project into it

fit: .venv/installed ## train the default experiment: image GPT on handwritten digits
	$(BIN)/python main.py fit

test: .venv/tested ## run the tests; no network is needed after the installation
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n auto --dist loadfile

soak: .venv/tested ## kill and resume runs at random moments for half an hour
	$(BIN)/python benchmarks/soak.py --minutes 30

bench: .venv/installed ## measure speed beside what else can be installed: half an hour on one quiet core
	@for script in train_step lm_head sampling images pictures text command_line startup; do \
		OMP_NUM_THREADS=1 $(BIN)/python -W ignore benchmarks/$$script.py || exit; \
	done

learn: .venv/installed ## measure how fast recipes learn the digits, over three seeds: twenty minutes on one core
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore benchmarks/learning.py

check: .venv/tested ## lint and type-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/tested ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the environment and caches; runs/ and data/ stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache *.egg-info

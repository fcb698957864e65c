# Two commands do everything: `make tour` (the main job, start to finish) and `make test` (every CPU test).
# `make lab` opens the tour in JupyterLab. PYTHON=python3.12 chooses another interpreter.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
TOUR := build/tour

export PYTHONUNBUFFERED := 1
# Where the shell forbids byte code, each of hundreds of processes would compile the project and its tests anew.
unexport PYTHONDONTWRITEBYTECODE
# The notebooks and tests never need a network; this keeps libraries from trying.
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1

.PHONY: help tour lab test browser lint typecheck floors collect docs clean

help:
	@echo "make tour   set up .venv and run notebooks/00_tour.ipynb; results go to $(TOUR)/"
	@echo "make lab    open the tour in JupyterLab"
	@echo "make test   lint, type check, import floors and every CPU test"
	@echo "make browser the widgets in headless Chromium over a real JupyterLab"
	@echo "make docs   write the tables of docs/options.md and docs/plugins.md anew"
	@echo "make clean  remove $(VENV) and build/"

$(VENV)/.lab: constraints.txt pyproject.toml scripts/setup_environment.sh
	@PYTHON="$(PYTHON)" scripts/setup_environment.sh $(VENV) lab,onnxruntime
	@touch $@

$(VENV)/.test: constraints.txt pyproject.toml scripts/setup_environment.sh
	@PYTHON="$(PYTHON)" scripts/setup_environment.sh $(VENV) lab,onnxruntime,mpi,test,gpu
	@touch $(VENV)/.lab $@

tour: $(VENV)/.lab
	@$(OFFLINE) $(BIN)/python scripts/run_notebook.py notebooks/00_tour.ipynb --output-dir $(TOUR)

lab: $(VENV)/.lab
	@echo "Opening the tour in JupyterLab; stop it with Ctrl-C."
	@$(BIN)/jupyter lab notebooks/00_tour.ipynb

test: $(VENV)/.test
	@$(MAKE) --no-print-directory --jobs 2 typecheck lint floors collect
	@echo "Running every CPU test."
	@$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder -m "not gpu and not mpi and not browser and not tensorrt" \
		|| { echo "Some tests failed: see the summary above."; exit 1; }
	@echo "Running the tests of several ranks, one after another."
	@$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "mpi and not gpu" \
		$$(grep -rl --include='test_*.py' 'mark\.mpi' tests | sort) \
		|| { echo "Some tests of several ranks failed: see the summary above."; exit 1; }

$(VENV)/.browser: $(VENV)/.test
	@PYTHON="$(PYTHON)" scripts/setup_environment.sh $(VENV) lab,onnxruntime,test,gpu,browser
	@touch $@

browser: $(VENV)/.browser
	@echo "Running the widgets' tests in the system's Chromium; pictures go to build/screenshots/."
	@$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser tests/widgets/browser

lint: $(VENV)/.test
	@echo "Checking style with ruff."
	@$(BIN)/ruff check . || { echo "ruff found something: see above; many are mended by '$(BIN)/ruff check --fix .'"; exit 1; }

typecheck: $(VENV)/.test
	@echo "Checking types with mypy."
	@$(BIN)/mypy || { echo "mypy found a type error: see above."; exit 1; }

floors: $(VENV)/.test
	@echo "Checking that every room imports only from the floors below it."
	@$(BIN)/lint-imports || { echo "An import breaks the floors of docs/architecture.md: see above."; exit 1; }

# Beside mypy, which leaves a core free: what is compiled here, each of the processes that run the tests need not.
collect: $(VENV)/.test
	@echo "Reading every test."
	@found=$$($(OFFLINE) $(BIN)/python -m pytest --collect-only -q 2>&1) \
		|| { tail -40 <<< "$$found"; echo "Some tests cannot be read: see above."; exit 1; }

docs: $(VENV)/.lab
	@$(BIN)/python scripts/make_option_table.py
	@$(BIN)/python scripts/make_plugin_table.py

clean:
	rm -rf $(VENV) build

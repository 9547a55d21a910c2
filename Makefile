# Needs Python 3.11 or later and make; everything else is installed into .venv.
# A stamp file stands for a set of packages: it is made anew only when pyproject.toml changes.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo lab test lint types notebooks check-notebooks bench clean
.DEFAULT_GOAL := help

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/.stamp-demo  ## run the parameter sweep, print its table, write build/demo.html
	$(BIN)/python tools/demo.py

lab: .venv/.stamp-demo  ## open the notebooks in JupyterLab
	$(BIN)/python -m jupyterlab $(if $(filter 0,$(shell id -u)),--allow-root) $(IN_NOTEBOOKS)

# Tests wait more than they compute. Files start in their order: the long ones, of browsers and notebooks, first.
test: .venv/.stamp-dev .venv-ipykernel6/.stamp-nbval  ## run every test: units, faults, notebooks, browser
	tools/get_chromium.sh
	$(BIN)/python -m pytest -m "not alone" --numprocesses 3 --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest -m alone

lint: .venv/.stamp-dev  ## check style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/.stamp-dev  ## check types
	$(BIN)/mypy

notebooks: .venv/.stamp-dev  ## execute the committed notebooks and store their outputs
	$(BIN)/python tools/notebooks.py

check-notebooks: .venv/.stamp-dev .venv-ipykernel6/.stamp-nbval  ## compare the notebooks' stored outputs with fresh ones, on ipykernel 6 and 7
	$(BIN)/python -m pytest tests/notebook/test_notebooks.py

bench: .venv/.stamp-dev  ## measure against a plain sqlite3 loop and the peers
	$(BIN)/python -m tests.benchmarks

clean:  ## remove everything these commands made
	rm -rf .venv .venv-ipykernel6 build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

# Served from here, so that the notebooks' links to docs lead there.
IN_NOTEBOOKS := --ServerApp.root_dir="$(CURDIR)" --FileContentsManager.preferred_dir=notebooks

# $(call install,FOLDER,WHAT): a virtual environment with the package, editable, and WHAT.
define install
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("sitq needs Python 3.11 or later and $(PYTHON) is %d.%d; name another one: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	@echo "installing into $(1), once; this may take some minutes"
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet --upgrade pip  # --group came with pip 25.1
	$(1)/bin/python -m pip install --quiet --editable ".[demo]" $(2)
	touch $@
endef

.venv/.stamp-demo: pyproject.toml
	$(call install,.venv)

.venv/.stamp-dev: pyproject.toml
	$(call install,.venv,--group dev)
	touch .venv/.stamp-demo  # contained in dev

.venv-ipykernel6/.stamp-nbval: pyproject.toml
	$(call install,.venv-ipykernel6,--group nbval "ipykernel<7")

# Towers. `make` says what there is; everything sets itself up first.

DATA ?= world
# The user that `make demo` asks for: of the simulated world, or of whatever DATA is.
USER_ID ?= $(if $(filter world%,$(DATA)),u0000042,42)
VENV := .venv
PY := $(VENV)/bin/python
DATA_ROOT ?=
ifneq ($(DATA_ROOT),)
override DATA_ROOT := $(abspath $(DATA_ROOT))
export DATA_ROOT
endif
export PYTHON TORCH
export MLFLOW_DISABLE_TELEMETRY := true

# Put before every training command; empty means as the system is.
TRAIN_ENV ?=

.PHONY: help setup demo up test lint audit docs pictures format clean release
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  DATA=world|movielens  DATA_ROOT=where the data lies  USER_ID=whom to ask for  PORT=of make up  PYTHON=an interpreter, 3.11 to 3.13  TORCH=any (CUDA torch without a GPU)"

setup: $(VENV)/.ready ## virtual environment, packages, Triton

demo: release ## train, export, serve, print one answer
	$(PY) -m serve recommend --user $(USER_ID) --count 10 time=log-end

up: release ## the same, then stay up
	$(PY) -m serve up time=log-end access.writing=open $(if $(PORT),port=$(PORT))

release: $(VENV)/.ready
	$(TRAIN_ENV) $(PY) train.py experiment=$(DATA)_two_tower
	$(TRAIN_ENV) $(PY) train.py experiment=$(DATA)_ranker
	$(PY) export.py retrieval=models/$(DATA)_two_tower ranker=models/$(DATA)_ranker

test: lint ## the tests, after lint
	$(PY) -m pytest -n 2 --dist loadfile

lint: $(VENV)/.ready-dev ## what ruff objects to
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

pictures: $(VENV)/.ready-dev ## the pictures of page and console in docs, of the current release, anew
	$(PY) -m bench.pictures
	$(PY) -m bench.console_picture releases

audit: $(VENV)/.ready ## what is known against the packages installed (asks PyPI's advisories)
	$(PY) -m pip install -qq pip-audit
	$(PY) -m pip_audit --strict --skip-editable

format: $(VENV)/.ready-dev ## let ruff format and mend
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

docs: $(VENV)/.ready-dev ## the site, into site/
	$(VENV)/bin/mkdocs build --strict

docs/pictures/mlflow.png: $(VENV)/.ready-dev ## MLflow comparing four runs, trained for the picture
	$(PY) docs/mlflow_picture.py

clean: ## remove the virtual environment and caches; runs and releases stay
	rm -rf $(VENV) *.egg-info .pytest_cache .ruff_cache .hypothesis

$(VENV)/.ready: pyproject.toml deploy/setup.sh
	VENV=$(VENV) deploy/setup.sh redis sweep
	@touch $@

$(VENV)/.ready-dev: pyproject.toml deploy/setup.sh
	VENV=$(VENV) deploy/setup.sh redis sweep dev
	@touch $@ $(VENV)/.ready

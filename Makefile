# make demo | test | lint | bench | faults | docs     (PYTHON=python3.12 make demo chooses the interpreter)
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint bench faults docs clean

# Compiled once: where PYTHONDONTWRITEBYTECODE is set, as in many containers, each script would do so anew.
.venv/runtime: requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	-$(BIN)/python -m compileall -q ecg_finetune */ecg_*
	touch $@

.venv/development: .venv/runtime requirements-dev.txt requirements-cluster.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

demo: .venv/runtime      ## the whole pipeline on synthetic ECGs, 1 to 4 minutes on 2 cores
	PATH="$(CURDIR)/$(BIN):$$PATH" bash demo/run_demo.sh

test: .venv/development  ## the test suite; genuine data through ECG_FINETUNE_TEST_DATA
	$(BIN)/python -m pytest

lint: .venv/development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: .venv/development ## speed and disk, baseline and ours side by side
	$(BIN)/python -m bench

faults: .venv/development ## break it on purpose, for one to two hours; make test runs a short version
	$(BIN)/python -m pytest tests/faults -s -rs --kills 50 --bad-inputs 10000 --fault-records 2000 --fuzz-seconds 300

docs: .venv/runtime      ## SCRIPTS.md and FILE_LOCATIONS.md from the parsers and the path table
	$(BIN)/python -m ecg_finetune.documents

clean:
	rm -rf demo/data .pytest_cache .ruff_cache .hypothesis

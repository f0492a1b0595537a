# make demo | test | lint | bench | faults | docs | lock | clean    (PYTHON=python3.12 make demo chooses the interpreter)
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint bench faults docs lock clean

# Compiled once: where PYTHONDONTWRITEBYTECODE is set, as in many containers, each script would do so anew.
.venv/runtime: requirements.txt pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) -r requirements.txt
	-$(BIN)/python -m compileall -q ecg_finetune */ecg_*
	touch $@

.venv/development: .venv/runtime
	$(INSTALL) -e ".[dev]"
	touch $@

demo: .venv/runtime      ## the whole pipeline on synthetic ECGs, 1 to 4 minutes on 2 cores
	PATH="$(CURDIR)/$(BIN):$$PATH" bash demo/run_demo.sh

test: .venv/development  ## the test suite; genuine data through ECG_FINETUNE_TEST_DATA
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

lint: .venv/development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: .venv/development ## speed and disk, baseline and ours side by side
	$(BIN)/python -m bench

faults: .venv/development ## break it on purpose, for one to two hours; make test runs a short version
	$(BIN)/python -m pytest tests/faults -s -rs --kills 50 --bad-inputs 10000 --fault-records 2000 --fuzz-seconds 300

docs: .venv/runtime      ## SCRIPTS.md and FILE_LOCATIONS.md from the parsers and the path table
	$(BIN)/python -m ecg_finetune.documents

# An older Python than the one that locked may lack a version: there pip chooses freely. PyTorch's build (+cpu, +cu130)
# is left open. `pip list`, as `pip freeze` may name files of this machine.
lock: .venv/development  ## constraints.txt: the versions in .venv
	$(BIN)/python -m pip list --format=freeze --exclude-editable --exclude pip --exclude setuptools >.venv/versions
	python="$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')" && { \
	    echo "# The versions that CI runs with, written by \`make lock\`. For the same ones: pip install -c constraints.txt ."; \
	    sed -E 's/\+.*//; s/$$/; python_version >= "'$$python'"/' .venv/versions; } >constraints.txt

clean:
	rm -rf demo/data .pytest_cache .ruff_cache .hypothesis

"""Fixtures every test file may use."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_addoption(parser):
    """Add the sizes of the fault and bad-input campaigns: small in `make test`, large in `make faults`."""
    parser.addoption("--kills", type=int, default=2, help="SIGKILLs per stage in tests/faults")
    parser.addoption("--bad-inputs", type=int, default=20, help="damaged inputs per reader in tests/faults")
    parser.addoption("--bad-input-seed", type=int, default=0, help="another seed, other damages (tests/faults)")
    parser.addoption("--fuzz-seconds", type=int, default=0, help="fuzzing per binary reader (tests/faults)")
    parser.addoption("--fault-records", type=int, default=200, help="synthetic records in tests/faults")


def pytest_ignore_collect(collection_path):
    """Look for tests and examples in the test files alone: some of the others are programs."""
    return True if collection_path.suffix == ".py" and not collection_path.name.startswith("test_") else None


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Return the folder of genuine data, or skip: it is not part of the repository."""
    folder = os.environ.get("ECG_FINETUNE_TEST_DATA")
    if not folder:
        pytest.skip("ECG_FINETUNE_TEST_DATA is not set: the genuine data is not on this machine")
    return Path(folder)


@pytest.fixture(scope="session")
def run_script():
    """Return a function that runs a script of the repository as a user would: `run_script("split/scripts/x.py", ...)`.

    It returns the finished process (text output captured) and asserts the exit code, 0 unless `exit_code` is given;
    for exit code 1 it also asserts the manners: one line on stderr that starts with "error: ", no traceback.
    """

    def run(script: str, *arguments, exit_code: int = 0, timeout: float = 240, env: dict | None = None):
        process = subprocess.run(
            [sys.executable, str(REPOSITORY / script), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, **(env or {})},
            check=False,
        )
        assert process.returncode == exit_code, f"exit {process.returncode}\n{process.stdout}\n{process.stderr}"
        if exit_code == 1:
            errors = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
            assert len(errors) == 1 and process.stderr.rstrip().splitlines()[-1] == errors[0], process.stderr
            assert "Traceback" not in process.stderr
        return process

    return run


@pytest.fixture
def call_script(capfd, monkeypatch):
    """Return a function that runs a script's `main` in this process: `call_script("split/scripts/x.py", ...)`.

    It returns the captured output and asserts the exit code, and that a failure is one line on stderr.
    """

    def call(script: str, *arguments, exit_code: int = 0):
        spec = importlib.util.spec_from_file_location(Path(script).stem, REPOSITORY / script)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        found = module.main()
        output = capfd.readouterr()
        assert found == exit_code, output
        assert exit_code == 0 or (output.err.startswith("error: ") and output.err.count("\n") == 1), output.err
        return output

    return call

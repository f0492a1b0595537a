"""The fuzzing of the binary readers, in `make faults` where atheris is installed."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("target", ["record", "mat"])
def test_fuzzed_inputs_are_read_right_or_refused(request, tmp_path, target):
    seconds = request.config.getoption("--fuzz-seconds")
    if not seconds:
        pytest.skip("no --fuzz-seconds")
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed")
    script = Path(__file__).parent / "fuzz_binary.py"
    process = subprocess.run(
        [sys.executable, str(script), target, str(seconds)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr[-5000:]
    number = int(re.search(r"number_of_executed_units: (\d+)", process.stderr)[1])
    print(f"\n{target}: {number:,} fuzzed inputs read right or refused")

"""The benchmark for GPUs runs to its end at tiny size, where PyTorch and numpy are installed and nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

REPOSITORY = Path(__file__).resolve().parent.parent
# Loaded by every Python process that has its folder on the path, those that the benchmark starts included.
REFUSAL = "import sys\nsys.modules.update(dict.fromkeys({refused}))"  # as if they were not there


def refused_modules() -> set[str]:
    """Return what this project depends on, but for PyTorch and numpy, by the names that are imported."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    declared = project["dependencies"] + project["optional-dependencies"]["pipeline"]
    names = {Requirement(text).name for text in declared} - {"torch", "numpy", "markupsafe"}  # PyTorch takes that one
    return {"sklearn" if name == "scikit-learn" else name for name in names}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run it; return the process and what it has written."""
    folder = tmp_path_factory.mktemp("gpu")
    (folder / "sitecustomize.py").write_text(REFUSAL.format(refused=refused_modules()))
    path = os.pathsep.join(map(str, (folder, REPOSITORY, REPOSITORY / "finetune")))
    command = [sys.executable, "-m", "bench.bench_gpu", "--tiny", "--device", "cpu", "--out", folder / "bench.json"]
    run = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run, json.loads((folder / "bench.json").read_text())


def test_other_modules_are_really_refused(tmp_path):
    assert {"pandas", "scipy", "sklearn", "wfdb", "isal", "tqdm", "joblib", "matplotlib"} <= refused_modules()
    (tmp_path / "sitecustomize.py").write_text(REFUSAL.format(refused=refused_modules()))
    command = [sys.executable, "-c", "import isal"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(tmp_path)})
    assert "ModuleNotFoundError" in run.stderr


def test_everything_is_measured(finished):
    run, told = finished
    assert told["not measured"] == [] and "failed: nothing" in run.stdout
    for name in ("ours, bf16, batch 8", "plain, float32, batch 4", "plain, fp16, batch 8", "ours, tf32, batch 8"):
        found = told["results"][name]
        assert found["training, segments/s"] > 0 and found["inference, segments/s"] > 0
        assert found["epoch of MIMIC-IV-ECG, h"] * found["training, segments/s"] * 3600 == pytest.approx(1_260_000)
        assert f"\n{name}  " in run.stdout
    assert all(value > 0 for value in told["results"]["loader alone"].values())
    assert told["ratios"]["training, ours against plain float32 (goal 3)"] > 0


def test_two_processes_and_a_resumed_run_agree_with_one(finished):
    results = finished[1]["results"]
    assert results["two processes on one device"]["largest difference of a weight"] <= 1e-4
    assert results["going on with a stopped run"]["largest difference of a weight"] == 0
    assert results["ours and plain"]["largest difference of a logit"] < 1e-5
    assert results["ours and plain"]["of the positional convolution by FFT"] < 1e-5


@pytest.mark.usefixtures("test_data")
def test_it_follows_the_recorded_run(finished):
    found = finished[1]["results"]["the recorded run"]
    assert found["float32, largest difference"] < 2e-3 and found["bfloat16, largest difference"] < 2e-2

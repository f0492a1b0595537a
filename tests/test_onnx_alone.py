"""`pip install "ecg-finetune[onnx]"` is enough to ask a model: tried in an environment that has nothing else."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from exported_model import make_model_folder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_packaging import PROJECT

from ecg_finetune.documents import REPOSITORY

MOST_BYTES = 300e6
BASE = [Requirement(line) for line in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["onnx"]]]
ASK = """
import sys
import numpy as np
from ecg_finetune import load_model
model = load_model(sys.argv[1])
t = np.arange(30 * 512) / 512
prediction = model.predict(np.exp(-((t % 0.8 - 0.4) / 0.02) ** 2), rate=512)
print(prediction)
assert len(prediction.windows) == 3 and prediction.table["probability"].between(0, 1).all()
assert model.runtime == "onnx" and "torch" not in sys.modules and "scipy" not in sys.modules
"""


def required() -> dict[str, metadata.Distribution]:
    """Return what pip would install: the distributions of the base dependencies, of "onnx", and what these need."""
    found, waiting = {}, list(BASE)
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found or not (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            continue
        found[name] = metadata.distribution(name)
        waiting += map(Requirement, found[name].requires or [])
    return found


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """The python of an environment in which these distributions are, by links to the running one, and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (purelib,) = folder.glob("lib/*/site-packages")
    for distribution in required().values():
        for file in distribution.files:
            top = file.parts[0]
            if top != ".." and not (purelib / top).exists():
                (purelib / top).symlink_to(distribution.locate_file(top))
    (purelib / "ecg_finetune").symlink_to(REPOSITORY / "ecg_finetune")
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("base"))


def test_pytorch_is_not_among_what_is_installed():
    assert not {"torch", "scipy", "wfdb", "matplotlib", "scikit-learn"} & set(required())


def test_it_takes_less_than_300_mb():
    """As RECORD states the sizes, with as much again for what Python compiles of its own files."""
    size = 0
    for distribution in required().values():
        for file in distribution.files:
            stated = file.size or 0
            size += 2 * stated if file.suffix == ".py" else 0 if file.suffix == ".pyc" else stated
    assert 50e6 < size < MOST_BYTES, f"{size / 1e6:.0f} MB"


def test_a_model_answers(environment, folder):
    process = subprocess.run([environment, "-c", ASK, folder], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert "Atrial fibrillation" in process.stdout


def test_what_needs_more_says_so_in_one_line(environment, tmp_path):
    """A stage that needs PyTorch, and a model that is to run in it."""
    script = REPOSITORY / "finetune" / "scripts" / "finetune_ecgfm.py"
    path = {"PYTHONPATH": str(REPOSITORY / "finetune")}
    command = [environment, script, "--base-dir", tmp_path, "--pretrained", "none", "--tiny", "--engine", "torch"]
    process = subprocess.run(command, capture_output=True, text=True, check=False, env=path)
    assert process.returncode == 1 and process.stderr.count("\n") == 1, process.stderr
    assert process.stderr == 'error: torch is not installed, which this needs: pip install "ecg-finetune[pipeline]"\n'


def test_a_runtime_that_is_not_installed_is_told(environment, folder):
    ask = "from ecg_finetune import load_model; import sys; load_model(sys.argv[1], 'torch')"
    process = subprocess.run([environment, "-c", ask, folder], capture_output=True, text=True, check=False)
    assert process.returncode == 1 and "UserError: torch is not installed" in process.stderr

"""The wheel works without the clone: built, installed in an environment of its own, run elsewhere."""

import json
import os
import re
import site
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import ecg_finetune
from ecg_finetune.documents import REPOSITORY
from ecg_finetune.stages import STAGES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # comes with pytest

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
STAGE_FOLDERS = sorted({Path(script).parts[0] for script in STAGES.values()})

REPORTS = """study_id,report_0,report_1
40000001,Sinus rhythm,Normal ECG
40000002,Atrial fibrillation with rapid ventricular response,Left bundle branch block
40000003,Possible inferior infarct - age undetermined,
"""

# Prints where every module comes from after the help of every stage has been shown.
EVERY_STAGE = """
import contextlib, importlib, io, json, pkgutil, sys
from ecg_finetune.__main__ import main
from ecg_finetune.stages import STAGES

packages, shown = sys.argv[1:], 0
for stage in STAGES:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            main([stage, "--help"])
    except SystemExit as stopped:
        shown += stopped.code == 0
for package in packages:
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        importlib.import_module(module.name)
files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
print(json.dumps({"shown": shown, "path": sys.path, "files": {name: file for name, file in files.items() if file}}))
"""


def run(*command, cwd: Path) -> str:
    """Run a command without anything that could lead back to the clone; return what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ECG_FINETUNE"))}
    process = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this clone."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", folder, REPOSITORY, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The folder of commands of a new environment with the wheel; the libraries are those of the running one."""
    environment = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=environment)
    commands = environment / "bin"
    pip = [sys.executable, "-m", "pip", "--python", commands / "python", "--disable-pip-version-check"]
    run(*pip, "install", "--no-deps", "--no-index", "--no-compile", wheel, cwd=environment)
    purelib = run(commands / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=environment)
    # Plain folders: the .pth files in them, such as the one of an editable installation of the clone, are not read.
    Path(purelib.strip(), "libraries.pth").write_text("\n".join(site.getsitepackages()), encoding="utf-8")
    return commands


def test_wheel_holds_all_packages_scripts_and_tables_and_nothing_else(wheel):
    def contents(folder: Path, target: str) -> set[str]:
        files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        return {f"{target}/{path.relative_to(folder)}" for path in files}

    folders = [REPOSITORY / "ecg_finetune"]
    folders += [folder for stage in STAGE_FOLDERS for folder in (REPOSITORY / stage).glob("ecg_*") if folder.is_dir()]
    expected = set().union(*(contents(folder, folder.name) for folder in folders))
    for stage in STAGE_FOLDERS:
        expected |= contents(REPOSITORY / stage / "scripts", "ecg_finetune/scripts")
    expected |= {"ecg_finetune/scripts/make_demo_data.py"}
    expected -= {"ecg_finetune/documents.py"}
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert found == expected
    packages = {name.split("/")[0] for name in expected if name.endswith("/__init__.py")}
    assert all(f"{package}/py.typed" in found for package in packages)


def test_metadata_says_what_pyproject_says(installed):
    (distribution,) = metadata.distributions(
        name="ecg-finetune", path=[str(path) for path in installed.parent.glob("lib/*/site-packages")]
    )
    required = [Requirement(line) for line in distribution.requires]
    assert {str(one) for one in required if one.marker is None} == set(PROJECT["dependencies"])
    assert set(distribution.metadata.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])
    assert distribution.version == ecg_finetune.__version__
    assert distribution.metadata["License-Expression"] == "MIT"
    licences = [distribution.read_text(f"licenses/{file}") for file in PROJECT["license-files"]]
    assert [re.search(r"Copyright \(c\) (.*)", text)[1] for text in licences] == [
        "2026 the ecg-finetune contributors",
        "2024 WangLab @ U of T",
    ]


def test_labels_stage_runs_from_the_wheel_as_from_the_clone(installed, run_script, tmp_path):
    reports = tmp_path / "machine_measurements.csv"
    reports.write_text(REPORTS, encoding="utf-8")
    printed = run(
        installed / "ecg-finetune", "labels", "--machine-measurements", reports, "--out-dir", "wheel", cwd=tmp_path
    )
    configuration = Path(re.search("^labeler configuration: (.*)$", printed, re.MULTILINE)[1])
    assert installed.parent in configuration.parents
    run_script(STAGES["labels"], "--machine-measurements", reports, "--out-dir", tmp_path / "clone")
    written = {path.name: path.read_bytes() for path in (tmp_path / "wheel").iterdir() if path.suffix != ".json"}
    assert {"labels.csv", "y.npy", "y_soft.npy", "label_def_official_17.csv"} <= set(written)
    for name, content in written.items():
        assert content == (tmp_path / "clone" / name).read_bytes(), name
    assert written["labels.csv"].count(b"\n") == 4


def test_every_stage_starts_and_nothing_comes_from_the_clone(installed, wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        packages = sorted(name.split("/")[0] for name in archive.namelist() if re.fullmatch(r"\w+/__init__\.py", name))
    printed = json.loads(run(installed / "python", "-c", EVERY_STAGE, *packages, cwd=tmp_path))
    assert printed["shown"] == len(STAGES)
    ours = {name: Path(file) for name, file in printed["files"].items() if name.split(".")[0] in packages}
    assert {name.split(".")[0] for name in ours} == set(packages)
    assert all(installed.parent in file.parents for file in ours.values())
    libraries = [Path(folder) for folder in site.getsitepackages()]
    for place in [*printed["path"], *printed["files"].values()]:
        below_clone = REPOSITORY in [Path(place), *Path(place).parents]
        assert not below_clone or any(folder in [Path(place), *Path(place).parents] for folder in libraries), place


def test_version_without_installation(installed, tmp_path):
    version = run(installed / "ecg-finetune", "--version", cwd=tmp_path)
    assert version == f"ecg-finetune {ecg_finetune.__version__}\n"
    # -S: without the site-packages of any installation
    assert run(sys.executable, "-S", "-m", "ecg_finetune", "--version", cwd=REPOSITORY) == version

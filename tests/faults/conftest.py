"""The undisturbed pipeline every fault is compared with."""

import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from pipeline import REPOSITORY, STAGES, Stage, contents, run, timed


class Undisturbed(NamedTuple):
    """An undisturbed run: its base folder, the records, and per stage the seconds and the digests of its files."""

    base: Path
    raw: Path
    seconds: dict[str, float]
    reference: dict[str, dict[str, str]]

    def base_before(self, stage_name: str, folder: Path) -> Path:
        """Return a new base folder in `folder` where every stage before `stage_name` is done."""
        new = folder / "base"
        for name, stage in STAGES.items():
            if name == stage_name:
                return new
            copy_artefacts(stage, self.base, new)
        raise KeyError(stage_name)


def copy_artefacts(stage: Stage, old: Path, new: Path) -> None:
    """Copy what a stage wrote, and what stands beside it, from one base folder to another; links stay links."""
    new.mkdir(parents=True, exist_ok=True)
    for folder in {Path(stage.script).parts[0]}:
        shutil.copytree(old / folder, new / folder, symlinks=True, dirs_exist_ok=True)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, request) -> Undisturbed:
    """Run the stages once, on synthetic records."""
    folder = tmp_path_factory.mktemp("undisturbed")
    raw, base = folder / "raw", folder / "base"
    records = str(request.config.getoption("--fault-records"))
    made = run([sys.executable, str(REPOSITORY / "demo/make_demo_data.py"), "--records", records, "--out", str(raw)])
    assert made.returncode == 0, made.stderr
    seconds, reference = {}, {}
    for name, stage in STAGES.items():
        seconds[name], process = timed(stage.command(base, raw))
        assert process.returncode == 0, f"{name}: {process.stdout}\n{process.stderr}"
        reference[name] = contents(base, stage)
        assert reference[name], f"{name} wrote nothing"
    return Undisturbed(base, raw, seconds, reference)

"""The undisturbed pipeline every fault is compared with."""

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from pipeline import REPOSITORY, STAGES, Forked, contents, make_few_segments, run, timed


def pytest_configure(config):
    """Register the mark of what is left to `make faults`; heed Ctrl-C, which a shell's background jobs ignore."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "long: one more case of the long campaign (--kills 10 or more)")


def pytest_collection_modifyitems(config, items):
    """Leave the cases marked `long` out of the short version."""
    if config.getoption("--kills") < 10:
        chosen = [item for item in items if item.get_closest_marker("long") is None]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen


class Undisturbed:
    """An undisturbed run on synthetic records, up to the build stage and, when a test first asks for it, further.

    Attributes
    ----------
    base, raw : Path
        Its base folder, and the records.
    """

    def __init__(self, folder: Path, records: int):
        self.base, self.raw = folder / "base", folder / "raw"
        self._seconds: dict[str, float] = {}
        self._reference: dict[str, dict[str, str]] = {}
        made = run(
            [sys.executable, str(REPOSITORY / "demo/make_demo_data.py")]
            + ["--records", str(records), "--out", str(self.raw)]
        )
        assert made.returncode == 0, made.stderr
        self.upto("build")

    def upto(self, stage_name: str) -> None:
        """Run the stages up to this one that have not run yet."""
        for name, stage in STAGES.items():
            if name not in self._reference:
                if stage.with_torch:
                    Forked.import_first()
                self._seconds[name], process = timed(stage.command(self.base, self.raw))
                assert process.returncode == 0, f"{name}: {process.stdout}\n{process.stderr}"
                self._reference[name] = contents(self.base, stage)
                assert self._reference[name], f"{name} wrote nothing"
                if name == "build":
                    make_few_segments(self.base)
            if name == stage_name:
                return
        raise KeyError(stage_name)

    def reference(self, stage_name: str) -> dict[str, str]:
        """Return the digests of the files of a stage."""
        self.upto(stage_name)
        return self._reference[stage_name]

    def seconds(self, stage_name: str) -> float:
        """Return how long a stage took."""
        self.upto(stage_name)
        return self._seconds[stage_name]

    def base_before(self, stage_name: str, folder: Path) -> Path:
        """Return a new base folder in `folder` where every stage before `stage_name` is done."""
        self.upto(stage_name)
        new = folder / "base"
        new.mkdir(parents=True)
        for name, stage in STAGES.items():
            if name == stage_name:
                return new
            _copy(self.base / stage.folder, new / stage.folder)
            if name == "build":
                _copy(self.base / "few_segments", new / "few_segments")
        raise KeyError(stage_name)


def _copy(old: Path, new: Path) -> None:
    """Copy a folder; links stay links, and the many .mat files, which no stage changes in place, become hard links."""

    def copy(file: str, to: str) -> None:
        (os.link if file.endswith(".mat") else shutil.copy2)(file, to)

    shutil.copytree(old, new, symlinks=True, copy_function=copy)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, request) -> Undisturbed:
    """Return the undisturbed run."""
    return Undisturbed(tmp_path_factory.mktemp("undisturbed"), request.config.getoption("--fault-records"))

"""A small pipeline to break: how each stage is run, what it writes, and how two runs are compared."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from ecg_finetune.paths import locate

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Stage:
    """One script with its arguments, and the artefacts (rows of the path table) it is answerable for."""

    script: str
    arguments: tuple[str, ...]
    artefacts: tuple[str, ...]

    def command(self, base: Path, raw: Path) -> list[str]:
        """Return the command that runs this stage below `base` on the records below `raw`."""
        filled = [argument.format(raw=raw) for argument in self.arguments]
        return [sys.executable, str(REPOSITORY / self.script), "--base-dir", str(base), *filled]


# In the order of the pipeline: each needs what those above it wrote.
STAGES = {
    "labels": Stage(
        "labels/scripts/create_labels_ecgfm.py",
        ("--machine-measurements", "{raw}/machine_measurements.csv", "--workers", "2"),
        ("computed_labels",),
    ),
    "split": Stage("split/scripts/create_split.py", ("--record-list", "{raw}/record_list.csv"), ("meta_split",)),
    "preprocess": Stage(
        "preprocess/scripts/preprocess_ecgfm.py",
        ("--record-list", "{raw}/record_list.csv", "--raw-root", "{raw}", "--workers", "2"),
        ("lead", "report"),
    ),
    "build": Stage(
        "build/scripts/build_test_and_finetune_data.py", ("--workers", "2"), ("test", "segments", "manifests")
    ),
}


def run(command: list[str], **options) -> subprocess.CompletedProcess:
    """Run a command to its end, output captured as text."""
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)


def contents(base: Path, stage: Stage) -> dict[str, str]:
    """Return the digest of every file of the stage's artefacts, by its path below `base`.

    A link counts as what it points to, so that a broken one shows.
    """
    digests = {}
    for name in stage.artefacts:
        root = locate(base, name)
        files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if not p.is_dir())
        for file in files:
            content = file.read_bytes().replace(str(base).encode(), b"<base>") if file.exists() else b"broken link"
            digests[str(file.relative_to(base))] = hashlib.sha256(content).hexdigest()
    return digests


def half_written(found: dict[str, str], reference: dict[str, str]) -> list[str]:
    """Return the files that stand under a final name with another content than in the undisturbed run."""
    return [name for name, digest in found.items() if reference.get(name) != digest and "/.tmp-" not in f"/{name}"]


def kill_at(command: list[str], moment: float) -> bool:
    """Start a command, SIGKILL it and all its workers after `moment` seconds; say whether it was still running."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def random_moments(count: int, duration: float, seed: int) -> list[float]:
    """Return `count` moments spread evenly over a run of `duration` seconds, each at random within its share."""
    generator = random.Random(seed)
    return [(index + generator.random()) / count * duration for index in range(count)]


def timed(command: list[str]) -> tuple[float, subprocess.CompletedProcess]:
    """Run a command to its end and return the seconds it took with the finished process."""
    started = time.monotonic()
    process = run(command)
    return time.monotonic() - started, process

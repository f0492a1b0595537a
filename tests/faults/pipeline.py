"""A small pipeline to break: how each stage is run, what it writes, and how two runs are compared."""

import contextlib
import hashlib
import io
import multiprocessing
import os
import random
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from ecg_finetune.checkpoint import load_checkpoint
from ecg_finetune.files import UserError
from ecg_finetune.paths import locate

REPOSITORY = Path(__file__).resolve().parents[2]
FEW_SEGMENTS = {"train": 64, "valid": 32}  # of the fine-tuning run
# Without git, so that a commit made during a campaign does not show in what eval writes.
ENVIRONMENT = {**os.environ, "GIT_DIR": os.devnull}

HOLD = Path(__file__).parent / "hold"
HELD: dict[str, str] = {}  # what a run that is held has in its environment, see `held_back`

TIMINGS = ("seconds", "segments_per_second", "previous_training_time")
TIME_STAMP = re.compile(rb"\d{8}_\d{6}")


@dataclass(frozen=True)
class Stage:
    """One script with its arguments, and the artefacts (rows of the path table) it is answerable for.

    `with_torch`: importing PyTorch takes longer than the run, see `Forked`. `rewrites`: a file that stands under its
    final name during a run is whole, but not yet what it will be at the end.
    """

    script: str
    arguments: tuple[str, ...]
    artefacts: tuple[str, ...]
    with_torch: bool = False
    rewrites: bool = False

    def command(self, base: Path, raw: Path) -> list[str]:
        """Return the command that runs this stage below `base` on the records below `raw`."""
        filled = [argument.format(raw=raw, base=base) for argument in self.arguments]
        return [sys.executable, str(REPOSITORY / self.script), "--base-dir", str(base), *filled]

    @property
    def folder(self) -> str:
        """The stage's folder below the base folder."""
        return Path(self.script).parts[0]


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
    "finetune": Stage(
        "finetune/scripts/finetune_ecgfm.py",
        (
            *("--pretrained", "none", "--tiny", "--device", "cpu", "--manifests", "{base}/few_segments"),
            *("--epochs", "2", "--batch-size", "16", "--save-every", "2"),
        ),
        ("finetune",),
        with_torch=True,
        rewrites=True,
    ),
    "eval": Stage(
        "eval/scripts/eval_finetuned.py",
        (
            *("--record-list", "{raw}/record_list.csv", "--device", "cpu", "--num-workers", "1"),
            *("--max-samples", "20", "--bootstrap", "20"),
        ),
        ("eval",),
        with_torch=True,
    ),
}


def make_few_segments(base: Path) -> None:
    """Write the manifests of the fine-tuning run: the first segments of the build stage's."""
    manifests, few = locate(base, "manifests"), base / "few_segments"
    few.mkdir()
    for name in ("y.npy", "original_idx_order.npy", "label_def.csv", "pos_weight.txt"):
        (few / name).write_bytes((manifests / name).read_bytes())
    for split, number in FEW_SEGMENTS.items():
        lines = (manifests / f"{split}.tsv").read_text().splitlines(keepends=True)
        (few / f"{split}.tsv").write_text("".join(lines[: 1 + number]))


# Running


class Forked:
    """A script in a process with PyTorch's imports behind it: as much of `subprocess.Popen` as is needed here.

    The imports take 4 s, the run 2 s; and a kill during the imports tries nothing.
    """

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["torch._dynamo", "ecg_training.torch_engine", "ecg_evaluation.stage", "ecg_evaluation.prediction"]
        + ["matplotlib.backends.backend_agg", "matplotlib.figure"]
    )

    def __init__(self, command: list[str]):
        self.args, self.output = command, [tempfile.NamedTemporaryFile() for _ in range(2)]  # noqa: SIM115
        output = [file.name for file in self.output]
        self.process = self.context.Process(target=_run_script, args=(command, output, dict(HELD)))
        self.process.start()
        self.pid = self.process.pid

    @classmethod
    def import_first(cls) -> None:
        """Have the imports done, so that they do not count in the time of the first run."""
        process = cls.context.Process(target=int)
        process.start()
        process.join()

    @property
    def returncode(self) -> int | None:
        """The exit code, None while it runs."""
        return self.process.exitcode

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end and return what was written to stdout and stderr."""
        self.wait(timeout)
        return tuple(Path(file.name).read_text() for file in self.output)


def _run_script(command: list[str], output: list[str], held: dict[str, str]) -> None:
    os.setsid()
    if held:
        os.environ.update(held)
        runpy.run_path(str(HOLD / "sitecustomize.py"))
    for descriptor, file in zip((1, 2), output, strict=True):
        os.dup2(os.open(file, os.O_WRONLY), descriptor)
    os.environ["GIT_DIR"] = ENVIRONMENT["GIT_DIR"]
    multiprocessing.set_start_method("fork", force=True)  # as in a process that was not forked from a server
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own is shared between processes, and a kill would leave it behind
    sys.argv = command[1:]
    runpy.run_path(command[1], run_name="__main__")


def start(command: list[str]) -> subprocess.Popen | Forked:
    """Start a command in a process group of its own."""
    if any(stage.with_torch and command[1].endswith(stage.script) for stage in STAGES.values()):
        return Forked(command)
    environment = {**ENVIRONMENT, **HELD, "PYTHONPATH": str(HOLD)} if HELD else ENVIRONMENT
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True, env=environment)


def finished(process: subprocess.Popen | Forked, timeout: float = 300) -> subprocess.CompletedProcess:
    """Wait for a started process and return it with its output."""
    output, errors = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def run(command: list[str]) -> subprocess.CompletedProcess:
    """Run a command to its end, output captured as text."""
    return finished(start(command))


def timed(command: list[str]) -> tuple[float, subprocess.CompletedProcess]:
    """Run a command to its end and return the seconds it took with the finished process."""
    started = time.monotonic()
    process = run(command)
    return time.monotonic() - started, process


def kill_at(command: list[str], moment: float, workers_too: bool) -> bool:
    """Start a command and SIGKILL it after `moment` seconds; say whether it was still running.

    With `workers_too` all its processes go at once, as in a power failure; else the main one alone, as the kernel
    does when memory runs out.
    """
    process = start(command)
    try:
        process.communicate(timeout=moment)
    except subprocess.TimeoutExpired:
        try:
            (os.killpg if workers_too else os.kill)(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has just ended, or not yet made its group
            os.kill(process.pid, signal.SIGKILL)
        return process.wait() == -signal.SIGKILL
    return False


def random_moments(count: int, duration: float, seed: int) -> list[float]:
    """Return `count` moments spread evenly over a run of `duration` seconds, each at random within its share."""
    generator = random.Random(seed)
    return [(index + generator.random()) / count * duration for index in range(count)]


@contextlib.contextmanager
def held_back(file: Path) -> Iterator[Callable[[subprocess.Popen | Forked], None]]:
    """Hold the runs that are started in the block at the point where they open `file`, until its end.

    The block gets a function that returns once a run waits there: so it can be met in the middle of its work on a
    machine of any speed.
    """
    writer = None
    with tempfile.TemporaryDirectory() as folder:
        pipe = Path(folder, "pipe")
        os.mkfifo(pipe)

        def reached() -> bool:
            nonlocal writer
            with contextlib.suppress(OSError):  # nobody waits
                writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            return writer is not None

        def wait_for(process: subprocess.Popen | Forked) -> None:
            while not reached():
                assert process.poll() is None, f"it ended without reading {file}: {finished(process)}"
                time.sleep(0.002)

        HELD.update(HOLD_FILE=str(file), HOLD_PIPE=str(pipe))
        try:
            yield wait_for
        finally:
            HELD.clear()
            if writer is not None or reached():
                os.close(writer)


# Comparing


def contents(base: Path, stage: Stage) -> dict[str, str]:
    """Return the digest of every file of the stage's artefacts, by its path below `base`.

    A link counts as what it points to, so that a broken one shows. What must differ between two runs does not count:
    the base folder, durations, and the time of an evaluation in the names and contents of its files.
    """
    digests = {}
    for artefact in stage.artefacts:
        root = locate(base, artefact)
        # Unlike a glob, a walk does not mind that workers who outlive their main process remove folders under it.
        files = (
            [root] if root.is_file() else sorted(Path(folder, n) for folder, _, names in os.walk(root) for n in names)
        )
        for file in files:
            name = TIME_STAMP.sub(b"TIME", str(file.relative_to(base)).encode()).decode()
            digest = digest_of(file, base)
            if digests.setdefault(name, digest) != digest:  # of two evaluations
                digests[f"{name} again"] = digest
    return digests


def digest_of(file: Path, base: Path) -> str:
    """Return the digest of a file without what must differ between two runs; `unreadable` if it is not whole."""
    try:
        content = file.read_bytes()
        if file.suffix == ".pt":
            content = repr(comparable(load_checkpoint(file))).encode()
        elif file.name == "training_log.csv":
            content = pd.read_csv(io.BytesIO(content)).drop(columns=list(TIMINGS[:2])).to_csv().encode()
    except FileNotFoundError:
        return "gone, or a broken link"
    except (UserError, ValueError, KeyError) as error:
        return f"unreadable: {error}"
    if file.name == "settings.json":
        # The checkpoint, whose digest this is, holds how long it took.
        content = re.sub(rb'"(seconds|segments_per_second)": [0-9.e+-]+|"checkpoint_sha256": "\w+"', b"", content)
    content = TIME_STAMP.sub(b"TIME", content.replace(str(base).encode(), b"<base>"))
    return hashlib.sha256(content).hexdigest()


def comparable(value: Any) -> Any:
    """Return what a checkpoint holds without durations, arrays and tensors as digests of their bytes."""
    if isinstance(value, dict):
        return {str(name): comparable(item) for name, item in value.items() if name not in TIMINGS}
    if isinstance(value, list | tuple):
        return [comparable(item) for item in value]
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, hashlib.sha256(value.tobytes()).hexdigest()
    return value


def half_written(stage: Stage, found: dict[str, str], reference: dict[str, str]) -> list[str]:
    """Return the files that stand under a final name but are not whole.

    Whole means equal to those of the undisturbed run, or where a stage rewrites its files, readable.
    """

    def whole(name: str, digest: str) -> bool:
        return not digest.startswith("unreadable") if stage.rewrites else reference.get(name) == digest

    unfinished = ("/.tmp-", "/.partial/")
    return [
        name
        for name, digest in found.items()
        if not whole(name, digest) and not any(mark in f"/{name}" for mark in unfinished)
    ]

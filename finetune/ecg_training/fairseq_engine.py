"""The fairseq engine: what fairseq-signals needs on this machine, and a run of it from its start to its end."""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ecg_finetune.ecg_fm import Architecture, load_architecture
from ecg_finetune.files import UserError, replacing
from ecg_finetune.label_set import read_pos_weight
from ecg_finetune.lineage import NOT_LEARNT
from ecg_finetune.paths import inside
from ecg_finetune.run_folder import locked
from ecg_finetune.segments import read_labels, read_manifest
from ecg_finetune.training_records import STATED, TRAINED_ON
from ecg_training.checkpoint_folder import BEST, COMMAND, LOCK, claim_folder, note_labels, record_run
from ecg_training.fairseq_command import CONFIG_DIR, CONFIG_NAME, EXECUTABLE, fairseq_command
from ecg_training.seen_records import note_seen_records, run_lineage, seen_records
from ecg_training.settings import FinetuneSettings

NEWEST_PYTHON = (3, 10)
GRACE = 10.0  # seconds from SIGTERM to SIGKILL
FINE_TUNED = "fine-tuned already, and fairseq-signals can only start from a pretrained checkpoint"
# For Python 3.6 and later.
ASK_VERSIONS = """
import json, platform
found = {"python": platform.python_version()}
try:
    from importlib.metadata import PackageNotFoundError, version
except ImportError:
    names = ()
else:
    names = "torch", "numpy", "fairseq-signals", "hydra-core", "omegaconf"
for name in names:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def missing_pieces(pretrained: Path, root: Path | None, *, trust: bool = False) -> list[tuple[str, str]]:
    """Return what fairseq-signals lacks on this machine, each with what to do about it; empty when it can run.

    Parameters
    ----------
    pretrained : Path
        The checkpoint to start from.
    root : Path or None
        The clone of fairseq-signals.
    trust : bool
        See `checkpoint.load_checkpoint`.
    """
    missing = []
    executable = shutil.which(EXECUTABLE)
    if executable is None:
        missing.append((f"no {EXECUTABLE} on PATH", "install fairseq-signals and add its environment to PATH"))
    else:
        python = versions_of(executable).get("python")
        if python is not None and tuple(map(int, python.split(".")[:2])) > NEWEST_PYTHON:
            remedy = f"install it in an environment of Python {'.'.join(map(str, NEWEST_PYTHON))} or older"
            missing.append((f"{executable} runs on Python {python}, too new for fairseq-signals", remedy))
    if not cuda_present():
        missing.append(("no CUDA device", "fairseq-signals cannot train without one; use a GPU machine"))
    if root is None:
        missing.append(("no --fairseq-root", "give the folder of the fairseq-signals clone"))
    elif not (root / CONFIG_DIR / f"{CONFIG_NAME}.yaml").is_file():
        missing.append((f"no {CONFIG_DIR}/{CONFIG_NAME}.yaml below --fairseq-root {root}", "give the clone's folder"))
    if not pretrained.is_file():
        missing.append((f"no pretrained checkpoint {pretrained}", "download ECG-FM's and give it with --pretrained"))
    elif not missing and load_architecture(pretrained, trust=trust)[1]:  # it takes seconds, so it comes last
        missing.append((f"{pretrained} is {FINE_TUNED}", "give ECG-FM's pretrained checkpoint"))
    return missing


def unknown_labels(manifests: Path) -> list[tuple[str, str]]:
    """Return that labels of the manifests are unknown, and what to do about it; empty where all are known.

    fairseq-signals would train on them: its loss is NaN from the first batch on.
    """
    unknown = int(np.isnan(read_labels(manifests)).sum())
    told = f"{inside(manifests, 'manifest_y')} holds {unknown:,} unknown labels (NaN), on which it cannot train"
    return [(told, "give labels that are all known")] if unknown else []


def cuda_present() -> bool:
    """Tell whether there is a CUDA GPU; this Python's PyTorch may be a CPU build, so the driver is asked first."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
        return False
    if shutil.which("nvidia-smi") is not None:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
        if listed.returncode == 0 and listed.stdout.startswith("GPU"):
            return True
    import torch

    return torch.cuda.is_available()


def versions_of(executable: str) -> dict[str, str]:
    """Return the versions of Python and of the packages behind a console script; empty if they cannot be asked."""
    with Path(executable).open("rb") as handle:
        head = handle.read(4096).decode("utf-8", "replace")
    found = re.match(r"#!\s*(?:/usr/bin/env\s+)?(\S*python\S*)", head)
    # What pip writes where the path is too long for that, or holds a space.
    found = found or re.search(r"exec'\s+\"?((?<=\")[^\"\n]+|\S+)", head)
    if found is None:
        return {}
    command = [found.group(1), "-c", ASK_VERSIONS]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return json.loads(asked.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}


def command_for(settings: FinetuneSettings, root: Path, overrides: Sequence[str]) -> list[str]:
    """Return the command of a run, with the sizes of the pretrained encoder where its file is there.

    Raises
    ------
    UserError
        An input cannot be used, or `fairseq_command` refuses an override.
    """
    for split in ("train", "valid"):
        read_manifest(inside(settings.manifests, "manifest", split=split))
    architecture, fine_tuned = Architecture(), False
    if settings.pretrained.is_file():
        architecture, fine_tuned, _ = load_architecture(settings.pretrained, trust=settings.trust)
    if fine_tuned:
        raise UserError(f"{settings.pretrained}: {FINE_TUNED}; use --engine torch, or a pretrained checkpoint")
    pos_weight = read_pos_weight(inside(settings.manifests, "manifest_pos_weight"), len(settings.label_set)).tolist()
    return fairseq_command(settings, architecture, pos_weight, root, overrides)


def finetune(
    settings: FinetuneSettings, root: Path, overrides: Sequence[str], command: list[str], *, overwrite: bool
) -> str:
    """Run a command of `command_for`; leave `checkpoint_best.pt`, command.sh and settings.json in the output folder.

    Returns
    -------
    str
        A summary.

    Raises
    ------
    UserError
        The output folder holds another run, or fairseq-hydra-train failed.
    KeyboardInterrupt
        It was stopped; with a message that says what can be done.
    """
    folder, best = settings.output, settings.output / BEST
    executable = shutil.which(EXECUTABLE)
    versions = versions_of(executable)
    recorded = {"engine": "fairseq", **settings.recorded(), "fairseq_root": str(root), "overrides": list(overrides)}
    listed = (read_manifest(inside(settings.manifests, "manifest", split=split)) for split in TRAINED_ON)
    records = seen_records(*listed, settings.record_list, settings.workers)
    told = run_lineage(recorded, settings.manifests)
    with locked(folder, folder / LOCK):
        claim_folder(folder, recorded, resume=False, overwrite=overwrite, resumable=False)
        with replacing(folder / COMMAND) as temporary:
            temporary.write_text(f"HYDRA_FULL_ERROR=1 {shlex.join(command)}\n", encoding="utf-8")
        noted = {NOT_LEARNT: note_labels(folder, settings.manifests)}
        noted |= {STATED: note_seen_records(folder, records), "command": command}
        record_run(folder, told, versions, **noted, finished=False)
        # hydra leaves logs in the working folder, and shows the error that stopped a run only with this variable.
        environment = {**os.environ, "HYDRA_FULL_ERROR": "1"}
        code = run_in_group([str(Path(executable).absolute()), *command[1:]], cwd=folder, env=environment)
        if best.is_file():
            again = f"{best} is from before that, and fairseq-signals cannot resume: start over with --overwrite"
        else:
            again = "there is no checkpoint yet: run the same command to start again"
        if code is None:
            raise KeyboardInterrupt(f"{EXECUTABLE} was stopped; {again}")
        if code != 0 or not best.is_file():
            raise UserError(f"{EXECUTABLE} ended with exit code {code}; see its messages above; {again}")
        record_run(folder, told, versions, **noted, finished=True)
    return (
        f"{best} written; it carries labels and scores of the valid split: "
        "run `python -m ecg_finetune.checkpoint strip` on it before you share it"
    )


def run_in_group(command: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> int | None:
    """Run a command in a process group of its own, which ends with it on Ctrl-C, SIGTERM and SIGHUP.

    Returns
    -------
    int or None
        The exit code; None if one of these signals has ended it.
    """
    stopped = []
    with _handled((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), lambda number, _: stopped.append(number)):
        process = subprocess.Popen(command, cwd=cwd, env=env, start_new_session=True)
        try:
            while process.poll() is None and not stopped:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
        finally:
            if stopped or process.returncode is None:
                _end_group(process)
    return None if stopped else process.returncode


@contextlib.contextmanager
def _handled(numbers: Sequence[int], handler: Callable) -> Iterator[None]:
    """Handle signals within the block, except those that are ignored, as SIGHUP is under nohup."""
    before = {number: signal.getsignal(number) for number in numbers}
    before = {number: old for number, old in before.items() if old not in (signal.SIG_IGN, None)}
    try:
        for number in before:
            signal.signal(number, handler)
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _end_group(process: subprocess.Popen) -> None:
    """End a process and all in its group: SIGTERM, and SIGKILL for what is left."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):  # none is left; macOS says the latter
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)

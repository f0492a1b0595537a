"""A full disk, a read-only folder, vanishing records, a killed worker, a changing input, a second run, Ctrl-C."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from pipeline import STAGES, contents, half_written, run

from ecg_finetune.paths import locate


@contextlib.contextmanager
def small_disk(folder: Path, size: str, *options: str):
    """Mount a tmpfs of the given size at `folder`, or skip where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *options]), "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def assert_one_line(process: subprocess.CompletedProcess, *words: str) -> None:
    """Assert exit code 1 and one `error:` line that holds all the words."""
    assert process.returncode == 1, f"exit {process.returncode}\n{process.stdout}\n{process.stderr}"
    assert "Traceback" not in process.stderr, process.stderr
    errors = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, process.stderr
    for word in words:
        assert word in errors[0], errors[0]


@pytest.mark.parametrize(("name", "size"), [("labels", "40k"), ("preprocess", "500k"), ("build", "1000k")])
def test_full_disk_stops_with_one_line_and_the_next_run_goes_on(name, size, undisturbed, tmp_path):
    stage, reference = STAGES[name], undisturbed.reference[name]
    base = undisturbed.base_before(name, tmp_path)
    outputs = base / Path(stage.script).parts[0]
    with small_disk(outputs, size):
        full = run(stage.command(base, undisturbed.raw))
        assert_one_line(full, "disk is full")
        left = contents(base, stage)
        assert not half_written(left, reference)
        kept = tmp_path / "kept"
        shutil.copytree(outputs, kept, symlinks=True)
    shutil.copytree(kept, outputs, symlinks=True, dirs_exist_ok=True)
    rerun = run(stage.command(base, undisturbed.raw))
    assert rerun.returncode == 0, rerun.stderr
    assert contents(base, stage) == reference


@pytest.mark.parametrize("name", STAGES)
def test_read_only_output_folder_is_told_in_one_line(name, undisturbed, tmp_path):
    stage = STAGES[name]
    base = undisturbed.base_before(name, tmp_path)
    with small_disk(base / Path(stage.script).parts[0], "1m", "ro"):
        assert_one_line(run(stage.command(base, undisturbed.raw)), "read-only")


def started(command: list[str], until, timeout: float = 60) -> subprocess.Popen:
    """Start a command and return it once `until()` holds."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    limit = time.monotonic() + timeout
    while not until() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.001)
    return process


def finished(process: subprocess.Popen, timeout: float = 60) -> subprocess.CompletedProcess:
    """Wait for a started process and return it with its output."""
    output, errors = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def children(pid: int) -> list[int]:
    """Return the process ids of all descendants of a process."""
    direct = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in direct] + [grandchild for child in direct for grandchild in children(int(child))]


def has_files(folder: Path) -> bool:
    """Say whether a folder holds a finished file."""
    return folder.is_dir() and any(not entry.name.startswith(".tmp-") for entry in os.scandir(folder))


def test_records_that_vanish_are_listed_and_come_with_the_next_run(undisturbed, tmp_path):
    stage, reference = STAGES["preprocess"], undisturbed.reference["preprocess"]
    base = undisturbed.base_before("preprocess", tmp_path)
    raw = tmp_path / "raw"
    shutil.copytree(undisturbed.raw, raw)
    shutil.move(raw / "files", raw / "unplugged")
    gone = run(stage.command(base, raw))
    assert_one_line(gone)
    shutil.move(raw / "unplugged", raw / "files")
    back = run(stage.command(base, raw))
    assert back.returncode == 0, back.stderr
    assert contents(base, stage) == reference


@pytest.mark.parametrize("name", ["preprocess", "build"])
def test_killed_worker_ends_the_run_with_one_line(name, undisturbed, tmp_path):
    stage, reference = STAGES[name], undisturbed.reference[name]
    base = undisturbed.base_before(name, tmp_path)
    command = stage.command(base, undisturbed.raw)
    process = started(command, until=lambda: False, timeout=0)
    victims = []
    while process.poll() is None and not victims:
        with contextlib.suppress(FileNotFoundError):
            victims = [pid for pid in children(process.pid) if "resource_tracker" not in cmdline(pid)]
    if not victims:
        pytest.skip("the run ended before a worker was seen")
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process = finished(process)
    if process.returncode:  # it may just have finished
        assert_one_line(process)
    assert not half_written(contents(base, stage), reference)
    rerun = run(command)
    assert rerun.returncode == 0, rerun.stderr
    assert contents(base, stage) == reference


def cmdline(pid: int) -> str:
    """Return the command line of a process."""
    return Path(f"/proc/{pid}/cmdline").read_text()


def test_input_that_changes_during_the_run_is_noticed(undisturbed, tmp_path):
    base = undisturbed.base_before("preprocess", tmp_path)
    meta = locate(base, "meta_split")
    lead = locate(base, "lead")
    process = started(STAGES["preprocess"].command(base, undisturbed.raw), until=lambda: has_files(lead))
    assert process.poll() is None, process.communicate()
    meta.write_text(meta.read_text() + "mimic_iv_ecg_1.mat,train\n")
    assert_one_line(finished(process), "meta_split.csv", "changed")


@pytest.mark.parametrize("name", ["preprocess", "build"])
def test_second_run_into_the_same_folder_is_refused(name, undisturbed, tmp_path):
    stage = STAGES[name]
    base = undisturbed.base_before(name, tmp_path)
    command = stage.command(base, undisturbed.raw)
    folder = locate(base, stage.artefacts[0] if name == "preprocess" else "segments")
    process = started(command, until=lambda: has_files(folder))
    os.killpg(process.pid, signal.SIGSTOP)
    try:
        assert_one_line(run(command), "another run")
    finally:
        os.killpg(process.pid, signal.SIGCONT)
    assert finished(process).returncode == 0
    assert contents(base, stage) == undisturbed.reference[name]


@pytest.mark.parametrize("name", ["preprocess", "build"])
def test_ctrl_c_ends_promptly_workers_included(name, undisturbed, tmp_path):
    stage, reference = STAGES[name], undisturbed.reference[name]
    base = undisturbed.base_before(name, tmp_path)
    command = stage.command(base, undisturbed.raw)
    folder = locate(base, stage.artefacts[0] if name == "preprocess" else "segments")
    process = started(command, until=lambda: has_files(folder))
    workers = children(process.pid) if process.poll() is None else []
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does: the whole foreground group gets it
    process = finished(process, timeout=20)
    assert process.returncode in (0, 130), process.stderr
    assert "Traceback" not in process.stderr
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    assert not half_written(contents(base, stage), reference)
    assert run(command).returncode == 0
    assert contents(base, stage) == reference

"""A full disk, a read-only folder, vanishing records, a killed worker, a changing input, a second run, Ctrl-C."""

import contextlib
import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pipeline import STAGES, contents, finished, half_written, held_back, random_moments, run, start

from ecg_finetune.paths import locate


def long(*values: str):
    """Mark a case as one for `make faults` only."""
    return pytest.param(*values, marks=pytest.mark.long)


@contextlib.contextmanager
def small_disk(folder: Path, size: str, *options: str):
    """Mount a tmpfs of the given size at `folder`, or skip where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *options]), "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"NOT TESTED, mounting a small file system needs root: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def read_only(folder: Path):
    """Make a folder that cannot be written to; yield the word that an error line must say.

    Modes do not bind root, who gets a read-only file system instead.
    """
    if os.geteuid() == 0:
        with small_disk(folder, "1m", "ro"):
            yield "read-only"
        return
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o555)
    try:
        yield "no permission"
    finally:
        folder.chmod(0o755)


def assert_one_line(process: subprocess.CompletedProcess, *words: str) -> None:
    """Assert exit code 1 and one `error:` line that holds all the words."""
    assert process.returncode == 1, f"exit {process.returncode}\n{process.stdout}\n{process.stderr}"
    assert "Traceback" not in process.stderr, process.stderr
    errors = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, process.stderr
    for word in words:
        assert word in errors[0], errors[0]


# Fine-tuning writes checkpoints of 1.5 MB (last) and 0.5 MB (best): with 300k none fits, with 2200k not a second last
# one beside the first, with 3200k not a later one. Eval writes predictions, then a report of 0.4 MB: with 4k not even
# the predictions fit.
@pytest.mark.parametrize(
    ("name", "size"),
    [
        *(("labels", "40k"), ("split", "4k"), ("preprocess", "500k"), ("build", "1000k")),
        ("finetune", "2200k"),
        *(long("finetune", "300k"), long("finetune", "3200k"), long("eval", "4k"), long("eval", "200k")),
    ],
)
def test_full_disk_stops_with_one_line_and_the_next_run_goes_on(name, size, undisturbed, tmp_path):
    stage, reference = STAGES[name], undisturbed.reference(name)
    base = undisturbed.base_before(name, tmp_path)
    outputs = base / stage.folder
    with small_disk(outputs, size):
        full = run(stage.command(base, undisturbed.raw))
        assert_one_line(full, "disk is full")
        left = contents(base, stage)
        assert not half_written(stage, left, reference)
        assert not [file for file in left if "/.tmp-" in file or file.endswith(".lock")]
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
    with read_only(base / stage.folder) as told:
        assert_one_line(run(stage.command(base, undisturbed.raw)), told)


def children(pid: int) -> list[int]:
    """Return the process ids of all descendants of a process."""
    try:
        direct = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:  # it has just ended
        return []
    return [int(child) for child in direct] + [grandchild for child in direct for grandchild in children(int(child))]


def workers_of(pid: int) -> list[int]:
    """Return the process ids of the workers of a run."""
    found = []
    for child in children(pid):
        with contextlib.suppress(FileNotFoundError):  # it has just ended
            if "resource_tracker" not in Path(f"/proc/{child}/cmdline").read_text():
                found.append(child)
    return found


def middle_record(undisturbed) -> str:
    """Return the path of the record in the middle of meta_split.csv, as record_list.csv has it."""
    with locate(undisturbed.base, "meta_split").open() as meta, (undisturbed.raw / "record_list.csv").open() as records:
        path_of = {f"mimic_iv_ecg_{row['study_id']}.mat": row["path"] for row in csv.DictReader(records)}
        files = [row["save_file"] for row in csv.DictReader(meta)]
    return path_of[files[len(files) // 2]]


def read_in_the_middle(name: str, undisturbed, base: Path) -> Path:
    """Return a file that the stage reads when it has been at work for a while."""
    match name:
        case "preprocess":
            return undisturbed.raw / f"{middle_record(undisturbed)}.hea"
        case "build":
            mats = sorted(locate(base, "lead").glob("*.mat"))
            return mats[len(mats) // 2]
        case "finetune":
            root, first, *_ = (base / "few_segments" / "train.tsv").read_text().splitlines()
            return Path(root, first.split("\t")[0])
        case "eval":
            with locate(base, "test_file_list").open() as file:
                return locate(base, "lead") / next(csv.DictReader(file))["save_file"]
    raise KeyError(name)


def test_records_that_vanish_half_way_are_listed_and_come_with_the_next_run(undisturbed, tmp_path):
    stage, reference = STAGES["preprocess"], undisturbed.reference("preprocess")
    base = undisturbed.base_before("preprocess", tmp_path)
    raw, header = tmp_path / "raw", f"{middle_record(undisturbed)}.hea"
    shutil.copytree(undisturbed.raw, raw)
    with held_back(raw / header) as wait_for:
        process = start([*stage.command(base, raw), "--workers", "1"])
        wait_for(process)
        (raw / "files").rename(raw / "unplugged")
    gone = finished(process)
    assert_one_line(gone)
    left = contents(base, stage)
    lead = f"{locate(base, 'lead').relative_to(base)}/"
    came = [name for name in left if name.startswith(lead)]
    assert 0 < len(came) < len([name for name in reference if name.startswith(lead)])
    assert not half_written(stage, {name: left[name] for name in came}, reference)
    (raw / "unplugged").rename(raw / "files")
    back = run(stage.command(base, raw))
    assert back.returncode == 0, back.stderr
    assert contents(base, stage) == reference


@contextlib.contextmanager
def met_in_the_middle(name: str, undisturbed, base: Path):
    """Start a stage and yield its process, which waits for a file in the middle of its work until the block ends.

    Its workers are there. Those of the labels stage read no file; they have enough to do until the block ends.
    """
    command = STAGES[name].command(base, undisturbed.raw)
    if name == "labels":
        process = start([*command, "--machine-measurements", str(many_reports(base))])
        while not workers_of(process.pid):
            assert process.poll() is None, f"it ended without workers: {finished(process)}"
            time.sleep(0.001)
        yield process
        return
    with held_back(read_in_the_middle(name, undisturbed, base)) as wait_for:
        process = start(command)
        wait_for(process)
        yield process


def many_reports(base: Path) -> Path:
    """Write 1,000 distinct reports, which keep the workers busy for a while; return the file."""
    file = base / "machine_measurements.csv"
    rows = [f"{study},Sinus rhythm with PVC(s),Left axis deviation no. {study}" for study in range(1, 1_001)]
    file.write_text("\n".join(["study_id,report_0,report_1", *rows]) + "\n")
    return file


@pytest.mark.parametrize("name", ["labels", "preprocess", "build", "eval"])
def test_killed_worker_ends_the_run_with_one_line(name, undisturbed, tmp_path):
    stage, reference = STAGES[name], undisturbed.reference(name)
    base = undisturbed.base_before(name, tmp_path)
    with met_in_the_middle(name, undisturbed, base) as process:
        os.kill(workers_of(process.pid)[0], signal.SIGKILL)
        killed = finished(process)
    assert_one_line(killed, "worker process was killed")
    assert not half_written(stage, contents(base, stage), reference)
    rerun = run(stage.command(base, undisturbed.raw))
    assert rerun.returncode == 0, rerun.stderr
    assert contents(base, stage) == reference


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        *(("labels", "machine_measurements.csv"), ("preprocess", "split/data/meta_split.csv")),
        *(("build", "labels/computed_labels/labels.csv"), ("finetune", "few_segments/train.tsv")),
        *(long("preprocess", "record_list.csv"), long("build", "split/data/meta_split.csv")),
        *(long("finetune", "few_segments/y.npy"), long("eval", "record_list.csv")),
        long("eval", "split/data/meta_split.csv"),
    ],
)
def test_input_that_changes_during_the_run_is_noticed(name, changed, undisturbed, tmp_path):
    base = undisturbed.base_before(name, tmp_path)
    with met_in_the_middle(name, undisturbed, base) as process:
        file = base / changed if (base / changed).exists() else undisturbed.raw / changed
        before = file.read_bytes()
        file.write_bytes(before + before.splitlines(keepends=True)[-1])
    try:
        assert_one_line(finished(process), str(file), "changed during this run")
    finally:
        file.write_bytes(before)


@pytest.mark.parametrize("name", ["preprocess", long("build")])
def test_second_run_into_the_same_folder_is_refused(name, undisturbed, tmp_path):
    stage, reference = STAGES[name], undisturbed.reference(name)
    base = undisturbed.base_before(name, tmp_path)
    command = stage.command(base, undisturbed.raw)
    with met_in_the_middle(name, undisturbed, base) as process:
        assert_one_line(run(command), "another run")
    first = finished(process)
    assert first.returncode == 0, first.stderr
    assert contents(base, stage) == reference


@pytest.mark.parametrize("name", ["preprocess", "build", long("finetune"), long("eval")])
def test_ctrl_c_ends_promptly_workers_included(name, undisturbed, tmp_path):
    stage, reference = STAGES[name], undisturbed.reference(name)
    base = undisturbed.base_before(name, tmp_path)
    command = stage.command(base, undisturbed.raw)
    with met_in_the_middle(name, undisturbed, base) as process:
        workers = workers_of(process.pid)
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does: the whole foreground group gets it
        stopped = finished(process, timeout=20)
    assert stopped.returncode == 130, stopped.stderr
    assert "Traceback" not in stopped.stderr
    limit = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    assert not half_written(stage, contents(base, stage), reference)
    assert run(command).returncode == 0
    assert contents(base, stage) == reference


MANY_CHUNKS = """
import signal, sys
from ecg_finetune.batch import run_batch
signal.signal(signal.SIGINT, signal.default_int_handler)
print("started", flush=True)
try:
    for _ in run_batch(list, ([chunk] for chunk in range(10**9)), workers=2, total=10**9):
        pass
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_ctrl_c_at_any_moment_of_a_batch(request):
    moments = random_moments(5 * request.config.getoption("--kills"), 0.1, seed=0)
    for moment in moments:
        process = start([sys.executable, "-c", MANY_CHUNKS])
        assert process.stdout.readline() == "started\n"
        time.sleep(moment)
        os.killpg(process.pid, signal.SIGINT)
        stopped = finished(process, timeout=20)
        assert (stopped.returncode, stopped.stderr) == (130, ""), f"after {moment:.4f} s"

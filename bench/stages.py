"""Synthetic records for the benchmarks, and timed runs of the stage scripts on them."""

import compileall
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ecg_finetune.label_set import LABELS
from ecg_finetune.paths import locate
from ecg_finetune.studies import save_file_name
from ecg_finetune.tables import iterate_rows, write_rows

REPOSITORY = Path(__file__).resolve().parent.parent
PREPROCESS = "preprocess/scripts/preprocess_ecgfm.py"
BUILD = "build/scripts/build_test_and_finetune_data.py"
RECORDS, FIRST_STUDY = 2000, 40_000_000
CORES = 2
RUNS = 3


def timed(*command) -> tuple[float, str]:
    """Run a Python process; return its seconds from start to end, and what it printed."""
    os.sync()  # what an earlier run has left unwritten must not become this one's wait
    started = time.perf_counter()
    process = subprocess.run(
        [sys.executable, *map(str, command)], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - started
    if process.returncode:
        raise RuntimeError(f"{command}: {process.stderr}")
    return seconds, process.stdout


@contextmanager
def working_folder() -> Iterator[Path]:
    """Yield a temporary folder within the current one, which is on a disk (the system's own may be memory).

    The code is compiled first, as pip does with the baseline's: where PYTHONDONTWRITEBYTECODE is set, as in many
    containers, each process would do so anew, for 0.15 s.
    """
    for package in ("ecg_finetune", "preprocess", "build"):
        compileall.compile_dir(REPOSITORY / package, quiet=1)
    with tempfile.TemporaryDirectory(dir=".", prefix="bench-", ignore_cleanup_errors=True) as folder:
        yield Path(folder).resolve()


def make_records(folder: Path, number: int) -> Path:
    """Make synthetic format-16 records in MIMIC-IV-ECG's layout and return their raw root."""
    timed("demo/make_demo_data.py", "--records", number, "--broken", 0, "--out", folder)
    return folder


def make_base(base: Path, raw: Path, number: int) -> Path:
    """Make a base folder with a split and labels for `number` studies, and return its record list.

    Where there are fewer records, several studies share one: enough for timing, without gigabytes of copies.
    """
    paths = [path for _, (path,) in iterate_rows(raw / "record_list.csv", ["path"])]
    studies = range(FIRST_STUDY, FIRST_STUDY + number)
    record_list = locate(base, "record_list")
    write_rows(record_list, ["study_id", "path"], ((study, paths[i % len(paths)]) for i, study in enumerate(studies)))
    splits = ["train"] * 8 + ["valid", "test"]
    write_rows(
        locate(base, "meta_split"),
        ["save_file", "split"],
        ((save_file_name(study), splits[study % 10]) for study in studies),
    )
    labels = np.random.default_rng(0).integers(0, 2, (number, len(LABELS))).tolist()
    write_rows(locate(base, "labels"), ["idx", *LABELS], ((row, *values) for row, values in enumerate(labels)))
    write_rows(
        locate(base, "study_id_mapping"),
        ["idx", "study_id", "split"],
        ((row, study, splits[study % 10]) for row, study in enumerate(studies)),
    )
    return record_list


def compare(plain: Callable[[int], tuple[float, float]], ours: Callable[[int], tuple[float, float]]) -> None:
    """Run both in turn on the same cores, each into a new folder; print medians, and the ratios pair by pair.

    Both take the number of the run and return the seconds of the whole process and of the loop alone.
    """
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])  # inherited by all that is run
    runs = [(*plain(run), *ours(run)) for run in range(RUNS)]
    print(f"{RECORDS:,} records, {CORES} cores, median of {RUNS}")
    print(f"{'':<24}{'plain loop':>16}{'ours':>12}     ratio (least to greatest)")
    for what, place in (("whole process", 0), ("loop, without start-up", 1)):
        ratios = sorted(run[place] / run[place + 2] for run in runs)
        baseline, mine = (statistics.median(run[column] for run in runs) for column in (place, place + 2))
        print(
            f"{what:<24}{baseline:>14.2f} s{mine:>10.2f} s {statistics.median(ratios):>8.1f}x "
            f"({ratios[0]:.1f} to {ratios[-1]:.1f})"
        )
        print(f"{'  per record':<24}{baseline / RECORDS * 1e3:>13.3f} ms{mine / RECORDS * 1e3:>9.3f} ms")


def whole_and_loop(*command) -> tuple[float, float]:
    """Time a stage that has everything to do, and less the time of the same command when it finds everything done."""
    fresh, again = timed(*command)[0], timed(*command)[0]
    return fresh, fresh - again


def compare_many(plain: Callable[[int], tuple[float, float]], ours: Callable[[int], tuple[float, float]]) -> None:
    """Compare whole processes on ten times as many records: plain once, which takes minutes, ours as `compare`.

    On ext4 a new file costs several times as much for five minutes after thousands were deleted; nothing here deletes.
    """
    baseline = plain(RUNS)[0]
    mine = sorted(ours(run)[0] for run in range(RUNS))
    told = f"{10 * RECORDS:,}, whole process"
    print(
        f"{told:<24}{baseline:>14.2f} s{statistics.median(mine):>10.2f} s {baseline / statistics.median(mine):>8.1f}x "
        f"({baseline / mine[-1]:.1f} to {baseline / mine[0]:.1f})"
    )
    print(f"{'  per record':<24}{baseline / RECORDS * 100:>13.3f} ms{statistics.median(mine) / RECORDS * 100:>9.3f} ms")


def repeat_files(folder: Path, times: int) -> None:
    """Give the files of the first `RECORDS` studies of `make_base` to the studies that follow too, as links."""
    for study in range(FIRST_STUDY, FIRST_STUDY + RECORDS):
        for again in range(1, times):
            (folder / save_file_name(study + again * RECORDS)).symlink_to(folder / save_file_name(study))


def print_disk(plain: Path, ours: Path) -> None:
    """Print the bytes of our files as a share of the plain loop's."""
    sizes = [sum(file.stat().st_size for file in folder.iterdir()) for folder in (ours, plain)]
    print(f"disk: {sizes[0] / sizes[1]:.1%} of the plain loop's files")

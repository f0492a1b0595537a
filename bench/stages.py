"""Synthetic records for the benchmarks, and timed runs of the stage scripts on them."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ecg_finetune.diagnoses import LABELS
from ecg_finetune.paths import locate, save_file_name
from ecg_finetune.tables import iterate_rows, write_rows

REPOSITORY = Path(__file__).resolve().parent.parent
PREPROCESS = "preprocess/scripts/preprocess_ecgfm.py"
BUILD = "build/scripts/build_test_and_finetune_data.py"


def timed(*command) -> tuple[float, str]:
    """Run a Python process; return its seconds from start to end, and what it printed."""
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
    """Yield a temporary folder within the current one, which is on a disk (the system's own may be memory)."""
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
    studies = range(40_000_000, 40_000_000 + number)
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


def print_comparison(number: int, plain: tuple[float, float], ours: tuple[float, float], small: float, big: float):
    """Print the table: seconds of the whole process and of the loop alone, and the time per record at 2 k and 20 k."""
    print(f"{number} records           plain loop        ours     ratio")
    for what, baseline, mine in zip(("whole process", "without start-up"), plain, ours, strict=True):
        print(f"{what:<20} {baseline:>12.2f} s {mine:>9.2f} s {baseline / mine:>8.1f}x")
    print(f"{'per record, loop':<20} {plain[1] / number * 1e3:>11.3f} ms {ours[1] / number * 1e3:>8.3f} ms")
    print(f"ours per record, whole process: {small * 1e3:.3f} ms at {number}, {big * 1e3:.3f} ms at {10 * number}")

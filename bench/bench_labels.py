"""Labels: seconds, microseconds a report and peak memory at 10,000, 100,000 and 800,035 reports, against the plain way.

The plain way takes one report after another and looks for every phrase in it. Reports are independent draws of 1 to 8
statements: genuine ones weighted by their count where ECG_FINETUNE_TEST_DATA is set, else the worked examples of the
tests.
"""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
from ecg_fm_labeler import Labeler
from ecg_fm_labeler.phrases import PhraseIndex

from bench.stages import REPOSITORY, working_folder

SCRIPT = "labels/scripts/create_labels_ecgfm.py"
SIZES = (10_000, 100_000, 800_035)
WORKERS = 2
PLAIN = 1000  # reports that the plain way labels
CELLS = 18


def vocabulary() -> tuple[list[str], np.ndarray]:
    """Return statements and how often each is drawn; a statement of unknown count counts once."""
    data = os.environ.get("ECG_FINETUNE_TEST_DATA")
    if not data:
        examples = json.loads((REPOSITORY / "tests/labeler_examples.json").read_text(encoding="utf-8"))
        statements = [example["report"] for example in examples]
        return statements, np.full(len(statements), 1 / len(statements))
    lines = Path(data, "mimic_reports", "statements.tsv").read_text(encoding="utf-8").splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    counts = np.array([int(count or 1) for _, count, _ in rows])
    return [statement for statement, _, _ in rows], counts / counts.sum()


def make_reports(number: int) -> list[list[str]]:
    """Draw reports."""
    statements, share = vocabulary()
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 9, number)
    drawn = iter(rng.choice(len(statements), size=lengths.sum(), p=share).tolist())
    return [[statements[next(drawn)] for _ in range(length)] for length in lengths.tolist()]


def write_machine_measurements(path: Path, reports: list[list[str]]) -> None:
    """Write the reports in the layout of machine_measurements.csv."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        names = [f"report_{number}" for number in range(CELLS)]
        writer.writerow(["subject_id", "study_id", "cart_id", "ecg_time", *names, "bandwidth", "filtering"])
        for row, report in enumerate(reports):
            blank = [""] * (CELLS - len(report))
            start = [10_000_000 + row // 5, 40_000_000 + row, 6848296, "2180-07-23 08:44:00"]
            writer.writerow([*start, *report, *blank, "0.005-150 Hz", "60 Hz notch Baseline filter"])


def seconds_of_the_plain_way(reports: list[list[str]]) -> float:
    """Label every report without the index of phrases; return the seconds, without those for the configuration."""

    def look_for_each(index: PhraseIndex, text: str) -> list[int]:
        return [number for number, phrase in enumerate(index.phrases) if phrase in text]

    labeler = Labeler.from_config()
    started = time.perf_counter()
    with mock.patch.object(PhraseIndex, "found_in", look_for_each):
        labeler.label(reports)
    return time.perf_counter() - started


def memory_of(pid: int) -> int:
    """Return the bytes that a process and its descendants hold, shared pages counted once (0 where unknown)."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return 0
    own = next(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))
    return own + sum(memory_of(int(child)) for child in children)


def run_script(table: Path, base: Path) -> tuple[float, int]:
    """Run the labels script as a user would; return its seconds and its peak memory in bytes."""
    command = [sys.executable, SCRIPT, "--base-dir", base, "--machine-measurements", table, "--workers", str(WORKERS)]
    started = time.perf_counter()
    with subprocess.Popen([str(part) for part in command], cwd=REPOSITORY, stdout=subprocess.DEVNULL) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, memory_of(process.pid))
            time.sleep(0.1)
    if process.returncode:
        raise RuntimeError(f"{SCRIPT} failed")
    return time.perf_counter() - started, peak


def main() -> None:
    """Print the table."""
    reports = make_reports(max(SIZES))
    plain = seconds_of_the_plain_way(reports[:PLAIN]) / PLAIN
    print(f"{'reports':>9}{'distinct':>10}{'seconds':>9}{'us/report':>11}{'peak MiB':>10}{'times the plain way':>21}")
    print(f"{PLAIN:>9,}{'':>10}{plain * PLAIN:>9.1f}{plain * 1e6:>11.0f}{'':>10}{'1, one core':>21}")
    with working_folder() as folder:
        for size in SIZES:
            table = folder / "machine_measurements.csv"
            write_machine_measurements(table, reports[:size])
            seconds, peak = run_script(table, folder / "base")
            distinct = len(set(map(tuple, reports[:size])))
            print(
                f"{size:>9,}{distinct:>10,}{seconds:>9.1f}{seconds / size * 1e6:>11.1f}{peak / 2**20:>10.0f}"
                f"{plain / (seconds / size):>21.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()

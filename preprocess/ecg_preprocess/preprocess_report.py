"""The report of a preprocess run, and the journal that lets an interrupted run go on where it stopped."""

import csv
import math
import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ecg_finetune.files import replacing
from ecg_finetune.paths import JOURNAL, REPORT, beside
from ecg_finetune.run_folder import finished_files
from ecg_finetune.studies import find_rows, save_file_name, study_of_save_file
from ecg_finetune.waveform import SignalStatistics, resampling

# Every status of the report, in the order of the checks.
STATUSES = {
    "ok": "usable",
    "not_in_record_list": "record_list.csv has no such study_id",
    "missing_header": "neither the .hea file nor the path itself is there",
    "no_lead": "no such lead; --channel takes a channel by its name or number",
    "bad_rate": "sampled below 50 Hz or above 100 kHz, or at a rate that --rate must say",
    "missing_data": "the signal file is not there",
    "truncated": "the signal file is shorter than its header says",
    "bad_checksum": "the samples do not add up to their checksum",
    "unreadable": "anything else that stops the reader",
    "too_short": "less than 10 s",
    "nan": "missing samples: a gap longer than 0.2 s, or more than a tenth of the 10 s",
    "flat": "one value for 5 s or longer",
    "amplitude": "beyond 20 mV",
}


class ReportRow(NamedTuple):
    """What became of one record: its status, with details in words, its signal, and the size of its 10-second file.

    `signal` has the digits that the report shows (see `rounded`), so that nothing changes when it is read from there.
    """

    study_id: int
    status: str
    detail: str = ""
    signal: SignalStatistics | None = None
    mat_bytes: int | None = None


COLUMNS = ("save_file", "study_id", "status", "detail", *SignalStatistics._fields, "mat_bytes", "resampling")


class _Text:
    """A file for `csv.writer` whose `write` returns the text, and so does `writerow`."""

    def write(self, text: str) -> str:
        return text


_LINES = csv.writer(_Text(), lineterminator="\n")


def format_row(row: ReportRow) -> str:
    """Return the row as a line of the report; what is not known, NaN included, is an empty cell."""
    cells = [save_file_name(row.study_id), row.study_id, row.status, row.detail]
    if row.signal is None:
        cells += [None] * len(SignalStatistics._fields)
    else:
        rate, samples, mean_mv, std_mv, nan_count, longest_flat_s = row.signal
        cells += [rate, samples, _text(mean_mv, 5), _text(std_mv, 5), nan_count, _text(longest_flat_s, 4)]
    return _LINES.writerow([*cells, row.mat_bytes, resampling(row.signal.rate) if row.status == "ok" else None])


def _text(value: float, digits: int) -> str:
    return f"{value:.{digits}g}" if math.isfinite(value) else ""


def rounded(signal: SignalStatistics) -> SignalStatistics:
    """Return the statistics with the digits that the report shows."""
    rate, samples, mean_mv, std_mv, nan_count, longest_flat_s = signal
    mean_mv, std_mv, longest_flat_s = float(f"{mean_mv:.5g}"), float(f"{std_mv:.5g}"), float(f"{longest_flat_s:.4g}")
    return SignalStatistics(rate, samples, mean_mv, std_mv, nan_count, longest_flat_s)


def parse_row(line: str) -> ReportRow | None:
    """Return the row of a usable record from the line that `format_row` made of it; None for any other line.

    (Also for a record that an earlier version has resampled otherwise: it is made again.)
    """
    try:
        save_file, study_id, status, detail, rate, samples, mean, std, nan_count, flat, size, way = line.split(",")
        rate = int(rate) if rate.isdecimal() else float(rate)
        signal = rounded(SignalStatistics(rate, int(samples), float(mean), float(std), int(nan_count), float(flat)))
        row = ReportRow(int(study_id), status, detail, signal, int(size))
        usable = status == "ok" and not detail and save_file == save_file_name(row.study_id)
        usable = usable and way.rstrip("\n") == resampling(rate)
        return row if usable and all(map(math.isfinite, signal)) and max(row.study_id, row.mat_bytes) < 10**18 else None
    except (ValueError, OverflowError):
        return None


class PreprocessReport:
    """The rows of `<folder>.report.csv`, in the order of meta_split.csv.

    While a run is under way, its rows are appended to `<folder>.journal.csv`; the report itself is written at the end,
    when every record has a row. A record is done when an earlier report or journal calls it `ok` and its file is there
    with the size stated; excluded records are tried again, because what was missing may have come.

    Parameters
    ----------
    folder : Path
        The folder of the 10-second files.
    study_id : ndarray (records,)
        The records, in the order of meta_split.csv.
    """

    def __init__(self, folder: Path, study_id: np.ndarray):
        self.path = beside(folder, REPORT)
        self.journal_path = beside(folder, JOURNAL)
        self.study_id = study_id
        self.rows: list[ReportRow | None] = [None] * len(study_id)
        numbers, sizes = finished_files(Path(folder), study_of_save_file)
        self.unlisted_files = int(np.count_nonzero(~find_rows(study_id, numbers)[1]))
        if len(numbers):
            for path in (self.path, self.journal_path):
                self._take_rows(path, numbers, sizes)

    def _take_rows(self, path: Path, numbers: np.ndarray, sizes: np.ndarray) -> None:
        """Take the rows of the records that are done from an earlier report or journal."""
        if not path.is_file():
            return
        # A power failure may have left anything at the journal's end.
        with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
            rows = [row for row in map(parse_row, file) if row is not None]
        study_id = np.array([row.study_id for row in rows], dtype=np.int64)
        size = np.array([row.mat_bytes for row in rows], dtype=np.int64)
        index, there = find_rows(numbers, study_id)
        position, listed = find_rows(self.study_id, study_id)
        for number in np.flatnonzero(there & listed & (sizes[index] == size)).tolist():
            self.rows[position[number]] = rows[number]

    def pending(self) -> np.ndarray:
        """Return the positions of the records that have no row yet."""
        return np.flatnonzero(np.fromiter((row is None for row in self.rows), dtype=bool, count=len(self.rows)))

    def add(self, positions: np.ndarray, rows: list[ReportRow]) -> None:
        """Take the rows of finished records and note them in the journal."""
        for position, row in zip(positions.tolist(), rows, strict=True):
            self.rows[position] = row
        # One call, so that the journal of a killed run ends between two chunks. Beginning with a line end closes a
        # line that a power failure cut.
        descriptor = os.open(self.journal_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        with os.fdopen(descriptor, "wb", buffering=0) as journal:
            journal.write("".join(["\n", *map(format_row, rows)]).encode())

    def write(self) -> None:
        """Write the report and remove the journal, which it replaces."""
        with replacing(self.path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(",".join(COLUMNS) + "\n")
            file.writelines(map(format_row, self.rows))
        self.journal_path.unlink(missing_ok=True)

    def positions_of(self, status: str) -> np.ndarray:
        """Return the positions of the records of a status, int64."""
        return np.flatnonzero(np.fromiter((row.status == status for row in self.rows), bool, len(self.rows)))

    def counts(self) -> dict[str, int]:
        """Return how many records have each status that occurs, in the order of `STATUSES`."""
        found = Counter(row.status for row in self.rows)
        return {status: found[status] for status in STATUSES if status in found}

"""The report of a preprocess run, and the journal that lets an interrupted run go on where it stopped."""

import os
import re
from array import array
from pathlib import Path

import numpy as np

from ecg_finetune.files import replacing
from ecg_finetune.paths import JOURNAL, REPORT, beside
from ecg_finetune.run_folder import finished_files
from ecg_finetune.studies import find_rows, save_file_name
from ecg_preprocess.convert import REPORT_COLUMNS, STATUSES

# A row goes into the report as it stands, so only what `convert.report_row` writes is one; any other record is redone.
_NUMBER = r"-?\d+(?:\.\d+)?(?:e[-+]\d+)?"
OK_ROW = re.compile(
    rf"mimic_iv_ecg_(0|[1-9]\d{{0,17}})\.mat,\1,ok,,{_NUMBER},\d+,{_NUMBER},{_NUMBER},\d+,{_NUMBER},([1-9]\d{{0,14}})\n",
    re.ASCII,
)
MAT_NAME = re.compile(r"mimic_iv_ecg_(\d{1,18})\.mat")


class Report:
    """The rows of `<folder>.report.csv`, in the order of meta_split.csv.

    While a run is under way, its rows are appended to `<folder>.journal.csv`; the report itself is written at the end,
    when every record has a row. A record is done when an earlier report or journal calls it `ok` and its file is there
    with the size stated; records left out are tried again, because what was missing may have come.

    Parameters
    ----------
    folder : Path
        The folder of the 10 s files.
    study_id : ndarray (records,)
        The records, in the order of meta_split.csv.
    """

    def __init__(self, folder: Path, study_id: np.ndarray):
        self.path = beside(folder, REPORT)
        self.journal_path = beside(folder, JOURNAL)
        self.study_id = study_id
        self.rows: list[str | None] = [None] * len(study_id)
        numbers, sizes = finished_files(Path(folder), _study_id_of)
        self.unlisted_files = int(np.count_nonzero(~find_rows(study_id, numbers)[1]))
        for path in (self.path, self.journal_path):
            self._take_rows(path, numbers, sizes)

    def _take_rows(self, path: Path, numbers: np.ndarray, sizes: np.ndarray) -> None:
        """Take the rows of the records that are done from an earlier report or journal."""
        rows, study_ids, stated = [], array("q"), array("q")
        if path.exists() and len(numbers):
            # A power failure may have left anything at the journal's end.
            with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
                for line in file:
                    if match := OK_ROW.fullmatch(line):
                        rows.append(line[:-1])
                        study_ids.append(int(match[1]))
                        stated.append(int(match[2]))
        if not rows:
            return
        study_ids = np.array(study_ids)
        place, there = find_rows(numbers, study_ids)
        position, listed = find_rows(self.study_id, study_ids)
        for index in np.flatnonzero(there & listed & (sizes[place] == np.array(stated))).tolist():
            self.rows[position[index]] = rows[index]

    def pending(self) -> np.ndarray:
        """Return the positions of the records that have no row yet."""
        return np.flatnonzero(np.fromiter((row is None for row in self.rows), dtype=bool, count=len(self.rows)))

    def add(self, positions: np.ndarray, rows: list[str]) -> None:
        """Take the rows of finished records and note them in the journal."""
        for position, row in zip(positions.tolist(), rows, strict=True):
            self.rows[position] = row
        # One call, so that the journal of a killed run ends between two chunks. Beginning with a line end closes a
        # line that a power failure cut.
        descriptor = os.open(self.journal_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        with os.fdopen(descriptor, "wb", buffering=0) as journal:
            journal.write(("\n" + "\n".join(rows) + "\n").encode())

    def write(self) -> None:
        """Write the report and remove the journal, which it replaces."""
        with replacing(self.path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(",".join(REPORT_COLUMNS) + "\n")
            file.writelines(f"{row}\n" for row in self.rows)
        self.journal_path.unlink(missing_ok=True)

    def status_codes(self) -> np.ndarray:
        """Return the status of every record as int8: its position in `STATUSES`."""
        codes = {status: code for code, status in enumerate(STATUSES)}
        return np.fromiter((codes[row.split(",", 3)[2]] for row in self.rows), dtype=np.int8, count=len(self.rows))

    def counts(self) -> dict[str, int]:
        """Return how many records have each status that occurs, `ok` first."""
        found = np.bincount(self.status_codes(), minlength=len(STATUSES)).tolist()
        return {status: number for status, number in zip(STATUSES, found, strict=True) if number}


def _study_id_of(name: str) -> int | None:
    match = MAT_NAME.fullmatch(name)
    return int(match[1]) if match and name == save_file_name(int(match[1])) else None

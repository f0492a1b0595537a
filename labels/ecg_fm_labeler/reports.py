"""The reports of machine_measurements.csv, each distinct one once."""

import re
from array import array
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from ecg_finetune.files import UserError
from ecg_finetune.tables import integer, iterate_rows, listed, read_header

_REPORT_COLUMN = re.compile(r"report_(\d+)")


@dataclass
class Reports:
    """The reports of a table.

    Attributes
    ----------
    study_id : ndarray of int64 (rows,)
        In file order.
    which : ndarray of int64 (rows,)
        The position of each row's report in `distinct`.
    distinct : list of tuple of int
        The distinct reports: the positions of their statements in `statements`.
    statements : list of str
        The distinct statements, stripped, none of them empty.
    """

    study_id: np.ndarray
    which: np.ndarray
    distinct: list[tuple[int, ...]]
    statements: list[str]

    def only(self, rows: np.ndarray) -> "Reports":
        """Return the reports of some rows (bool or positions)."""
        return Reports(self.study_id[rows], self.which[rows], self.distinct, self.statements)


def report_columns(path: Path) -> list[str]:
    """Return the report columns of a table in the order of their numbers (report_10 after report_9).

    Raises
    ------
    UserError
        As `tables.read_header`; also no such column.
    """
    header = read_header(path)
    numbered = sorted((int(match[1]), name) for name in header if (match := _REPORT_COLUMN.fullmatch(name)))
    if not numbered:
        raise UserError(f"{path}: column 'report_0' is missing; it has {listed(header)}")
    return [name for _, name in numbered]


def read_reports(path: Path, max_rows: int | None = None) -> Reports:
    """Read the reports of machine_measurements.csv (or of the first `max_rows` rows).

    Blank cells are skipped; other columns are ignored. A row that repeats an earlier one (same study, same report) is
    a row like any other.

    Raises
    ------
    UserError
        As `tables.iterate_rows`; also no row, a study_id that is not an integer, a study with two different reports.
    """
    columns = ["study_id", *report_columns(path)]
    studies, which, lines = array("q"), array("q"), array("q")
    numbers: dict[str, int] = {"": -1}  # of a cell as it stands; -1 is blank
    statements: dict[str, int] = {}
    distinct: dict[tuple[int, ...], int] = {}
    for line, (study, *cells) in islice(iterate_rows(path, columns), max_rows):
        report = []
        for cell in cells:
            number = numbers.get(cell)
            if number is None:
                text = cell.strip()
                number = numbers[cell] = statements.setdefault(text, len(statements)) if text else -1
            if number >= 0:
                report.append(number)
        which.append(distinct.setdefault(tuple(report), len(distinct)))
        studies.append(integer(path, line, "study_id", study))
        lines.append(line)
    if not studies:
        raise UserError(f"{path}: no rows below the header; make it again")
    reports = Reports(np.array(studies), np.array(which), list(distinct), list(statements))
    _refuse_contradictions(path, reports, lines)
    return reports


def _refuse_contradictions(path: Path, reports: Reports, lines: array) -> None:
    order = np.argsort(reports.study_id, kind="stable")
    same = reports.study_id[order][1:] == reports.study_id[order][:-1]
    differs = same & (reports.which[order][1:] != reports.which[order][:-1])
    if differs.any():
        first, second = order[np.argmax(differs) : np.argmax(differs) + 2]
        raise UserError(
            f"{path}: duplicate study_id {reports.study_id[first]}: line {lines[second]} has another report than line "
            f"{lines[first]}; remove one of the rows"
        )

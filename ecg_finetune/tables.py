"""Strict CSV, the tables that stages hand over: errors are one line that names the file and the line."""

from __future__ import annotations

import contextlib
import csv
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ecg_finetune.files import UserError, existing_file, replacing, shown

# pandas is imported where it is used: the import takes as long as preprocessing a thousand records.
if TYPE_CHECKING:
    import pandas as pd


LONGEST_LINE = 1_000_000  # characters; a line of many more would be split into as many cells


@contextlib.contextmanager
def _csv_rows(path: Path):
    """Open a CSV file; yield its column names and the reader of its further rows. Errors become `UserError`."""
    path, rows = existing_file(path), None
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            # Strict: a quote that is not closed would swallow rows unseen.
            rows = csv.reader(_sound_lines(path, file), strict=True)
            header = next(rows, None)
            if not header:
                raise UserError(f"{path}: the file is empty or has no header; make it again")
            yield header, rows
    except csv.Error as error:
        raise UserError(f"{path}: line {rows.line_num} is not CSV ({error}); make the file again") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: line {_undecodable_line(path)} is not UTF-8 text; make the file again") from None


def _undecodable_line(path: Path) -> int:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return number


def _sound_lines(path: Path, lines: Iterable[str]) -> Iterator[str]:
    # A block of zeros is what a power failure leaves of a file; Python's reader takes them for text from 3.11 on.
    for number, line in enumerate(lines, start=1):
        if "\0" in line:
            raise UserError(f"{path}: line {number} holds a zero byte, so the file is damaged; make it again")
        if len(line) > LONGEST_LINE:
            raise UserError(
                f"{path}: line {number} has {len(line):,} characters, more than any table here; make it again"
            )
        yield line


def listed(names: Sequence[str], most: int = 30) -> str:
    """Return the column names of a file for a message: the first ones."""
    return ", ".join(map(shown, names[:most])) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def read_header(path: Path) -> list[str]:
    """Return the column names of a CSV file.

    Raises
    ------
    UserError
        The file is missing, empty or not CSV.
    """
    with _csv_rows(path) as (header, _):
        return header


def iterate_rows(path: Path, columns: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, values of the given columns) for each row of a CSV file, in file order; skip empty lines.

    Raises
    ------
    UserError
        The file is missing, empty, not UTF-8 or not CSV, lacks a column or has it twice, or a row has more or fewer
        cells than the header.
    """
    columns = list(columns)
    with _csv_rows(path) as (header, rows):
        for name in columns:
            if name not in header:
                raise UserError(f"{path}: column {name!r} is missing; it has {listed(header)}")
            if header.count(name) > 1:
                raise UserError(f"{path}: duplicate column {name!r} in the header; remove one")
        places, width = [header.index(name) for name in columns], len(header)
        for row in rows:
            if len(row) == width:
                yield rows.line_num, [row[place] for place in places]
            elif row:
                raise UserError(
                    f"{path}: line {rows.line_num} has {len(row)} cells and the header {width}; correct it, or make "
                    "the file again"
                )


def read_table(path: Path, columns: Mapping[str, str]) -> pd.DataFrame:
    """Read columns of a CSV file (further ones are ignored).

    pandas' own reader is not used: it lets rows that are too short or too long shift unseen, takes 1_000 and 1.0 for
    whole numbers, and may be off by the last bit of a number.

    Parameters
    ----------
    path : Path
        The file.
    columns : mapping
        Column to dtype: "int64", "float64" (NaN where the cell is empty) or "str", in the order wanted.

    Returns
    -------
    DataFrame
        A row for each row of the file, under its line number.

    Raises
    ------
    UserError
        As `iterate_rows`; also no data row, or a value that does not fit its dtype.
    """
    import pandas as pd

    cells = {name: _COLUMN[dtype][0]() for name, dtype in columns.items()}
    appends = [(name, _COLUMN[dtype][1], cells[name].append) for name, dtype in columns.items()]
    lines = array("q")
    for line, values in iterate_rows(path, columns):
        lines.append(line)
        for (name, convert, append), text in zip(appends, values):
            append(convert(path, line, name, text))
    if not lines:
        raise UserError(f"{path}: no rows below the header; make it again")
    arrays = {name: values if isinstance(values, list) else np.array(values) for name, values in cells.items()}
    return pd.DataFrame(arrays, index=np.array(lines))


def refuse_duplicates(path: Path, table: pd.DataFrame, column: str) -> None:
    """Raise `UserError` naming the first row of `read_table` whose `column` value occurred before."""
    duplicated = table[column].duplicated()
    if duplicated.any():
        line = duplicated.idxmax()
        raise UserError(
            f"{path}: duplicate {column} {table.at[line, column]} (again in line {line}); remove one of the rows"
        )


def integer(path: Path, line: int, name: str, text: str) -> int:
    """Return the number of a cell that `iterate_rows` gave: an id or a row number.

    Raises
    ------
    UserError
        It is not 1 to 18 digits.
    """
    if len(text) < 19 and text.isascii() and text.isdigit():
        return int(text)
    raise UserError(
        f"{path}: line {line} has {name} {text!r}, which is not an integer (of at most 18 digits); correct it"
    )


def number(path: Path, line: int, name: str, text: str) -> float:
    """Return the number of a cell that `iterate_rows` gave; NaN where the cell is empty.

    Raises
    ------
    UserError
        It is no finite number.
    """
    if not text:
        return math.nan
    value = finite_number(text)
    if not math.isnan(value):
        return value
    raise UserError(f"{path}: line {line} has {name} {text!r}, which is not a number; correct it")


def finite_number(text: str) -> float:
    """Return the number that a text is in a CSV's notation, without Python's own `1_000`; NaN where it is none."""
    try:
        value = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


# dtype of `read_table` -> what makes an empty column, and the conversion of a cell.
_COLUMN = {
    "int64": (partial(array, "q"), integer),
    "float64": (partial(array, "d"), number),
    "str": (list, lambda *cell: cell[-1]),
}


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a CSV file without an index, under a temporary name first."""
    # Given the path, pandas would read more into it than a path, such as a compression.
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table.to_csv(file, index=False, lineterminator="\n")


def write_rows(path: Path, columns: Iterable[str], rows: Iterable[Iterable]) -> None:
    """Write a CSV file from rows of values, under a temporary name first."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)

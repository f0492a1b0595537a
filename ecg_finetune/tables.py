"""Reading and writing the CSV, NPY and JSON files the stages hand over; errors are one line, with file and place."""

from __future__ import annotations

import bisect
import contextlib
import csv
import io
import json
import math
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ecg_finetune.command_line import UserError, refuse_irregular, replacing, watch_input
from ecg_finetune.diagnoses import LABELS

# pandas is imported where it is used: the import takes as long as preprocessing a thousand records.
if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "valid", "test")


def _existing(path: Path) -> Path:
    path = Path(path)
    refuse_irregular(path)
    if not path.exists():
        raise UserError(f"{path}: no such file; give its path or run the stage that makes it (FILE_LOCATIONS.md)")
    watch_input(path)
    return path


@contextlib.contextmanager
def _csv_rows(path: Path):
    """Open a CSV file; yield its column names and the reader of its further rows. Errors become `UserError`."""
    path, rows = _existing(path), None
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            # Strict: a quote that is not closed would swallow rows unseen.
            rows = csv.reader(_without_nul(path, file), strict=True)
            header = next(rows, None)
            if not header:
                raise UserError(f"{path}: the file is empty or has no header; make it again")
            yield header, rows
    except csv.Error as error:
        raise UserError(f"{path}: line {rows.line_num} is no CSV ({error}); make the file again") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: line {_undecodable_line(path)} is no UTF-8 text; make the file again") from None


def _undecodable_line(path: Path) -> int:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return number


def _without_nul(path: Path, lines: Iterable[str]) -> Iterator[str]:
    # A block of zeros is what a power failure leaves of a file; Python's reader takes them for text from 3.11 on.
    for number, line in enumerate(lines, start=1):
        if "\0" in line:
            raise UserError(f"{path}: line {number} holds a zero byte, so the file is damaged; make it again")
        yield line


def read_header(path: Path) -> list[str]:
    """Return the column names of a CSV file.

    Raises
    ------
    UserError
        The file is missing, empty or no CSV.
    """
    with _csv_rows(path) as (header, _):
        return header


def iterate_rows(path: Path, columns: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, values of the given columns) for each row of a CSV file, in file order; skip empty lines.

    Raises
    ------
    UserError
        The file is missing, empty, no UTF-8 or no CSV, lacks a column or has it twice, or a row has more or fewer
        cells than the header.
    """
    columns = list(columns)
    with _csv_rows(path) as (header, rows):
        for name in columns:
            if name not in header:
                raise UserError(f"{path}: column {name!r} is missing; it has {', '.join(header)}")
            if header.count(name) > 1:
                raise UserError(f"{path}: column {name!r} stands twice in the header; remove one")
        places, width = [header.index(name) for name in columns], len(header)
        for row in rows:
            if len(row) == width:
                yield rows.line_num, [row[place] for place in places]
            elif row:
                raise UserError(
                    f"{path}: line {rows.line_num} has {len(row)} cells and the header {width}; mend it, or make the "
                    "file again"
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
            f"{path}: {column} {table.at[line, column]} stands twice (again in line {line}); remove one of the rows"
        )


def read_record_list(path: Path, columns: Iterable[str] = ("subject_id", "study_id", "path")) -> pd.DataFrame:
    """Read columns of record_list.csv; `study_id` must be among them.

    Returns
    -------
    DataFrame
        The columns in the given order: `subject_id` and `study_id` int64, all others str; rows in file order, under
        their line numbers.

    Raises
    ------
    UserError
        As `read_table`; also an empty cell or a duplicate study_id.
    """
    dtypes = {name: "int64" if name in ("subject_id", "study_id") else "str" for name in columns}
    table = read_table(path, dtypes)
    for name in columns:
        empty = table[name] == ""
        if dtypes[name] == "str" and empty.any():
            raise UserError(f"{path}: line {empty.idxmax()} has no {name}; mend or remove the row")
    refuse_duplicates(path, table, "study_id")
    return table


def find_rows(numbers: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Look numbers up in an unsorted column without repetitions.

    Returns
    -------
    position : ndarray (wanted,)
        int64, where in `numbers` each wanted one stands; any position where it does not.
    found : ndarray (wanted,)
        bool, whether it does.
    """
    if not len(numbers):
        return np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=bool)
    order = np.argsort(numbers, kind="stable")
    position = order[np.minimum(np.searchsorted(numbers, wanted, sorter=order), len(numbers) - 1)]
    return position, numbers[position] == wanted


def first_repeated(values: np.ndarray) -> int | None:
    """Return the smallest whole number that stands more than once in an array, or None."""
    ordered = np.sort(values)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    return int(repeated[0]) if len(repeated) else None


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
        f"{path}: line {line} has {name} {text!r}, which is no whole number (of at most 18 digits); mend it"
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
    try:
        value = float(text) if text.isascii() and "_" not in text else math.nan  # Python's notation, but not a CSV's
    except ValueError:
        value = math.nan
    if math.isfinite(value):
        return value
    raise UserError(f"{path}: line {line} has {name} {text!r}, which is no number; mend it")


# dtype of `read_table` -> what makes an empty column, and the conversion of a cell.
_COLUMN = {
    "int64": (partial(array, "q"), integer),
    "float64": (partial(array, "d"), number),
    "str": (list, lambda *cell: cell[-1]),
}


def read_splits(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read meta_split.csv into two small arrays.

    Returns
    -------
    study_id : ndarray (records,)
        int64, in file order; the record's save_file is `save_file_name(study_id)`.
    split : ndarray (records,)
        int8, the position of the record's split in `SPLITS`.

    Raises
    ------
    UserError
        As `iterate_rows`; also no row, a save_file that is not `mimic_iv_ecg_<study_id>.mat`, a duplicate, an unknown
        split.
    """
    codes = {name: code for code, name in enumerate(SPLITS)}
    pattern = re.compile(r"mimic_iv_ecg_(0|[1-9][0-9]{0,17})\.mat")
    study_ids, splits, lines = array("q"), array("b"), array("q")
    for line, (save_file, split) in iterate_rows(path, ["save_file", "split"]):
        match = pattern.fullmatch(save_file)
        if match is None:
            raise UserError(f"{path}: line {line} has save_file {save_file!r}; it must be mimic_iv_ecg_<study_id>.mat")
        if split not in codes:
            raise UserError(f"{path}: line {line} has split {split!r}; a split is one of {', '.join(SPLITS)}")
        study_ids.append(int(match[1]))
        splits.append(codes[split])
        lines.append(line)
    if not study_ids:
        raise UserError(f"{path}: no rows below the header; make it again")
    study_id, split = np.array(study_ids), np.array(splits)
    order = np.argsort(study_id, kind="stable")
    again = order[1:][study_id[order[1:]] == study_id[order[:-1]]]
    if len(again):
        row = int(again.min())
        raise UserError(
            f"{path}: study_id {study_id[row]} stands twice (again in line {lines[row]}); remove one of the rows"
        )
    return study_id, split


def read_paths(path: Path, study_id: np.ndarray) -> list[str]:
    """Read from record_list.csv where each of the given records is.

    Returns
    -------
    list of str
        The record's path without extension, relative to the raw root; empty where the list does not have it.

    Raises
    ------
    UserError
        As `iterate_rows`; also a study_id that is no number or stands twice.
    """
    order = np.argsort(study_id)
    wanted = study_id[order].tolist()
    paths = [""] * len(study_id)
    for line, (text, location) in iterate_rows(path, ["study_id", "path"]):
        study = integer(path, line, "study_id", text)
        place = bisect.bisect_left(wanted, study)
        if place < len(wanted) and wanted[place] == study:
            if paths[order[place]]:
                raise UserError(f"{path}: study_id {study} stands twice (again in line {line}); remove one of the rows")
            paths[order[place]] = location
    return paths


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a CSV file without an index, under a temporary name first."""
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


def read_array(path: Path) -> np.ndarray:
    """Read an .npy file.

    Raises
    ------
    UserError
        The file is missing or no array of numbers.
    """
    path = _existing(path)
    try:
        content = np.load(path, allow_pickle=False)
    except Exception as error:  # numpy reads the header with Python's own parser, which raises anything
        raise UserError(f"{path}: not a readable .npy file ({error}); run the stage that makes it again") from None
    if not isinstance(content, np.ndarray):
        raise UserError(f"{path}: an archive of arrays, not one .npy array; run the stage that makes it again")
    return content


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an .npy file, under a temporary name first."""
    content = io.BytesIO()  # np.save into a real file hides the reason when the disk is full
    np.save(content, array)
    with replacing(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def read_json(path: Path, kind: type) -> dict | list:
    """Read a JSON file that holds an object (`kind` dict) or a list.

    Raises
    ------
    UserError
        The file is missing, no JSON, holds something else, or names a key twice in one object.
    """
    path = _existing(path)

    def unique(pairs):
        table = dict(pairs)
        if len(table) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise UserError(f"{path}: {twice!r} is listed twice; remove one")
        return table

    def refuse(constant):
        raise ValueError(f"{constant} is no number")

    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unique, parse_constant=refuse)
        json.dumps(content, ensure_ascii=False).encode()  # half a character, written as \ud800, cannot be shown
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); mend it or make it again") from None
    if not isinstance(content, kind):
        raise UserError(f"{path}: it must hold a JSON {'list' if kind is list else 'object'}; mend it or make it again")
    return content


def label_counts(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count the labels of an array (rows, 17) of 0/1.

    Returns
    -------
    count, pos_percent, pos_weight : ndarray (17,)
        How many rows have the label; the fraction p of rows (as ECG-FM calls it); (1 - p) / p. 0.0 where a label
        never occurs.
    """
    count = np.asarray(labels).astype(bool).sum(axis=0)
    share = count / max(len(labels), 1)
    weight = np.divide(1 - share, share, out=np.zeros_like(share), where=count > 0)
    return count, share, weight


def label_definition(labels: np.ndarray) -> pd.DataFrame:
    """Return `label_counts` as a table: `name,count,pos_percent,pos_weight`."""
    import pandas as pd

    count, share, weight = label_counts(labels)
    return pd.DataFrame({"name": LABELS, "count": count, "pos_percent": share, "pos_weight": weight})


def write_rows(path: Path, columns: Iterable[str], rows: Iterable[Iterable]) -> None:
    """Write a CSV file from rows of values, under a temporary name first."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def write_pos_weight(path: Path, weights: np.ndarray) -> None:
    """Write 17 numbers with 8 decimals on one line, as fairseq-hydra-train's command reads them."""
    with replacing(path) as temporary:
        temporary.write_text(" ".join(f"{weight:.8f}" for weight in weights) + "\n")

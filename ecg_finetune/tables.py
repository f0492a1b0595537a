"""Reading and writing the CSV files the stages hand over, with one-line errors that name file, column and row."""

from __future__ import annotations

import bisect
import csv
import io
import re
import tokenize
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ecg_finetune.command_line import UserError, replacing, watch_input
from ecg_finetune.diagnoses import LABELS
from ecg_finetune.paths import save_file_name

# pandas is imported where it is used: the import takes as long as preprocessing a thousand records.
if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "valid", "test")


def _existing(path: Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; give its path or run the stage that makes it (FILE_LOCATIONS.md)")
    watch_input(path)
    return path


def read_header(path: Path) -> list[str]:
    """Return the column names of a CSV file.

    Raises
    ------
    UserError
        The file is missing, empty or no CSV.
    """
    import pandas as pd

    path = _existing(path)
    try:
        return list(pd.read_csv(path, nrows=0).columns)
    except pd.errors.EmptyDataError:
        raise UserError(f"{path}: the file is empty; make it again") from None
    except (pd.errors.ParserError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{path}: not a readable CSV ({error}); make it again") from None


def read_table(path: Path, columns: Iterable[str], dtypes: dict | None = None, **options) -> pd.DataFrame:
    """Read the given columns of a CSV file (extra columns are ignored), in the given order.

    Parameters
    ----------
    path : Path
        The file.
    columns : iterable of str
        Columns the file must have.
    dtypes : dict, optional
        Column to dtype, as `pandas.read_csv` takes it.
    options
        Passed to `pandas.read_csv`.

    Raises
    ------
    UserError
        The file is missing, empty, no CSV, has no data row, lacks a column, or a value does not fit its dtype.
    """
    import pandas as pd

    path, columns = Path(path), list(columns)
    header = read_header(path)
    missing = [name for name in columns if name not in header]
    if missing:
        raise UserError(f"{path}: column {missing[0]!r} is missing; it has {', '.join(map(str, header))}")
    try:
        table = pd.read_csv(path, usecols=columns, dtype=dtypes, **options)[columns]
    except (pd.errors.ParserError, UnicodeDecodeError, ValueError) as error:
        _refuse_bad_integers(path, dtypes or {})
        raise UserError(f"{path}: not a readable CSV ({error}); make it again") from None
    if table.empty:
        raise UserError(f"{path}: no rows below the header; make it again")
    return table


def _refuse_bad_integers(path: Path, dtypes: dict) -> None:
    """Raise `UserError` naming the first value of an integer column that is none: pandas does not say which it was."""
    import pandas as pd

    integers = [name for name, dtype in dtypes.items() if str(dtype).startswith("int")]
    try:
        table = pd.read_csv(path, usecols=integers, dtype="str", keep_default_na=False)
    except (pd.errors.ParserError, UnicodeDecodeError, ValueError):
        return
    for name in integers:
        bad = ~table[name].str.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*").to_numpy(dtype=bool)
        if bad.any():
            row = int(np.argmax(bad))
            raise UserError(f"{path}: line {row + 2} has {name} {table[name].iloc[row]!r}, which is no whole number")


def refuse_duplicates(path: Path, table: pd.DataFrame, column: str) -> None:
    """Raise `UserError` naming the first row whose `column` value occurred before."""
    duplicated = table[column].duplicated()
    if duplicated.any():
        row = int(np.argmax(duplicated.to_numpy()))
        raise UserError(
            f"{path}: {column} {table[column].iloc[row]} stands twice (again in line {row + 2}); remove one of the rows"
        )


def read_record_list(path: Path, columns: Iterable[str] = ("subject_id", "study_id", "path")) -> pd.DataFrame:
    """Read columns of record_list.csv; `study_id` must be among them.

    Returns
    -------
    DataFrame
        The columns in the given order: `subject_id` and `study_id` int64, all others str; rows in file order.

    Raises
    ------
    UserError
        As `read_table`; also an empty cell or a duplicate study_id.
    """
    import pandas as pd

    columns = list(columns)
    cells: list[list] = [[] for _ in columns]
    for line, values in iterate_rows(path, columns):
        for name, text, column in zip(columns, values, cells, strict=True):
            if name in ("subject_id", "study_id"):
                column.append(integer(path, line, name, text))
            elif text:
                column.append(text)
            else:
                raise UserError(f"{path}: line {line} has no {name}; mend or remove the row")
    if not cells[0]:
        raise UserError(f"{path}: no rows below the header; make it again")
    table = pd.DataFrame(dict(zip(columns, cells, strict=True)))
    refuse_duplicates(path, table, "study_id")
    return table


def iterate_rows(path: Path, columns: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, values of the given columns) for each row of a CSV file, in file order.

    For the tables with a row per record where memory must stay flat or pandas is not needed.

    Raises
    ------
    UserError
        The file is missing, empty, no UTF-8, lacks a column, or a row is too short.
    """
    path, columns = _existing(path), list(columns)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            header = next(rows, None)
            if header is None:
                raise UserError(f"{path}: the file is empty; make it again")
            missing = [name for name in columns if name not in header]
            if missing:
                raise UserError(f"{path}: column {missing[0]!r} is missing; it has {', '.join(header)}")
            places = [header.index(name) for name in columns]
            for row in rows:
                if row:
                    yield rows.line_num, [row[place] for place in places]
    except IndexError:
        raise UserError(f"{path}: line {rows.line_num} has fewer columns than the header; make it again") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable CSV ({error}); make it again") from None


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


def integer(path: Path, line: int, name: str, text: str) -> int:
    """Return the number of a cell that `iterate_rows` gave.

    Raises
    ------
    UserError
        It is no whole number of at most 64 bits.
    """
    if len(text) < 19 and text.isascii() and text.isdigit():  # the common case, three times as fast
        return int(text)
    if re.fullmatch(r"-?[0-9]{1,19}", text) and -(2**63) <= int(text) < 2**63:
        return int(text)
    raise UserError(f"{path}: line {line} has {name} {text!r}, which is no whole number; make the file again")


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


def read_meta_split(path: Path) -> pd.DataFrame:
    """Read meta_split.csv as a table: `save_file` (str), `split` (categorical over `SPLITS`), `study_id` (int64).

    Raises
    ------
    UserError
        As `read_splits`.
    """
    import pandas as pd

    study_id, split = read_splits(path)
    return pd.DataFrame(
        {
            "save_file": [save_file_name(study) for study in study_id.tolist()],
            "split": pd.Categorical.from_codes(split, categories=SPLITS),
            "study_id": study_id,
        }
    )


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
        return np.load(path, allow_pickle=False)
    # numpy reads the header with Python's own parser, which has errors of its own for a damaged one.
    except (ValueError, TypeError, EOFError, SyntaxError, tokenize.TokenError, MemoryError) as error:
        raise UserError(f"{path}: not a readable .npy file ({error}); run the stage that makes it again") from None


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an .npy file, under a temporary name first."""
    content = io.BytesIO()  # np.save into a real file hides the reason when the disk is full
    np.save(content, array)
    with replacing(path) as temporary:
        temporary.write_bytes(content.getbuffer())


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

"""Reading and writing the CSV files the stages hand over, with one-line errors that name file, column and row."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from ecg_finetune.command_line import UserError, replacing, watch_input
from ecg_finetune.diagnoses import LABELS

SPLITS = ("train", "valid", "test")


def read_header(path: Path) -> list[str]:
    """Return the column names of a CSV file.

    Raises
    ------
    UserError
        The file is missing, empty or no CSV.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; give its path or run the stage that makes it (FILE_LOCATIONS.md)")
    watch_input(path)
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
    path, columns = Path(path), list(columns)
    header = read_header(path)
    missing = [name for name in columns if name not in header]
    if missing:
        raise UserError(f"{path}: column {missing[0]!r} is missing; it has {', '.join(map(str, header))}")
    try:
        table = pd.read_csv(path, usecols=columns, dtype=dtypes, **options)[columns]
    except (pd.errors.ParserError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{path}: not a readable CSV ({error}); make it again") from None
    if table.empty:
        raise UserError(f"{path}: no rows below the header; make it again")
    return table


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
        As `read_table`; also a duplicate study_id.
    """
    columns = list(columns)
    dtypes = {name: "int64" if name in ("subject_id", "study_id") else "str" for name in columns}
    table = read_table(path, columns, dtypes)
    refuse_duplicates(path, table, "study_id")
    return table


def read_meta_split(path: Path) -> pd.DataFrame:
    """Read meta_split.csv.

    Returns
    -------
    DataFrame
        `save_file` (str), `split` (categorical over `SPLITS`), `study_id` (int64), in file order.

    Raises
    ------
    UserError
        As `read_table`; also a save_file that is not `mimic_iv_ecg_<study_id>.mat`, a duplicate, an unknown split.
    """
    table = read_table(path, ["save_file", "split"], {"save_file": "str", "split": "str"}, keep_default_na=False)
    unknown = ~table["split"].isin(SPLITS)
    if unknown.any():
        row = int(np.argmax(unknown.to_numpy()))
        raise UserError(
            f"{path}: line {row + 2} has split {table['split'].iloc[row]!r}; a split is one of {', '.join(SPLITS)}"
        )
    study_id = table["save_file"].str.extract(r"^mimic_iv_ecg_([0-9]{1,18})\.mat$", expand=False)
    if study_id.isna().any():
        row = int(np.argmax(study_id.isna().to_numpy()))
        raise UserError(
            f"{path}: line {row + 2} has save_file {table['save_file'].iloc[row]!r}; "
            "it must be mimic_iv_ecg_<study_id>.mat"
        )
    table["study_id"] = study_id.astype("int64")
    table["split"] = pd.Categorical(table["split"], categories=SPLITS)
    refuse_duplicates(path, table, "study_id")
    return table


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a CSV file without an index, under a temporary name first."""
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an .npy file, under a temporary name first."""
    with replacing(path) as temporary:
        np.save(temporary, array)


def label_definition(labels: np.ndarray) -> pd.DataFrame:
    """Count the labels.

    Parameters
    ----------
    labels : ndarray (rows, 17)
        0/1.

    Returns
    -------
    DataFrame
        `name`, `count`, `pos_percent` (the fraction p of rows, as ECG-FM calls it) and `pos_weight` = (1 - p) / p;
        0.0 where a label never occurs.
    """
    count = np.asarray(labels).astype(bool).sum(axis=0)
    share = count / max(len(labels), 1)
    weight = np.divide(1 - share, share, out=np.zeros_like(share), where=count > 0)
    return pd.DataFrame({"name": LABELS, "count": count, "pos_percent": share, "pos_weight": weight})


def write_pos_weight(path: Path, weights: np.ndarray) -> None:
    """Write 17 numbers with 8 decimals on one line, as fairseq-hydra-train's command reads them."""
    with replacing(path) as temporary:
        temporary.write_text(" ".join(f"{weight:.8f}" for weight in weights) + "\n")

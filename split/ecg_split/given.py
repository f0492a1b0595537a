"""Splits that exist already: a foreign file (--from-split) and our own earlier one (--extend)."""

from pathlib import Path

import numpy as np
import pandas as pd

from ecg_finetune.files import UserError
from ecg_finetune.studies import SPLITS, find_rows, read_splits
from ecg_finetune.tables import listed, read_header, read_table, refuse_duplicates
from ecg_split.assignment import TEST, TRAIN, VALID

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "trn"), TRAIN),
    **dict.fromkeys(("valid", "validation", "val", "dev"), VALID),
    **dict.fromkeys(("test", "testing", "tst"), TEST),
}


def read_foreign_split(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read an existing split; columns beyond the two used are ignored.

    Parameters
    ----------
    path : Path
        A CSV with `study_id`, or else `save_file` (`mimic_iv_ecg_<study_id>.mat`, `<study_id>.mat` or `<study_id>`),
        and `split` (see `SPLIT_NAMES`; upper or lower case).

    Returns
    -------
    study_id : ndarray of int64 (rows,)
    split : ndarray of int8 (rows,)
        Positions in `SPLITS`.

    Raises
    ------
    UserError
        The file is missing or unreadable, lacks a column, names a study twice, or has a value that is not understood.
    """
    header = read_header(path)
    column = "study_id" if "study_id" in header else "save_file"
    if column not in header:
        raise UserError(f"{path}: it has neither a study_id nor a save_file column, only {listed(header)}")
    table = read_table(path, {column: "str", "split": "str"})
    study_id = table[column].str.extract(r"^(?:.*/)?(?:mimic_iv_ecg_)?([0-9]{1,18})(?:\.mat)?\Z", expand=False)
    _refuse(path, table, column, study_id.isna(), "no study id can be read from it")
    split = table["split"].str.strip().str.lower().map(SPLIT_NAMES)
    _refuse(path, table, "split", split.isna(), f"write {', '.join(SPLITS)} (also: {', '.join(SPLIT_NAMES)})")
    found = pd.DataFrame({"study_id": study_id.astype("int64"), "split": split.astype("int8")})
    refuse_duplicates(path, found, "study_id")
    return found["study_id"].to_numpy(), found["split"].to_numpy()


def _refuse(path: Path, table: pd.DataFrame, column: str, bad: pd.Series, remedy: str) -> None:
    if bad.any():
        line = bad.idxmax()
        raise UserError(f"{path}: line {line} has {column} {table.at[line, column]!r}: {remedy}")


def read_earlier_split(path: Path, study_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Read the meta_split.csv that is to be extended.

    Parameters
    ----------
    path : Path
        The earlier meta_split.csv.
    study_ids : ndarray of int64
        The studies of the record list.

    Returns
    -------
    row : ndarray of int (earlier rows,)
        Row of each earlier study in `study_ids`.
    split : ndarray of int8 (earlier rows,)
        Positions in `SPLITS`.

    Raises
    ------
    UserError
        The file is unreadable, or the record list lacks one of its studies: that patient would be unknown.
    """
    earlier, split = read_splits(path)
    row, found = find_rows(study_ids, earlier)
    if not found.all():
        lost = earlier[~found]
        raise UserError(
            f"{path}: {len(lost):,} of its studies, {lost[0]} first, are not in the record list, so their patients are "
            "unknown; --extend needs the complete record list, old and new records"
        )
    return row, split

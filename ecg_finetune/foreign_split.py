"""Reading a split that others made, ECG-FM's above all: which studies are in train, valid and test there."""

from pathlib import Path

import numpy as np
import pandas as pd

from ecg_finetune.files import UserError
from ecg_finetune.studies import SPLITS
from ecg_finetune.tables import listed, read_header, read_table

NAMES_OF_SPLIT = {
    "train": ("train", "training", "trn"),
    "valid": ("valid", "validation", "val", "dev"),
    "test": ("test", "testing", "tst"),
}
SPLIT_OF_NAME = {name: SPLITS.index(split) for split, names in NAMES_OF_SPLIT.items() for name in names}
STUDY_ID_IN_SAVE_FILE = r"^(?:.*[/\\])?(?:mimic_iv_ecg_)?([0-9]{1,18})(?:\.mat)?\Z"


def read_foreign_split(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a split such as `splits/meta_split_mimic_iv_ecg.csv` of the ECG-FM repository.

    fairseq-signals' splitter writes `save_file` and `split` with further columns (`idx`, `subject_id`, `source_path`),
    which are ignored: its `idx` is a number of its own. It names a record `<study_id>.mat`, in ECG-FM's files
    `mimic_iv_ecg_<study_id>.mat`, and in its segmented_split.csv once for each segment.

    Parameters
    ----------
    path : Path
        A CSV with `split` (a name of `NAMES_OF_SPLIT`, upper or lower case), and `study_id` or else `save_file`:
        `mimic_iv_ecg_<study_id>.mat`, with or without a folder before it, the prefix and the extension.

    Returns
    -------
    study_id : ndarray of int64 (studies,)
        Each study once, in file order.
    split : ndarray of int8 (studies,)
        Positions in `SPLITS`.

    Raises
    ------
    UserError
        The file is missing or unreadable, lacks a column, has a value that is not understood, or a study in two splits.
    """
    header = read_header(path)
    column = "study_id" if "study_id" in header else "save_file"
    if column not in header:
        raise UserError(f"{path}: it has neither a study_id nor a save_file column, only {listed(header)}")
    table = read_table(path, {column: "str", "split": "str"})
    study_id = table[column].str.extract(STUDY_ID_IN_SAVE_FILE, expand=False)
    _refuse(path, table, column, study_id.isna(), "no study id can be read from it")
    split = table["split"].str.strip().str.lower().map(SPLIT_OF_NAME)
    _refuse(path, table, "split", split.isna(), f"write {', '.join(SPLITS)} (also: {', '.join(SPLIT_OF_NAME)})")
    found = pd.DataFrame({"study_id": study_id.astype("int64"), "split": split.astype("int8")}).drop_duplicates()
    in_two = found["study_id"].duplicated()
    if in_two.any():
        line = in_two.idxmax()
        study, name = found.at[line, "study_id"], SPLITS[found.at[line, "split"]]
        raise UserError(
            f"{path}: line {line} puts study_id {study} into {name}, an earlier line into another split; remove one of "
            "the two"
        )
    return found["study_id"].to_numpy(), found["split"].to_numpy()


def _refuse(path: Path, table: pd.DataFrame, column: str, bad: pd.Series, remedy: str) -> None:
    if bad.any():
        line = bad.idxmax()
        raise UserError(f"{path}: line {line} has {column} {table.at[line, column]!r}: {remedy}")

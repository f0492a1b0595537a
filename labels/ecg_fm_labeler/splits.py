"""The splits of the labelled reports."""

from pathlib import Path

import numpy as np

from ecg_finetune.files import UserError
from ecg_finetune.label_files import NO_SPLIT
from ecg_finetune.studies import SPLITS, find_rows, read_splits


def split_of(meta: Path, study_id: np.ndarray, wanted: str) -> np.ndarray:
    """Look up the split of every row.

    Parameters
    ----------
    meta : Path
        meta_split.csv; it may be missing where all rows are wanted.
    study_id : ndarray of int64 (rows,)
    wanted : str
        "train", "valid", "test" or "all".

    Returns
    -------
    ndarray of int8 (rows,)
        The position in `SPLITS`; `NO_SPLIT` where meta_split.csv does not list the study.

    Raises
    ------
    UserError
        As `studies.read_splits`; also no row of the wanted split.
    """
    if wanted == "all" and not Path(meta).is_file():
        print(f"{meta} does not exist: the split column of study_id_mapping.csv stays empty")
        return np.full(len(study_id), NO_SPLIT, dtype=np.int8)
    listed, codes = read_splits(meta)
    row, found = find_rows(listed, study_id)
    split = np.where(found, codes[row], NO_SPLIT).astype(np.int8)
    print(f"{int((~found).sum()):,} of {len(study_id):,} rows have no split in {meta}")
    if wanted != "all" and not (split == SPLITS.index(wanted)).any():
        raise UserError(f"{meta}: none of the {len(study_id):,} reports is in split {wanted}; choose another --split")
    return split

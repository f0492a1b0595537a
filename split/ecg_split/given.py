"""Splits that exist already: one that others made (--from-split) and our own earlier one (--extend)."""

from pathlib import Path

import numpy as np
import pandas as pd

from ecg_finetune.files import UserError
from ecg_finetune.foreign_split import read_foreign_split
from ecg_finetune.studies import find_rows, read_splits
from ecg_split.summary import count_leaks


def take_split(path: Path, study_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Take a given split for the studies of the record list; print how many studies both have.

    Parameters
    ----------
    path : Path
        The given split, as `read_foreign_split` reads it.
    study_ids : ndarray of int64 (studies,)
        The studies of the record list.

    Returns
    -------
    row : ndarray of int (records,)
        Row in `study_ids` of each study that both have, in the order of the record list.
    split : ndarray of int8 (records,)
        Position in `SPLITS` of the split of each of these.
    excluded : DataFrame
        `study_id,reason`: the studies that only one of the two has.

    Raises
    ------
    UserError
        As `read_foreign_split`; also the two have no study in common.
    """
    given_ids, given_split = read_foreign_split(path)
    position, found = find_rows(given_ids, study_ids)
    row = np.flatnonzero(found)
    if not len(row):
        raise UserError(f"{path}: has no study in common with the record list; give the list that it was made for")
    only_listed, only_given = study_ids[~found], np.setdiff1d(given_ids, study_ids)
    print(
        f"{len(row):,} studies in both files; excluded: {len(only_listed):,} only in the record list, "
        f"{len(only_given):,} only in the given split"
    )
    reason = ["only in the record list"] * len(only_listed) + ["only in the given split"] * len(only_given)
    excluded = pd.DataFrame({"study_id": np.concatenate([only_listed, only_given]), "reason": reason})
    return row, given_split[position[row]], excluded


def read_earlier_split(path: Path, study_ids: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Read the meta_split.csv that is to be extended.

    Parameters
    ----------
    path : Path
        The earlier meta_split.csv.
    study_ids : ndarray of int64 (studies,)
        The studies of the record list.
    group : ndarray of int (studies,)
        What stays together: the number of each one's patient, or of the study itself.

    Returns
    -------
    row : ndarray of int (earlier rows,)
        Row of each earlier study in `study_ids`.
    split : ndarray of int8 (earlier rows,)
        Positions in `SPLITS`.

    Raises
    ------
    UserError
        The file is unreadable, the record list lacks one of its studies (that patient would be unknown), or a patient
        is in more than one split.
    """
    earlier, split = read_splits(path)
    row, found = find_rows(study_ids, earlier)
    if not found.all():
        lost = earlier[~found]
        raise UserError(
            f"{path}: {len(lost):,} of its studies, {lost[0]} first, are not in the record list, so their patients are "
            "unknown; --extend needs the complete record list, old and new records"
        )
    if count_leaks(group[row], split)[0]:
        raise UserError(
            f"{path}: has patients in more than one split, so that their new records have no one split to go to; "
            "extend it with --group-by study"
        )
    return row, split

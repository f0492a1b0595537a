"""The labels of studies, looked up and counted for stratification."""

from pathlib import Path

import numpy as np

from ecg_finetune.files import UserError
from ecg_finetune.studies import find_rows, read_study_labels


def read_labels_to_balance(folder: Path, study_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Read the labels of studies from the folder of the labels stage; print how many studies have none.

    Parameters
    ----------
    folder : Path
        The folder that holds labels.csv and study_id_mapping.csv.
    study_ids : ndarray of int64 (studies,)
        The studies wanted.

    Returns
    -------
    labels, labelled
        As `labels_of`.

    Raises
    ------
    UserError
        As `read_study_labels`; also none of the studies has labels.
    """
    labelled_ids, labels = read_study_labels(folder)
    labels, labelled = labels_of(study_ids, labelled_ids, labels.astype(bool))
    if not labelled.any():
        raise UserError(
            f"{folder}: not one study of the record list has labels there; give the labels of these records"
        )
    if not labelled.all():
        n = int((~labelled).sum())
        print(f"{n:,} of {len(study_ids):,} studies are not in {folder}/labels.csv: split as if they had no label")
    return labels, labelled


def labels_of(study_ids: np.ndarray, labelled_ids: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Look up the labels of studies.

    Parameters
    ----------
    study_ids : ndarray of int64 (studies,)
        The studies wanted.
    labelled_ids : ndarray of int64 (labelled,)
        The studies that have labels, each once.
    labels : ndarray of bool (labelled, labels)
        Theirs.

    Returns
    -------
    labels : ndarray of bool (studies, labels)
        All False where a study has none.
    labelled : ndarray of bool (studies,)
        Whether the study was found.
    """
    row, found = find_rows(labelled_ids, study_ids)
    return labels[row] & found[:, None], found


def count_per_group(group: np.ndarray, n_groups: int, labels: np.ndarray) -> np.ndarray:
    """Return how many records of each group have each label: int (groups, labels).

    Parameters
    ----------
    group : ndarray of int (records,)
        The group of each record, 0 to `n_groups` - 1.
    n_groups : int
        Number of groups.
    labels : ndarray of bool (records, labels)
        Of each record.
    """
    return np.stack([np.bincount(group[has_label], minlength=n_groups) for has_label in labels.T], axis=1)

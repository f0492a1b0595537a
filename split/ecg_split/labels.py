"""The labels of studies, looked up and counted for stratification."""

import numpy as np

from ecg_finetune.studies import find_rows


def labels_of(study_ids: np.ndarray, labelled_ids: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Look up the labels of studies.

    Parameters
    ----------
    study_ids : ndarray of int64 (studies,)
        The studies wanted.
    labelled_ids : ndarray of int64 (labelled,)
        The studies that have labels, each once.
    labels : ndarray of bool (labelled, 17)
        Theirs.

    Returns
    -------
    labels : ndarray of bool (studies, 17)
        All False where a study has none.
    labelled : ndarray of bool (studies,)
        Whether the study was found.
    """
    place, found = find_rows(labelled_ids, study_ids)
    return labels[place] & found[:, None], found


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
    return np.stack([np.bincount(group[column], minlength=n_groups) for column in labels.T], axis=1)

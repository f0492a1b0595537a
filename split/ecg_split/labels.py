"""The labels of studies, looked up and counted for stratification."""

import numpy as np
import pandas as pd


def labels_of(study_ids: np.ndarray, labelled_ids: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Look up the labels of studies.

    Returns
    -------
    labels : ndarray of bool (studies, 17)
        All False where a study has none.
    labelled : ndarray of bool (studies,)
        Whether the study was found.
    """
    row = pd.Index(labelled_ids).get_indexer(study_ids)
    found = row >= 0
    return labels[row] & found[:, None], found


def count_per_group(group: np.ndarray, n_groups: int, labels: np.ndarray) -> np.ndarray:
    """Return, for groups 0..n_groups-1, how many of their rows have each label: int (groups, labels)."""
    return np.stack([np.bincount(group[column], minlength=n_groups) for column in labels.T], axis=1)

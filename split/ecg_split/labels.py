"""The labels of studies, looked up and counted for stratification."""

from pathlib import Path

import numpy as np

from ecg_finetune.files import UserError
from ecg_finetune.studies import find_rows, read_study_labels


def read_labels_of(folder: Path, study_ids: np.ndarray) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Read the labels of studies from the folder of the labels stage; print how many studies have none.

    Parameters
    ----------
    folder : Path
        The folder that holds labels.csv and study_id_mapping.csv.
    study_ids : ndarray of int64 (studies,)
        The studies wanted.

    Returns
    -------
    names : tuple of str
        Of the labels.
    positive, known : ndarray of bool (studies, labels)
        Which label each study has, and of which it is known whether it has it; a study without labels knows none.

    Raises
    ------
    UserError
        As `read_study_labels`; also none of the studies has labels.
    """
    labelled_ids, labels, label_set = read_study_labels(folder)
    row, found = find_rows(labelled_ids, study_ids)
    if not found.any():
        raise UserError(
            f"{folder}: not one study of the record list has labels there; give the labels of these records"
        )
    if not found.all():
        n = int((~found).sum())
        print(f"{n:,} of {len(study_ids):,} studies are not in {folder}/labels.csv: their labels count as unknown")
    labels = labels[row]
    return label_set.names, (labels == 1) & found[:, None], (labels == labels) & found[:, None]


def columns_to_balance(positive: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return what a stratified split makes equally frequent: bool (records, columns).

    That is who has each label, and where not all know it, who does, or who does not if those are fewer: the rarer
    weighs more. Labels that the same records know (those that one source annotates, say) share a column, so that they
    do not count many times. `positive` and `known` are bool (records, labels).
    """
    patterns = {column.tobytes(): column for column in known.T if not column.all()}
    rarer = (column if column.mean() < 0.5 else ~column for column in patterns.values())
    return np.column_stack([positive, *rarer]) if patterns else positive


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

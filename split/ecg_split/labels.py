"""The labels of the labels stage, by study."""

from pathlib import Path

import numpy as np
import pandas as pd

from ecg_finetune.command_line import UserError
from ecg_finetune.diagnoses import LABELS
from ecg_finetune.tables import read_table, refuse_duplicates


def read_study_labels(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read labels.csv and study_id_mapping.csv of the labels stage.

    Returns
    -------
    study_id : ndarray of int64 (rows,)
    labels : ndarray of bool (rows, 17)

    Raises
    ------
    UserError
        A file is missing or unreadable, the two do not belong together, or a study stands twice.
    """
    table = read_table(folder / "labels.csv", ["idx", *LABELS], {"idx": "int64", **dict.fromkeys(LABELS, "int8")})
    mapping_path = folder / "study_id_mapping.csv"
    mapping = read_table(mapping_path, ["idx", "study_id"], dict.fromkeys(["idx", "study_id"], "int64"))
    refuse_duplicates(mapping_path, mapping, "study_id")
    if not np.array_equal(table["idx"], mapping["idx"]):
        raise UserError(f"{mapping_path} does not list the rows of labels.csv; run the labels stage again")
    return mapping["study_id"].to_numpy(), table[list(LABELS)].to_numpy().astype(bool)


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

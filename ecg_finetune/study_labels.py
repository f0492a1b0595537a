"""What the labels stage wrote, by study: split balances it, build hands it to the network."""

from array import array
from pathlib import Path

import numpy as np

from ecg_finetune.command_line import UserError
from ecg_finetune.diagnoses import LABELS
from ecg_finetune.paths import inside
from ecg_finetune.tables import find_rows, first_repeated, integer, iterate_rows

LABEL_TEXTS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}


def read_study_labels(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the labels of every study: labels.csv has them by idx, study_id_mapping.csv says whose each idx is.

    Returns
    -------
    study_id : ndarray (studies,)
        int64, each once; a study that stands twice with the same labels counts once.
    labels : ndarray (studies, 17)
        uint8, 0 or 1.

    Raises
    ------
    UserError
        As `tables.iterate_rows`; also no row, a label other than 0 and 1, an idx that stands twice or that only
        labels.csv has, a study with two different rows of labels.
    """
    labels_path, mapping_path = inside(folder, "labels"), inside(folder, "study_id_mapping")
    row_idx, labels = _read_labels(labels_path)
    mapped_idx, studies = array("q"), array("q")
    for line, (idx, study) in iterate_rows(mapping_path, ["idx", "study_id"]):
        mapped_idx.append(integer(mapping_path, line, "idx", idx))
        studies.append(integer(mapping_path, line, "study_id", study))
    mapped_idx = np.array(mapped_idx, dtype=np.int64)
    for path, values in ((labels_path, row_idx), (mapping_path, mapped_idx)):
        twice = first_repeated(values)
        if twice is not None:
            raise UserError(f"{path}: idx {twice} stands twice; run the labels stage again")
    place, found = find_rows(mapped_idx, row_idx)
    if not found.all():
        raise UserError(
            f"{mapping_path}: has no idx {row_idx[~found][0]}, which {labels_path.name} has; run the labels stage again"
        )
    return _each_once(mapping_path, np.array(studies, dtype=np.int64)[place], labels)


def _read_labels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return idx int64 (rows,) and labels uint8 (rows, 17) of labels.csv."""
    row_idx, labels = array("q"), bytearray()
    for line, (idx, *values) in iterate_rows(path, ["idx", *LABELS]):
        try:
            labels += bytes([LABEL_TEXTS[value] for value in values])
        except KeyError:
            raise UserError(
                f"{path}: line {line} has a label that is neither 0 nor 1; run the labels stage again"
            ) from None
        row_idx.append(integer(path, line, "idx", idx))
    if not row_idx:
        raise UserError(f"{path}: no rows below the header; run the labels stage again")
    table = np.frombuffer(labels, dtype=np.uint8).reshape(-1, len(LABELS))
    return np.array(row_idx, dtype=np.int64), table


def _each_once(path: Path, study_id: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keep the first row of each study; refuse a study whose rows differ."""
    _, first, which = np.unique(study_id, return_index=True, return_inverse=True)
    differs = (labels != labels[first[which]]).any(axis=1)
    if differs.any():
        raise UserError(
            f"{path}: study_id {study_id[differs][0]} stands twice with different labels; remove one of its rows"
        )
    kept = np.sort(first)
    return study_id[kept], labels[kept]

"""The labels stage's files, read by study."""

import numpy as np
import pytest

from ecg_finetune.files import UserError
from ecg_finetune.label_set import LABELS
from ecg_finetune.studies import read_study_labels
from ecg_finetune.tables import write_rows


def write_labels(folder, labels, mapping) -> None:
    """Write labels.csv from (idx, labels) and study_id_mapping.csv from (idx, study)."""
    write_rows(folder / "labels.csv", ["idx", *LABELS], ((idx, *row) for idx, row in labels))
    write_rows(folder / "study_id_mapping.csv", ["idx", "study_id", "split"], ((*row, "") for row in mapping))


def test_labels_meet_their_study_by_idx_whatever_the_order_of_the_rows(tmp_path):
    rows = np.eye(4, len(LABELS), dtype=int)
    labels = [(idx, rows[idx]) for idx in (2, 0, 3, 1)]
    write_labels(tmp_path, labels, [(1, 501), (3, 503), (9, 509), (0, 500), (2, 502)])
    study_id, found = read_study_labels(tmp_path)
    assert study_id.tolist() == [502, 500, 503, 501] and found.dtype == np.uint8
    assert np.array_equal(found, rows[[2, 0, 3, 1]])


def test_a_duplicate_study_counts_once_if_its_labels_are_the_same(tmp_path):
    rows = np.eye(2, len(LABELS), dtype=int)
    mapping = [(0, 7), (1, 5), (2, 7)]
    write_labels(tmp_path, [(0, rows[0]), (1, rows[1]), (2, rows[0])], mapping)
    study_id, found = read_study_labels(tmp_path)
    assert study_id.tolist() == [7, 5] and np.array_equal(found, rows)
    write_labels(tmp_path, [(0, rows[0]), (1, rows[1]), (2, rows[1])], mapping)
    with pytest.raises(UserError, match="study_id 7 is a duplicate with different labels"):
        read_study_labels(tmp_path)

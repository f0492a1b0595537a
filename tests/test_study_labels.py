"""The labels stage's files, read by study."""

import numpy as np
import pytest

from ecg_finetune.files import UserError
from ecg_finetune.label_set import ECG_FM, LABELS, LabelSet, write_label_definition
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
    study_id, found, label_set = read_study_labels(tmp_path)
    assert study_id.tolist() == [502, 500, 503, 501] and found.dtype == np.uint8 and label_set == ECG_FM
    assert np.array_equal(found, rows[[2, 0, 3, 1]])


def test_a_duplicate_study_counts_once_if_its_labels_are_the_same(tmp_path):
    rows = np.eye(2, len(LABELS), dtype=int)
    mapping = [(0, 7), (1, 5), (2, 7)]
    write_labels(tmp_path, [(0, rows[0]), (1, rows[1]), (2, rows[0])], mapping)
    study_id, found, _ = read_study_labels(tmp_path)
    assert study_id.tolist() == [7, 5] and np.array_equal(found, rows)
    write_labels(tmp_path, [(0, rows[0]), (1, rows[1]), (2, rows[1])], mapping)
    with pytest.raises(UserError, match="study_id 7 is a duplicate with different labels"):
        read_study_labels(tmp_path)


def write_own_labels(folder, *rows, header="idx,Ectopy,Paced") -> None:
    """Write labels of a user's own as text."""
    (folder / "labels.csv").write_text("\n".join([header, *rows]) + "\n")
    mapping = "".join(f"{idx},{50 + idx // 2},\n" for idx in range(len(rows)))
    (folder / "study_id_mapping.csv").write_text(f"idx,study_id,split\n{mapping}")


def test_an_empty_cell_is_unknown(tmp_path):
    write_own_labels(tmp_path, "0,1.0,", "1,1,", "2,,0", "3,,0.0")
    study_id, labels, label_set = read_study_labels(tmp_path)
    assert study_id.tolist() == [50, 51] and labels.dtype == np.float32
    np.testing.assert_array_equal(labels, [[1, np.nan], [np.nan, 0]])
    assert label_set == LabelSet(("Ectopy", "Paced"), ("mean", "mean"))


def test_unknown_and_known_labels_of_one_study_differ(tmp_path):
    write_own_labels(tmp_path, "0,1,", "1,1,0")
    with pytest.raises(UserError, match="study_id 50 is a duplicate with different labels"):
        read_study_labels(tmp_path)


@pytest.mark.parametrize("cell", ["2", "nan", "-1", " ", "yes", "0.5"])
def test_any_other_cell_is_refused(tmp_path, cell):
    write_own_labels(tmp_path, "0,1,0", f"1,{cell},0")
    with pytest.raises(UserError, match=f"labels.csv: line 3 has {cell!r} for Ectopy; a label is 1, 0 or empty"):
        read_study_labels(tmp_path)


def test_how_segments_combine_comes_from_the_definition_beside(tmp_path):
    write_own_labels(tmp_path, "0,1,0")
    mine = LabelSet(("Ectopy", "Paced"), ("max", "mean"))
    write_label_definition(tmp_path / "label_def_recomputed.csv", mine, np.zeros((1, 2)))
    assert read_study_labels(tmp_path)[2] == mine
    write_own_labels(tmp_path, "0,1,0", header="idx,Ectopy,Pacemaker")
    with pytest.raises(UserError, match="Pacemaker only in labels.csv, Paced only in label_def_recomputed.csv"):
        read_study_labels(tmp_path)

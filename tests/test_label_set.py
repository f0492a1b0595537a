"""The label set: its names, how segments combine, and what is counted about labels that may be unknown."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecg_finetune.files import UserError
from ecg_finetune.label_set import (
    COMBINED_BY_MAX,
    ECG_FM,
    LABELS,
    LabelSet,
    counts_table,
    known_counts,
    label_counts,
    read_label_names,
    read_label_set,
    read_pos_weight,
    stated_label_set,
    write_label_definition,
    write_label_table,
)


def test_ecg_fm_combines_five_labels_by_maximum():
    assert ECG_FM.names == LABELS and len(ECG_FM) == 17
    assert {name for name, how in zip(ECG_FM.names, ECG_FM.combine) if how == "max"} == set(COMBINED_BY_MAX)


def test_unknown_labels_are_neither_positive_nor_negative():
    labels = np.array([[1, np.nan, 0], [0, np.nan, np.nan], [0, 1, np.nan], [np.nan, 0.3, 0]], dtype=np.float32)
    count, share, weight = label_counts(labels)
    assert count.tolist() == [1, 2, 0] and known_counts(labels).tolist() == [3, 2, 2]
    np.testing.assert_allclose(share, [1 / 3, 1, 0])
    np.testing.assert_allclose(weight, [2, 0, 0])
    every = label_counts(np.array([[1, 0], [0, 0]], dtype=np.uint8))
    assert [values.tolist() for values in every] == [[1, 0], [0.5, 0], [1, 0]]


def test_a_label_set_is_read_back(tmp_path):
    mine = LabelSet(("Ectopy, any", "Electronic pacemaker"), ("max", "mean"))
    write_label_definition(tmp_path / "label_def.csv", mine, np.array([[1, np.nan], [0, 1]]))
    assert read_label_set(tmp_path / "label_def.csv") == mine
    (tmp_path / "plain.csv").write_text("name,count\nMine,1\nElectronic pacemaker,2\n")
    assert read_label_set(tmp_path / "plain.csv") == LabelSet(("Mine", "Electronic pacemaker"), ("mean", "max"))
    (tmp_path / "labels.csv").write_text("idx,A,B\n0,1,\n")
    assert read_label_names(tmp_path / "labels.csv") == ("A", "B")


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("idx", "names no label"),
        ("study,A", "its first column is study, not idx"),
        ("idx,A,A", "duplicate|two labels"),
        ("idx,A,", "without outer blanks"),
        ("idx,A,__macro__", "no label can be called __macro__"),
        *((f"idx,A,{name}", f"no label can be called {name}") for name in ("status", "found", "rate", "start_s")),
        ("idx,A,study_id", "no label can be called study_id"),
    ],
)
def test_columns_that_cannot_be_labels(tmp_path, header, told):
    (tmp_path / "labels.csv").write_text(header + "\n0,1\n")
    with pytest.raises(UserError, match=told):
        read_label_names(tmp_path / "labels.csv")


def test_a_way_to_combine_that_is_none(tmp_path):
    (tmp_path / "label_def.csv").write_text("name,combine\nA,median\n")
    with pytest.raises(UserError, match="line 2 combines by median; give max or mean"):
        read_label_set(tmp_path / "label_def.csv")


def test_weights_of_another_label_set(tmp_path):
    (tmp_path / "pos_weight.txt").write_text("1.0 2.0\n")
    with pytest.raises(UserError, match="must hold 3 numbers"):
        read_pos_weight(tmp_path / "pos_weight.txt", 3)


@given(st.integers(1, 9), st.lists(st.lists(st.sampled_from([0.0, 1.0, np.nan]), min_size=9, max_size=9), max_size=30))
def test_a_label_table_is_read_back_by_the_standard_reader(tmp_path_factory, count, rows):
    folder = tmp_path_factory.mktemp("table")
    names = [f"Label, {k}" for k in range(count)]
    labels = np.array(rows, dtype=np.float32).reshape(-1, 9)[:, :count]
    write_label_table(folder / "labels.csv", names, range(5, 5 + len(labels)), labels)
    table = pd.read_csv(folder / "labels.csv", index_col="idx")
    assert list(table) == names and list(table.index) == list(range(5, 5 + len(labels)))
    np.testing.assert_array_equal(table.to_numpy(dtype=float), labels)
    assert read_label_names(folder / "labels.csv") == tuple(names)
    for name, line in zip(names, counts_table(names, labels).splitlines()[1:], strict=True):
        numbers = [int((table[name] >= 0).sum()), int((table[name] == 1).sum()), int(table[name].isna().sum())]
        assert line.startswith(name) and list(map(int, line.split()[-3:])) == numbers


def test_what_checkpoints_from_elsewhere_state_is_a_label_set_or_nothing():
    assert stated_label_set({"labels": ["A", "B"], "combine": ["max", "mean"]}) == LabelSet(("A", "B"), ("max", "mean"))
    assert stated_label_set({"labels": list(LABELS)}) == ECG_FM
    for labels, combine in [
        (None, None),
        ("AB", None),
        ([1, 2], None),
        ([], None),
        (["A", "A"], None),
        (["A", "B"], ["max"]),
        (["A"], ["median"]),
        (["A"], "max"),
        (["A"], [np.zeros(3)]),
    ]:
        assert stated_label_set({"labels": labels, "combine": combine}) is None

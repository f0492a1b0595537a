"""The flow of records against what the stages of a small run have excluded."""

import numpy as np
import pandas as pd
import pytest
from ecg_evaluation.flow import flow_table, split_counts
from ecg_evaluation.inputs import Labelled
from ecg_evaluation.sections import flow_steps

from ecg_finetune.label_set import LabelSet
from ecg_finetune.studies import save_file_name

NAMES = LabelSet.of(["a", "b"])


@pytest.fixture
def world(tmp_path):
    """Return files, patients and labels of 20 listed studies: 18 in the split, of which 8 of test and 5 usable."""
    studies = np.arange(100, 120)
    split = np.repeat(["train", "valid", "test"], [6, 4, 8])
    table = pd.DataFrame({"save_file": [save_file_name(study) for study in studies[:18]], "split": split})
    table.to_csv(tmp_path / "meta_split.csv", index=False)
    (tmp_path / "meta_split.left_out.csv").write_text("study_id,reason\n118,only in the record list\n")
    rows = ["102,train,flat", "110,test,nan", "111,test,nan", "112,test,no_labels"]
    (tmp_path / "left_out.csv").write_text("\n".join(["study_id,split,reason", *rows]) + "\n")
    names = {"meta": "meta_split.csv", "split_left_out": "meta_split.left_out.csv", "left_out": "left_out.csv"}
    labels = np.column_stack((studies % 2, np.where(studies == 115, np.nan, 1)))
    labelled = np.delete(studies, 12), np.delete(labels, 12, axis=0), NAMES
    return {name: tmp_path / file for name, file in names.items()}, pd.Series(studies // 2, index=studies), labelled


def test_every_record_is_somewhere(world):
    files, patient_of, labels = world
    evaluated = Labelled("test", np.array([113, 114, 116]), np.ones((3, 2)), NAMES, None)
    test_set = np.array([113, 114, 115, 116])
    table = flow_table(evaluated, test_set, "beyond --max-samples", "test", labels, patient_of, files)
    told = [tuple(row) for row in table.iloc[:, :5].itertuples(index=False)]
    assert told == [
        ("record list", "", "entered", "", 20),
        ("split", "", "excluded", "only in the record list", 1),
        ("split", "", "excluded", "in no list of excluded records", 1),
        ("split", "train", "entered", "", 6),
        ("split", "valid", "entered", "", 4),
        ("split", "test", "entered", "", 8),
        ("preprocess and build", "train", "excluded", "flat", 1),
        ("preprocess and build", "test", "excluded", "nan", 2),
        ("preprocess and build", "test", "excluded", "no_labels", 1),
        ("preprocess and build", "test", "excluded", "in no list of excluded records", 1),
        ("evaluation", "test", "entered", "", 4),
        ("evaluation", "test", "excluded", "beyond --max-samples", 1),
        ("evaluation", "test", "evaluated", "", 3),
    ]
    rows = table.set_index(["stage", "split", "outcome", "reason"])
    nan = rows.loc[("preprocess and build", "test", "excluded", "nan")]
    assert (nan["n_patients"], nan["n_labelled"], nan["a"], nan["b"]) == (1, 2, 1, 2)
    without = rows.loc[("preprocess and build", "test", "excluded", "no_labels")]
    assert (without["n_labelled"], without["a"]) == (0, 0)
    beyond = rows.loc[("evaluation", "test", "excluded", "beyond --max-samples")]
    assert (beyond["n_labelled"], beyond["a"], beyond["b"]) == (1, 1, 0)  # an unknown label is not counted
    records, positives = split_counts(table, "test", NAMES.names)
    assert records == 8 and positives.tolist() == [4, 6]
    boxes = [step for step in flow_steps(table, "test") if step[0]]
    assert boxes[0] == (["Record list", "20 records of 10 patients"], boxes[0][1]) and len(boxes) == 5
    assert boxes[0][1][0] == "Excluded: 2" and boxes[2][1][:2] == ["Excluded: 4", "2 with missing samples"]
    assert boxes[1][0] == ["Split", "train: 6 records, 1 excluded", "valid: 4 records", "test: 8 records"]


def test_double_and_outdated_rows_of_the_lists_count_once_or_not_at_all(world):
    files, patient_of, labels = world
    evaluated = Labelled("test", np.array([113, 114, 115, 116]), np.ones((4, 2)), NAMES, None)
    arguments = evaluated, evaluated.study_id, "", "test", labels, patient_of, files
    expected = flow_table(*arguments)
    with files["split_left_out"].open("a") as file:
        file.write("118,again\n")
    with files["left_out"].open("a") as file:
        file.write("110,test,flat\n113,test,nan\n114,test,nan\n")
    pd.testing.assert_frame_equal(flow_table(*arguments), expected)


def test_what_no_file_tells_is_not_in_the_flow(tmp_path):
    files = {name: tmp_path / name for name in ("meta", "split_left_out", "left_out")}
    evaluated = Labelled("test", np.array([1, 2]), np.ones((2, 2)), NAMES, None)
    table = flow_table(evaluated, np.array([1, 2]), "", "test", None, None, files)
    assert list(table["outcome"]) == ["entered", "evaluated"] and table["n_patients"].isna().all()
    assert split_counts(table, "test", NAMES.names) is None
    assert [box for box, _ in flow_steps(table, "test") if box] == [
        ["Usable test records", "2 records"],
        ["Evaluated", "2 records"],
    ]

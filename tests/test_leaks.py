"""Evaluated patients that a checkpoint was trained or pretrained on are found; what cannot be looked for is told."""

import numpy as np
import pandas as pd
import pytest
from ecg_evaluation.leaks import (
    Evaluated,
    check_leaks,
    check_pretraining,
    find_seen,
    records_of_split,
    trained_elsewhere,
)
from hypothesis import given
from hypothesis import strategies as st

from ecg_finetune.data_sets import MACHINE_STATEMENTS, Source
from ecg_finetune.files import UserError, sha256, write_json
from ecg_finetune.training_records import (
    UNKNOWN,
    TrainingRecords,
    read_training_records,
    records_of_checkpoint,
    write_training_records,
)

TRAIN, VALID = 0, 1


def records(*rows) -> TrainingRecords:
    """Return training records of (study, patient, split) rows."""
    study, subject, split = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return TrainingRecords(study, subject, split.astype(np.int8))


def evaluated(*rows) -> Evaluated:
    """Return evaluated records of (study, patient) rows."""
    study, subject = np.array(rows, dtype=np.int64).T
    return Evaluated(study, subject)


def test_the_patient_counts_and_not_the_record():
    seen = find_seen(evaluated((1, 10), (2, 10), (3, 30)), records((7, 10, TRAIN), (8, 40, VALID)), None)
    assert seen.leaked.tolist() == [True, True, False] and seen.patients == 1 and seen.unchecked == []


def test_a_patient_that_the_list_does_not_know_comes_from_the_record_list():
    patient_of = pd.Series({7: 10, 8: 20})
    seen = find_seen(evaluated((1, 10)), records((7, UNKNOWN, TRAIN), (9, UNKNOWN, TRAIN)), patient_of)
    assert seen.leaked.tolist() == [True]
    assert seen.unchecked == ["not checked for 1 train records, whose patient is not known"]


def test_without_patients_the_record_itself_is_looked_for_and_that_is_told():
    seen = find_seen(Evaluated(np.array([1, 7]), None), records((7, 10, TRAIN)), None)
    assert seen.leaked.tolist() == [False, True] and "only the records themselves" in seen.unchecked[0]


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5)), min_size=1, max_size=15, unique_by=lambda row: row[0])
)
def test_it_is_what_a_plain_loop_finds(rows):
    half = len(rows) // 2
    test, train = rows[half:], [(study, patient, TRAIN) for study, patient in rows[:half]]
    seen = find_seen(evaluated(*test), records(*train), None)
    expected = [patient in {other for _, other, _ in train} for _, patient in test]
    assert seen.leaked.tolist() == expected


def test_a_leak_is_refused_unless_allowed_and_then_told_first():
    test, trained = evaluated((1, 10), (2, 20)), records((7, 10, VALID))
    with pytest.raises(
        UserError, match="1 of the 2 evaluated records are of 1 patient that the checkpoint was trained"
    ):
        check_leaks(test, trained, None, allow=False)
    check = check_leaks(test, trained, None, allow=True)
    assert check.leaked.tolist() == [True, False] and "say little about new patients" in check.alarms[0]
    check = check_leaks(test, records((7, 30, TRAIN)), None, allow=False)
    assert check.alarms == [] and "none of the evaluated patients" in check.findings[0]


def test_a_start_whose_records_are_not_listed_is_an_alarm(tmp_path):
    own = records((7, 30, TRAIN))
    assert own.after(records((8, 40, VALID))).complete
    write_training_records(tmp_path / "training_records.csv", own.after(None))
    trained = read_training_records(tmp_path / "training_records.csv")
    assert trained.study_id.tolist() == [7] and not trained.complete and not trained.of_split("train").complete
    check = check_leaks(evaluated((1, 10)), trained, None, allow=False)
    assert "fine-tuned from a fine-tuned one whose records are not known" in check.alarms[0]
    assert check.findings[0].endswith("trained on, as far as could be checked")


SOME_RECORDS = st.dictionaries(
    st.integers(0, 8), st.tuples(st.integers(UNKNOWN, 3), st.sampled_from([TRAIN, VALID])), min_size=1
)


@given(SOME_RECORDS, SOME_RECORDS)
def test_records_of_two_runs_are_united(one, other):
    def rows(table):
        return records(*((study, *row) for study, row in table.items()))

    united = rows(one).united(rows(other))
    expected = {
        study: tuple(
            choose(found) for choose, found in zip((max, min), zip(*(t[study] for t in (one, other) if study in t)))
        )
        for study in {*one, *other}
    }
    found = zip(united.study_id.tolist(), zip(united.subject_id.tolist(), united.split.tolist()), strict=True)
    assert sorted(found) == sorted(expected.items())


def test_what_is_not_known_is_an_alarm():
    check = check_leaks(evaluated((1, 10)), None, None, allow=False)
    assert check.leaked is None and "--trained-on" in check.alarms[0]
    alarms, findings = check_pretraining(evaluated((1, 10)), None, None, source=Source(), anew=False)
    assert alarms == [] and "--pretraining-split" in findings[0]


def test_patients_seen_in_pretraining_are_counted(tmp_path):
    split = tmp_path / "meta_split_mimic_iv_ecg.csv"
    split.write_text("save_file,split\nmimic_iv_ecg_7.mat,train\nmimic_iv_ecg_8.mat,valid\nmimic_iv_ecg_9.mat,test\n")
    patient_of = pd.Series({7: 10, 8: 20, 9: 30})
    pretrained, options = records_of_split(split, ("train",)), {"source": Source(), "anew": False}
    alarms, _ = check_pretraining(evaluated((1, 10), (2, 20)), pretrained, patient_of, **options)
    assert "1 of the 2 evaluated records are of 1 patient whose records were seen in pretraining" in alarms[0]
    alarms, findings = check_pretraining(evaluated((2, 20), (3, 30)), pretrained, patient_of, **options)
    assert alarms == [] and "0 of the 2 evaluated records" in findings[0]


@pytest.mark.parametrize(
    ("source", "alarm", "finding"),
    [
        (Source("ptbxl", "PTB-XL", "included"), "ECG-FM's pretraining had PTB-XL: the results are external", None),
        (Source("ludb", "LUDB", "not included"), None, "ECG-FM's pretraining did not have LUDB"),
        (Source("table 0", "clinic.csv", "not known"), None, "not known whether"),
        (Source("machine statements"), None, "not known whether"),
    ],
)
def test_a_data_set_that_was_in_pretraining_is_an_alarm(source, alarm, finding):
    told = check_pretraining(evaluated((1, 10)), None, None, source=source, anew=False)
    for sentences, expected in zip(told, (alarm, finding)):
        assert len(sentences) == (expected is not None) and (expected or "") in " ".join(sentences)


def test_a_network_from_random_weights_has_seen_nothing_in_pretraining():
    known, source = records((1, 10, TRAIN)), Source("ptbxl", "PTB-XL", "included")
    alarms, findings = check_pretraining(evaluated((1, 10)), known, None, source=source, anew=True)
    assert alarms == [] and len(findings) == 1 and "there was no pretraining" in findings[0]


def test_numbers_of_different_data_sets_are_not_compared():
    cinc, ptbxl = Source("cinc2017", "PhysioNet/CinC 2017"), Source("ptbxl", "PTB-XL")
    found = trained_elsewhere([cinc], ptbxl)
    assert "trained on PhysioNet/CinC 2017, the records are of PTB-XL" in found.told and not found.may_share
    check = check_leaks(evaluated((7, 10)), None, None, allow=False, elsewhere=found)
    assert check.leaked is None and check.alarms == [] and check.findings == [found.told]
    # One that may hold the same recordings.
    all_2021, tables = Source("physionet2021"), [Source(f"table {digest}") for digest in "ab"]
    for trained, other, why in (
        (all_2021, ptbxl, "PhysioNet/CinC 2021 holds the records of PTB-XL"),
        (ptbxl, all_2021, "PhysioNet/CinC 2021 holds the records of PTB-XL"),
        (*tables, "two tables may share patients"),
    ):
        found = trained_elsewhere([trained], other)
        assert found.may_share and found.told.endswith(why)
        check = check_leaks(evaluated((7, 10)), None, None, allow=False, elsewhere=found)
        assert check.alarms == [found.told] and check.findings == []
    # Looked for where one data set may be the other, or a start was trained on it.
    for trained in ([ptbxl], [cinc, ptbxl], [cinc, Source()], [Source()], []):
        assert trained_elsewhere(trained, ptbxl) is None
    statements = Source(MACHINE_STATEMENTS)
    assert trained_elsewhere([statements], tables[0]) is None and trained_elsewhere(tables, statements) is None
    assert trained_elsewhere([statements], ptbxl).told.startswith("the checkpoint was trained on machine statements, ")
    assert trained_elsewhere([cinc], Source()) is None


def test_training_records_are_read_as_written(tmp_path):
    written = records((7, 10, TRAIN), (8, UNKNOWN, VALID))
    write_training_records(tmp_path / "training_records.csv", written)
    found = read_training_records(tmp_path / "training_records.csv")
    assert all(
        np.array_equal(getattr(found, name), getattr(written, name)) for name in ("study_id", "subject_id", "split")
    )


@pytest.mark.parametrize("text", ["7,10,test", "7,10,", "x,10,train", "7,10,train\n7,10,valid"])
def test_damaged_training_records_are_refused(tmp_path, text):
    path = tmp_path / "training_records.csv"
    path.write_text(f"study_id,subject_id,split\n{text}\n")
    with pytest.raises(UserError, match="training_records.csv"):
        read_training_records(path)


def test_the_records_of_another_run_are_never_taken_for_a_checkpoints_own(tmp_path):
    checkpoint, path = tmp_path / "checkpoint_best.pt", tmp_path / "training_records.csv"
    checkpoint.write_bytes(b"weights")
    assert records_of_checkpoint(checkpoint, None) is None
    write_training_records(path, records((7, 10, TRAIN)))
    assert records_of_checkpoint(checkpoint, None) is None  # nothing says that they are its own
    assert records_of_checkpoint(checkpoint, sha256(path)).study_id.tolist() == [7]
    with pytest.raises(UserError, match="not the records that checkpoint_best.pt was trained on"):
        records_of_checkpoint(checkpoint, "0" * 64)
    # fairseq-signals' checkpoints state nothing; settings.json does, for the file it was written for
    write_json(
        tmp_path / "settings.json",
        {"checkpoint_sha256": sha256(checkpoint), "training_records_sha256": sha256(path)},
    )
    assert records_of_checkpoint(checkpoint, None).study_id.tolist() == [7]
    checkpoint.write_bytes(b"other weights")
    assert records_of_checkpoint(checkpoint, None) is None

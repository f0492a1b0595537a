"""import_source.py --source table: the user's own labels of recordings in any format."""

import csv
from pathlib import Path

import numpy as np
import pytest
from ecg_fm_labeler.configuration import PROJECT_CONFIG
from test_sources_import import SCRIPT, imported, rows_of, write_header

from ecg_finetune.label_set import LabelSet, read_label_names, read_label_set

PUBLISHED = PROJECT_CONFIG / "label_def.csv"
HEADER = "name,subject_id,age,sex,Flutter,Fibrillation on a watch,comment"


@pytest.fixture
def clinic(tmp_path):
    """A folder with recordings of several formats, and a function that imports a table of them."""
    for name in ("wfdb/one", "wfdb/two"):
        write_header(tmp_path / "data" / name)
        (tmp_path / f"data/{name}.mat").write_bytes(b"x")
    for name in ("watch/ecg_2026-03-14.csv", "watch/strip.atc", "code15.mat", "other/strip.json"):
        (tmp_path / "data" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "data" / name).write_bytes(b"x")
    return tmp_path


@pytest.fixture
def import_table(clinic, call_script):
    def call(content: str, *options, exit_code: int = 0):
        (clinic / "labels.csv").write_text(content, encoding="utf-8")
        paths = ["--root", clinic / "data", "--table", clinic / "labels.csv", "--base-dir", clinic / "out"]
        output = call_script(SCRIPT, "--source", "table", *paths, *options, exit_code=exit_code)
        assert exit_code == 0 or not (clinic / "out").exists()
        return output

    return call


def paths_of(base: Path) -> list[str]:
    return [row["path"] for row in rows_of(base / "split/data/record_list.csv")]


def test_recordings_of_any_format_with_any_labels(clinic, import_table):
    rows = [
        "one,anna,61.0,female,0,1,first",
        "wfdb/two.hea,anna,,F,1,,",
        "ecg_2026-03-14.csv,bert,>89,m, 1.0 ,0,",
        "code15,,300,Unknown,,0.0,",
        "nowhere.csv,cora,4,x,1,1,gone",
    ]
    output = import_table("\n".join([HEADER, *rows]))
    labels = imported(clinic / "out")
    assert read_label_names(clinic / "out/labels/computed_labels/labels.csv") == ("Flutter", "Fibrillation on a watch")
    assert [tuple(row.values()) for row in labels.values()] == [("0", "1"), ("1", ""), ("1", "0"), ("", "0")]
    assert paths_of(clinic / "out") == ["wfdb/one", "wfdb/two", "watch/ecg_2026-03-14.csv", "code15.mat"]
    records = rows_of(clinic / "out/split/data/record_list.csv")
    assert [row["subject_id"] for row in records] == ["1", "1", "2", "3"]
    assert [row["patient"] for row in records] == ["anna", "anna", "bert", ""]
    assert [(row["age"], row["sex"]) for row in records] == [("61", "F"), ("", "F"), ("90", "M"), ("90", "")]
    assert [row["study_id"] for row in records] == ["1", "2", "3", "4"] and records[0]["comment"] == "first"
    assert "columns that are no labels: comment" in output.out and "patients: 3" in output.out
    assert "whether ECG-FM was pretrained on these recordings is not known" in output.out
    assert [row["name"] for row in rows_of(clinic / "out/split/data/record_list.left_out.csv")] == ["nowhere.csv"]
    people = rows_of(clinic / "out/split/data/subjects.csv")
    assert people[0] == {"study_id": "1", "subject_id": "1", "age": "61", "sex": "F", "patient": "anna"}


def test_numbers_of_ones_own(clinic, import_table):
    output = import_table(
        "path,study_id,patient_id,sex,device,X\nwfdb/one,30,7,0,1,1\nwfdb/two,20,,1,0,\n", "--labels", "X"
    )
    records = rows_of(clinic / "out/split/data/record_list.csv")
    assert [(row["study_id"], row["subject_id"], row["sex"]) for row in records] == [("30", "7", "0"), ("20", "8", "1")]
    assert "columns that are no labels: device" in output.out
    assert read_label_names(clinic / "out/labels/computed_labels/labels.csv") == ("X",)


def test_patients_keep_their_numbers(clinic, import_table, call_script):
    head, rows = "name,study_id,patient_id,X", ["one,30,anna,1", "two,20,bert,0"]
    import_table("\n".join([head, *rows]))
    import_table("\n".join([head, *rows, "code15.mat,40,cora,1"]))
    (clinic / "labels.csv").write_text("\n".join([head, "code15.mat,40,cora,1", *rows]))
    paths = ["--root", clinic / "data", "--table", clinic / "labels.csv", "--base-dir", clinic / "out"]
    output = call_script(SCRIPT, "--source", "table", *paths, exit_code=1)
    assert "study 30 is wfdb/one of patient 1 there, and wfdb/one of patient 2 now" in output.err


def test_folders_of_mimic_keep_their_ids(tmp_path, call_script):
    for number in (40000001, 40000002):
        write_header(tmp_path / f"data/files/p1000/p10000001/s{number}/{number}")
    (tmp_path / "data/mine.csv").write_text("name,X\n40000002,1\n40000001,0\n")
    call_script(SCRIPT, "--source", "table", "--root", tmp_path / "data", "--base-dir", tmp_path / "out")
    records = rows_of(tmp_path / "out/split/data/record_list.csv")
    assert [(row["study_id"], row["subject_id"]) for row in records] == [
        ("40000002", "10000001"),
        ("40000001", "10000001"),
    ]


def test_labels_of_another_network(clinic, import_table, tmp_path):
    definition = tmp_path / "label_def.csv"
    definition.write_text("name,combine\nAsystole,max\nFlutter,max\nNoise,mean\n")
    output = import_table(f"{HEADER}\none,,,,1,0,\ntwo,,,,,1,\n", "--label-set", definition)
    assert [tuple(row.values()) for row in imported(clinic / "out").values()] == [("", "1", ""), ("", "", "")]
    found = read_label_set(clinic / "out/labels/computed_labels/label_def_recomputed.csv")
    assert found == LabelSet(("Asystole", "Flutter", "Noise"), ("max", "max", "mean"))
    assert "not taken, as not in label_def.csv: Fibrillation on a watch" in output.out


def test_71_scp_codes_as_labels(tmp_path, test_data, run_script):
    codes = [row[""] for row in rows_of(test_data / "ptbxl/scp_statements.csv")]
    table = tmp_path / "codes.csv"
    rows = rows_of(test_data / "ptbxl/ptbxl_database.csv")
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "patient_id", "age", *codes])
        for row in rows:
            writer.writerow(
                [row["filename_hr"], row["patient_id"], row["age"], *(int(f"'{c}'" in row["scp_codes"]) for c in codes)]
            )
    run_script(SCRIPT, "--source", "table", "--root", test_data / "ptbxl", "--table", table, "--base-dir", tmp_path)
    labels = imported(tmp_path)
    assert len(labels) == 209 and list(next(iter(labels.values()))) == ["SR" if c == "SR" else c for c in codes]
    y = np.load(tmp_path / "labels/computed_labels/y.npy")
    assert y[:, codes.index("SR")].sum() == sum("'SR'" in row["scp_codes"] for row in rows)


def test_tables_as_programs_write_them(clinic, import_table):
    # An index without a name, blanks behind commas, patients by name and number.
    rows = ["0,p1,7,one, 1", "1,p1,7,two,0", "2,p2,8,code15.mat,"]
    import_table("\n".join([",patient_id,subject_id, name, X ", *rows]))
    assert [row["X"] for row in imported(clinic / "out").values()] == ["1", "0", ""]
    header, *_ = (clinic / "out/split/data/record_list.csv").read_text().splitlines()
    assert header == "subject_id,study_id,path,name,age,sex,patient"


def test_a_path_is_never_taken_for_another_of_the_same_name(clinic, import_table):
    for folder in ("anna", "bert"):
        (clinic / f"data/export/{folder}").mkdir(parents=True)
        (clinic / f"data/export/{folder}/ecg.csv").write_bytes(b"x")
    rows = [
        "anna/ecg.csv,1",
        "cora/ecg.csv,1",
        "../bert/ecg.csv,1",
        "ecg.csv,1",
        f"{clinic}/data/export/bert/ecg.csv,0",
    ]
    output = import_table("\n".join(["path,X", *rows]))
    assert paths_of(clinic / "out") == ["export/anna/ecg.csv", "export/bert/ecg.csv"]
    left_out = rows_of(clinic / "out/split/data/record_list.left_out.csv")
    assert [row["name"] for row in left_out] == ["cora/ecg.csv", "../bert/ecg.csv", "ecg.csv"]
    assert "2 recordings are called" in left_out[2]["reason"] and "3 recordings are left out" in output.err


@pytest.mark.parametrize(
    "content, options, message",
    [
        ("", [], "the file is empty"),
        ("name;X\none;1\n", [], "not separated by commas"),
        ("name,X,Y\none,1,\n", ["--labels", "Y"], "no label is known of any recording"),
        ("name,X\n", [], "no rows below the header"),
        ("recorder,X\none,1\n", [], "no column is called path or name"),
        ("name,comment\none,first\n", [], "there is no label"),
        ("name,X\none,1\ntwo,2\n", [], "line 3 has X 2, and a label is 0, 1 or empty"),
        ("name,X,Y\none,1,yes\n", ["--labels", "Y"], "line 2 has Y yes"),
        ("name,X\none,1\n", ["--labels", "Z"], "no column is called Z"),
        ("name,X,X\none,1,0\n", [], "duplicate column 'X'"),
        ("name,X\none,1\none,0\n", [], "wfdb/one is listed twice"),
        ("name,X\none,1\n,0\n", [], "line 3 names no recording"),
        ("name,study_id,X\none,5,1\ntwo,5,1\n", [], "study_id 5 is of two recordings"),
        ("name,study_id,X\none,a,1\n", [], "line 2 has study_id 'a'"),
        ("name,__macro__\none,1\n", [], "no label can be called __macro__"),
        ("name,X\n../../etc/passwd,1\n", [], "no recording of the data set is there"),
        ("name,X\none,1\n", ["--combine-by-max", "Y"], "--combine-by-max Y: no such label"),
        ("name,X\none,1\n", ["--label-set", PUBLISHED], "label_def.csv: none of its labels is among X"),
    ],
)
def test_bad_tables_are_one_line(import_table, content, options, message):
    assert message in import_table(content, *options, exit_code=1).err

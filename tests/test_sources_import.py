"""import_source.py as a user runs it: genuine samples against plain readers of their tables, and tables in the wild."""

import ast
import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from ecg_sources import ptbxl
from ecg_sources.files import Files, Finder
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sources_codes import LUDB_SAYS, SCP_SAYS, SHORT, SNOMED_SAYS

from ecg_finetune.files import UserError
from ecg_finetune.label_set import LABELS, read_label_set
from ecg_finetune.studies import read_studies

SCRIPT = "sources/scripts/import_source.py"
WORD = {name: word for word, name in SHORT.items()}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def imported(base: Path) -> dict[str, dict[str, str]]:
    """Return name of the recording to short name of the label to "1", "0" or "", after a look at all the files."""
    folder = base / "labels/computed_labels"
    records, labels = rows_of(base / "split/data/record_list.csv"), rows_of(folder / "labels.csv")
    mapping = rows_of(folder / "study_id_mapping.csv")
    assert [row["study_id"] for row in records] == [row["study_id"] for row in mapping]
    assert [row["idx"] for row in labels] == [row["idx"] for row in mapping] == list(map(str, range(len(records))))
    names = list(labels[0])[1:]
    y, soft = np.load(folder / "y.npy"), np.load(folder / "y_soft.npy")
    expected = [[float(row[name] or "nan") for name in names] for row in labels]
    assert y.dtype == soft.dtype == np.float32
    np.testing.assert_array_equal(y, np.array(expected, dtype=np.float32))
    np.testing.assert_array_equal(np.where(np.isnan(soft), np.nan, soft > 0), y)
    for row, column, weight in zip(rows_of(folder / "known.csv"), y.T, (folder / "pos_weight.txt").read_text().split()):
        known, positive = int((column >= 0).sum()), int((column == 1).sum())
        assert list(row.values())[1:] == [str(known), str(positive), str(len(column) - known)]
        assert float(weight) == pytest.approx((known - positive) / positive if positive else 0, abs=1e-7)
    people = rows_of(base / "split/data/subjects.csv")
    assert [(row["study_id"], row["subject_id"], row["age"], row["sex"]) for row in people] == [
        (row["study_id"], row["subject_id"], row["age"], row["sex"]) for row in records
    ]
    assert len(read_studies(base / "split/data/record_list.csv", need_patients=True, otherwise="")) == len(records)
    return {record["name"]: {WORD.get(n, n): row[n] for n in names} for record, row in zip(records, labels)}


def lineage_of(base: Path) -> dict:
    return json.loads((base / "labels/computed_labels/labels.json").read_text())


def write_header(path: Path, *comments: str, signals: int = 12, ends: str = "\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        f"{path.name} {signals} 500 5000",
        *(f"{path.name}.mat 16 1000/mV 16 0 0 0 0 L{n}" for n in range(signals)),
    ]
    path.with_name(path.name + ".hea").write_bytes((ends.join([*lines, *comments]) + ends).encode())


# CinC 2017.


def test_all_of_cinc_2017(tmp_path, test_data, run_script):
    process = run_script(SCRIPT, "--source", "cinc2017", "--root", test_data / "cinc2017", "--base-dir", tmp_path)
    labels = imported(tmp_path)
    with (test_data / "cinc2017/REFERENCE.csv").open() as file:
        classes = dict(line.strip().split(",") for line in file)
    assert labels.keys() == classes.keys() and len(labels) == 1800
    says = {
        "N": {"SR": "1", "AF": "0"},
        "A": {"SR": "0", "AF": "1"},
        "O": {"SR": "", "AF": "0"},
        "~": {"SR": "", "AF": ""},
    }
    for name, code in classes.items():
        assert {word: labels[name][word] for word in ("SR", "AF")} == says[code]
        assert labels[name]["PoorQ"] == ("1" if code == "~" else "0") and labels[name]["MI"] == ""
    times = Counter(classes.values())
    assert f"Atrial fibrillation {1800 - times['~']:,} {times['A']} {times['~']}" in " ".join(process.stdout.split())
    assert "leakage between the recordings of a patient cannot be excluded" in process.stdout
    assert "ECG-FM was not pretrained on this data set" in process.stdout and process.stderr == ""
    found = lineage_of(tmp_path)
    assert found["stage"] == "sources" and found["settings"]["pretraining"] == "not included"
    assert found["settings"]["--source"] == "cinc2017" and len(found["inputs"]) == 1
    for row in rows_of(tmp_path / "split/data/record_list.csv"):
        assert (test_data / "cinc2017" / (row["path"] + ".hea")).is_file() and row["subject_id"] == row["study_id"]


@pytest.mark.parametrize("head", ["", "\ufeff", "name,class\r\n", "\ufeffRecording,Label,x\r\n"])
def test_reference_csv_in_the_wild(tmp_path, run_script, head):
    root = tmp_path / "training2017"
    for name in ("A00001", "A00002", "A00003", "A00005", "A09999"):
        write_header(root / name[:3] / name, signals=1, ends="\r\n")
    (root / "REFERENCE.csv").write_bytes(
        f'{head}A00001,N\r\n"A00003",~\r\nA00002.mat, A\r\n\r\nA00004,O\r\nA00005,Q\r\n'.encode()
    )
    process = run_script(SCRIPT, "--source", "cinc2017", "--root", tmp_path, "--base-dir", tmp_path / "out")
    labels = imported(tmp_path / "out")
    assert {name: (row["SR"], row["AF"], row["PoorQ"]) for name, row in labels.items()} == {
        "A00001": ("1", "0", "0"),
        "A00003": ("", "", "1"),
        "A00002": ("0", "1", "0"),
        "A00005": ("", "", ""),
    }
    records = rows_of(tmp_path / "out/split/data/record_list.csv")
    assert [(row["study_id"], row["path"]) for row in records][:3] == [
        ("1", "training2017/A00/A00001"),
        ("2", "training2017/A00/A00003"),
        ("3", "training2017/A00/A00002"),
    ]
    left_out = rows_of(tmp_path / "out/split/data/record_list.left_out.csv")
    assert [row["name"] for row in left_out] == ["A00004", "training2017/A09/A09999"]
    assert "no header" in left_out[0]["reason"] and "not listed" in left_out[1]["reason"]
    assert rows_of(tmp_path / "out/labels/computed_labels/unmatched.csv") == [{"words": "Q", "count": "1"}]
    assert "2 recordings are left out" in process.stderr and "Q (1)" in process.stderr


def test_first_row_of_reference_csv_is_no_header_where_it_names_a_recording(tmp_path, call_script):
    for name in ("A00001", "A00002", "A00003"):
        write_header(tmp_path / "data" / name, signals=1)
    table, options = tmp_path / "data/REFERENCE.csv", ["--source", "cinc2017", "--root", tmp_path / "data"]
    table.write_text("A00001,AF\nA00002,n\nA00003,a\n")
    output = call_script(SCRIPT, *options, "--base-dir", tmp_path / "out")
    labels = imported(tmp_path / "out")
    assert labels["A00001"] == dict.fromkeys(SHORT, "") and "AF (1)" in output.err
    assert labels["A00002"]["SR"] == labels["A00003"]["AF"] == "1" and "left out" not in output.err
    for content, message in (
        ("A00001;N\nA00002;A\n", "line 1 is no name,class (A00001;N)"),
        ("A00001,N\n\nA00002\n", "line 3 is no name,class (A00002)"),
        ("A00001,normal\n", "no label is known of any recording (NORMAL (1) are not in our table)"),
    ):
        table.write_text(content)
        assert message in call_script(SCRIPT, *options, "--base-dir", tmp_path / "no", exit_code=1).err
    assert not (tmp_path / "no").exists()


def test_newest_reference_and_a_table_by_hand(tmp_path, call_script):
    write_header(tmp_path / "data/training/A00001")
    write_header(tmp_path / "data/validation/A00001")
    (tmp_path / "data/REFERENCE.csv").write_text("A00001,N\n")
    (tmp_path / "data/REFERENCE-v3.csv").write_text("A00001,A\n")
    options = ["--source", "cinc2017", "--root", tmp_path / "data", "--base-dir", tmp_path / "out"]
    output = call_script(SCRIPT, *options)
    assert imported(tmp_path / "out")["A00001"]["AF"] == "1" and "1 recordings are there more than once" in output.out
    call_script(SCRIPT, *options, "--table", tmp_path / "data/REFERENCE.csv")
    assert imported(tmp_path / "out")["A00001"]["SR"] == "1"
    assert [row["path"] for row in rows_of(tmp_path / "out/split/data/record_list.csv")] == ["training/A00001"]


# PTB-XL.


def expected_of_ptbxl(codes: dict[str, float], likelihood: float = 50) -> dict[str, str]:
    """Return the labels of a recording of PTB-XL by a plain loop."""
    rhythms = {"SR", "SARRH", "STACH", "SBRAD", "AFIB", "AFLT", "SVTAC", "PSVT", "PACE"}
    diagnoses = {*SCP_SAYS, "LAFB", "LPFB"} - rhythms - {"PVC"}
    present = {code for code, value in codes.items() if code not in diagnoses or value >= likelihood}
    positive = set(" ".join(SCP_SAYS.get(code, "") for code in present).split())
    if "RBBB" in positive and present & {"LAFB", "LPFB"}:
        positive.add("Bifasc")
    row = {word: "1" if word in positive else "0" for word in SHORT} | {"PoorQ": "", "VT": "", "SVTab": ""}
    if not present & rhythms:
        row["SR"] = ""
    return row


@pytest.mark.parametrize("rate, likelihood, recordings", [(500, 50, 209), (100, 50, 40), (500, 90, 209)])
def test_all_of_ptbxl(tmp_path, test_data, call_script, rate, likelihood, recordings):
    options = ["--source", "ptbxl", "--root", test_data / "ptbxl", "--base-dir", tmp_path, "--rate", rate]
    output = call_script(SCRIPT, *options, "--likelihood", likelihood)
    labels, table = imported(tmp_path), rows_of(test_data / "ptbxl/ptbxl_database.csv")
    suffix = {500: "_hr", 100: "_lr"}[rate]
    assert len(labels) == recordings
    records = {row["name"]: row for row in rows_of(tmp_path / "split/data/record_list.csv")}
    for number, row in enumerate(table, start=1):
        name = f"{int(row['ecg_id']):05}{suffix}"
        if name in labels:
            assert labels[name] == expected_of_ptbxl(ast.literal_eval(row["scp_codes"]), likelihood), name
            record = records[name]
            assert int(record["subject_id"]) == float(row["patient_id"]) and int(record["study_id"]) == number
            assert record["age"] == row["age"].removesuffix(".0") and record["sex"] == "MF"[int(row["sex"])]
    assert "ECG-FM was pretrained on this data set" in output.out
    assert lineage_of(tmp_path)["settings"]["--likelihood"] == likelihood
    assert len(rows_of(tmp_path / "split/data/record_list.left_out.csv")) == 209 - recordings


def ptbxl_table(folder: Path, rows: list[tuple[str, str, str]]) -> Path:
    """Write ptbxl_database.csv with (patient, age, scp_codes), and a header each; return the folder."""
    for number in range(1, len(rows) + 1):
        write_header(folder / f"records500/00000/{number:05}_hr")
    with (folder / "ptbxl_database.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow(["ecg_id", "patient_id", "age", "sex", "report", "scp_codes", "filename_lr", "filename_hr"])
        for number, (patient, age, codes) in enumerate(rows, start=1):
            names = [f"records{rate}/00000/{number:05}_{end}" for rate, end in ((100, "lr"), (500, "hr"))]
            writer.writerow([number, patient, age, number % 2, "sinusrhythmus, \nnormales ekg", codes, *names])
    return folder


def test_rows_of_ptbxl_in_the_wild(tmp_path, call_script):
    root = ptbxl_table(
        tmp_path / "ptb-xl",
        [
            ("7.0", "300.0", "{'IMI': 0.0, 'SR': 0.0}"),
            ("7.0", "", "{}"),
            ("", "17.0", ""),
            ("9", "89", "{'SR': 0.0, 'XYZ': 100.0}"),
            ("10.0", "55.0", '{"CLBBB": 50, "SR": 0}'),
            ("11.0", "55.0", "{'CLBBB': 49.9, 'SR': 0.0,}"),
        ],
    )
    output = call_script(SCRIPT, "--source", "ptbxl", "--root", tmp_path, "--base-dir", tmp_path / "out")
    labels = list(imported(tmp_path / "out").values())
    healthy = expected_of_ptbxl({"SR": 0})
    assert labels[0] == healthy | {"MI": ""}
    assert labels[1] == labels[2] == dict.fromkeys(SHORT, "")
    # What the unknown code means may be any label.
    assert labels[3] == dict.fromkeys(SHORT, "") | {"SR": "1"}
    assert labels[5] == healthy and labels[4] == healthy | {"LBBB": "1"}
    records = rows_of(tmp_path / "out/split/data/record_list.csv")
    assert [row["subject_id"] for row in records] == ["7", "7", "12", "9", "10", "11"]
    assert [row["age"] for row in records] == ["90", "", "17", "89", "55", "55"]
    assert [row["sex"] for row in records] == ["F", "M", "F", "M", "F", "M"]
    assert "XYZ (1)" in output.err and "patients: 5" in output.out
    assert (root / "ptbxl_database.csv").is_file()


def test_ptbxl_table_rewritten_on_another_system(tmp_path, call_script):
    root = ptbxl_table(tmp_path / "ptb-xl", [("7.0", "50.0", "{'SR': 0.0}"), ("8.0", "51.0", "{'SR': 0.0}")])
    table = root / "ptbxl_database.csv"
    text = table.read_bytes().decode().replace("/00000/", "\\00000\\").replace("1_hr\r\n", "1_hr.dat\r\n")
    table.write_bytes(text.replace(",1,", ",female,").replace(",51.0,0,", ",51.0,Male,").encode())
    call_script(SCRIPT, "--source", "ptbxl", "--root", root, "--base-dir", tmp_path / "out")
    records = rows_of(tmp_path / "out/split/data/record_list.csv")
    assert [row["path"] for row in records] == ["records500/00000/00001_hr", "records500/00000/00002_hr"]
    assert [row["sex"] for row in records] == ["F", "M"]


def test_ptbxl_at_the_other_rate_alone(tmp_path, call_script):
    root = ptbxl_table(tmp_path / "ptb-xl", [("7.0", "50.0", "{'SR': 0.0}")])
    options = ["--source", "ptbxl", "--root", root, "--base-dir", tmp_path / "out"]
    assert "at 100 Hz; give --rate 500" in call_script(SCRIPT, *options, "--rate", 100, exit_code=1).err


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch /tmp/x')",
        "{'SR': __import__('os')}",
        "{'SR': 0.0} or {}",
        "{'SR': 1e999}",
        "{'SR': nan}",
        "{'SR': -1}",
        "{'SR'}",
        "[('SR', 0.0)]",
        "{" * 5000,
        "{'SR': 0.0, " * 5000,
        "{" + ", ".join(f"'C{n}': 0.0" for n in range(5000)) + "}",
        "{'" + "S" * 9000 + "': 0.0}",
        "{'S\\x52': 0.0}",
    ],
)
def test_hostile_scp_codes_are_one_line(tmp_path, call_script, text):
    root = ptbxl_table(tmp_path / "ptb-xl", [("7.0", "50.0", "{'SR': 0.0}"), ("8.0", "50.0", text)])
    output = call_script(SCRIPT, "--source", "ptbxl", "--root", root, "--base-dir", tmp_path / "out", exit_code=1)
    assert "line 5 has scp_codes" in output.err and len(output.err) < 500
    assert not (tmp_path / "out").exists()


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"[A-Z0-9_/()]{1,8}", fullmatch=True), st.floats(0, 100).map(lambda x: round(x, 1)), max_size=9
    )
)
def test_statements_are_what_python_reads(codes):
    assert ptbxl.statements(Path("x"), 1, repr(codes)) == codes


@settings(max_examples=200, deadline=None)
@given(st.text("{}':,. SR0123456789[]()\"\\", max_size=30))
def test_statements_are_never_anything_else(text):
    try:
        found = ptbxl.statements(Path("x"), 1, text)
    except UserError:
        return
    assert found == {str(code): float(value) for code, value in (ast.literal_eval(text.strip() or "{}")).items()}


# LUDB.


def test_all_of_ludb_as_its_headers_say(tmp_path, test_data, call_script):
    output = call_script(SCRIPT, "--source", "ludb", "--root", test_data / "ludb", "--base-dir", tmp_path)
    labels = imported(tmp_path)
    assert list(labels) == [str(number) for number in range(1, 101)]
    assert "patients: 100" in output.out and "100 recordings are left out, 101 first" in output.err
    says = {phrase.lower().replace("-", " "): short for phrase, short in LUDB_SAYS.items()}
    for name, row in labels.items():
        comments = (test_data / f"ludb/data/{name}.hea").read_text().splitlines()[13:]
        positive, stated = set(), []
        for phrase in (line.strip("# .").removeprefix("Rhythm: ").lower().replace("-", " ") for line in comments):
            stated.append(phrase)
            head = phrase.split(":")[0].split(",")[0]
            for key, short in says.items():
                if key == phrase or (
                    head in ("stemi", "scar formation", "ventricular extrasystole") and key.startswith(head)
                ):
                    positive |= set(short.split())
        blocked = any(phrase.startswith(("left anterior hemiblock", "left posterior hemiblock")) for phrase in stated)
        positive |= {"Bifasc"} if "RBBB" in positive and blocked else set()
        positive |= {"SVTab"} if "Tachy" in positive and positive & {"RBBB", "LBBB"} else set()
        expected = {word: "1" if word in positive else "0" for word in SHORT} | {"PoorQ": ""}
        if "MI" not in positive and any(phrase.startswith("undefined ischemia") for phrase in stated):
            expected["MI"] = ""
        assert row == expected, name


def test_ludb_csv_with_other_line_ends(tmp_path, call_script):
    head = (
        "ID,Sex,Age,Rhythms,Electric axis of the heart,Conduction abnormalities,Extrasystolies,Cardiac pacing,Ischemia"
    )
    rows = [
        '1,"F\r\n",">89\r\n",Atrial Flutter,,"Complete right bundle branch block\r\nLeft anterior hemiblock",,,',
        '2,M ,"51\r\n",Sinus rhythm.,,,,,"STEMI: apical\r\nUndefined ischemia/scar/supp.NSTEMI: apical"',
        "3,,,,,,,,",
        "4,M,40,Ventricular standstill,,,,,",
    ]
    for number in range(1, 5):
        write_header(tmp_path / f"1.0.1/data/{number}")
    (tmp_path / "1.0.1/ludb.csv").write_bytes(("\r\n".join([head, *rows]) + "\r\n").encode("utf-8-sig"))
    output = call_script(SCRIPT, "--source", "ludb", "--root", tmp_path, "--base-dir", tmp_path / "out")
    labels = imported(tmp_path / "out")
    assert {word for word, value in labels["1"].items() if value == "1"} == {
        "AFL",
        "Tachy",
        "Acc",
        "RBBB",
        "Bifasc",
        "SVTab",
    }
    assert labels["2"]["MI"] == "1" and labels["2"]["SR"] == "1"
    assert labels["3"] == dict.fromkeys(SHORT, "")
    assert labels["2"]["AF"] == "0" and labels["4"] == dict.fromkeys(SHORT, "")
    people = rows_of(tmp_path / "out/split/data/subjects.csv")
    assert [(row["age"], row["sex"]) for row in people] == [("90", "F"), ("51", "M"), ("", ""), ("40", "M")]
    assert "Ventricular standstill (1)" in output.err


# PhysioNet 2021.


def challenge_tree(root: Path, test_data: Path) -> dict[str, str]:
    """Lay the recordings of wfdb50 out as the Challenge has them; return name to codes."""
    codes = {}
    for row in rows_of(test_data / "wfdb50/provenance.csv"):
        if int(row["study_id"]) % 2:  # in their original form
            name = row["challenge_2021_record"]
            (header,) = (test_data / "wfdb50/raw/files").rglob(f"{row['study_id']}.hea")
            folder = root / "training" / name[:4]
            folder.mkdir(parents=True, exist_ok=True)
            comments = [
                "#Age: 61",
                "#Sex: Female",
                f"#Dx: {row['snomed_dx']}",
                "#Rx: Unknown",
                "#Hx: Unknown",
                "#Sx: Unknown",
            ]
            lines = [*header.read_text().replace(row["study_id"], name).splitlines(), *comments]
            (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")
            (folder / f"{name}.mat").symlink_to(header.with_suffix(".mat"))
            codes[name] = row["snomed_dx"]
    return codes


def test_challenge_recordings(tmp_path, test_data, call_script):
    codes = challenge_tree(tmp_path / "data", test_data)
    output = call_script(
        SCRIPT, "--source", "physionet2021", "--root", tmp_path / "data", "--base-dir", tmp_path / "out"
    )
    labels = imported(tmp_path / "out")
    assert labels.keys() == codes.keys() and len(codes) == 25
    assert "databases, by the recordings' names: Georgia 10, Ningbo 10, PTB_XL 5" in output.out
    for name, row in labels.items():
        stated = set(" ".join(SNOMED_SAYS.get(code, "") for code in codes[name].split(",")).split())
        assert {word for word, value in row.items() if value == "1"} == stated
        assert (row["VT"] == "") == (not name.startswith("JS")) and (row["AF"] == "") == name.startswith("JS")
    records = rows_of(tmp_path / "out/split/data/record_list.csv")
    assert {(row["age"], row["sex"]) for row in records} == {("61", "F")}


def test_headers_in_the_wild(tmp_path, call_script):
    comments = {
        "A0001": ["#Age: 74", "#Sex: Male", "#Dx: 59118001"],
        "Q0001": ["#Age: NaN", "#Sex: Unknown", "#Dx: 59118001, 426783006 ,99999999"],
        "S0001": ["# Age: -1", "# Sex: F", "# Dx: 164865005"],
        "x/y": ["#Age: 101", "#Dx: 426783006;164889003"],
        "JS00001": ["#Age: 30", "#Dx: Unknown"],
        "JS00002": [],
        "E00001": ["#Dx: 426783006", "#Dx: 164889003,", "# 59118001"],
    }
    for name, lines in comments.items():
        write_header(tmp_path / "data" / name, *lines, ends="\r\n")
    (tmp_path / "data/Z.hea").write_bytes(b"#" * 200_000)
    options = ["--source", "physionet2021", "--root", tmp_path / "data", "--base-dir", tmp_path / "out"]
    output = call_script(SCRIPT, *options)
    labels = imported(tmp_path / "out")
    stated, open_ = ("SR", "AF", "Tachy", "Acc", "RBBB"), ("PoorQ", "VT", "SVTab")
    assert labels["E00001"] == dict.fromkeys(SHORT, "0") | dict.fromkeys(stated, "1") | dict.fromkeys(open_, "")
    assert labels["A0001"]["RBBB"] == "1" and labels["A0001"]["SR"] == "" and labels["A0001"]["MI"] == ""
    assert labels["Q0001"]["SR"] == "1" and labels["Q0001"]["AF"] == "" and labels["S0001"]["MI"] == "1"
    assert labels["JS00001"] == labels["JS00002"] == dict.fromkeys(SHORT, "")
    assert labels["y"]["AF"] == labels["y"]["SR"] == "1" and labels["y"]["MI"] == labels["y"]["RBBB"] == ""
    records = {row["name"]: row for row in rows_of(tmp_path / "out/split/data/record_list.csv")}
    assert list(labels) == ["A0001", "E00001", "JS00001", "JS00002", "Q0001", "S0001", "y"]
    assert [records[name]["age"] for name in labels] == ["74", "", "30", "", "", "", "101"]
    assert [records[name]["sex"] for name in ("A0001", "Q0001", "S0001")] == ["M", "", "F"]
    assert "2 recordings have no codes in their headers" in output.out and "99999999 (1)" in output.err
    assert "Z first (its header cannot be read" in output.err and "--database NAME says which it is" in output.out
    call_script(SCRIPT, *options, "--database", "Georgia")
    assert imported(tmp_path / "out")["y"]["MI"] == "0"


def test_a_recording_that_is_there_twice_counts_once(tmp_path, call_script):
    sinus, fibrillation = "#Dx: 426783006", "#Dx: 164889003"
    headers = {"a/E00001": sinus, "b/E00001": fibrillation, "a/y": sinus, "b/y": sinus, "c/y": fibrillation}
    for name, line in headers.items():
        write_header(tmp_path / "data" / name, line)
    call_script(SCRIPT, "--source", "physionet2021", "--root", tmp_path / "data", "--base-dir", tmp_path / "out")
    paths = [row["path"] for row in rows_of(tmp_path / "out/split/data/record_list.csv")]
    assert paths == ["a/E00001", "a/y", "c/y"]  # what is called y may be anything, but not if the header is the same
    left_out = rows_of(tmp_path / "out/split/data/record_list.left_out.csv")
    assert [tuple(row.values())[:2] for row in left_out] == [
        ("b/E00001", "the recording a/E00001 again"),
        ("b/y", "the recording a/y again"),
    ]


def test_folder_without_codes_is_refused(tmp_path, call_script):
    write_header(tmp_path / "data/A0001")
    options = ["--source", "physionet2021", "--root", tmp_path / "data", "--base-dir", tmp_path / "out"]
    assert "none of the 1 headers below it has codes" in call_script(SCRIPT, *options, exit_code=1).err
    assert not (tmp_path / "out").exists()


# All sources.


def test_another_data_set_is_not_overwritten(tmp_path, call_script):
    write_header(tmp_path / "a/A00001")
    (tmp_path / "a/REFERENCE.csv").write_text("A00001,N\n")
    write_header(tmp_path / "b/A0001", "#Dx: 426783006")
    first = ["--source", "cinc2017", "--root", tmp_path / "a", "--base-dir", tmp_path / "out"]
    second = ["--source", "physionet2021", "--root", tmp_path / "b", "--base-dir", tmp_path / "out"]
    call_script(SCRIPT, *first)
    call_script(SCRIPT, *first)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert "choose another --base-dir, or give --overwrite" in call_script(SCRIPT, *second, exit_code=1).err
    assert before == {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    call_script(SCRIPT, *second, "--overwrite")
    assert list(imported(tmp_path / "out")) == ["A0001"]


@pytest.mark.parametrize(
    "options, message",
    [
        (["--source", "cinc2017"], "or REFERENCE.csv or REFERENCE-v0.csv below it"),
        (["--source", "ptbxl"], "no ptbxl_database.csv below it"),
        (["--source", "ludb"], "no ludb.csv below it"),
        (["--source", "table"], "0 CSV files in it, not one"),
        (["--source", "cinc2017", "--likelihood", "80"], "--likelihood is for --source ptbxl"),
        (["--source", "ptbxl", "--database", "PTB"], "--database is for --source physionet2021"),
        (["--source", "physionet2021", "--table", "x.csv"], "codes in the headers"),
        (["--source", "table", "--table", "nowhere.csv"], "nowhere.csv: no such file"),
    ],
)
def test_wrong_options(tmp_path, call_script, options, message):
    write_header(tmp_path / "data/A00001")
    output = call_script(SCRIPT, *options, "--root", tmp_path / "data", "--base-dir", tmp_path / "out", exit_code=1)
    assert message in output.err and not (tmp_path / "out").exists()


def test_no_folder_and_no_recording(tmp_path, call_script):
    options = ["--source", "cinc2017", "--base-dir", tmp_path / "out"]
    assert "nowhere: no such folder" in call_script(SCRIPT, *options, "--root", tmp_path / "nowhere", exit_code=1).err
    (tmp_path / "REFERENCE.csv").write_text("A00001,N\n")
    assert "no recording of the data set is there" in call_script(SCRIPT, *options, "--root", tmp_path, exit_code=1).err
    assert not (tmp_path / "out").exists()


def test_out_and_labels_by_maximum(tmp_path, call_script):
    write_header(tmp_path / "A00001")
    (tmp_path / "REFERENCE.csv").write_text("A00001,N\n")
    options = ["--source", "cinc2017", "--root", tmp_path, "--base-dir", tmp_path / "no", "--out", tmp_path / "out"]
    call_script(SCRIPT, *options)
    definition = tmp_path / "out/labels/computed_labels/label_def_recomputed.csv"
    combine = dict(zip(LABELS, read_label_set(definition).combine))
    assert combine["Poor data quality"] == "max" and combine["Sinus rhythm"] == "mean"
    call_script(SCRIPT, *options, "--combine-by-max", "Sinus rhythm")
    combine = dict(zip(LABELS, read_label_set(definition).combine))
    assert combine["Poor data quality"] == "mean" and combine["Sinus rhythm"] == "max"
    assert not (tmp_path / "no").exists()
    assert "no such label" in call_script(SCRIPT, *options, "--combine-by-max", "x", exit_code=1).err


def test_files_are_found_once_whatever_leads_in_circles(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/one.hea").write_text("")
    (tmp_path / "a/b/back").symlink_to(tmp_path)
    (tmp_path / "gone.hea").symlink_to(tmp_path / "nowhere")
    (tmp_path / "linked.hea").symlink_to(tmp_path / "a/b/one.hea")
    files = Files(tmp_path)
    assert files.paths == ["a/b/one.hea", "linked.hea"] and files.records == ["a/b/one", "linked"]
    finder = Finder(["a/x", "b/x", "y"])
    assert finder.find("b/x", "x") == "b/x" and finder.find("x") == "a/x" and finder.find("y") == "y"
    assert finder.find("z") is None and finder.several == 1 and finder.not_asked_for() == []
    assert finder.find("../y") is None and finder.find("c/x") is None


def test_recordings_that_come_later_do_not_take_over_the_numbers_of_others(tmp_path, call_script):
    write_header(tmp_path / "data/E00002", "#Dx: 426783006")
    options = ["--source", "physionet2021", "--root", tmp_path / "data", "--base-dir", tmp_path / "out"]
    call_script(SCRIPT, *options)
    write_header(tmp_path / "data/E00003", "#Dx: 164889003")
    call_script(SCRIPT, *options)  # behind all others: every number stays
    write_header(tmp_path / "data/E00001", "#Dx: 164889003")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    message = call_script(SCRIPT, *options, exit_code=1).err
    assert "study 1 is E00002 of patient 1 there, and E00001 of patient 1 now" in message and "--overwrite" in message
    assert before == {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    call_script(SCRIPT, *options, "--overwrite")
    assert list(imported(tmp_path / "out")) == ["E00001", "E00002", "E00003"]

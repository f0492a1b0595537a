"""create_labels_ecgfm.py as a user runs it: its files, tables as they are in the wild, and bad input."""

import csv
import json
import shutil
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from ecg_fm_labeler import Labeler
from ecg_fm_labeler.configuration import PROJECT_CONFIG
from ecg_fm_labeler.label_files import prevalence_table
from ecg_fm_labeler.labeler import POLICIES
from ecg_fm_labeler.labelling import label_reports
from ecg_fm_labeler.reports import read_reports

from ecg_finetune.files import UserError
from ecg_finetune.label_set import LABELS
from ecg_finetune.paths import ARTEFACTS

REPOSITORY = Path(__file__).resolve().parent.parent
SCRIPT = "labels/scripts/create_labels_ecgfm.py"

WILD = """\ufeffextra,study_id,report_0,report_1,report_10,report_2,report_9,bandwidth
a,40000001,Sinus rhythm,,"Compared to the previous ECG, LBBB",,Left bundle branch block,x
b,40000002,,,,,,x
c,40000003,,Sinus tachycardia with PVC(s),,"  Possible inferior infarct - age undetermined ",,x
d,40000004,"Ünlesbar „Text“ ♥ ×",,,,,x
c,40000003,,Sinus tachycardia with PVC(s),,"  Possible inferior infarct - age undetermined ",,x
e,40000005,Normal ECG,,,,,x
"""


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


@pytest.fixture
def base(tmp_path):
    """A base folder with the wild table and a split of some of its studies."""
    table = tmp_path / ARTEFACTS["machine_measurements"].location
    table.parent.mkdir(parents=True)
    table.write_text(WILD, encoding="utf-8")
    return tmp_path


def write_splits(base):
    meta = base / ARTEFACTS["meta_split"].location
    meta.parent.mkdir(parents=True)
    rows = [(40000001, "train"), (40000003, "test"), (40000004, "train"), (49999999, "valid")]
    meta.write_text("save_file,split\n" + "".join(f"mimic_iv_ecg_{study}.mat,{split}\n" for study, split in rows))


def test_files_of_a_table_from_the_wild(base, run_script):
    write_splits(base)
    process = run_script(SCRIPT, "--base-dir", base, "--workers", 1)
    out = base / "labels/computed_labels"
    y, soft = np.load(out / "y.npy"), np.load(out / "y_soft.npy")
    assert y.dtype == soft.dtype == np.float32 and y.shape == soft.shape == (6, 17)
    named = [{name for name, value in zip(LABELS, row) if value} for row in y]
    assert named == [
        {"Sinus rhythm", "Left bundle branch block"},  # report_10 comes last, and ends at "Compared to ..."
        set(),
        {"Sinus rhythm", "Tachycardia", "Premature ventricular contraction", "Infarction"},
        set(),
        {"Sinus rhythm", "Tachycardia", "Premature ventricular contraction", "Infarction"},
        set(),
    ]
    assert soft[2, LABELS.index("Infarction")] == np.float32(0.65)
    labels = read_csv(out / "labels.csv")
    assert labels[0] == ["idx", *LABELS]
    assert [row[0] for row in labels[1:]] == list("012345")
    assert np.array_equal(np.array(labels[1:], dtype=float)[:, 1:], y)
    assert read_csv(out / "study_id_mapping.csv") == [
        ["idx", "study_id", "split"],
        ["0", "40000001", "train"],
        ["1", "40000002", ""],
        ["2", "40000003", "test"],
        ["3", "40000004", "train"],
        ["4", "40000003", "test"],
        ["5", "40000005", ""],
    ]
    recomputed = {row[0]: row[1:] for row in read_csv(out / "label_def_recomputed.csv")}
    assert recomputed["name"] == ["count", "pos_percent", "pos_weight"]
    assert [float(value) for value in recomputed["Sinus rhythm"]] == pytest.approx([3, 0.5, 1])
    assert [float(value) for value in recomputed["Atrial flutter"]] == [0, 0, 0]
    weights = (out / "pos_weight.txt").read_text()
    assert weights.endswith("\n") and weights.split(" ")[1] == "1.00000000" and len(weights.split(" ")) == 17
    assert (out / "label_def_official_17.csv").read_bytes() == (PROJECT_CONFIG / "label_def.csv").read_bytes()
    assert read_csv(out / "unmatched.csv") == [["words", "count"], ["ünlesbar text", "1"]]
    assert {path.name for path in out.iterdir()} == {
        *("labels.csv", "labels.json", "y.npy", "y_soft.npy", "label_def_recomputed.csv", "label_def_official_17.csv"),
        *("pos_weight.txt", "study_id_mapping.csv", "policy_differences.csv", "unmatched.csv"),
    }
    assert "2 of 6 rows have no split" in process.stdout
    assert "1 rows repeat an earlier one" in process.stdout
    assert "differs by more than a tenth" in process.stdout


def table_of(path, reports):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["study_id", "report_0"], *enumerate(reports)])
    return path


def test_reports_in_another_language_are_not_labelled_in_silence(tmp_path, run_script):
    german = ["Sinusrhythmus, normales EKG"] * 2 + ["Vorhofflimmern, unspezifische Veränderung"]
    table = table_of(tmp_path / "table.csv", german + ["Sinus rhythm"] * 16 + [""] * 40)
    options = ["--base-dir", tmp_path, "--machine-measurements", table, "--workers", 1]
    process = run_script(SCRIPT, *options)
    assert "warning: 5% of the reports have text of which no pattern took a word" in process.stderr
    assert "most frequent words: sinusrhythmus, normales, ecg, vorhofflimmern" in process.stderr
    assert "3 with no word that the labeler knows" in process.stdout.splitlines()[-1]
    table_of(table, german + ["Sinus rhythm"] * 57)
    process = run_script(SCRIPT, *options)
    assert process.stderr == "" and "3 with no word" in process.stdout.splitlines()[-1]


def test_genuine_statements_are_read_and_german_reports_are_not(tmp_path, run_script, test_data):
    lines = (test_data / "mimic_reports/statements.tsv").read_text(encoding="utf-8").splitlines()[1:]
    table = table_of(tmp_path / "table.csv", [line.split("\t")[0] for line in lines])
    options = ["--base-dir", tmp_path, "--machine-measurements", table, "--workers", 1]
    assert run_script(SCRIPT, *options).stderr == ""
    with (test_data / "ptbxl/ptbxl_database.csv").open(encoding="utf-8", newline="") as file:
        table_of(table, [row["report"] for row in csv.DictReader(file)])
    stderr = run_script(SCRIPT, *options).stderr
    assert "warning: 47% of the reports" in stderr and " sinusrhythmus," in stderr


def test_one_split(base, run_script):
    write_splits(base)
    process = run_script(SCRIPT, "--base-dir", base, "--split", "test", "--workers", 2)
    rows = read_csv(base / "labels/computed_labels/study_id_mapping.csv")[1:]
    assert rows == [["0", "40000003", "test"], ["1", "40000003", "test"]]
    assert np.load(base / "labels/computed_labels/y.npy").shape == (2, 17)
    assert "2 of 6 rows have no split" in process.stdout


def test_without_splits_max_rows_and_own_configuration(base, run_script):
    own = base / "labels/ecg_fm_labeler_config"
    shutil.copytree(PROJECT_CONFIG, own)
    (own / "label_def.csv").unlink()
    for name in ("text_normalization.json", "text_templates.json", "asserted_desc_pat.json"):
        (own / name).unlink()  # as in ECG-FM's folder
    pattern = json.loads((own / "entity_pat.json").read_text())
    pattern.append({"pattern": "ünlesbar", "entities": [{"tem": "Atrial flutter"}]})
    (own / "entity_pat.json").write_text(json.dumps(pattern))
    process = run_script(SCRIPT, "--base-dir", base, "--out-dir", base / "out", "--max-rows", 4, "--workers", 1)
    assert f"labeler configuration: {own}" in process.stdout
    y = np.load(base / "out/y.npy")
    assert y.shape == (4, 17) and y[3, LABELS.index("Atrial flutter")] == 1
    assert [row[2] for row in read_csv(base / "out/study_id_mapping.csv")[1:]] == [""] * 4
    assert (base / "out/label_def_official_17.csv").is_file()


def test_policy_asserted(base, run_script):
    (base / ARTEFACTS["machine_measurements"].location).write_text(
        "study_id,report_0,report_1\n1,Sinus rhythm,No acute infarct\n"
    )
    for policy, infarction in (("ecg-fm", 1), ("asserted", 0)):
        run_script(SCRIPT, "--base-dir", base, "--policy", policy, "--workers", 1)
        y = np.load(base / "labels/computed_labels/y.npy")
        assert y[0, LABELS.index("Infarction")] == infarction and y[0, LABELS.index("Sinus rhythm")] == 1


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ("", [], "the file is empty"),
        ("study_id,report_0\n", [], "no rows below the header"),
        ("study_id,x\n1,y\n", [], "column 'report_0' is missing"),
        ("report_0\nSinus rhythm\n", [], "column 'study_id' is missing"),
        ("study_id,report_0\n1,a\nx7,b\n", [], "line 3 has study_id 'x7'"),
        ("study_id,report_0\n1,a\n2,b\n1,c\n", [], "duplicate study_id 1: line 4 has another report than line 2"),
        ("study_id,report_0\n1,a\n", ["--split", "train"], "meta_split.csv: no such file"),
        ("study_id,report_0\n1,a\n", ["--labeler-config", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_bad_input(base, run_script, content, arguments, message):
    (base / ARTEFACTS["machine_measurements"].location).write_text(content)
    process = run_script(SCRIPT, "--base-dir", base, "--workers", 1, *arguments, exit_code=1)
    assert message in process.stderr
    assert not (base / "labels/computed_labels").exists()


def test_a_refused_run_makes_no_folder_and_takes_no_other_stages(tmp_path, base, run_script):
    run_script(SCRIPT, "--base-dir", tmp_path / "new", "--machine-measurements", tmp_path / "no.csv", exit_code=1)
    assert not (tmp_path / "new").exists()
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    (manifests / "train.tsv").touch()
    process = run_script(SCRIPT, "--base-dir", base, "--out-dir", manifests, exit_code=1)
    assert f"error: {manifests}: holds train.tsv of the build stage" in process.stderr
    assert [path.name for path in manifests.iterdir()] == ["train.tsv"]


def test_missing_table_and_split_without_rows(base, run_script):
    write_splits(base)
    process = run_script(SCRIPT, "--base-dir", base, "--split", "valid", "--workers", 1, exit_code=1)
    assert "none of the 6 reports is in split valid" in process.stderr
    run_script(SCRIPT, "--base-dir", base, "--split", "validation", exit_code=2)
    (base / ARTEFACTS["machine_measurements"].location).unlink()
    process = run_script(SCRIPT, "--base-dir", base, exit_code=1)
    assert "machine_measurements.csv: no such file" in process.stderr


def test_workers_make_no_difference(tmp_path):
    rng = np.random.default_rng(0)
    statements = ["Sinus rhythm", "Atrial fibrillation", "Tachycardia with", "LBBB", "possible", "infarct", "zzz", ""]
    rows = [f"{study}," + ",".join(rng.choice(statements, 6)) for study in range(3000)]
    table = tmp_path / "table.csv"
    table.write_text("study_id," + ",".join(f"report_{n}" for n in range(6)) + "\n" + "\n".join(rows) + "\n")
    reports = read_reports(table)
    one, words_of_one, *unread_of_one = label_reports(reports, PROJECT_CONFIG, "ecg-fm", workers=1)
    two, words_of_two, *unread_of_two = label_reports(reports, PROJECT_CONFIG, "ecg-fm", workers=2)
    for policy in POLICIES:
        assert np.array_equal(one[policy], two[policy])
    assert (words_of_one, unread_of_one) == (words_of_two, unread_of_two)
    assert words_of_one["zzz"] > 0
    labeler = Labeler.from_config()
    texts = [[reports.statements[n] for n in reports.distinct[which]] for which in reports.which]
    assert np.array_equal(labeler.label(texts).soft, one["ecg-fm"])
    assert np.array_equal(Labeler.from_config(policy="asserted").label(texts).soft, one["asserted"])
    assert Counter(words for text in texts for words in labeler.unmatched(text)) == words_of_one


@pytest.mark.parametrize("policy", POLICIES)
def test_time_is_linear_in_the_length_of_a_statement(base, policy):
    """Statements of 100,000 characters take about 0.1 s each; in quadratic time one takes more than a minute."""
    resource = pytest.importorskip("resource")  # not on Windows
    pieces = ["no ", "no infarct ", "missing lead(s): V1, ", "lead(s)  ", " .", "a / ", "- wave ", "? age "]
    texts = [piece * (100_000 // len(piece)) for piece in [*"'().<>?+-/&!,*_ \t\xa0a1", *pieces]]
    with (base / ARTEFACTS["machine_measurements"].location).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["study_id", "report_0", "report_1", "report_2"])
        writer.writerows([study, "Sinus rhythm", f"x {text} x", "Atrial flutter"] for study, text in enumerate(texts))
    command = [sys.executable, REPOSITORY / SCRIPT, "--base-dir", base, "--policy", policy, "--workers", "1"]
    limit = partial(resource.setrlimit, resource.RLIMIT_CPU, (60, 60))  # seconds, however busy the machine is
    process = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, check=False)
    assert process.returncode == 0, (process.returncode, process.stderr)
    y = np.load(base / "labels/computed_labels/y.npy")
    assert len(y) == len(texts)
    assert y[:, [LABELS.index("Sinus rhythm"), LABELS.index("Atrial flutter")]].all()


def test_read_reports_keeps_order_and_distinct_texts(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("report_1,report_0,study_id\nb,a,7\n, a ,8\nb,a,9\n")
    reports = read_reports(table)
    assert reports.study_id.tolist() == [7, 8, 9] and reports.which.tolist() == [0, 1, 0]
    assert [[reports.statements[n] for n in report] for report in reports.distinct] == [["a", "b"], ["a"]]
    assert read_reports(table, max_rows=2).study_id.tolist() == [7, 8]
    table.write_text("study_id,report_0\n1,a\n99999999999999999999,b\n")
    with pytest.raises(UserError, match="line 3 has study_id '99999999999999999999'"):
        read_reports(table)


def test_prevalence_table_marks_what_differs():
    soft = np.zeros((1000, 17))
    soft[:809, LABELS.index("Sinus rhythm")] = 1  # published: 80.95 %
    soft[:300, LABELS.index("Infarction")] = 0.5  # published: 22.46 %
    lines = {line.split("  ")[0]: line for line in prevalence_table(soft).splitlines()}
    assert "differs" not in lines["Sinus rhythm"] and "80.90%" in lines["Sinus rhythm"]
    assert "differs" in lines["Infarction"] and "22.46%" in lines["Infarction"]


def test_either_policy_can_be_made_from_the_other(tmp_path, run_script, test_data):
    reports = [json.loads(line)["statements"] for line in (test_data / "mimic_reports/reports.jsonl").open()][:400]
    widest = max(map(len, reports))
    table = tmp_path / "machine_measurements.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["study_id", *(f"report_{number}" for number in range(widest))])
        writer.writerows(
            [40000000 + row, *report, *[""] * (widest - len(report))] for row, report in enumerate(reports)
        )
    for policy, other in (("ecg-fm", "asserted"), ("asserted", "ecg-fm")):
        out = tmp_path / policy
        run_script(
            SCRIPT, "--base-dir", tmp_path, "--machine-measurements", table, "--policy", policy, "--out-dir", out
        )
        soft = np.load(out / "y_soft.npy")
        rows = read_csv(out / "policy_differences.csv")
        assert rows[0] == ["idx", "label", "ecg-fm", "asserted"] and len(rows) > 10
        made = soft.copy()
        for idx, label, *values in rows[1:]:
            place, both = (int(idx), LABELS.index(label)), dict(zip(rows[0][2:], map(np.float32, values)))
            assert soft[place] == both[policy] != both[other]
            made[place] = both[other]
        np.testing.assert_array_equal(made, Labeler.from_config(PROJECT_CONFIG, other).label(reports).soft)

"""The predict stage: recordings of every kind to tables and a page, against the model asked by hand."""

import csv
import os
import re
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import wfdb
from ecg_evaluation.operating_points import read_operating_points
from ecg_prediction.answering import loaded
from ecg_prediction.inversion import is_inverted, measure_beat
from ecg_prediction.sources import Given
from evaluation_world import ecg_like
from exported_model import make_model_folder, metrics_file
from hypothesis import given, settings
from hypothesis import strategies as st

from ecg_finetune import load_model
from ecg_finetune.files import UserError, read_json, sha256
from ecg_finetune.label_set import LABELS
from ecg_finetune.paths import LOCK, beside, locate
from ecg_finetune.run_folder import locked
from ecg_finetune.waveform import RecordError
from ecg_finetune.windows import cut_windows, window_starts

SCRIPT = "predict/scripts/predict_ecg.py"
COLUMNS = ["recording", "lead", "rate", "seconds", "windows", "excluded_windows", "status", "detail", "found"]
NAME = "Test Person"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    base = tmp_path_factory.mktemp("predict")
    make_model_folder(base)
    return base


@pytest.fixture(scope="module")
def folder(base):
    return locate(base, "model_folder", model="small")


def lead_of(seconds: float, rate: float = 300, seed: int = 0) -> np.ndarray:
    """Return a lead in millivolts with a beat a second or so."""
    rng = np.random.default_rng(seed)
    whole = np.concatenate([ecg_like(rng.integers(60, 100), rng) for _ in range(int(seconds // 10) + 1)])
    t = np.arange(int(seconds * rate)) / rate
    return 0.3 * np.interp(t, np.arange(len(whole)) / 500, whole)


def write_record(path, lead: np.ndarray, rate: float = 300, name: str = "ECG") -> None:
    """Write a WFDB record of one lead, through wfdb."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wfdb.wrsamp(
        path.name,
        fs=rate,
        units=["mV"],
        sig_name=[name],
        p_signal=lead[:, None],
        fmt=["16"],
        adc_gain=[1000],
        baseline=[0],
        write_dir=str(path.parent),
    )


def write_apple(path, lead: np.ndarray, rate: float = 512) -> None:
    """Write a lead as an Apple Watch does."""
    head = f'Name,{NAME}\nDate of Birth,"Jan 15, 1990"\nRecorded Date,2026-03-14 09:15:00 -0400\n'
    head += (
        f'Classification,Sinus Rhythm\nSymptoms,\nSoftware Version,1.90\nDevice,"Watch6,7"\nSample Rate,{rate} hertz\n'
    )
    samples = "\n".join(f"{value:.3f}" for value in lead * 1000)
    path.write_text(f"{head}\n\nLead,Lead I\nUnit,µV\n\n\n{samples}\n", encoding="utf-8")


def read(folder, name="predictions.csv") -> pd.DataFrame:
    return pd.read_csv(folder / name, keep_default_na=False, na_values={label: [""] for label in LABELS})


# Windows


@pytest.mark.parametrize(
    ("seconds", "starts"),
    [
        (10, [0]),
        (27, [0, 10, 17]),
        (30, [0, 10, 20]),
        (30.04, [0, 10, 20.04]),
        (10.5, [0, 0.5]),
        (61, [*range(0, 60, 10), 51]),
    ],
)
@pytest.mark.parametrize("rate", [500, 300, 1000])
def test_windows_stand_one_after_the_other_and_end_with_the_recording(seconds, starts, rate):
    found = [window.start_s for window in cut_windows(lead_of(seconds, rate), rate)]
    np.testing.assert_allclose(found, starts, atol=0.01)


@settings(max_examples=60, deadline=None)
@given(st.integers(2500, 60_000), st.floats(50, 1100))
def test_windows_cover_every_recording(samples, rate):
    starts, length = window_starts(samples, rate), int(np.ceil(10 * rate))
    assert starts[0] == 0 and (np.diff(starts) > 0).all()
    assert starts[-1] + length >= samples - 0.11 * rate and (len(starts) == 1 or starts[-1] + length == samples)
    assert (np.diff(starts) <= length + 0.11 * rate).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 12_000), st.sampled_from([100, 250, 300, 500, 511.422, 512]), st.integers(0, 3))
def test_every_window_is_what_the_network_reads_or_says_why_not(samples, rate, kind):
    values = np.random.default_rng(samples).normal(0, 0.3, samples)
    if kind == 1:
        values[samples // 3 : samples // 2] = np.nan
    elif kind == 2:
        values[:] = 0.5
    elif kind == 3:
        values *= 1e3
    try:
        windows = list(cut_windows(values, rate))
    except RecordError as error:
        assert error.status == "too_short" and samples * 500 / rate < 2500
        return
    for window in windows:
        if window.status == "ok":
            assert window.segments.shape[1] == 2500 and window.segments.dtype == np.float32
            assert np.isfinite(window.segments).all()
            assert abs(window.lead.mean()) < 1e-3 and abs(window.lead.std() - 1) < 1e-3
            assert len(window.lead) == round(window.seconds * 500)
        else:
            assert window.segments is None and window.detail


def test_a_short_recording_is_standardised_over_what_there_is_and_read_from_both_ends():
    (window,) = cut_windows(lead_of(7, 500), 500)
    lead = lead_of(7, 500)
    expected = (lead - lead.mean()) / lead.std()
    np.testing.assert_allclose(window.segments, [expected[:2500], expected[-2500:]], atol=1e-5)
    assert window.detail == "7 s instead of 10 s"
    (window,) = cut_windows(lead[:2500], 500)
    assert window.segments.shape == (1, 2500)


# One recording


@pytest.fixture(scope="module")
def watch(folder, run_script, tmp_path_factory):
    """The output of one Apple Watch recording of 30 s, and what was printed."""
    place = tmp_path_factory.mktemp("watch")
    write_apple(place / "ecg_2026-03-14.csv", lead_of(30, 512))
    process = run_script(SCRIPT, place / "ecg_2026-03-14.csv", "--model", folder, "--out", place / "out")
    return place / "out", process.stdout


def test_a_watch_recording_is_answered_as_in_a_notebook(watch, folder):
    out, printed = watch
    table = read(out)
    assert list(table.columns) == [*COLUMNS, *LABELS]
    row = table.iloc[0]
    prediction = load_model(folder).predict(np.round(lead_of(30, 512) * 1000, 3) / 1000, rate=512)
    np.testing.assert_allclose(row[list(LABELS)].astype(float), prediction.table["probability"], rtol=2e-5)
    assert row["found"] == "; ".join(prediction.found)
    assert (row["lead"], row["rate"], row["seconds"], row["windows"], row["excluded_windows"]) == ("I", 512, 30, 3, 0)
    windows = read(out, "windows.csv")
    assert list(windows.columns) == ["recording", "start_s", "status", "detail", *LABELS]
    np.testing.assert_allclose(windows[list(LABELS)], prediction.windows[list(LABELS)], rtol=2e-5)
    for label in LABELS:
        assert any(line.startswith(label) for line in printed.splitlines()), label


def test_nothing_says_whose_recording_it_is(watch):
    out, printed = watch
    for text in (printed, *(path.read_text(encoding="utf-8") for path in out.iterdir())):
        assert NAME not in text and "Jan 15" not in text


def test_the_page_has_strips_sentences_and_limits(watch):
    page = (watch[0] / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 3 and "0 to 10 s" in page and "20 to 30 s" in page
    assert "Not a medical device" in page and "What lead I alone does not show" in page
    assert page.count("in 100 recordings with this answer have it") > 8 and "&lt;" not in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "") and "<script src" not in page


def test_the_lineage_names_the_model(watch):
    told = read_json(watch[0] / "predictions.json", dict)
    assert told["predictions_sha256"] == sha256(watch[0] / "predictions.csv")
    assert told["earlier"][0]["stage"] == "export" and told["settings"]["model"] == "small"


def test_the_terminal_shows_which_labels_are_not_calibrated(watch, folder):
    _, printed = watch
    labels = read_json(folder / "config.json", dict)["labels"]
    plain = {x["name"] for x in labels if (x["calibration_slope"], x["calibration_intercept"]) == (1, 0)}
    marked = {name for name in LABELS for line in printed.splitlines() if re.match(rf"{name} +[0-9.]+\*", line)}
    assert marked == plain and ("\n* not calibrated" in printed) == bool(plain)
    assert 0 < len(plain) < len(LABELS)


def test_both_runtimes_agree(folder, call_script, tmp_path):
    write_record(tmp_path / "r", lead_of(30))
    tables = []
    for runtime in ("onnx", "torch"):
        call_script(SCRIPT, tmp_path / "r", "--model", folder, "--out", tmp_path / runtime, "--runtime", runtime)
        tables.append(read(tmp_path / runtime)[list(LABELS)])
    np.testing.assert_allclose(*tables, rtol=1e-4)


def test_invert_turns_the_lead_round(folder, call_script, tmp_path):
    write_record(tmp_path / "up", lead_of(20))
    write_record(tmp_path / "down", -lead_of(20))
    call_script(SCRIPT, tmp_path / "up", "--model", folder, "--out", tmp_path / "a")
    call_script(SCRIPT, tmp_path / "down", "--model", folder, "--out", tmp_path / "b", "--invert")
    np.testing.assert_allclose(read(tmp_path / "a")[list(LABELS)], read(tmp_path / "b")[list(LABELS)], rtol=1e-4)
    call_script(SCRIPT, tmp_path / "down", "--model", folder, "--out", tmp_path / "c")
    assert "looks upside down" in read(tmp_path / "c").loc[0, "detail"]
    assert "upside down" in (tmp_path / "c" / "report.html").read_text() and read(tmp_path / "a").loc[0, "detail"] == ""
    call_script(SCRIPT, tmp_path / "up", "--model", folder, "--out", tmp_path / "d", "--invert")
    told = "looks upside down now that --invert has turned it; leave --invert out"
    assert read(tmp_path / "d").loc[0, "detail"] == told
    page = (tmp_path / "d" / "report.html").read_text()
    assert told in page and "with --invert it is turned round" not in page


def test_a_refused_window_is_listed_and_shown(folder, call_script, tmp_path):
    lead = lead_of(30, 500)
    lead[5000:10000] = 0.2
    np.save(tmp_path / "lead.npy", lead)
    printed = call_script(
        SCRIPT, tmp_path / "lead.npy", "--rate", 500, "--model", folder, "--out", tmp_path / "out"
    ).out
    row, windows = read(tmp_path / "out").iloc[0], read(tmp_path / "out", "windows.csv")
    assert (row["windows"], row["excluded_windows"], row["detail"]) == (3, 1, "1 of 3 windows excluded")
    assert windows["status"].tolist() == ["ok", "flat", "ok"] and windows.loc[1, list(LABELS)].isna().all()
    assert "10 to 20 s: excluded, one value for" in (tmp_path / "out" / "report.html").read_text()
    assert "2 windows used" in printed and "1 of 3 windows excluded" in printed


# Many


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A folder of 40 recordings, of which 3 cannot be used."""
    place = tmp_path_factory.mktemp("many")
    for number in range(40):
        write_record(place / "records" / f"{number:03}", lead_of(9 + number % 23, seed=number))
    (place / "records" / "007.dat").write_bytes(b"\0")
    (place / "records" / "008.dat").unlink()
    write_record(place / "records" / "009", lead_of(3))
    (place / "records" / "notes.txt").write_text("mine")
    (place / "records" / ".hidden").write_text("mine")
    return place / "records"


@pytest.fixture(scope="module")
def answered(many, folder, run_script, tmp_path_factory):
    out = tmp_path_factory.mktemp("answered")
    limit = ("--max-failed-fraction", 0.1)
    process = run_script(SCRIPT, many, "--model", folder, "--out", out, "--workers", 1, *limit)
    return out, process.stdout


def test_a_damaged_file_costs_its_own_row_alone(many, answered):
    out, printed = answered
    table = read(out)
    assert table["recording"].tolist() == [str(many / f"{number:03}") for number in range(40)]
    table.index = table["recording"].str[-3:]
    failed = table[table["status"] != "ok"]
    assert failed["status"].to_dict() == {"007": "truncated", "008": "missing_data", "009": "too_short"}
    assert failed["detail"].str.len().min() > 5 and failed[list(LABELS)].isna().all(axis=None)
    assert table.loc[table["status"] == "ok", list(LABELS)].notna().all(axis=None)
    assert (
        f"1 file is left out, no part of a WFDB record: {many / 'notes.txt'};" in printed
        and "40 recordings, 3 of them without an answer" in printed
    )
    page = (out / "report.html").read_text()
    assert "Without an answer (3)" in page and "20 of them, evenly spread" in page and "&lt;" not in page


@pytest.mark.parametrize("more", [["--workers", 2], ["--workers", 7]])
def test_the_bytes_do_not_depend_on_the_workers(many, answered, folder, run_script, tmp_path, more):
    run_script(SCRIPT, many, "--model", folder, "--out", tmp_path, *more, "--max-failed-fraction", 1)
    for name in ("predictions.csv", "windows.csv", "report.html"):
        assert (tmp_path / name).read_bytes() == (answered[0] / name).read_bytes(), name


def test_a_dask_cluster_writes_the_same_files(many, answered, folder, run_script, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None) as cluster:
        monkeypatch.chdir(many)  # where the workers do not look
        address = ("--dask", cluster.scheduler_address)
        run_script(SCRIPT, ".", "--model", folder, "--out", tmp_path, *address, "--max-failed-fraction", 1)
    found, expected = ((path / "windows.csv").read_text() for path in (tmp_path, answered[0]))
    assert found == expected.replace(f"{many}/", "")


def test_too_many_without_an_answer_are_an_error_and_what_was_written_stays(many, folder, run_script, tmp_path):
    process = run_script(SCRIPT, many, "--model", folder, "--out", tmp_path, exit_code=1)
    assert "3 of 40 recordings have no answer, more than --max-failed-fraction 0.05" in process.stderr
    assert len(read(tmp_path)) == 40 and (tmp_path / "report.html").exists()


def test_answers_are_those_of_each_recording_alone(many, answered, folder, call_script, tmp_path):
    table = read(answered[0]).set_index("recording")
    call_script(SCRIPT, many / "021", "--model", folder, "--out", tmp_path)
    alone = read(tmp_path).loc[0, list(LABELS)].astype(float)
    np.testing.assert_allclose(alone, table.loc[str(many / "021"), list(LABELS)].astype(float), rtol=1e-4)


def test_a_record_list(many, answered, folder, call_script, tmp_path):
    listed = tmp_path / "record_list.csv"
    listed.write_text("subject_id,study_id,path\n1,11,003\n2,12,gone\n3,13,005\n")
    arguments = ["--record-list", listed, "--raw-root", many, "--model", folder, "--max-failed-fraction", 0.5]
    call_script(SCRIPT, *arguments, "--out", tmp_path / "out")
    table = read(tmp_path / "out")
    assert table["recording"].tolist() == ["003", "gone", "005"]
    assert table["status"].tolist() == ["ok", "missing_header", "ok"]
    whole = read(answered[0]).set_index("recording")
    for name in ("003", "005"):
        wanted = whole.loc[str(many / name), list(LABELS)].astype(float)
        np.testing.assert_allclose(
            table.set_index("recording").loc[name, list(LABELS)].astype(float), wanted, rtol=1e-4
        )


def test_eval_reads_the_predictions_of_whole_recordings(base, folder, run_script, tmp_path):
    """The test set's own records, as WFDB: the metrics are eval's own."""
    studies = pd.read_csv(locate(base, "test_file_list"))["study_id"]
    from ecg_finetune.segments import read_lead

    for study in studies:
        lead, _ = read_lead(locate(base, "test_mats") / f"mimic_iv_ecg_{study}.mat", 5000)
        write_record(tmp_path / "raw" / f"s{study}", lead.astype(float), 500)
    listed = pd.read_csv(locate(base, "record_list"))
    listed[listed["study_id"].isin(studies)].to_csv(tmp_path / "record_list.csv", index=False)
    (metrics,) = locate(base, "eval").glob("metrics_test_*.csv")
    options = ["--record-list", tmp_path / "record_list.csv", "--raw-root", tmp_path / "raw", "--model", folder]
    run_script(SCRIPT, *options, "--out", tmp_path / "out")
    evaluation = ["--base-dir", base, "--predictions", tmp_path / "out" / "predictions.csv", "--bootstrap", 0]
    evaluation += ["--operating-points", folder, "--out", tmp_path / "eval"]
    run_script("eval/scripts/eval_ecgfm.py", *evaluation)
    (again,) = (tmp_path / "eval").glob("metrics_*.csv")
    columns = ["auroc", "auprc", "recall", "precision", "specificity"]
    first, second = (pd.read_csv(path, index_col="label").loc[list(LABELS), columns] for path in (metrics, again))
    # One or two records of 60 may change sides by the rounding of WFDB.
    assert (first - second).abs().max(axis=None) < 0.05 and (first - second).abs().mean(axis=None) < 0.005


# What is refused


def refuse(call_script, tmp_path, *arguments):
    error = call_script(SCRIPT, "--base-dir", tmp_path / "base", *arguments, exit_code=1).err
    assert not (tmp_path / "base" / "predict").exists()
    return error


def test_what_cannot_be_asked_is_refused_before_anything_is_written(folder, call_script, tmp_path):
    write_record(tmp_path / "r", lead_of(20))
    (tmp_path / "empty").mkdir()
    asked = ["--model", folder]
    assert "no recording" in refuse(call_script, tmp_path, *asked)
    assert "none: no such recording" in refuse(call_script, tmp_path, tmp_path / "none", *asked)
    assert "a folder without files" in refuse(call_script, tmp_path, tmp_path / "empty", *asked)
    assert "no such folder" in refuse(call_script, tmp_path, tmp_path / "r", "--model", tmp_path / "none")
    listed = tmp_path / "record_list.csv"
    listed.write_text("path\n")
    assert "no rows below the header" in refuse(call_script, tmp_path, "--record-list", listed, *asked)
    listed.write_text("study_id,path\n1,r\n2,\n")
    assert "line 3 has no path" in refuse(call_script, tmp_path, "--record-list", listed, *asked)
    assert "named and listed" in refuse(call_script, tmp_path, tmp_path / "r", "--record-list", listed, *asked)
    assert "exported without model_int8.onnx" in refuse(
        call_script, tmp_path, tmp_path / "r", *asked, "--precision", "int8"
    )


def test_a_changed_model_is_refused(folder, call_script, tmp_path):
    write_record(tmp_path / "r", lead_of(20))
    copied = shutil.copytree(folder, tmp_path / "model")
    for name in ("model.onnx", "metrics.csv"):
        with (copied / name).open("ab") as file:
            file.write(b"\0")
        told = refuse(call_script, tmp_path, tmp_path / "r", "--model", copied)
        assert f"{name}: its SHA-256 is not the one" in told
        shutil.copy(folder / name, copied)


def test_answers_are_not_written_into_a_model_folder(folder, call_script, tmp_path):
    write_record(tmp_path / "r", lead_of(20))
    copied = shutil.copytree(folder, tmp_path / "model")
    told = call_script(SCRIPT, tmp_path / "r", "--model", folder, "--out", copied, exit_code=1).err
    assert "holds a config.json" in told and len(list(copied.iterdir())) == len(list(folder.iterdir()))


def test_ctrl_c_says_that_the_run_starts_again(folder, call_script, tmp_path, monkeypatch):
    write_record(tmp_path / "r", lead_of(20))

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ecg_prediction.answering.prepare", stop)
    error = call_script(SCRIPT, tmp_path / "r", "--model", folder, "--out", tmp_path / "out", exit_code=130).err
    assert "starts from the beginning" in error and "kept" not in error and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("lead", "name", "told"),
    [
        (lead_of(20), "V3", "no lead I among V3 (no_lead)"),
        (lead_of(4), "I", "4 s, 5 s are needed (too_short)"),
        (np.full(6000, np.nan), "I", "none of its 2 windows can be used: nan 2 (nan)"),
        (np.full(6000, 0.25), "I", "(flat)"),
    ],
)
def test_one_recording_without_an_answer_is_told_in_one_line(folder, call_script, tmp_path, lead, name, told):
    write_record(tmp_path / "r", lead, name=name)
    output = call_script(SCRIPT, tmp_path / "r", "--model", folder, "--out", tmp_path / "out", exit_code=1)
    error = output.err
    assert error.startswith(f"error: {tmp_path / 'r'}: ") and told in error and "no answer" not in output.out
    assert read(tmp_path / "out").loc[0, "found"] == ""


def test_an_earlier_run_is_kept_unless_it_may_be_replaced(folder, call_script, tmp_path):
    write_record(tmp_path / "r", lead_of(20))
    arguments = [tmp_path / "r", "--model", folder, "--out", tmp_path / "out"]
    call_script(SCRIPT, *arguments)
    before = (tmp_path / "out" / "predictions.csv").stat().st_ino
    assert "holds a predictions.csv" in call_script(SCRIPT, *arguments, exit_code=1).err
    assert (tmp_path / "out" / "predictions.csv").stat().st_ino == before
    call_script(SCRIPT, *arguments, "--overwrite")


def test_a_page_that_another_has_made_is_not_replaced(folder, call_script, tmp_path):
    write_record(tmp_path / "r", lead_of(20))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "report.html").write_text("mine")
    told = call_script(SCRIPT, tmp_path / "r", "--model", folder, "--out", tmp_path / "mine", exit_code=1).err
    assert "holds a report.html" in told and (tmp_path / "mine" / "report.html").read_text() == "mine"


def test_two_runs_do_not_write_into_one_folder(folder, call_script, tmp_path, monkeypatch):
    """The tables of one and the page of the other would be taken for one run's."""
    write_record(tmp_path / "r", lead_of(20))
    monkeypatch.setattr("ecg_finetune.run_folder.LOCK_PATIENCE", 0.1)
    with locked(tmp_path / "out", beside(tmp_path / "out", LOCK)):
        told = call_script(SCRIPT, tmp_path / "r", "--model", folder, "--out", tmp_path / "out", exit_code=1).err
    assert "another run" in told and not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["pipe", "device", "link to nothing", "text", "empty"])
def test_odd_files_cost_their_row(folder, call_script, tmp_path, kind):
    path = tmp_path / "files" / "odd"
    path.parent.mkdir()
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "link to nothing":
            path.symlink_to(tmp_path / "gone")
        case "text":
            path.write_text("no ECG\n")
        case "empty":
            path.write_bytes(b"")
    write_apple(tmp_path / "files" / "watch.csv", lead_of(10, 512))
    arguments = [tmp_path / "files", "--model", folder, "--out", tmp_path / "out", "--max-failed-fraction", 0.5]
    call_script(SCRIPT, *arguments)
    table = read(tmp_path / "out")
    assert table["status"].tolist()[1] == "ok" and table["status"].tolist()[0] != "ok" and table["detail"][0]


def test_file_names_of_any_bytes_cost_nothing(folder, run_script, tmp_path):
    """No text, as from an old disk; and what a terminal would obey."""
    files = tmp_path / "files"
    files.mkdir()
    write_apple(files / "watch.csv", lead_of(10, 512))
    for name in (b"\xff.csv", rb"\xff.csv", b"esc\x1b[31m.csv", b"two\nlines.csv"):
        shutil.copy(files / "watch.csv", os.fsencode(files) + b"/" + name)
    process = run_script(SCRIPT, files, "--model", folder, "--out", tmp_path / "out")
    names = read(tmp_path / "out")["recording"].tolist()
    assert len(set(names)) == 5 and f"'{files}/\\xff.csv'" in names and (read(tmp_path / "out")["status"] == "ok").all()
    assert "\x1b" not in process.stdout and f"{files}/esc\\x1b[31m.csv: " in process.stdout
    assert "two\\nlines.csv: " in process.stdout
    alone = run_script(SCRIPT, files / "esc\x1b[31m.csv", "--model", folder, "--out", tmp_path / "alone")
    assert "\x1b" not in alone.stdout


def test_what_is_not_installed_costs_its_row(folder, call_script, tmp_path, monkeypatch):
    """With the extra "onnx" alone."""
    write_record(tmp_path / "files" / "plain", lead_of(20))
    write_record(tmp_path / "files" / "slow", lead_of(20, 200), rate=200)
    header = (tmp_path / "files" / "plain.hea").read_text()
    (tmp_path / "files" / "other.hea").write_text(header.replace("plain", "other").replace(" 16 ", " 212 "))
    (tmp_path / "files" / "other.dat").write_bytes(b"\0" * 10_000)
    for module in ("scipy", "scipy.signal", "wfdb"):
        monkeypatch.setitem(sys.modules, module, None)
    arguments = ["--model", folder, "--out", tmp_path / "out", "--max-failed-fraction", 1]
    call_script(SCRIPT, tmp_path / "files", *arguments)
    table = read(tmp_path / "out")
    assert table["status"].tolist() == ["unreadable", "ok", "unreadable"]
    assert table["detail"][0].endswith("pip install wfdb") and table["detail"][2].endswith("pip install scipy")
    with pytest.raises(UserError, match="200 Hz, below 250 Hz, needs scipy: pip install scipy"):
        load_model(folder).predict(lead_of(20, 200), rate=200)


def test_a_file_that_is_gone_is_told_as_such(folder, call_script, tmp_path):
    (tmp_path / "list.csv").write_text("path\nnope.csv\n")
    arguments = ["--record-list", tmp_path / "list.csv", "--model", folder, "--out", tmp_path / "out"]
    error = call_script(SCRIPT, *arguments, exit_code=1).err
    assert "no such file: neither nope.csv nor nope.csv.hea (missing_header)" in error


def test_a_network_that_fails_ends_the_run_in_one_line(folder, call_script, tmp_path, monkeypatch):
    write_record(tmp_path / "r", lead_of(20))
    from ecg_finetune import model_folder

    monkeypatch.setattr(model_folder, "_onnx_network", lambda *_, **__: lambda lead: np.full((len(lead), 17), np.nan))
    loaded.cache_clear()
    try:
        told = call_script(SCRIPT, tmp_path / "r", "--model", folder, "--out", tmp_path / "out", exit_code=1).err
    finally:
        loaded.cache_clear()
    assert f"{folder}: its network gives logits that are no numbers" in told and not (tmp_path / "out").exists()


def test_names_of_recordings_are_harmless_on_the_page(folder, call_script, tmp_path):
    path = tmp_path / "<script>alert(1)<" / 'a,b"c.csv'
    path.parent.mkdir()
    write_apple(path, lead_of(10, 512))
    call_script(SCRIPT, path, "--model", folder, "--out", tmp_path / "out")
    assert "<script>alert" not in (tmp_path / "out" / "report.html").read_text()
    with (tmp_path / "out" / "predictions.csv").open(newline="", encoding="utf-8") as file:
        assert next(csv.DictReader(file))["recording"] == str(path)


def test_folders_are_walked_in_order_with_wfdb_records_alone_if_there_are_any(tmp_path):
    for name in ("b/2.hea", "b/2.dat", "a/1.hea", "a/1.mat", "a/x.csv", ".git/3.hea"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    sources = Given([tmp_path])
    assert [source.name for source in sources] == [str(tmp_path / "a" / "1"), str(tmp_path / "b" / "2")]
    assert sources.count == 2 and sources.left_out == 1
    assert len(list(sources)) == 2  # it can be walked again
    (tmp_path / "a" / "1.hea").write_text("1 2 500 10\n1.mat 16 200 16 0 0 0 0 I\n1.xyz 16 200 16 0 0 0 0 II\n")
    for name in ("a/1.xyz", "a/code15.mat", "a/watch.dat", *(f"b/{number}.dcm" for number in range(4))):
        (tmp_path / name).write_text("")
    sources = Given([tmp_path])
    assert sources.count == 2 and sources.left_out == 7
    names = ("a/code15.mat", "a/watch.dat", "a/x.csv", "b/0.dcm", "b/1.dcm")
    assert sources.first_left_out == [str(tmp_path / name) for name in names]
    with pytest.raises(UserError, match="no such recording"):
        Given([tmp_path / "none"])


# Upside down


def test_lead_i_of_hospitals_is_never_called_inverted_and_mostly_found_when_it_is(test_data):
    """Every genuine 12-lead ECG of PTB-XL here, as it is and turned round."""
    from ecg_finetune.recordings import read_lead

    called, found, count = 0, 0, 0
    for header in sorted((test_data / "ptbxl" / "records500").rglob("*.hea")):
        signal = read_lead(str(header.with_suffix("")), lead="I")
        called += is_inverted(cut_windows(signal.values, signal.rate))
        found += is_inverted(cut_windows(-signal.values, signal.rate))
        count += 1
    assert count > 200 and called == 0 and found / count > 0.7


def test_noise_has_no_beat():
    noise = np.random.default_rng(0).normal(size=5000)
    assert measure_beat(noise) is None and measure_beat(np.zeros(5000)) is None
    assert not is_inverted([])


def test_eval_knows_where_the_operating_points_of_a_model_folder_are_from(base, folder, tmp_path):
    points = read_operating_points(folder, LABELS)
    metrics = metrics_file(base)
    assert points.choices == read_operating_points(metrics, LABELS).choices
    assert points.choices["set"] == "valid_lead1_duplicated" and points.told().endswith("40 records")
    changed = shutil.copytree(folder, tmp_path / "changed")
    with (changed / "metrics.csv").open("a") as file:
        file.write("\n")
    with pytest.raises(UserError, match="metrics.csv: not the file that export wrote"):
        read_operating_points(changed, LABELS)

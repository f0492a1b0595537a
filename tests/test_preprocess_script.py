"""preprocess_ecgfm.py as a user runs it."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.signal
import wfdb
from ecg_evaluation.misses import read_scale
from ecg_preprocess.preprocess_report import STATUSES, ReportRow, format_row, parse_row, rounded
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import interp1d
from synthetic_records import digital_ecg, make_base, make_tables, record_path, write_record

from ecg_finetune.matfile import read_mat
from ecg_finetune.paths import beside, locate
from ecg_finetune.studies import save_file_name
from ecg_finetune.tables import write_rows
from ecg_finetune.waveform import SignalStatistics

SCRIPT = "preprocess/scripts/preprocess_ecgfm.py"
REPOSITORY = Path(__file__).resolve().parent.parent


def report_of(base, lead="I") -> list[dict]:
    with locate(base, "report", lead).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def contents(base) -> dict[str, bytes]:
    """Return every file below preprocess/data but the page, which is for people."""
    root = base / "preprocess/data"
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def check_against_wfdb(base, raw, paths: dict[int, str], lead="I") -> None:
    for study, path in paths.items():
        channel = [name.lower() for name in wfdb.rdheader(str(raw / path)).sig_name].index(lead.lower())
        record = wfdb.rdrecord(str(raw / path), channels=[channel])
        found = scipy.io.loadmat(locate(base, "lead", lead) / save_file_name(study))
        assert found["feats"].shape == (12, 5000) and found["feats"].dtype == np.float32
        assert (found["feats"] == found["feats"][0]).all()
        size = int(record.sig_len * 500 / record.fs)
        resampled = interp1d(np.linspace(0, size - 1, record.sig_len), record.p_signal[:, 0])(np.arange(5000))
        if record.fs < 250:
            resampled = scipy.signal.resample_poly(record.p_signal[:, 0], 500, record.fs, padtype="line")[:5000]
        expected = (resampled - resampled.mean()) / resampled.std()
        assert np.abs(found["feats"] - expected).max() < 1e-5
        ours = read_mat(locate(base, "lead", lead) / save_file_name(study))
        assert all(np.array_equal(ours[name], found[name]) for name in ours) and len(ours) == 6
        assert abs(found["feats"][0].astype(float).mean()) < 1e-6
        assert abs(found["feats"][0].astype(float).std() - 1) < 1e-6
        numbers = {name: found[name].item() for name in found if not name.startswith("__") and name != "feats"}
        assert numbers == {
            "org_sample_rate": record.fs,
            "curr_sample_rate": 500,
            "org_sample_size": record.sig_len,
            "curr_sample_size": 5000,
            "idx": study,
        }


def test_genuine_records_are_usable(test_data, tmp_path, run_script):
    folder = test_data / "wfdb50"
    with (folder / "record_list.csv").open() as file:
        paths = {int(row["study_id"]): row["path"] for row in csv.DictReader(file)}
    rows = [(save_file_name(study), "train") for study in paths]
    write_rows(locate(tmp_path, "meta_split"), ["save_file", "split"], rows)
    options = ("--base-dir", tmp_path, "--record-list", folder / "record_list.csv", "--raw-root", folder / "raw")
    process = run_script(SCRIPT, *options, "--max-failed-fraction", "0")
    assert "50 10-second files" in process.stdout.splitlines()[-1]
    check_against_wfdb(tmp_path, folder / "raw", paths)
    report = report_of(tmp_path)
    assert [int(row["study_id"]) for row in report] == list(paths) and {row["status"] for row in report} == {"ok"}
    files = list(locate(tmp_path, "lead").iterdir())
    assert len(files) == 50 and sum(file.stat().st_size for file in files) < 50 * 24_000


@pytest.mark.parametrize("lead", ["I", "aVR"])
def test_records_of_other_rates_and_lengths_are_usable(test_data, tmp_path, run_script, lead):
    paths = {1: "s0010_re", 2: "00001_lr"}
    write_rows(locate(tmp_path, "record_list"), ["study_id", "path"], paths.items())
    rows = [(save_file_name(study), "train") for study in paths]
    write_rows(locate(tmp_path, "meta_split"), ["save_file", "split"], rows)
    options = ("--base-dir", tmp_path, "--raw-root", test_data / "wfdb_odd", "--lead", lead, "--verify-checksums")
    run_script(SCRIPT, *options, "--max-failed-fraction", "0")
    check_against_wfdb(tmp_path, test_data / "wfdb_odd", paths, lead)
    assert [row["rate"] for row in report_of(tmp_path, lead)] == ["1000", "100"]
    assert [row["resampling"] for row in report_of(tmp_path, lead)] == ["linear", "band-limited"]


def break_records(raw) -> dict[int, str]:
    """Damage records of make_base(records=12), one way each; return the status expected of each study."""
    expected = dict.fromkeys(range(40_000_001, 40_000_013), "ok")
    stem = {k: raw / record_path(40_000_000 + k) for k in range(1, 13)}
    stem[1].with_suffix(".hea").unlink()
    stem[2].with_suffix(".dat").unlink()
    stem[3].with_suffix(".dat").write_bytes(stem[3].with_suffix(".dat").read_bytes()[:1000])
    for k, change in {
        4: lambda ecg: ecg.__setitem__((slice(100, 900), 0), -32768),
        5: lambda ecg: ecg.__setitem__((slice(None), 0), 0),
        6: lambda ecg: ecg.__setitem__((7, 0), 4200),
    }.items():
        ecg = digital_ecg(k)
        change(ecg)
        write_record(raw, record_path(40_000_000 + k), ecg)
    write_record(raw, record_path(40_000_007), digital_ecg(7, 4000))
    write_record(raw, record_path(40_000_008), digital_ecg(8, 5000, 2), leads=("II", "III"))
    stem[9].with_suffix(".hea").write_text('9 of "these", and more\n')
    first = ["missing_header", "missing_data", "truncated", "nan", "flat", "amplitude", "too_short", "no_lead"]
    expected |= {40_000_001 + k: status for k, status in enumerate([*first, "unreadable"])}
    return expected


@pytest.fixture(scope="module")
def broken(tmp_path_factory, run_script):
    """A base folder whose run excluded nine of twelve records, and what the run printed."""
    base, raw = make_base(tmp_path_factory.mktemp("broken"))
    expected = break_records(raw)
    refused = run_script(SCRIPT, "--base-dir", base, "--raw-root", raw, exit_code=1)
    return base, raw, expected, refused


def test_every_record_is_listed_with_its_reason(broken):
    base, _, expected, refused = broken
    report = report_of(base)
    assert {int(row["study_id"]): row["status"] for row in report} == expected
    assert [row["save_file"] for row in report] == [save_file_name(study) for study in expected]
    figures = {row["status"]: row for row in report}
    assert figures["nan"]["nan_count"] == "800" and "1.6 s" in figures["nan"]["detail"]
    assert float(figures["flat"]["longest_flat_s"]) == 10
    assert figures["ok"]["rate"] == "500" and float(figures["ok"]["std_mv"]) > 0.05
    present = {path.name for path in locate(base, "lead").iterdir()}
    assert present == {save_file_name(study) for study, status in expected.items() if status == "ok"}
    for status in set(expected.values()):
        assert any(status in line.split() for line in refused.stdout.splitlines()[-12:])
    assert "9 of 12 records" in refused.stderr and "--max-failed-fraction" in refused.stderr


def test_the_quality_page_shows_each_kind(broken):
    base, _, expected, _ = broken
    page = locate(base, "quality").read_text(encoding="utf-8")
    for status in set(expected.values()):
        assert f"<h2>{status}: " in page
    assert page.count("<svg") == 3 + 4  # the good ones; nan, flat, amplitude, too_short can be read too
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


def test_what_was_mended_comes_with_the_next_run(broken, tmp_path, run_script):
    base, raw, expected, _ = broken
    shutil.copytree(base, tmp_path / "base")
    before = contents(tmp_path / "base")
    settings = tmp_path / "base/preprocess/data/lead_1_duplicated.run.json"
    settings.write_text(settings.read_text().replace(str(raw), str(tmp_path / "raw")))
    shutil.copytree(raw, tmp_path / "raw")
    write_record(tmp_path / "raw", record_path(40_000_002), digital_ecg(1))
    options = ("--base-dir", tmp_path / "base", "--raw-root", tmp_path / "raw", "--max-failed-fraction", "1")
    process = run_script(SCRIPT, *options)
    assert "12 records, 3 of them done before" in process.stdout
    statuses = {int(row["study_id"]): row["status"] for row in report_of(tmp_path / "base")}
    assert statuses == {**expected, 40_000_002: "ok"}
    after = contents(tmp_path / "base")
    assert {name for name in after if name.endswith(".mat")} - before.keys() == {
        f"lead_1_duplicated/{save_file_name(40_000_002)}"
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, run_script):
    """(base, raw, contents) of an undisturbed run over 60 records."""
    base, raw = make_base(tmp_path_factory.mktemp("undisturbed"), 60)
    run_script(SCRIPT, "--base-dir", base, "--raw-root", raw, "--workers", 1)
    return base, raw, contents(base)


def test_a_rerun_changes_nothing(undisturbed, run_script):
    base, raw, before = undisturbed
    times = {path: path.stat().st_mtime_ns for path in locate(base, "lead").iterdir()}
    process = run_script(SCRIPT, "--base-dir", base, "--raw-root", raw)
    assert "60 of them done before" in process.stdout
    assert contents(base) == before
    assert times == {path: path.stat().st_mtime_ns for path in locate(base, "lead").iterdir()}


def new_base(undisturbed, folder) -> Path:
    """Return a base folder with the same tables, where nothing is preprocessed."""
    for name in ("split", "labels"):
        shutil.copytree(undisturbed[0] / name, folder / name)
    return folder


def test_killed_at_any_moment_it_goes_on_to_the_same_files(undisturbed, tmp_path):
    _, raw, expected = undisturbed
    command = [sys.executable, REPOSITORY / SCRIPT, "--raw-root", raw, "--workers", "2", "--base-dir"]
    base = new_base(undisturbed, tmp_path)
    killed = 0
    for moment in (0.05, 0.25, 0.4, 0.6):  # no Python is done within the first
        process = subprocess.Popen([*command, base], stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
        for name, content in contents(base).items():
            if name.endswith(".mat") and ".partial/" not in name:
                assert content == expected[name]
    assert killed
    assert subprocess.run([*command, base], capture_output=True, check=False).returncode == 0
    assert contents(base) == expected


def test_rows_of_a_cut_journal_and_changed_files_are_made_again(undisturbed, tmp_path, run_script):
    """What a power failure may leave: a journal that ends in zeros, rows whose files are not there or shorter."""
    base, raw, expected = undisturbed
    shutil.copytree(base, tmp_path / "base")
    folder, report = locate(tmp_path / "base", "lead"), locate(tmp_path / "base", "report")
    rows = report.read_text().splitlines(keepends=True)[1:]
    beside(folder, ".journal.csv").write_text("\n" + "".join(rows[:40]) + rows[40][:-9] + "\0\0\0")
    report.unlink()
    (folder / save_file_name(40_000_003)).unlink()
    (folder / save_file_name(40_000_004)).write_bytes(b"")
    process = run_script(SCRIPT, "--base-dir", tmp_path / "base", "--raw-root", raw)
    assert "38 of them done before" in process.stdout
    assert contents(tmp_path / "base") == expected


def test_records_added_later_are_added(undisturbed, tmp_path, run_script):
    base, raw, expected = undisturbed
    new_base(undisturbed, tmp_path)
    full = locate(tmp_path, "meta_split").read_text()
    locate(tmp_path, "meta_split").write_text("".join(full.splitlines(keepends=True)[:21]))
    run_script(SCRIPT, "--base-dir", tmp_path, "--raw-root", raw)
    locate(tmp_path, "meta_split").write_text(full)
    process = run_script(SCRIPT, "--base-dir", tmp_path, "--raw-root", raw)
    assert "60 records, 20 of them done before" in process.stdout
    assert contents(tmp_path) == expected
    locate(tmp_path, "meta_split").write_text("".join(full.splitlines(keepends=True)[:11]))
    process = run_script(SCRIPT, "--base-dir", tmp_path, "--raw-root", raw)
    assert len(report_of(tmp_path)) == 10 and "note: 50 files" in process.stdout


def test_other_settings_are_refused_unless_overwritten(undisturbed, tmp_path, run_script):
    base, raw, expected = undisturbed
    shutil.copytree(base, tmp_path / "base")
    options = ("--base-dir", tmp_path / "base", "--raw-root", raw)
    out = locate(tmp_path / "base", "lead")
    refused = run_script(SCRIPT, *options, "--lead", "II", "--out", out, exit_code=1)
    assert "--lead I, this run has --lead II" in refused.stderr
    refused = run_script(SCRIPT, *options, "--raw-root", tmp_path, exit_code=1)
    assert "--raw-root" in refused.stderr
    assert contents(tmp_path / "base") == expected
    run_script(SCRIPT, *options, "--lead", "II", "--out", out, "--overwrite")
    assert contents(tmp_path / "base").keys() == expected.keys()
    assert report_of(tmp_path / "base")[0]["std_mv"] != report_of(base)[0]["std_mv"]


def test_a_moved_base_folder_with_its_records_goes_on(tmp_path, run_script):
    base, raw = make_base(tmp_path, 2)
    raw.rename(base / "raw")
    run_script(SCRIPT, "--base-dir", base, "--raw-root", base / "raw")
    base.rename(tmp_path / "new")
    process = run_script(SCRIPT, "--base-dir", tmp_path / "new", "--raw-root", tmp_path / "new/raw")
    assert "2 of them done before" in process.stdout


def test_a_dask_cluster_writes_the_same_files(undisturbed, tmp_path, run_script):
    distributed = pytest.importorskip("distributed")
    _, raw, expected = undisturbed
    base = new_base(undisturbed, tmp_path)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None) as cluster:
        run_script(SCRIPT, "--base-dir", base, "--raw-root", raw, "--dask", cluster.scheduler_address)
    assert contents(base) == expected


def test_ctrl_c_keeps_what_was_finished(undisturbed, tmp_path):
    _, raw, expected = undisturbed
    base = new_base(undisturbed, tmp_path)
    # wfdb's slow way, so that there is something to interrupt
    command = [sys.executable, REPOSITORY / SCRIPT, "--base-dir", base, "--raw-root", raw, "--verify-checksums"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    limit = time.monotonic() + 30
    while not list(locate(base, "lead").glob("*.mat")) and time.monotonic() < limit:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) in (0, 130)
    assert process.stderr.read().startswith("error: stopped by Ctrl-C") or process.returncode == 0
    found = {name: content for name, content in contents(base).items() if name.endswith(".mat")}
    assert found and all(expected[name] == content for name, content in found.items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda base: shutil.rmtree(base.parent / "raw"), ["raw", "--raw-root"]),
        (lambda base: locate(base, "meta_split").unlink(), ["meta_split.csv", "no such file"]),
        (lambda base: locate(base, "meta_split").write_text(""), ["meta_split.csv", "empty"]),
        (lambda base: locate(base, "meta_split").write_text("save_file,split\n"), ["meta_split.csv", "no rows"]),
        (lambda base: locate(base, "meta_split").write_text("save_file\na\n"), ["meta_split.csv", "'split'"]),
        (
            lambda base: locate(base, "meta_split").write_text(
                "save_file,split\nmimic_iv_ecg_1.mat,test\nx.mat,test\n"
            ),
            ["line 3", "'x.mat'"],
        ),
        (lambda base: locate(base, "meta_split").write_text("save_file,split\nmimic_iv_ecg_1.mat,dev\n"), ["'dev'"]),
        (
            lambda base: locate(base, "meta_split").write_text("save_file,split" + 2 * "\nmimic_iv_ecg_1.mat,test"),
            ["study_id 1", "line 3"],
        ),
        (lambda base: locate(base, "record_list").write_text("study_id\n1\n"), ["record_list.csv", "'path'"]),
        (lambda base: locate(base, "record_list").write_text("study_id,path\nx,y\n"), ["line 2", "'x'"]),
        (
            lambda base: locate(base, "record_list").write_text("study_id,path" + 2 * "\n40000001,y"),
            ["study_id 40000001", "line 3"],
        ),
    ],
)
def test_bad_input_is_told_in_one_line(tmp_path, run_script, change, words):
    base, raw = make_base(tmp_path, 1)
    change(base)
    process = run_script(SCRIPT, "--base-dir", base, "--raw-root", raw, exit_code=1)
    assert all(word in process.stderr for word in words), process.stderr
    assert not list((base / "preprocess").rglob("*"))


def test_a_record_that_the_list_does_not_have_is_listed(tmp_path, run_script):
    base, raw = make_base(tmp_path, 2)
    make_tables(base, [40_000_001, 40_000_002, 5])
    locate(base, "record_list").write_text(f"study_id,path\n40000001,{record_path(40000001)}\n")
    run_script(SCRIPT, "--base-dir", base, "--raw-root", raw, "--max-failed-fraction", "1")
    assert [row["status"] for row in report_of(base)] == ["ok", "not_in_record_list", "not_in_record_list"]


def test_what_is_not_known_is_an_empty_cell_that_eval_reads(tmp_path, run_script):
    base, raw = make_base(tmp_path, 3)
    gone = digital_ecg(1)
    gone[:, 0] = -32768
    write_record(raw, record_path(40_000_002), gone)
    write_record(raw, record_path(40_000_003), digital_ecg(2), rate=0.5)
    run_script(SCRIPT, "--base-dir", base, "--raw-root", raw, "--max-failed-fraction", "1")
    ok, missing, slow = report_of(base)
    assert (missing["status"], missing["mean_mv"], missing["std_mv"], missing["nan_count"]) == ("nan", "", "", "5000")
    assert (slow["status"], slow["detail"], slow["rate"]) == ("bad_rate", "0.5 Hz, not 50 to 100,000 Hz", "")
    scale = read_scale(locate(base, "report"))
    assert scale.index.tolist() == [40_000_001]
    assert scale.at[40_000_001, "mean_mv"] == float(ok["mean_mv"])


def test_the_report_survives_what_a_header_says(tmp_path, run_script):
    base, raw = make_base(tmp_path, 2)
    header = (raw / record_path(40_000_002)).with_suffix(".hea")
    header.write_text(header.read_text().replace(" I\n", ' X\0"\x1b[31m,' + 150_000 * "x" + "\n"))
    run_script(SCRIPT, "--base-dir", base, "--raw-root", raw, "--max-failed-fraction", "1")
    text = locate(base, "report").read_text(encoding="utf-8")
    assert text.replace("\n", "").isprintable() and len(text) < 1000
    assert [row["status"] for row in report_of(base)] == ["ok", "no_lead"]
    assert locate(base, "quality").stat().st_size < 200_000


ROWS = st.builds(
    ReportRow,
    study_id=st.integers(0, 10**18 - 1),
    status=st.just("ok"),
    detail=st.just(""),
    signal=st.builds(
        SignalStatistics,
        rate=st.integers(50, 100_000) | st.floats(50, 100_000).filter(lambda rate: not rate.is_integer()),
        samples=st.integers(1, 10**9),
        mean_mv=st.floats(-1e3, 1e3),
        std_mv=st.floats(0, 1e3),
        nan_count=st.integers(0, 500),
        longest_flat_s=st.floats(0, 5),
    ).map(rounded),
    mat_bytes=st.integers(1, 10**9),
)


@given(row=ROWS)
def test_a_usable_row_is_read_as_it_was_written(row):
    assert parse_row(format_row(row)) == row


@given(
    row=ROWS,
    place=st.integers(0, 200),
    text=st.sampled_from(["", "_", " ", "\0", '"', ",", "\u0663", "nan", "inf", "9"]),
)
def test_a_changed_line_is_no_row_or_another_one(row, place, text):
    line = format_row(row)
    place %= len(line)
    found = parse_row(line[:place] + text + line[place + 1 :])
    assert found is None or parse_row(format_row(found)) == found


@pytest.mark.parametrize(
    "line",
    [
        "",
        "\n",
        "save_file,study_id,status,detail,rate,samples,mean_mv,std_mv,nan_count,longest_flat_s,mat_bytes,resampling\n",
        "mimic_iv_ecg_7.mat,8,ok,,500,5000,0.1,0.1,0,0.1,18000,none\n",
        "mimic_iv_ecg_7.mat,7,ok,,500,5000,nan,0.1,0,0.1,18000,none\n",
        "mimic_iv_ecg_7.mat,7,ok,,500,5000,0.1,inf,0,0.1,18000,none\n",
        "mimic_iv_ecg_7.mat,7,ok,why,500,5000,0.1,0.1,0,0.1,18000,none\n",
        "mimic_iv_ecg_7.mat,7,flat,,500,5000,0.1,0.1,0,0.1,18000,none\n",
        "mimic_iv_ecg_7.mat,7,ok,,500,5000,0.1,0.1,0,0.1,,none\n",
        "mimic_iv_ecg_7.mat,7,ok,,500,5000,0.1,0.1,0,0.1,18000,none,\n",
        f"mimic_iv_ecg_{10**20}.mat,{10**20},ok,,500,5000,0.1,0.1,0,0.1,18000,none\n",
        f"mimic_iv_ecg_7.mat,7,ok,,500,{10**400},0.1,0.1,0,0.1,18000,none\n",
        "mimic_iv_ecg_7.mat,7,ok,,500,5000,0.1,0.1,0,0.1,18000\n",  # of a version that did not say
        "mimic_iv_ecg_7.mat,7,ok,,128,5000,0.1,0.1,0,0.1,18000,linear\n",
        "\0\0\0\0",
    ],
)
def test_a_line_that_is_no_usable_record_is_no_row(line):
    assert parse_row(line) is None


@pytest.mark.parametrize("status", [status for status in STATUSES if status != "ok"])
def test_rows_of_excluded_records_are_made_again(status):
    line = format_row(ReportRow(7, status, 'all "of", it'))
    assert next(csv.reader([line])) == ["mimic_iv_ecg_7.mat", "7", status, 'all "of", it', *8 * [""]]
    assert parse_row(line) is None

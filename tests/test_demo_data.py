"""The synthetic data set: MIMIC-IV-ECG's layout, signals that follow their reports, same files for the same seed."""

import hashlib
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import wfdb
from ecg_fm_labeler import Labeler
from ecg_simulation.conditions import Condition, Patient, draw_condition, draw_patient
from ecg_simulation.demo_records import BROKEN, draw_records
from ecg_simulation.demo_reports import report_statements
from ecg_simulation.signals import LEADS, simulate
from scipy.signal import find_peaks

from ecg_finetune.label_set import LABELS

SCRIPT = "demo/make_demo_data.py"

PATIENT = Patient(
    subject_id=10_000_001,
    tendency="sinus rhythm",
    conduction="normal",
    infarct="none",
    ectopic="none",
    pr=0.15,
    sinus_rate=72,
    axis=25,
    voltage=1,
    ventricular_focus=np.array([0.9, 0.2, 0.5]),
)
SINUS = Condition("sinus", rate=72, pr=0.15)


@pytest.fixture(scope="module")
def data_set(tmp_path_factory, run_script):
    folder = tmp_path_factory.mktemp("demo") / "mimic"
    process = run_script(SCRIPT, "--records", 120, "--broken", 6, "--seed", 3, "--out", folder, "--workers", 2)
    return folder, process


def lead(signal, name):
    return signal[LEADS.index(name)]


def simulated(condition, seed=0, patient=PATIENT):
    return simulate(condition, patient, np.random.default_rng(seed))


def beats(signal):
    """Return the samples of the QRS complexes: peaks of the steepness over several leads."""
    slope = np.abs(np.diff(signal[[LEADS.index(name) for name in ("I", "II", "V2", "V5")]], axis=1)).sum(axis=0)
    smooth = np.convolve(slope, np.ones(60), mode="same")
    return find_peaks(smooth, height=0.45 * smooth.max(), distance=130)[0]


def median_beat(condition, name, seed=0, patient=PATIENT, before=200, after=300):
    """Return the median of a lead around its QRS complexes, less its level before the P wave."""
    signal = simulated(condition, seed, patient)
    cut = [lead(signal, name)[b - before : b + after] for b in beats(signal) if before <= b < 5000 - after]
    beat = np.median(cut, axis=0)
    return beat - np.median(beat[:60])


# ------------------------------------------------------------------------------------------------ files


def test_files_are_those_of_mimic_iv_ecg(data_set):
    folder, process = data_set
    records = pd.read_csv(folder / "record_list.csv")
    measurements = pd.read_csv(folder / "machine_measurements.csv", dtype=str, keep_default_na=False)
    assert list(records) == ["subject_id", "study_id", "file_name", "ecg_time", "path"]
    assert list(measurements)[:4] == ["subject_id", "study_id", "cart_id", "ecg_time"]
    assert [f"report_{k}" for k in range(18)] == [name for name in measurements if name.startswith("report_")]
    assert len(records) == 120 and records["study_id"].is_unique
    assert measurements["study_id"].tolist() == records["study_id"].astype(str).tolist()
    assert records["subject_id"].is_monotonic_increasing
    subject, study = records["subject_id"][7], records["study_id"][7]
    assert records["path"][7] == f"files/p{subject // 10_000}/p{subject}/s{study}/{study}"
    assert "120 records of" in process.stdout.rstrip().splitlines()[-1]


def test_headers_have_the_exact_form(data_set):
    folder, _ = data_set
    for path in list(folder.rglob("*.hea"))[:20]:
        lines = path.read_text().splitlines()
        assert len(lines) == 14 and lines[-1].startswith("#")
        assert re.fullmatch(rf"{path.stem} 12 500 5000 \d\d:\d\d:\d\d \d\d/\d\d/2\d\d\d", lines[0])
        for line, name in zip(lines[1:], LEADS):
            assert re.fullmatch(rf"{path.stem}\.dat 16 200\.0\(0\)/mV 16 0 -?\d+ \d+ 0 {name}", line)


def test_wfdb_reads_them_with_right_checksums_and_einthovens_law_holds(data_set):
    folder, _ = data_set
    broken = set(pd.read_csv(folder / "broken_records.csv")["study_id"])
    records = pd.read_csv(folder / "record_list.csv")
    sound = records[~records["study_id"].isin(broken)]
    for path in sound["path"][:25]:
        record = wfdb.rdrecord(str(folder / path), physical=False)
        digital = record.d_signal.astype(int)
        assert record.fs == 500 and digital.shape == (5000, 12) and record.sig_name == list(LEADS)
        assert (digital.sum(axis=0) % 65536).tolist() == record.checksum
        assert digital[0].tolist() == record.init_value
        one, two, three, avr, avf, avl = digital[:, :6].T
        # In units of 5 microvolts; every lead is rounded by itself.
        for law in (three - (two - one), avr + (one + two) / 2, avl - (one - two / 2), avf - (two - one / 2)):
            assert np.abs(law).max() <= 1.5


def test_broken_records_are_broken_as_listed(data_set):
    folder, process = data_set
    listed = pd.read_csv(folder / "broken_records.csv").set_index("broken")
    assert sorted(listed.index) == sorted(BROKEN)
    assert all(f"broken on purpose: {study}" in process.stdout for study in listed["study_id"])
    path = {kind: folder / listed.loc[kind, "path"] for kind in BROKEN}
    assert not path["no .dat file"].with_suffix(".dat").exists() and path["no .dat file"].with_suffix(".hea").exists()
    assert not path["no .hea file"].with_suffix(".hea").exists() and path["no .hea file"].with_suffix(".dat").exists()
    assert path["truncated .dat file"].with_suffix(".dat").stat().st_size == 3000 * 24
    assert not wfdb.rdrecord(str(path["Lead I flat"])).p_signal[:, 0].any()
    assert np.isnan(wfdb.rdrecord(str(path["long gap"])).p_signal).sum() == 12 * 1500
    assert np.isnan(wfdb.rdrecord(str(path["short gap"])).p_signal).sum() == 12 * 20


def test_same_files_for_a_seed_whatever_the_workers(tmp_path, run_script):
    def digest(folder, *options):
        run_script(SCRIPT, "--records", 30, "--out", folder, *options)
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        content = [str(file.relative_to(folder)).encode() + file.read_bytes() for file in files]
        return hashlib.sha256(b"".join(content)).hexdigest()

    one = digest(tmp_path / "a", "--workers", 1)
    assert one == digest(tmp_path / "b", "--workers", 2) != digest(tmp_path / "c", "--seed", 1)


def test_a_folder_with_other_files_is_never_touched(tmp_path, run_script):
    (tmp_path / "mine.txt").write_text("keep me")
    options = ("--records", 5, "--workers", 1)
    run_script(SCRIPT, *options, "--out", tmp_path, "--overwrite", exit_code=1)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
    run_script(SCRIPT, *options, "--out", tmp_path / "demo")
    assert "--overwrite" in run_script(SCRIPT, *options, "--out", tmp_path / "demo", exit_code=1).stderr
    run_script(SCRIPT, *options, "--out", tmp_path / "demo", "--overwrite", "--records", 7)
    assert len(pd.read_csv(tmp_path / "demo/record_list.csv")) == 7
    run_script(SCRIPT, *options, "--out", tmp_path / "other", "--broken", 6, exit_code=1)


# ------------------------------------------------------------------------------------------------ patients and reports


def test_patients_have_several_records_as_in_mimic_iv_ecg():
    records = draw_records(2000, 6, seed=1)
    sizes = pd.Series([record.patient.subject_id for record in records]).value_counts()
    assert len(records) == 2000 and sizes.median() == 2 and 20 < sizes.max() <= 40
    times = pd.DataFrame([(r.patient.subject_id, r.time) for r in records], columns=["subject_id", "time"])
    assert times.groupby("subject_id")["time"].apply(lambda t: t.is_monotonic_increasing).all()


def drawn(number, seed=0):
    """Return conditions and reports of `number` ECGs of as many patients."""
    rng = np.random.default_rng(seed)
    conditions = [draw_condition(rng, draw_patient(rng, k)) for k in range(number)]
    return conditions, [report_statements(condition, rng) for condition in conditions]


def test_statements_are_genuine_ones(test_data):
    statements = pd.read_csv(test_data / "mimic_reports/statements.tsv", sep="\t", keep_default_na=False)["statement"]
    genuine = {statement.lower().rstrip(".") for statement in statements}
    used = {statement for report in drawn(6000)[1] for statement in report}
    assert len(used) > 60
    assert {statement for statement in used if statement.lower().rstrip(".") not in genuine} == set()


def expected_labels(condition):
    """Return the labels that ECG-FM's rules give an ECG, derived from what it shows instead of from its report."""
    c = condition
    fibrillates = c.atrial_fibrillation and c.rhythm in ("paced", "3rd degree AV block")
    conducted = c.rhythm not in ("ventricular tachycardia", "3rd degree AV block", "paced")
    right, left = conducted and "right bundle" in c.conduction, conducted and "left bundle" in c.conduction
    runs = c.ectopy == "ventricular run" or c.rhythm == "ventricular tachycardia"
    af = fibrillates or c.rhythm in ("atrial fibrillation", "atrial flutter")
    flutter = c.rhythm == "atrial flutter" or (fibrillates and c.rhythm == "paced")
    sinus_like = c.rhythm in ("sinus", "2nd degree AV block")
    tachycardia = af or runs or c.rhythm == "supraventricular tachycardia" or (c.rhythm == "sinus" and c.rate > 100)
    slow_sinus = c.rhythm == "sinus" and c.rate < 58
    slow_two_to_one = c.rhythm == "2nd degree AV block" and c.rate < 50 and not c.mobitz
    first_degree = c.rhythm == "sinus" and c.pr > 0.2 and not c.preexcited
    labels = {
        "Poor data quality": c.quality != "good",
        "Sinus rhythm": sinus_like,
        "Premature ventricular contraction": c.ectopy in ("PVC", "frequent PVCs", "bigeminal PVCs"),
        "Tachycardia": tachycardia,
        "Ventricular tachycardia": runs,
        "Supraventricular tachycardia with aberrancy": tachycardia and (right or left) and not runs,
        "Atrial fibrillation": af,
        "Atrial flutter": flutter,
        "Bradycardia": slow_sinus or slow_two_to_one or c.rhythm == "3rd degree AV block",
        "Accessory pathway conduction": af or flutter or c.preexcited,
        "Atrioventricular block": first_degree or "AV block" in c.rhythm,
        "1st degree atrioventricular block": first_degree,
        "Bifascicular block": right and "fascicular" in c.conduction,
        "Right bundle branch block": right,
        "Left bundle branch block": left,
        "Infarction": conducted and c.infarct != "none" and not left,
        "Electronic pacemaker": c.rhythm == "paced",
    }
    return [bool(labels[name]) for name in LABELS]


def test_the_labels_stage_gives_the_labels_the_signals_deserve_and_all_17_are_frequent():
    conditions, reports = drawn(1500)
    hard, _ = Labeler.from_config().label(reports)
    expected = np.array([expected_labels(condition) for condition in conditions])
    wrong = np.flatnonzero((np.asarray(hard) != expected).any(axis=1))
    assert wrong.size == 0, (reports[wrong[0]], conditions[wrong[0]])
    assert expected.mean(axis=0).min() > 0.03
    assert expected.any(axis=0).all()


# ------------------------------------------------------------------------------------------------ signals


@pytest.mark.parametrize("rate", [45, 72, 120])
def test_sinus_rhythm_has_its_rate(rate):
    intervals = np.diff(beats(simulated(replace(SINUS, rate=rate)))) / 500
    assert 60 / intervals.mean() == pytest.approx(rate, rel=0.04)
    assert intervals.std() / intervals.mean() < 0.05


def test_atrial_fibrillation_is_irregular_and_flutter_saws():
    intervals = np.diff(beats(simulated(replace(SINUS, rhythm="atrial fibrillation", rate=85))))
    assert intervals.std() / intervals.mean() > 0.12
    one = lead(simulated(replace(SINUS, rhythm="atrial flutter", rate=75), seed=2), "I")
    spectrum = np.abs(np.fft.rfft(one - one.mean())) ** 2
    frequency = np.fft.rfftfreq(5000, 1 / 500)
    # 300 flutter waves a minute are 5 Hz. A sinus rhythm of 80 a minute has no multiple of its rate there.
    sinus = lead(simulated(replace(SINUS, rate=80), seed=2), "I")
    at_5_hz = np.abs(frequency - 5) < 0.15
    assert spectrum[at_5_hz].max() > 10 * (np.abs(np.fft.rfft(sinus - sinus.mean())) ** 2)[at_5_hz].max()


def test_pr_interval_is_longer_in_first_degree_block():
    def p_wave_before_qrs(pr):
        beat = median_beat(replace(SINUS, rate=60, pr=pr), "I")
        r_wave = int(np.argmax(beat))
        return (r_wave - np.argmax(beat[: r_wave - 35])) / 500

    assert p_wave_before_qrs(0.30) - p_wave_before_qrs(0.15) == pytest.approx(0.15, abs=0.03)


def test_bundle_branch_blocks_look_as_they_should_in_leads_1_and_v1():
    normal = {name: median_beat(SINUS, name) for name in ("I", "V1")}
    right = {name: median_beat(replace(SINUS, conduction="right bundle branch block"), name) for name in ("I", "V1")}
    left = {name: median_beat(replace(SINUS, conduction="left bundle branch block"), name) for name in ("I", "V1")}

    def milliseconds(where):
        return 2 * int(where.sum())

    qrs = slice(150, 270)
    assert milliseconds(right["I"][qrs] < -0.15) > 40 > milliseconds(normal["I"][qrs] < -0.15)  # broad S wave
    assert right["V1"][qrs].max() > 0.6 > normal["V1"][qrs].max()  # second R wave
    assert milliseconds(left["I"][qrs] > 0.3) > 70 > milliseconds(normal["I"][qrs] > 0.3)  # broad R wave
    assert left["I"][150:220].min() > -0.1  # no q wave
    assert left["V1"][qrs].min() < -0.8 and left["V1"][qrs].max() < 0.25


def test_early_ventricular_beats_are_early_and_followed_by_a_compensatory_pause():
    intervals = np.diff(beats(simulated(replace(SINUS, ectopy="PVC")))) / 500
    early = np.flatnonzero(intervals < 0.85 * 60 / 72)
    assert len(early) >= 1
    for k in early[early + 1 < len(intervals)]:
        assert intervals[k] + intervals[k + 1] == pytest.approx(2 * 60 / 72, rel=0.12)


def test_ventricular_tachycardia_is_broad_fast_and_regular():
    signal = simulated(replace(SINUS, rhythm="ventricular tachycardia", rate=170))
    one = lead(signal, "I")
    peaks = find_peaks(one, height=0.5 * one.max(), distance=100)[0]
    assert 60 / (np.diff(peaks).mean() / 500) == pytest.approx(170, rel=0.03)
    assert np.diff(peaks).std() < 6
    assert (one > 0.5 * one.max()).mean() > 0.15


def test_paced_beats_start_with_a_spike():
    one = lead(simulated(replace(SINUS, rhythm="paced", rate=70)), "I")
    jumps = find_peaks(np.diff(one), height=0.25, distance=100)[0]
    assert 60 / (np.diff(jumps).mean() / 500) == pytest.approx(70, rel=0.04)
    assert np.diff(lead(simulated(SINUS), "I")).max() < 0.2


def test_infarcts_show_where_they_are():
    def q_wave(infarct, name):
        return -median_beat(replace(SINUS, infarct=infarct), name)[160:212].min()

    assert q_wave("lateral", "I") > 0.25 > q_wave("none", "I")
    assert q_wave("inferior", "aVF") > 0.4 > q_wave("none", "aVF")
    assert q_wave("inferior", "I") < 0.15  # hidden from Lead I
    fresh = median_beat(replace(SINUS, infarct="lateral", acute=True), "I")
    old = median_beat(replace(SINUS, infarct="lateral"), "I")
    assert fresh[255] > 0.1 > old[255]  # ST elevation 110 ms after the QRS complex


def test_complete_block_keeps_atria_and_ventricles_apart_and_two_to_one_drops_every_second_beat():
    one = lead(simulated(replace(SINUS, rhythm="3rd degree AV block", rate=35)), "I")
    complete = find_peaks(one, height=0.6 * one.max(), distance=400)[0]
    assert 60 / (np.diff(complete).mean() / 500) == pytest.approx(35, rel=0.05)
    p_waves = find_peaks(one, height=0.06, prominence=0.05, distance=100)[0]
    p_waves = p_waves[np.abs(p_waves[:, None] - complete).min(axis=1) > 100]
    before = [(complete[complete > p].min() - p) / 500 for p in p_waves if (complete > p).any()]
    assert len(before) >= 4 and np.ptp(before) > 0.3  # no constant PR interval
    signal = lead(simulated(replace(SINUS, rhythm="2nd degree AV block", rate=45)), "I")
    r_waves = find_peaks(signal, height=0.5 * signal.max(), distance=100)[0]
    assert 60 / (np.diff(r_waves).mean() / 500) == pytest.approx(45, rel=0.05)
    # A P wave half way, without a beat: at 0.05 to 0.3 s after the mid-point less the PR interval.
    cycle = int(np.diff(r_waves).mean())
    middle = np.mean([signal[r + cycle // 2 - 90 : r + cycle // 2 + 10] for r in r_waves[:-1]], axis=0)
    assert middle.max() - np.median(middle) > 0.05


def test_poor_quality_is_poor_and_swapped_arms_turn_lead_1_upside_down():
    good, noisy = lead(simulated(SINUS), "I"), lead(simulated(replace(SINUS, quality="noisy")), "I")
    assert np.abs(np.diff(noisy)).mean() > 3 * np.abs(np.diff(good)).mean()
    swapped = simulated(replace(SINUS, quality="arm leads reversed"))
    normal = simulated(SINUS)
    assert np.array_equal(lead(swapped, "I"), -lead(normal, "I"))
    assert np.allclose(lead(swapped, "II"), lead(normal, "III"), atol=1e-5)
    faulty = simulated(replace(SINUS, quality="V2 faulty"))
    assert np.abs(np.diff(lead(faulty, "V2"))).mean() > 3 * np.abs(np.diff(lead(normal, "V2"))).mean()
    assert np.abs(np.diff(lead(faulty, "I"))).mean() < 1.5 * np.abs(np.diff(lead(normal, "I"))).mean()

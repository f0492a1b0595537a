"""A data set in MIMIC-IV-ECG's layout: who has how many ECGs, and the files of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from ecg_simulation.conditions import Condition, Patient, draw_condition, draw_patient
from ecg_simulation.demo_reports import report_statements
from ecg_simulation.signals import LEADS, SAMPLES, simulate

GAIN = 200  # digital units per mV
MISSING = -32768  # what format 16 stores for "no value"
NO_P_WAVE = 29999  # what MIMIC-IV-ECG's carts store for an interval they could not measure
REPORT_CELLS = 18
BROKEN = {
    "no .dat file": "the signal file is missing",
    "truncated .dat file": "the signal file ends after 60 % of the samples",
    "no .hea file": "the header is missing",
    "Lead I flat": "Lead I is zero throughout",
    "long gap": "no values in any lead for 3 s",
    "short gap": "no values in any lead for 40 ms: short enough to be interpolated",
}


@dataclass(frozen=True)
class Record:
    """One ECG of the data set, as the tables list it."""

    patient: Patient
    study_id: int
    time: datetime
    cart_id: int
    broken: str = ""  # a key of BROKEN, or "" for a sound record

    @property
    def path(self) -> str:
        """Path of the record below the data set's folder, without extension, as in record_list.csv."""
        subject = f"p{self.patient.subject_id}"
        return f"files/{subject[:5]}/{subject}/s{self.study_id}/{self.study_id}"


def draw_records(n_records: int, n_broken: int, seed: int) -> list[Record]:
    """Draw the patients and their records, ordered by subject_id and time.

    As in MIMIC-IV-ECG most patients have one or two records and a few have dozens (here at most 40).
    """
    rng = np.random.default_rng([seed, 0])
    sizes: list[int] = []
    while sum(sizes) < n_records:
        size = int(np.clip(np.ceil(rng.lognormal(np.log(1.75), 1.05)), 1, 40))
        sizes.append(min(size, n_records - sum(sizes)))
    subjects = np.sort(10_000_000 + rng.choice(10_000_000, len(sizes), replace=False))
    studies = iter((40_000_000 + rng.choice(10_000_000, n_records, replace=False)).tolist())
    records = []
    for subject_id, size in zip(subjects.tolist(), sizes, strict=True):
        patient = draw_patient(rng, subject_id)
        first = datetime(2110, 1, 1) + timedelta(minutes=int(rng.integers(90 * 365 * 24 * 60)))
        days = np.sort(rng.integers(0, 5 * 365 * 24 * 60, size))
        for minutes in days.tolist():
            time = first + timedelta(minutes=minutes)
            records.append(Record(patient, next(studies), time, int(rng.integers(6_000_000, 7_000_000))))
    kinds = list(BROKEN)
    for turn, index in enumerate(sorted(rng.choice(n_records, n_broken, replace=False).tolist())):
        old = records[index]
        records[index] = Record(old.patient, old.study_id, old.time, old.cart_id, kinds[turn % len(kinds)])
    return records


def write_records(records: Sequence[Record], folder: Path, seed: int) -> list[dict]:
    """Simulate records and write their files; return their rows of machine_measurements.csv.

    What a record holds depends on its patient, its study_id and the seed alone, so any number of processes may share
    the work.
    """
    rows = []
    for record in records:
        rng = np.random.default_rng([seed, record.study_id])
        condition = draw_condition(rng, record.patient)
        digital = digitise(simulate(condition, record.patient, rng))
        _write_record(record, digital, folder)
        rows.append(measurements(record, condition, rng))
    return rows


def digitise(signal: np.ndarray) -> np.ndarray:
    """Return a signal in mV (12, samples) as format 16 stores it: int16 (samples, 12)."""
    return np.clip(np.rint(signal.T * GAIN), -32767, 32767).astype("<i2")


def _write_record(record: Record, digital: np.ndarray, folder: Path) -> None:
    if record.broken == "Lead I flat":
        digital[:, 0] = 0
    elif record.broken == "long gap":
        digital[1500:3000] = MISSING
    elif record.broken == "short gap":
        digital[2000:2020] = MISSING
    path = folder / record.path
    path.parent.mkdir(parents=True, exist_ok=True)
    if record.broken != "no .hea file":
        path.with_suffix(".hea").write_text(header(record, digital))
    if record.broken != "no .dat file":
        kept = SAMPLES * 6 // 10 if record.broken == "truncated .dat file" else SAMPLES
        path.with_suffix(".dat").write_bytes(digital[:kept].tobytes())


def header(record: Record, digital: np.ndarray) -> str:
    """Return the WFDB header of a record, in MIMIC-IV-ECG's form."""
    name = record.study_id
    checksums = digital.sum(axis=0, dtype=np.int64) % 65536
    lines = [f"{name} {len(LEADS)} 500 {len(digital)} {record.time:%H:%M:%S %d/%m/%Y}"]
    for lead, first, checksum in zip(LEADS, digital[0].tolist(), checksums.tolist(), strict=True):
        lines.append(f"{name}.dat 16 {GAIN}.0(0)/mV 16 0 {first} {checksum} 0 {lead}")
    lines.append(f"# Synthetic ECG of subject_id {record.patient.subject_id}; no person's data")
    return "\n".join(lines) + "\n"


def measurements(record: Record, condition: Condition, rng: np.random.Generator) -> dict:
    """Return a record's row of machine_measurements.csv: its report and what the cart measured."""
    statements = report_statements(condition, rng)
    # The carts leave cells blank between statements.
    cells = iter(np.sort(rng.choice(len(statements) + 2, len(statements), replace=False)).tolist())
    report = {next(cells): statement for statement in statements}
    sinus = condition.rhythm == "sinus"
    p_onset = 40
    qrs_onset = p_onset + round(1000 * (condition.pr if sinus else 0.16))
    wide = "bundle" in condition.conduction or condition.rhythm in (
        "ventricular tachycardia",
        "paced",
        "3rd degree AV block",
    )
    qrs_end = qrs_onset + (140 if wide else 92)
    return {
        "subject_id": record.patient.subject_id,
        "study_id": record.study_id,
        "cart_id": record.cart_id,
        "ecg_time": f"{record.time:%Y-%m-%d %H:%M:%S}",
        **{f"report_{k}": report.get(k, "") for k in range(REPORT_CELLS)},
        "bandwidth": "0.005-150 Hz",
        "filtering": "60 Hz notch Baseline filter",
        "rr_interval": round(60_000 / condition.rate),
        "p_onset": p_onset if sinus else NO_P_WAVE,
        "p_end": p_onset + 108 if sinus else NO_P_WAVE,
        "qrs_onset": qrs_onset,
        "qrs_end": qrs_end,
        "t_end": qrs_end + 60 + round(230 * np.sqrt(60 / condition.rate)),
        "p_axis": 40 if sinus else NO_P_WAVE,
        "qrs_axis": round(record.patient.axis),
        "t_axis": round(record.patient.axis * 0.8),
    }

"""Small WFDB records in MIMIC-IV-ECG's form, and base folders made of them."""

from pathlib import Path

import numpy as np

from ecg_finetune.label_set import LABELS
from ecg_finetune.paths import locate
from ecg_finetune.studies import save_file_name
from ecg_finetune.tables import write_rows

MIMIC_LEADS = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")


def digital_ecg(seed: int, samples: int = 5000, leads: int = 12) -> np.ndarray:
    """Return int16 (samples, leads): a beat-like bump every 400 samples, another in every lead, and noise."""
    generator = np.random.default_rng(seed)
    beat = np.exp(-(((np.arange(samples) + 37 * seed) % 400 - 200) ** 2) / 200)
    return np.rint(np.outer(beat, 100 + 20 * np.arange(leads)) + generator.normal(0, 5, (samples, leads))).astype("<i2")


def write_record(
    raw: Path, path: str, digital: np.ndarray, leads=MIMIC_LEADS, rate: float = 500, gain: str = "200.0(0)/mV"
) -> None:
    """Write header and data of a format-16 record."""
    stem = raw / path
    stem.parent.mkdir(parents=True, exist_ok=True)
    digital.astype("<i2").tofile(f"{stem}.dat")
    lines = [f"{stem.name} {len(leads)} {rate} {len(digital)} 08:44:00 23/07/2180"]
    for lead, signal in zip(leads, digital.T, strict=True):
        checksum = int(signal.sum(dtype=np.int64)) % 65536
        lines.append(f"{stem.name}.dat 16 {gain} 16 0 {signal[0]} {checksum} 0 {lead}")
    Path(f"{stem}.hea").write_text("\n".join(lines) + "\n# synthetic\n")


def record_path(study_id: int) -> str:
    """Return where a study's record is below the raw root."""
    return f"files/p1000/p10000001/s{study_id}/{study_id}"


def make_tables(base: Path, study_ids, splits=None, unlabelled=()) -> dict[int, np.ndarray]:
    """Write record list, split and labels of the studies; return each study's labels."""
    study_ids = list(study_ids)
    splits = splits or [("train", "train", "valid", "test")[i % 4] for i in range(len(study_ids))]
    write_rows(locate(base, "record_list"), ["study_id", "path"], ((study, record_path(study)) for study in study_ids))
    rows = [(save_file_name(study), split) for study, split in zip(study_ids, splits, strict=True)]
    write_rows(locate(base, "meta_split"), ["save_file", "split"], rows)
    # Labels stand in an order of their own, to catch whoever joins by row.
    labelled = [study for study in reversed(study_ids) if study not in unlabelled]
    labels = {study: np.random.default_rng(study).integers(0, 2, len(LABELS)) for study in labelled}
    write_rows(locate(base, "labels"), ["idx", *LABELS], ((i, *labels[study]) for i, study in enumerate(labelled)))
    mapping = [(i, study, "train") for i, study in enumerate(labelled)]
    write_rows(locate(base, "study_id_mapping"), ["idx", "study_id", "split"], mapping)
    return labels


def make_base(folder: Path, records: int = 12, first: int = 40_000_001) -> tuple[Path, Path]:
    """Make raw records and the tables of a base folder; return (base, raw)."""
    base, raw = folder / "base", folder / "raw"
    study_ids = range(first, first + records)
    for seed, study in enumerate(study_ids):
        write_record(raw, record_path(study), digital_ecg(seed))
    make_tables(base, study_ids)
    return base, raw

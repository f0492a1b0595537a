"""What the stage prints about a split: its proof, its sizes, its labels, and patients on both sides."""

import hashlib

import numpy as np
import pandas as pd

from ecg_finetune.diagnoses import LABELS
from ecg_finetune.tables import SPLITS


def split_digest(study_ids: np.ndarray, split: np.ndarray) -> str:
    """Return the SHA-256 over the lines `study_id,split`, sorted by study_id: equal digests are equal splits.

    Examples
    --------
    >>> split_digest(np.array([7, 5]), np.array([2, 0])) == hashlib.sha256(b"5,train\\n7,test\\n").hexdigest()
    True
    """
    order = np.argsort(study_ids)
    lines = [f"{study},{SPLITS[k]}\n" for study, k in zip(study_ids[order].tolist(), split[order].tolist())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def presence(patient: np.ndarray, split: np.ndarray) -> np.ndarray:
    """Return which splits each patient has records in.

    Parameters
    ----------
    patient : ndarray of int (records,)
        Patient number 0..n-1 of each record.
    split : ndarray of int (records,)
        0 train, 1 valid, 2 test.

    Returns
    -------
    ndarray of bool (patients, 3)
    """
    present = np.zeros((int(patient.max()) + 1, 3), dtype=bool)
    present[patient, split] = True
    return present


def on_both_sides(patient: np.ndarray, split: np.ndarray) -> tuple[int, int]:
    """Count patients with records in more than one split, and test records whose patient is also in train."""
    present = presence(patient, split)
    return int((present.sum(axis=1) > 1).sum()), int(present[patient[split == 2], 0].sum())


def size_table(split: np.ndarray, patient: np.ndarray | None) -> str:
    """Return a text table of records, their share and patients per split."""
    records = np.bincount(split, minlength=3)
    table = pd.DataFrame({"records": records, "share": records / len(split)}, index=SPLITS)
    if patient is not None:
        table["patients"] = presence(patient, split).sum(axis=0)
    return table.to_string(formatters={"records": "{:,}".format, "share": "{:.2%}".format, "patients": "{:,}".format})


def label_table(split: np.ndarray, labels: np.ndarray, labelled: np.ndarray) -> str:
    """Return a text table of each label's share of the labelled records, and its count, per split."""
    columns = {}
    for k, name in enumerate(SPLITS):
        chosen = labels[labelled & (split == k)]
        count = chosen.sum(axis=0)
        columns[name] = [f"{c / max(len(chosen), 1):7.2%} {c:>8,}" for c in count.tolist()]
    return pd.DataFrame(columns, index=LABELS).to_string(justify="right")

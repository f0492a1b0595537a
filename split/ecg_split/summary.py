"""What the stage prints about a split: its proof, its sizes, its labels, and patients on both sides."""

import hashlib

import numpy as np
import pandas as pd

from ecg_finetune.label_set import LABELS
from ecg_finetune.studies import SPLITS
from ecg_split.assignment import TEST, TRAIN


def split_digest(study_ids: np.ndarray, split: np.ndarray) -> str:
    """Return the SHA-256 over the lines `study_id,split`, sorted by study_id: equal digests are equal splits.

    Parameters
    ----------
    study_ids, split : ndarray of int (records,)
        Each study, and the position of its split in `SPLITS`.

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
        Position in `SPLITS` of each record's split.

    Returns
    -------
    ndarray of bool (patients, 3)
        In the order of `SPLITS`.
    """
    present = np.zeros((int(patient.max()) + 1, 3), dtype=bool)
    present[patient, split] = True
    return present


def on_both_sides(patient: np.ndarray, split: np.ndarray) -> tuple[int, int]:
    """Count patients with records in more than one split, and test records whose patient is also in train.

    `patient` and `split` as in `presence`.
    """
    present = presence(patient, split)
    return int((present.sum(axis=1) > 1).sum()), int(present[patient[split == TEST], TRAIN].sum())


def size_table(split: np.ndarray, patient: np.ndarray | None) -> str:
    """Return a text table of records, their share and patients per split.

    `split` and `patient` as in `presence`; without `patient` they are not counted.
    """
    records = np.bincount(split, minlength=3)
    table = pd.DataFrame({"records": records, "share": records / len(split)}, index=SPLITS)
    if patient is not None:
        table["patients"] = presence(patient, split).sum(axis=0)
    return table.to_string(formatters={"records": "{:,}".format, "share": "{:.2%}".format, "patients": "{:,}".format})


def label_table(split: np.ndarray, labels: np.ndarray, labelled: np.ndarray) -> str:
    """Return a text table of each label's share of the labelled records, and its count, per split.

    Parameters
    ----------
    split : ndarray of int (records,)
        Position in `SPLITS` of each record's split.
    labels : ndarray of bool (records, 17)
        The labels of each record.
    labelled : ndarray of bool (records,)
        Which records have labels at all.
    """
    columns = {}
    for k, name in enumerate(SPLITS):
        chosen = labels[labelled & (split == k)]
        count = chosen.sum(axis=0)
        columns[name] = [f"{c / max(len(chosen), 1):7.2%} {c:>8,}" for c in count.tolist()]
    return pd.DataFrame(columns, index=LABELS).to_string(justify="right")

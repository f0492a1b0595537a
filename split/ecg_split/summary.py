"""What the stage prints about a split: its digest, its sizes, its labels, and patients in more than one split."""

import hashlib
import sys
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ecg_finetune.studies import SPLITS
from ecg_split.assignment import TEST, TRAIN, numbered


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


def splits_of_patients(patient: np.ndarray, split: np.ndarray) -> np.ndarray:
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


def count_leaks(patient: np.ndarray, split: np.ndarray) -> tuple[int, int]:
    """Count patients in more than one split, and test records whose patient is also in train.

    `patient` and `split` as in `splits_of_patients`.
    """
    present = splits_of_patients(patient, split)
    return int((present.sum(axis=1) > 1).sum()), int(present[patient[split == TEST], TRAIN].sum())


def print_sizes(split: np.ndarray, subject_id: np.ndarray | None) -> None:
    """Print records, share and patients of each split; warn on stderr of an empty one, unless all records are in test.

    Parameters
    ----------
    split : ndarray of int (records,)
        Position in `SPLITS` of each record's split.
    subject_id : ndarray of int (records,) or None
        The patient of each record; None: not known.
    """
    print(size_table(split, None if subject_id is None else numbered(subject_id)))
    for name, count in zip(SPLITS, np.bincount(split, minlength=3)):
        if not count and not all_in_test(split):
            _warn(f"{name} is empty; later stages need records in every split")


def print_leaks(split: np.ndarray, subject_id: np.ndarray | None) -> None:
    """Print how many patients are in more than one split; warn on stderr if any is, or if that is unknown.

    There is nothing to print where all records are in test, as for external validation. `split` and `subject_id` as in
    `print_sizes`.
    """
    if all_in_test(split):
        return
    if subject_id is None:
        _warn(
            "the record list does not tell patients, so how many are in more than one split is unknown; test scores "
            "may say little about new patients"
        )
        return
    patient = numbered(subject_id)
    shared, test_records = count_leaks(patient, split)
    print(f"patients in more than one split: {shared:,} of {int(patient.max()) + 1:,}")
    if shared:
        share = test_records / max(int((split == TEST).sum()), 1)
        _warn(
            f"{shared:,} patients are in more than one split, and {share:.1%} of the test records have their patient "
            "in train too; test scores say little about new patients"
        )


def all_in_test(split: np.ndarray) -> bool:
    """Tell whether every record (records,) is in test."""
    return bool((split == TEST).all())


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def size_table(split: np.ndarray, patient: np.ndarray | None) -> str:
    """Return a text table of records, their share and patients per split.

    `split` and `patient` as in `splits_of_patients`; without `patient` they are not counted.
    """
    records = np.bincount(split, minlength=3)
    table = pd.DataFrame({"records": records, "share": records / len(split)}, index=SPLITS)
    if patient is not None:
        table["patients"] = splits_of_patients(patient, split).sum(axis=0)
    return table.to_string(formatters={"records": "{:,}".format, "share": "{:.2%}".format, "patients": "{:,}".format})


def label_table(split: np.ndarray, names: Sequence[str], positive: np.ndarray, known: np.ndarray) -> str:
    """Return a text table of each label's share of the records that know it, and its count, per split.

    Parameters
    ----------
    split : ndarray of int (records,)
        Position in `SPLITS` of each record's split.
    names : sequence of str
        The labels.
    positive, known : ndarray of bool (records, labels)
        Which label each record has, and of which it is known. Where not all are, the table counts those that are.
    """
    columns, all_known = {}, known.all()
    for k, name in enumerate(SPLITS):
        counts = zip(positive[split == k].sum(axis=0).tolist(), known[split == k].sum(axis=0).tolist())
        columns[name] = [
            (f"{count / of:7.2%}" if of else f"{'-':>7}") + f" {count:>8,}" + ("" if all_known else f" of {of:>8,}")
            for count, of in counts
        ]
    return pd.DataFrame(columns, index=names).to_string(justify="right")

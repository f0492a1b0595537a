"""Which records are built: those of meta_split.csv that are usable (preprocess) and have labels."""

import collections
import hashlib
import zlib
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ecg_finetune.files import UserError
from ecg_finetune.label_set import LabelSet
from ecg_finetune.paths import REPORT, beside
from ecg_finetune.run_folder import finished_files
from ecg_finetune.studies import (
    SPLITS,
    find_rows,
    first_repeated,
    read_splits,
    read_study_labels,
    save_file_name,
    study_of_save_file,
)
from ecg_finetune.tables import integer, iterate_rows

NO_LABELS = "no_labels"
NOT_PREPROCESSED = "not_preprocessed"


@dataclass(frozen=True)
class Records:
    """The records to build, in the one order of all outputs: train, valid, test, each as in meta_split.csv.

    `study_id` int64 (records,), `split` int8 (records,) the position in `SPLITS`, `labels` (records, labels) as
    `read_study_labels`, `statistics` uint32 (records,), a checksum of what the preprocess report says of each signal.
    """

    study_id: np.ndarray
    split: np.ndarray
    labels: np.ndarray
    statistics: np.ndarray
    label_set: LabelSet

    @property
    def digest(self) -> str:
        """A digest of studies, splits and signals: equal digests are the same records in the same order."""
        arrays = (self.study_id, self.split, self.statistics)
        return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]

    def counts(self) -> dict[str, int]:
        """Return how many records each split has."""
        return {name: int(np.count_nonzero(self.split == code)) for code, name in enumerate(SPLITS)}

    def of_split(self, name: str) -> "Records":
        """Return the records of one split."""
        some = self.split == SPLITS.index(name)
        return Records(self.study_id[some], self.split[some], self.labels[some], self.statistics[some], self.label_set)


@dataclass(frozen=True)
class Excluded:
    """The records of meta_split.csv that are not built: `reason` is preprocess's status, `no_labels` or
    `not_preprocessed`."""

    study_id: np.ndarray
    split: np.ndarray
    reason: list[str]

    def counts(self) -> dict[str, int]:
        """Return how many records are excluded for each reason, most frequent first."""
        return dict(collections.Counter(self.reason).most_common())

    def rows(self):
        """Yield `save_file, study_id, split, reason`."""
        for study, split, reason in zip(self.study_id.tolist(), self.split.tolist(), self.reason, strict=True):
            yield save_file_name(study), study, SPLITS[split], reason


def read_records(meta: Path, preprocessed: Path, labels_folder: Path) -> tuple[Records, Excluded]:
    """Join meta_split.csv, the report of preprocess and the labels.

    Raises
    ------
    UserError
        An input is missing or contradicts itself, a 10-second record that the report calls ok is not there, or no
        record is left.
    """
    study_id, split = read_splits(meta)
    reason, statistics = read_report(beside(preprocessed, REPORT), study_id)
    labelled, all_labels, label_set = read_study_labels(labels_folder)
    row, found = find_rows(labelled, study_id)
    found &= (all_labels == all_labels).any(axis=1)[row]  # else none of its labels is known
    for index in np.flatnonzero(~found).tolist():
        reason[index] = NO_LABELS if reason[index] == "ok" else reason[index]
    good = np.array([status == "ok" for status in reason])
    if not good.any():
        raise UserError(
            f"{meta}: none of its {len(good):,} records has both a 10-second record in {preprocessed} and labels in "
            f"{labels_folder} (first: {reason[0]}); check that the three belong to the same data"
        )
    _refuse_missing_files(preprocessed, study_id[good])
    order = np.flatnonzero(good)[np.argsort(split[good], kind="stable")]
    records = Records(study_id[order], split[order], all_labels[row[order]], statistics[order], label_set)
    excluded = Excluded(study_id[~good], split[~good], [status for status in reason if status != "ok"])
    return records, excluded


def read_report(path: Path, study_id: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Read preprocess's report.

    Returns
    -------
    statuses : list of str
        Of each given record; `not_preprocessed` where the report has no row.
    statistics : ndarray (records,)
        uint32, a checksum of each record's signal statistics.

    Raises
    ------
    UserError
        As `tables.iterate_rows`; also a study_id that is not a number or a duplicate.
    """
    studies, statuses, statistics = array("q"), [], array("L")
    known: dict[str, str] = {}  # one string per status instead of one per row
    for line, (study, status, *values) in iterate_rows(
        path, ["study_id", "status", "rate", "mean_mv", "std_mv", "mat_bytes"]
    ):
        studies.append(integer(path, line, "study_id", study))
        statuses.append(known.setdefault(status, status))
        statistics.append(zlib.crc32(",".join(values).encode()))
    study_of_row = np.array(studies, dtype=np.int64)
    twice = first_repeated(study_of_row)
    if twice is not None:
        raise UserError(f"{path}: duplicate study_id {twice}; run preprocess again")
    position, found = find_rows(study_of_row, study_id)
    picked = [
        statuses[index] if there else NOT_PREPROCESSED
        for index, there in zip(position.tolist(), found.tolist(), strict=True)
    ]
    if not statistics:
        return picked, np.zeros(len(study_id), dtype=np.uint32)
    return picked, np.array(statistics, dtype=np.uint32)[position]


def _refuse_missing_files(preprocessed: Path, study_id: np.ndarray) -> None:
    present, _ = finished_files(preprocessed, study_of_save_file)
    missing = study_id[~find_rows(present, study_id)[1]]
    if len(missing):
        raise UserError(
            f"{preprocessed}: {len(missing):,} of the {len(study_id):,} files its report calls ok are not there "
            f"(first: {save_file_name(missing[0])}); run preprocess again, it makes only these"
        )

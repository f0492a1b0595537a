"""Which records a checkpoint was trained on: written beside it by fine-tuning, read by eval to find leaks."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ecg_finetune.files import UserError
from ecg_finetune.studies import SPLITS, first_repeated
from ecg_finetune.tables import integer, iterate_rows, write_rows

UNKNOWN = -1  # the patient of a record that no record list names
# Where checkpoints (in extra_state) and settings.json state the SHA-256 of training_records.csv.
STATED = "training_records_sha256"
TRAINED_ON = ("train", "valid")  # valid chose the epoch, and thresholds and calibration


@dataclass(frozen=True)
class TrainingRecords:
    """The records whose labels a checkpoint has seen.

    `study_id` and `subject_id` int64 (records,), `subject_id` being `UNKNOWN` where it is; `split` int8 (records,), the
    position in `SPLITS` of train or valid.
    """

    study_id: np.ndarray
    subject_id: np.ndarray
    split: np.ndarray

    def of_split(self, name: str) -> "TrainingRecords":
        """Return the records of train or of valid alone."""
        some = self.split == SPLITS.index(name)
        return TrainingRecords(self.study_id[some], self.subject_id[some], self.split[some])


def write_training_records(path: Path, records: TrainingRecords) -> None:
    """Write `study_id,subject_id,split`; an unknown patient is an empty cell."""
    patients = ("" if subject == UNKNOWN else subject for subject in records.subject_id.tolist())
    splits = (SPLITS[code] for code in records.split.tolist())
    write_rows(path, ["study_id", "subject_id", "split"], zip(records.study_id.tolist(), patients, splits, strict=True))


def read_training_records(path: Path) -> TrainingRecords:
    """Read what `write_training_records` wrote.

    Raises
    ------
    UserError
        As `tables.iterate_rows`; also a duplicate study, or a split other than train and valid.
    """
    studies, subjects, splits = [], [], []
    for line, (study, subject, split) in iterate_rows(path, ["study_id", "subject_id", "split"]):
        if split not in TRAINED_ON:
            raise UserError(f"{path}: line {line} has split {split!r}; it must be {' or '.join(TRAINED_ON)}")
        studies.append(integer(path, line, "study_id", study))
        subjects.append(integer(path, line, "subject_id", subject) if subject else UNKNOWN)
        splits.append(SPLITS.index(split))
    records = TrainingRecords(
        np.array(studies, dtype=np.int64), np.array(subjects, dtype=np.int64), np.array(splits, dtype=np.int8)
    )
    duplicate = first_repeated(records.study_id)
    if duplicate is not None:
        raise UserError(f"{path}: duplicate study_id {duplicate}; put the run's own file back")
    return records

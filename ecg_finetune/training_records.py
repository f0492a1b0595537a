"""Which records a checkpoint was trained on: written beside it by fine-tuning, read by eval to find leaks."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ecg_finetune.files import UserError, sha256
from ecg_finetune.lineage import finetuning_of
from ecg_finetune.paths import inside
from ecg_finetune.studies import SPLITS, find_rows, first_repeated
from ecg_finetune.tables import integer, iterate_rows, write_rows

UNKNOWN = -1  # the patient of a record that no record list names
# Where checkpoints (in extra_state) and settings.json state the SHA-256 of training_records.csv.
STATED = "training_records_sha256"
TRAINED_ON = ("train", "valid")  # valid chose the epoch, and thresholds and calibration
UNLISTED = "unlisted"  # in place of a split, on a row without a study: there are records that nothing lists


@dataclass(frozen=True)
class TrainingRecords:
    """The records whose labels a checkpoint has seen.

    `study_id` and `subject_id` int64 (records,), `subject_id` being `UNKNOWN` where it is; `split` int8 (records,), the
    position in `SPLITS` of train or valid. Not `complete`: a checkpoint that the fine-tuning started from has seen
    others, which nothing lists.
    """

    study_id: np.ndarray
    subject_id: np.ndarray
    split: np.ndarray
    complete: bool = True

    def of_split(self, name: str) -> "TrainingRecords":
        """Return the records of train or of valid alone."""
        some = self.split == SPLITS.index(name)
        return TrainingRecords(self.study_id[some], self.subject_id[some], self.split[some], self.complete)

    def united(self, other: "TrainingRecords") -> "TrainingRecords":
        """Return the records of both, each once: in train if it is in the train of one."""
        row, found = find_rows(self.study_id, other.study_id)
        subject_id, split = self.subject_id.copy(), self.split.copy()
        same = row[found]
        subject_id[same] = np.maximum(subject_id[same], other.subject_id[found])  # UNKNOWN is below any patient
        split[same] = np.minimum(split[same], other.split[found])  # train comes first in SPLITS
        return TrainingRecords(
            np.append(self.study_id, other.study_id[~found]),
            np.append(subject_id, other.subject_id[~found]),
            np.append(split, other.split[~found]),
            self.complete and other.complete,
        )

    def after(self, earlier: "TrainingRecords | None") -> "TrainingRecords":
        """Return the records of a run and those its start was fine-tuned on; None: these are not known."""
        return dataclasses.replace(self, complete=False) if earlier is None else self.united(earlier)


def write_training_records(path: Path, records: TrainingRecords) -> None:
    """Write `study_id,subject_id,split`; an unknown patient is an empty cell."""
    patients = ("" if subject == UNKNOWN else subject for subject in records.subject_id.tolist())
    splits = (SPLITS[code] for code in records.split.tolist())
    rows = list(zip(records.study_id.tolist(), patients, splits, strict=True))
    unlisted = [] if records.complete else [("", "", UNLISTED)]
    write_rows(path, ["study_id", "subject_id", "split"], rows + unlisted)


def read_training_records(path: Path) -> TrainingRecords:
    """Read what `write_training_records` wrote.

    Raises
    ------
    UserError
        As `tables.iterate_rows`; also a duplicate study, or a split other than train and valid.
    """
    studies, subjects, splits, complete = [], [], [], True
    for line, (study, subject, split) in iterate_rows(path, ["study_id", "subject_id", "split"]):
        if (study, subject, split) == ("", "", UNLISTED):
            complete = False
            continue
        if split not in TRAINED_ON:
            raise UserError(f"{path}: line {line} has split {split!r}; it must be {' or '.join(TRAINED_ON)}")
        studies.append(integer(path, line, "study_id", study))
        subjects.append(integer(path, line, "subject_id", subject) if subject else UNKNOWN)
        splits.append(SPLITS.index(split))
    records = TrainingRecords(
        np.array(studies, dtype=np.int64), np.array(subjects, dtype=np.int64), np.array(splits, dtype=np.int8), complete
    )
    duplicate = first_repeated(records.study_id)
    if duplicate is not None:
        raise UserError(f"{path}: duplicate study_id {duplicate}; put the run's own file back")
    return records


def records_of_checkpoint(checkpoint: Path, stated: str | None) -> TrainingRecords | None:
    """Return the records that a checkpoint of this project was trained on; None where that is not known.

    They are written beside it. The checkpoint itself, or the settings beside it, hold the digest of that file, so the
    records of another run are never taken for its own.

    Parameters
    ----------
    checkpoint : Path
        The file.
    stated : str or None
        The SHA-256 of its training records, as the checkpoint itself states it.

    Raises
    ------
    UserError
        The file beside it is another one, or damaged.
    """
    file = training_records_file(checkpoint, stated)
    return None if file is None else read_training_records(Path(file["path"]))


def training_records_file(checkpoint: Path, stated: str | None) -> dict[str, str] | None:
    """Return `path` and `sha256` of the training records of a checkpoint; as `records_of_checkpoint`."""
    path = inside(checkpoint.parent, "training_records")
    if stated is None:  # fairseq-signals writes no digest into its checkpoints
        stated = finetuning_of(checkpoint).get(STATED)
    if stated is None or not path.is_file():
        return None
    if sha256(path) != stated:
        raise UserError(
            f"{path}: not the records that {checkpoint.name} was trained on (another SHA-256 than it states); put the "
            "run's own file back, or remove it and give --trained-on"
        )
    return {"path": str(path), "sha256": stated}

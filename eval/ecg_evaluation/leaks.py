"""Leaks: evaluated patients whose records a checkpoint has been trained or pretrained on.

A check never passes because it could not see: what it had no patient or no list for is counted and told.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ecg_finetune.files import UserError, read_json, sha256
from ecg_finetune.foreign_split import read_foreign_split
from ecg_finetune.paths import inside
from ecg_finetune.studies import SPLITS, find_rows
from ecg_finetune.training_records import STATED, UNKNOWN, TrainingRecords, read_training_records


@dataclass(frozen=True)
class Evaluated:
    """The evaluated records: `study_id` int64 (records,), `subject_id` int64 (records,) or None: patients not known."""

    study_id: np.ndarray
    subject_id: np.ndarray | None


@dataclass(frozen=True)
class Seen:
    """What a list of seen records says about the evaluated ones."""

    leaked: np.ndarray  # bool (records,): the record, or another of its patient, was seen
    patients: int  # evaluated patients (or records where patients are not known) that were seen
    unchecked: list[str] = field(default_factory=list)  # what the check could not see

    def counts(self) -> str:
        """Say how many of the evaluated records were seen."""
        number = int(self.leaked.sum())
        return f"{number:,} of the {len(self.leaked):,} evaluated records are of {self.patients:,} patients"


@dataclass(frozen=True)
class LeakCheck:
    """What is known of the evaluated records in training and pretraining."""

    leaked: np.ndarray | None  # bool (records,): of a patient trained on; None: not known
    alarms: list[str]  # what a reader must see first: a leak, or that it was not possible to look for one
    findings: list[str]


NOT_KNOWN = (
    "it is not known which records the checkpoint was trained on, so no evaluated patient was looked for among them; "
    "give the split it was trained with as --trained-on"
)


def check_leaks(
    evaluated: Evaluated,
    trained: TrainingRecords | None,
    patient_of: pd.Series | None,
    *,
    pretraining_split: Path | None,
    allow: bool,
) -> LeakCheck:
    """Look for the evaluated patients among those that the checkpoint was trained and pretrained on.

    Parameters
    ----------
    evaluated : Evaluated
        The evaluated records.
    trained : TrainingRecords or None
        The records that the checkpoint must not be evaluated on; None: not known.
    patient_of : Series or None
        subject_id by study_id of the record list.
    pretraining_split : Path or None
        The split whose train patients the foundation model was pretrained on.
    allow : bool
        Go on although there is a leak.

    Raises
    ------
    UserError
        Evaluated patients were trained on, and `allow` is not set; or the split cannot be read.
    """
    alarms, findings = [], []
    leaked = None
    if trained is None:
        alarms.append(NOT_KNOWN)
    else:
        seen = find_seen(evaluated, trained, patient_of)
        leaked = seen.leaked
        alarms += seen.unchecked
        if leaked.any() and not allow:
            raise UserError(
                f"{seen.counts()} that the checkpoint was trained on (train and valid), study "
                f"{evaluated.study_id[leaked][0]} for one; evaluate records of other patients, or give --allow-leak to "
                "go on with a warning in the report"
            )
        if leaked.any():
            alarms.append(
                f"{seen.counts()} that the checkpoint was trained on: the results say little about new patients"
            )
        else:
            findings.append(f"none of the evaluated patients is among the {len(trained.study_id):,} records trained on")
    if pretraining_split is None:
        findings.append(
            "not known whether evaluated patients were seen in pretraining (give that split as --pretraining-split)"
        )
    else:
        seen = find_seen(evaluated, records_of_split(pretraining_split, ("train",)), patient_of)
        told = f"{seen.counts()} whose records were seen in pretraining (train split of {pretraining_split})"
        (alarms if seen.leaked.any() else findings).append(told)
        alarms += [f"pretraining: {sentence}" for sentence in seen.unchecked]
    return LeakCheck(leaked, alarms, findings)


def find_seen(evaluated: Evaluated, seen: TrainingRecords, patient_of: pd.Series | None) -> Seen:
    """Find the evaluated records whose patient has records among those seen.

    Parameters
    ----------
    evaluated : Evaluated
        The evaluated records.
    seen : TrainingRecords
        The records that the checkpoint has seen.
    patient_of : Series or None
        subject_id by study_id of the record list, which tells patients that `seen` does not know.
    """
    leaked = find_rows(seen.study_id, evaluated.study_id)[1]
    subjects = seen.subject_id.copy()
    unknown = subjects == UNKNOWN
    if patient_of is not None and unknown.any():
        subjects[unknown] = patient_of.reindex(seen.study_id[unknown]).fillna(UNKNOWN).to_numpy(dtype=np.int64)
        unknown = subjects == UNKNOWN
    unchecked = []
    if evaluated.subject_id is None:
        unchecked.append("evaluated patients are not known: only the records themselves were looked for")
        return Seen(leaked, int(leaked.sum()), unchecked)
    if unknown.any():
        unchecked.append(f"not checked for {int(unknown.sum()):,} train records, whose patient is not known")
    leaked |= np.isin(evaluated.subject_id, subjects[~unknown])
    return Seen(leaked, len(np.unique(evaluated.subject_id[leaked])), unchecked)


def records_of_split(path: Path, splits: tuple[str, ...]) -> TrainingRecords:
    """Return the records that a split file puts into some of its splits; patients are left to the record list."""
    study_id, split = read_foreign_split(path)
    chosen = np.isin(split, [SPLITS.index(name) for name in splits])
    return TrainingRecords(study_id[chosen], np.full(int(chosen.sum()), UNKNOWN, dtype=np.int64), split[chosen])


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
    path, settings_file = (inside(checkpoint.parent, name) for name in ("training_records", "finetune_settings"))
    if stated is None and settings_file.is_file():  # fairseq-signals writes no digest into its checkpoints
        settings = read_json(settings_file, dict)
        if settings.get("checkpoint_sha256") == sha256(checkpoint):
            stated = settings.get(STATED)
    if stated is None or not path.is_file():
        return None
    if sha256(path) != stated:
        raise UserError(
            f"{path}: not the records that {checkpoint.name} was trained on (another SHA-256 than it states); put the "
            "run's own file back, or remove it and give --trained-on"
        )
    return {"path": str(path), "sha256": stated}


def records_of_predictions(origin: Mapping[str, Any]) -> TrainingRecords | None:
    """Return the records that the checkpoint behind a predictions file was trained on; None where that is not known.

    `origin` is what stands beside the predictions, see `provenance.read_origin`.
    """
    file = origin.get("training_records")
    if not isinstance(file, dict) or not isinstance(file.get("path"), str):
        return None
    path = Path(file["path"])
    if not path.is_file() or sha256(path) != file.get("sha256"):
        return None
    return read_training_records(path)

"""Leaks: evaluated patients whose records a checkpoint has been trained or pretrained on.

A check never passes because it could not see: what it had no patient or no list for is counted and told.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ecg_finetune.data_sets import MACHINE_STATEMENTS, TABLE, Source
from ecg_finetune.files import UserError, sha256
from ecg_finetune.foreign_split import read_foreign_split
from ecg_finetune.studies import SPLITS, find_rows
from ecg_finetune.training_records import UNKNOWN, TrainingRecords, read_training_records


@dataclass(frozen=True)
class Evaluated:
    """The evaluated records: `study_id` int64 (records,), `subject_id` int64 (records,) or None: patients not known."""

    study_id: np.ndarray
    subject_id: np.ndarray | None


@dataclass(frozen=True)
class Seen:
    """What a list of seen records says about the evaluated ones."""

    leaked: np.ndarray  # bool (records,): the record, or another of its patient, was seen
    patients: int  # evaluated patients that were seen (records, where patients are not known)
    unchecked: list[str] = field(default_factory=list)  # what the check could not see

    def counts(self, what: str = "evaluated") -> str:
        """Say how many of the records were seen."""
        number, several = int(self.leaked.sum()), "" if self.patients == 1 else "s"
        return f"{number:,} of the {len(self.leaked):,} {what} records are of {self.patients:,} patient{several}"


@dataclass(frozen=True)
class LeakCheck:
    """What is known of the evaluated records in training and pretraining."""

    leaked: np.ndarray | None  # bool (records,): of a patient trained on; None: not known
    alarms: list[str]  # what a reader must see first: a leak, or that it was not possible to look for one
    findings: list[str]


@dataclass(frozen=True)
class Elsewhere:
    """That a checkpoint was trained on other data sets than the evaluated one: `told` in words.

    `may_share`: they may hold recordings of the evaluated one, which is an alarm.
    """

    told: str
    may_share: bool


FOUND = "that the checkpoint was trained on"
GO_ON = "give --allow-leak to go on with a warning in the report"
UNLISTED_START = (
    "the checkpoint was fine-tuned from a fine-tuned one whose records are not known, so no evaluated patient was "
    "looked for among these; give the split that one was trained with as --trained-on"
)
NOT_KNOWN = (
    "it is not known which records the checkpoint was trained on, so no evaluated patient was looked for among them; "
    "give the split it was trained with as --trained-on"
)


def check_leaks(
    evaluated: Evaluated,
    trained: TrainingRecords | None,
    patient_of: pd.Series | None,
    *,
    allow: bool,
    elsewhere: Elsewhere | None = None,
) -> LeakCheck:
    """Look for the evaluated patients among those that the checkpoint was trained on.

    Parameters
    ----------
    evaluated : Evaluated
        The evaluated records.
    trained : TrainingRecords or None
        The records that the checkpoint must not be evaluated on; None: not known.
    patient_of : Series or None
        subject_id by study_id of the record list.
    allow : bool
        Go on although there is a leak.
    elsewhere : Elsewhere or None
        Why there is nothing to look for, see `trained_elsewhere`.

    Raises
    ------
    UserError
        Evaluated patients were trained on, and `allow` is not set.
    """
    alarms, findings = [], []
    leaked = None
    if elsewhere is not None:
        (alarms if elsewhere.may_share else findings).append(elsewhere.told)
    if trained is None and elsewhere is None:
        alarms.append(NOT_KNOWN)
    elif trained is not None:
        seen = find_seen(evaluated, trained, patient_of)
        leaked = seen.leaked
        unchecked = seen.unchecked + ([] if trained.complete else [UNLISTED_START])
        alarms += unchecked
        if leaked.any() and not allow:
            raise UserError(
                f"{seen.counts()} {FOUND}, study {evaluated.study_id[leaked][0]} for one; evaluate records of other "
                f"patients, or {GO_ON}"
            )
        if leaked.any():
            alarms.append(f"{seen.counts()} {FOUND}: the results say little about new patients")
        else:
            limit = ", as far as could be checked" if unchecked else ""
            findings.append(
                f"none of the evaluated patients has a record among the {len(trained.study_id):,} trained on{limit}"
            )
    return LeakCheck(leaked, alarms, findings)


SHARED = {"ptbxl", "physionet2021"}  # the Challenge's recordings are those of PTB-XL among others


def trained_elsewhere(trained: Sequence[Source], evaluated: Source) -> Elsewhere | None:
    """Say that a checkpoint was trained on other data sets, whose numbers of records are others; None: it was not.

    Where one of them is not known, records are looked for by their numbers; also where a table of one's own meets
    machine statements, as both may have the numbers of MIMIC-IV-ECG.
    """
    keys = {source.key for source in trained}
    if not keys or None in keys | {evaluated.key} or evaluated.key in keys:
        return None
    of_table = [key.startswith(TABLE) for key in (evaluated.key, *keys)]
    if any(of_table) and MACHINE_STATEMENTS in keys | {evaluated.key}:
        return None
    shared = evaluated.key in SHARED and bool(keys & SHARED)
    tables = of_table[0] and any(of_table[1:])
    told = (
        f"the checkpoint was trained on {' and '.join(sorted({one.name or one.key for one in trained}))}, the records "
        f"are of {evaluated.name or evaluated.key}: numbers of records and patients of different data sets do not "
        "compare, so none was looked for"
    )
    if shared or tables:
        told += "; PhysioNet/CinC 2021 holds the records of PTB-XL" if shared else ", but two tables may share patients"
    return Elsewhere(told, shared or tables)


def check_pretraining(
    evaluated: Evaluated,
    pretrained: TrainingRecords | None,
    patient_of: pd.Series | None,
    *,
    source: Source,
    anew: bool,
) -> tuple[list[str], list[str]]:
    """Say whether the evaluated patients were seen in pretraining; return alarms and findings.

    Parameters
    ----------
    evaluated, patient_of
        As `check_leaks`.
    pretrained : TrainingRecords or None
        The records that the foundation model was pretrained on; None: not known.
    source : Source
        The data set of the evaluated records.
    anew : bool
        The network began at random weights: there was no pretraining.
    """
    if anew:
        return [], ["the network was trained from random weights: there was no pretraining that could have seen them"]
    alarms, findings = [], []
    if source.pretraining == "included":
        alarms.append(f"ECG-FM's pretraining had {source.name}: the results are external for the fine-tuning alone")
    elif source.pretraining == "not included":
        findings.append(f"ECG-FM's pretraining did not have {source.name}")
    if pretrained is not None:
        seen = find_seen(evaluated, pretrained, patient_of)
        told = f"{seen.counts()} whose records were seen in pretraining"
        (alarms if seen.leaked.any() else findings).append(told)
        alarms += [f"pretraining: {sentence}" for sentence in seen.unchecked]
    elif source.pretraining not in ("included", "not included"):
        findings.append(
            "not known whether evaluated patients were seen in pretraining (give that split as --pretraining-split)"
        )
    return alarms, findings


def check_valid(
    valid: Evaluated, trained: TrainingRecords | None, patient_of: pd.Series | None, *, allow: bool
) -> list[str]:
    """Look for the patients of the valid split among those trained on; return alarms. Arguments as `check_leaks`.

    Raises
    ------
    UserError
        There are some, and `allow` is not set.
    """
    if trained is None:  # an alarm of `check_leaks`
        return []
    seen = find_seen(valid, trained.of_split("train"), patient_of)
    if not seen.leaked.any():
        return []
    told = f"{seen.counts('valid')} {FOUND}, so that thresholds and calibration are those of memorised records"
    if not allow:
        raise UserError(f"{told}; give predictions for its own valid split as --valid-predictions, or {GO_ON}")
    return [told]


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
    if patient_of is not None:
        listed = patient_of.reindex(seen.study_id).fillna(UNKNOWN).to_numpy(dtype=np.int64)
        other = (listed != subjects) & ~unknown & (listed != UNKNOWN)
        if other.any():
            raise UserError(
                f"study {seen.study_id[other][0]} is of patient {listed[other][0]} in the record list, and of "
                f"{subjects[other][0]} in what the checkpoint was trained on ({other.sum():,} such records); give the "
                "record list that fine-tuning had"
            )
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
    if not chosen.any():
        raise UserError(f"{path}: puts no record into {' or '.join(splits)}, so it cannot say what was trained on")
    return TrainingRecords(study_id[chosen], np.full(int(chosen.sum()), UNKNOWN, dtype=np.int64), split[chosen])


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

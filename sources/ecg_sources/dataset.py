"""A data set as the modules of the sources read it."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ecg_finetune.files import UserError

INCLUDED, NOT_INCLUDED, NOT_KNOWN = "included", "not included", "not known"
RECORD_COLUMNS = ("subject_id", "study_id", "path", "name", "age", "sex")  # of the record list, the first ones
PATIENT_NAME = "patient"  # its column of patients that are no numbers
OLD = 90  # years; data sets hide the age of older people, and each in its own way
OLDEST = 120
NOT_GIVEN = frozenset(["", "nan", "na", "n/a", "none", "null", "unknown", "-1", "?"])


@dataclass
class Recording:
    """A recording of a data set.

    Attributes
    ----------
    name : str
        The data set's own name of it.
    path : str
        Below the root; of a WFDB record without extension.
    study_id : int
        Its number in the order of the data set, unless that has numbers of its own.
    patient, age, sex : str
        Empty where the data set does not say.
    further : tuple of str
        The values of `DataSet.further`.
    """

    name: str
    path: str
    study_id: int
    patient: str = ""
    age: str = ""
    sex: str = ""
    further: tuple[str, ...] = ()


@dataclass
class DataSet:
    """What import_source.py writes.

    Attributes
    ----------
    names : sequence of str
        The labels.
    recordings : list of Recording
        Those that are there.
    labels : list of ndarray (labels,)
        A row per recording: probabilities, NaN where the data set does not say.
    left_out : list of (str, str)
        Recordings that are not there, or not listed, by name, with the reason.
    unmatched : Counter
        Codes that the code table does not have.
    tables : list of Path
        What was read, besides headers.
    patients : bool
        Whether the data set tells which recordings are of one patient.
    pretraining : str
        Whether it was part of ECG-FM's pretraining: `INCLUDED`, `NOT_INCLUDED` or `NOT_KNOWN`.
    further : sequence of str
        More columns of the record list.
    groups : sequence of str
        Those of them that group the recordings, for subjects.csv.
    notes : list of str
        What else the user should know.
    settings : dict
        What else decided the content, for the lineage.
    """

    names: Sequence[str]
    pretraining: str
    patients: bool
    tables: list[Path]
    further: Sequence[str] = ()
    groups: Sequence[str] = ()
    recordings: list[Recording] = field(default_factory=list)
    labels: list[np.ndarray] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    unmatched: Counter = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    settings: dict = field(default_factory=dict)

    def add(self, recording: Recording, labels: np.ndarray) -> None:
        """Add a recording that is there."""
        self.recordings.append(recording)
        self.labels.append(labels)

    def take_labels(self, names: Sequence[str], where: str) -> None:
        """Take the labels of another list, of the file `where`, instead: those that are not here are unknown.

        Raises
        ------
        UserError
            None of them is here.
        """
        common = [name for name in names if name in self.names]
        if not common:
            raise UserError(f"{where}: none of its labels is among {', '.join(self.names)}; leave --label-set out")
        if dropped := [name for name in self.names if name not in names]:
            self.notes.append(f"not taken, as not in {where}: {', '.join(dropped)}")
        columns = [self.names.index(name) if name in common else -1 for name in names]
        self.labels = [np.append(row, np.float32(np.nan))[columns] for row in self.labels]
        self.names = list(names)

    def note_several(self, number: int) -> None:
        """Note how many recordings were there more than once."""
        if number:
            self.notes.append(
                f"{number:,} recordings are there more than once under the same name: the first path is taken"
            )


def age_of(text: str) -> str:
    """Return an age in years as a table gives it: a number, 90 for anything above 89 that hides it; empty if not given.

    >>> [age_of(text) for text in ("37.0", "300", ">89", "NaN", "-1", "0.5", "abc")]
    ['37', '90', '90', '', '', '0.5', '']
    """
    text = text.strip().removesuffix("Y")
    if re.fullmatch(r"> ?89|89\+|90\+|>= ?90|300(\.0+)?", text):
        return str(OLD)
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]+)?", text) or float(text) > OLDEST:
        return ""
    return f"{float(text):g}"


def sex_of(text: str) -> str:
    """Return M, F, nothing where it is not given, and any other word as it stands.

    >>> [sex_of(text) for text in ("Male", "f", "Unknown", "NaN", "X")]
    ['M', 'F', '', '', 'X']
    """
    text = text.strip()
    if text.lower() in NOT_GIVEN:
        return ""
    return {"m": "M", "male": "M", "f": "F", "female": "F"}.get(text.lower(), text)

"""What the import writes: the record list, the labels and what is known of them, the subjects."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ecg_finetune.files import UserError, read_json, shown, write_json
from ecg_finetune.label_files import CHECKED, NO_SPLIT, write_label_files
from ecg_finetune.label_set import MAX, MEAN, LabelSet, known_counts, label_counts
from ecg_finetune.lineage import Inputs, lineage
from ecg_finetune.paths import inside
from ecg_finetune.studies import PATIENT_AND_STUDY, first_repeated
from ecg_finetune.tables import iterate_rows, read_header, write_rows
from ecg_sources.dataset import PATIENT_NAME, RECORD_COLUMNS, DataSet

STAGE = "sources"


class Numbers(NamedTuple):
    """The ids of recordings: int64 (recordings,) each, and whether the patients had names that are no numbers."""

    study_id: np.ndarray
    subject_id: np.ndarray
    named: bool


def refuse_other_data(record_list: Path, labels: Path, source: str) -> None:
    """Raise `UserError` if the files to write are there and another data set's; a source may be imported again."""
    path = inside(labels, "labels_lineage")
    found = read_json(path, dict) if path.is_file() else {}
    settings = found.get("settings")
    if found.get("stage") == STAGE and isinstance(settings, dict) and settings.get("--source") == source:
        return
    for path in (record_list, inside(labels, "labels")):
        if path.exists():
            raise UserError(f"{path}: is there, of another data set; choose another --base-dir, or give --overwrite")


def refuse_renumbering(record_list: Path, found: DataSet, numbers: Numbers) -> None:
    """Raise `UserError` if a study of the record list that is there would become another recording's or patient's.

    Files of later stages carry these numbers alone: they would be taken for those of the other one.
    """
    columns = ["study_id", "path", "subject_id"]
    if not record_list.is_file() or not set(columns) <= set(read_header(record_list)):
        return
    ours = zip(numbers.study_id.tolist(), numbers.subject_id.tolist(), found.recordings)
    now = {str(study): [recording.path, str(subject)] for study, subject, recording in ours}
    for _, (study, *before) in iterate_rows(record_list, columns):
        after = now.get(study, before)
        if after != before:
            was, is_now = (f"{shown(path)} of patient {subject}" for path, subject in (before, after))
            raise UserError(
                f"{record_list}: study {study} is {was} there, and {is_now} now; choose another --base-dir, or give "
                "--overwrite, here and to all later stages"
            )


def label_set_of(names: Sequence[str], by_max: Sequence[str]) -> LabelSet:
    """Return the label set; `by_max` are the labels that combine by maximum."""
    if missing := [name for name in by_max if name not in names]:
        raise UserError(f"--combine-by-max {shown(missing[0])}: no such label; the labels are {', '.join(names)}")
    return LabelSet(tuple(names), tuple(MAX if name in by_max else MEAN for name in names))


def write_outputs(
    record_list: Path,
    subjects: Path,
    labels: Path,
    found: DataSet,
    numbers: Numbers,
    label_set: LabelSet,
    settings: dict,
    inputs: Inputs,
) -> None:
    """Write every file of a data set, the lineage last.

    Parameters
    ----------
    record_list, subjects, labels : Path
        Two files, and the folder of labels.
    found, numbers : DataSet, Numbers
        The data set, and the ids of its recordings.
    label_set : LabelSet
    settings, inputs
        Of this run, for its lineage.
    """
    study_id, subject_id, named = numbers
    soft = np.stack(found.labels)
    write_label_files(
        labels, label_set, study_id, np.full(len(study_id), NO_SPLIT), soft, found.unmatched, combine=True
    )
    known, positive = known_counts(soft), label_counts(soft)[0]
    counts = zip(label_set.names, known.tolist(), positive.tolist(), (len(soft) - known).tolist())
    write_rows(inside(labels, "known"), ["label", "known", "positive", "unknown"], counts)
    extra = [*([PATIENT_NAME] if named else []), *found.further]
    places = [extra.index(name) for name in (*([PATIENT_NAME] if named else []), *found.groups)]
    records, people = [], []
    for study, subject, recording in zip(study_id.tolist(), subject_id.tolist(), found.recordings):
        further = (*((recording.patient,) if named else ()), *recording.further)
        person = (recording.age, recording.sex)
        records.append((subject, study, recording.path, recording.name, *person, *further))
        people.append((study, subject, *person, *(further[place] for place in places)))
    left_out = inside(record_list.parent, "record_list_left_out")
    write_rows(left_out, ["name", "reason"], found.left_out)
    write_rows(subjects, ["study_id", "subject_id", "age", "sex", *(extra[place] for place in places)], people)
    write_rows(record_list, [*RECORD_COLUMNS, *extra], records)
    written = [record_list, subjects, *(inside(labels, name) for name in (*CHECKED, "known"))]
    write_json(inside(labels, "labels_lineage"), lineage(STAGE, settings, inputs, written))


def numbers_of(found: DataSet) -> Numbers:
    """Number recordings and patients.

    Recordings in folders p########/s########, as MIMIC-IV-ECG's, have the ids of their folders. A recording without a
    patient is a patient of its own.

    Raises
    ------
    UserError
        Two rows lead to the same recording, or have the same study_id.
    """
    paths = Counter(recording.path for recording in found.recordings)
    for path, times in paths.items():
        if times > 1:
            raise UserError(f"{found.tables[0]}: {shown(path)} is listed twice; remove one of the rows")
    ids = [PATIENT_AND_STUDY.search(recording.path) for recording in found.recordings]
    if all(ids):
        subject_id, study_id = (np.array([int(match[part]) for match in ids]) for part in (1, 2))
        named = False
    else:
        study_id = np.array([recording.study_id for recording in found.recordings])
        patients = [recording.patient for recording in found.recordings]
        named = not all(re.fullmatch("[0-9]{0,15}", patient) for patient in patients)
        numbers: dict[str, int] = {}
        if not named:
            numbers = {patient: int(patient) for patient in patients if patient}
        following = max(numbers.values(), default=0) + 1
        for place, patient in enumerate(patients):
            key = patient or f"recording {place}"  # with a blank, which no number has
            if key not in numbers:
                numbers[key], following = following, following + 1
        subject_id = np.array([numbers[patient or f"recording {place}"] for place, patient in enumerate(patients)])
    if (twice := first_repeated(study_id)) is not None:
        raise UserError(
            f"{found.tables[0]}: study_id {twice} is of two recordings; give each recording a number of its own"
        )
    return Numbers(study_id, subject_id, named)

"""Studies: their file names, their patients, their splits and their labels."""

from __future__ import annotations

import bisect
import re
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ecg_finetune.files import UserError, short_repr, shown
from ecg_finetune.label_set import LabelSet, difference, read_label_names, read_label_set
from ecg_finetune.lineage import read_lineage
from ecg_finetune.paths import inside
from ecg_finetune.tables import integer, iterate_rows, read_header, read_table, refuse_duplicates

# pandas is imported where it is used: it takes long to import.
if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "valid", "test")
UNKNOWN_CODE = 2
LABEL_CODES = {"0": 0, "1": 1, "": UNKNOWN_CODE, "0.0": 0, "1.0": 1}
PATIENT_AND_STUDY = re.compile(r"(?:^|/)p([0-9]{8})/s([0-9]{8})(?:/|$)")  # folders of MIMIC-IV-ECG
SAVE_FILE = re.compile(r"mimic_iv_ecg_(0|[1-9][0-9]{0,17})\.mat")


def save_file_name(study_id: int) -> str:
    """Return the name of a study's 10-second record.

    >>> save_file_name(7)
    'mimic_iv_ecg_7.mat'
    """
    return f"mimic_iv_ecg_{study_id}.mat"


def study_of_save_file(name: str) -> int | None:
    """Return the study_id in the name of a 10-second record; None for any other name.

    >>> study_of_save_file("mimic_iv_ecg_7.mat"), study_of_save_file("mimic_iv_ecg_07.mat")
    (7, None)
    """
    match = SAVE_FILE.fullmatch(name)
    return int(match[1]) if match else None


def find_rows(numbers: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Look numbers up in an unsorted column without repetitions.

    Returns
    -------
    position : ndarray (wanted,)
        int64, where in `numbers` each wanted one stands; any position where it does not.
    found : ndarray (wanted,)
        bool, whether it does.
    """
    if not len(numbers):
        return np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=bool)
    order = np.argsort(numbers, kind="stable")
    position = order[np.minimum(np.searchsorted(numbers, wanted, sorter=order), len(numbers) - 1)]
    return position, numbers[position] == wanted


def first_repeated(values: np.ndarray) -> int | None:
    """Return the smallest integer that occurs more than once in an array, or None."""
    ordered = np.sort(values)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    return int(repeated[0]) if len(repeated) else None


def read_studies(path: Path, *, need_patients: bool, otherwise: str) -> pd.DataFrame:
    """Read the studies of a record list with their patients.

    Parameters
    ----------
    path : Path
        record_list.csv: `study_id`, and `subject_id` or else a `path` with `p########` in it.
    need_patients : bool
        Whether a list without patients is an error.
    otherwise : str
        What the user can do then, besides adding the column.

    Returns
    -------
    DataFrame
        `study_id` and, where the list tells it, `subject_id`, both int64, in file order.

    Raises
    ------
    UserError
        As `read_table`; also a duplicate study_id, a `subject_id` or `study_id` other than in the `p########/s########`
        of the row's path, or patients are needed and the list does not tell them.
    """
    import pandas as pd

    header = read_header(path)
    dtypes = {"study_id": "int64", "subject_id": "int64", "path": "str"}
    records = read_table(path, {name: dtypes[name] for name in dtypes if name == "study_id" or name in header})
    refuse_duplicates(path, records, "study_id")
    if "path" in records:
        _refuse_contradictions(path, records)
    if "subject_id" in records:
        return records[["study_id", "subject_id"]]
    if "path" in records:
        subject = records["path"].str.extract(r"(?:^|/)p([0-9]{8})(?:/|$)", expand=False)
        missing = subject.isna()
        if not missing.any():
            return pd.DataFrame({"study_id": records["study_id"], "subject_id": subject.astype("int64")})
        if need_patients:
            line = missing.idxmax()
            raise UserError(
                f"{path}: no subject_id column, and line {line} has no p######## folder in its path "
                f"({records.at[line, 'path']}); add the column, or {otherwise}"
            )
    elif need_patients:
        raise UserError(
            f"{path}: neither a subject_id nor a path column, so patients cannot be told apart; "
            f"add subject_id, or {otherwise}"
        )
    return records[["study_id"]]


def _refuse_contradictions(path: Path, records: pd.DataFrame) -> None:
    """Refuse a row whose ids are not those of its path: one patient's record would count as another's."""
    studies, locations = records["study_id"].tolist(), records["path"].tolist()
    subjects = records["subject_id"].tolist() if "subject_id" in records else [None] * len(records)
    for line, study, subject, location in zip(records.index, studies, subjects, locations):
        # A look that spares most rows the pattern, and so 800,035 of them a second.
        if f"p{subject}/s{study}/" in location if subject is not None else f"/s{study}/" in location:
            continue
        for patient_folder, study_folder in PATIENT_AND_STUDY.findall(location):
            if int(study_folder) != study or subject not in (None, int(patient_folder)):
                ids = f"study_id {study}" if subject is None else f"subject_id {subject} and study_id {study}"
                raise UserError(
                    f"{path}: line {line} has {ids}, but its path is that of p{patient_folder}/s{study_folder}; "
                    "correct the row"
                )


def read_splits(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read meta_split.csv into two small arrays.

    Returns
    -------
    study_id : ndarray (records,)
        int64, in file order; the record's save_file is `save_file_name(study_id)`.
    split : ndarray (records,)
        int8, the position of the record's split in `SPLITS`.

    Raises
    ------
    UserError
        As `iterate_rows`; also no row, a save_file that is not `mimic_iv_ecg_<study_id>.mat`, a duplicate, an unknown
        split.
    """
    codes = {name: code for code, name in enumerate(SPLITS)}
    study_ids, splits, lines = array("q"), array("b"), array("q")
    for line, (save_file, split) in iterate_rows(path, ["save_file", "split"]):
        study = study_of_save_file(save_file)
        if study is None:
            raise UserError(f"{path}: line {line} has save_file {save_file!r}; it must be mimic_iv_ecg_<study_id>.mat")
        if split not in codes:
            raise UserError(f"{path}: line {line} has split {split!r}; a split is one of {', '.join(SPLITS)}")
        study_ids.append(study)
        splits.append(codes[split])
        lines.append(line)
    if not study_ids:
        raise UserError(f"{path}: no rows below the header; make it again")
    study_id, split = np.array(study_ids), np.array(splits)
    order = np.argsort(study_id, kind="stable")
    again = order[1:][study_id[order[1:]] == study_id[order[:-1]]]
    if len(again):
        row = int(again.min())
        raise UserError(
            f"{path}: duplicate study_id {study_id[row]} (again in line {lines[row]}); remove one of the rows"
        )
    return study_id, split


def read_paths(path: Path, study_id: np.ndarray) -> list[str]:
    """Read from record_list.csv where each of the given records is.

    Returns
    -------
    list of str
        The record's path without extension, relative to the raw root; empty where the list does not have it.

    Raises
    ------
    UserError
        As `iterate_rows`; also a study_id that is not a number or is a duplicate.
    """
    order = np.argsort(study_id)
    wanted = study_id[order].tolist()
    paths = [""] * len(study_id)
    for line, (text, location) in iterate_rows(path, ["study_id", "path"]):
        study = integer(path, line, "study_id", text)
        place = bisect.bisect_left(wanted, study)
        if place < len(wanted) and wanted[place] == study:
            if paths[order[place]]:
                raise UserError(f"{path}: duplicate study_id {study} (again in line {line}); remove one of the rows")
            paths[order[place]] = location
    return paths


def label_files(folder: Path) -> list[Path]:
    """Return the files that `read_study_labels` reads; the last one may be missing."""
    return [inside(folder, name) for name in ("labels", "study_id_mapping", "label_def_recomputed")]


def read_study_labels(folder: Path) -> tuple[np.ndarray, np.ndarray, LabelSet]:
    """Read the labels of every study: labels.csv has them by idx, study_id_mapping.csv says whose each idx is.

    Returns
    -------
    study_id : ndarray (studies,)
        int64, each once; a duplicate study with the same labels counts once.
    labels : ndarray (studies, labels)
        1 or 0: uint8 where every label of every study is known, a quarter of the memory; else float32, and NaN where
        the cell is empty.
    label_set : LabelSet
        The columns of labels.csv; how they combine as label_def_recomputed.csv says, if it has such a column.

    Raises
    ------
    UserError
        As `tables.iterate_rows`; also no row, a label other than 0, 1 and empty, a duplicate idx, or one that only
        labels.csv has, a study with two different rows of labels, two files of different runs or label sets.
    """
    labels_path, mapping_path, definition_path = label_files(folder)
    read_lineage("labels", inside(folder, "labels_lineage"), [labels_path, mapping_path])
    label_set = LabelSet.of(read_label_names(labels_path))
    if definition_path.exists() and "combine" in read_header(definition_path):
        defined = read_label_set(definition_path)
        if other := difference(label_set.names, labels_path.name, defined.names, definition_path.name):
            raise UserError(f"{definition_path}: has other labels: {other}; put the file of the same run there")
        label_set = defined
    row_idx, codes = _read_labels(labels_path, label_set.names)
    mapped_idx, studies = array("q"), array("q")
    for line, (idx, study) in iterate_rows(mapping_path, ["idx", "study_id"]):
        mapped_idx.append(integer(mapping_path, line, "idx", idx))
        studies.append(integer(mapping_path, line, "study_id", study))
    mapped_idx = np.array(mapped_idx, dtype=np.int64)
    for path, values in ((labels_path, row_idx), (mapping_path, mapped_idx)):
        twice = first_repeated(values)
        if twice is not None:
            raise UserError(f"{path}: duplicate idx {twice}; run the labels stage again")
    place, found = find_rows(mapped_idx, row_idx)
    if not found.all():
        raise UserError(
            f"{mapping_path}: has no idx {row_idx[~found][0]}, which {labels_path.name} has; run the labels stage again"
        )
    study_id, codes = _each_once(mapping_path, np.array(studies, dtype=np.int64)[place], codes)
    unknown = codes == UNKNOWN_CODE
    if not unknown.any():
        return study_id, codes, label_set
    labels = codes.astype(np.float32)
    labels[unknown] = np.nan
    return study_id, labels, label_set


def _read_labels(path: Path, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return idx int64 (rows,) and the codes of `LABEL_CODES` uint8 (rows, labels) of labels.csv."""
    row_idx, codes = array("q"), bytearray()
    for line, (idx, *values) in iterate_rows(path, ["idx", *names]):
        try:
            codes += bytes([LABEL_CODES[value] for value in values])
        except KeyError:
            name, value = next(pair for pair in zip(names, values) if pair[1] not in LABEL_CODES)
            raise UserError(
                f"{path}: line {line} has {short_repr(value)} for {shown(name)}; a label is 1, 0 or empty (unknown)"
            ) from None
        row_idx.append(integer(path, line, "idx", idx))
    if not row_idx:
        raise UserError(f"{path}: no rows below the header; run the labels stage again")
    table = np.frombuffer(codes, dtype=np.uint8).reshape(-1, len(names))
    return np.array(row_idx, dtype=np.int64), table


def _each_once(path: Path, study_id: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keep the first row of each study; refuse a study whose rows differ."""
    _, first, which = np.unique(study_id, return_index=True, return_inverse=True)
    differs = (labels != labels[first[which]]).any(axis=1)
    if differs.any():
        raise UserError(
            f"{path}: study_id {study_id[differs][0]} is a duplicate with different labels; remove one of its rows"
        )
    kept = np.sort(first)
    return study_id[kept], labels[kept]

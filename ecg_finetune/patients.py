"""Which patient each study belongs to."""

import re
from pathlib import Path

import pandas as pd

from ecg_finetune.command_line import UserError
from ecg_finetune.tables import read_header, read_table, refuse_duplicates

PATIENT_AND_STUDY = re.compile(r"(?:^|/)p([0-9]{8})/s([0-9]{8})(?:/|$)")  # folders of MIMIC-IV-ECG


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
                    f"{path}: line {line} has {ids}, but its path is that of p{patient_folder}/s{study_folder}; mend "
                    "the row"
                )

"""Which patient each study belongs to."""

from pathlib import Path

import pandas as pd

from ecg_finetune.command_line import UserError
from ecg_finetune.tables import read_header, read_record_list


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
        As `read_record_list`; also patients are needed and the list does not tell them.
    """
    header = read_header(path)
    if "subject_id" in header:
        return read_record_list(path, ["study_id", "subject_id"])
    if "path" in header:
        records = read_record_list(path, ["study_id", "path"])
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
    return read_record_list(path, ["study_id"])

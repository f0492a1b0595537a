"""What an evaluation reads: the labelled records of the test set and of the valid split, predictions, patients."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ecg_finetune.files import UserError
from ecg_finetune.label_set import LABELS
from ecg_finetune.paths import inside
from ecg_finetune.segments import read_label_rows, read_manifest, read_study_of_segment, segment_of_file
from ecg_finetune.studies import SPLITS, find_rows, read_splits, read_studies
from ecg_finetune.tables import read_table, refuse_duplicates, write_table


@dataclass(frozen=True)
class Labelled:
    """Records and their labels."""

    name: str  # of the set, as it stands in the names of the files written
    study_id: np.ndarray  # int64 (records,)
    truth: np.ndarray  # bool (records, 17)
    source: Path  # the file the labels came from


def read_test_set(folder: Path, max_samples: int | None) -> Labelled:
    """Read the labels of the test set, of the first `max_samples` records only where that is given.

    Raises
    ------
    UserError
        The folder or its table is missing or damaged, or a label is neither 0 nor 1.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no test set; run build/scripts/build_test_and_finetune_data.py first")
    path = inside(folder, "test_labels")
    table = read_table(path, {"idx": "int64", **dict.fromkeys(LABELS, "float64")})
    refuse_duplicates(path, table, "idx")
    table = table.iloc[:max_samples]
    labels = table[list(LABELS)].to_numpy()
    _refuse_rows(path, table["idx"], ~np.isin(labels, (0, 1)), "a label must be 0 or 1")
    return Labelled(folder.resolve().name, table["idx"].to_numpy(), labels.astype(bool), path)


def test_files(folder: Path, study_ids: np.ndarray) -> list[Path]:
    """Return the 10-second record of each study of the test set; study_ids is int64 (records,).

    Raises
    ------
    UserError
        The file list is missing or damaged, or lacks a record.
    """
    path = inside(folder, "test_file_list")
    files = read_table(path, {"study_id": "int64", "save_file": "str"})
    refuse_duplicates(path, files, "study_id")
    unnamed = files["save_file"] == ""
    if unnamed.any():
        raise UserError(f"{path}: line {unnamed.idxmax()} has no save_file; run the build stage again")
    files = files.set_index("study_id")["save_file"].reindex(study_ids)
    if files.isna().any():
        study = study_ids[int(np.argmax(files.isna().to_numpy()))]
        raise UserError(f"{path}: study {study} of the label table is missing; run the build stage again")
    mats = inside(folder, "test_mats")
    return [mats / name for name in files]


def test_checksums(folder: Path, study_ids: np.ndarray) -> np.ndarray | None:
    """Return the checksum of each record's signal when the test set was built, int64 (records,); None: not noted.

    Raises
    ------
    UserError
        The file is damaged, or lacks a record.
    """
    path = inside(folder, "test_checksums")
    if not path.exists():
        return None
    table = read_table(path, {"study_id": "int64", "crc32": "int64"})
    refuse_duplicates(path, table, "study_id")
    row, found = find_rows(table["study_id"].to_numpy(), study_ids)
    if not found.all():
        raise UserError(f"{path}: study {study_ids[~found][0]} is missing; run the build stage again")
    return table["crc32"].to_numpy()[row]


def valid_studies(manifests: Path, max_samples: int | None) -> np.ndarray:
    """Return the records of the valid split in the order of valid.tsv, int64 (records,); only the first where asked.

    Raises
    ------
    UserError
        The manifests are missing or damaged, or a segment whose file name does not tell its record is.
    """
    files = read_manifest(inside(manifests, "manifest", split="valid")).files
    named = ((file, segment_of_file(file.name)) for file in files)
    studies = (read_study_of_segment(file) if segment is None else segment[0] for file, segment in named)
    return np.array(list(dict.fromkeys(studies))[:max_samples], dtype=np.int64)


def read_valid_set(folder: Path, study_ids: np.ndarray, name: str) -> Labelled:
    """Return the labels that the manifests below `folder` hold for the records (n,) of the valid predictions.

    Raises
    ------
    UserError
        The manifests are missing or damaged, or do not know one of the records.
    """
    path = inside(folder, "manifest_y")
    labels, order = read_label_rows(folder)
    first = pd.Series(np.arange(len(order)), index=order)
    first = first[~first.index.duplicated()].reindex(study_ids)
    if first.isna().any():
        unknown = study_ids[int(np.argmax(first.isna().to_numpy()))]
        raise UserError(
            f"{path}: no segment of study {unknown} of the valid predictions; give the matching --manifests"
        )
    return Labelled(name, study_ids, labels[first.to_numpy(dtype=int)] >= 0.5, path)


def write_predictions(path: Path, study_id: np.ndarray, probabilities: np.ndarray) -> None:
    """Write `study_id` and 17 probability columns, each number with all the digits it takes to read it back exactly.

    Parameters
    ----------
    path : Path
        The predictions file.
    study_id : ndarray int64 (records,)
        In the order of the rows.
    probabilities : ndarray (records, 17)
        From 0 to 1.
    """
    table = pd.DataFrame(probabilities, columns=list(LABELS))
    table.insert(0, "study_id", study_id)
    write_table(path, table)


def read_predictions(path: Path, study_ids: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Read a predictions file.

    Parameters
    ----------
    path : Path
        `study_id`, then 17 probability columns named by label (further columns are ignored).
    study_ids : ndarray (records,), optional
        The records wanted, and their order (default: those of the file, in its order).

    Returns
    -------
    study_id : ndarray int64 (records,)
    probabilities : ndarray float64 (records, 17)

    Raises
    ------
    UserError
        A column is missing, a value is no probability, a duplicate study, or the studies are not those wanted.
    """
    table = read_table(path, {"study_id": "int64", **dict.fromkeys(LABELS, "float64")})
    refuse_duplicates(path, table, "study_id")
    values = table[list(LABELS)].to_numpy()
    _refuse_rows(path, table["study_id"], ~((values >= 0) & (values <= 1)), "a probability is from 0 to 1")
    if study_ids is None:
        return table["study_id"].to_numpy(), values
    present = pd.Index(table["study_id"])
    missing, unknown = ~np.isin(study_ids, present), ~np.isin(present, study_ids)
    if missing.any() or unknown.any():
        first = f"study {study_ids[missing][0]} is missing" if missing.any() else f"study {present[unknown][0]} is not"
        raise UserError(
            f"{path}: {first} {'' if missing.any() else 'among the evaluated records '}({missing.sum():,} missing, "
            f"{unknown.sum():,} unknown); it must hold the {len(study_ids):,} evaluated records "
            "(a file made with --max-samples needs the same --max-samples)"
        )
    return study_ids, values[present.get_indexer(study_ids)]


def _refuse_rows(path: Path, study_id: pd.Series, wrong: np.ndarray, rule: str) -> None:
    if wrong.any():
        row, column = (int(place[0]) for place in np.nonzero(wrong))
        raise UserError(
            f"{path}: study {study_id.iloc[row]}, column {LABELS[column]!r} (line {study_id.index[row]}): {rule}"
        )


def read_patients(record_list: Path) -> pd.Series:
    """Return the patient of every record of the record list: subject_id (int64), indexed by study_id.

    Raises
    ------
    UserError
        As `read_studies`.
    """
    studies = read_studies(record_list, need_patients=True, otherwise="give another --record-list")
    return studies.set_index("study_id")["subject_id"]


def patient_overlap(meta: Path, patient_of: pd.Series, evaluated: np.ndarray, split: str) -> dict[str, int]:
    """Count what must be 0 in an honest evaluation, by the split table.

    Parameters
    ----------
    meta : Path
        meta_split.csv.
    patient_of : Series
        As `read_patients`.
    evaluated : ndarray int64 (records,)
        The evaluated studies.
    split : str
        The split they should be in: test or valid.

    Returns
    -------
    dict
        `elsewhere`: evaluated records in another split; `unlisted`: evaluated records that the table does not have;
        `patients`: evaluated patients with a record in another split.
    """
    study_id, code = read_splits(meta)
    others = study_id[code != SPLITS.index(split)]
    patients = patient_of.reindex(evaluated).unique()
    return {
        "elsewhere": int(np.isin(evaluated, others).sum()),
        "unlisted": int((~np.isin(evaluated, study_id)).sum()),
        "patients": int(np.isin(patients, patient_of.reindex(others).to_numpy()).sum()),
    }

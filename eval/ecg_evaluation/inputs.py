"""What an evaluation reads: the labelled records of the test set and of the valid split, predictions, patients."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ecg_finetune.files import UserError, short_repr
from ecg_finetune.label_set import LabelSet, difference, read_label_names, read_label_set
from ecg_finetune.paths import inside
from ecg_finetune.segments import read_label_rows, read_manifest, read_study_of_segment, segment_of_file
from ecg_finetune.studies import SPLITS, find_rows, read_splits, read_studies
from ecg_finetune.tables import read_header, read_table, refuse_duplicates, write_table


@dataclass(frozen=True)
class Labelled:
    """Records and their labels."""

    name: str  # of the set, as it stands in the names of the files written
    study_id: np.ndarray  # int64 (records,)
    truth: np.ndarray  # float64 (records, labels): 1, 0, or NaN where it is unknown
    labels: LabelSet
    source: Path  # the file the labels came from

    def rows(self, chosen: np.ndarray) -> "Labelled":
        """Return the records that a bool or int array chooses."""
        return dataclasses.replace(self, study_id=self.study_id[chosen], truth=self.truth[chosen])


def read_test_set(folder: Path, max_samples: int | None) -> Labelled:
    """Read the labels of the test set, of the first `max_samples` records only where that is given.

    Raises
    ------
    UserError
        The folder or its table is missing or damaged, a label is neither 0 nor 1 nor empty, or the table's columns are
        not the labels of label_def.csv beside it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no test set; run build/scripts/build_test_and_finetune_data.py first")
    path = inside(folder, "test_labels")
    labels = test_label_set(folder)
    table = read_table(path, {"idx": "int64", **dict.fromkeys(labels.names, "float64")})
    refuse_duplicates(path, table, "idx")
    table = table.iloc[:max_samples]
    truth = table[list(labels.names)].to_numpy()
    wrong = ~(np.isin(truth, (0, 1)) | np.isnan(truth))
    _refuse_rows(path, table["idx"], labels.names, wrong, "a label must be 0, 1 or empty")
    return Labelled(folder.resolve().name, table["idx"].to_numpy(), truth, labels, path)


def studies_of_test_set(folder: Path) -> np.ndarray:
    """Return the records of the test set, int64 (records,)."""
    return read_table(inside(folder, "test_labels"), {"idx": "int64"})["idx"].to_numpy()


def test_label_set(folder: Path) -> LabelSet:
    """Return the labels of a test set: those of label_def.csv, which must be the columns of test_labels.csv."""
    path, definition = inside(folder, "test_labels"), inside(folder, "test_label_def")
    labels = read_label_set(definition)
    if other := difference(read_label_names(path), "its columns", labels.names, definition.name):
        raise UserError(f"{path}: other labels than {definition.name} beside it: {other}; run the build stage again")
    return labels


def refuse_unlabelled(records: Labelled) -> None:
    """Refuse records of which no label is known: there is nothing to compare a prediction with."""
    if np.isnan(records.truth).all():
        raise UserError(
            f"{records.source}: no label is known of any of the {len(records.study_id):,} records to evaluate; give "
            "records with labels"
        )


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
    rows, order = read_label_rows(folder)
    first = pd.Series(np.arange(len(order)), index=order)
    first = first[~first.index.duplicated()].reindex(study_ids)
    if first.isna().any():
        unknown = study_ids[int(np.argmax(first.isna().to_numpy()))]
        raise UserError(
            f"{path}: no segment of study {unknown} of the valid predictions; give the matching --manifests"
        )
    rows = rows[first.to_numpy(dtype=int)]
    truth = np.where(np.isnan(rows), np.nan, rows >= 0.5)
    return Labelled(name, study_ids, truth, read_label_set(inside(folder, "manifest_label_def")), path)


def write_predictions(path: Path, names: Sequence[str], study_id: np.ndarray, probabilities: np.ndarray) -> None:
    """Write `study_id` and a column per label, each number with all the digits it takes to read it back exactly.

    Parameters
    ----------
    path : Path
        The predictions file.
    names : sequence of str
        The labels.
    study_id : ndarray int64 (records,)
        In the order of the rows.
    probabilities : ndarray (records, labels)
        From 0 to 1.
    """
    table = pd.DataFrame(probabilities, columns=list(names))
    table.insert(0, "study_id", study_id)
    write_table(path, table)


@dataclass(frozen=True)
class Predictions:
    """What a predictions file holds.

    Of the records or recordings with probabilities `study_id` int64 (n,) and `probabilities` float64 (n, labels). Where
    predict_ecg.py has written it, these are calibrated, and `without` counts the recordings that have none, by status;
    else `without` is None.
    """

    path: Path
    study_id: np.ndarray
    probabilities: np.ndarray
    without: Mapping[str, int] | None = None

    def of(self, study_ids: np.ndarray) -> np.ndarray:
        """Return the probabilities of the studies wanted (records,), in their order: (records, labels).

        Raises
        ------
        UserError
            The file does not hold exactly these studies; one of predict_ecg.py may hold more.
        """
        missing, unknown = ~np.isin(study_ids, self.study_id), ~np.isin(self.study_id, study_ids)
        if missing.any() or (unknown.any() and self.without is None):
            first = study_ids[missing][0] if missing.any() else self.study_id[unknown][0]
            told = f"study {first} is missing" if missing.any() else f"study {first} is not among the evaluated records"
            raise UserError(
                f"{self.path}: {told} ({missing.sum():,} missing, {unknown.sum():,} unknown); it must hold the "
                f"{len(study_ids):,} evaluated records (a file made with --max-samples needs the same --max-samples)"
            )
        return self.probabilities[pd.Index(self.study_id).get_indexer(study_ids)]


def read_predictions(path: Path, names: Sequence[str], record_list: Path | None = None) -> Predictions:
    """Read a predictions file.

    Parameters
    ----------
    path : Path
        `study_id` and a probability column per label (further columns are ignored). Without `study_id`, a table of
        predict_ecg.py: `recording` and `status`; the recordings whose status is not ok have no probabilities.
    names : sequence of str
        The labels.
    record_list : Path, optional
        Where the recordings of such a table have their study_id.

    Raises
    ------
    UserError
        A column is missing, a value is no probability, a duplicate study, or a recording that the record list does not
        have.
    """
    header = read_header(path)
    by_recording = "study_id" not in header and "recording" in header
    keys = {"recording": "str", "status": "str"} if by_recording else {"study_id": "int64"}
    table = read_table(path, {**keys, **dict.fromkeys(names, "float64")})
    without = None
    if by_recording:
        without = table.loc[table["status"] != "ok", "status"].value_counts().to_dict()
        table = table[table["status"] == "ok"]
        table.insert(0, "study_id", studies_of_recordings(path, table["recording"], record_list))
    refuse_duplicates(path, table, "study_id")
    values = table[list(names)].to_numpy()
    _refuse_rows(path, table["study_id"], names, ~((values >= 0) & (values <= 1)), "a probability is from 0 to 1")
    return Predictions(path, table["study_id"].to_numpy(), values, without)


def studies_of_recordings(path: Path, recordings: pd.Series, record_list: Path | None) -> np.ndarray:
    """Return the study_id of recordings, int64 (recordings,): each is the `path` or the `name` of a record.

    The ending of a file does not matter, nor the folders above it where its name alone tells the record.

    Raises
    ------
    UserError
        There is no record list, it does not have a recording, or has several that it may be.
    """
    if record_list is None or not record_list.exists():
        raise UserError(f"{path}: has no study_id; give the list that says which study a recording is as --record-list")
    kinds = [kind for kind in ("path", "name") if kind in read_header(record_list)]
    records = read_table(record_list, {"study_id": "int64", **dict.fromkeys(kinds, "str")})
    studies: dict[str, set[int]] = {}
    for kind in kinds:
        for study, text in zip(records["study_id"].tolist(), records[kind]):
            for key in {text, str(Path(text).with_suffix("")), Path(text).stem} - {""}:
                studies.setdefault(key, set()).add(study)
    found = []
    for line, recording in recordings.items():
        file = Path(recording)
        keys = (recording, str(file.with_suffix("")) if file.name else recording, file.stem)
        matches = next((studies[key] for key in keys if key in studies), set())
        if len(matches) != 1:
            several = "several records" if matches else "no record"
            raise UserError(
                f"{path}: line {line} has recording {short_repr(recording)}, which is {several} of {record_list}; add "
                "a study_id column, or give the record list that the recordings are of"
            )
        found += matches
    return np.array(found, dtype=np.int64)


def _refuse_rows(path: Path, study_id: pd.Series, names: Sequence[str], wrong: np.ndarray, rule: str) -> None:
    if wrong.any():
        row, column = (int(place[0]) for place in np.nonzero(wrong))
        raise UserError(
            f"{path}: study {study_id.iloc[row]}, column {names[column]!r} (line {study_id.index[row]}): {rule}"
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

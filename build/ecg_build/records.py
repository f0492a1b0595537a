"""Which records are built: those of meta_split.csv that preprocess brought through and that have labels."""

import collections
import hashlib
import zlib
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ecg_finetune.command_line import UserError
from ecg_finetune.diagnoses import LABELS
from ecg_finetune.paths import save_file_name
from ecg_finetune.run_folder import beside, finished_files
from ecg_finetune.tables import SPLITS, find_rows, iterate_rows, read_splits

NO_LABELS = "no_labels"
NOT_PREPROCESSED = "not_preprocessed"


@dataclass(frozen=True)
class Records:
    """The records to build, in the one order of all outputs: train, valid, test, each as in meta_split.csv.

    `study_id` int64 (records,), `split` int8 (records,) the position in `SPLITS`, `labels` uint8 (records, 17),
    `digest` of ids, splits and signal figures.
    """

    study_id: np.ndarray
    split: np.ndarray
    labels: np.ndarray
    digest: str

    def counts(self) -> dict[str, int]:
        """Return how many records each split has."""
        return {name: int(np.count_nonzero(self.split == code)) for code, name in enumerate(SPLITS)}

    def of_split(self, name: str) -> "Records":
        """Return the records of one split."""
        some = self.split == SPLITS.index(name)
        return Records(self.study_id[some], self.split[some], self.labels[some], self.digest)


@dataclass(frozen=True)
class LeftOut:
    """The records of meta_split.csv that are not built: `reason` is preprocess's status, `no_labels` or
    `not_preprocessed`."""

    study_id: np.ndarray
    split: np.ndarray
    reason: list[str]

    def counts(self) -> dict[str, int]:
        """Return how many records were left out for each reason, most frequent first."""
        return dict(collections.Counter(self.reason).most_common())

    def rows(self):
        """Yield `save_file, study_id, split, reason`."""
        for study, split, reason in zip(self.study_id.tolist(), self.split.tolist(), self.reason, strict=True):
            yield save_file_name(study), study, SPLITS[split], reason


def read_records(meta: Path, preprocessed: Path, labels_folder: Path) -> tuple[Records, LeftOut]:
    """Join meta_split.csv, the report of preprocess and the labels.

    Raises
    ------
    UserError
        An input is missing or contradicts itself, a 10 s file that the report calls ok is not there, or no record is
        left.
    """
    study_id, split = read_splits(meta)
    reason, figures = read_report(beside(preprocessed, ".report.csv"), study_id)
    labelled, all_labels = read_study_labels(labels_folder)
    place, found = find_rows(labelled, study_id)
    for index in np.flatnonzero(~found).tolist():
        reason[index] = NO_LABELS if reason[index] == "ok" else reason[index]
    good = np.array([status == "ok" for status in reason])
    if not good.any():
        raise UserError(
            f"{meta}: none of its {len(good):,} records has both a 10 s file in {preprocessed} and labels in "
            f"{labels_folder} (first: {reason[0]}); check that the three belong to the same data"
        )
    _refuse_missing_files(preprocessed, study_id[good])
    order = np.flatnonzero(good)[np.argsort(split[good], kind="stable")]
    digest = hashlib.sha256(study_id[order].tobytes() + split[order].tobytes() + figures[order].tobytes())
    records = Records(study_id[order], split[order], all_labels[place[order]], digest.hexdigest()[:16])
    left_out = LeftOut(study_id[~good], split[~good], [status for status in reason if status != "ok"])
    return records, left_out


def read_report(path: Path, study_id: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Read preprocess's report.

    Returns
    -------
    statuses : list of str
        Of each given record; `not_preprocessed` where the report has no row.
    figures : ndarray (records,)
        uint32, a checksum of each record's signal figures.
    """
    studies, statuses, figures = array("q"), [], array("L")
    known: dict[str, str] = {}  # one string per status instead of one per row
    for line, (study, status, *values) in iterate_rows(
        path, ["study_id", "status", "rate", "mean_mv", "std_mv", "mat_bytes"]
    ):
        studies.append(_integer(path, line, "study_id", study))
        statuses.append(known.setdefault(status, status))
        figures.append(zlib.crc32(",".join(values).encode()))
    position, found = find_rows(np.array(studies, dtype=np.int64), study_id)
    picked = [
        statuses[place] if there else NOT_PREPROCESSED
        for place, there in zip(position.tolist(), found.tolist(), strict=True)
    ]
    if not figures:
        return picked, np.zeros(len(study_id), dtype=np.uint32)
    return picked, np.array(figures, dtype=np.uint32)[position]


def read_study_labels(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the labels of every study: labels.csv says them by idx, study_id_mapping.csv whose each idx is.

    Returns
    -------
    study_id : ndarray (studies,)
        int64.
    labels : ndarray (studies, 17)
        uint8, 0 or 1.
    """
    labels_path, mapping_path = Path(folder, "labels.csv"), Path(folder, "study_id_mapping.csv")
    row_idx, labels = array("q"), bytearray()
    for line, (idx, *values) in iterate_rows(labels_path, ["idx", *LABELS]):
        digits = "".join(values)
        if len(digits) != len(LABELS):  # written as 0.0 and 1.0
            digits = "".join({"0.0": "0", "1.0": "1"}.get(value, value) for value in values)
        if len(digits) != len(LABELS) or digits.strip("01"):
            raise UserError(
                f"{labels_path}: line {line} has a label that is neither 0 nor 1; run the labels stage again"
            )
        row_idx.append(_integer(labels_path, line, "idx", idx))
        labels += digits.encode()
    mapped_idx, studies = array("q"), array("q")
    for line, (idx, study) in iterate_rows(mapping_path, ["idx", "study_id"]):
        mapped_idx.append(_integer(mapping_path, line, "idx", idx))
        studies.append(_integer(mapping_path, line, "study_id", study))
    for path, name, values in (
        (labels_path, "idx", row_idx),
        (mapping_path, "idx", mapped_idx),
        (mapping_path, "study_id", studies),
    ):
        _refuse_twice(path, name, np.array(values, dtype=np.int64))
    row_idx = np.array(row_idx, dtype=np.int64)
    place, found = find_rows(np.array(mapped_idx, dtype=np.int64), row_idx)
    if not found.all():
        raise UserError(
            f"{mapping_path}: has no idx {row_idx[~found][0]}, which {labels_path.name} has; run the labels stage again"
        )
    table = (np.frombuffer(labels, dtype=np.uint8) - ord("0")).reshape(-1, len(LABELS))
    return np.array(studies, dtype=np.int64)[place], table


def _integer(path: Path, line: int, name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{path}: line {line} has {name} {text!r}, which is no number; make the file again") from None


def _refuse_twice(path: Path, name: str, values: np.ndarray) -> None:
    ordered = np.sort(values)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twice):
        raise UserError(f"{path}: {name} {twice[0]} stands twice; remove one of the rows")


def _refuse_missing_files(preprocessed: Path, study_id: np.ndarray) -> None:
    prefix, suffix = save_file_name("*").split("*")

    def study_of(name: str) -> int | None:
        digits = name[len(prefix) : -len(suffix)]
        return int(digits) if name.startswith(prefix) and name.endswith(suffix) and digits.isdecimal() else None

    present, _ = finished_files(preprocessed, study_of)
    missing = study_id[~find_rows(present, study_id)[1]]
    if len(missing):
        raise UserError(
            f"{preprocessed}: {len(missing):,} of the {len(study_id):,} files its report calls ok are not there "
            f"(first: {save_file_name(missing[0])}); run preprocess again, it makes only these"
        )

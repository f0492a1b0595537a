"""The flow of records: how many entered, and were excluded at each stage, for which reason, with which labels.

It is put together from the files that the stages leave. What a file would tell that does not exist is not in the flow.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from ecg_evaluation.inputs import Labelled
from ecg_finetune.label_set import LabelSet
from ecg_finetune.studies import SPLITS, find_rows, read_splits, read_study_labels
from ecg_finetune.tables import read_table

ENTERED, EXCLUDED, EVALUATED = "entered", "excluded", "evaluated"
LISTED, SPLIT, BUILD, EVALUATION = "record list", "split", "preprocess and build", "evaluation"
NOT_LISTED = "in no list of excluded records"

StudyLabels = tuple[np.ndarray, np.ndarray, LabelSet]  # as `read_study_labels`


@dataclass
class Flow:
    """Collects the rows of flow.csv.

    Parameters
    ----------
    labels : StudyLabels or None
        What is known of all studies; None: no labels.
    patient_of : Series or None
        The patient of each study, as `read_patients`; None: not known.
    """

    labels: StudyLabels | None
    patient_of: pd.Series | None
    rows: list[dict] = field(default_factory=list)

    def add(self, stage: str, split: str, outcome: str, reason: str, study_id: np.ndarray) -> None:
        """Add a row about studies int64 (n,)."""
        row = {"stage": stage, "split": split, "outcome": outcome, "reason": reason, "n_records": len(study_id)}
        row["n_patients"] = None
        if self.patient_of is not None:
            row["n_patients"] = self.patient_of.reindex(study_id).nunique()
        if self.labels is not None:
            studies, labels, label_set = self.labels
            place, found = find_rows(studies, study_id)
            row["n_labelled"] = int(found.sum())
            row |= zip(label_set.names, (labels[place[found]] == 1).sum(axis=0).tolist())
        self.rows.append(row)

    def add_excluded(self, stage: str, split: str, study_id: np.ndarray, reason: np.ndarray) -> None:
        """Add a row for each reason of excluded studies (n,), the most frequent first."""
        for name in pd.Series(reason).value_counts().index:
            self.add(stage, split, EXCLUDED, name, study_id[reason == name])


def labels_of_studies(folder: Path) -> StudyLabels | None:
    """Return what the labels stage, or an import, says of all studies; None where the folder has no labels."""
    return read_study_labels(folder) if (folder / "labels.csv").is_file() else None


def read_excluded(path: Path, columns: list[str]) -> pd.DataFrame:
    """Return `study_id` (int64) and text columns of a list of excluded records, each once; empty where none is."""
    kinds = {"study_id": "int64", **dict.fromkeys(columns, "str")}
    # A list without rows is that of a run that excluded nothing.
    if not path.is_file() or sum(1 for _ in path.open("rb")) < 2:
        return pd.DataFrame(
            {name: pd.Series(dtype=kind if kind == "int64" else object) for name, kind in kinds.items()}
        )
    return read_table(path, kinds).drop_duplicates("study_id")


def flow_table(
    evaluated: Labelled,
    test_set: np.ndarray,
    not_evaluated: str,
    split: str,
    labels: StudyLabels | None,
    patient_of: pd.Series | None,
    files: dict[str, Path],
) -> pd.DataFrame:
    """Return flow.csv.

    Parameters
    ----------
    evaluated : Labelled
        The records that are evaluated.
    test_set : ndarray int64 (n,)
        The records that could have been: the test set, or the valid split.
    not_evaluated : str
        Why the others of these are not.
    split : {"test", "valid"}
        Which of the two they are.
    labels, patient_of
        As in `Flow`.
    files : dict
        `meta` (meta_split.csv), `split_left_out`, `left_out`: the lists of the split and build stages.

    Returns
    -------
    DataFrame
        `stage`, `split`, `outcome` (entered, excluded, evaluated), `reason`, `n_records`, `n_patients` (empty: not
        known), and where labels are known `n_labelled`, the records that have labels, and per label how many have it.
    """
    flow = Flow(labels, patient_of)
    given = read_splits(files["meta"]) if files["meta"].exists() else None
    if patient_of is not None:
        listed = patient_of.index.to_numpy()
        flow.add(LISTED, "", ENTERED, "", listed)
        if given is not None:
            without = np.setdiff1d(listed, given[0])
            told = read_excluded(files["split_left_out"], ["reason"])
            reason = told.set_index("study_id")["reason"].reindex(without).fillna(NOT_LISTED).to_numpy()
            flow.add_excluded(SPLIT, "", without, reason)
    if given is not None:
        told = read_excluded(files["left_out"], ["split", "reason"])
        for code, name in enumerate(SPLITS):
            flow.add(SPLIT, name, ENTERED, "", given[0][given[1] == code])
        for code, name in enumerate(SPLITS):
            own = told[np.isin(told["study_id"], given[0][given[1] == code])]
            if name == split:
                # A list of an earlier run may still have what this one could use.
                own = own[~np.isin(own["study_id"], test_set)]
            missing = own["study_id"].to_numpy(), own["reason"].to_numpy()
            flow.add_excluded(BUILD, name, *missing)
            if name == split:
                rest = np.setdiff1d(given[0][given[1] == code], np.concatenate((missing[0], test_set)))
                flow.add_excluded(BUILD, name, rest, np.full(len(rest), NOT_LISTED))
    rest = np.setdiff1d(test_set, evaluated.study_id)
    flow.add(EVALUATION, split, ENTERED, "", test_set)
    flow.add_excluded(EVALUATION, split, rest, np.full(len(rest), not_evaluated))
    flow.add(EVALUATION, split, EVALUATED, "", evaluated.study_id)
    table = pd.DataFrame(flow.rows)
    return table.astype({"n_patients": "Int64"})


def split_counts(table: pd.DataFrame, split: str, names: tuple[str, ...]) -> tuple[int, np.ndarray] | None:
    """Return how many records a split has and how many of them have each label; None where flow.csv does not tell."""
    own = table[(table["stage"] == SPLIT) & (table["split"] == split) & (table["outcome"] == ENTERED)]
    if own.empty or not set(names) <= set(own):
        return None
    return int(own["n_records"].iloc[0]), own[list(names)].to_numpy(dtype=int)[0]

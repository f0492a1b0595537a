"""Other definitions of the same labels: does a result hang on how machine statements are read?

The labels stage leaves the probability of each label and, where its two policies disagree, that of both. From these:

* policy ecg-fm: any mention is positive, as ECG-FM has it, "possible" and some negated findings included;
* policy asserted: each statement on its own, negated findings excluded, "possible" still positive;
* definite only: positive where policy asserted is certain (probability 1); "possible" is negative;
* uncertain excluded: the same, but a label that is merely possible or probable is unknown for that record.
"""

from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ecg_evaluation.metrics import Scored
from ecg_evaluation.results import Evaluation
from ecg_evaluation.variants import variants_table
from ecg_finetune.files import UserError, read_array
from ecg_finetune.label_set import read_label_names
from ecg_finetune.lineage import read_lineage
from ecg_finetune.paths import inside
from ecg_finetune.studies import find_rows
from ecg_finetune.tables import integer, iterate_rows, number

POLICIES = ("ecg-fm", "asserted")
DEFINITE, EXCLUDED = "definite only", "uncertain excluded"
FILES = ("labels", "study_id_mapping", "y_soft", "policy_differences")


@dataclass(frozen=True)
class Definitions:
    """What the labels stage knows of some records: the probabilities under each policy, float32 (records, labels)."""

    names: tuple[str, ...]
    policy: str  # of the run
    soft: dict[str, np.ndarray]

    @property
    def truths(self) -> dict[str, np.ndarray]:
        """Definition to truth, float64 (records, labels): 1, 0, or NaN where it is unknown."""
        asserted = self.soft["asserted"]
        truths = {f"policy {policy}": (self.soft[policy] > 0).astype(float) for policy in POLICIES}
        truths[DEFINITE] = (asserted == 1).astype(float)
        truths[EXCLUDED] = np.where((asserted > 0) & (asserted < 1), np.nan, asserted)
        return truths


def definition_files(folder: Path) -> list[Path]:
    """Return the files that `read_definitions` reads."""
    return [inside(folder, name) for name in FILES]


def read_definitions(folder: Path, study_id: np.ndarray) -> Definitions | None:
    """Read the definitions of the labels of studies int64 (records,).

    Returns
    -------
    Definitions or None
        None where the folder does not hold them, as that of an imported data set, or lacks one of the studies.

    Raises
    ------
    UserError
        A file is damaged, or they are of different runs.
    """
    labels, mapping, y_soft, differing = definition_files(folder)
    if not all(path.exists() for path in (labels, mapping, y_soft, differing)):
        return None
    found = read_lineage("labels", inside(folder, "labels_lineage"), [mapping, y_soft, differing])
    policy = found.get("settings", {}).get("--policy")
    if policy not in POLICIES:
        return None
    names = read_label_names(labels)
    idx, studies = array("q"), array("q")
    for line, (row, study) in iterate_rows(mapping, ["idx", "study_id"]):
        idx.append(integer(mapping, line, "idx", row))
        studies.append(integer(mapping, line, "study_id", study))
    # A study of two rows has the same labels in both, or the build stage would have refused it.
    idx, (studies, first) = np.array(idx), np.unique(np.array(studies, dtype=np.int64), return_index=True)
    place, there = find_rows(studies, study_id)
    if not there.all():
        return None
    rows = idx[first[place]]
    every = read_array(y_soft)
    if every.ndim != 2 or every.shape[1] != len(names) or every.dtype.kind != "f" or rows.max() >= len(every):
        raise UserError(
            f"{y_soft}: of shape {every.shape}, which is not that of {labels.name}; run the labels stage again"
        )
    soft = {name: every[rows].copy() for name in POLICIES}
    wanted = {row: place for place, row in enumerate(rows.tolist())}
    for line, (row, label, *values) in iterate_rows(differing, ["idx", "label", *POLICIES]):
        place = wanted.get(integer(differing, line, "idx", row))
        if label not in names:
            raise UserError(
                f"{differing}: line {line} has label {label!r}, which is none of them; run the labels stage again"
            )
        if place is not None:
            for name, value in zip(POLICIES, values):
                soft[name][place, names.index(label)] = number(differing, line, name, value)
    return Definitions(names, policy, soft)


def definitions_table(results: Evaluation, definitions: Definitions) -> pd.DataFrame:
    """Return the metrics under each definition, at the same thresholds; columns as in `variants_table`."""
    columns = [definitions.names.index(name) for name in results.test.labels.names]
    variants, thresholds = {}, results.decisions.thresholds
    for name, every in definitions.truths.items():
        truth = every[:, columns]
        if np.array_equal(truth, results.test.truth):
            variants[name] = results.scored
        else:
            variants[name] = Scored(truth, results.probabilities, thresholds, results.unit, pooled=False)
    return variants_table(results, "definition", variants)

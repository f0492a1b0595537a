"""The label set: names and their order, how segments combine, and the counts and weights files hold about labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ecg_finetune.files import UserError, read_text, replacing
from ecg_finetune.tables import number

# pandas is imported where it is used: it takes long to import.
if TYPE_CHECKING:
    import pandas as pd

# ECG-FM's 17 labels, in the one order that every file and network output uses.
LABELS = (
    "Poor data quality",
    "Sinus rhythm",
    "Premature ventricular contraction",
    "Tachycardia",
    "Ventricular tachycardia",
    "Supraventricular tachycardia with aberrancy",
    "Atrial fibrillation",
    "Atrial flutter",
    "Bradycardia",
    "Accessory pathway conduction",
    "Atrioventricular block",
    "1st degree atrioventricular block",
    "Bifascicular block",
    "Right bundle branch block",
    "Left bundle branch block",
    "Infarction",
    "Electronic pacemaker",
)

# A few abnormal seconds make the label, so the segment that shows them decides; all other labels take the mean.
COMBINED_BY_MAX = (
    "Poor data quality",
    "Premature ventricular contraction",
    "Ventricular tachycardia",
    "Supraventricular tachycardia with aberrancy",
    "Electronic pacemaker",
)


def label_counts(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count the labels of an array (rows, 17) of 0/1.

    Returns
    -------
    count, pos_percent, pos_weight : ndarray (17,)
        How many rows have the label; the fraction p of rows (as ECG-FM calls it); (1 - p) / p. 0.0 where a label
        never occurs.
    """
    count = np.asarray(labels).astype(bool).sum(axis=0)
    share = count / max(len(labels), 1)
    weight = np.divide(1 - share, share, out=np.zeros_like(share), where=count > 0)
    return count, share, weight


def label_definition(labels: np.ndarray) -> pd.DataFrame:
    """Return `label_counts` as a table: `name,count,pos_percent,pos_weight`."""
    import pandas as pd

    count, share, weight = label_counts(labels)
    return pd.DataFrame({"name": LABELS, "count": count, "pos_percent": share, "pos_weight": weight})


def read_pos_weight(path: Path) -> np.ndarray:
    """Read `pos_weight.txt`: 17 numbers of at least 0 on one line, as float64 (17,).

    Raises
    ------
    UserError
        The file is missing or damaged, or holds another number of weights.
    """
    path = Path(path)
    weights = np.array([number(path, 1, "weight", text) for text in read_text(path, "the build stage").split()])
    if weights.shape != (len(LABELS),) or not (weights >= 0).all():
        raise UserError(f"{path}: must hold {len(LABELS)} numbers of at least 0; run the build stage again")
    return weights


def write_pos_weight(path: Path, weights: np.ndarray) -> None:
    """Write 17 numbers with 8 decimals on one line, as fairseq-hydra-train's command reads them."""
    with replacing(path) as temporary:
        temporary.write_text(" ".join(f"{weight:.8f}" for weight in weights) + "\n")

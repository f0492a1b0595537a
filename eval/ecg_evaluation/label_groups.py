"""Labels of a kind, and macro averages of them: with and without what Lead I cannot show."""

import numpy as np
import pandas as pd

from ecg_evaluation.intervals import macro
from ecg_evaluation.metrics import METRICS
from ecg_evaluation.results import Evaluation

RHYTHM, CONDUCTION, NOT_VISIBLE, OTHER, ALL = "rhythm", "conduction", "not visible in Lead I", "other", "all labels"
# Infarction shows in the leads that face it, and quality is that of all twelve leads.
GROUPS = {
    RHYTHM: (
        "Sinus rhythm",
        "Premature ventricular contraction",
        "Tachycardia",
        "Ventricular tachycardia",
        "Supraventricular tachycardia with aberrancy",
        "Atrial fibrillation",
        "Atrial flutter",
        "Bradycardia",
        "Electronic pacemaker",
    ),
    CONDUCTION: (
        "Accessory pathway conduction",
        "Atrioventricular block",
        "1st degree atrioventricular block",
        "Bifascicular block",
        "Right bundle branch block",
        "Left bundle branch block",
    ),
    NOT_VISIBLE: ("Infarction", "Poor data quality"),
}
SHOWN = ("auroc", "auprc", "recall", "precision", "f1", "specificity")


def group_of(label: str) -> str:
    """Return the group of a label.

    >>> group_of("Infarction"), group_of("Hypertrophy")
    ('not visible in Lead I', 'other')
    """
    return next((group for group, labels in GROUPS.items() if label in labels), OTHER)


def label_groups_table(results: Evaluation) -> pd.DataFrame:
    """Return macro averages of each group of labels, of all, and of all that Lead I can show.

    Returns
    -------
    DataFrame
        A row per group that has labels: `group`, `n_labels` (those with enough patients, which the mean is over),
        `labels` (their names, joined by "; "), then metrics with `_low` and `_high`.
    """
    enough = results.table["few_patients"][:-2].eq(0).fillna(False).to_numpy(dtype=bool)
    own = np.array([group_of(name) for name in results.test.labels.names])
    rows = {group: own == group for group in (*GROUPS, OTHER) if (own == group).any()}
    rows[ALL] = np.ones(len(own), bool)
    if NOT_VISIBLE in rows:
        rows[f"{ALL} but those {NOT_VISIBLE}"] = own != NOT_VISIBLE
    lines = []
    for group, members in rows.items():
        included = members & enough
        value, low, high = macro(results.estimates, included, logits=True)
        names = [name for name, there in zip(results.test.labels.names, included) if there]
        line = {"group": group, "n_labels": len(names), "labels": "; ".join(names)}
        for metric in SHOWN:
            place = METRICS.index(metric)
            line |= {metric: value[place], f"{metric}_low": low[place], f"{metric}_high": high[place]}
        lines.append(line)
    return pd.DataFrame(lines)

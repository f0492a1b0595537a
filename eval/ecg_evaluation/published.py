"""Published Lead-I results of another fine-tuning of ECG-FM, measured on ECG-FM's own test split.

They stand in published_lead1.csv: AUROC and AUPRC, and how many of the 78,370 records have each label. The comparison
is one only where the evaluated records are those of that split: as many records, as many with each label.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from ecg_evaluation.intervals import AREAS
from ecg_evaluation.results import MACRO, MICRO, Evaluation

TABLE = Path(__file__).with_name("published_lead1.csv")
RECORDS = 78_370
LEAST_EVALUATED = 0.99  # of the split's records: some have a Lead I that is not usable
ABOVE, WITHIN, BELOW, OTHER_DATA = "above", "within", "below", "other data"
OTHER_LABELS = "a mean over other labels"
SOURCE = "another Lead-I fine-tuning of ECG-FM, on ECG-FM's own test split (78,370 records)"


def published_results() -> pd.DataFrame:
    """Return `n_pos`, `auroc` and `auprc` by label, `__macro__` and `__micro__` included; NaN what is not published."""
    return pd.read_csv(TABLE).set_index("label")


def is_published_split(names: tuple[str, ...], records: int, positives: np.ndarray) -> bool:
    """Tell whether a test split of so many records, `positives` (labels,) of them with each label, is ECG-FM's."""
    theirs = published_results()["n_pos"].dropna()
    return records == RECORDS and dict(zip(names, positives.tolist())) == theirs.to_dict()


def published_table(results: Evaluation, same_split: bool) -> pd.DataFrame | None:
    """Return the published results beside ours.

    Returns
    -------
    DataFrame or None
        A row per label that both have, and for the averages where the label sets are the same: `label`, `n_pos`,
        `n_pos_published`, and for AUROC and AUPRC the value with `_low` and `_high`, `_published` and `_relation`: our
        interval lies "above" the published value, has it "within", or lies "below"; "other data" on other records, and
        "a mean over other labels" where our macro average is without some of them; `few_patients`. None where no label
        is among the published ones.
    """
    published = published_results()
    averages = {MACRO, MICRO} if set(published.index) - {MACRO, MICRO} == set(results.test.labels.names) else set()
    shown = results.table[results.table["label"].isin((set(published.index) - {MACRO, MICRO}) | averages)]
    if shown["label"].isin(averages).all():
        return None
    theirs = published.reindex(shown["label"])
    table = shown[["label", "n_pos"]].reset_index(drop=True)
    table["n_pos_published"] = theirs["n_pos"].astype("Int64").array
    for metric in AREAS:
        value, low, high = (shown[f"{metric}{end}"].to_numpy(dtype=float) for end in ("", "_low", "_high"))
        other = theirs[metric].to_numpy()
        relation = np.select([other < low, other > high, np.isnan(low) | np.isnan(other)], [ABOVE, BELOW, ""], WITHIN)
        table[metric], table[f"{metric}_low"], table[f"{metric}_high"] = value, low, high
        table[f"{metric}_published"] = other
        of_labels = results.table[~results.table["label"].isin((MACRO, MICRO))]
        if (of_labels["few_patients"].ne(0) | of_labels[metric].isna()).any():
            relation = np.where(shown["label"] == MACRO, OTHER_LABELS, relation)
        table[f"{metric}_relation"] = relation if same_split else np.where(np.isnan(other), "", OTHER_DATA)
    table["few_patients"] = shown["few_patients"].array
    return table

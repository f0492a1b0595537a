"""The same model measured in several ways side by side: other estimands, other definitions of the labels."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ecg_evaluation.bootstrap import replicates
from ecg_evaluation.intervals import estimate
from ecg_evaluation.metrics import METRICS, Scored
from ecg_evaluation.results import MACRO, MICRO, Evaluation, counts, few_patients, with_macro

SHOWN = ("auroc", "auprc", "recall", "precision", "specificity")


def variants_table(results: Evaluation, by: str, variants: Mapping[str, Scored]) -> pd.DataFrame:
    """Return AUROC, AUPRC and what the thresholds give, with intervals, of each variant.

    Parameters
    ----------
    results : Evaluation
        The evaluation, whose resamples and rule on few patients hold for all.
    by : str
        The column that names the variant.
    variants : mapping
        Name to predictions; without a micro average where the areas of all decisions pooled are not computed for one.

    Returns
    -------
    DataFrame
        A row per variant and label, with macro and micro averages: `by`, `label`, `n_pos`, `n_neg`, `n_unknown`, the
        metrics with `_low` and `_high`, `few_patients`. Macro averages are over the labels that have enough patients
        in every variant; `n_labels` says how many these are.
    """
    few = {name: few_patients(scored, results.min_patients) for name, scored in variants.items()}
    any_few = np.any(list(few.values()), axis=0)
    tables = []
    for name, scored in variants.items():
        estimates = results.estimates
        if scored is not results.scored:
            estimates = estimate(scored, replicates(scored, len(results.estimates.drawn), f"resamples, {name}"))
        values = with_macro(estimates, any_few, logits=True)
        table = pd.DataFrame({by: name, "label": [*results.test.labels.names, MACRO, MICRO]})
        table["n_pos"], table["n_neg"], table["n_unknown"] = (
            counts(scored) if not scored.equal_units else known_of(results)
        )
        for metric in SHOWN:
            for end, column in zip(("", "_low", "_high"), values):
                table[f"{metric}{end}"] = column[:, METRICS.index(metric)]
        table["few_patients"] = pd.Series([*few[name][:-1], None, few[name][-1]], dtype="Int64")
        table["n_labels"] = pd.Series([None] * (len(table) - 2) + [int((~any_few[:-1]).sum()), None], dtype="Int64")
        tables.append(table)
    table = pd.concat(tables, ignore_index=True)
    return table if all(scored.pooled for scored in variants.values()) else table[table["label"] != MICRO]


def known_of(results: Evaluation) -> np.ndarray:
    """Return positives, negatives and unknown as in metrics.csv: (3, labels + 2); 0 where no record knows a label."""
    return results.table[["n_pos", "n_neg", "n_unknown"]].fillna(0).to_numpy(dtype=int).T

"""What each label's operating points give on the evaluated records, and predictive values where a label is rarer.

Highest F1 is a convention: F1 ignores true negatives, depends on the prevalence, is no proper score and weighs the
harms of no decision. The other operating points say what they are for: a sensitivity or a specificity to reach.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from ecg_evaluation.bootstrap import resampled_sums
from ecg_evaluation.intervals import share_interval
from ecg_evaluation.metrics import rates, ratios, unit_sums
from ecg_evaluation.results import Evaluation

SHARES = ("recall", "specificity", "precision", "npv")
COUNTS = ("tp", "fp", "fn", "tn")
MEASURED, PREDICTIVE = ("recall", "specificity"), ("ppv", "npv")


def rules(results: Evaluation) -> dict[str, np.ndarray]:
    """Return the thresholds (labels,) of every rule: the one of the evaluation first."""
    rule = results.decisions.rule
    name = f"fixed {rule:g}" if isinstance(rule, float) else rule or "as given"
    return {name: results.decisions.thresholds, **results.decisions.further}


def counted(results: Evaluation) -> Iterator[tuple[dict, np.ndarray]]:
    """Yield of each rule and label its row (`label`, `rule`, `threshold`) and its counts per unit: (units, 4)."""
    truth, units = results.test.truth, int(results.unit.max()) + 1
    for rule, thresholds in rules(results).items():
        for label in np.flatnonzero(results.annotated & ~np.isnan(thresholds)):
            known = ~np.isnan(truth[:, label])
            positive = truth[known, label] == 1
            decided = results.probabilities[known, label] >= thresholds[label]
            cells = (positive & decided, ~positive & decided, positive & ~decided, ~positive & ~decided)
            row = {"label": results.test.labels.names[label], "rule": rule, "threshold": thresholds[label]}
            yield row, unit_sums(np.stack(cells, axis=1), results.unit[known], units)


def operating_tables(results: Evaluation, prevalences: Sequence[float]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the counts and shares of every operating point, and the predictive values at other prevalences.

    For these, sensitivity and specificity are taken as measured, which a population of other patients may not have; see
    `predictive_intervals`.

    Parameters
    ----------
    results : Evaluation
        The evaluation.
    prevalences : sequence of float
        From 0 to 1, both excluded.

    Returns
    -------
    operating_points : DataFrame
        A row per label and rule: `label`, `rule` (that of the evaluation, "sensitivity 0.9", ...), `threshold`, `tp`,
        `fp`, `fn`, `tn`, and recall (sensitivity), specificity, precision (PPV) and NPV with their `_low` and `_high`,
        `few_patients` as in metrics.csv.
    predictive : DataFrame
        A row per label, rule and prevalence: `label`, `rule`, `threshold`, `prevalence`, `ppv` and `npv` with their
        `_low` and `_high`, `few_patients`.
    """
    rows, lines = [], []
    few = results.table.set_index("label")["few_patients"]
    for key, sums in counted(results):
        resampled = resampled_sums(sums, len(results.estimates.drawn))
        whole, drawn, denominators = rates(*sums.sum(axis=0)), rates(*resampled.T), ratios(*sums.T)
        row = key | dict(zip(COUNTS, sums.sum(axis=0).astype(int).tolist()))
        intervals = {share: share_interval(whole[share], drawn[share], denominators[share][1]) for share in SHARES}
        for share, (low, high) in intervals.items():
            row |= {share: float(whole[share]), f"{share}_low": float(low), f"{share}_high": float(high)}
        rows.append(row | {"few_patients": few[row["label"]]})
        measured = [np.array([whole[share], *intervals[share]]) for share in MEASURED]
        for prevalence in prevalences:
            line = key | {"prevalence": prevalence, "few_patients": few[row["label"]]}
            for name, values in zip(PREDICTIVE, predictive_intervals(*measured, prevalence)):
                line |= dict(zip(with_ends([name]), values.tolist()))
            lines.append(line)
    key = ["label", "rule", "threshold"]
    return (
        pd.DataFrame(rows, columns=[*key, *COUNTS, *with_ends(SHARES), "few_patients"]),
        pd.DataFrame(lines, columns=[*key, "prevalence", *with_ends(PREDICTIVE), "few_patients"]),
    )


def with_ends(names: Sequence[str]) -> list[str]:
    """Return the columns of values and of the ends of their intervals."""
    return [f"{name}{end}" for name in names for end in ("", "_low", "_high")]


def predictive_intervals(
    recall: np.ndarray, specificity: np.ndarray, prevalence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return PPV and NPV at a prevalence, from recall and specificity; all are (value, low, high).

    The odds of both are a prior times a ratio of two shares of different records, so that the logarithms add up, and
    the distances to the ends of their intervals as squares (MOVER of Zou and Donner). Where a value is 0 or 1 its ends
    are what those of recall and specificity give.
    """
    values = np.stack(predictive_values(recall, specificity, prevalence))
    missed, alarms = 1 - recall[[0, 2, 1]], 1 - specificity[[0, 2, 1]]  # low, high
    with np.errstate(divide="ignore", invalid="ignore"):
        for result, share, other in zip(values, np.log((recall, specificity)), np.log((alarms, missed))):
            if 0 < result[0] < 1:
                below = np.hypot(share[0] - share[1], other[2] - other[0])
                above = np.hypot(share[2] - share[0], other[0] - other[1])
                result[1:] = expit(logit(result[0]) + np.array([-below, above]))
    return values[0], values[1]


def predictive_values(recall: np.ndarray, specificity: np.ndarray, prevalence: float) -> tuple[np.ndarray, np.ndarray]:
    """Return PPV and NPV at a prevalence; NaN where nothing is predicted, or everything.

    >>> ppv, npv = predictive_values(np.array(0.9), np.array(0.95), 0.02)
    >>> round(float(ppv), 3), round(float(npv), 4)
    (0.269, 0.9979)
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        ppv = prevalence * recall / (prevalence * recall + (1 - prevalence) * (1 - specificity))
        npv = (1 - prevalence) * specificity / ((1 - prevalence) * specificity + prevalence * (1 - recall))
    return ppv, npv

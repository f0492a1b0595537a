"""Operating points: the probability from which on a label is predicted, chosen on the valid split."""

from dataclasses import dataclass

import numpy as np

from ecg_evaluation.metrics import threshold_curve

ROUNDING = 1e-12  # 0.9 of 10 positives are 9, and not 9.000000000000001


def best_threshold(truth: np.ndarray, scores: np.ndarray, rule: str) -> float:
    """Return the score that, taken as threshold ("score >= threshold" is positive), is best by a rule.

    Parameters
    ----------
    truth, scores : ndarray (n,)
        0/1 with at least one of each, and the score of each.
    rule : {"f1", "youden"}
        Highest F1, or highest recall + specificity. Of equally good thresholds the highest.
    """
    thresholds, tp, fp = threshold_curve(truth, scores)
    positives, negatives = tp[-1], fp[-1]
    if rule == "f1":
        return float(thresholds[np.argmax(2 * tp / (tp + fp + positives))])
    # In integers: equal sums of two fractions would differ in their last digits.
    return float(thresholds[np.argmax(tp * negatives - fp * positives)])


def choose_thresholds(truth: np.ndarray, probabilities: np.ndarray, rule: str | float) -> np.ndarray:
    """Return the threshold of each label: float64 (labels,).

    Parameters
    ----------
    truth, probabilities : ndarray (records, labels)
        Of the valid split; truth is NaN where it is unknown.
    rule : str or float
        "f1", "youden", or one number for all labels. A label that is never or always present in the valid split
        cannot choose: it gets 0.5.
    """
    if not isinstance(rule, str):
        return np.full(truth.shape[1], rule)
    thresholds = np.full(truth.shape[1], 0.5)
    for label in np.flatnonzero(has_both(truth)):
        thresholds[label] = best_threshold(*known_cells(truth, probabilities, label), rule)
    return thresholds


MEASURES = ("sensitivity", "specificity")


@dataclass(frozen=True)
class Target:
    """What a threshold is to reach on the valid split: a `share` as "sensitivity" or "specificity" (`measure`)."""

    measure: str
    share: float

    @property
    def rule(self) -> str:
        """Its name in tables."""
        # As many digits as tell it from every other number.
        return f"{self.measure} {np.format_float_positional(self.share)}"

    def threshold(self, truth: np.ndarray, scores: np.ndarray) -> float:
        """Return the threshold that reaches it and costs least of the other measure.

        That is the highest threshold with at least this sensitivity, or the lowest with at least this specificity;
        truth and scores (n,) as in `best_threshold`. NaN where no threshold does.
        """
        thresholds, tp, fp = threshold_curve(truth, scores)
        if self.measure == "sensitivity":
            return float(thresholds[np.argmax(tp >= self.share * tp[-1] * (1 - ROUNDING))])
        reached = np.flatnonzero(fp[-1] - fp >= self.share * fp[-1] * (1 - ROUNDING))
        return float(thresholds[reached[-1]]) if len(reached) else np.nan


def target_thresholds(truth: np.ndarray, probabilities: np.ndarray, target: Target) -> np.ndarray:
    """Return the threshold of each label that reaches a target: float64 (labels,), NaN where there is none.

    Arrays as in `choose_thresholds`.
    """
    thresholds = np.full(truth.shape[1], np.nan)
    for label in np.flatnonzero(has_both(truth)):
        thresholds[label] = target.threshold(*known_cells(truth, probabilities, label))
    return thresholds


def has_both(truth: np.ndarray) -> np.ndarray:
    """Return, per label of truth (records, labels), whether it is present in some and absent from others: (labels,)."""
    return (truth == 1).any(axis=0) & (truth == 0).any(axis=0)


def known_cells(truth: np.ndarray, values: np.ndarray, label: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return truth and values (n,) where truth (records, labels) is not NaN: of one label, or of all pooled."""
    chosen = (slice(None), slice(None) if label is None else label)
    truth, values = truth[chosen].ravel(), values[chosen].ravel()
    known = truth == truth
    return truth[known], values[known]

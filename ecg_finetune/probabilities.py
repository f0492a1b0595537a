"""From logits to calibrated probabilities: what eval measures is what a model that is given away answers.

Without SciPy, as a model folder is used where there is nothing but numpy and onnxruntime.
"""

import numpy as np

from ecg_finetune.label_set import MAX, LabelSet

SMALLEST = 1e-12  # a probability of exactly 0 or 1 has no logit


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities of logits, float64, exact at both ends.

    >>> sigmoid(np.array([-800.0, 0.0, 800.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    power = np.exp(-np.abs(np.asarray(logits, dtype=float)))
    return np.where(np.asarray(logits) >= 0, 1, power) / (1 + power)


def logit(probabilities: np.ndarray) -> np.ndarray:
    """Return the logits of probabilities, float64; those of 0 and 1 as if they were 1e-12 away."""
    clipped = np.clip(np.asarray(probabilities, dtype=float), SMALLEST, 1 - SMALLEST)
    return np.log(clipped) - np.log1p(-clipped)


def can_calibrate(parameters: np.ndarray) -> np.ndarray:
    """Return which of the slopes and intercepts (labels, 2) calibrate: bool (labels,).

    Slope 1 and intercept 0 leave a label as it is. A slope that is not positive would turn the order of the scores
    round, so it is not used.
    """
    return np.isfinite(parameters).all(axis=1) & (parameters[:, 0] > 0) & (parameters != [1.0, 0.0]).any(axis=1)


def calibrate(probabilities: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """Return the calibrated probabilities, float64 (records, labels).

    Parameters
    ----------
    probabilities : ndarray (records, labels)
        As predicted.
    parameters : ndarray (labels, 2)
        Slope and intercept in the logit; a label where they cannot, see `can_calibrate`, is left as it is.
    """
    changed = can_calibrate(parameters)
    return np.where(changed, sigmoid(parameters[:, 0] * logit(probabilities) + parameters[:, 1]), probabilities)


def combine(probabilities: np.ndarray, label_set: LabelSet) -> np.ndarray:
    """Combine the parts of a record, segments or windows: float64 (labels,) of (parts, labels).

    The maximum or the mean, as the label set says of each label.
    """
    by_max = np.array(label_set.combine) == MAX
    return np.where(by_max, probabilities.max(axis=0), probabilities.mean(axis=0))

"""Sigmoid (Platt) calibration, fitted on the valid split.

Training with `pos_weight` shifts probabilities upwards, so they rank well and yet are no frequencies. A sigmoid in the
logit has two parameters per label, which even a rare label can support; isotonic regression would overfit there.
"""

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from ecg_evaluation.thresholds import has_both, known_cells
from ecg_finetune.probabilities import can_calibrate, logit


def fit_sigmoid(truth: np.ndarray, probabilities: np.ndarray) -> tuple[float, float]:
    """Fit slope and intercept of `expit(slope * logit(p) + intercept)` to one label by maximum likelihood.

    As Platt (1999) proposes, the targets are not 0 and 1 but 1 / (n_neg + 2) and (n_pos + 1) / (n_pos + 2): the prior
    that keeps the fit finite when a few positives happen to be separable.

    Parameters
    ----------
    truth, probabilities : ndarray (n,)
        0/1 with at least one of each; predicted probabilities.
    """
    truth = np.asarray(truth).astype(bool)
    scores = logit(probabilities)
    # Fitted on standardised scores: the optimum is the same, and the search well conditioned.
    centre, scale = scores.mean(), scores.std() or 1.0
    scores = (scores - centre) / scale
    positives = truth.sum()
    target = np.where(truth, (positives + 1) / (positives + 2), 1 / (len(truth) - positives + 2))

    def loss_and_gradient(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        z = parameters[0] * scores + parameters[1]
        error = expit(z) - target
        loss = np.logaddexp(0, z) - target * z
        return loss.mean(), np.array([(error * scores).mean(), error.mean()])

    start = np.array([1.0, logit(target.mean())])
    slope, intercept = minimize(loss_and_gradient, start, jac=True, method="BFGS", options={"gtol": 1e-9}).x
    return float(slope / scale), float(intercept - slope * centre / scale)


def fit_calibration(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return slope and intercept of each label, float64 (labels, 2), from truth and probabilities (records, labels).

    Truth is NaN where it is unknown. A label that is never or always present in `truth` is left as it is: slope 1,
    intercept 0.
    """
    parameters = np.tile([1.0, 0.0], (truth.shape[1], 1))
    for label in np.flatnonzero(has_both(truth)):
        parameters[label] = fit_sigmoid(*known_cells(truth, probabilities, label))
    return parameters


def uncalibrate(probabilities: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """Return the probabilities (records, labels) that calibrated ones come from, see `calibrate`."""
    changed = can_calibrate(parameters)
    slope = np.where(changed, parameters[:, 0], 1)
    return np.where(changed, expit((logit(probabilities) - parameters[:, 1]) / slope), probabilities)

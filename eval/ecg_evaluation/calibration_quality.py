"""How well probabilities agree with frequencies, per label, as predicted and calibrated.

* Intercept: how far the logits are off on average (calibration in the large): the intercept of a logistic regression
  of truth with the logit as offset. 0 is right, below 0 the probabilities are too high.
* Slope: that of a logistic regression of truth on the logit. 1 is right, below 1 the probabilities are too extreme.
* Expected / observed: the sum of the probabilities over the number of positive records.
* ECE, the expected calibration error: the mean distance of prediction and frequency over bins of equally many records.

Intervals come from the bootstrap over patients. Both regressions are solved on all records, and for a resample by one
step of Newton's method from there, which needs no more than the sums of scores and Hessians of the patients drawn.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import expit

from ecg_evaluation.bootstrap import resampled_sums
from ecg_evaluation.intervals import rarer_class, share_interval, t_interval
from ecg_evaluation.metrics import unit_sums
from ecg_evaluation.results import Evaluation
from ecg_evaluation.thresholds import has_both
from ecg_finetune.probabilities import logit

BINS = 10
AS_PREDICTED, CALIBRATED = "as predicted", "calibrated"
QUALITIES = ("intercept", "slope", "expected_observed", "ece")
RELIABILITY = ("predicted", "observed", "observed_low", "observed_high")
STEPS, CONVERGED = 50, 1e-10


@dataclass(frozen=True)
class Agreement:
    """What one label's probabilities and truth add up to, per unit.

    `beta` is the intercept of the regression with the logit as offset, and intercept and slope of that on the logit;
    NaN where there is none, as where a threshold separates the classes or all probabilities are equal. `bins` counts
    the records, positives and probabilities of each quantile bin: (units, bins, 3).
    """

    beta: np.ndarray  # (3,)
    steps: np.ndarray  # (units, 7): scores and second derivatives of both regressions
    bins: np.ndarray


def agreement(truth: np.ndarray, probabilities: np.ndarray, unit: np.ndarray, units: int) -> Agreement:
    """Return the sums that calibration is measured by.

    Parameters
    ----------
    truth, probabilities : ndarray (n,)
        0/1 with at least one of each, and predictions.
    unit : ndarray int (n,)
        The unit of each, 0 to `units` - 1.
    units : int
        How many there are.
    """
    x, one = logit(probabilities), np.ones(len(truth))
    large, offset = regression(truth, one[:, None], x)
    full, on_logit = regression(truth, np.column_stack((one, x)), 0)
    error, both_error = truth - offset, truth - on_logit
    weight, both_weight = offset * (1 - offset), on_logit * (1 - on_logit)
    steps = (error, weight, both_error, both_error * x, both_weight, both_weight * x, both_weight * x**2)
    place = quantile_bins(probabilities)
    number = int(place.max()) + 1
    values = np.stack((one, truth, probabilities), axis=1)
    bins = unit_sums(values, unit * number + place, units * number).reshape(units, number, 3)
    return Agreement(np.concatenate((large, full)), unit_sums(np.stack(steps, axis=1), unit, units), bins)


def regression(truth: np.ndarray, predictors: np.ndarray, offset: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Fit a logistic regression without penalty by Newton's method.

    Parameters
    ----------
    truth : ndarray (n,)
        0/1.
    predictors : ndarray (n, k)
        The columns.
    offset : ndarray (n,) or float
        Added to the linear predictor.

    Returns
    -------
    beta : ndarray (k,)
        The coefficients; NaN where the likelihood has no maximum, or has it in many places.
    fitted : ndarray (n,)
        The probabilities.
    """
    beta, length = np.zeros(predictors.shape[1]), 0.0
    fitted = expit(predictors @ beta + offset)
    if np.linalg.matrix_rank(predictors) < len(beta):  # rounding may let the steps below find one of many
        return np.full(len(beta), np.nan), fitted
    for _ in range(STEPS):
        weighted = predictors * (fitted * (1 - fitted))[:, None]
        try:
            step = np.linalg.solve(predictors.T @ weighted, predictors.T @ (truth - fitted))
        except np.linalg.LinAlgError:
            break
        before, halvings = likelihood(truth, predictors @ beta + offset), 0
        while likelihood(truth, predictors @ (beta + step) + offset) < before - 1e-9 and halvings < 30:
            step, halvings = step / 2, halvings + 1  # the whole step went beyond the maximum
        beta, length = beta + step, np.abs(step).max()
        fitted = expit(predictors @ beta + offset)
        if length < CONVERGED:
            return beta, fitted
    return np.full(len(beta), np.nan), fitted


def likelihood(truth: np.ndarray, logit: np.ndarray) -> float:
    """Return the log-likelihood of truth (n,) under logits (n,)."""
    return float((truth * logit - np.logaddexp(0, logit)).sum())


def quantile_bins(probabilities: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Return the bin of each probability, int (n,): equally many in each, but equal probabilities in one bin.

    >>> quantile_bins(np.array([0.1, 0.2, 0.3, 0.9, 0.9, 0.9]), bins=3)
    array([0, 0, 1, 1, 1, 1])
    """
    ordered = np.sort(probabilities)
    last = ordered[np.ceil(np.arange(1, bins) * len(ordered) / bins).astype(int) - 1]
    place = np.searchsorted(np.unique(last), probabilities)
    return np.unique(place, return_inverse=True)[1]


def qualities(beta: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """Return the `QUALITIES` (..., 4) of coefficients (..., 3) and of bins (..., bins, 3), see `Agreement`."""
    records, observed, expected = np.moveaxis(bins, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = expected.sum(axis=-1) / observed.sum(axis=-1)
        ece = np.abs(expected - observed).sum(axis=-1) / records.sum(axis=-1)
    return np.stack((beta[..., 0], beta[..., 2], np.where(np.isfinite(ratio), ratio, np.nan), ece), axis=-1)


def resampled_beta(beta: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return the coefficients of resamples (resamples, 3) after one Newton step; see `Agreement`."""
    error, weight, first, second, h0, h1, h2 = steps.T
    with np.errstate(divide="ignore", invalid="ignore"):
        determinant = h0 * h2 - h1**2
        change = (error / weight, (h2 * first - h1 * second) / determinant, (h0 * second - h1 * first) / determinant)
    return beta + np.stack(change, axis=-1)


def calibration_tables(results: Evaluation) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return how well each label is calibrated, and its reliability curve, as predicted and calibrated.

    Returns
    -------
    calibration : DataFrame
        `label`, `probabilities` ("as predicted" or "calibrated"), `n_pos`, `n_neg`, then `QUALITIES`, each followed by
        its `_low` and `_high`, and `few_patients`. Labels that are never or always present are not there.
    reliability : DataFrame
        A row per bin: `label`, `probabilities`, `bin`, `n`, `predicted` (mean probability), `observed` (frequency),
        `observed_low`, `observed_high`.
    """
    truth, units, count = results.test.truth, int(results.unit.max()) + 1, len(results.estimates.drawn)
    kinds = {AS_PREDICTED: results.probabilities, CALIBRATED: results.calibrated}
    calibration, reliability = [], []
    for label in np.flatnonzero(has_both(truth)):
        known = ~np.isnan(truth[:, label])
        positive, unit = truth[known, label], results.unit[known]
        rarer = rarer_class(positive, unit, units)[:, None]
        for kind, probabilities in kinds.items():
            if probabilities is None:
                continue
            key = {"label": results.test.labels.names[label], "probabilities": kind}
            found = agreement(positive, probabilities[known, label], unit, units)
            whole = qualities(found.beta, found.bins.sum(axis=0))
            drawn_bins = resampled_sums(found.bins, count)
            drawn = qualities(resampled_beta(found.beta, resampled_sums(found.steps, count)), drawn_bins)
            ends = t_interval(whole, drawn, rarer)
            ends[:, 2:] = t_interval(whole, drawn, rarer, np.log, np.exp)[:, 2:]
            row = {"n_pos": int(positive.sum()), "n_neg": int((1 - positive).sum())}
            for place, quality in enumerate(QUALITIES):
                row |= {quality: whole[place], f"{quality}_low": ends[0, place], f"{quality}_high": ends[1, place]}
            calibration.append(key | row | {"few_patients": results.table["few_patients"][label]})

            records, observed, expected = found.bins.sum(axis=0).T
            with np.errstate(invalid="ignore"):
                shares = drawn_bins[..., 1] / drawn_bins[..., 0]
            low, high = share_interval(observed / records, shares, found.bins[..., 0])
            for place, values in enumerate(zip(expected / records, observed / records, low, high)):
                counted = {"bin": place + 1, "n": int(records[place])}
                reliability.append(key | counted | dict(zip(RELIABILITY, values)))
    columns = [f"{quality}{end}" for quality in QUALITIES for end in ("", "_low", "_high")]
    of_calibration = ["label", "probabilities", "n_pos", "n_neg", *columns, "few_patients"]
    of_reliability = ["label", "probabilities", "bin", "n", *RELIABILITY]
    return pd.DataFrame(calibration, columns=of_calibration), pd.DataFrame(reliability, columns=of_reliability)

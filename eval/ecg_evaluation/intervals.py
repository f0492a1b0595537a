"""95 % intervals that also cover where a label rests on few patients.

Every interval starts from the standard error over resamples of the patients. Percentiles of the resamples are not used:
with ten positive patients such an interval covers the true AUROC in eight of ten studies
(`python -m bench.bench_intervals` simulates the coverage of both). Three steps mend that:

* Patients count by their records (`effective_number`): where one of ten has half of the positive records, the ten are
  worth fewer than four. The standard error is multiplied by the t quantile with that number k less one degrees of
  freedom, and by sqrt(k / (k - 1)), because the bootstrap variance of k patients is (k - 1) / k of the true one.
* Areas under curves, Brier scores and macro averages get a t interval on the logit scale, which stays between 0 and 1
  (of the first two, no wider than that of Clopper and Pearson for the effective number of patients).
  Proportions (recall, precision, F1, ...) get the interval of Clopper and Pearson for as many independent records as
  have the same standard error (Korn and Graubard 1998).
* Where resamples do not vary, as with a recall or an AUROC of 1, the interval is that of Clopper and Pearson for the
  number of patients: the next patient may be the first that the model misses. No interval has zero width.

All arrays are float64. `rows` are the labels and, last, the micro average.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit
from scipy.stats import beta, norm, t

from ecg_evaluation.metrics import METRICS, RATIOS, Scored, ratios, unit_sums

LEVEL = 0.95
Z = norm.ppf((1 + LEVEL) / 2)
AREAS = METRICS[:2]
IS_AREA, IS_RATIO = (np.isin(METRICS, names) for names in (AREAS, RATIOS))


def identity(value: np.ndarray) -> np.ndarray:
    """Return the value."""
    return value


def patient_weights(scored: Scored) -> np.ndarray:
    """Return how many of each patient's records an estimate rests on: (patients, rows, 10).

    A ratio rests on the records in its denominator, a Brier score on all that are known, an area on those of the rarer
    class (by effective number of patients).
    """
    denominators = ratios(*np.moveaxis(scored.sums[:, :4], 1, 0))
    weights = {name: denominator for name, (_, denominator) in denominators.items()}
    rarer = effective_number(scored.positives) <= effective_number(scored.negatives)
    weights |= dict.fromkeys(AREAS, np.where(rarer, scored.positives, scored.negatives))
    known = scored.positives + scored.negatives
    return np.stack([weights.get(name, known) for name in METRICS], axis=-1)


def effective_number(weights: np.ndarray) -> np.ndarray:
    """Return how many units of equal weight are worth as much (Kish): sum(w)^2 / sum(w^2) over axis 0.

    >>> effective_number(np.array([[1.0, 9.0], [1.0, 1.0]])).round(2)
    array([2.  , 1.22])
    """
    squares = (weights**2).sum(axis=0)
    return np.divide(weights.sum(axis=0) ** 2, squares, out=np.zeros_like(squares), where=squares > 0)


def rarer_class(truth: np.ndarray, unit: np.ndarray, units: int) -> np.ndarray:
    """Return how many records of the rarer class (by effective number) each unit has: float64 (units,).

    `truth` 0/1 and `unit` int are (n,).
    """
    classes = (unit_sums(truth == wanted, unit, units) for wanted in (1, 0))
    return min(classes, key=effective_number)


def clopper_pearson(share: np.ndarray, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the Clopper-Pearson interval of a share of `number` draws; neither need be an integer.

    >>> low, high = clopper_pearson(np.array([0.0, 0.5, 1.0]), np.array([10, 10, 10]))
    >>> low.round(3), high.round(3)
    (array([0.   , 0.187, 0.692]), array([0.308, 0.813, 1.   ]))
    """
    hits, misses = share * number, (1 - share) * number
    unknown = np.where(np.isnan(hits), np.nan, 0.0)
    none = 1e-9  # the beta distribution has no parameter of 0, and SciPy fails at the smallest numbers
    low = np.where(hits > none, beta.ppf((1 - LEVEL) / 2, np.maximum(hits, none), misses + 1), unknown)
    high = np.where(misses > none, beta.ppf((1 + LEVEL) / 2, hits + 1, np.maximum(misses, none)), unknown + 1)
    return low, high


def standard_error(drawn: np.ndarray) -> np.ndarray:
    """Return the standard deviation over axis 0, the resamples, without those that leave a value undefined (NaN)."""
    defined = np.isfinite(drawn)
    count = defined.sum(axis=0)
    mean = np.where(defined, drawn, 0).sum(axis=0) / np.maximum(count, 1)
    squares = np.where(defined, (drawn - mean) ** 2, 0).sum(axis=0)
    return np.sqrt(np.divide(squares, count - 1, out=np.full(np.shape(squares), np.nan), where=count > 1))


def correction(effective: np.ndarray) -> np.ndarray:
    """Return what makes the bootstrap standard error of so many patients unbiased; infinite for a single one."""
    freedom = np.maximum(effective - 1, 0)
    return np.sqrt(np.divide(effective, freedom, out=np.full(np.shape(freedom), np.inf), where=freedom > 1e-6))


def t_quantile(freedom: np.ndarray) -> np.ndarray:
    """Return the two-sided quantile of Student's t; infinite without degrees of freedom."""
    return np.where(freedom > 1e-6, t.ppf((1 + LEVEL) / 2, np.maximum(freedom, 1e-6)), np.inf)


def margins(drawn: np.ndarray, effective: np.ndarray) -> np.ndarray:
    """Return half the width of the t interval of values (resamples, ...): (...); NaN or 0 where they do not vary."""
    with np.errstate(invalid="ignore"):  # 0 * infinity
        return t_quantile(effective - 1) * correction(effective) * standard_error(drawn)


def patients(weights: np.ndarray) -> np.ndarray:
    """Return how many units have any weight, over axis 0."""
    return (weights > 0).sum(axis=0)


def share_interval(share: np.ndarray, drawn: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the ends of the intervals of proportions: (2, ...); NaN where undefined.

    That of Clopper and Pearson for as many independent records as have the same standard error, but for no more than
    there are (Korn and Graubard); where resamples do not vary, for the number of patients.

    Parameters
    ----------
    share : ndarray (...)
        The proportions.
    drawn : ndarray (resamples, ...)
        Those of the resamples.
    weights : ndarray (patients, ...)
        How many records of each patient are in the denominator.
    """
    if len(drawn) < 2:
        return np.full((2, *np.shape(share)), np.nan)
    margin = margins(drawn, effective_number(weights))
    varies = margin > 0
    number = np.divide(share * (1 - share) * Z**2, margin**2, out=np.zeros_like(share), where=varies)
    number = np.where(varies, np.minimum(number, weights.sum(axis=0)), patients(weights))
    return np.stack(clopper_pearson(share, number))


def t_interval(
    value: np.ndarray, drawn: np.ndarray, weights: np.ndarray, scale: Callable = identity, back: Callable = identity
) -> np.ndarray:
    """Return the ends of t intervals that are formed on a scale such as the logarithm: (2, ...).

    They are NaN where the value is not defined, and where a single patient is behind it.

    Parameters
    ----------
    value : ndarray (...)
        The estimates.
    drawn : ndarray (resamples, ...)
        Those of the resamples.
    weights : ndarray (patients, ...)
        The part of each patient in them.
    scale, back : function
        From a value to the scale, and from there back.
    """
    if len(drawn) < 2:
        return np.full((2, *np.shape(value)), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        centre, margin = scale(value), margins(scale(drawn), effective_number(weights))
        ends = np.stack((back(centre - margin), back(centre + margin)))
    return np.where(np.isfinite(margin), ends, np.nan)


@dataclass(frozen=True)
class Estimates:
    """Metrics, or their differences between two models, with intervals."""

    point: np.ndarray  # (rows, metrics); NaN where undefined
    drawn: np.ndarray  # (resamples, rows, metrics)
    weights: np.ndarray  # (patients, rows, metrics), see `patient_weights`
    low: np.ndarray  # (rows, metrics); NaN where undefined, and with fewer than two resamples
    high: np.ndarray


def estimate(scored: Scored, drawn: np.ndarray) -> Estimates:
    """Return every metric of the labels and of the micro average with its interval: (rows, 10).

    Parameters
    ----------
    scored : Scored
        The predictions.
    drawn : ndarray (resamples, rows, 10)
        The metrics of resamples, see `Scored.measure`.
    """
    point, weights = scored.measure()[0], patient_weights(scored)
    if len(drawn) < 2:
        return Estimates(point, drawn, weights, *np.full((2, *point.shape), np.nan))
    effective = effective_number(weights)
    low, high = np.where(IS_RATIO, share_interval(point, drawn, weights), clopper_pearson(point, patients(weights)))

    # The logit of an area of 1 is infinite: a resample without any misplaced record counts as half of one.
    smallest = np.where(IS_AREA, 1 / (2 * scored.pairs)[:, None], 1e-12)
    margin = margins(logit(np.clip(drawn, smallest, 1 - smallest)), effective)
    varies = ~IS_RATIO & (margin > 0) & (point > 0) & (point < 1)
    centre = logit(np.where(varies, point, 0.5))
    # Values from 0 to 1 vary most where every patient gives either 0 or 1: such an interval is the widest there is.
    widest = clopper_pearson(point, effective)
    low = np.where(varies, np.maximum(expit(centre - margin), widest[0]), low)
    high = np.where(varies, np.minimum(expit(centre + margin), widest[1]), high)
    return Estimates(point, drawn, weights, low, high)


def differences(ours: Estimates, other: Estimates, same: np.ndarray) -> Estimates:
    """Return the paired differences of AUROC and AUPRC, `ours` minus `other`, with their intervals: (rows, 2).

    Parameters
    ----------
    ours, other : Estimates
        Of two models on the same records, from the same resamples.
    same : ndarray bool (rows,)
        Whether both models put the records in the same order: then the true difference is 0, too.
    """
    areas = slice(len(AREAS))
    point, drawn = (ours.point - other.point)[:, areas], (ours.drawn - other.drawn)[:, :, areas]
    weights = ours.weights[:, :, areas]
    margin = margins(drawn, effective_number(weights))
    # Where resamples do not vary, as where both areas are 1: as far apart as the two intervals allow.
    low = np.where(margin > 0, np.clip(point - margin, -1, 1), (ours.low - other.high)[:, areas])
    high = np.where(margin > 0, np.clip(point + margin, -1, 1), (ours.high - other.low)[:, areas])
    low, high = np.where(same[:, None], 0 * low, low), np.where(same[:, None], 0 * high, high)
    return Estimates(point, drawn, weights, low, high)


def difference_of_parts(part: Estimates, rest: Estimates) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the differences of two parts of the records, and the ends of their intervals: (rows, metrics) each.

    From the two intervals (MOVER of Zou and Donner), with the correlation that the parts have over the same resamples,
    as a patient may be in both. A t interval would rest on one part alone where the other does not vary, as at a recall
    of 1.
    """
    value = part.point - rest.point
    defined = np.isfinite(part.drawn) & np.isfinite(rest.drawn)
    number = np.maximum(defined.sum(axis=0), 1)
    a, b = (np.where(defined, one.drawn, 0) for one in (part, rest))
    a, b = (np.where(defined, one - one.sum(axis=0) / number, 0) for one in (a, b))
    spread = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    correlation = np.divide((a * b).sum(axis=0), spread, out=np.zeros_like(spread), where=spread > 0)

    def margin(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.sqrt(np.maximum(one**2 + other**2 - 2 * correlation * one * other, 0))

    low = value - margin(part.point - part.low, rest.high - rest.point)
    high = value + margin(part.high - part.point, rest.point - rest.low)
    return value, np.maximum(low, -1), np.minimum(high, 1)


def macro(estimates: Estimates, included: np.ndarray, *, logits: bool) -> np.ndarray:
    """Return the mean over labels and the ends of its interval.

    Parameters
    ----------
    estimates : Estimates
        Of the labels and, last, the micro average.
    included : ndarray bool (labels,)
        The labels to average. Those for which a metric is undefined are not in the mean of that metric.
    logits : bool
        Whether the interval is formed on the logit scale, as for values from 0 to 1; else on that of the values, as for
        differences from -1 to 1.

    Returns
    -------
    ndarray (3, metrics)
        Value, low, high; NaN where there is none.
    """
    result = np.full((3, estimates.point.shape[1]), np.nan)
    for metric in range(result.shape[1]):
        labels = np.flatnonzero(included & np.isfinite(estimates.point[:-1, metric]))
        if len(labels) == 0:
            continue
        low, high = estimates.low[labels, metric], estimates.high[labels, metric]
        drawn, weights = estimates.drawn[:, labels, metric], estimates.weights[:, labels, metric]
        margin = mean_margin(drawn, weights, low, high)
        value = estimates.point[labels, metric].mean()
        if not logits:
            ends = np.clip((value - margin, value + margin), -1, 1)
        elif 0 < value < 1:
            ends = expit(logit(value) + np.array([-1, 1]) * margin / (value * (1 - value)))
        else:
            ends = low.mean(), high.mean()
        result[:, metric] = value, *ends
    return result


def mean_margin(drawn: np.ndarray, weights: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """Return half the width of the t interval of the mean of several estimates.

    The standard error is that of the mean over the resamples in which all are defined, so it knows how they vary
    together. A patient's weight in the effective number is their part in the variances of all: labels of the same
    patients have fewer degrees of freedom than labels of different ones. An estimate whose own standard error says
    nothing (its resamples do not vary, or come from fewer than two effective patients) contributes half the width of
    its interval instead.

    Parameters
    ----------
    drawn : ndarray (resamples, estimates)
    weights : ndarray (patients, estimates)
    low, high : ndarray (estimates,)
        Their own intervals.
    """
    if len(drawn) < 2:
        return np.nan
    effective = effective_number(weights)
    usable = (standard_error(drawn) > 0) & (effective >= 2)
    margin = np.sqrt((((high - low)[~usable] / 2) ** 2).sum())
    if usable.any():
        scaled = drawn[:, usable] * correction(effective[usable])
        errors = standard_error(scaled)
        error = standard_error(scaled.sum(axis=1))
        # Where no resample defines all, or their errors cancel to nothing: as if all erred in the same direction.
        if not error > 1e-9 * errors.sum():
            error = errors.sum()
        shares = weights[:, usable] / weights[:, usable].sum(axis=0)
        margin = np.hypot(margin, t_quantile(effective_number(shares @ errors**2) - 1) * error)
    return float(margin / len(effective))

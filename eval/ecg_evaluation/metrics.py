"""Metrics of multi-label predictions, for the records as they are and for any resample of them.

A resample is a vector of integer weights, one per unit (a patient, or a record): how often the unit was drawn. Every
metric is a function of such weights, so the point estimate (all weights 1) and a bootstrap replicate share their code.

Truth is an array of 1, 0 and NaN (unknown). An unknown cell is in no count, no ranking and no sum.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

METRICS = (
    "auroc",
    "auprc",
    "accuracy",
    "recall",
    "precision",
    "f1",
    "specificity",
    "npv",
    "brier",
    "brier_calibrated",
)
RATIOS = METRICS[2:8]  # of counts of decisions


@dataclass(frozen=True)
class Ranking:
    """Scores sorted once, so that the areas under the curves of any resample cost one pass and no sorting.

    Scores of equal value form one group and are passed together, as every threshold passes them. Only the groups that
    hold a positive contribute to either area.
    """

    unit: np.ndarray  # int32 (n,): the unit of each score, best score first
    first: np.ndarray  # int (groups,): index of each group's first score
    last: np.ndarray  # int (groups,): index of each group's last score
    positive_unit: np.ndarray  # int32 (positives,): the unit of each positive, best score first
    positive_first: np.ndarray  # int (groups,): index of each group's first positive among the positives
    weight: np.ndarray | None = None  # float (n,): what each score counts, best score first; None: 1
    positive_weight: np.ndarray | None = None  # float (positives,)

    @classmethod
    def of(cls, truth: np.ndarray, scores: np.ndarray, unit: np.ndarray, weight: np.ndarray | None = None) -> "Ranking":
        """Sort `scores` (n,) with their 0/1 `truth` (n,), `unit` (n,) and, where they do not count 1, `weight` (n,)."""
        order = np.argsort(-scores, kind="stable")
        truth, scores, unit = truth[order].astype(bool), scores[order], unit[order].astype(np.int32)
        starts = np.concatenate(([True], scores[1:] != scores[:-1]))[: len(scores)]
        first = np.flatnonzero(starts)
        last = np.append(first[1:], len(scores)) - 1
        positives = np.flatnonzero(truth)
        group, positive_first = np.unique((np.cumsum(starts) - 1)[positives], return_index=True)
        weights = () if weight is None else (weight[order], weight[order][positives])
        return cls(unit, first[group], last[group], unit[positives], positive_first, *weights)

    def areas(self, weights: np.ndarray) -> tuple[float, float]:
        """Return AUROC and AUPRC (average precision) of a resample.

        Parameters
        ----------
        weights : ndarray (units,), int32
            How often each unit was drawn.

        Returns
        -------
        tuple of float
            NaN where there is no positive or no negative: precision is 1 everywhere then, and says nothing of scores.
        """
        if len(self.first) == 0:
            return np.nan, np.nan
        drawn, positives_drawn = np.take(weights, self.unit), np.take(weights, self.positive_unit)
        if self.weight is not None:
            drawn, positives_drawn = drawn * self.weight, positives_drawn * self.positive_weight
        passed = np.cumsum(drawn, dtype=np.int32 if self.weight is None else float)
        upto = passed[self.last].astype(float)
        before = (passed[self.first] - drawn[self.first]).astype(float)
        hits = np.add.reduceat(positives_drawn, self.positive_first).astype(float)
        true_positives = np.cumsum(hits)
        positives = true_positives[-1]
        negatives = passed[-1] - positives
        if positives == 0 or negatives <= 0:
            return np.nan, np.nan
        # Sums and not `@`: BLAS would start threads of its own below those of the bootstrap.
        auprc = np.sum(hits * np.divide(true_positives, upto, out=np.zeros_like(upto), where=upto > 0)) / positives
        # A positive beats the negatives not yet passed, and half of those in its own group.
        false_positives = (upto - true_positives + before - (true_positives - hits)) / 2
        return np.sum(hits * (negatives - false_positives)) / (positives * negatives), auprc


def ratios(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, tn: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return numerator and denominator of each of the `RATIOS`, in the shape of the counts.

    Parameters
    ----------
    tp, fp, fn, tn : ndarray (any one shape)
        True and false positives, false and true negatives.
    """
    return {
        "accuracy": (tp + tn, tp + fp + fn + tn),
        "recall": (tp, tp + fn),
        "precision": (tp, tp + fp),
        "f1": (2 * tp, 2 * tp + fp + fn),
        "specificity": (tn, tn + fp),
        "npv": (tn, tn + fn),
    }


def rates(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, tn: np.ndarray) -> dict[str, np.ndarray]:
    """Return the `ratios` divided, float64; NaN where a denominator is 0."""
    return {
        name: np.divide(numerator, denominator, out=np.full(np.shape(tp), np.nan), where=denominator > 0)
        for name, (numerator, denominator) in ratios(tp, fp, fn, tn).items()
    }


def unit_sums(values: np.ndarray, unit: np.ndarray, units: int) -> np.ndarray:
    """Return the sums (units, ...) of values (records, ...) over the records of each unit, `unit` int (records,)."""
    of_unit = csr_array((np.ones(len(unit)), (unit, np.arange(len(unit)))), shape=(units, len(unit)))
    return (of_unit @ values.reshape(len(unit), -1).astype(float)).reshape(units, *values.shape[1:])


class Scored:
    """The predictions of one model, arranged so that the metrics of many resamples are cheap.

    Parameters
    ----------
    truth : ndarray (records, labels)
        1, 0, or NaN where it is unknown.
    probabilities : ndarray (records, labels)
        Predicted probabilities.
    thresholds : ndarray (labels,)
        A label is predicted where its probability is at least this; NaN: nothing is decided, so the `RATIOS` of the
        label are undefined, and those of all pooled are without it.
    unit : ndarray (records,), int
        The unit (patient) of each record, 0 to `units` - 1.
    calibrated : ndarray (records, labels), optional
        Calibrated probabilities for the second Brier score (default: undefined).
    units : int, optional
        How many units there are, of which some may have no record here, as where the records are a part of those that
        the resamples are drawn from (default: no more than in `unit`).
    pooled : bool
        Whether AUROC and AUPRC of all decisions pooled are wanted; they cost as much as those of all labels.
    equal_units : bool
        Whether each unit counts the same, its records by the inverse of how many of them know the label; else each
        record does.

    Attributes
    ----------
    units : int
    records : int
    pairs : ndarray (labels + 1,)
        Positive records times known records, at least 1: below its inverse an area cannot tell from 0 or 1.
    sums : ndarray (units, 8, labels + 1), float64
        Of each unit true positives, false positives, false negatives and true negatives, positive and negative
        records, and the two sums of squared errors; per label, and last of all pooled.
    """

    def __init__(
        self, truth, probabilities, thresholds, unit, calibrated=None, units=None, *, pooled=True, equal_units=False
    ):
        truth, unit = np.asarray(truth), np.asarray(unit)
        positive, negative = truth == 1, truth == 0
        known = positive | negative
        self.units = int(unit.max()) + 1 if units is None else units
        self.records, labels = truth.shape
        self.pooled, self.equal_units = pooled, equal_units
        counts = [np.append(kind.sum(axis=0), kind.sum()).astype(float) for kind in (positive, known)]
        self.pairs = np.maximum(counts[0] * counts[1], 1)
        weight, pooled_weight = None, None
        if equal_units:
            count = unit_sums(known, unit, self.units)
            weight = 1 / np.maximum(count[unit], 1)
            pooled_weight = 1 / np.maximum(count.sum(axis=1)[unit], 1)
        self.rankings = [
            Ranking.of(
                positive[rows, i], probabilities[rows, i], unit[rows], None if weight is None else weight[rows, i]
            )
            for i, rows in enumerate(known.T)
        ]
        every = known if pooled else np.zeros_like(known)
        of_cell = (
            None if values is None else np.repeat(values, labels)[every.ravel()] for values in (unit, pooled_weight)
        )
        self.rankings.append(Ranking.of(positive[every], probabilities[every], *of_cell))
        if calibrated is None:
            calibrated = np.full(truth.shape, np.nan)
        taken, passed = probabilities >= thresholds, probabilities < thresholds  # neither without a threshold
        # What each record adds to the sums that all metrics but the areas are ratios of.
        parts = (
            positive & taken,
            negative & taken,
            positive & passed,
            negative & passed,
            positive,
            negative,
            np.where(known, (probabilities - positive) ** 2, 0),
            np.where(known, (calibrated - positive) ** 2, 0),
        )
        self.sums = np.empty((self.units, len(parts), labels + 1))
        for number, part in enumerate(parts):
            part = part.astype(float)
            self.sums[:, number, :-1] = unit_sums(part if weight is None else part * weight, unit, self.units)
            total = part.sum(axis=1)
            total = total if pooled_weight is None else total * pooled_weight
            self.sums[:, number, -1] = unit_sums(total, unit, self.units)

    @property
    def positives(self) -> np.ndarray:
        """The positive records of each unit: (units, labels + 1)."""
        return self.sums[:, 4]

    @property
    def negatives(self) -> np.ndarray:
        """The negative records of each unit: (units, labels + 1)."""
        return self.sums[:, 5]

    def measure(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Return every metric of every resample.

        Parameters
        ----------
        weights : ndarray (resamples, units), int32, optional
            How often each unit was drawn (default: one resample, each unit once).

        Returns
        -------
        ndarray (resamples, labels + 1, 10), float64
            Per label and last of all decisions pooled (the micro average), in the order of `METRICS`; NaN where a
            metric is undefined.
        """
        if weights is None:
            weights = np.ones((1, self.units), np.int32)
        result = np.empty((len(weights), len(self.rankings), len(METRICS)))
        for resample, values in zip(result, weights):
            resample[:, :2] = [ranking.areas(values) for ranking in self.rankings]
        if self.equal_units:  # fractions do not add up to what they should to the last digit, as to an AUROC of 1
            result[:, :, :2] = result[:, :, :2].round(12)
        sums = np.tensordot(weights.astype(float), self.sums, axes=1)  # (resamples, 8, labels + 1)
        result[:, :, 2:8] = np.stack(list(rates(*np.moveaxis(sums[:, :4], 1, 0)).values()), axis=-1)
        known = sums[:, 4:6].sum(axis=1)[..., None]
        errors = np.moveaxis(sums[:, 6:], 1, 2)
        result[:, :, 8:] = np.divide(errors, known, out=np.full(errors.shape, np.nan), where=known > 0)
        return result


def threshold_curve(truth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what each possible threshold lets pass.

    Parameters
    ----------
    truth, scores : ndarray (n,)
        0/1, and the score of each.

    Returns
    -------
    tuple of ndarray (distinct scores,)
        Thresholds (the distinct scores, falling), and the true and false positives at "score >= threshold".
    """
    order = np.argsort(-scores, kind="stable")
    scores, truth = scores[order], truth[order].astype(bool)
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    true_positives = np.cumsum(truth)[last]
    return scores[last], true_positives, last + 1 - true_positives

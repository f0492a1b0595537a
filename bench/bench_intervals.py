"""Coverage of the 95 % intervals by number of positive patients: percentiles of the bootstrap against ours.

Many studies are simulated in which the true values are known. Each has patients with 1 to 260 records (median 2, mean
4.5, as in MIMIC-IV-ECG), four labels that a given number of patients has in at least one record, and scores of two
models that agree within a patient and with each other. An interval of nominal 95 % should hold the true value in 95 %
of the studies; the table shows in how many it does, and the mean width.

    python -m bench.bench_intervals
    python -m bench.bench_intervals --positive-patients 10 --studies 1000
"""

import argparse
import sys
import time
import warnings
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import Pool

import numpy as np
from ecg_evaluation.bootstrap import draw
from ecg_evaluation.intervals import AREAS, Estimates, difference_of_parts, differences, estimate, macro
from ecg_evaluation.metrics import METRICS, Scored
from ecg_evaluation.subgroups import SHOWN as OF_GROUPS
from scipy.special import expit, ndtri
from scipy.stats import norm

from ecg_finetune.operating_system import usable_cores

# Of the four labels: as far apart as the published Lead-I results are.
AUROC, AUROC_OTHER = np.array([[0.75, 0.90, 0.97, 0.99], [0.73, 0.88, 0.96, 0.985]])
SHIFT, SHIFT_OTHER = np.sqrt(2) * ndtri(AUROC), np.sqrt(2) * ndtri(AUROC_OTHER)  # positive against negative scores
CUT = np.maximum(SHIFT - 1, 0.8)  # the score at the threshold: a recall of 0.84, or 0.56 for the first label
STEEPNESS = 2  # from score to probability
AGREEMENT = 0.8  # correlation of the two models' scores
SINGLE = METRICS[:-1]
MACRO = ("auroc", "auprc", "recall", "f1")
ESTIMANDS = (
    *SINGLE,
    *(f"macro {metric}" for metric in MACRO),
    *(f"{metric} difference" for metric in AREAS),
    *(f"macro {metric} difference" for metric in AREAS),
    *(f"{metric}, two halves" for metric in OF_GROUPS),  # the difference of two groups, each of half the patients
)
METHODS = ("percentile", "ours")


@dataclass(frozen=True)
class Design:
    """What is held fixed over simulated studies."""

    patients: int = 1500
    positive_patients: int = 10
    resamples: int = 200
    correlation: float = 0.5  # of a patient's scores of one class
    missed: float = 0.0  # share of the patients whose positives score as negatives do, as with a wrong label
    rare: str = "positive"  # the class that few patients have


def records_of_patients(rng: np.random.Generator, patients: int) -> np.ndarray:
    """Return numbers of records like MIMIC-IV-ECG's: int (patients,)."""
    return np.clip(np.rint(rng.lognormal(np.log(2), 1.25, patients)), 1, 260).astype(int)


def simulate(design: Design, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return truth (records, 4), scores of both models (2, records, 4) and the patient of each record."""
    count = records_of_patients(rng, design.patients)
    patient = np.repeat(np.arange(design.patients), count)
    rare = np.zeros((len(patient), len(AUROC)), bool)
    for label in range(len(AUROC)):
        chosen = rng.permutation(design.patients)[: design.positive_patients]
        share = np.zeros(design.patients)
        share[chosen] = rng.random(len(chosen))
        rare[:, label] = rng.random(len(patient)) < share[patient]
        # The label is in one record of each of them at least.
        rare[np.cumsum(count)[chosen] - 1 - rng.integers(count[chosen]), label] = True
    truth = rare if design.rare == "positive" else ~rare

    def noise() -> np.ndarray:
        of_class = rng.normal(size=(2, design.patients, len(AUROC)))
        of_patient = np.where(truth, of_class[0, patient], of_class[1, patient])
        own = rng.normal(size=truth.shape)
        return np.sqrt(design.correlation) * of_patient + np.sqrt(1 - design.correlation) * own

    first, second = noise(), noise()
    second = AGREEMENT * first + np.sqrt(1 - AGREEMENT**2) * second
    found = truth & ~(rng.random((design.patients, len(AUROC))) < design.missed)[patient]
    return truth, np.stack((first + SHIFT * found, second + SHIFT_OTHER * found)), patient


def true_values(design: Design, shift: np.ndarray) -> np.ndarray:
    """Return the metrics of a model on all possible records: (4, 9), in the order of `SINGLE`."""
    rng = np.random.default_rng(0)
    count = records_of_patients(rng, 500_000)
    rare = design.positive_patients * (1 + (count - 1) * 0.5).mean() / (design.patients * count.mean())
    prevalence = rare if design.rare == "positive" else 1 - rare
    scores = np.linspace(-9, 13, 200_001)[:, None]

    def positive(function, at):
        return (1 - design.missed) * function(at - shift) + design.missed * function(at)

    def counts(at):
        tp, fp = prevalence * positive(norm.sf, at), (1 - prevalence) * norm.sf(at)
        return tp, fp, prevalence - tp, 1 - prevalence - fp

    tp, fp, fn, tn = counts(scores)
    area = (1 - design.missed) * norm.cdf(shift / np.sqrt(2)) + design.missed / 2
    precision = tp / np.maximum(tp + fp, 1e-300)
    average_precision = (precision[1:] * -np.diff(tp, axis=0)).sum(axis=0) / prevalence
    density = prevalence * positive(norm.pdf, scores), (1 - prevalence) * norm.pdf(scores)
    probability = expit(STEEPNESS * (scores - CUT))
    brier = (density[0] * (1 - probability) ** 2 + density[1] * probability**2).sum(axis=0) * np.diff(scores[:2, 0])
    tp, fp, fn, tn = counts(CUT)
    recall, specificity = tp / (tp + fn), tn / (tn + fp)
    f1 = 2 * tp / (2 * tp + fp + fn)
    values = [area, average_precision, tp + tn, recall, tp / (tp + fp), f1, specificity, tn / (tn + fn), brier]
    return np.stack(values, axis=1)


def percentile(drawn: np.ndarray) -> np.ndarray:
    """Return the percentile interval over axis 0, without resamples that leave a value undefined: (2, ...)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice")
        return np.nanquantile(drawn, (0.025, 0.975), axis=0)


def percentile_intervals(ours: Estimates, other: Estimates) -> np.ndarray:
    """Return the baseline's intervals: (2, estimands, 4)."""
    drawn = np.where(np.isnan(ours.drawn), ours.point, ours.drawn)[:, :-1]  # a label's own value stands in for macro
    apart = (ours.drawn - other.drawn)[:, :-1, :2]
    macro_columns = [METRICS.index(metric) for metric in MACRO]
    rows = [
        percentile(ours.drawn[:, :-1, : len(SINGLE)]),
        np.repeat(percentile(drawn.mean(axis=1))[:, None, macro_columns], len(AUROC), axis=1),
        percentile(apart),
        np.repeat(percentile(apart.mean(axis=1))[:, None], len(AUROC), axis=1),
    ]
    return np.concatenate(rows, axis=2).swapaxes(1, 2)


def our_intervals(ours: Estimates, other: Estimates) -> np.ndarray:
    """Return our intervals: (2, estimands, 4)."""
    every = np.ones(len(AUROC), bool)
    difference = differences(ours, other, np.zeros(len(AUROC) + 1, bool))
    averages = macro(ours, every, logits=True)[1:, [METRICS.index(metric) for metric in MACRO]]
    macro_difference = macro(difference, every, logits=False)[1:]
    rows = [
        np.stack((ours.low, ours.high))[:, :-1, : len(SINGLE)],
        np.repeat(averages[:, None], len(AUROC), axis=1),
        np.stack((difference.low, difference.high))[:, :-1],
        np.repeat(macro_difference[:, None], len(AUROC), axis=1),
    ]
    return np.concatenate(rows, axis=2).swapaxes(1, 2)


def halves(truth: np.ndarray, model: np.ndarray, patient: np.ndarray, drawn: list[np.ndarray]) -> np.ndarray:
    """Return the intervals of the difference between two halves of the patients: (methods, 2, metrics, 4)."""
    parts = []
    for rows in (patient % 2 == 0, patient % 2 == 1):
        part = Scored(
            truth[rows], model[rows], np.full(len(AUROC), 0.5), patient[rows], units=len(drawn[0]), pooled=False
        )
        parts.append(estimate(part, part.measure(np.stack(drawn))))
    ours = np.stack(difference_of_parts(*parts)[1:])
    places = [METRICS.index(metric) for metric in OF_GROUPS]
    both = np.stack((percentile(parts[0].drawn - parts[1].drawn), ours))
    return both[:, :, :-1, places].swapaxes(2, 3)


def study(number: int, design: Design, truths: np.ndarray) -> np.ndarray:
    """Simulate a study; return whether each interval covers the true value, and its width.

    Parameters
    ----------
    number : int
        Seed.
    design : Design
        Of all studies.
    truths : ndarray (estimands, 4)
        True values, see `true_estimands`.

    Returns
    -------
    ndarray (2, methods, estimands, 4)
        NaN where the estimate is undefined.
    """
    truth, scores, patient = simulate(design, np.random.default_rng([design.positive_patients, number]))
    drawn_patients = [draw(design.patients, number * design.resamples + i) for i in range(design.resamples)]
    estimates = []
    for model in expit(STEEPNESS * (scores - CUT)):
        scored = Scored(truth, model, np.full(len(AUROC), 0.5), patient)
        estimates.append(estimate(scored, scored.measure(np.stack(drawn_patients))))
    every = [percentile_intervals(*estimates), our_intervals(*estimates)]
    intervals = np.concatenate((every, halves(truth, expit(STEEPNESS * (scores[0] - CUT)), patient, drawn_patients)), 2)
    low, high = intervals.swapaxes(0, 1)
    covers = np.where(np.isnan(low), np.nan, (low <= truths) & (truths <= high))
    return np.stack((covers, high - low))


def true_estimands(design: Design) -> np.ndarray:
    """Return the true values of the estimands: (estimands, 4)."""
    ours, other = true_values(design, SHIFT), true_values(design, SHIFT_OTHER)
    apart = (ours - other)[:, :2]
    averages = [ours.mean(axis=0)[[SINGLE.index(metric) for metric in MACRO]], apart.mean(axis=0)]
    averages = [np.tile(values, (len(AUROC), 1)) for values in averages]
    return np.concatenate((ours, averages[0], apart, averages[1], np.zeros((len(AUROC), len(OF_GROUPS)))), axis=1).T


def coverage(design: Design, studies: int, pool=None) -> np.ndarray:
    """Return coverage and mean width over many studies and the labels: (2, methods, estimands)."""
    one = partial(study, design=design, truths=true_estimands(design))
    results = (pool.map if pool else map)(one, range(studies))
    return np.nanmean(list(results), axis=(0, -1))


def get_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=150, help="simulated studies per column (default: %(default)s)")
    parser.add_argument("--resamples", type=int, default=200, help="per study (default: %(default)s)")
    parser.add_argument("--patients", type=int, default=1500, help="of a study (default: %(default)s)")
    parser.add_argument(
        "--positive-patients", type=int, nargs="+", default=[2, 5, 10, 20, 50, 100], help="(default: 2 5 10 20 50 100)"
    )
    parser.add_argument(
        "--correlation", type=float, default=0.5, help="of a patient's scores of one class (default: %(default)s)"
    )
    parser.add_argument(
        "--missed",
        type=float,
        default=0.0,
        help="share of the patients whose positives score as negatives do (default: %(default)s)",
    )
    parser.add_argument(
        "--rare",
        choices=("positive", "negative"),
        default="positive",
        help="the class that --positive-patients counts (default: %(default)s)",
    )
    return parser


def main() -> None:
    """Print the table."""
    args = get_parser().parse_args()
    started = time.perf_counter()
    design = Design(args.patients, 0, args.resamples, args.correlation, args.missed, args.rare)
    with Pool(usable_cores()) as pool:
        found = [coverage(replace(design, positive_patients=k), args.studies, pool) for k in args.positive_patients]
    print(
        f"{args.studies:,} studies of {args.patients:,} patients, {args.resamples:,} resamples each; coverage by "
        f"intervals of nominal 95 %, and their mean width, by number of {args.rare} patients"
    )
    print(" " * 37 + "".join(f"{count:>14,}" for count in args.positive_patients))
    for row, name in enumerate(ESTIMANDS):
        for column, method in enumerate(METHODS):
            cells = "".join(f"{covers[column, row]:8.2f}{width[column, row]:6.3f}" for covers, width in found)
            print(f"{name if column == 0 else '':<24}  {method:<11}{cells}", flush=True)
    print(f"{time.perf_counter() - started:.0f} s on {usable_cores()} cores")


if __name__ == "__main__":
    sys.exit(main())

"""The patient bootstrap at the size of ECG-FM's test split: ours against a plain loop over scikit-learn.

78,370 simulated records of about 12,000 patients, 17 labels with ECG-FM's prevalences, every metric of every label and
of all pooled, with intervals. The plain loop repeats the rows of the patients drawn and calls `roc_auc_score` and
`average_precision_score`; it is run for a few replicates and extrapolated. Both see the same draws.
"""

import time

import numpy as np
from ecg_evaluation.bootstrap import draw, replicates
from ecg_evaluation.intervals import estimate, macro
from ecg_evaluation.metrics import METRICS, Scored
from sklearn.metrics import average_precision_score, roc_auc_score

RECORDS, PATIENTS, REPLICATES, PLAIN_REPLICATES = 78_370, 16_000, 1000, 2
# Positives among the 78,370 records of ECG-FM's test split.
POSITIVES = np.array(
    [2003, 63386, 5249, 16476, 70, 3170, 8064, 1419, 10313, 9447, 6382, 5953, 2319, 6322, 3012, 17654, 3293]
)


def simulate(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return truth (records, 17), probabilities of AUROC about 0.96, and the patient of each record."""
    rng = np.random.default_rng(seed)
    share = rng.gamma(0.7, size=PATIENTS)  # a few patients have very many records, most have one to five
    patient = np.unique(rng.choice(PATIENTS, size=RECORDS, p=share / share.sum()), return_inverse=True)[1]
    truth = rng.random((RECORDS, 17)) < POSITIVES / RECORDS
    logits = rng.normal(size=truth.shape) + 2.5 * truth - 2
    return truth, 1 / (1 + np.exp(-logits)), patient


def plain_replicate(truth: np.ndarray, scores: np.ndarray, records_of: list[np.ndarray], weights: np.ndarray):
    """Return AUROC and AUPRC (18, 2) of a resample as scikit-learn gives them."""
    rows = np.concatenate([np.tile(records_of[i], times) for i, times in enumerate(weights) if times])
    truth, scores = truth[rows], scores[rows]
    values = [
        (roc_auc_score(truth[:, i], scores[:, i]), average_precision_score(truth[:, i], scores[:, i]))
        for i in range(truth.shape[1])
    ]
    micro = roc_auc_score(truth.ravel(), scores.ravel()), average_precision_score(truth.ravel(), scores.ravel())
    return np.array([*values, micro])


def main() -> None:
    """Print the comparison."""
    truth, scores, patient = simulate()
    started = time.perf_counter()
    scored = Scored(truth, scores, np.full(17, 0.5), patient)
    drawn = replicates(scored, REPLICATES)
    macro(estimate(scored, drawn), np.ones(17, bool), logits=True)
    ours = time.perf_counter() - started

    records_of = np.split(np.argsort(patient, kind="stable"), np.cumsum(np.bincount(patient))[:-1])
    started = time.perf_counter()
    weights = [draw(scored.units, number) for number in range(PLAIN_REPLICATES)]
    plain = [plain_replicate(truth, scores, records_of, chosen) for chosen in weights]
    extrapolated = (time.perf_counter() - started) / PLAIN_REPLICATES * REPLICATES
    difference = np.abs(np.array(plain) - drawn[:PLAIN_REPLICATES, :, :2]).max()

    print(f"{RECORDS:,} records, {scored.units:,} patients, {drawn.shape[1]} rows, {REPLICATES:,} replicates")
    print(f"{'':62}{'seconds':>9}{'faster':>9}")
    told = f"scikit-learn, AUROC and AUPRC ({PLAIN_REPLICATES} replicates, extrapolated)"
    print(f"{told:<62}{extrapolated:9.0f}{1:9.1f}")
    told = f"ours, {len(METRICS)} metrics with intervals ({REPLICATES:,} replicates)"
    print(f"{told:<62}{ours:9.1f}{extrapolated / ours:9.1f}")
    print(f"largest difference between the two: {difference:.1e}")


if __name__ == "__main__":
    main()

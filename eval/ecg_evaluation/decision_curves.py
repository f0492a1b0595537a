"""Decision curves: what acting on the probabilities is worth, against acting on everybody and on nobody.

Who would act from a probability t on holds that a missed positive is (1 - t) / t times as bad as a needless action. The
net benefit at t is the share of records that are true positives, less t / (1 - t) times that of false positives.
"""

import numpy as np
import pandas as pd

from ecg_evaluation.bootstrap import resampled_sums
from ecg_evaluation.calibration_quality import AS_PREDICTED, CALIBRATED
from ecg_evaluation.intervals import rarer_class, t_interval
from ecg_evaluation.metrics import unit_sums
from ecg_evaluation.results import Evaluation
from ecg_evaluation.thresholds import has_both

# More where rare labels are decided.
PROBABILITIES = np.array(
    [0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, *np.arange(0.1, 0.5, 0.05).round(2), 0.5, 0.6, 0.7, 0.8, 0.9]
)


def decision_curves(results: Evaluation) -> pd.DataFrame:
    """Return the net benefit of each label that is present in some records and absent from others.

    Returns
    -------
    DataFrame
        A row per label and threshold: `label`, `probabilities` (those that were decided on: calibrated where there is a
        calibration), `threshold`, `net_benefit`, `net_benefit_low`, `net_benefit_high` (95 % interval),
        `treat_all` (of acting on all records; that of acting on none is 0), `prevalence`.
    """
    calibrated = results.calibrated is not None
    values, kind = (results.calibrated, CALIBRATED) if calibrated else (results.probabilities, AS_PREDICTED)
    units, count = int(results.unit.max()) + 1, len(results.estimates.drawn)
    odds, rows = PROBABILITIES / (1 - PROBABILITIES), []
    for label in np.flatnonzero(has_both(results.test.truth)):
        truth = results.test.truth[:, label]
        known = ~np.isnan(truth)
        truth, unit = truth[known], results.unit[known]
        decided = values[known, label][:, None] >= PROBABILITIES
        benefit = decided * (truth[:, None] - (1 - truth[:, None]) * odds)
        sums = unit_sums(np.column_stack((benefit, np.ones(len(truth)))), unit, units)
        value, drawn = (
            total[..., :-1] / np.maximum(total[..., -1:], 1)
            for total in (sums.sum(axis=0), resampled_sums(sums, count))
        )
        low, high = t_interval(value, drawn, rarer_class(truth, unit, units)[:, None])
        prevalence = truth.mean()
        rows.append(
            pd.DataFrame(
                {
                    "label": results.test.labels.names[label],
                    "probabilities": kind,
                    "threshold": PROBABILITIES,
                    "net_benefit": value,
                    "net_benefit_low": low,
                    "net_benefit_high": high,
                    "treat_all": prevalence - (1 - prevalence) * odds,
                    "prevalence": prevalence,
                }
            )
        )
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=["label", "threshold"])

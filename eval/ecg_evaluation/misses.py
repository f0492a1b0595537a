"""The most confident mistakes, as strips of the signal the network saw."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup

from ecg_evaluation.inputs import test_files
from ecg_evaluation.results import Evaluation
from ecg_finetune.ecg_paper import strip_svg
from ecg_finetune.files import UserError
from ecg_finetune.segments import read_record
from ecg_finetune.tables import read_table, refuse_duplicates
from ecg_finetune.waveform import RECORD_SAMPLES, SAMPLE_RATE

STRIPS = 12
ASSUMED_SD = 0.2  # mV; a usual standard deviation of Lead I
MOST_SD = 100.0  # mV; no heart gives more


def rank_misses(
    truth: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray, count: int
) -> list[tuple[int, int]]:
    """Return the `count` most confident mistakes as (record, label).

    A mistake is as confident as the probability it gave to the wrong answer. At most one missed and one wrongly
    predicted record per label, and one label per record, so that a single label or record does not fill the list.
    Where truth is unknown there is no mistake.

    Parameters
    ----------
    truth : ndarray (records, labels)
        1, 0, or NaN where it is unknown.
    predicted : ndarray bool (records, labels)
    probabilities : ndarray (records, labels)
        Best calibrated ones.
    """
    missed, wrong = (truth == 1) & ~predicted, (truth == 0) & predicted
    mistaken = np.select([missed, wrong], [1 - probabilities, probabilities], default=-1)
    found, seen = [], set()
    for place in np.argsort(-mistaken, axis=None, kind="stable"):
        record, label = (int(number) for number in np.unravel_index(place, truth.shape))
        kind = label, bool(missed[record, label])
        if len(found) == count or mistaken[record, label] < 0:
            break
        if kind not in seen and record not in seen:
            found.append((record, label))
            seen |= {kind, record}
    return found


def worst_misses(
    results: Evaluation, test_dir: Path, signal_report: Path
) -> tuple[list[tuple[str, Markup, pd.DataFrame]], str]:
    """Return strips with captions and signals (svg, html, table), and a sentence on units, or on why there are none."""
    probabilities = results.probabilities if results.calibrated is None else results.calibrated
    predicted = results.probabilities >= results.decisions.thresholds
    names, scale = results.test.labels.names, read_scale(signal_report)
    try:
        files = test_files(test_dir, results.test.study_id)
        strips = []
        for record, label in rank_misses(results.test.truth, predicted, probabilities, STRIPS):
            study = int(results.test.study_id[record])
            truth, taken = results.test.truth[record], predicted[record]
            kind = "missed" if truth[label] == 1 else "wrongly predicted"
            probability, threshold = results.probabilities[record, label], results.decisions.thresholds[label]
            headline = f"Study {study}: {names[label]} {kind}, probability {probability:.3f}, threshold {threshold:.3f}"
            lead = read_record(files[record], RECORD_SAMPLES, study)
            signal = millivolts(lead, study, scale)
            svg = strip_svg(signal, SAMPLE_RATE, headline)
            caption = Markup("True: {}.<br>Predicted: {}.").format(
                named(names, truth == 1, ~taken), named(names, taken, truth == 0, np.isnan(truth))
            )
            seconds = np.arange(len(signal)) / SAMPLE_RATE
            strips.append((svg, caption, pd.DataFrame({"seconds": seconds, "millivolts": signal.round(4)})))
    except UserError as error:
        return [], f"The signals could not be read, so no strips are shown: {error}"
    if scale is not None:
        return strips, "The preprocess stage\u2019s report restored millivolts."
    assumed = f"drawn as if one standard deviation was {ASSUMED_SD} mV"
    return strips, f"The signals are standardised and {signal_report} with their scale does not exist: {assumed}."


def read_scale(signal_report: Path) -> pd.DataFrame | None:
    """Return `mean_mv` and `std_mv` of the records before they were standardised, by study_id; None without a report.

    Records whose values are missing, or none that a signal has, are not among them.
    """
    if not signal_report.exists():
        return None
    table = read_table(signal_report, {"study_id": "int64", "mean_mv": "float64", "std_mv": "float64"})
    refuse_duplicates(signal_report, table, "study_id")
    sound = np.isfinite(table["mean_mv"]) & table["std_mv"].between(0, MOST_SD, inclusive="right")
    return table[sound].set_index("study_id")


def millivolts(lead: np.ndarray, study: int, scale: pd.DataFrame | None) -> np.ndarray:
    """Undo the standardisation of a lead (samples,): millivolts, roughly where the record's `scale` is not known."""
    if scale is None or study not in scale.index:
        return lead * ASSUMED_SD
    return lead * scale.at[study, "std_mv"] + scale.at[study, "mean_mv"]


def named(names: Sequence[str], on: np.ndarray, bold: np.ndarray, unknown: np.ndarray | None = None) -> Markup:
    """Return the names of the labels that are on, in bold where the other side disagrees; arrays bool (labels,).

    Those whose truth is unknown are followed by "(truth unknown)".
    """
    told = [
        Markup("<b>{}</b>" if bold[place] else "{}").format(names[place])
        + (" (truth unknown)" if unknown is not None and unknown[place] else "")
        for place in np.flatnonzero(on)
    ]
    return Markup(", ").join(told) or Markup("none")

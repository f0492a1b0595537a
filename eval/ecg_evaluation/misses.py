"""The most confident mistakes, as strips of the signal the network saw."""

from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup

from ecg_evaluation.inputs import read_record, test_files
from ecg_evaluation.results import Evaluation
from ecg_finetune.command_line import UserError
from ecg_finetune.diagnoses import LABELS
from ecg_finetune.ecg_paper import strip_svg
from ecg_finetune.segments import SAMPLE_RATE
from ecg_finetune.tables import read_table

STRIPS = 12
ASSUMED_SD = 0.2  # mV; a usual standard deviation of Lead I


def rank_misses(truth: np.ndarray, probabilities: np.ndarray, count: int) -> list[tuple[int, int]]:
    """Return the `count` most confident mistakes as (record, label).

    A mistake is as confident as the probability it gave to the wrong answer. At most one missed and one wrongly
    predicted record per label, and one label per record, so that a single label or record does not fill the list.

    Parameters
    ----------
    truth : ndarray bool (records, labels)
    probabilities : ndarray (records, labels)
        Best calibrated ones.
    """
    error = np.where(truth, 1 - probabilities, probabilities)
    found, records = [], set()
    worst = [
        (error[kind[:, label], label].max(), label, present)
        for label in range(truth.shape[1])
        for present, kind in ((True, truth), (False, ~truth))
        if kind[:, label].any()
    ]
    for _, label, present in sorted(worst, reverse=True):
        candidates = np.flatnonzero(truth[:, label] == present)
        for record in candidates[np.argsort(-error[candidates, label], kind="stable")]:
            if record not in records and error[record, label] > 0.5:
                found.append((int(record), label))
                records.add(record)
                break
    return found[:count]


def worst_misses(results: Evaluation, test_dir: Path, signal_report: Path) -> tuple[list[tuple[str, Markup]], str]:
    """Return strips with captions (svg, html), and a sentence on the units, or on why there are no strips."""
    probabilities = results.probabilities if results.calibrated is None else results.calibrated
    predicted = results.probabilities >= results.decisions.thresholds
    scale = read_scale(signal_report)
    try:
        files = test_files(test_dir, results.test.study_id)
        strips = []
        for record, label in rank_misses(results.test.truth, probabilities, STRIPS):
            study = int(results.test.study_id[record])
            svg = strip_svg(millivolts(read_record(files[record]), study, scale), SAMPLE_RATE, f"study {study}")
            kind = "missed" if results.test.truth[record, label] else "wrongly predicted"
            caption = Markup("{}: <b>{}</b> {}, probability {:.3f}. True: {}. Predicted: {}.").format(
                f"Study {study}",
                LABELS[label],
                kind,
                probabilities[record, label],
                named(results.test.truth[record]),
                named(predicted[record]),
            )
            strips.append((svg, caption))
    except UserError as error:
        return [], f"The signals could not be read, so no strips are shown: {error}"
    if scale is not None:
        return strips, "The preprocess stage\u2019s report restored millivolts."
    assumed = f"drawn as if one standard deviation was {ASSUMED_SD} mV"
    return strips, f"The signals are standardised and {signal_report} with their scale does not exist: {assumed}."


def read_scale(signal_report: Path) -> pd.DataFrame | None:
    """Return `mean_mv` and `std_mv` of each record before it was standardised, by study_id; None where not known."""
    if not signal_report.exists():
        return None
    columns = ["study_id", "mean_mv", "std_mv"]
    table = read_table(signal_report, columns, {"study_id": "int64", "mean_mv": "float64", "std_mv": "float64"})
    return table.drop_duplicates("study_id").set_index("study_id")


def millivolts(lead: np.ndarray, study: int, scale: pd.DataFrame | None) -> np.ndarray:
    """Undo the standardisation of a lead (samples,)."""
    if scale is None or study not in scale.index:
        return lead * ASSUMED_SD
    return lead * scale.at[study, "std_mv"] + scale.at[study, "mean_mv"]


def named(present: np.ndarray) -> str:
    """Return the names of the labels that are set."""
    return ", ".join(label for label, on in zip(LABELS, present) if on) or "none of the 17"

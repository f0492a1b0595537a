"""From predictions to the table of results: point estimates, intervals, and in words what is undefined and why."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ecg_evaluation.bootstrap import interval, replicates
from ecg_evaluation.calibration import calibrate, fit_calibration
from ecg_evaluation.inputs import Labelled
from ecg_evaluation.metrics import MACRO, METRICS, MICRO, ROWS, Scored
from ecg_evaluation.thresholds import choose_thresholds, has_both
from ecg_finetune.label_set import LABELS

SHOWN = {MACRO: "Macro average", MICRO: "Micro average"}


@dataclass(frozen=True)
class Decisions:
    """What the valid split settles for the test set."""

    thresholds: np.ndarray  # float64 (17,)
    calibration: np.ndarray | None  # float64 (17, 2): slope and intercept; None without a valid split
    chosen: np.ndarray  # bool (17,): the label's threshold and calibration were chosen on the valid split
    positives: np.ndarray  # int (17,): positive records of the valid split


def decide(valid: Labelled | None, probabilities: np.ndarray | None, rule: str | float) -> Decisions:
    """Choose thresholds and fit the calibration on the valid split; without one, 0.5 (or `rule`) and none.

    Parameters
    ----------
    valid : Labelled or None
        The records of the valid split.
    probabilities : ndarray (records, 17) or None
        Of the model for these records.
    rule : str or float
        See `choose_thresholds`.
    """
    if valid is None:
        thresholds = np.full(len(LABELS), 0.5 if isinstance(rule, str) else rule)
        return Decisions(thresholds, None, np.zeros(len(LABELS), bool), np.zeros(len(LABELS), int))
    return Decisions(
        choose_thresholds(valid.truth, probabilities, rule),
        fit_calibration(valid.truth, probabilities),
        has_both(valid.truth),
        valid.truth.sum(axis=0),
    )


@dataclass(frozen=True)
class Evaluation:
    """One model on the test set."""

    test: Labelled
    probabilities: np.ndarray  # float64 (records, 17)
    calibrated: np.ndarray | None  # float64 (records, 17)
    decisions: Decisions
    unit: np.ndarray  # int (records,): the patient of each record, 0 to patients - 1; or the record itself
    resampled: str  # "patients", or "records" when the patients are not known
    replicates: np.ndarray  # float64 (bootstrap, 19, 10): see `Scored.measure`
    table: pd.DataFrame  # metrics.csv


def evaluate(
    test: Labelled, probabilities: np.ndarray, decisions: Decisions, patients: np.ndarray | None, bootstrap: int
) -> Evaluation:
    """Compute every metric with its interval.

    Parameters
    ----------
    test : Labelled
        The records.
    probabilities : ndarray (records, 17)
        Of the model.
    decisions : Decisions
        Thresholds and calibration.
    patients : ndarray (records,) or None
        The subject_id of each record; None resamples records instead.
    bootstrap : int
        Number of replicates; 0 gives no intervals.
    """
    calibrated = None
    if decisions.calibration is not None:
        calibrated = calibrate(probabilities, decisions.calibration)
    unit = np.unique(test.study_id if patients is None else patients, return_inverse=True)[1]
    scored = Scored(test.truth, probabilities, decisions.thresholds, unit, calibrated)
    drawn = replicates(scored, bootstrap)
    table = metrics_table(test.truth, scored.measure()[0], drawn, decisions, unit)
    resampled = "records" if patients is None else "patients"
    return Evaluation(test, probabilities, calibrated, decisions, unit, resampled, drawn, table)


def metrics_table(
    truth: np.ndarray, values: np.ndarray, drawn: np.ndarray, decisions: Decisions, unit: np.ndarray
) -> pd.DataFrame:
    """Return metrics.csv: a row per label, macro and micro; an undefined value is an empty cell named in `note`.

    Columns: `label`, `n_pos`, `n_neg`; `METRICS`; `<metric>_low` and `_high` for each metric; `threshold`,
    `calibration_slope`, `calibration_intercept`, `valid_n_pos` (choices of the valid split and the positives they rest
    on), `n_pos_patients` (patients with a positive record), `note`.

    Parameters
    ----------
    truth : ndarray bool (records, 17)
        The labels.
    values : ndarray (19, 10)
        The metrics of the records as they are, see `Scored.measure`.
    drawn : ndarray (bootstrap, 19, 10)
        The metrics of the resamples.
    decisions : Decisions
        Thresholds and calibration.
    unit : ndarray int (records,)
        The patient of each record.
    """
    positives = truth.sum(axis=0)
    total = int(positives.sum())
    low, high = interval(drawn)
    table = pd.DataFrame({"label": ROWS})
    # Both averages are over all 17 decisions of every record.
    table["n_pos"] = [*positives, total, total]
    table["n_neg"] = [*(len(truth) - positives), truth.size - total, truth.size - total]
    for number, metric in enumerate(METRICS):
        table[metric] = values[:, number]
    for number, metric in enumerate(METRICS):
        table[f"{metric}_low"], table[f"{metric}_high"] = low[:, number], high[:, number]
    of_labels = {"threshold": decisions.thresholds, "valid_n_pos": decisions.positives}
    if decisions.calibration is not None:
        of_labels["calibration_slope"], of_labels["calibration_intercept"] = decisions.calibration.T
    of_labels["n_pos_patients"] = [len(np.unique(unit[truth[:, label]])) for label in range(len(LABELS))]
    for name, column in of_labels.items():
        table[name] = pd.Series(column).reindex(range(len(ROWS)))
    for name in ("valid_n_pos", "n_pos_patients"):
        table[name] = table[name].astype("Int64")
    table["note"] = notes(table, drawn, decisions)
    return table


def notes(table: pd.DataFrame, drawn: np.ndarray, decisions: Decisions) -> list[str]:
    """Say per row what is undefined and why, what the valid split could not choose, and how a mean was formed.

    Arguments as in `metrics_table`, which makes `table`.
    """
    result = []
    for number, row in enumerate(table.to_dict("records")):
        parts = []
        reasons = {
            "no record has it": ("auroc", "auprc", "recall") if row["n_pos"] == 0 else (),
            "every record has it": ("auroc", "specificity") if row["n_neg"] == 0 else (),
            "never predicted": ("precision",),
            "always predicted": ("npv",),
            "neither present nor predicted": ("f1",),
        }
        if row["label"] == MACRO:
            without = table["label"][: len(LABELS)][table["auroc"][: len(LABELS)].isna()]
            if len(without):
                count = len(LABELS) - len(without)
                parts.append(f"auroc is the mean of {count} of {len(LABELS)} labels (not {', '.join(without)})")
        elif row["label"] != MICRO:
            for reason, metrics in reasons.items():
                undefined = [metric for metric in metrics if np.isnan(row[metric])]
                if undefined:
                    parts.append(f"{', '.join(undefined)} undefined, {reason}")
            if decisions.calibration is not None and not decisions.chosen[number]:
                parts.append("threshold not chosen, not calibrated (not both present and absent in the valid split)")
            if decisions.calibration is not None and decisions.calibration[number, 0] <= 0:
                parts.append("calibration slope not positive (on the valid split the scores rank the wrong way)")
            lost = int(np.isnan(drawn[:, number, 0]).sum())
            if lost and not np.isnan(row["auroc"]):
                parts.append(f"auroc interval of {len(drawn) - lost} of {len(drawn)} replicates, undefined in the rest")
        result.append("; ".join(parts))
    return result


def grouped_notes(table: pd.DataFrame) -> list[str]:
    """Return the notes of metrics.csv, each once with the labels it holds for."""
    labels_of: dict[str, list[str]] = {}
    for label, note in zip(table["label"], table["note"]):
        for part in filter(None, note.split("; ")):
            labels_of.setdefault(part, []).append(SHOWN.get(label, label))
    return [f"{part}: {', '.join(labels)}" for part, labels in labels_of.items()]


def compare(ours: Evaluation, other: np.ndarray) -> pd.DataFrame:
    """Compare with another model on the same records, by a bootstrap paired by its resamples.

    Parameters
    ----------
    ours : Evaluation
        This model.
    other : ndarray (records, 17)
        Probabilities of the other model for the same records in the same order.

    Returns
    -------
    DataFrame
        `label`; for AUROC and AUPRC: `<metric>`, `<metric>_other`, `<metric>_difference` (this minus the other) and its
        `_low` and `_high`.
    """
    scored = Scored(ours.test.truth, other, ours.decisions.thresholds, ours.unit)
    theirs, drawn = scored.measure()[0], replicates(scored, len(ours.replicates))
    table = pd.DataFrame({"label": ROWS})
    for number, metric in enumerate(METRICS[:2]):
        low, high = interval((ours.replicates - drawn)[:, :, number])
        table[metric] = ours.table[metric]
        table[f"{metric}_other"] = theirs[:, number]
        table[f"{metric}_difference"] = table[metric] - theirs[:, number]
        table[f"{metric}_difference_low"], table[f"{metric}_difference_high"] = low, high
    return table


def with_interval(row: dict, metric: str) -> tuple[str, str]:
    """Return a value of the table and its interval as text, ("0.968", "0.960 to 0.975"); "" for what is undefined."""
    value, low, high = (row[f"{metric}{end}"] for end in ("", "_low", "_high"))
    if np.isnan(value):
        return "", ""
    return f"{value:.3f}", "" if np.isnan(low) else f"{low:.3f} to {high:.3f}"


def text_table(table: pd.DataFrame) -> str:
    """Return the results for the terminal, one row per label."""
    heads = ["label", "n_pos", "AUROC", "AUPRC", "threshold", "recall", "precision", "F1"]
    if table["auroc_low"].notna().any():
        heads[2:4] = ["AUROC (95 % interval)", "AUPRC (95 % interval)"]
    rows = [heads]
    for row in table.to_dict("records"):
        cells = [SHOWN.get(row["label"], row["label"]), f"{row['n_pos']:,}"]
        for metric in ("auroc", "auprc"):
            value, interval_text = with_interval(row, metric)
            cells.append(f"{value} ({interval_text})" if interval_text else value or "undefined")
        for metric in ("threshold", "recall", "precision", "f1"):
            cells.append("" if np.isnan(row[metric]) else f"{row[metric]:.3f}")
        rows.append(cells)
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))])
        for row in rows
    ]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-2], rule, *lines[-2:]])

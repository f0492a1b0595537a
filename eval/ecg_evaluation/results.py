"""From predictions to the table of results: point estimates, intervals, and in words what is undefined and why."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from ecg_evaluation.bootstrap import replicates
from ecg_evaluation.calibration import fit_calibration
from ecg_evaluation.inputs import Labelled
from ecg_evaluation.intervals import AREAS, Estimates, differences, estimate, macro
from ecg_evaluation.metrics import MACRO, METRICS, MICRO, ROWS, Scored
from ecg_evaluation.options import MIN_PATIENTS
from ecg_evaluation.thresholds import choose_thresholds, has_both
from ecg_finetune.label_set import LABELS
from ecg_finetune.probabilities import calibrate

SHOWN = {MACRO: "Macro average", MICRO: "Micro average"}
FEW_VALID_POSITIVES = 10


@dataclass(frozen=True)
class Decisions:
    """What the valid split settles for the test set."""

    rule: str | float  # see `choose_thresholds`
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
        return Decisions(rule, thresholds, None, np.zeros(len(LABELS), bool), np.zeros(len(LABELS), int))
    return Decisions(
        rule,
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
    estimates: Estimates  # (18, 10): the labels and the micro average
    min_patients: int  # see `evaluate`
    table: pd.DataFrame  # metrics.csv


def evaluate(
    test: Labelled,
    probabilities: np.ndarray,
    decisions: Decisions,
    patients: np.ndarray | None,
    bootstrap: int,
    min_patients: int = MIN_PATIENTS,
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
        Number of resamples; 0 gives no intervals.
    min_patients : int
        Labels with fewer patients with a positive record, or fewer with a negative one, are marked and are not in the
        macro averages.
    """
    calibrated = None
    if decisions.calibration is not None:
        calibrated = calibrate(probabilities, decisions.calibration)
    unit = np.unique(test.study_id if patients is None else patients, return_inverse=True)[1]
    scored = Scored(test.truth, probabilities, decisions.thresholds, unit, calibrated)
    estimates = estimate(scored, replicates(scored, bootstrap))
    resampled = "records" if patients is None else "patients"
    table = metrics_table(scored, estimates, decisions, min_patients, resampled)
    return Evaluation(test, probabilities, calibrated, decisions, unit, resampled, estimates, min_patients, table)


def metrics_table(
    scored: Scored, estimates: Estimates, decisions: Decisions, min_patients: int, resampled: str
) -> pd.DataFrame:
    """Return metrics.csv: a row per label, macro and micro; an undefined value is an empty cell named in `note`.

    Columns: `label`, `n_pos`, `n_neg`; `METRICS`; `<metric>_low` and `_high` for each metric; `threshold`,
    `calibration_slope`, `calibration_intercept`, `valid_n_pos` (choices of the valid split and the positives they rest
    on), the columns of `patient_columns`, `note`.

    Parameters
    ----------
    scored : Scored
        The predictions.
    estimates : Estimates
        Their metrics, (18, 10).
    decisions : Decisions
        Thresholds and calibration.
    min_patients : int
        See `evaluate`.
    resampled : {"patients", "records"}
        What the units of `scored` are.
    """
    few = few_patients(scored, min_patients)
    values, low, high = with_macro(estimates, few, logits=True)
    table = pd.DataFrame({"label": ROWS})
    table["n_pos"], table["n_neg"] = counts(scored)
    for number, metric in enumerate(METRICS):
        table[metric] = values[:, number]
    for number, metric in enumerate(METRICS):
        table[f"{metric}_low"], table[f"{metric}_high"] = low[:, number], high[:, number]
    of_labels = {"threshold": decisions.thresholds, "valid_n_pos": pd.NA}
    if decisions.calibration is not None:
        of_labels["valid_n_pos"] = decisions.positives
        of_labels["calibration_slope"], of_labels["calibration_intercept"] = decisions.calibration.T
    for name, column in of_labels.items():
        table[name] = pd.Series(column, index=range(len(LABELS))).reindex(range(len(ROWS)))
    table["valid_n_pos"] = table["valid_n_pos"].astype("Int64")
    table = table.assign(**patient_columns(scored, few))
    table["note"] = notes(table, decisions, min_patients, resampled)
    return table


def counts(scored: Scored) -> np.ndarray:
    """Return positives and negatives of each row, int (2, 19); both averages are over all decisions of every record."""
    of_rows = np.stack((scored.positives, scored.negatives)).sum(axis=1).astype(int)
    return np.insert(of_rows, len(LABELS), of_rows[:, -1], axis=1)


def few_patients(scored: Scored, min_patients: int) -> np.ndarray:
    """Return which rows rest on too few patients, see `evaluate`: bool (18,)."""
    return ((np.stack((scored.positives, scored.negatives)) > 0).sum(axis=1) < min_patients).any(axis=0)


def patient_columns(scored: Scored, few: np.ndarray) -> dict[str, pd.Series]:
    """Return `n_pos_patients`, `n_neg_patients` (patients with a positive, with a negative record), `few_patients`.

    They are empty for the macro average; `few_patients` is 1 where there are too few for a reliable interval, else 0.
    """
    columns = {
        "n_pos_patients": (scored.positives > 0).sum(axis=0),
        "n_neg_patients": (scored.negatives > 0).sum(axis=0),
        "few_patients": few,
    }
    return {name: pd.Series([*column[:-1], None, column[-1]], dtype="Int64") for name, column in columns.items()}


def with_macro(estimates: Estimates, few: np.ndarray, *, logits: bool) -> np.ndarray:
    """Return values, lower and upper ends in the order of `ROWS`: (3, 19, metrics); `logits` as in `macro`."""
    rows = np.stack((estimates.point, estimates.low, estimates.high))
    return np.insert(rows, len(LABELS), macro(estimates, ~few[:-1], logits=logits), axis=1)


def notes(table: pd.DataFrame, decisions: Decisions, min_patients: int, resampled: str) -> list[str]:
    """Say per row what is undefined and why, what rests on little, and over which labels a mean is.

    Arguments as in `metrics_table`, which makes `table`.
    """
    result = []
    required = f"{min_patients} positive and {min_patients} negative {resampled}"
    for number, row in enumerate(table.to_dict("records")):
        if row["label"] == MACRO:
            parts = macro_notes(table[: len(LABELS)], required)
        else:
            parts = undefined_notes(row) if row["label"] != MICRO else []
            parts += patient_notes(row, min_patients, resampled)
            if row["label"] != MICRO and decisions.calibration is not None:
                parts += valid_notes(decisions, number)
        result.append("; ".join(parts))
    return result


def undefined_notes(row: dict) -> list[str]:
    """Say which metrics of a label are undefined, and why."""
    reasons = {
        "no record has it": ("auroc", "auprc", "recall") if row["n_pos"] == 0 else (),
        "every record has it": ("auroc", "specificity") if row["n_neg"] == 0 else (),
        "never predicted": ("precision",),
        "always predicted": ("npv",),
        "neither present nor predicted": ("f1",),
    }
    undefined = {reason: [m for m in metrics if np.isnan(row[m])] for reason, metrics in reasons.items()}
    return [f"{', '.join(metrics)} undefined, {reason}" for reason, metrics in undefined.items() if metrics]


def patient_notes(row: dict, min_patients: int, resampled: str) -> list[str]:
    """Warn where a label, or the micro average, rests on few patients."""
    excluded = "" if row["label"] == MICRO else " and not in the macro averages"
    return [
        f"fewer than {min_patients} {kind} {resampled}, intervals unreliable{excluded}"
        for kind, column in (("positive", "n_pos_patients"), ("negative", "n_neg_patients"))
        if 0 < row[column] < min_patients
    ]


def macro_notes(labels: pd.DataFrame, required: str) -> list[str]:
    """Name the labels that are not in the macro averages, for want of what is required."""
    few = labels["few_patients"] == 1
    if few.all():
        return [f"undefined, no label has at least {required} (see --min-positive-patients)"]
    included = len(LABELS) - few.sum()
    parts = []
    if few.any():
        excluded = ", ".join(labels["label"][few])
        parts.append(f"mean over {included} of {len(LABELS)} labels, those with at least {required} (not {excluded})")
    for metric in METRICS[:-1]:  # no label has calibrated probabilities, or all have
        undefined = labels["label"][~few & labels[metric].isna()]
        if len(undefined):
            count = included - len(undefined)
            parts.append(f"{metric} is the mean over {count} labels (undefined for {', '.join(undefined)})")
    return parts


def valid_notes(decisions: Decisions, label: int) -> list[str]:
    """Warn where the valid split could not choose for a label, or had few positives to choose from."""
    what = "threshold and calibration rest" if isinstance(decisions.rule, str) else "calibration rests"
    parts = []
    if not decisions.chosen[label]:
        untold = "threshold not chosen, not calibrated" if isinstance(decisions.rule, str) else "not calibrated"
        parts.append(f"{untold} (not both present and absent in the valid split)")
    elif decisions.positives[label] < FEW_VALID_POSITIVES:
        parts.append(f"{what} on fewer than {FEW_VALID_POSITIVES} positive records of the valid split")
    if decisions.calibration[label, 0] <= 0:
        parts.append("calibration slope not positive (on the valid split the scores rank the wrong way)")
    return parts


def grouped_notes(table: pd.DataFrame) -> list[str]:
    """Return the notes of metrics.csv, each once with the labels it holds for."""
    labels_of: dict[str, list[str]] = {}
    for label, note in zip(table["label"], table["note"]):
        for part in filter(None, note.split("; ")):
            labels_of.setdefault(part, []).append(SHOWN.get(label, label))
    return [f"{part}: {', '.join(labels)}" for part, labels in labels_of.items()]


@dataclass(frozen=True)
class Comparison:
    """Two models on the records that both have predicted."""

    table: pd.DataFrame  # comparison.csv
    records: int
    patients: int
    only_ours: int  # evaluated records that the other file lacks
    only_other: int  # records of the other file that were not evaluated


def compare(ours: Evaluation, study_id: np.ndarray, probabilities: np.ndarray) -> Comparison:
    """Compare with another model, by a bootstrap paired by its resamples, on the records that both have predicted.

    Parameters
    ----------
    ours : Evaluation
        This model.
    study_id : ndarray int64 (n,)
        The records of the other model; at least one is among those of `ours`.
    probabilities : ndarray (n, 17)
        Its probabilities for them.

    Returns
    -------
    Comparison
        Columns of its table: `label`; for AUROC and AUPRC: `<metric>`, `<metric>_other`, `<metric>_difference` (this
        minus the other) and its `_low` and `_high`; `n_records` (both models have predicted), `n_pos`, `n_neg` and the
        columns of `patient_columns` among these.
    """
    rows = np.flatnonzero(np.isin(ours.test.study_id, study_id))
    theirs = pd.Index(study_id).get_indexer(ours.test.study_id[rows])
    truth, thresholds = ours.test.truth[rows], ours.decisions.thresholds
    pair = ours.probabilities[rows], probabilities[theirs]
    unit = np.unique(ours.unit[rows], return_inverse=True)[1]

    scored = [Scored(truth, scores, thresholds, unit) for scores in pair]  # of this model, of the other
    few = few_patients(scored[0], ours.min_patients)
    # Equal numbers of patients meet equal resamples.
    estimates = [estimate(model, replicates(model, len(ours.estimates.drawn))) for model in scored]
    difference = with_macro(differences(*estimates, same_order(*pair)), few, logits=False)

    table = pd.DataFrame({"label": ROWS})
    values = [with_macro(of_model, few, logits=True)[0] for of_model in estimates]
    for number, metric in enumerate(AREAS):
        table[metric], table[f"{metric}_other"] = (of_model[:, number] for of_model in values)
        for end, column in zip(("", "_low", "_high"), difference):
            table[f"{metric}_difference{end}"] = column[:, number]
    table["n_records"] = len(rows)
    table["n_pos"], table["n_neg"] = counts(scored[0])
    table = table.assign(**patient_columns(scored[0], few))
    return Comparison(table, len(rows), int(unit.max()) + 1, len(ours.unit) - len(rows), len(study_id) - len(rows))


def compared(comparison: Comparison, resampled: str) -> str:
    """Say on how many records two models were compared; `resampled` as in `Evaluation`."""
    patients = f" of {comparison.patients:,} patients" if resampled == "patients" else ""
    others = [
        (comparison.only_ours, "evaluated here but not in that file"),
        (comparison.only_other, "in that file but not evaluated here"),
    ]
    excluded = ", ".join(f"{count:,} {where}" for count, where in others if count)
    records = f"{comparison.records:,} records{patients} that both have predicted"
    return f"{records}; excluded: {excluded}" if excluded else records


def same_order(ours: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return for which labels, and for all pooled, two models (records, labels) rank alike: bool (labels + 1,)."""
    pairs = [*zip(ours.T, other.T), (ours.ravel(), other.ravel())]
    return np.array([np.array_equal(rankdata(a, "dense"), rankdata(b, "dense")) for a, b in pairs])


def display_name(row: dict) -> str:
    """Return the name of a row of the table, with an asterisk where it rests on few patients."""
    few = row.get("few_patients")
    return SHOWN.get(row["label"], row["label"]) + (" *" if not pd.isna(few) and few else "")


def with_interval(row: dict, metric: str) -> tuple[str, str]:
    """Return a value of the table and its interval as text, ("0.968", "0.960 to 0.975"); "" for what is undefined."""
    value, low, high = (row[f"{metric}{end}"] for end in ("", "_low", "_high"))
    if np.isnan(value):
        return "", ""
    return f"{value:.3f}", "" if np.isnan(low) else f"{low:.3f} to {high:.3f}"


def text_table(table: pd.DataFrame) -> str:
    """Return the results for the terminal, one row per label."""
    heads = ["label", "n_pos", "AUROC", "AUPRC", "threshold", "valid_n_pos", "recall", "precision", "F1"]
    if table["auroc_low"].notna().any():
        heads[2:4] = ["AUROC (95 % interval)", "AUPRC (95 % interval)"]
    rows = [heads]
    for row in table.to_dict("records"):
        cells = [display_name(row), f"{row['n_pos']:,}"]
        for metric in ("auroc", "auprc"):
            value, interval = with_interval(row, metric)
            cells.append(f"{value} ({interval})" if interval else value or "undefined")
        cells.append("" if np.isnan(row["threshold"]) else f"{row['threshold']:.3f}")
        cells.append("" if pd.isna(row["valid_n_pos"]) else f"{row['valid_n_pos']:,}")
        cells += ["" if np.isnan(row[metric]) else f"{row[metric]:.3f}" for metric in ("recall", "precision", "f1")]
        rows.append(cells)
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))])
        for row in rows
    ]
    rule = "-" * len(lines[0])
    few = ["* too few patients for reliable intervals, see the notes"] if (table["few_patients"] == 1).any() else []
    return "\n".join([lines[0], rule, *lines[1:-2], rule, *lines[-2:], *few])

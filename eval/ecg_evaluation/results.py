"""From predictions to the table of results: point estimates, intervals, and in words what is undefined and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from ecg_evaluation.bootstrap import replicates
from ecg_evaluation.calibration import fit_calibration
from ecg_evaluation.inputs import Labelled
from ecg_evaluation.intervals import AREAS, Estimates, differences, estimate, macro
from ecg_evaluation.metrics import METRICS, RATIOS, Scored
from ecg_evaluation.options import MIN_PATIENTS
from ecg_evaluation.thresholds import Target, choose_thresholds, known_cells, target_thresholds
from ecg_finetune.label_set import ROW_NAMES, LabelSet, known_counts
from ecg_finetune.probabilities import calibrate

MACRO, MICRO = ROW_NAMES
SHOWN = {MACRO: "Macro average", MICRO: "Micro average"}
FEW_VALID_POSITIVES = 10
NOT_ANNOTATED = "not annotated in this source"


@dataclass(frozen=True)
class Decisions:
    """What the valid split, of this data set or of that of the development, settles for the evaluated records."""

    rule: str | float | None  # see `choose_thresholds`; None: not known
    thresholds: np.ndarray  # float64 (labels,); NaN: the label has none
    calibration: np.ndarray | None  # float64 (labels, 2): slope and intercept; None: not calibrated
    positives: np.ndarray  # (labels,): positive records of the valid split; NaN: not known
    negatives: np.ndarray  # (labels,): the same of negative records
    frozen: bool = False  # taken from the development's evaluation
    further: Mapping[str, np.ndarray] = field(default_factory=dict)  # rule -> thresholds (labels,), NaN: none

    @property
    def chosen(self) -> np.ndarray:
        """Whether a label's threshold and calibration could be chosen on the valid split: bool (labels,)."""
        return (self.positives != 0) & (self.negatives != 0)

    @property
    def chosen_on(self) -> str:
        """The valid split in words."""
        return "the development's valid split" if self.frozen else "the valid split"


def decide(
    valid: Labelled | None,
    probabilities: np.ndarray | None,
    rule: str | float,
    labels: int,
    targets: Sequence[Target] = (),
) -> Decisions:
    """Choose thresholds and fit the calibration on the valid split; without one, 0.5 (or `rule`) and none.

    Parameters
    ----------
    valid : Labelled or None
        The records of the valid split.
    probabilities : ndarray (records, labels) or None
        Of the model for these records.
    rule : str or float
        See `choose_thresholds`.
    labels : int
        How many there are.
    targets : sequence of Target
        What further thresholds are to reach.
    """
    if valid is None:
        none = np.zeros(labels, int)
        return Decisions(rule, np.full(labels, 0.5 if isinstance(rule, str) else rule), None, none, none)
    return Decisions(
        rule,
        choose_thresholds(valid.truth, probabilities, rule),
        fit_calibration(valid.truth, probabilities),
        (valid.truth == 1).sum(axis=0),
        (valid.truth == 0).sum(axis=0),
        further={target.rule: target_thresholds(valid.truth, probabilities, target) for target in targets},
    )


@dataclass(frozen=True)
class Evaluation:
    """One model on the test set."""

    test: Labelled
    probabilities: np.ndarray  # float64 (records, labels)
    calibrated: np.ndarray | None  # float64 (records, labels)
    decisions: Decisions
    unit: np.ndarray  # int (records,): the patient of each record, 0 to patients - 1; or the record itself
    resampled: str  # "patients", or "records" when the patients are not known
    scored: Scored
    estimates: Estimates  # (labels + 1, 10): the labels and the micro average
    min_patients: int  # see `evaluate`
    table: pd.DataFrame  # metrics.csv

    @property
    def annotated(self) -> np.ndarray:
        """Which labels at least one record knows: bool (labels,)."""
        return known_counts(self.test.truth) > 0


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
    probabilities : ndarray (records, labels)
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
    table = metrics_table(test.labels, scored, estimates, decisions, min_patients, resampled)
    return Evaluation(
        test, probabilities, calibrated, decisions, unit, resampled, scored, estimates, min_patients, table
    )


def metrics_table(
    labels: LabelSet,
    scored: Scored,
    estimates: Estimates,
    decisions: Decisions,
    min_patients: int,
    resampled: str,
) -> pd.DataFrame:
    """Return metrics.csv: a row per label, macro and micro; an undefined value is an empty cell named in `note`.

    Columns: `label`, `n_pos`, `n_neg`; `METRICS`, and before `brier` `n_unknown`, the records that do not know the
    label; `<metric>_low` and `_high` for each metric; `threshold`, `valid_n_pos`, `valid_n_neg`,
    `calibration_slope`, `calibration_intercept` (choices of the valid split and the records they rest on), the columns
    of `patient_columns`, `note`. A label that no record knows has `n_unknown` and `note` alone.

    Parameters
    ----------
    labels : LabelSet
        The labels.
    scored : Scored
        The predictions.
    estimates : Estimates
        Their metrics, (labels + 1, 10).
    decisions : Decisions
        Thresholds and calibration.
    min_patients : int
        See `evaluate`.
    resampled : {"patients", "records"}
        What the units of `scored` are.
    """
    few = few_patients(scored, min_patients)
    values, low, high = with_macro(estimates, few, logits=True)
    table = pd.DataFrame({"label": [*labels.names, *ROW_NAMES]})
    table["n_pos"], table["n_neg"], unknown = counts(scored)
    for number, metric in enumerate(METRICS):
        if metric == "brier":
            table["n_unknown"] = unknown
        table[metric] = values[:, number]
    for number, metric in enumerate(METRICS):
        table[f"{metric}_low"], table[f"{metric}_high"] = low[:, number], high[:, number]
    of_labels = {"threshold": decisions.thresholds, "valid_n_pos": pd.NA, "valid_n_neg": pd.NA}
    if decisions.calibration is not None:
        of_labels["valid_n_pos"], of_labels["valid_n_neg"] = decisions.positives, decisions.negatives
        of_labels["calibration_slope"], of_labels["calibration_intercept"] = decisions.calibration.T
    for name, column in of_labels.items():
        table[name] = pd.Series(column, index=range(len(labels))).reindex(table.index)
    table = table.assign(**patient_columns(scored, few))
    whole = ["n_pos", "n_neg", "n_unknown", "valid_n_pos", "valid_n_neg"]
    table = table.astype(dict.fromkeys(whole, "Int64"))
    table.loc[table["n_pos"] + table["n_neg"] == 0, table.columns.difference(["label", "n_unknown"])] = pd.NA
    table["note"] = notes(table, decisions, min_patients, resampled)
    return table


def counts(scored: Scored) -> np.ndarray:
    """Return positives, negatives and unknown of each row, int (3, labels + 2).

    Both averages are over all decisions of every record.
    """
    known = np.stack((scored.positives, scored.negatives)).sum(axis=1).astype(int)
    labels = known.shape[1] - 1
    unknown = scored.records * np.append(np.ones(labels, int), labels) - known.sum(axis=0)
    of_rows = np.vstack((known, unknown))
    return np.insert(of_rows, labels, of_rows[:, -1], axis=1)


def few_patients(scored: Scored, min_patients: int) -> np.ndarray:
    """Return which rows rest on too few patients, see `evaluate`: bool (labels + 1,)."""
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
    """Return values, lower and upper ends of labels, macro and micro: (3, labels + 2, metrics); `logits` as in `macro`.

    `few` bool (labels + 1,) are the rows that rest on too few patients.
    """
    rows = np.stack((estimates.point, estimates.low, estimates.high))
    return np.insert(rows, -1, macro(estimates, ~few[:-1], logits=logits), axis=1)


def notes(table: pd.DataFrame, decisions: Decisions, min_patients: int, resampled: str) -> list[str]:
    """Say per row what is undefined and why, what rests on little, and over which labels a mean is.

    Arguments as in `metrics_table`, which makes `table`.
    """
    result = []
    required = f"{min_patients} positive and {min_patients} negative {resampled}"
    for number, row in enumerate(table.to_dict("records")):
        if row["label"] == MACRO:
            parts = macro_notes(table[:-2], required)
        elif pd.isna(row["n_pos"]):
            parts = [NOT_ANNOTATED]
        elif row["label"] == MICRO:
            lacking = table["label"][:-2][table["n_pos"][:-2].notna() & table["threshold"][:-2].isna()]
            parts = [f"{DECIDED} are without {', '.join(lacking)}"] if len(lacking) else []
            parts += patient_notes(row, min_patients, resampled)
        else:
            parts = undefined_notes(row, np.isnan(row["threshold"])) + patient_notes(row, min_patients, resampled)
            if decisions.calibration is not None:
                parts += valid_notes(decisions, number)
        result.append("; ".join(parts))
    return result


DECIDED = ", ".join(RATIOS)


def undefined_notes(row: dict, undecided: bool) -> list[str]:
    """Say which metrics of a label are undefined, and why; `undecided`: it has no threshold."""
    reasons = {
        "no record has it": ("auroc", "auprc", "recall") if row["n_pos"] == 0 else (),
        "every record has it": ("auroc", "auprc", "specificity") if row["n_neg"] == 0 else (),
        "never predicted": ("precision",),
        "always predicted": ("npv",),
        "neither present nor predicted": ("f1",),
    }
    if undecided:
        reasons = {
            reason: [metric for metric in metrics if metric not in RATIOS] for reason, metrics in reasons.items()
        }
        reasons["no threshold in the operating points"] = RATIOS
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
    few = labels["few_patients"].fillna(1) == 1  # empty for a label that no record knows
    if few.all():
        return [f"undefined, no label has at least {required} (see --min-positive-patients)"]
    included = len(labels) - few.sum()
    parts = []
    if few.any():
        excluded = ", ".join(labels["label"][few])
        parts.append(f"mean over {included} of {len(labels)} labels, those with at least {required} (not {excluded})")
    metrics_without: dict[tuple[str, ...], list[str]] = {}  # the metrics that some labels are not in
    for metric in METRICS[:-1]:  # no label has calibrated probabilities, or all have
        metrics_without.setdefault(tuple(labels["label"][~few & labels[metric].isna()]), []).append(metric)
    for undefined, metrics in metrics_without.items():
        if undefined:
            mean = "is the mean" if len(metrics) == 1 else "are means"
            over = f"{included - len(undefined)} labels (undefined for {', '.join(undefined)})"
            parts.append(f"{', '.join(metrics)} {mean} over {over}")
    return parts


def valid_notes(decisions: Decisions, label: int) -> list[str]:
    """Warn where the valid split could not choose for a label, or had few positives to choose from."""
    by_rule, where = not isinstance(decisions.rule, float), decisions.chosen_on
    what = "threshold and calibration rest" if by_rule else "calibration rests"
    parts = []
    if not decisions.chosen[label]:
        untold = "threshold not chosen, not calibrated" if by_rule else "not calibrated"
        parts.append(f"{untold} (not both present and absent in {where})")
    elif decisions.positives[label] < FEW_VALID_POSITIVES:
        parts.append(f"{what} on fewer than {FEW_VALID_POSITIVES} positive records of {where}")
    if decisions.calibration[label, 0] <= 0:
        parts.append(f"not calibrated, slope not positive (on {where} the scores rank the wrong way)")
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
    probabilities : ndarray (n, labels)
        Its probabilities for them.

    Returns
    -------
    Comparison
        Columns of its table: `label`; for AUROC and AUPRC: `<metric>`, `<metric>_other`, `<metric>_difference` (this
        minus the other) and its `_low` and `_high`; `n_records` (both models have predicted), `n_pos`, `n_neg`,
        `n_unknown` and the columns of `patient_columns` among these.
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
    difference = with_macro(differences(*estimates, same_order(truth, *pair)), few, logits=False)

    table = pd.DataFrame({"label": [*ours.test.labels.names, *ROW_NAMES]})
    values = [with_macro(of_model, few, logits=True)[0] for of_model in estimates]
    for number, metric in enumerate(AREAS):
        table[metric], table[f"{metric}_other"] = (of_model[:, number] for of_model in values)
        for end, column in zip(("", "_low", "_high"), difference):
            table[f"{metric}_difference{end}"] = column[:, number]
    table["n_records"] = len(rows)
    table["n_pos"], table["n_neg"], table["n_unknown"] = counts(scored[0])
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


def same_order(truth: np.ndarray, ours: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return for which labels, and for all pooled, two models rank alike where truth is known: bool (labels + 1,).

    All are (records, labels), truth NaN where it is unknown.
    """
    labels = [*range(truth.shape[1]), None]
    pairs = ((known_cells(truth, scores, label)[1] for scores in (ours, other)) for label in labels)
    return np.array([np.array_equal(*(rankdata(scores, "dense") for scores in pair)) for pair in pairs])


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


def known_records(row: dict) -> int:
    """Return how many records of a row of the table know its label."""
    return 0 if pd.isna(row["n_pos"]) else row["n_pos"] + row["n_neg"]


def number_text(count: int) -> str:
    """Return a count of the table as text; "" for an empty cell."""
    return "" if pd.isna(count) else f"{count:,}"


def text_table(table: pd.DataFrame) -> str:
    """Return the results for the terminal, one row per label."""
    interval = " (95 % interval)" if table["auroc_low"].notna().any() else ""
    known = ["n_known"] if table["n_unknown"].any() else []
    decided = ["threshold", "valid_n_pos", "recall", "precision", "F1"]
    rows = [["label", *known, "n_pos", f"AUROC{interval}", f"AUPRC{interval}", *decided]]
    for row in table.to_dict("records"):
        cells = [display_name(row), *(number_text(known_records(row)) for _ in known), number_text(row["n_pos"])]
        for metric in ("auroc", "auprc"):
            value, interval = with_interval(row, metric)
            undefined = "not annotated" if pd.isna(row["n_pos"]) else "undefined"
            cells.append(f"{value} ({interval})" if interval else value or undefined)
        cells.append("" if np.isnan(row["threshold"]) else f"{row['threshold']:.3f}")
        cells.append(number_text(row["valid_n_pos"]))
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

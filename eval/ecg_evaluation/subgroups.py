"""Performance in groups of people: by sex, by age, by any column of a table, each against all other records."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t

from ecg_evaluation.bootstrap import replicates
from ecg_evaluation.intervals import Estimates, difference_of_parts, effective_number, estimate, t_quantile
from ecg_evaluation.metrics import METRICS, Scored
from ecg_evaluation.results import Evaluation
from ecg_finetune.files import UserError, shown
from ecg_finetune.studies import find_rows
from ecg_finetune.tables import listed, read_header, read_table, refuse_duplicates

AGE, BANDS = "age", (40, 60, 75)  # years
NOT_KNOWN = "not known"
MOST_GROUPS = 20
SHOWN = ("auroc", "auprc", "recall", "specificity")
PLACES = [METRICS.index(metric) for metric in SHOWN]

Groups = Mapping[str, np.ndarray]  # column -> the group of each record, str (records,)


def read_subgroups(
    path: Path, columns: Sequence[str], study_id: np.ndarray, patients: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Read the group of each record.

    Parameters
    ----------
    path : Path
        `study_id`, or else `subject_id`, and a column per grouping; an empty cell, or no row, is "not known".
    columns : sequence of str
        The groupings. `age` is a number of years, put into bands; any other column has a group per value.
    study_id : ndarray int64 (records,)
        The records.
    patients : ndarray int64 (records,) or None
        Their patients; None: not known.

    Returns
    -------
    dict
        Column to groups, str (records,).

    Raises
    ------
    UserError
        The file cannot be read or lacks a column, no record is in it, patients are needed and not known, an age is no
        number, or a column has more than 20 values.
    """
    header = read_header(path)
    key = next((name for name in ("study_id", "subject_id") if name in header), None)
    if key is None:
        raise UserError(f"{path}: has neither study_id nor subject_id, but {listed(header)}; add one of them")
    if key == "subject_id" and patients is None:
        raise UserError(
            f"{path}: goes by subject_id, and the patients of the records are not known; give --record-list"
        )
    if key in columns:
        raise UserError(f"{path}: {key} says whom a row is of, and groups nobody; give other columns as --by")
    table = read_table(path, {key: "int64"} | {name: "float64" if name == AGE else "str" for name in columns})
    refuse_duplicates(path, table, key)
    row, found = find_rows(table[key].to_numpy(), study_id if key == "study_id" else patients)
    if not found.any():
        raise UserError(f"{path}: has the {key} of none of the {len(study_id):,} evaluated records; give their table")
    groups = {}
    for name in columns:
        values = table[name].to_numpy()[row]
        texts = age_bands(values) if name == AGE else np.array(values, dtype=str)
        groups[name] = np.where(found & (texts != ""), texts, NOT_KNOWN)
        if len(levels := np.unique(groups[name])) > MOST_GROUPS:
            raise UserError(
                f"{path}: column {name} has {len(levels):,} different values among the evaluated records, "
                f"{shown(levels[0])} for one, more than {MOST_GROUPS} groups; put them into fewer groups"
            )
    return groups


def age_bands(years: np.ndarray) -> np.ndarray:
    """Return the band of each age (n,) as text, "" where it is NaN or below 0.

    >>> age_bands(np.array([39.5, 40, 91, np.nan, -1])).tolist()
    ['under 40', '40 to 59', '75 and over', '', '']
    """
    names = [f"under {BANDS[0]}"]
    names += [f"{low} to {high - 1}" for low, high in zip(BANDS, BANDS[1:])]
    names += [f"{BANDS[-1]} and over", ""]
    return np.array(names)[np.where(~(years >= 0), len(names) - 1, np.digitize(years, BANDS))]


def in_order(groups: np.ndarray) -> list[str]:
    """Return the groups that occur: bands by their years, other values by the alphabet, what is not known last."""

    def place(group: str) -> tuple:
        years = re.fullmatch(r"(?:under )?(\d+)(?: to \d+| and over)?", group)
        return group == NOT_KNOWN, (int(years[1]) - group.startswith("under")) if years else 0, group

    return sorted(np.unique(groups).tolist(), key=place)


def subgroup_table(results: Evaluation, groups: Groups) -> pd.DataFrame:
    """Return the performance in each group, and its difference to all other records.

    Both parts of the records meet the same resamples of the patients. Holm's adjustment is over all labels and groups
    of one column and metric.

    Returns
    -------
    DataFrame
        A row per column, group and label: `by`, `group`, `label`, `n`, `n_pos`, `n_pos_patients`, `prevalence`,
        `too_small` (1: fewer than the required number of positive or of negative patients, so nothing else is given),
        and for AUROC, AUPRC, recall and specificity: the value with `_low` and `_high`, `_difference` (to the rest)
        with `_difference_low` and `_difference_high`, `_p`, `_p_holm`.
    """
    tables = [column_table(results, name, values) for name, values in groups.items()]
    return pd.concat(tables, ignore_index=True)


def column_table(results: Evaluation, by: str, groups: np.ndarray) -> pd.DataFrame:
    """Return `subgroup_table` of one column; `groups` str (records,)."""
    levels = in_order(groups)
    parts = {level: Part.of(results, groups == level, f"resamples of {by} {level}") for level in levels}
    rests = {}
    if len(levels) == 2:
        rests = {level: parts[other] for level, other in zip(levels, reversed(levels))}
    elif len(levels) > 2:
        rests = {level: Part.of(results, groups != level, f"resamples of {by} other than {level}") for level in levels}
    tables = []
    for level in levels:
        rows = parts[level].rows(results.test.labels.names)
        rows = rows | (rests[level].differences(parts[level]) if level in rests else {})
        tables.append(pd.DataFrame({"by": by, "group": level, **rows}))
    table = pd.concat(tables, ignore_index=True)
    for metric in SHOWN:
        if f"{metric}_p" not in table:
            table[[f"{metric}_difference{end}" for end in ("", "_low", "_high")] + [f"{metric}_p"]] = np.nan
        p = table[f"{metric}_p"].to_numpy()
        # Of two groups each is the rest of the other: one and the same test.
        table[f"{metric}_p_holm"] = np.tile(holm(p[: len(p) // 2]), 2) if len(levels) == 2 else holm(p)
    order = [f"{metric}{end}" for metric in SHOWN for end in ENDS]
    return table[[*table.columns[:8], *order]]


ENDS = ("", "_low", "_high", "_difference", "_difference_low", "_difference_high", "_p", "_p_holm")


class Part:
    """Some of the evaluated records: `Estimates` of the labels in them, and which labels have too few patients."""

    def __init__(self, scored: Scored, estimates: Estimates, min_patients: int):
        self.estimates, classes = estimates, np.stack((scored.positives, scored.negatives))[:, :, :-1]
        self.records, (self.positive_patients, negative_patients) = classes.sum(axis=1), (classes > 0).sum(axis=1)
        self.too_small = np.minimum(self.positive_patients, negative_patients) < min_patients

    @classmethod
    def of(cls, results: Evaluation, rows: np.ndarray, what: str) -> "Part":
        """Evaluate the records that bool `rows` (records,) choose, on resamples of all patients."""
        scored = Scored(
            results.test.truth[rows],
            results.probabilities[rows],
            results.decisions.thresholds,
            results.unit[rows],
            units=int(results.unit.max()) + 1,
            pooled=False,
        )
        drawn = replicates(scored, len(results.estimates.drawn), what)
        return cls(scored, estimate(scored, drawn), results.min_patients)

    def rows(self, names: Sequence[str]) -> dict[str, Sequence]:
        """Return the columns of the table up to the values with their intervals."""
        positive, negative = self.records.astype(int)
        count = positive + negative
        columns = {"label": list(names), "n": count, "n_pos": positive, "n_pos_patients": self.positive_patients}
        columns["prevalence"] = np.divide(positive, count, out=np.full(len(count), np.nan), where=count > 0)
        columns["too_small"] = self.too_small.astype(int)
        for metric, place in zip(SHOWN, PLACES):
            for end, values in zip(ENDS, (self.estimates.point, self.estimates.low, self.estimates.high)):
                columns[f"{metric}{end}"] = np.where(self.too_small, np.nan, values[:-1, place])
        return columns

    def differences(self, part: "Part") -> dict[str, np.ndarray]:
        """Return the columns of the differences of another part to this one, the rest."""
        value, low, high = difference_of_parts(part.estimates, self.estimates)
        effective = np.minimum(*(effective_number(one.estimates.weights) for one in (part, self)))
        p = two_sided(value, low, high, effective)
        too_small, columns = part.too_small | self.too_small, {}
        for metric, place in zip(SHOWN, PLACES):
            for end, values in zip(ENDS[3:7], (value, low, high, p)):
                columns[f"{metric}{end}"] = np.where(too_small, np.nan, values[:-1, place])
        return columns


def two_sided(value: np.ndarray, low: np.ndarray, high: np.ndarray, effective: np.ndarray) -> np.ndarray:
    """Return p values of values being 0, from their 95 % intervals and effective numbers of patients, all (...).

    Of the t test whose interval reaches as far towards 0: below 0.05 where the interval excludes 0.
    """
    margin, freedom = np.where(value > 0, value - low, high - value), effective - 1
    with np.errstate(invalid="ignore", divide="ignore"):
        p = 2 * t.sf(np.abs(value) / margin * t_quantile(freedom), np.maximum(freedom, 1e-6))
    return np.where((margin > 0) & (freedom > 1e-6), p, np.nan)


def holm(p: np.ndarray) -> np.ndarray:
    """Return p values (n,) adjusted by Holm's method; NaN is no test.

    >>> holm(np.array([0.01, np.nan, 0.04, 0.02])).round(3)
    array([0.03,  nan, 0.04, 0.04])
    """
    adjusted, tested = np.full(len(p), np.nan), np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1)
    return adjusted

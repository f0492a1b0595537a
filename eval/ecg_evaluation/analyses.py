"""The tables of an evaluation beside metrics.csv: each is a CSV file, and the report shows what is in them."""

import numpy as np
import pandas as pd

from ecg_evaluation.background import Background
from ecg_evaluation.baselines import baselines_table
from ecg_evaluation.calibration_quality import calibration_tables
from ecg_evaluation.decision_curves import decision_curves
from ecg_evaluation.estimands import estimands_table
from ecg_evaluation.label_definitions import definitions_table
from ecg_evaluation.label_groups import label_groups_table
from ecg_evaluation.operating_table import operating_tables
from ecg_evaluation.published import published_table
from ecg_evaluation.results import Evaluation
from ecg_evaluation.subgroups import subgroup_table


def analyse(
    results: Evaluation, background: Background, prevalences: tuple[float, ...], beats: pd.DataFrame | None
) -> dict[str, pd.DataFrame]:
    """Return the tables by the name of their artefact in `ecg_finetune.paths`, without those that nothing is known for.

    Parameters
    ----------
    results : Evaluation
        The evaluation.
    background : Background
        What files say of its records.
    prevalences : tuple of float
        Those that predictive values are wanted for.
    beats : DataFrame or None
        As `beats_table`; None: the rules on Lead I are not wanted.
    """
    calibration, reliability = calibration_tables(results)
    operating_points, predictive = operating_tables(results, prevalences)
    tables = {
        "calibration": calibration,
        "reliability": reliability,
        "decision_curves": decision_curves(results),
        "operating_points": operating_points,
        "prevalence": predictive if prevalences else None,
        "estimands": estimands_table(results, background.when),
        "label_groups": label_groups_table(results),
        "definitions": None if background.definitions is None else definitions_table(results, background.definitions),
        "subgroups": subgroup_table(results, background.groups) if background.groups else None,
        "published": published_table(results, background.published_split),
        "beats": beats,
        "baselines": None if beats is None else baselines_table(results, beats),
        "co_occurrence": co_occurrence_table(results),
        "flow": background.flow,
    }
    return {name: table for name, table in tables.items() if table is not None}


TRUE, PREDICTED = "true", "predicted"


def co_occurrence_table(results: Evaluation) -> pd.DataFrame:
    """Return how often labels occur together, of those that some record knows.

    Returns
    -------
    DataFrame
        `labels` ("true" or "predicted"), `label`, `other`, `share`: of the records that have `label` and know both, the
        share that has `other` too; empty where there is none.
    """
    annotated = results.annotated
    truth, names = results.test.truth[:, annotated], np.array(results.test.labels.names)[annotated]
    known = ~np.isnan(truth)
    predicted = (results.probabilities >= results.decisions.thresholds)[:, annotated] & known
    tables = []
    for kind, labels in ((TRUE, truth == 1), (PREDICTED, predicted)):
        columns = {"label": np.repeat(names, len(names)), "other": np.tile(names, len(names))}
        tables.append(pd.DataFrame({"labels": kind, **columns, "share": shares_together(labels, known).ravel()}))
    return pd.concat(tables, ignore_index=True)


def shares_together(labels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return of the records with one label that know another how many have that, too: (labels, labels), NaN of none.

    Parameters
    ----------
    labels, known : ndarray bool (records, labels)
        Whether a record has a label, and whether its truth is known.
    """
    with_first = labels.T.astype(float)
    count = with_first @ known
    return np.divide(with_first @ labels, count, out=np.full(count.shape, np.nan), where=count > 0)

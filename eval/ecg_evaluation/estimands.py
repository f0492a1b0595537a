"""What is estimated: the performance on the next record, on a patient's first ECG, or on the average patient."""

import numpy as np
import pandas as pd

from ecg_evaluation.metrics import Scored
from ecg_evaluation.results import Evaluation
from ecg_evaluation.variants import variants_table

PER_RECORD, FIRST, PER_PATIENT = "per record", "first ECG per patient", "patient-weighted"


def first_records(unit: np.ndarray, study_id: np.ndarray, when: np.ndarray | None) -> np.ndarray:
    """Return which record is its patient's first: bool (records,).

    Parameters
    ----------
    unit, study_id : ndarray int (records,)
        The patient and the study of each.
    when : ndarray (records,) or None
        What says their order in time, the study_id where that is the same; None: the study_id alone.
    """
    order = np.lexsort((study_id,) if when is None else (study_id, when))
    first = np.zeros(len(unit), bool)
    first[order[np.unique(unit[order], return_index=True)[1]]] = True
    return first


def estimands_table(results: Evaluation, when: np.ndarray | None) -> pd.DataFrame:
    """Return the metrics per record, of each patient's first ECG and with equal weight for each patient.

    `when` as in `first_records`; columns as in `variants_table`, which `estimand` precedes. Where patients are not
    known, only those per record.
    """
    test, thresholds, units = results.test, results.decisions.thresholds, int(results.unit.max()) + 1
    variants = {PER_RECORD: results.scored}
    if results.resampled == "patients":
        first = first_records(results.unit, test.study_id, when)
        variants[FIRST] = Scored(
            test.truth[first], results.probabilities[first], thresholds, results.unit[first], units=units
        )
        variants[PER_PATIENT] = Scored(test.truth, results.probabilities, thresholds, results.unit, equal_units=True)
    return variants_table(results, "estimand", variants)

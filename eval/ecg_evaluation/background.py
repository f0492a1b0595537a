"""What is known of the evaluated records beside their labels, as far as files say it: all of it may be missing."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ecg_evaluation.flow import StudyLabels, flow_table, labels_of_studies, split_counts
from ecg_evaluation.inputs import Labelled, studies_of_test_set, valid_studies
from ecg_evaluation.label_definitions import Definitions, read_definitions
from ecg_evaluation.options import EvaluationSettings
from ecg_evaluation.published import LEAST_EVALUATED, is_published_split
from ecg_evaluation.subgroups import Groups, read_subgroups
from ecg_finetune.paths import inside
from ecg_finetune.studies import find_rows
from ecg_finetune.tables import read_header, read_table
from ecg_finetune.waveform import lead_number


@dataclass(frozen=True)
class Background:
    """What the further analyses need.

    `when` (records,) sorts as the times of the records do; `published_split`: the records are those of ECG-FM's test
    split, on which others have published; `label_remark` says why there are no other `definitions` of the labels.
    """

    when: np.ndarray | None
    groups: Groups
    definitions: Definitions | None
    label_remark: str
    flow: pd.DataFrame
    published_split: bool


def read_background(
    settings: EvaluationSettings, records: Labelled, patients: np.ndarray | None, patient_of: pd.Series | None
) -> Background:
    """Read what the files say.

    Parameters
    ----------
    settings : EvaluationSettings
        Where they are.
    records : Labelled
        The evaluated records.
    patients : ndarray int64 (records,) or None
        Their patients.
    patient_of : Series or None
        Those of all records, as `read_patients`.

    Raises
    ------
    UserError
        A file is damaged, or does not say what was asked for.
    """
    groups: Groups = {}
    if settings.subgroups is not None:
        groups = read_subgroups(settings.subgroups, settings.by.split(","), records.study_id, patients)
    labels, definitions, remark = labels_of_studies(settings.labels), None, ""
    if labels is None:
        remark = f"{settings.labels} does not exist"
    elif not agree(labels, records):
        labels, remark = None, f"the labels in {settings.labels} are not those of the evaluated records"
    elif (definitions := read_definitions(settings.labels, records.study_id)) is None:
        remark = f"{settings.labels} does not say how sure the labels of these records are"
    if settings.set == "test":
        all_of_set = studies_of_test_set(settings.test_dir)
    else:
        all_of_set = valid_studies(settings.manifests, None)
    files = {
        "meta": settings.meta,
        "split_left_out": settings.meta.with_suffix(".left_out.csv"),
        "left_out": inside(settings.test_dir.parent, "left_out", n=lead_number(settings.lead)),
    }
    limited = settings.max_samples is not None
    not_evaluated = "beyond --max-samples" if limited else "without a prediction"
    flow = flow_table(records, all_of_set, not_evaluated, settings.set, labels, patient_of, files)
    return Background(
        when=times(settings, records.study_id),
        groups=groups,
        definitions=definitions,
        label_remark=remark,
        flow=flow,
        published_split=settings.set == "test" and settings.lead == "I" and on_published_split(records, flow),
    )


def agree(labels: StudyLabels, records: Labelled) -> bool:
    """Tell whether the labels of all studies hold those of the evaluated records."""
    studies, values, label_set = labels
    place, found = find_rows(studies, records.study_id)
    if not found.all() or label_set.names != records.labels.names:
        return False
    return np.array_equal(values[place].astype(float), records.truth, equal_nan=True)


def on_published_split(records: Labelled, flow: pd.DataFrame) -> bool:
    """Tell whether the records are those of ECG-FM's test split, all or all but a few that could not be used."""
    names, positives = records.labels.names, (records.truth == 1).sum(axis=0)
    if is_published_split(names, len(records.study_id), positives):
        return True
    counts = split_counts(flow, "test", names)
    return (
        counts is not None
        and is_published_split(names, *counts)
        and len(records.study_id) >= LEAST_EVALUATED * counts[0]
    )


def times(settings: EvaluationSettings, study_id: np.ndarray) -> np.ndarray | None:
    """Return `ecg_time` of records int64 (records,) in one form, which sorts as time does; None: not known."""
    path = settings.record_list
    if not path.exists() or "ecg_time" not in read_header(path):
        return None
    table = read_table(path, {"study_id": "int64", "ecg_time": "str"}).set_index("study_id")["ecg_time"]
    found = table.reindex(study_id)
    dates = found.fillna("").str.fullmatch(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d)?")
    return (found.str.replace("T", " ") + ":00").str[:19].to_numpy(dtype=str) if dates.all() else None

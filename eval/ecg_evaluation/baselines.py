"""Rules on Lead I that a network has to beat: heart rate, and how irregular the beats are.

Beats come from sleepecg's QRS detector. Heart rate is 60 s over the median RR distance. Irregularity is the median
difference of successive RR distances over the median distance: a premature or a falsely found beat moves a median
little. On 1,500 handheld recordings of CinC 2017 (10 s of each) it tells atrial fibrillation from sinus rhythm with an
AUROC of 0.91, the root mean square of the same differences with one of 0.87; 0.06 has a recall of 0.92 there and a
specificity of 0.86.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ecg_evaluation.bootstrap import replicates
from ecg_evaluation.inputs import test_files
from ecg_evaluation.intervals import AREAS, differences, estimate
from ecg_evaluation.metrics import METRICS, Scored
from ecg_evaluation.results import Evaluation, same_order
from ecg_finetune.batch import chunk_size, chunked, run_batch
from ecg_finetune.segments import read_record
from ecg_finetune.waveform import RECORD_SAMPLES, SAMPLE_RATE

FEWEST_BEATS = 3
MOST_PER_CHUNK = 500


@dataclass(frozen=True)
class Rule:
    """A label as a number of the beats tells it: present where `score(number)` is at least `cut`."""

    label: str
    text: str
    column: str
    score: Callable[[np.ndarray], np.ndarray]
    cut: float


RULES = (
    Rule("Tachycardia", "heart rate above 100/min", "heart_rate", np.positive, float(np.nextafter(100, 101))),
    Rule("Bradycardia", "heart rate below 60/min", "heart_rate", np.negative, float(np.nextafter(-60, 0))),
    Rule("Atrial fibrillation", "RR irregularity of at least 0.06", "rr_irregularity", np.positive, 0.06),
)


def measure_beats(lead: np.ndarray) -> tuple[int, float, float]:
    """Return number of beats, heart rate (1/min) and RR irregularity of a lead (samples,) at 500 Hz.

    The last two are NaN where there are fewer than 3 beats.
    """
    from sleepecg import detect_heartbeats

    beats = detect_heartbeats(lead.astype(float), SAMPLE_RATE) if np.ptp(lead) > 0 else []  # it refuses a flat lead
    if len(beats) < FEWEST_BEATS:
        return len(beats), np.nan, np.nan
    distances = np.diff(beats) / SAMPLE_RATE
    usual = np.median(distances)
    return len(beats), 60 / usual, np.median(np.abs(np.diff(distances))) / usual


def measure_records(records: list[tuple[int, Path]]) -> list[tuple[int, float, float]]:
    """Return `measure_beats` of records: the study and the 10-second file of each."""
    return [measure_beats(read_record(file, RECORD_SAMPLES, study)) for study, file in records]


def beats_table(test_dir: Path, study_id: np.ndarray, workers: int) -> pd.DataFrame:
    """Return `study_id`, `beats`, `heart_rate` and `rr_irregularity` of test records int64 (records,), in their order.

    Raises
    ------
    UserError
        A record cannot be read.
    """
    records = list(zip(study_id.tolist(), test_files(test_dir, study_id)))
    chunks = chunked(records, chunk_size(len(records), workers, MOST_PER_CHUNK))
    results = run_batch(measure_records, chunks, workers=workers, total=len(records), unit="records searched for beats")
    with contextlib.closing(results):
        rows = [row for chunk in results for row in chunk]
    table = pd.DataFrame(rows, columns=["beats", "heart_rate", "rr_irregularity"])
    table.insert(0, "study_id", study_id)
    return table


def baselines_table(results: Evaluation, beats: pd.DataFrame) -> pd.DataFrame | None:
    """Return how the rules fare on the evaluated records, beside the network.

    A record with too few beats for a rule counts as the least likely to have the label.

    Parameters
    ----------
    results : Evaluation
        The network.
    beats : DataFrame
        As `beats_table` of the evaluated records.

    Returns
    -------
    DataFrame or None
        A row per rule whose label is evaluated: `label`, `rule`, `n_pos`, `n_neg`, `n_no_beats`; for AUROC and AUPRC:
        `<metric>` (network), `<metric>_rule` with `_low` and `_high`, `<metric>_difference` (network minus rule,
        paired) with `_low` and `_high`; what the rule's cut gives: `recall_rule`, `specificity_rule`,
        `precision_rule` with `_low` and `_high`; `few_patients` as in metrics.csv. None where there is no such label.
    """
    names = results.test.labels.names
    rules = [rule for rule in RULES if rule.label in names]
    if not rules:
        return None
    columns = [names.index(rule.label) for rule in rules]
    truth, ours = results.test.truth[:, columns], results.probabilities[:, columns]
    scores = np.stack([rule.score(beats[rule.column].to_numpy()) for rule in rules], axis=1)
    missing = np.isnan(scores)
    scores = np.where(missing, -1e9, scores)
    network = Scored(truth, ours, results.decisions.thresholds[columns], results.unit, pooled=False)
    by_rule = Scored(truth, scores, np.array([rule.cut for rule in rules]), results.unit, pooled=False)
    estimates = [
        estimate(one, replicates(one, len(results.estimates.drawn), f"resamples of {what}"))
        for one, what in ((network, "the network"), (by_rule, "the rules"))
    ]
    difference = differences(*estimates, same_order(truth, ours, scores))
    table = pd.DataFrame({"label": [rule.label for rule in rules], "rule": [rule.text for rule in rules]})
    table["n_pos"], table["n_neg"] = (truth == 1).sum(axis=0), (truth == 0).sum(axis=0)
    table["n_no_beats"] = (missing & ~np.isnan(truth)).sum(axis=0)
    for number, metric in enumerate(AREAS):
        table[metric] = estimates[0].point[:-1, number]
        table = table.assign(**_with_ends(f"{metric}_rule", estimates[1], number))
        table = table.assign(**_with_ends(f"{metric}_difference", difference, number))
    for metric in ("recall", "specificity", "precision"):
        table = table.assign(**_with_ends(f"{metric}_rule", estimates[1], METRICS.index(metric)))
    table["few_patients"] = results.table["few_patients"].array[columns]
    return table


def _with_ends(name: str, estimates, place: int) -> dict[str, np.ndarray]:
    values = zip(("", "_low", "_high"), (estimates.point, estimates.low, estimates.high))
    return {f"{name}{end}": of_rows[:-1, place] for end, of_rows in values}

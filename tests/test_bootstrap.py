"""The patient bootstrap against plain loops over scikit-learn."""

import json
import lzma
from itertools import islice

import numpy as np
import pytest
from ecg_evaluation.bootstrap import draw, replicates
from ecg_evaluation.intervals import standard_error
from ecg_evaluation.metrics import METRICS, Scored
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from ecg_finetune.label_set import LABELS


@pytest.fixture
def sample():
    rng = np.random.default_rng(3)
    patient = np.sort(rng.integers(0, 60, 300))
    patient = np.unique(patient, return_inverse=True)[1]
    truth = rng.random((300, 17)) < np.linspace(0.1, 0.8, 17)
    scores = np.round(1 / (1 + np.exp(-(rng.normal(size=truth.shape) + truth))), 2)
    return truth, scores, patient


@pytest.fixture
def genuine(test_data):
    """The patients of 400 records of MIMIC-IV-ECG and the labels of 400 genuine reports; the scores are made up."""
    with lzma.open(test_data / "mimic_iv_ecg" / "record_list.csv.xz", "rt") as file:
        patient = [int(line.split(",")[0]) for line in islice(file, 1, 401)]
    with (test_data / "mimic_reports" / "reports.jsonl").open(encoding="utf-8") as file:
        labels = [json.loads(line)["labels"] for line in islice(file, 400)]
    truth = np.array([[name in present for name in LABELS] for present in labels])
    scores = np.round(np.random.default_rng(5).random(truth.shape) / 2 + truth / 4, 2)
    return truth, scores, np.unique(patient, return_inverse=True)[1]


def areas(truth, scores) -> tuple[float, float]:
    """Return AUROC and AUPRC by scikit-learn; NaN where there are not both kinds."""
    if truth.all() or not truth.any():
        return np.nan, np.nan
    return roc_auc_score(truth, scores), average_precision_score(truth, scores)


@pytest.mark.parametrize("records", ["sample", "genuine"])
def test_replicates_equal_a_plain_loop_over_repeated_rows(records, request):
    truth, scores, patient = request.getfixturevalue(records)
    ours = replicates(Scored(truth, scores, np.full(17, 0.5), patient), 20)
    records_of = [np.flatnonzero(patient == p) for p in range(patient.max() + 1)]
    for number in range(20):
        weights = draw(len(records_of), number)
        rows = np.concatenate([np.tile(records_of[p], times) for p, times in enumerate(weights)]).astype(int)
        again = truth[rows], scores[rows]
        expected = np.array([areas(again[0][:, label], again[1][:, label]) for label in range(17)])
        np.testing.assert_allclose(ours[number, :17, :2], expected, rtol=0, atol=1e-9)
        micro = areas(again[0].ravel(), again[1].ravel())
        np.testing.assert_allclose(ours[number, 17, :2], micro, rtol=0, atol=1e-9)
        f1 = [f1_score(again[0][:, label], again[1][:, label] >= 0.5, zero_division=np.nan) for label in range(17)]
        np.testing.assert_allclose(ours[number, :17, METRICS.index("f1")], f1, rtol=0, atol=1e-9)


def test_draws_are_of_patients_reproducible_and_all_different():
    first = draw(1000, 0)
    assert first.sum() == 1000 and first.dtype == np.int32
    np.testing.assert_array_equal(first, draw(1000, 0))
    assert (first != draw(1000, 1)).any()
    assert (first == 0).mean() == pytest.approx(np.exp(-1), abs=0.05)


def test_standard_error_equals_a_plain_loop_over_sample_weights(sample):
    truth, scores, patient = sample
    ours = standard_error(replicates(Scored(truth, scores, np.full(17, 0.5), patient), 40)[:, :17, :2])
    units = patient.max() + 1
    for label in (0, 9):
        plain = []
        for number in range(40):
            weights = draw(units, number)[patient]
            plain.append(
                [
                    metric(truth[:, label], scores[:, label], sample_weight=weights)
                    for metric in (roc_auc_score, average_precision_score)
                ]
            )
        np.testing.assert_allclose(ours[label], np.std(plain, axis=0, ddof=1), atol=1e-12)


def test_repeated_records_do_not_lessen_the_standard_error(sample):
    """Copying every record of a patient adds no information; a bootstrap of records would think it does."""
    truth, scores, patient = sample
    once = replicates(Scored(truth, scores, np.full(17, 0.5), patient), 50)
    five = np.repeat(np.arange(300), 5)
    copied = replicates(Scored(truth[five], scores[five], np.full(17, 0.5), patient[five]), 50)
    np.testing.assert_allclose(once[:, :, 0], copied[:, :, 0], atol=1e-12)
    by_record = replicates(Scored(truth[five], scores[five], np.full(17, 0.5), np.arange(1500)), 50)
    errors = [standard_error(values[:, 17, 0]) for values in (copied, by_record)]
    assert errors[1] < 0.7 * errors[0]


def test_standard_error_of_a_mean_is_the_known_one():
    """With one record per patient, accuracy is a mean of independent 0/1."""
    rng = np.random.default_rng(1)
    truth = rng.random((2000, 17)) < 0.5
    scores = np.where(rng.random(truth.shape) < 0.8, truth, ~truth).astype(float)
    scored = Scored(truth, scores, np.full(17, 0.5), np.arange(2000))
    errors = standard_error(replicates(scored, 400)[:, :17, METRICS.index("accuracy")])
    assert errors.mean() == pytest.approx(np.sqrt(0.8 * 0.2 / 2000), rel=0.07)


def test_no_replicates(sample):
    truth, scores, patient = sample
    assert replicates(Scored(truth, scores, np.full(17, 0.5), patient), 0).shape == (0, 18, len(METRICS))

"""Metrics against scikit-learn's."""

import warnings

import numpy as np
import pytest
import torch
from ecg_evaluation.metrics import METRICS, Ranking, Scored, rates, threshold_curve
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from ecg_finetune.ecg_fm import load_classifier
from ecg_finetune.segments import expand_lead


def simulated(records: int = 400, seed: int = 0, decimals: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Return truth and probabilities (records, 17); rounding makes ties."""
    rng = np.random.default_rng(seed)
    truth = rng.random((records, 17)) < np.linspace(0.02, 0.8, 17)
    scores = 1 / (1 + np.exp(-(rng.normal(size=truth.shape) + 1.5 * truth - 1)))
    return truth, np.round(scores, decimals)


@pytest.mark.parametrize("decimals", [1, 2, 15])
def test_areas_equal_scikit_learn(decimals):
    truth, scores = simulated(decimals=decimals)
    values = Scored(truth, scores, np.full(17, 0.5), np.arange(len(truth))).measure()[0]
    assert abs(values[17, 0] - sklearn_metrics.roc_auc_score(truth, scores, average="micro")) < 1e-9
    assert abs(values[17, 1] - sklearn_metrics.average_precision_score(truth, scores, average="micro")) < 1e-9
    for label in range(17):
        assert abs(values[label, 0] - sklearn_metrics.roc_auc_score(truth[:, label], scores[:, label])) < 1e-9
        expected = sklearn_metrics.average_precision_score(truth[:, label], scores[:, label])
        assert abs(values[label, 1] - expected) < 1e-9


def test_scores_of_a_genuine_checkpoint_on_genuine_segments_equal_scikit_learn(test_data):
    trace = np.load(test_data / "checkpoints" / "training_trace.npz")
    model = load_classifier(test_data / "checkpoints" / "tiny1_finetuned.pt")
    with torch.no_grad():
        scores = torch.sigmoid(model(expand_lead(torch.from_numpy(trace["valid_lead"])))).numpy().astype(float)
    truth = trace["valid_labels"] > 0.5
    values = Scored(truth, scores, np.full(17, 0.5), np.arange(len(truth))).measure()[0]
    defined = np.flatnonzero(truth.any(axis=0))
    assert len(defined) == 16 and np.isnan(np.delete(values[:17, :2], defined, axis=0)).all()
    assert abs(values[17, 0] - sklearn_metrics.roc_auc_score(truth, scores, average="micro")) < 1e-9
    assert abs(values[17, 1] - sklearn_metrics.average_precision_score(truth, scores, average="micro")) < 1e-9
    for label in defined:
        one = truth[:, label], scores[:, label]
        decided = one[0], one[1] >= 0.5
        expected = {
            "auroc": sklearn_metrics.roc_auc_score(*one),
            "auprc": sklearn_metrics.average_precision_score(*one),
            "accuracy": sklearn_metrics.accuracy_score(*decided),
            "recall": sklearn_metrics.recall_score(*decided),
            "precision": sklearn_metrics.precision_score(*decided, zero_division=np.nan),
            "f1": sklearn_metrics.f1_score(*decided),
            "specificity": sklearn_metrics.recall_score(*decided, pos_label=0),
            "npv": sklearn_metrics.precision_score(*decided, pos_label=0, zero_division=np.nan),
            "brier": sklearn_metrics.brier_score_loss(*one),
        }
        found = [values[label, METRICS.index(name)] for name in expected]
        np.testing.assert_allclose(found, list(expected.values()), rtol=0, atol=1e-9)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=40))
def test_weighted_areas_equal_repeated_rows(rows):
    truth, scores, weights = (np.array(column) for column in zip(*rows))
    ours = Ranking.of(truth, scores.astype(float), np.arange(len(rows))).areas(weights.astype(np.int32))
    truth, scores = np.repeat(truth, weights), np.repeat(scores, weights)
    assert np.isnan(ours[0]) == np.isnan(ours[1]) == (len(set(truth)) < 2)
    if not np.isnan(ours[0]):
        assert abs(ours[0] - sklearn_metrics.roc_auc_score(truth, scores)) < 1e-9
        assert abs(ours[1] - sklearn_metrics.average_precision_score(truth, scores)) < 1e-9


def test_decisions_and_brier_equal_scikit_learn():
    truth, scores = simulated()
    thresholds = np.linspace(0.2, 0.7, 17)
    values = Scored(truth, scores, thresholds, np.arange(len(truth)), calibrated=scores**2).measure()[0]
    decided = scores >= thresholds
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        precision, recall, f1, _ = sklearn_metrics.precision_recall_fscore_support(truth, decided, average="micro")
        np.testing.assert_allclose(values[17, [4, 3, 5]], [precision, recall, f1], rtol=0, atol=1e-12)
    for label in range(17):
        tn, fp, fn, tp = sklearn_metrics.confusion_matrix(truth[:, label], decided[:, label]).ravel()
        named = dict(zip(METRICS, values[label]))
        assert named["accuracy"] == pytest.approx((tp + tn) / len(truth), abs=1e-12)
        assert named["specificity"] == pytest.approx(tn / (tn + fp), abs=1e-12)
        assert named["npv"] == pytest.approx(tn / (tn + fn), abs=1e-12)
        brier = sklearn_metrics.brier_score_loss(truth[:, label], scores[:, label])
        assert named["brier"] == pytest.approx(brier, abs=1e-12)
        brier = sklearn_metrics.brier_score_loss(truth[:, label], scores[:, label] ** 2)
        assert named["brier_calibrated"] == pytest.approx(brier, abs=1e-12)
    assert values[17, 8] == pytest.approx(((scores - truth) ** 2).mean(), abs=1e-12)


def test_a_label_without_positives_is_undefined():
    truth, scores = simulated()
    truth[:, 4] = False
    values = Scored(truth, scores, np.full(17, 0.5), np.arange(len(truth))).measure()[0]
    named = dict(zip(METRICS, values[4]))
    assert np.isnan(named["auroc"]) and np.isnan(named["auprc"]) and np.isnan(named["recall"])
    assert named["specificity"] <= 1 and named["accuracy"] <= 1
    undefined = [metric for metric, value in zip(METRICS, values[17]) if np.isnan(value)]
    assert undefined == ["brier_calibrated"]  # for want of calibrated probabilities


def test_rates_without_denominator_are_nan():
    values = rates(*np.array([[0.0], [0.0], [3.0], [5.0]]))
    assert np.isnan(values["precision"]) and values["recall"] == 0 and values["f1"] == 0
    values = rates(*np.array([[0.0], [0.0], [0.0], [5.0]]))
    assert np.isnan(values["f1"]) and np.isnan(values["recall"]) and values["npv"] == 1


def test_threshold_curve_equals_scikit_learn():
    truth, scores = simulated(decimals=1)
    thresholds, tp, fp = threshold_curve(truth[:, 8], scores[:, 8])
    fpr, tpr, expected = sklearn_metrics.roc_curve(truth[:, 8], scores[:, 8], drop_intermediate=False)
    np.testing.assert_array_equal(thresholds, expected[1:])
    np.testing.assert_allclose(tp / truth[:, 8].sum(), tpr[1:])
    np.testing.assert_allclose(fp / (~truth[:, 8]).sum(), fpr[1:])

"""Thresholds and calibration against exhaustive search and scikit-learn."""

import argparse
from fractions import Fraction

import numpy as np
import pytest
from ecg_evaluation.calibration import fit_calibration, fit_sigmoid
from ecg_evaluation.options import threshold_rule
from ecg_evaluation.thresholds import Target, best_threshold, choose_thresholds
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.calibration import _SigmoidCalibration
from sklearn.metrics import f1_score, recall_score

from ecg_finetune.probabilities import calibrate


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=2, max_size=30))
def test_no_threshold_is_better(rows):
    truth, scores = np.array([row[0] for row in rows]), np.array([row[1] / 8 for row in rows])
    if len(set(truth)) < 2:
        truth[:2] = [True, False]

    def youden(decided):
        return recall_score(truth, decided) + recall_score(~truth, ~decided)

    for rule, quality in (("f1", lambda decided: f1_score(truth, decided)), ("youden", youden)):
        chosen = quality(scores >= best_threshold(truth, scores, rule))
        assert chosen >= max(quality(scores >= threshold) for threshold in set(scores)) - 1e-12


def test_of_equally_good_thresholds_the_highest_is_chosen():
    """Recall 1/3 and specificity 1, or recall 1 and specificity 1/3: in floating point the second looks better."""
    truth = np.array([1, 1, 1, 0, 0, 0])
    scores = np.array([0.9, 0.5, 0.5, 0.5, 0.5, 0.1])
    assert best_threshold(truth, scores, "youden") == 0.9


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=40))
def test_ties_are_exact(rows):
    truth, scores = np.array([row[0] for row in rows]), np.array([row[1] / 8 for row in rows])
    if len(set(truth)) < 2:
        truth[:2] = [True, False]

    def youden(threshold):
        decided = scores >= threshold
        return Fraction(int(decided[truth].sum()), int(truth.sum())) - Fraction(
            int(decided[~truth].sum()), int((~truth).sum())
        )

    def f1(threshold):
        decided = scores >= threshold
        return Fraction(2 * int(decided[truth].sum()), int(decided.sum()) + int(truth.sum()))

    for rule, quality in (("youden", youden), ("f1", f1)):
        assert best_threshold(truth, scores, rule) == max(set(scores), key=lambda at: (quality(at), at))


def test_a_label_without_both_kinds_gets_one_half():
    truth = np.array([[1, 0, 1], [1, 0, 0], [1, 0, 1]])
    scores = np.array([[0.9, 0.8, 0.8], [0.3, 0.1, 0.1], [0.4, 0.2, 0.7]])
    np.testing.assert_array_equal(choose_thresholds(truth, scores, "f1"), [0.5, 0.5, 0.7])
    np.testing.assert_array_equal(choose_thresholds(truth, scores, 0.25), [0.25, 0.25, 0.25])


def test_threshold_rule_option():
    assert threshold_rule("youden") == "youden" and threshold_rule("0.25") == 0.25
    for text in ("f2", "1.5", "nan", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="neither f1 nor youden"):
            threshold_rule(text)


@pytest.mark.parametrize("positives", [3, 50, 1000])
def test_sigmoid_equals_scikit_learn(positives):
    rng = np.random.default_rng(positives)
    truth = np.arange(3000) < positives
    probabilities = expit(2 * rng.normal(size=3000) + 2 * truth)
    slope, intercept = fit_sigmoid(truth, probabilities)
    expected = _SigmoidCalibration().fit(logit(probabilities), truth)
    assert slope == pytest.approx(-expected.a_, rel=1e-3, abs=1e-3)
    assert intercept == pytest.approx(-expected.b_, rel=1e-3, abs=1e-3)


def test_calibration_undoes_a_shift():
    """Scores made too high by pos_weight: log(w) is added to the logit, calibration must take it away again."""
    rng = np.random.default_rng(0)
    honest = expit(rng.normal(-2, 1.5, size=(40000, 1)))
    truth = rng.random(honest.shape) < honest
    shifted = expit(logit(honest) + np.log(8))
    parameters = fit_calibration(truth, shifted)
    np.testing.assert_allclose(parameters, [[1, -np.log(8)]], atol=0.06)
    assert np.abs(calibrate(shifted, parameters) - honest).max() < 0.02


def test_calibration_survives_separable_scores_and_certain_probabilities():
    truth = np.array([[0], [0], [0], [1]], bool)
    parameters = fit_calibration(truth, np.array([[0.0], [0.0], [0.1], [1.0]]))
    assert np.isfinite(parameters).all()
    calibrated = calibrate(np.array([[0.0], [1.0]]), parameters)
    assert 0 < calibrated[0, 0] < 0.5 < calibrated[1, 0] < 1


def test_labels_without_both_kinds_stay_as_they_are():
    probabilities = np.array([[0.0, 0.3], [1.0, 0.8], [0.5, 0.1]])
    parameters = fit_calibration(np.array([[1, 0], [1, 1], [1, 0]]), probabilities)
    np.testing.assert_array_equal(calibrate(probabilities, parameters)[:, 0], probabilities[:, 0])
    assert (parameters[0] == [1, 0]).all() and not (parameters[1] == [1, 0]).all()


def test_a_target_is_named_with_all_its_digits():
    rules = [Target("sensitivity", share).rule for share in (0.9, 0.9999999, 0.99999999, 1e-7)]
    assert rules == [f"sensitivity {share}" for share in ("0.9", "0.9999999", "0.99999999", "0.0000001")]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 12)), min_size=2, max_size=60),
    st.sampled_from([0.5, 0.9, 0.95, 0.99, 1.0]),
)
def test_targets_are_reached_at_the_least_cost(rows, share):
    truth, scores = (np.array(column) for column in zip(*rows))
    if truth.all() or not truth.any():
        return
    scores = scores / 12

    def shares(threshold: float) -> tuple[float, float]:
        return (scores[truth] >= threshold).mean(), (scores[~truth] < threshold).mean()

    sensitivity = Target("sensitivity", share).threshold(truth, scores)
    assert shares(sensitivity)[0] >= share - 1e-9
    assert all(shares(higher)[0] < share - 1e-9 for higher in scores[scores > sensitivity])
    specificity = Target("specificity", share).threshold(truth, scores)
    if np.isnan(specificity):
        assert all(shares(score)[1] < share - 1e-9 for score in scores)
    else:
        assert shares(specificity)[1] >= share - 1e-9
        assert all(shares(lower)[1] < share - 1e-9 for lower in scores[scores < specificity])

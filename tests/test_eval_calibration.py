"""Calibration on the evaluated records and decision curves, against statsmodels, scikit-learn and plain loops."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from ecg_evaluation.bootstrap import draw
from ecg_evaluation.calibration_quality import agreement, calibration_tables, qualities, quantile_bins, regression
from ecg_evaluation.decision_curves import PROBABILITIES, decision_curves
from ecg_evaluation.inputs import Labelled
from ecg_evaluation.results import decide, evaluate
from ecg_evaluation.sections import calibration_section
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve

from ecg_finetune.label_set import LabelSet
from ecg_finetune.probabilities import logit as ecg_logit


def simulated(records: int = 3000, seed: int = 0):
    """Return truth with unknown cells and probabilities that are too high and too extreme, (records, 2), and units."""
    rng = np.random.default_rng(seed)
    unit = np.sort(rng.integers(0, records // 4, records))
    unit = np.unique(unit, return_inverse=True)[1]
    own = rng.normal(size=unit.max() + 1)[unit]  # a patient's records resemble each other
    honest = rng.normal([-2.0, 0.5], 1.2, size=(records, 2)) + own[:, None]
    truth = (rng.random(honest.shape) < expit(honest)).astype(float)
    truth[rng.random(truth.shape) < 0.1] = np.nan
    return truth, expit(1.5 * honest + 0.8), unit


@pytest.fixture(scope="module")
def results():
    truth, probabilities, unit = simulated()
    names = LabelSet.of(["Rare", "Common", "Never"])
    truth = np.column_stack((truth, np.zeros(len(truth))))
    probabilities = np.column_stack((probabilities, np.full(len(truth), 0.1)))
    half = unit < unit.max() // 2
    valid = Labelled("valid", np.flatnonzero(half), truth[half], names, None)
    test = Labelled("test", np.flatnonzero(~half), truth[~half], names, None)
    decisions = decide(valid, probabilities[half], "f1", 3)
    return evaluate(test, probabilities[~half], decisions, unit[~half], 300)


@settings(max_examples=100, deadline=None)
@given(st.floats(0.001, 0.999), st.integers(3, 60))
@example(0.5163162323430206, 60)
def test_equal_probabilities_have_no_slope(probability, records):
    truth = (np.arange(records) % 3 == 0).astype(float)
    large, *full = agreement(truth, np.full(records, probability), np.arange(records), records).beta
    assert np.isnan(full).all() and large == pytest.approx(logit(truth.mean()) - ecg_logit(probability), abs=1e-6)


def test_the_report_says_why_a_slope_is_empty(results):
    told = calibration_section({"calibration": calibration_tables(results)[0]})
    assert "An empty slope: a threshold separates the classes, or all probabilities are equal" in told


def test_intercept_and_slope_equal_those_of_statsmodels(results):
    table, _ = calibration_tables(results)
    assert list(table["label"]) == ["Rare", "Rare", "Common", "Common"]
    assert list(table["probabilities"]) == ["as predicted", "calibrated"] * 2
    for number, values in enumerate((results.probabilities, results.calibrated) * 2):
        label, row = number // 2, table.iloc[number]
        known = ~np.isnan(results.test.truth[:, label])
        truth, score = results.test.truth[known, label], logit(values[known, label])
        groups = {"groups": results.unit[known]}
        on_logit = sm.GLM(truth, sm.add_constant(score), family=sm.families.Binomial())
        on_logit = on_logit.fit(cov_type="cluster", cov_kwds=groups)
        large = sm.GLM(truth, np.ones(len(truth)), family=sm.families.Binomial(), offset=score)
        large = large.fit(cov_type="cluster", cov_kwds=groups)
        assert row["slope"] == pytest.approx(on_logit.params[1], abs=1e-6)
        assert row["intercept"] == pytest.approx(large.params[0], abs=1e-6)
        # The bootstrap's standard error is that of the cluster-robust covariance, but for chance and few clusters.
        for quality, theirs in (("slope", on_logit.bse[1]), ("intercept", large.bse[0])):
            assert (row[f"{quality}_high"] - row[f"{quality}_low"]) / 3.92 == pytest.approx(theirs, rel=0.15)
        assert row["expected_observed"] == pytest.approx(values[known, label].sum() / truth.sum())
        assert row["n_pos"] == truth.sum() and row["n_neg"] == (truth == 0).sum()
    assert (table["slope"][1::2] - 1).abs().max() < 0.2 < (table["slope"][::2] - 1).abs().min()
    assert (table["ece"][1::2].to_numpy() < table["ece"][::2].to_numpy()).all()


def test_one_step_of_newton_agrees_with_fitting_every_resample(results):
    truth, values, unit = results.test.truth[:, 0], results.probabilities[:, 0], results.unit
    known = ~np.isnan(truth)
    rows = np.split(np.argsort(unit, kind="stable"), np.cumsum(np.bincount(unit))[:-1])
    slopes = []
    for number in range(60):
        chosen = np.concatenate([np.tile(rows[u], n) for u, n in enumerate(draw(len(rows), number)) if n])
        chosen = chosen[known[chosen]]
        score = np.column_stack((np.ones(len(chosen)), logit(values[chosen])))
        slopes.append(regression(truth[chosen], score, 0)[0][1])
    from ecg_evaluation.bootstrap import resampled_sums
    from ecg_evaluation.calibration_quality import resampled_beta

    found = agreement(truth[known], values[known], unit[known], len(rows))
    ours = resampled_beta(found.beta, resampled_sums(found.steps, 60))[:, 2]
    assert np.std(ours) == pytest.approx(np.std(slopes), rel=0.1)
    assert np.abs(ours - slopes).max() < 0.6 * np.std(slopes)


def test_reliability_and_ece_equal_scikit_learn_by_quantiles(results):
    calibration, reliability = calibration_tables(results)
    known = ~np.isnan(results.test.truth[:, 1])
    truth, values = results.test.truth[known, 1], results.probabilities[known, 1]
    observed, predicted = calibration_curve(truth, values, n_bins=10, strategy="quantile")
    bins = reliability[(reliability["label"] == "Common") & (reliability["probabilities"] == "as predicted")]
    assert bins["n"].sum() == len(truth) and bins["n"].max() - bins["n"].min() <= 1
    # scikit-learn interpolates between records to find the edges: at most one record at each end is elsewhere.
    np.testing.assert_allclose(bins["predicted"], predicted, atol=0.01)
    np.testing.assert_allclose(bins["observed"], observed, atol=0.02)
    assert (bins["observed_low"] <= bins["observed"]).all() and (bins["observed"] <= bins["observed_high"]).all()
    ece = (np.abs(bins["predicted"] - bins["observed"]) * bins["n"]).sum() / len(truth)
    row = calibration[(calibration["label"] == "Common") & (calibration["probabilities"] == "as predicted")].iloc[0]
    assert row["ece"] == pytest.approx(ece) and row["ece_low"] < ece < row["ece_high"]


def test_bins_hold_equal_numbers_and_keep_equal_probabilities_together():
    assert np.bincount(quantile_bins(np.random.default_rng(0).random(1000))).tolist() == [100] * 10
    tied = np.repeat([0.0, 0.2, 0.9], [80, 15, 5])
    for value in (0.0, 0.2, 0.9):
        assert len(set(quantile_bins(tied)[tied == value])) == 1
    assert quantile_bins(np.array([0.5])).tolist() == [0]


def test_separated_classes_have_no_slope():
    truth = np.repeat([0.0, 1.0], 50)
    values = np.concatenate((np.linspace(0.01, 0.4, 50), np.linspace(0.6, 0.99, 50)))
    found = agreement(truth, values, np.arange(100), 100)
    assert np.isnan(found.beta[1:]).all() and np.isfinite(found.beta[0])
    intercept, slope, ratio, _ = qualities(found.beta, found.bins.sum(axis=0))
    assert np.isnan(slope) and ratio == pytest.approx(1) and intercept == pytest.approx(0, abs=1e-6)


def test_net_benefit_equals_a_plain_loop(results):
    table = decision_curves(results)
    assert set(table["probabilities"]) == {"calibrated"} and len(table) == 2 * len(PROBABILITIES)
    for label, rows in table.groupby("label"):
        place = results.test.labels.names.index(label)
        for row in rows.to_dict("records"):
            tp = fp = n = positives = 0
            for truth, value in zip(results.test.truth[:, place], results.calibrated[:, place]):
                if np.isnan(truth):
                    continue
                n, positives = n + 1, positives + truth
                tp, fp = (
                    tp + (value >= row["threshold"] and truth == 1),
                    fp + (value >= row["threshold"] and truth == 0),
                )
            odds = row["threshold"] / (1 - row["threshold"])
            assert row["net_benefit"] == pytest.approx(tp / n - fp / n * odds, abs=1e-12)
            assert row["treat_all"] == pytest.approx(positives / n - (n - positives) / n * odds, abs=1e-12)
            assert row["net_benefit_low"] <= row["net_benefit"] <= row["net_benefit_high"]


def test_without_resamples_there_are_values_and_no_intervals():
    truth, probabilities, unit = simulated(400)
    test = Labelled("test", np.arange(len(truth)), truth, LabelSet.of(["a", "b"]), None)
    results = evaluate(test, probabilities, decide(None, None, "f1", 2), unit, 0)
    calibration, reliability = calibration_tables(results)
    curves = decision_curves(results)
    assert set(calibration["probabilities"]) == {"as predicted"} == set(curves["probabilities"])
    for table in (calibration, reliability, curves):
        ends = table.filter(regex="_(low|high)$")
        assert ends.isna().all(axis=None) and not table.drop(columns=ends.columns).isna().any(axis=None)
    assert isinstance(curves, pd.DataFrame)

"""Intervals against scipy, against hand-made cases, and by simulated coverage."""

import numpy as np
import pytest
from ecg_evaluation.intervals import (
    AREAS,
    clopper_pearson,
    correction,
    differences,
    effective_number,
    estimate,
    macro,
    mean_margin,
    standard_error,
    t_quantile,
)
from ecg_evaluation.metrics import METRICS, RATIOS, Scored
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit, logit

from bench.bench_intervals import CUT, ESTIMANDS, METHODS, STEEPNESS, Design, coverage, simulate, true_estimands

HALF = np.full(3, 0.5)


def resampled(scored: Scored, count: int = 200, seed: int = 0) -> np.ndarray:
    """Return the metrics of resamples of the units, drawn otherwise than the product draws them."""
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(scored.units, np.full(scored.units, 1 / scored.units), count)
    return scored.measure(weights.astype(np.int32))


def named(values: np.ndarray, metric: str) -> np.ndarray:
    return values[..., METRICS.index(metric)]


@pytest.mark.parametrize("hits, number", [(0, 1), (1, 1), (0, 7), (3, 7), (7, 7), (120, 4000)])
def test_clopper_pearson_equals_scipy(hits, number):
    expected = stats.binomtest(hits, number).proportion_ci(method="exact")
    np.testing.assert_allclose(clopper_pearson(hits / number, number), [expected.low, expected.high], atol=1e-12)


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1e5))
def test_clopper_pearson_of_any_number_holds_the_share_and_has_a_width(share, number):
    low, high = clopper_pearson(np.array(share), np.array(number))
    assert 0 <= low <= share + 1e-9 and share - 1e-9 <= high <= 1 and low < high
    with_more = clopper_pearson(np.array(share), np.array(number + 1))
    assert with_more[1] - with_more[0] <= high - low + 1e-9


def test_effective_number_of_patients():
    np.testing.assert_allclose(effective_number(np.array([[2.0, 1, 0], [2, 9, 0], [2, 0, 0]])), [3, 100 / 82, 0])


def test_t_quantile_and_correction_equal_scipy_and_the_variance_of_a_mean():
    np.testing.assert_allclose(t_quantile(np.array([0.5, 4.0, 60.3])), stats.t.ppf(0.975, [0.5, 4.0, 60.3]))
    assert np.isinf(t_quantile(np.array(0.0))) and np.isinf(correction(np.array(1.0)))
    # The bootstrap of a mean: the population's variance over n, where the sample's is wanted.
    sample = np.array([3.0, 1, 4, 1, 5])
    assert np.sqrt(sample.var() / 5) * correction(np.array(5.0)) == pytest.approx(stats.sem(sample))


def test_standard_error_equals_numpy_without_undefined_resamples():
    drawn = np.random.default_rng(0).normal(size=(30, 2, 4))
    drawn[:5, 1, 2], drawn[1:, 0, 3] = np.nan, np.nan
    expected = np.nanstd(np.delete(drawn.reshape(30, 8), 3, axis=1), axis=0, ddof=1)
    np.testing.assert_allclose(np.delete(standard_error(drawn).ravel(), 3), expected)
    assert np.isnan(standard_error(drawn)[0, 3])  # one value has no standard deviation


def test_with_one_record_a_patient_proportions_have_the_exact_binomial_interval():
    """No patient's records resemble each other then: the effective number is the number, but for chance."""
    rng = np.random.default_rng(1)
    truth = rng.random((3000, 3)) < [0.5, 0.3, 0.1]
    scores = np.where(rng.random(truth.shape) < 0.8, truth, ~truth).astype(float)
    scored = Scored(truth, scores, HALF, np.arange(3000))
    found = estimate(scored, resampled(scored))
    decided = scores >= 0.5
    for label in range(3):
        t, d = truth[:, label], decided[:, label]
        pairs = {"recall": (d[t], 1), "specificity": (d[~t], 0), "precision": (t[d], 1), "npv": (t[~d], 0)}
        pairs["accuracy"] = (t == d, 1)
        for metric, (values, wanted) in pairs.items():
            hits = int((values == wanted).sum())
            expected = stats.binomtest(hits, len(values)).proportion_ci(method="exact")
            width = named(found.high, metric)[label] - named(found.low, metric)[label]
            assert width == pytest.approx(expected.high - expected.low, rel=0.12), metric


def test_areas_have_the_t_interval_on_the_logit_scale():
    """Written out for a label of 12 patients with equally many records."""
    rng = np.random.default_rng(2)
    patient = np.repeat(np.arange(100), 3)
    truth = np.tile((patient < 12)[:, None], (1, 3))
    scores = 1 / (1 + np.exp(-rng.normal(size=truth.shape) - 2 * truth))
    scored = Scored(truth, scores, HALF, patient)
    drawn = resampled(scored)
    found = estimate(scored, drawn)
    for metric in AREAS:
        for label in range(3):
            value, resamples = named(found.point, metric)[label], named(drawn, metric)[:, label]
            margin = stats.t.ppf(0.975, 11) * np.sqrt(12 / 11) * np.std(logit(resamples), ddof=1)
            for ends, sign in ((found.low, -1), (found.high, 1)):
                assert logit(named(ends, metric)[label]) == pytest.approx(logit(value) + sign * margin)


def test_the_smaller_class_gives_the_degrees_of_freedom():
    """Patients without the label are as rare as those with it: the intervals of AUROC are the same."""
    rng = np.random.default_rng(3)
    truth = np.arange(200) < 8
    scores = 1 / (1 + np.exp(-rng.normal(size=200) - 1.5 * truth))
    both = Scored(np.stack((truth, ~truth), axis=1), np.stack((scores, 1 - scores), axis=1), HALF[:2], np.arange(200))
    found = estimate(both, resampled(both))
    for ends in (found.low, found.high):
        assert named(ends, "auroc")[0] == pytest.approx(named(ends, "auroc")[1])


def test_perfect_separation_is_as_uncertain_as_its_patients_are_few():
    patient = np.repeat(np.arange(40), 5)
    truth = np.stack((patient < 6, patient < 1, patient < 0), axis=1)
    scored = Scored(truth, np.where(truth, 0.9, 0.1), HALF, patient)
    found = estimate(scored, resampled(scored))
    for metric in (*AREAS, "recall", "precision", "f1"):
        for label, patients in ((0, 6), (1, 1)):
            expected = stats.binomtest(patients, patients).proportion_ci(method="exact")
            assert named(found.point, metric)[label] == 1
            assert named(found.low, metric)[label] == pytest.approx(expected.low)
            assert named(found.high, metric)[label] == 1
    assert np.isnan(named(found.low, "auroc")[2]) and np.isnan(named(found.high, "recall")[2])
    specificity = stats.binomtest(34, 34).proportion_ci(method="exact")
    assert named(found.low, "specificity")[0] == pytest.approx(specificity.low)


def test_one_positive_patient_tells_nothing_about_others():
    rng = np.random.default_rng(4)
    patient = np.repeat(np.arange(50), 4)
    truth = np.tile((patient == 7)[:, None], (1, 3))
    scored = Scored(truth, rng.random(truth.shape), HALF, patient)
    found = estimate(scored, resampled(scored))
    for metric in AREAS:
        low, high, point = (named(values, metric)[:3] for values in (found.low, found.high, found.point))
        # As of one draw: beta distributions with the value and what is missing to 1.
        np.testing.assert_allclose(low, stats.beta.ppf(0.025, point, 2 - point), rtol=1e-4)
        np.testing.assert_allclose(high, stats.beta.ppf(0.975, 1 + point, 1 - point), rtol=1e-4)
        assert (high - low > 0.8).all()


def test_the_interval_of_an_area_is_no_wider_than_if_every_patient_were_right_or_wrong():
    """Where resamples reach 1 their logits are far off; the interval does not follow them there."""
    patient = np.arange(80)
    truth = np.tile((patient < 8)[:, None], (1, 3))
    scores = np.where(truth, 0.9, 0.1) + 0.0
    scores[0], scores[79] = 0.5, 0.6
    scored = Scored(truth, scores, HALF, patient)
    found = estimate(scored, resampled(scored))
    for metric in AREAS:
        widest = clopper_pearson(named(found.point, metric), 8)
        assert named(found.low, metric)[0] >= widest[0][0] - 1e-12 > 0.4
    assert named(found.low, "auprc")[0] == pytest.approx(clopper_pearson(named(found.point, "auprc"), 8)[0][0])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.booleans(), st.booleans(), st.integers(0, 4), st.integers(0, 4), st.integers(0, 5)),
        min_size=1,
        max_size=25,
    ),
    st.integers(2, 12),
)
def test_every_defined_value_has_an_interval_of_some_width_around_it(rows, count):
    columns = np.array(rows)
    truth, scores = columns[:, :2].astype(bool), columns[:, 2:4] / 4
    unit = np.unique(columns[:, 4], return_inverse=True)[1]
    scored = Scored(truth, scores, HALF[:2], unit, calibrated=scores)
    found = estimate(scored, resampled(scored, count))
    defined = np.isfinite(found.point)
    np.testing.assert_array_equal(np.isfinite(found.low), defined)
    np.testing.assert_array_equal(np.isfinite(found.high), defined)
    low, high, point = found.low[defined], found.high[defined], found.point[defined]
    assert (low >= 0).all() and (high <= 1).all() and (low < high).all()
    assert (low <= point + 1e-12).all() and (point <= high + 1e-12).all()
    value, below, above = macro(found, np.ones(2, bool), logits=True)  # the two may err against each other
    some = np.isfinite(value)
    np.testing.assert_array_equal(some, defined[:-1].any(axis=0))
    assert (below[some] < above[some]).all()
    assert (below[some] <= value[some] + 1e-12).all() and (value[some] <= above[some] + 1e-12).all()

    other = Scored(truth, scores[::-1], HALF[:2], unit)
    apart = differences(found, estimate(other, resampled(other, count)), np.zeros(3, bool))
    some = np.isfinite(apart.point)
    low, high, point = apart.low[some], apart.high[some], apart.point[some]
    assert (low >= -1).all() and (high <= 1).all() and (low <= point).all() and (point <= high).all()


def many(seed: int = 5):
    """Return scored predictions of two models for three labels with 30, 30 and 3 positive patients of 200."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(200), 2)
    truth = np.stack((patient < 30, (patient >= 20) & (patient < 50), patient >= 197), axis=1)
    first = rng.normal(size=truth.shape) + 2 * truth
    second = first + 0.5 * rng.normal(size=truth.shape)
    return [Scored(truth, 1 / (1 + np.exp(1 - scores)), HALF, patient) for scores in (first, second)]


def test_macro_is_over_the_included_labels_in_value_and_interval():
    scored, other = many()
    drawn = resampled(scored)
    included = np.array([True, True, False])
    found = macro(estimate(scored, drawn), included, logits=True)
    np.testing.assert_allclose(named(found[0], "auroc"), named(scored.measure()[0, :2], "auroc").mean())
    # Whatever the third label does, and where no resample holds it.
    changed = drawn.copy()
    changed[:, 2] = np.nan
    np.testing.assert_array_equal(found, macro(estimate(scored, changed), included, logits=True))
    # Two labels' interval is about as wide as the standard error of their mean says; 58 patients weigh alike.
    error = np.std(named(drawn, "auroc")[:, :2].mean(axis=1), ddof=1)
    value, low, high = named(found, "auroc")
    assert (high - low) / 2 == pytest.approx(2 * error, rel=0.06)
    assert np.isnan(macro(estimate(scored, drawn), np.zeros(3, bool), logits=True)).all()


def test_a_mean_of_copies_is_no_surer_than_one_of_them():
    rng = np.random.default_rng(6)
    weights, drawn = rng.random((12, 1)), rng.random((500, 1))
    ends = np.zeros(1), np.ones(1)
    alone = mean_margin(drawn, weights, *ends)
    effective = effective_number(weights)
    expected = stats.t.ppf(0.975, effective - 1) * np.sqrt(effective / (effective - 1)) * drawn.std(ddof=1)
    assert alone == pytest.approx(expected[0])
    copies = mean_margin(np.tile(drawn, (1, 3)), np.tile(weights, (1, 3)), *np.repeat(ends, 3, axis=1))
    assert copies == pytest.approx(alone)
    # Different patients: the standard error falls with the root of their number, and the t quantile falls too.
    disjoint = np.kron(np.eye(3), weights)
    apart = mean_margin(rng.permuted(np.tile(drawn, (1, 3)), axis=0), disjoint, *np.repeat(ends, 3, axis=1))
    quantiles = stats.t.ppf(0.975, [3 * effective[0] - 1, effective[0] - 1])
    assert apart / alone == pytest.approx(quantiles[0] / quantiles[1] / np.sqrt(3), rel=0.1)


def test_an_estimate_whose_resamples_do_not_vary_widens_the_mean_by_its_interval():
    drawn = np.column_stack((np.random.default_rng(7).random(500), np.ones(500)))
    weights, low, high = np.ones((12, 2)), np.array([0.0, 0.7]), np.array([1.0, 1.0])
    one = mean_margin(drawn[:, :1], weights[:, :1], low[:1], high[:1])
    assert mean_margin(drawn, weights, low, high) == pytest.approx(np.hypot(one, 0.15) / 2)


def test_paired_difference():
    scored, other = many()
    first, second = estimate(scored, resampled(scored)), estimate(other, resampled(other))
    apart = differences(first, second, np.zeros(4, bool))
    error = np.std(named(first.drawn, "auroc")[:, 0] - named(second.drawn, "auroc")[:, 0], ddof=1)
    margin = stats.t.ppf(0.975, 29) * np.sqrt(30 / 29) * error
    assert apart.point[0, 0] == pytest.approx(named(first.point, "auroc")[0] - named(second.point, "auroc")[0])
    np.testing.assert_allclose([apart.low[0, 0], apart.high[0, 0]], apart.point[0, 0] + np.array([-margin, margin]))
    # Paired: far narrower than the two intervals apart.
    assert margin < 0.7 * (named(first.high, "auroc")[0] - named(first.low, "auroc")[0])

    same = differences(first, first, np.ones(4, bool))
    assert not same.low.any() and not same.high.any()
    assert not macro(same, np.ones(3, bool), logits=False).any()


def test_two_perfect_models_may_differ():
    patient = np.arange(60)
    truth = np.tile((patient < 6)[:, None], (1, 3))
    found = [
        estimate(scored, resampled(scored))
        for scored in (Scored(truth, np.where(truth, high, 0.1), HALF, patient) for high in (0.8, 0.9))
    ]
    apart = differences(*found, np.zeros(4, bool))
    worst = stats.binomtest(6, 6).proportion_ci(method="exact").low
    np.testing.assert_allclose(apart.low[:3], worst - 1)
    np.testing.assert_allclose(apart.high[:3], 1 - worst)


def test_without_resamples_there_are_values_and_no_intervals():
    scored, _ = many()
    for count in (0, 1):
        found = estimate(scored, resampled(scored)[:count])
        np.testing.assert_array_equal(found.point, scored.measure()[0])
        assert np.isnan(found.low).all() and np.isnan(found.high).all()
        assert np.isnan(macro(found, np.ones(3, bool), logits=True)[1:]).all()
        apart = differences(found, found, np.zeros(4, bool))
        assert np.isnan(apart.low).all()


def test_intervals_of_ten_positive_patients_cover():
    """Nominal 95 %: at least 90 % in simulated studies, where percentiles of the bootstrap do not (fixed seeds)."""
    covered, _ = coverage(Design(patients=300, positive_patients=10, resamples=60), studies=40)
    found = {method: dict(zip(ESTIMANDS, row)) for method, row in zip(METHODS, covered)}
    promised = ("auroc", "auprc", "recall", "macro auroc", "macro auprc", "macro recall")
    promised += ("auroc difference", "auprc difference", "macro auroc difference", "macro auprc difference")
    assert {name: round(found["ours"][name], 3) for name in promised if found["ours"][name] < 0.9} == {}
    assert found["percentile"]["auroc"] < 0.85 and found["percentile"]["recall"] < 0.9
    assert set(RATIOS) <= set(ESTIMANDS)


def test_true_values_of_the_simulation_are_those_of_many_patients():
    design = Design(patients=40_000, positive_patients=20_000, missed=0.1)
    truth, scores, patient = simulate(design, np.random.default_rng(1))
    found = Scored(truth, expit(STEEPNESS * (scores[0] - CUT)), np.full(4, 0.5), patient).measure()[0, :4, :9]
    np.testing.assert_allclose(found.T, true_estimands(design)[:9], atol=0.02)

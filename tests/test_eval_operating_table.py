"""Operating points for a purpose, and predictive values at other prevalences, against scikit-learn and Bayes' rule."""

import numpy as np
import pytest
from ecg_evaluation.inputs import Labelled
from ecg_evaluation.operating_table import operating_tables, predictive_intervals, predictive_values
from ecg_evaluation.results import decide, evaluate
from ecg_evaluation.thresholds import Target
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, recall_score
from test_eval_calibration import simulated

from ecg_finetune.label_set import LabelSet

TARGETS = [Target("sensitivity", 0.9), Target("specificity", 0.95)]


@pytest.fixture(scope="module")
def results():
    truth, probabilities, unit = simulated()
    names, half = LabelSet.of(["Rare", "Common"]), unit < unit.max() // 2
    valid = Labelled("valid", np.flatnonzero(half), truth[half], names, None)
    test = Labelled("test", np.flatnonzero(~half), truth[~half], names, None)
    decisions = decide(valid, probabilities[half], "f1", 2, TARGETS)
    known = ~np.isnan(valid.truth[:, 0])
    for target, share in (("sensitivity 0.9", 0.9), ("specificity 0.95", 0.95)):
        decided = probabilities[half][known, 0] >= decisions.further[target][0]
        label = 1 if target.startswith("sens") else 0
        reached = recall_score(valid.truth[known, 0], decided, pos_label=label)
        assert share <= reached < share + 0.01
    return evaluate(test, probabilities[~half], decisions, unit[~half], 200)


def test_counts_and_shares_equal_scikit_learn(results):
    table, _ = operating_tables(results, [])
    assert list(table["rule"]) == ["f1"] * 2 + ["sensitivity 0.9"] * 2 + ["specificity 0.95"] * 2
    for row in table.to_dict("records"):
        label = results.test.labels.names.index(row["label"])
        known = ~np.isnan(results.test.truth[:, label])
        truth, decided = results.test.truth[known, label], results.probabilities[known, label] >= row["threshold"]
        assert confusion_matrix(truth, decided).ravel().tolist() == [row[name] for name in ("tn", "fp", "fn", "tp")]
        assert row["precision"] == pytest.approx(row["tp"] / (row["tp"] + row["fp"]))
        for share in ("recall", "specificity", "precision", "npv"):
            assert row[f"{share}_low"] < row[share] < row[f"{share}_high"]
    # The first rule is that of metrics.csv, intervals included.
    of_metrics = results.table.iloc[:2]
    for column in ("recall", "recall_low", "npv_high", "precision_low"):
        np.testing.assert_allclose(table[column][:2], of_metrics[column])


def test_predictive_values_follow_bayes(results):
    share = np.nanmean(results.test.truth[:, 1])
    table, at = operating_tables(results, [0.02, 0.5, share])
    assert len(at) == 3 * len(table)
    for row in at.to_dict("records"):
        (same,) = table[(table["label"] == row["label"]) & (table["rule"] == row["rule"])].to_dict("records")
        odds = row["prevalence"] / (1 - row["prevalence"]) * same["recall"] / (1 - same["specificity"])
        assert row["ppv"] == pytest.approx(odds / (1 + odds))
        assert row["ppv_low"] < row["ppv"] < row["ppv_high"] and row["npv_low"] < row["npv"] < row["npv_high"]
    # At the prevalence of the records themselves they are precision and NPV.
    own = at[at["prevalence"] == share]
    same, own = (one[(one["label"] == "Common") & (one["rule"] == "f1")] for one in (table, own))
    assert own["ppv"].item() == pytest.approx(same["precision"].item())
    assert own["npv"].item() == pytest.approx(same["npv"].item())


@given(st.floats(0.001, 0.999), *[st.tuples(*[st.integers(0, 40)] * 2).filter(any) for _ in range(2)])
def test_predictive_intervals_hold_what_each_end_alone_gives(prevalence, positives, negatives):
    """Also where all are found, or no alarm is false: the shares vary, whatever the resamples do."""
    shares = []
    for right, wrong in (positives, negatives):
        interval = binomtest(right, right + wrong).proportion_ci()
        shares.append(np.array([right / (right + wrong), interval.low, interval.high]))
    (recall, low, high), (specificity, least, most) = shares
    for place, (value, lower, upper) in enumerate(predictive_intervals(*shares, prevalence)):
        corners = [predictive_values(*ends, prevalence)[place] for ends in ((low, least), (high, most))]
        edges = [predictive_values(*ends, prevalence)[place] for ends in ((low, specificity), (recall, most))]
        if np.isnan(value):  # never predicted
            continue
        assert corners[0] - 1e-9 <= lower <= value <= upper <= corners[1] + 1e-9
        if 0 < value < 1:
            assert lower < upper and lower <= edges[0] + 1e-9 and upper >= edges[1] - 1e-9

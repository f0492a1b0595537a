"""Subgroups against plain loops over scikit-learn, Holm's method against statsmodels, and tables that are refused."""

import numpy as np
import pandas as pd
import pytest
from ecg_evaluation.bootstrap import draw
from ecg_evaluation.inputs import Labelled
from ecg_evaluation.results import decide, evaluate
from ecg_evaluation.subgroups import NOT_KNOWN, holm, in_order, read_subgroups, subgroup_table
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, fisher_exact
from sklearn.metrics import average_precision_score, recall_score, roc_auc_score
from statsmodels.stats.multitest import multipletests
from test_eval_calibration import simulated

from ecg_finetune.files import UserError
from ecg_finetune.label_set import LabelSet


@pytest.fixture(scope="module")
def results():
    truth, probabilities, unit = simulated(1200)
    truth = np.column_stack((truth, np.where(np.arange(len(truth)) < 30, 1.0, 0.0)))  # of few patients
    probabilities = np.column_stack((probabilities, probabilities[:, 0]))
    test = Labelled("test", np.arange(len(truth)), truth, LabelSet.of(["Rare", "Common", "Few"]), None)
    return evaluate(test, probabilities, decide(None, None, 0.5, 3), unit, 100)


@pytest.fixture(scope="module")
def groups(results):
    sex = np.array(["F", "M"])[results.unit % 2]
    age = np.array(["under 40", "40 to 59", NOT_KNOWN])[np.arange(len(results.unit)) % 3]
    return {"sex": sex, "age": age}


def test_every_group_equals_scikit_learn(results, groups):
    table = subgroup_table(results, groups)
    assert len(table) == 3 * (2 + 3)
    for row in table.to_dict("records"):
        label = results.test.labels.names.index(row["label"])
        rows = (groups[row["by"]] == row["group"]) & ~np.isnan(results.test.truth[:, label])
        truth, scores = results.test.truth[rows, label], results.probabilities[rows, label]
        assert (row["n"], row["n_pos"]) == (len(truth), truth.sum())
        assert row["prevalence"] == pytest.approx(truth.mean())
        patients = [len(np.unique(results.unit[rows][truth == wanted])) for wanted in (1, 0)]
        assert row["n_pos_patients"] == patients[0] and row["too_small"] == (min(patients) < 10)
        if row["too_small"]:
            assert np.isnan([row[name] for name in ("auroc", "auprc_low", "recall_difference", "recall_p_holm")]).all()
            continue
        assert row["auroc"] == pytest.approx(roc_auc_score(truth, scores))
        assert row["auprc"] == pytest.approx(average_precision_score(truth, scores))
        assert row["recall"] == pytest.approx(recall_score(truth, scores >= 0.5))
        assert row["specificity"] == pytest.approx(recall_score(truth, scores >= 0.5, pos_label=0))
        assert row["auroc_low"] < row["auroc"] < row["auroc_high"]
    assert table["too_small"].sum() > 0


def test_differences_are_paired_to_all_other_records(results, groups):
    table = subgroup_table(results, groups).set_index(["by", "group", "label"])
    row, other = table.loc[("sex", "F", "Common")], table.loc[("sex", "M", "Common")]
    assert row["auroc_difference"] == pytest.approx(row["auroc"] - other["auroc"])
    # A plain loop over the same resamples has the same standard error, and the interval is made of it.
    known = ~np.isnan(results.test.truth[:, 1])
    rows_of, drawn = np.split(np.argsort(results.unit, kind="stable"), np.cumsum(np.bincount(results.unit))[:-1]), []
    for number in range(100):
        times = draw(len(rows_of), number)
        chosen = np.concatenate([np.tile(rows_of[unit], n) for unit, n in enumerate(times) if n])
        chosen = chosen[known[chosen]]
        areas = [
            roc_auc_score(results.test.truth[part, 1], results.probabilities[part, 1])
            for part in (chosen[groups["sex"][chosen] == sex] for sex in "FM")
        ]
        drawn.append(areas[0] - areas[1])
    half = (row["auroc_difference_high"] - row["auroc_difference_low"]) / 2
    assert 1.95 < half / np.std(drawn, ddof=1) < 2.1
    assert (row["auroc_difference_low"] > 0 or row["auroc_difference_high"] < 0) == (row["auroc_p"] < 0.05)
    # Of two groups each is the rest of the other: the same test, which counts once in the adjustment.
    assert other["auroc_difference"] == -row["auroc_difference"] and other["auroc_p"] == pytest.approx(row["auroc_p"])
    females = table.loc[("sex", "F", slice(None))]
    np.testing.assert_allclose(females["auroc_p_holm"], adjusted(females["auroc_p"]))
    np.testing.assert_allclose(table.loc["age"]["recall_p_holm"], adjusted(table.loc["age"]["recall_p"]))


def test_a_group_without_a_miss_is_not_taken_for_certain():
    """12 of 12 found against 540 of 600: the resamples of the 12 do not vary, but 12 patients prove little."""
    y = np.r_[np.ones(12), np.zeros(200), np.ones(600), np.zeros(600)]
    p = np.where(y == 1, 0.9, 0.1)
    p[212:272] = 0.2
    test = Labelled("test", np.arange(len(y)), y[:, None], LabelSet.of(["x"]), None)
    found = evaluate(test, p[:, None], decide(None, None, 0.5, 1), np.arange(len(y)), 100)
    row = subgroup_table(found, {"site": np.repeat(["A", "B"], [212, 1200])}).iloc[0]
    assert row["recall"] == 1 and row["recall_difference"] == pytest.approx(0.1)
    # Each interval is that of Clopper and Pearson; the difference's is made of both.
    low, high = binomtest(12, 12).proportion_ci().low, binomtest(540, 600).proportion_ci().high
    assert row["recall_difference_low"] == pytest.approx(0.1 - np.hypot(1 - low, high - 0.9), abs=2e-3)
    assert 0.1 < row["recall_p"] < fisher_exact([[12, 0], [540, 60]])[1]


def adjusted(p: pd.Series) -> np.ndarray:
    """Return p values after Holm as statsmodels has them, NaN left out."""
    result = np.full(len(p), np.nan)
    tested = p.notna().to_numpy()
    result[tested] = multipletests(p[tested], method="holm")[1]
    return result


@settings(max_examples=20, deadline=None)  # the other takes 0.1 s
@given(st.lists(st.one_of(st.floats(0, 1), st.just(np.nan)), min_size=1, max_size=30))
def test_holm_is_that_of_statsmodels(p):
    p = np.array(p)
    if np.isnan(p).all():
        assert np.isnan(holm(p)).all()
    else:
        np.testing.assert_allclose(holm(p), adjusted(pd.Series(p)), atol=1e-12)


def test_groups_come_from_studies_or_patients(tmp_path):
    path = tmp_path / "subjects.csv"
    path.write_text("subject_id,sex,age\n1,F,39\n2,M,-1\n3,,80\n")
    groups = read_subgroups(path, ["sex", "age"], np.array([10, 11, 12, 13]), np.array([3, 2, 1, 9]))
    assert groups["sex"].tolist() == [NOT_KNOWN, "M", "F", NOT_KNOWN]
    assert groups["age"].tolist() == ["75 and over", NOT_KNOWN, "under 40", NOT_KNOWN]
    path.write_text("study_id,subject_id,device\n11,1,watch\n10,1,patch\n")
    assert read_subgroups(path, ["device"], np.array([10, 11]), None)["device"].tolist() == ["patch", "watch"]
    assert in_order(np.array([NOT_KNOWN, "75 and over", "40 to 59", "under 40"])) == [
        *("under 40", "40 to 59", "75 and over"),
        NOT_KNOWN,
    ]


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        ("patient,sex\n1,F\n", ["sex"], "neither study_id nor subject_id"),
        ("subject_id,sex\n1,F\n", ["sex"], "patients of the records are not known"),
        ("study_id,sex\n1,F\n", ["age"], "column 'age' is missing"),
        ("study_id,sex\n1,F\n", ["sex", "study_id"], "study_id says whom a row is of"),
        ("study_id,age\n1,old\n", ["age"], "'old', which is not a number"),
        ("study_id,sex\n77,F\n", ["sex"], "has the study_id of none of the 30"),
        ("study_id,sex\n1,F\n1,M\n", ["sex"], "duplicate study_id 1"),
        ("study_id,sex\n" + "".join(f"{n},{n}\n" for n in range(30)), ["sex"], "has 30 different values"),
    ],
)
def test_tables_that_are_refused(tmp_path, content, columns, message):
    path = tmp_path / "subjects.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_subgroups(path, columns, np.arange(30), None)

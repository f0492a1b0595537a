"""Estimands, definitions and groups of labels, against scikit-learn and plain loops."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from ecg_evaluation.background import times
from ecg_evaluation.bootstrap import draw
from ecg_evaluation.estimands import FIRST, PER_PATIENT, PER_RECORD, estimands_table, first_records
from ecg_evaluation.inputs import Labelled
from ecg_evaluation.label_definitions import DEFINITE, EXCLUDED, definitions_table, read_definitions
from ecg_evaluation.label_groups import label_groups_table
from ecg_evaluation.metrics import Scored
from ecg_evaluation.results import decide, evaluate
from sklearn.metrics import average_precision_score, precision_score, recall_score, roc_auc_score
from test_eval_calibration import simulated

from ecg_finetune.label_set import LABELS, LabelSet
from ecg_finetune.paths import locate


@pytest.fixture(scope="module")
def results():
    truth, probabilities, unit = simulated(1200)
    test = Labelled("test", np.arange(len(truth)), truth, LabelSet.of(["Sinus rhythm", "Infarction"]), None)
    return evaluate(test, probabilities, decide(None, None, 0.5, 2), unit, 60)


def test_patient_weighted_metrics_equal_scikit_learn_with_weights(results):
    table = estimands_table(results, None).set_index(["estimand", "label"])
    truth, unit = results.test.truth, results.unit
    for place, label in enumerate(results.test.labels.names):
        known = ~np.isnan(truth[:, place])
        y, p = truth[known, place], results.probabilities[known, place]
        weight = 1 / np.bincount(unit[known], minlength=unit.max() + 1)[unit[known]]
        row = table.loc[(PER_PATIENT, label)]
        assert row["auroc"] == pytest.approx(roc_auc_score(y, p, sample_weight=weight), abs=1e-9)
        assert row["auprc"] == pytest.approx(average_precision_score(y, p, sample_weight=weight), abs=1e-9)
        assert row["recall"] == pytest.approx(recall_score(y, p >= 0.5, sample_weight=weight))
        assert row["precision"] == pytest.approx(precision_score(y, p >= 0.5, sample_weight=weight))
        assert row["auroc_low"] < row["auroc"] < row["auroc_high"]
        assert table.loc[(PER_RECORD, label), "auroc_low"] == results.table.set_index("label").at[label, "auroc_low"]
    known = ~np.isnan(truth)
    weight = 1 / np.bincount(unit, weights=known.sum(axis=1))[np.repeat(unit, 2).reshape(-1, 2)[known]]
    pooled = truth[known], results.probabilities[known]
    micro = table.loc[(PER_PATIENT, "__micro__"), "auroc"]
    assert micro == pytest.approx(roc_auc_score(*pooled, sample_weight=weight), abs=1e-9)


def test_a_resample_of_weighted_patients_repeats_their_records(results):
    scored = Scored(results.test.truth, results.probabilities, np.full(2, 0.5), results.unit, equal_units=True)
    times = draw(scored.units, 0)
    known = ~np.isnan(results.test.truth[:, 0])
    y, p, unit = results.test.truth[known, 0], results.probabilities[known, 0], results.unit[known]
    weight = times[unit] / np.bincount(unit, minlength=scored.units)[unit]
    drawn = scored.measure(times[None])[0, 0]
    assert drawn[0] == pytest.approx(roc_auc_score(y, p, sample_weight=weight), abs=1e-9)
    assert drawn[8] == pytest.approx(np.average((p - y) ** 2, weights=weight))


def test_times_sort_however_they_are_written(tmp_path):
    path = tmp_path / "records.csv"
    path.write_text(
        "study_id,ecg_time\n1,2180-01-01 09:00\n2,2180-01-01T08:00\n3,2180-01-01 09:00:00\n4,2180-01-01T10:00:59\n"
    )
    when = times(SimpleNamespace(record_list=path), np.array([1, 2, 3, 4]))
    assert when.argsort(kind="stable").tolist() == [1, 0, 2, 3] and when[0] == when[2]
    assert times(SimpleNamespace(record_list=path), np.array([1, 5])) is None


def test_first_record_of_each_patient(results):
    unit, study = np.array([1, 0, 1, 0, 2]), np.array([5, 9, 3, 8, 1])
    assert first_records(unit, study, None).tolist() == [False, False, True, True, True]
    when = np.array(["2180-02-01", "2180-01-01", "2180-03-01", "2180-01-01", "2180-01-01"])
    assert first_records(unit, study, when).tolist() == [True, False, False, True, True]
    table = estimands_table(results, None).set_index(["estimand", "label"])
    first = pd.Series(results.test.study_id).groupby(results.unit).min().to_numpy()
    rows = np.isin(results.test.study_id, first) & ~np.isnan(results.test.truth[:, 1])
    expected = roc_auc_score(results.test.truth[rows, 1], results.probabilities[rows, 1])
    assert table.loc[(FIRST, "Infarction"), "auroc"] == pytest.approx(expected)
    assert table.loc[(FIRST, "Infarction"), "n_pos"] == results.test.truth[rows, 1].sum()


def test_records_without_known_patients_have_one_estimand():
    truth, probabilities, _ = simulated(300)
    test = Labelled("test", np.arange(len(truth)), truth, LabelSet.of(["a", "b"]), None)
    table = estimands_table(evaluate(test, probabilities, decide(None, None, 0.5, 2), None, 0), None)
    assert set(table["estimand"]) == {PER_RECORD}


def test_macro_averages_with_and_without_what_lead_i_cannot_show(results):
    table = label_groups_table(results).set_index("group")
    by_label = results.table.set_index("label")
    assert list(table.index) == [
        *("rhythm", "not visible in Lead I", "all labels", "all labels but those not visible in Lead I")
    ]
    assert table.at["rhythm", "labels"] == "Sinus rhythm" and table.at["all labels", "n_labels"] == 2
    for column in ("auroc", "auroc_low", "auprc_high", "f1"):
        assert table.at["all labels", column] == pytest.approx(by_label.at["__macro__", column])
    assert table.at["not visible in Lead I", "auroc"] == pytest.approx(by_label.at["Infarction", "auroc"])
    assert table.iloc[3]["auroc"] == pytest.approx(by_label.at["Sinus rhythm", "auroc"])


REPORTS = [
    "Possible inferior infarct - age undetermined",
    "Inferior infarct",
    "Sinus rhythm with no acute infarct",
    "Sinus rhythm",
    "Sinus rhythm with possible inferior infarct",
]


def test_definitions_come_from_one_run_of_the_labels_stage(tmp_path, run_script):
    source = tmp_path / "machine_measurements.csv"
    rows = [f"{100 + n},{text}" for n, text in enumerate(REPORTS * 30)]
    source.write_text("\n".join(["study_id,report_0", *rows]) + "\n")
    infarction = {}
    for policy in ("ecg-fm", "asserted"):
        base = tmp_path / policy
        command = ("--base-dir", base, "--machine-measurements", source, "--policy", policy)
        run_script("labels/scripts/create_labels_ecgfm.py", *command)
        studies = np.array([104, 100, 102, 103, 101])
        found = read_definitions(locate(base, "computed_labels"), studies)
        infarction[policy] = {name: truth[:, LABELS.index("Infarction")] for name, truth in found.truths.items()}
        assert found.policy == policy and read_definitions(tmp_path, studies) is None
    for one in infarction.values():  # whichever policy the run had
        np.testing.assert_array_equal(one["policy ecg-fm"], [1, 1, 1, 0, 1])
        np.testing.assert_array_equal(one["policy asserted"], [1, 1, 0, 0, 1])
        np.testing.assert_array_equal(one[DEFINITE], [0, 0, 0, 0, 1])
        np.testing.assert_array_equal(one[EXCLUDED], [np.nan, np.nan, 0, 0, 1])

    found = read_definitions(locate(tmp_path / "ecg-fm", "computed_labels"), 100 + np.arange(150))
    rng = np.random.default_rng(0)
    names = LabelSet.of(["Infarction", "Sinus rhythm"])
    columns = [LABELS.index(name) for name in names.names]
    test = Labelled("test", 100 + np.arange(150), found.truths["policy ecg-fm"][:, columns], names, None)
    results = evaluate(test, rng.random((150, 2)), decide(None, None, 0.5, 2), None, 20)
    table = definitions_table(results, found).set_index(["definition", "label"])
    for name, truth in found.truths.items():
        y = truth[:, columns[0]]
        known = ~np.isnan(y)
        row = table.loc[(name, "Infarction")]
        assert row["auroc"] == pytest.approx(roc_auc_score(y[known], results.probabilities[known, 0]))
        assert (row["n_pos"], row["n_unknown"]) == ((y == 1).sum(), (~known).sum())
    assert table.loc[("policy ecg-fm", "Infarction"), "auroc_low"] == results.table["auroc_low"][0]
    assert "__micro__" not in table.index.get_level_values("label")

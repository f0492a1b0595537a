"""Unknown labels and any label set: every number against plain scikit-learn on the known cells."""

import shutil

import numpy as np
import pandas as pd
import pytest
from ecg_evaluation.analyses import shares_together
from ecg_evaluation.bootstrap import draw, replicates
from ecg_evaluation.calibration import fit_calibration, uncalibrate
from ecg_evaluation.inputs import Labelled, read_test_set
from ecg_evaluation.metrics import METRICS, Scored
from ecg_evaluation.misses import named, rank_misses
from ecg_evaluation.prediction import combine_segments, load_model
from ecg_evaluation.results import NOT_ANNOTATED, compare, decide, evaluate, same_order
from ecg_evaluation.thresholds import choose_thresholds
from evaluation_world import make_world, write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics
from test_eval_scripts import ANY, outputs
from test_eval_scripts import evaluate as run_evaluation
from test_html_page import Reader

from ecg_finetune.files import UserError
from ecg_finetune.label_set import ECG_FM, LABELS, LabelSet
from ecg_finetune.paths import locate
from ecg_finetune.probabilities import calibrate

NAMES = ("Gout", "Left leg", "Tachycardia", "Never known")
RECORDS, PATIENTS = 900, 150


def sample(seed: int = 0, records: int = RECORDS, share: float = 0.4):
    """Return truth with unknown cells, probabilities and patients; no record knows the last label.

    Every patient has records of each of the other labels.
    """
    rng = np.random.default_rng(seed)
    patient = np.sort(np.arange(records) % PATIENTS)
    truth = (rng.random((records, 4)) < [0.1, 0.5, 0.3, 0.2]).astype(float)
    scores = np.round(1 / (1 + np.exp(-(rng.normal(size=truth.shape) + 1.5 * truth - 1))), 2)
    hidden = rng.random(truth.shape) < share
    hidden[np.unique(patient, return_index=True)[1]] = False
    hidden[:, 3] = True
    return np.where(hidden, np.nan, truth), scores, patient


def labelled(truth) -> Labelled:
    return Labelled("test", np.arange(len(truth)), truth, LabelSet.of(NAMES), None)


@pytest.fixture(scope="module")
def evaluation():
    truth, scores, patient = sample()
    valid_truth, valid_scores, _ = sample(1, 600)
    decisions = decide(labelled(valid_truth), valid_scores, "f1", 4)
    return evaluate(labelled(truth), scores, decisions, patient, 40), (valid_truth, valid_scores)


def plain(truth, scores, calibrated, threshold) -> dict:
    """Return every metric of one set of decisions as scikit-learn gives it."""
    decided = scores >= threshold
    return {
        "auroc": sklearn_metrics.roc_auc_score(truth, scores),
        "auprc": sklearn_metrics.average_precision_score(truth, scores),
        "accuracy": sklearn_metrics.accuracy_score(truth, decided),
        "recall": sklearn_metrics.recall_score(truth, decided),
        "precision": sklearn_metrics.precision_score(truth, decided),
        "f1": sklearn_metrics.f1_score(truth, decided),
        "specificity": sklearn_metrics.recall_score(truth, decided, pos_label=0),
        "npv": sklearn_metrics.precision_score(truth, decided, pos_label=0),
        "brier": sklearn_metrics.brier_score_loss(truth, scores),
        "brier_calibrated": sklearn_metrics.brier_score_loss(truth, calibrated),
    }


def test_every_metric_is_that_of_the_known_cells(evaluation):
    result, _ = evaluation
    table, truth = result.table.set_index("label"), result.test.truth
    thresholds = np.broadcast_to(result.decisions.thresholds, truth.shape)
    pooled = ~np.isnan(truth)
    for name, known in [*((NAMES[i], (~np.isnan(truth[:, i]), i)) for i in range(3)), ("__micro__", pooled)]:
        arrays = (truth, result.probabilities, result.calibrated, thresholds)
        expected = plain(*(array[known] for array in arrays))
        np.testing.assert_allclose(table.loc[name, list(expected)].astype(float), list(expected.values()), atol=1e-12)
        cells = truth[known]
        assert [table.at[name, column] for column in ("n_pos", "n_neg")] == [cells.sum(), (1 - cells).sum()]
        records = len(truth) * (4 if name == "__micro__" else 1)
        assert table.at[name, "n_unknown"] == records - len(cells)
    for metric in METRICS:
        assert table.at["__macro__", metric] == pytest.approx(table.loc[list(NAMES[:3]), metric].mean(), abs=1e-12)


def test_a_label_that_no_record_knows_is_an_empty_row_and_in_no_average(evaluation):
    result, _ = evaluation
    row = result.table.set_index("label").loc["Never known"]
    assert row["note"] == NOT_ANNOTATED and row["n_unknown"] == RECORDS
    assert row.drop(["note", "n_unknown"]).isna().all()
    note = result.table["note"].iloc[-2]
    assert "mean over 3 of 4 labels" in note and "(not Never known)" in note
    assert result.table["note"].iloc[-1] == ""


def test_intervals_are_those_of_a_data_set_of_the_known_cells(evaluation):
    """Where every patient has a record that knows the label, leaving out the others changes no resample."""
    result, _ = evaluation
    truth, scores, patient = sample()
    table = result.table.set_index("label")
    ends = [f"{metric}_{end}" for metric in METRICS for end in ("low", "high")]
    counted = ["n_pos_patients", "n_neg_patients", "few_patients"]
    for label, name in enumerate(NAMES[:3]):
        rows = ~np.isnan(truth[:, label])
        assert len(np.unique(patient[rows])) == PATIENTS and rows.sum() < RECORDS
        reduced = evaluate(labelled(truth[rows]), scores[rows], result.decisions, patient[rows], 40)
        expected = reduced.table.set_index("label").loc[name, ends + counted].astype(float)
        np.testing.assert_allclose(table.loc[name, ends + counted].astype(float), expected, atol=1e-10)


def test_a_resample_is_one_of_the_patients_who_are_known():
    truth, scores, patient = sample(2)
    truth[patient % 3 == 0, 1] = np.nan  # nothing is known of a third of the patients
    rows = ~np.isnan(truth[:, 1])
    whole = replicates(Scored(truth, scores, np.full(4, 0.5), patient), 10)
    there, unit = np.unique(patient[rows], return_inverse=True)
    assert len(there) < PATIENTS
    weights = np.stack([draw(PATIENTS, number)[there] for number in range(10)])
    reduced = Scored(truth[rows][:, [1]], scores[rows][:, [1]], np.array([0.5]), unit).measure(weights)
    np.testing.assert_allclose(whole[:, 1], reduced[:, 0], atol=1e-12)


def test_thresholds_and_calibration_are_chosen_on_the_known_cells(evaluation):
    result, (truth, scores) = evaluation
    decisions = result.decisions
    for label in range(3):
        rows = ~np.isnan(truth[:, label])
        one = truth[rows][:, [label]], scores[rows][:, [label]]
        for rule in ("f1", "youden"):
            assert choose_thresholds(truth, scores, rule)[label] == choose_thresholds(*one, rule)[0]
        np.testing.assert_array_equal(decisions.calibration[label], fit_calibration(*one)[0])
        assert [decisions.positives[label], decisions.negatives[label]] == [one[0].sum(), (1 - one[0]).sum()]
    assert decisions.thresholds[3] == 0.5 and not decisions.chosen[3]
    np.testing.assert_array_equal(decisions.calibration[3], [1, 0])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0, np.nan]), st.integers(0, 4), st.integers(0, 3)), min_size=1))
def test_an_unknown_cell_changes_nothing_whatever_its_score(rows):
    truth, scores, unit = (np.array(column, dtype=float) for column in zip(*rows))
    unit = np.unique(unit, return_inverse=True)[1]
    truth, scores = truth[:, None], scores[:, None] / 4
    other = np.where(np.isnan(truth), 1 - scores, scores)
    ours, changed = (Scored(truth, s, np.array([0.5]), unit, s).measure()[0] for s in (scores, other))
    np.testing.assert_array_equal(ours, changed)
    if np.isnan(truth).all():
        assert np.isnan(ours).all()


def test_a_comparison_is_on_the_known_cells():
    truth, scores, patient = sample()
    other = np.clip(scores + np.where(np.isnan(truth), 0.3, 0), 0, 1)  # differs where nothing is known
    assert same_order(truth, scores, other)[[0, 1, 2, 4]].all()
    other[:, 0] = 1 - other[:, 0]
    assert same_order(truth, scores, other).tolist()[:3] == [False, True, True]
    ours = evaluate(labelled(truth), scores, decide(None, None, "f1", 4), patient, 20)
    table = compare(ours, np.arange(RECORDS), other).table.set_index("label")
    for label, name in enumerate(NAMES[:3]):
        rows = ~np.isnan(truth[:, label])
        expected = [sklearn_metrics.roc_auc_score(truth[rows, label], s[rows, label]) for s in (scores, other)]
        np.testing.assert_allclose(table.loc[name, ["auroc", "auroc_other"]].astype(float), expected, atol=1e-12)
        assert table.at[name, "n_unknown"] == (~rows).sum()
    assert table.at["Left leg", "auroc_difference_high"] == 0 and table.at["Gout", "auroc_difference_high"] > 0
    assert np.isnan(table.at["Never known", "auroc_difference"])


def test_labels_that_occur_together_are_counted_where_both_are_known():
    truth, _, _ = sample(records=300)
    shares = shares_together(truth == 1, ~np.isnan(truth))
    for first in range(4):
        for second in range(4):
            both = [b for a, b in zip(truth[:, first], truth[:, second]) if a == 1 and not np.isnan(b)]
            assert shares[first, second] == pytest.approx(np.mean(both) if both else np.nan, nan_ok=True)


def test_an_unknown_label_is_no_mistake():
    truth = np.array([[1, np.nan], [np.nan, 0], [0, 1]])
    probabilities = np.array([[0.9, 0.99], [0.99, 0.2], [0.6, 0.3]])
    assert rank_misses(truth, probabilities >= 0.5, probabilities, 9) == [(2, 1)]
    told = named(("A", "B"), np.array([True, True]), np.array([True, False]), np.array([False, True]))
    assert told == "<b>A</b>, B (truth unknown)" and named(("A",), np.array([False]), np.array([False])) == "none"


def test_calibration_is_taken_back():
    probabilities = np.array([[0.001, 0.5, 0.2], [0.7, 0.25, 0.9]])
    parameters = np.array([[0.5, -2.0], [1.0, 0.0], [0.0, 1.0]])
    again = uncalibrate(calibrate(probabilities, parameters), parameters)
    np.testing.assert_allclose(again[:, 0], probabilities[:, 0], rtol=1e-12)
    np.testing.assert_array_equal(again[:, 1:], probabilities[:, 1:])


OWN = LabelSet(("Tachycardia", "Gout, left", "Ünwell & <b>"), ("max", "mean", "mean"))


@pytest.fixture(scope="module")
def own_world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("own"), labels=OWN, unknown=0.3)


def test_three_labels_of_ones_own_from_the_checkpoint_to_the_report(own_world, capsys):
    text = run_evaluation(capsys, ANY, "--base-dir", own_world, "--model-path", locate(own_world, "checkpoint_best"))
    folder = locate(own_world, "eval")
    predicted = pd.read_csv(outputs(folder, "predictions")[0]).set_index("study_id")
    assert list(predicted.columns) == list(OWN.names)
    truth = pd.read_csv(locate(own_world, "test_labels")).set_index("idx").loc[predicted.index]
    table = pd.read_csv(outputs(folder, "metrics")[0])
    assert list(table.columns[11:13]) == ["n_unknown", "brier"]
    table = table.set_index("label")
    assert list(table.index) == [*OWN.names, "__macro__", "__micro__"]
    for name in OWN.names[:2]:
        known = truth[name].notna()
        expected = sklearn_metrics.roc_auc_score(truth[name][known], predicted[name][known])
        assert table.at[name, "auroc"] == pytest.approx(expected, abs=1e-9)
        assert table.at[name, "n_unknown"] == (~known).sum() > 0
    last = table.loc[OWN.names[2]]
    assert last["note"] == NOT_ANNOTATED and last.drop(["note", "n_unknown", "n_leaked"]).isna().all()
    assert f"note: {NOT_ANNOTATED}: {OWN.names[2]}\n" in text and "n_known  n_pos" in text
    page = outputs(folder, "report", ".html")[0].read_text(encoding="utf-8")
    reader = Reader(page)
    assert "not annotated in this source" in page and "Ünwell &amp; &lt;b&gt;" in page and ">Known</th>" in page
    assert "the 17" not in page
    assert "the higher of the two for tachycardia, and their mean for the other labels" in page
    assert "nan" not in " ".join(reader.cells).lower() and "&lt;NA&gt;" not in page and "<NA>" not in page
    assert page.count('class="four"') == 3  # two labels and the micro average


def test_a_set_of_which_no_label_is_known_is_refused_before_the_model_runs(tmp_path, capsys, run_script):
    base = make_world(tmp_path, test_records=8, valid_records=6, labels=OWN, unknown=1.0)
    told = run_evaluation(capsys, ANY, "--base-dir", base, "--model-path", locate(base, "checkpoint_best"), exit_code=1)
    noise = run_script("eval/scripts/eval_noise.py", "--base-dir", base, exit_code=1).stderr
    for text in (told, noise):
        assert "test_labels.csv: no label is known of any of the 8 records to evaluate" in text
    assert not locate(base, "eval").exists()


def test_segments_combine_as_the_label_set_says():
    segments = np.array([[0.2, 0.2, 0.2], [0.6, 0.6, 0.6]])
    _, combined = combine_segments(np.array([5, 5]), segments, OWN)
    np.testing.assert_allclose(combined, [[0.6, 0.4, 0.4]])


def test_seventy_one_labels_are_no_matter(tmp_path, capsys):
    labels = LabelSet.of(["Tachycardia", *(f"Code {number} with a name as long as some have" for number in range(70))])
    base = make_world(tmp_path, test_records=24, valid_records=16, labels=labels)
    text = run_evaluation(
        capsys, ANY, "--base-dir", base, "--model-path", locate(base, "checkpoint_best"), "--bootstrap", 5
    )
    assert "24 records evaluated" in text
    assert len(pd.read_csv(outputs(locate(base, "eval"), "metrics")[0])) == 73


def load(path, labels):
    return load_model(path, labels, device="cpu", precision="float32", trust=False)


def test_a_checkpoint_of_another_label_set_is_refused_with_both_compared(tmp_path):
    write_checkpoint(tmp_path / "own.pt", labels=OWN)
    load(tmp_path / "own.pt", OWN)
    remedy = "give a checkpoint that was fine-tuned on the labels of the test set"
    for wanted, told in (
        (
            LabelSet.of(["Tachycardia", "Gout"]),
            "Gout, left, Ünwell & <b> only in the checkpoint, Gout only in the test",
        ),
        (
            LabelSet.of(OWN.names[::-1]),
            "the same in another order: Tachycardia in the checkpoint where Ünwell & <b> is",
        ),
        (ECG_FM, "Gout, left, Ünwell & <b> only in the checkpoint, Poor data quality, Sinus rhythm, Premature ventr"),
    ):
        with pytest.raises(UserError, match=remedy) as refused:
            load(tmp_path / "own.pt", wanted)
        assert f"own.pt: a classifier of other labels: {told}" in str(refused.value)


def test_a_checkpoint_that_does_not_say_its_labels_is_known_by_their_number(tmp_path):
    write_checkpoint(tmp_path / "17.pt")
    write_checkpoint(tmp_path / "3.pt", num_labels=3)
    load(tmp_path / "17.pt", ECG_FM)
    load(tmp_path / "3.pt", OWN)
    with pytest.raises(UserError, match="a classifier of 3 labels, but the test set has 17"):
        load(tmp_path / "3.pt", ECG_FM)
    with pytest.raises(UserError, match="Electronic pacemaker only in the checkpoint, Gout only in the test set"):
        load(tmp_path / "17.pt", LabelSet.of([*LABELS[:-1], "Gout"]))


def test_a_test_set_that_contradicts_itself_is_refused(tmp_path):
    base = make_world(tmp_path, test_records=4, valid_records=2, labels=OWN)
    path = locate(base, "test_labels")
    table = pd.read_csv(path)
    table.rename(columns={"Tachycardia": "Tachy"}).to_csv(path, index=False)
    with pytest.raises(UserError, match="other labels than label_def.csv beside it: Tachy only in its columns, Tachyc"):
        read_test_set(path.parent, None)
    table.assign(Tachycardia=2).to_csv(path, index=False)
    with pytest.raises(UserError, match="column 'Tachycardia' .line 2.: a label must be 0, 1 or empty"):
        read_test_set(path.parent, None)


def test_a_valid_split_of_other_labels_is_refused(own_world, capsys, tmp_path):
    manifests = shutil.copytree(locate(own_world, "manifests"), tmp_path / "manifests")
    definition = manifests / "label_def.csv"
    definition.write_text(definition.read_text().replace("Tachycardia", "Bradycardia"))
    checkpoint, out = locate(own_world, "checkpoint_best"), tmp_path / "out"
    arguments = ["--base-dir", own_world, "--model-path", checkpoint, "--out", out]
    told = run_evaluation(capsys, ANY, *arguments, "--manifests", manifests, exit_code=1)
    assert "manifests: of other labels: Bradycardia only in the valid split, Tachycardia only in the test set" in told
    assert not out.exists()

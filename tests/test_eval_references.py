"""Published results, and rules on Lead I, as references."""

import numpy as np
import pandas as pd
import pytest
from ecg_evaluation.background import on_published_split
from ecg_evaluation.baselines import RULES, baselines_table, beats_table, measure_beats
from ecg_evaluation.inputs import Labelled
from ecg_evaluation.published import is_published_split, published_results, published_table
from ecg_evaluation.results import decide, evaluate
from evaluation_world import ecg_like, make_world
from sklearn.metrics import average_precision_score, roc_auc_score

from ecg_finetune.label_set import ECG_FM, LABELS, LabelSet
from ecg_finetune.paths import locate
from ecg_finetune.tables import read_table


def test_published_counts_are_those_of_the_labels_stage():
    published = published_results()
    official = read_table(locate(".", "labeler_config") / "label_def.csv", {"name": "str", "test": "int64"})
    assert published["n_pos"].dropna().astype(int).to_dict() == dict(zip(official["name"], official["test"]))
    assert list(published.index) == [*LABELS, "__macro__", "__micro__"]
    labels = published.iloc[:17]
    assert published.at["__macro__", "auroc"] == pytest.approx(labels["auroc"].mean(), abs=5e-5)
    counts = labels["n_pos"].to_numpy(int)
    assert is_published_split(LABELS, 78_370, counts)
    assert not is_published_split(LABELS, 78_369, counts)
    assert not is_published_split(LABELS, 78_370, counts + (np.arange(17) == 4))
    assert not is_published_split(LABELS[:16], 78_370, counts[:16])


def random_results(names=ECG_FM, records=400, seed=0):
    rng = np.random.default_rng(seed)
    truth = (rng.random((records, len(names))) < 0.3).astype(float)
    scores = rng.normal(size=truth.shape) + np.linspace(0.5, 4, len(names)) * truth
    test = Labelled("test", np.arange(records), truth, names, None)
    return evaluate(test, 1 / (1 + np.exp(-scores)), decide(None, None, 0.5, len(names)), np.arange(records) // 2, 50)


def test_ours_is_above_within_or_below():
    results = random_results()
    table = published_table(results, same_split=True)
    assert list(table["label"]) == list(results.table["label"])
    for row in table.to_dict("records"):
        for metric in ("auroc", "auprc"):
            published, relation = row[f"{metric}_published"], row[f"{metric}_relation"]
            if np.isnan(published):  # the macro AUPRC is not
                assert relation == "" and row["label"] == "__macro__"
            elif relation == "within":
                assert row[f"{metric}_low"] <= published <= row[f"{metric}_high"]
            else:
                assert (row[f"{metric}_low"] > published) == (relation == "above")
                assert (row[f"{metric}_high"] < published) == (relation == "below")
    assert set(table["auroc_relation"]) >= {"above", "below"}
    other = published_table(results, same_split=False)
    assert set(other["auroc_relation"]) == {"other data"}
    own = published_table(random_results(LabelSet.of(["Infarction", "Mine"])), same_split=False)
    assert list(own["label"]) == ["Infarction"]  # no averages, which are of other labels
    assert published_table(random_results(LabelSet.of(["Mine"])), same_split=False) is None


@pytest.mark.parametrize("rate", [60, 70, 130])
def test_heart_rate_of_a_made_up_lead(rate):
    beats, found, irregularity = measure_beats(ecg_like(rate, np.random.default_rng(rate)))
    assert abs(beats - rate / 6) < 2 and found == pytest.approx(rate, rel=0.02) and irregularity < 0.03


def test_a_flat_lead_has_no_beats():
    beats, rate, irregularity = measure_beats(np.zeros(5000, np.float32))
    assert beats < 3 and np.isnan(rate) and np.isnan(irregularity)


def test_heart_rate_is_that_of_another_detector_on_genuine_leads(test_data):
    wfdb = pytest.importorskip("wfdb")
    from wfdb.processing import xqrs_detect

    errors = []
    for path in sorted((test_data / "ptbxl/records500").glob("**/*.hea"))[:40]:
        record = wfdb.rdrecord(str(path.with_suffix("")))
        lead = record.p_signal[:, record.sig_name.index("I")].astype(np.float32)
        beats, rate, irregularity = measure_beats(lead)
        distances = np.diff(xqrs_detect(lead.astype(float), 500, verbose=False)) / 500
        if len(distances) >= 2:
            errors.append((rate - 60 / np.median(distances), beats - len(distances) - 1))
            assert irregularity >= 0
    rate, count = np.abs(np.array(errors)).T
    assert len(errors) > 30 and np.median(rate) < 0.5 and (rate < 5).mean() >= 0.9 and (count <= 1).mean() >= 0.8


def test_rules_equal_scikit_learn_on_the_records(tmp_path):
    base = make_world(tmp_path)
    table = pd.read_csv(locate(base, "test_labels")).set_index("idx")
    studies, truth = table.index.to_numpy(), table[list(LABELS)].to_numpy(float)
    beats = beats_table(locate(base, "test"), studies[::-1], workers=2)
    assert beats["study_id"].tolist() == studies[::-1].tolist()
    beats = beats_table(locate(base, "test"), studies, workers=1)
    beats.loc[3, ["heart_rate", "rr_irregularity"]] = np.nan
    rng = np.random.default_rng(0)
    test = Labelled("test", studies, truth, ECG_FM, None)
    results = evaluate(test, rng.random(truth.shape), decide(None, None, 0.5, 17), np.arange(60) // 2, 50)
    found = baselines_table(results, beats).set_index("label")
    assert list(found.index) == [rule.label for rule in RULES] and (found["n_no_beats"] == 1).all()
    assert found.at["Tachycardia", "auroc_rule"] > 0.95  # the made-up leads are of 130 beats then, else of 70
    for label, score, decided in (
        ("Tachycardia", beats["heart_rate"].fillna(0), beats["heart_rate"] > 100),
        ("Bradycardia", -beats["heart_rate"].fillna(999), beats["heart_rate"] < 60),
        ("Atrial fibrillation", beats["rr_irregularity"].fillna(-1), beats["rr_irregularity"] >= 0.06),
    ):
        y, row = truth[:, LABELS.index(label)], found.loc[label]
        assert row["auroc_rule"] == pytest.approx(roc_auc_score(y, score))
        assert row["auprc_rule"] == pytest.approx(average_precision_score(y, score))
        assert row["recall_rule"] == pytest.approx(decided[y == 1].mean())
        assert row["specificity_rule"] == pytest.approx(1 - decided[y == 0].mean())
        assert row["auroc"] == pytest.approx(roc_auc_score(y, results.probabilities[:, LABELS.index(label)]))
        assert row["auroc_difference"] == pytest.approx(row["auroc"] - row["auroc_rule"])
        assert row["auroc_difference_low"] < row["auroc_difference"] < row["auroc_difference_high"]
    assert baselines_table(random_results(LabelSet.of(["Mine"]), 60), beats) is None


def test_the_published_split_is_known_with_and_without_its_excluded_records():
    counts = published_results()["n_pos"].iloc[:17].to_numpy(int)
    truth = np.zeros((78_370, 17))
    for label, count in enumerate(counts):
        truth[:count, label] = 1
    every = Labelled("test", np.arange(78_370), truth, ECG_FM, None)
    nothing = pd.DataFrame({"stage": [], "split": [], "outcome": []})
    assert on_published_split(every, nothing)
    usable = every.rows(np.arange(78_370) % 2000 > 0)
    assert not on_published_split(usable, nothing)
    split = {"stage": ["split"], "split": ["test"], "outcome": ["entered"], "n_records": [78_370]}
    flow = pd.DataFrame({**split, **{name: [count] for name, count in zip(LABELS, counts)}})
    assert on_published_split(usable, flow)
    assert not on_published_split(every.rows(np.arange(78_370) < 500), flow)  # --max-samples 500
    assert not on_published_split(usable, flow.assign(Infarction=counts[15] + 1))  # of another policy

"""External validation: the thresholds and the calibration of the development on another data set, no valid split."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from ecg_evaluation.operating_points import read_operating_points
from ecg_evaluation.provenance import labels_not_learnt, started_anew, trained_on_sources
from ecg_evaluation.results import NOT_ANNOTATED
from evaluation_world import make_world, write_checkpoint
from sklearn import metrics as sklearn_metrics
from test_eval_scripts import ANY, FINETUNED, evaluate, outputs, run

from ecg_finetune.cli import execute
from ecg_finetune.data_sets import Source, source_of
from ecg_finetune.documents import load_parser
from ecg_finetune.files import UserError, sha256, write_json
from ecg_finetune.label_set import LABELS
from ecg_finetune.lineage import NOT_LEARNT, lineage
from ecg_finetune.paths import locate
from ecg_finetune.probabilities import calibrate

BRIEF = ["--bootstrap", 0, "--num-workers", 0]


def imported(source: str, pretraining: str) -> dict:
    """Return the lineage of a build stage whose records import_source.py has made."""
    settings = {"--source": source, "pretraining": pretraining, "patients": "not known"}
    return lineage("build", {}, earlier=[lineage("sources", settings), lineage("split", {}), lineage("preprocess", {})])


@pytest.fixture(scope="module")
def development(tmp_path_factory):
    """Return a base folder whose network has been evaluated on its own test set, and the metrics CSV of that."""
    base = make_world(tmp_path_factory.mktemp("development"))
    build = locate(base, "manifests_lineage")
    write_json(build, imported("cinc2017", "not included"))
    write_json(locate(base, "test_lineage"), imported("cinc2017", "not included"))
    checkpoint = locate(base, "checkpoint_best")
    told = lineage("finetune", {"lead": "I", "pretrained": None}, earlier=[json.loads(build.read_text())])
    told[NOT_LEARNT] = [LABELS[3], LABELS[-1]]
    write_json(locate(base, "finetune_settings"), {**told, "checkpoint_sha256": sha256(checkpoint)})
    assert execute(load_parser(FINETUNED), run, ["--base-dir", str(base), *map(str, BRIEF)]) == 0
    return base, outputs(locate(base, "eval"), "metrics")[0]


@pytest.fixture(scope="module")
def external(tmp_path_factory):
    """Return the base folder of another data set: a test set alone, with unknown labels; nobody knows the last."""
    base = make_world(tmp_path_factory.mktemp("external"), 50, 0, seed=7, unknown=0.3)
    write_json(locate(base, "test_lineage"), imported("ptbxl", "included"))
    return base


@pytest.fixture(scope="module")
def validated(development, external, run_script):
    """Return the process of the external validation."""
    base, metrics = development
    arguments = ["--base-dir", external, "--model-path", locate(base, "checkpoint_best"), "--operating-points", metrics]
    return run_script(ANY, *arguments, "--bootstrap", 20)


@pytest.mark.usefixtures("validated")
def test_thresholds_and_calibration_are_frozen(development, external):
    _, metrics = development
    ours = pd.read_csv(metrics).set_index("label")
    table = pd.read_csv(outputs(locate(external, "eval"), "metrics")[0]).set_index("label")
    known = list(LABELS[:-1])
    for column in ("threshold", "calibration_slope", "calibration_intercept", "valid_n_pos", "valid_n_neg"):
        np.testing.assert_array_equal(table.loc[known, column], ours.loc[known, column])
    predicted = pd.read_csv(outputs(locate(external, "eval"), "predictions")[0]).set_index("study_id")
    truth = pd.read_csv(locate(external, "test_labels")).set_index("idx").loc[predicted.index]
    for name in [name for name in known if truth[name].nunique() == 2]:
        t, p = truth[name].dropna(), predicted[name][truth[name].notna()]
        assert table.at[name, "auroc"] == pytest.approx(sklearn_metrics.roc_auc_score(t, p), abs=1e-9)
        f1 = sklearn_metrics.f1_score(t, p >= ours.at[name, "threshold"])
        assert table.at[name, "f1"] == pytest.approx(f1, nan_ok=True)
        parameters = ours.loc[[name], ["calibration_slope", "calibration_intercept"]].to_numpy()
        brier = sklearn_metrics.brier_score_loss(t, calibrate(p.to_numpy()[:, None], parameters)[:, 0])
        assert table.at[name, "brier_calibrated"] == pytest.approx(brier)
    assert table.at[LABELS[-1], "note"] == NOT_ANNOTATED and table["n_unknown"].sum() > 100
    assert not locate(external, "manifests").exists()


def test_where_they_come_from_is_told(development, external, validated):
    base, metrics = development
    digest = sha256(metrics)
    told = (
        f"thresholds and calibration are those of {metrics} (SHA-256 {digest[:12]}), chosen on "
        "valid_lead1_duplicated of PhysioNet/CinC 2017, 40 records"
    )
    assert f"note: {told}\n" in validated.stdout
    assert "valid split: thresholds were not chosen" not in validated.stdout
    assert "(not both present and absent in the development's valid split)" in validated.stdout
    page = outputs(locate(external, "eval"), "report", ".html")[0].read_text(encoding="utf-8")
    assert f"The operating points are frozen: {told}." in page and digest in page
    assert "A label's threshold is the one that has the highest F1 on the development's valid split." in page
    checkpoint = sha256(locate(base, "checkpoint_best"))
    assert f"<h1>checkpoint_best.pt ({checkpoint[:8]}) on Lead I of PTB-XL, " in page
    assert "Labels are what PTB-XL says of its records" in page and "from physicians" not in page
    written = json.loads(outputs(locate(external, "eval"), "metrics", ".json")[0].read_text())
    choices = written["settings"]["operating points"]
    assert choices == {
        **{"rule": "f1", "set": "valid_lead1_duplicated", "records": 40, "source": "PhysioNet/CinC 2017"},
        **{"file": str(metrics), "sha256": digest},
    }
    assert digest in written["inputs"].values()
    ours = outputs(locate(external, "eval"), "metrics")[0]
    assert written["outputs"][ours.name] == sha256(ours)
    # Chained on: those of the external evaluation are those of the development.
    again = read_operating_points(ours, LABELS)
    assert again.choices["set"] == "valid_lead1_duplicated" and again.decisions.rule == "f1"


def test_records_of_another_data_set_are_not_looked_for_by_number(validated):
    assert "trained on PhysioNet/CinC 2017, the records are of PTB-XL: numbers of records" in validated.stdout
    assert "it is not known which records the checkpoint was trained on" not in validated.stdout
    assert "note: the patients of PTB-XL are not known, so each recording counts as one" in validated.stdout


def test_a_network_from_random_weights_has_no_pretraining_to_ask_for(validated, development, capsys, tmp_path):
    told = "note: the network was trained from random weights: there was no pretraining that could have seen them\n"
    assert told in validated.stdout and "(give that split as --pretraining-split)" not in validated.stdout
    base, _ = development
    text = evaluate(capsys, FINETUNED, "--base-dir", base, "--out", tmp_path, "--max-samples", 20, *BRIEF)
    assert told in text


def test_outputs_that_have_learnt_nothing_are_named(validated):
    told = f"the network had no train record with, or none without, {LABELS[3]}: its outputs for them mean nothing"
    assert f"note: {told}" in validated.stdout  # and nothing of the last, which nobody knows here


def test_a_kept_head_has_what_it_has_learnt_before():
    before = {"stage": "finetune", NOT_LEARNT: ["A", "B"]}
    after = {"settings": {"keep_head": True}, NOT_LEARNT: ["B", "C"], "earlier": [before]}
    assert labels_not_learnt(before) == {"A", "B"} and labels_not_learnt(after) == {"B"}
    assert labels_not_learnt({**after, "settings": {"keep_head": False}}) == {"B", "C"}
    assert labels_not_learnt({}) == labels_not_learnt({NOT_LEARNT: 3}) == set()


def test_pretraining_that_had_the_data_set_is_a_warning(external, development, capsys, tmp_path):
    """With a checkpoint whose beginning is not known, as ECG-FM's is not."""
    base, metrics = development
    checkpoint = shutil.copy(locate(base, "checkpoint_best"), tmp_path / "ecg_fm.pt")
    arguments = ["--base-dir", external, "--model-path", checkpoint, "--operating-points", metrics, "--out", tmp_path]
    text = evaluate(capsys, ANY, *arguments, *BRIEF)
    told = "ECG-FM's pretraining had PTB-XL: the results are external for the fine-tuning alone"
    assert f"warning: {told}\n" in text
    assert told.replace("'", "&#39;") in outputs(tmp_path, "report", ".html")[0].read_text()


def test_the_same_network_on_its_own_test_set_gives_the_same_numbers(development, capsys, tmp_path):
    base, metrics = development
    predictions = outputs(locate(base, "eval"), "predictions")[0]
    arguments = ["--base-dir", base, "--predictions", predictions, "--operating-points", metrics, "--out", tmp_path]
    evaluate(capsys, ANY, *arguments, *BRIEF)
    found, expected = (pd.read_csv(path) for path in (outputs(tmp_path, "metrics")[0], metrics))
    pd.testing.assert_frame_equal(found.drop(columns="note"), expected.drop(columns="note"))
    assert not outputs(tmp_path, "predictions")


def test_the_valid_split_at_frozen_operating_points(development, capsys, tmp_path):
    base, metrics = development
    arguments = ["--base-dir", base, "--operating-points", metrics, "--out", tmp_path, "--set", "valid", *BRIEF]
    text = evaluate(capsys, FINETUNED, *arguments)
    assert "40 records evaluated" in text and "were chosen on these same records" not in text
    (found,) = tmp_path.glob("metrics_valid_*.csv")
    pd.testing.assert_series_equal(pd.read_csv(found)["threshold"], pd.read_csv(metrics)["threshold"])


@pytest.mark.usefixtures("validated")
def test_a_model_folder_will_do_and_labels_it_lacks_get_no_threshold(development, external, capsys, tmp_path):
    _, metrics = development
    table = pd.read_csv(metrics)
    lacking = LABELS[1]
    folder = tmp_path / "my_model"
    folder.mkdir()
    table[table["label"] != lacking].to_csv(folder / "metrics.csv", index=False)
    predictions = outputs(locate(external, "eval"), "predictions")[0]
    arguments = ["--base-dir", external, "--predictions", predictions, "--out", tmp_path, *BRIEF]
    arguments += ["--min-positive-patients", 1]
    text = evaluate(capsys, ANY, *arguments, "--operating-points", folder)
    assert "chosen on a set it does not record" in text
    found = pd.read_csv(outputs(tmp_path, "metrics")[0]).set_index("label")
    decided = ["accuracy", "recall", "precision", "f1", "specificity", "npv", "threshold"]
    assert found.loc[lacking, decided].isna().all()
    assert found.loc[lacking, ["auroc", "auprc", "brier", "n_pos", "n_neg"]].notna().all()
    assert "no threshold in the operating points" in found.at[lacking, "note"]
    assert f"accuracy, recall, precision, f1, specificity, npv are without {lacking}" in found.at["__micro__", "note"]
    predicted = pd.read_csv(predictions).set_index("study_id")
    truth = pd.read_csv(locate(external, "test_labels")).set_index("idx").loc[predicted.index]
    names = [name for name in LABELS[:-1] if name != lacking]
    taken = (predicted[names] >= found.loc[names, "threshold"].to_numpy(float)).to_numpy()
    known = truth[names].notna().to_numpy()
    f1 = sklearn_metrics.f1_score(truth[names].to_numpy()[known], taken[known])
    assert found.at["__micro__", "f1"] == pytest.approx(f1)
    known = truth[list(LABELS)].notna().to_numpy()
    pooled = truth[list(LABELS)].to_numpy()[known], predicted[list(LABELS)].to_numpy()[known]
    assert found.at["__micro__", "auroc"] == pytest.approx(sklearn_metrics.roc_auc_score(*pooled))
    assert found.at["__macro__", "f1"] > 0
    assert re.search(
        rf"accuracy, recall, .* are means over \d+ labels .undefined for {lacking}.", found["note"].iloc[-2]
    )
    page = outputs(tmp_path, "report", ".html")[0].read_text()
    assert "was chosen on the development's valid split" in page and " nan" not in page


def test_operating_points_that_are_none(development, tmp_path):
    _, metrics = development
    table = pd.read_csv(metrics)

    def refused(change, names=LABELS):
        change(table.copy()).to_csv(tmp_path / "points.csv", index=False)
        with pytest.raises(UserError, match="points.csv") as told:
            read_operating_points(tmp_path / "points.csv", names)
        return str(told.value)

    assert "column 'threshold' is missing" in refused(lambda t: t.drop(columns="threshold"))
    assert "line 4 has threshold 1.5" in refused(lambda t: t.assign(threshold=t["threshold"].mask(t.index == 2, 1.5)))
    assert "duplicate label" in refused(lambda t: pd.concat([t, t.iloc[:1]]))
    assert "a threshold for none of the labels Gout; give" in refused(lambda t: t, ["Gout"])
    with pytest.raises(UserError, match="has no metrics.csv; give a model folder, or the metrics CSV"):
        read_operating_points(tmp_path, LABELS)
    # Without a valid split nothing was calibrated, and it is not pretended that it was.
    table.drop(columns=["calibration_slope", "calibration_intercept"]).to_csv(tmp_path / "points.csv", index=False)
    points = read_operating_points(tmp_path / "points.csv", LABELS)
    assert points.decisions.calibration is None and "nothing is calibrated" in points.told()
    # Changed beside its lineage, which says what it was.
    changed = shutil.copy(metrics, tmp_path / metrics.name)
    shutil.copy(metrics.with_suffix(".json"), tmp_path)
    read_operating_points(changed, LABELS)
    table.assign(threshold=0.1).to_csv(changed, index=False)
    with pytest.raises(UserError, match="not the file that the eval stage wrote"):
        read_operating_points(changed, LABELS)


@pytest.mark.parametrize("other", [("--threshold-rule", "youden"), ("--valid-predictions", "valid.csv")])
def test_options_that_contradict_are_wrong_usage(run_script, other, tmp_path):
    process = run_script(ANY, "--operating-points", tmp_path / "m.csv", *other, "--base-dir", tmp_path, exit_code=2)
    assert "not allowed with argument" in process.stderr and other[0] in process.stderr


def test_operating_points_of_another_checkpoint_are_told(development, external, capsys, tmp_path):
    _, metrics = development
    write_checkpoint(tmp_path / "other.pt", seed=9)
    arguments = ["--base-dir", external, "--model-path", tmp_path / "other.pt", "--operating-points", metrics]
    text = evaluate(capsys, ANY, *arguments, "--out", tmp_path, *BRIEF)
    assert f"note: {metrics} is of another checkpoint than" in text


@pytest.fixture
def whole_recordings(development, external, validated, tmp_path):  # noqa: ARG001
    """Return a table as predict_ecg.py writes it: calibrated, one recording too short, one that is not evaluated."""
    _, metrics = development
    predicted = pd.read_csv(outputs(locate(external, "eval"), "predictions")[0])
    points = read_operating_points(metrics, LABELS).decisions
    # Scores that rank the wrong way on the valid split are not calibrated in a model folder.
    parameters = np.where(points.calibration[:, :1] > 0, points.calibration, [1.0, 0.0])
    table = pd.DataFrame(calibrate(predicted[list(LABELS)].to_numpy(), parameters), columns=list(LABELS))
    table.insert(0, "recording", [f"/somewhere/s{study}.hea" for study in predicted["study_id"]])
    table.insert(1, "status", "ok")
    table.insert(2, "found", "Gout; Flu")
    table.loc[3, "status"] = "too_short"
    table.loc[3, list(LABELS)] = np.nan
    records = pd.read_csv(locate(external, "record_list"))
    extra = pd.DataFrame({"subject_id": [5], "study_id": [77], "path": ["s77"]})
    pd.concat([records, extra]).assign(name=lambda t: "r" + t["study_id"].astype(str)).to_csv(
        tmp_path / "records.csv", index=False
    )
    table = pd.concat([table, table.iloc[:1].assign(recording="r77")])
    table.to_csv(tmp_path / "predictions.csv", index=False)
    return predicted, tmp_path


def test_whole_recordings_of_predict_are_evaluated(development, external, whole_recordings, capsys):
    _, metrics = development
    predicted, folder = whole_recordings
    arguments = ["--base-dir", external, "--record-list", folder / "records.csv", "--out", folder, *BRIEF]
    arguments += ["--operating-points", metrics]
    text = evaluate(capsys, ANY, *arguments, "--predictions", folder / "predictions.csv")
    assert "49 records evaluated" in text
    assert "note: 1 of the 50 records have no prediction in" in text and "(1 of its recordings are too_short)" in text
    assert "note: 1 recordings of" in text and "not evaluated" in text
    # The same as from the raw probabilities of the same records.
    found = pd.read_csv(outputs(folder, "metrics")[0])
    truth = pd.read_csv(locate(external, "test_labels")).set_index("idx").drop(predicted["study_id"][3])
    values = predicted.set_index("study_id").loc[truth.index]
    for name in LABELS[:-1]:
        known = truth[name].notna()
        row = found.set_index("label").loc[name]
        assert row["n_pos"] + row["n_neg"] == known.sum()
        if truth[name].nunique() == 2:
            decided = values[name][known] >= row["threshold"]
            assert row["accuracy"] == pytest.approx((decided == (truth[name][known] == 1)).mean())
            brier = sklearn_metrics.brier_score_loss(truth[name][known], values[name][known])
            assert row["brier"] == pytest.approx(brier)
    page = outputs(folder, "report", ".html")[0].read_text()
    assert "Each recording was predicted whole" in page and "two 5 s segments" not in page


def test_recordings_that_no_record_is(external, whole_recordings, capsys):
    _, folder = whole_recordings
    arguments = ["--base-dir", external, "--predictions", folder / "predictions.csv", "--out", folder, *BRIEF]
    told = evaluate(capsys, ANY, *arguments, exit_code=1)  # the world's own list has no r77
    assert "line 52 has recording 'r77', which is no record of" in told
    told = evaluate(capsys, ANY, *arguments, "--record-list", folder / "none.csv", exit_code=1)
    assert "has no study_id; give the list that says which study a recording is as --record-list" in told


def test_sources_in_a_lineage():
    ptbxl = imported("ptbxl", "included")
    assert source_of(ptbxl) == Source("ptbxl", "PTB-XL", "included", patients=False)
    assert source_of(imported("my_registry", "not known")).name == "my_registry"
    files = {"inputs": {"clinic/a.csv": "1"}, "outputs": {"labels.csv": "2"}}
    assert source_of({**lineage("sources", {"--source": "table"}), **files}) == Source("table 2", "a.csv", "not known")
    statements = lineage("build", {}, earlier=[lineage("labels", {"--policy": "ecg-fm"})])
    assert source_of(statements).name is None and source_of(statements).key == "machine statements"
    assert source_of({"stage": "build", "note": "not recorded"}).key is None
    start = lineage("finetune", {"pretrained": None}, earlier=[statements])
    second = lineage("finetune", {"pretrained": {"path": "x"}}, earlier=[ptbxl, start])
    assert [source.key for source in trained_on_sources(second)] == ["ptbxl", "machine statements"]
    assert started_anew(start) and started_anew(second)
    unknown = {"stage": "pretraining", "note": "not recorded"}
    assert not started_anew(lineage("finetune", {"pretrained": {"path": "x"}}, earlier=[ptbxl, unknown]))
    assert not started_anew({})

"""Leaks as a user meets them: refused before the model runs, told first where they are allowed or cannot be seen."""

import numpy as np
import pandas as pd
import pytest
import torch
from ecg_evaluation.stage import claimed_stamp
from evaluation_world import make_world, table
from test_eval_scripts import ANY, FINETUNED, evaluate, outputs

from ecg_finetune.files import sha256, write_json
from ecg_finetune.matfile import write_mat
from ecg_finetune.paths import locate
from ecg_finetune.segments import read_record, signal_checksum


@pytest.fixture
def world(tmp_path):
    return make_world(tmp_path)


def note_training(base, *rows) -> None:
    """Let the checkpoint of a base folder state that it was trained on (study, patient, split) rows."""
    checkpoint, path = locate(base, "checkpoint_best"), locate(base, "training_records")
    study, subject, split = zip(*rows)
    table(path, study_id=study, subject_id=subject, split=split)
    content = torch.load(checkpoint, weights_only=False)
    torch.save({**content, "extra_state": {"training_records_sha256": sha256(path)}}, checkpoint)


def test_a_patient_trained_on_is_refused_before_the_model_runs(world, capsys):
    """Fine-tuning, another split, the test set built anew: nothing else would show it."""
    records = pd.read_csv(locate(world, "record_list"))
    patient = int(records["subject_id"].iloc[0])  # of the test set
    note_training(world, (99, patient, "train"), (98, 5, "valid"))
    told = evaluate(capsys, FINETUNED, "--base-dir", world, exit_code=1)
    assert "2 of the 60 evaluated records are of 1 patient that the checkpoint was trained on" in told
    assert not locate(world, "eval").exists() or not list(locate(world, "eval").iterdir())
    text = evaluate(capsys, FINETUNED, "--base-dir", world, "--bootstrap", 0, "--allow-leak")
    assert "warning: 2 of the 60 evaluated records" in text
    assert "60 records evaluated, 1 warning above, report" in text.splitlines()[-1]  # all that some will read
    metrics, predictions = (outputs(locate(world, "eval"), name)[0] for name in ("metrics", "predictions"))
    assert (pd.read_csv(metrics)["n_leaked"] == 2).all()
    page = outputs(locate(world, "eval"), "report", ".html")[0].read_text()
    assert '<ul class="alarm"><li>2 of the 60 evaluated records' in page
    # and again from the predictions file, without the model
    again = ["--base-dir", world, "--predictions", predictions, "--out", world / "again"]
    assert "--allow-leak" in evaluate(capsys, ANY, *again, exit_code=1)


def test_no_leak_is_told_and_an_unknown_one_too(world, capsys, tmp_path):
    text = evaluate(capsys, FINETUNED, "--base-dir", world, "--bootstrap", 0)
    assert "warning: it is not known which records the checkpoint was trained on" in text
    assert pd.read_csv(outputs(locate(world, "eval"), "metrics")[0])["n_leaked"].isna().all()
    note_training(world, (99, 5, "train"), (98, 6, "valid"))
    text = evaluate(capsys, FINETUNED, "--base-dir", world, "--bootstrap", 0, "--out", tmp_path)
    assert "warning:" not in text and "none of the evaluated patients has a record among the 2 trained on\n" in text
    assert (pd.read_csv(outputs(tmp_path, "metrics")[0])["n_leaked"] == 0).all()


def test_the_split_of_a_checkpoint_from_elsewhere(world, capsys, tmp_path):
    test = pd.read_csv(locate(world, "test_labels"))["idx"].tolist()
    table(tmp_path / "theirs.csv", save_file=[f"mimic_iv_ecg_{study}.mat" for study in test[:3]], split="train")
    arguments = ["--base-dir", world, "--bootstrap", 0, "--trained-on", tmp_path / "theirs.csv"]
    told = evaluate(capsys, FINETUNED, *arguments, exit_code=1)
    assert "that the checkpoint was trained on" in told
    pretraining = ["--pretraining-split", tmp_path / "theirs.csv"]
    text = evaluate(capsys, FINETUNED, "--base-dir", world, "--bootstrap", 0, *pretraining)
    assert "whose records were seen in pretraining" in text


def test_valid_predictions_of_records_trained_on_are_refused(world, capsys):
    valid = int(np.unique(np.load(locate(world, "original_idx_order")))[-1])
    patient = pd.read_csv(locate(world, "record_list")).set_index("study_id").at[valid, "subject_id"]
    note_training(world, (valid, 5, "train"))
    told = evaluate(capsys, FINETUNED, "--base-dir", world, "--bootstrap", 0, exit_code=1)
    assert f"study {valid} is of patient {patient} in the record list, and of 5 in what the checkpoint was" in told
    note_training(world, (valid, int(patient), "train"))
    told = evaluate(capsys, FINETUNED, "--base-dir", world, "--bootstrap", 0, exit_code=1)
    assert "of the 40 valid records are of 1 patient that the checkpoint was trained on" in told
    assert not list(locate(world, "eval").parent.glob("*/*"))  # told before the model has run
    text = evaluate(capsys, FINETUNED, "--base-dir", world, "--bootstrap", 0, "--allow-leak")
    assert "thresholds and calibration are those of memorised records\n" in text and "1 warning above" in text


def test_the_valid_split_alone_is_evaluated_to_choose_among_runs(world, capsys):
    for file in locate(world, "test_mats").iterdir():
        file.unlink()  # test is not touched
    text = evaluate(capsys, FINETUNED, "--base-dir", world, "--bootstrap", 0, "--set", "valid")
    assert "40 records evaluated" in text and "chosen on these same records" in text
    (predictions,) = locate(world, "eval").glob("predictions_*.csv")
    assert predictions.name.startswith("predictions_valid_lead1_duplicated_")
    note_training(world, (int(pd.read_csv(predictions)["study_id"][0]), 5, "valid"))
    evaluate(capsys, FINETUNED, "--base-dir", world, "--bootstrap", 0, "--set", "valid", "--out", world / "again")


def test_a_record_that_changed_since_the_test_set_was_built_is_refused(world, capsys):
    mats, files = locate(world, "test_mats"), pd.read_csv(locate(world, "test_file_list"))
    leads = [read_record(mats / row.save_file, 5000, row.study_id) for row in files.itertuples()]
    table(locate(world, "test_checksums"), study_id=files["study_id"], crc32=[signal_checksum(lead) for lead in leads])
    evaluate(capsys, FINETUNED, "--base-dir", world, "--bootstrap", 0)
    study = int(files["study_id"][7])
    feats = np.tile(-leads[7], (12, 1))
    write_mat(mats / files["save_file"][7], {"feats": feats, "curr_sample_rate": 500, "idx": study})
    told = evaluate(capsys, FINETUNED, "--base-dir", world, "--bootstrap", 0, exit_code=1)
    assert f"not the signal of study {study} that the test set was built with" in told


def test_two_evaluations_of_one_second_have_names_of_their_own(tmp_path):
    with (
        claimed_stamp(tmp_path, "test_lead1_duplicated") as one,
        claimed_stamp(tmp_path, "test_lead1_duplicated") as two,
    ):
        assert one != two
    assert list(tmp_path.iterdir()) == []


def test_the_model_compared_with_is_looked_at_too(world, capsys, tmp_path):
    records = pd.read_csv(locate(world, "record_list"))
    arguments = ["--base-dir", world, "--bootstrap", 0]
    evaluate(capsys, FINETUNED, *arguments, "--out", tmp_path / "clean")
    note_training(world, (99, int(records["subject_id"].iloc[0]), "train"))
    evaluate(capsys, FINETUNED, *arguments, "--out", tmp_path / "leaky", "--allow-leak")
    clean, leaky = (outputs(tmp_path / name, "predictions")[0] for name in ("clean", "leaky"))
    arguments += ["--predictions", clean, "--compare", leaky, "--out", tmp_path / "compared"]
    told = evaluate(capsys, ANY, *arguments, exit_code=1)
    assert f"{leaky}: 2 of the 60 evaluated records are of 1 patient that the checkpoint was trained on" in told
    assert f"warning: {leaky}: 2 of the 60" in evaluate(capsys, ANY, *arguments, "--allow-leak")
    leaky.with_suffix(".json").unlink()
    assert f"note: {leaky}: not known which records its model was trained on" in evaluate(capsys, ANY, *arguments)


def test_what_was_changed_between_two_runs_is_refused(world, capsys, tmp_path):
    arguments = ["--base-dir", world, "--bootstrap", 0, "--out", tmp_path]
    evaluate(capsys, FINETUNED, *arguments)
    (test,), (valid,) = (list(tmp_path.glob(f"predictions_{name}_*.csv")) for name in ("test", "valid"))
    table_of_valid = pd.read_csv(valid)
    table_of_valid.iloc[:, 1:] = 0.5
    table_of_valid.to_csv(valid, index=False)
    told = evaluate(capsys, ANY, *arguments, "--predictions", test, exit_code=1)
    assert f"error: {valid}: changed since" in told
    valid.with_suffix(".json").unlink()
    text = evaluate(capsys, ANY, *arguments, "--predictions", test)
    assert f"note: not known whether {valid} and {test} were made by one checkpoint\n" in text
    (tmp_path / "split.csv").write_text("save_file,split\nmimic_iv_ecg_1.mat,test\n")
    told = evaluate(capsys, FINETUNED, *arguments, "--trained-on", tmp_path / "split.csv", exit_code=1)
    assert "split.csv: puts no record into train or valid" in told


def lineage_of_build(lead: str, policy: str, **outputs) -> dict:
    labels = {"stage": "labels", "settings": {"--policy": policy}}
    return {"stage": "build", "settings": {"--lead": lead}, "outputs": outputs, "earlier": [labels]}


def test_files_of_another_lead_or_policy(world, capsys):
    arguments = ["--base-dir", world, "--bootstrap", 0]
    test, manifests = locate(world, "test_lineage"), locate(world, "manifests_lineage")
    write_json(test, lineage_of_build("II", "ecg-fm"))
    told = evaluate(capsys, FINETUNED, *arguments, exit_code=1)
    assert f"{locate(world, 'test')}: of lead II (by what the build stage has written), but --lead is I" in told
    write_json(test, lineage_of_build("I", "ecg-fm"))
    write_json(manifests, lineage_of_build("II", "ecg-fm"))
    assert f"error: {locate(world, 'manifests')}: of lead II" in evaluate(capsys, FINETUNED, *arguments, exit_code=1)
    write_json(manifests, lineage_of_build("I", "asserted"))
    text = evaluate(capsys, FINETUNED, *arguments)
    assert "warning: the labels are of two policies: those evaluated of ecg-fm, those of the valid split" in text
    y = locate(world, "manifest_y")
    write_json(manifests, lineage_of_build("I", "ecg-fm", **{y.name: sha256(y)}))
    assert "two policies" not in evaluate(capsys, FINETUNED, *arguments)
    np.save(y, np.load(y)[::-1])
    assert f"error: {y}: not the file" in evaluate(capsys, FINETUNED, *arguments, exit_code=1)

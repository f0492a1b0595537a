"""The evaluation scripts as a user runs them."""

import argparse
import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from ecg_evaluation.options import EvaluationSettings, refuse_contradictions
from ecg_evaluation.stage import evaluate_set
from evaluation_world import NEVER, RARE, make_world, write_checkpoint
from sklearn.metrics import average_precision_score, roc_auc_score

from ecg_finetune.cli import execute
from ecg_finetune.documents import load_parser
from ecg_finetune.files import sha256
from ecg_finetune.label_set import LABELS
from ecg_finetune.paths import locate

FINETUNED, ANY = "eval/scripts/eval_finetuned.py", "eval/scripts/eval_ecgfm.py"
COLUMNS = ["label", "n_pos", "n_neg", "auroc", "auprc", "accuracy", "recall", "precision", "f1", "specificity", "npv"]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, run_script):
    """Return a base folder with one finished evaluation, and the process that made it."""
    base = make_world(tmp_path_factory.mktemp("evaluated"))
    return base, run_script(FINETUNED, "--base-dir", base, "--bootstrap", 50, "--batch-size", 16)


def outputs(folder, kind: str, suffix: str = ".csv") -> list:
    """Return the files of a kind for the test set, oldest first."""
    return sorted(folder.glob(f"{kind}_test_lead1_duplicated_*{suffix}"))


def run(args, inputs) -> str:
    """Evaluate as both scripts do."""
    return evaluate_set(EvaluationSettings(**vars(args)), inputs)


def evaluate(capsys, script: str, *arguments, exit_code: int = 0) -> str:
    """Run a script's parser and run in this process; return what it printed (stderr when it failed)."""
    capsys.readouterr()
    assert execute(load_parser(script), run, list(map(str, arguments))) == exit_code
    captured = capsys.readouterr()
    if exit_code:
        assert captured.err.startswith("error: ") and captured.err.count("\n") == 1, captured.err
        return captured.err
    return captured.out


def test_files_and_their_form(evaluated):
    base, process = evaluated
    folder = locate(base, "eval")
    (predictions,), (metrics,), (report,) = (
        outputs(folder, "predictions"),
        outputs(folder, "metrics"),
        outputs(folder, "report", ".html"),
    )
    table = pd.read_csv(predictions)
    assert list(table.columns) == ["study_id", *LABELS] and len(table) == 60
    result = pd.read_csv(metrics)
    assert list(result.columns[:11]) == COLUMNS
    assert list(result["label"]) == [*LABELS, "__macro__", "__micro__"]
    assert process.stdout.rstrip().splitlines()[-1].endswith(f"report {report}")
    for label in LABELS:
        assert f"\n{label}" in process.stdout
    assert len(sorted(folder.glob("predictions_valid_lead1_duplicated_*.csv"))) == 1


def test_metrics_equal_scikit_learn_on_the_files(evaluated):
    base, _ = evaluated
    folder = locate(base, "eval")
    predicted = pd.read_csv(outputs(folder, "predictions")[0]).set_index("study_id")
    truth = pd.read_csv(locate(base, "test_labels")).set_index("idx").loc[predicted.index]
    result = pd.read_csv(outputs(folder, "metrics")[0]).set_index("label")
    defined = [label for label in LABELS if label != LABELS[NEVER]]
    for label in defined:
        assert abs(result.at[label, "auroc"] - roc_auc_score(truth[label], predicted[label])) < 1e-9
        assert abs(result.at[label, "auprc"] - average_precision_score(truth[label], predicted[label])) < 1e-9
        decided = predicted[label] >= result.at[label, "threshold"]
        assert result.at[label, "recall"] == pytest.approx(decided[truth[label] == 1].mean(), abs=1e-12)
        assert result.at[label, "auroc_low"] <= result.at[label, "auroc"] <= result.at[label, "auroc_high"]
    included = [label for label in LABELS if result.at[label, "few_patients"] == 0]
    assert 5 < len(included) < len(defined)
    macro = roc_auc_score(truth[included], predicted[included], average="macro")
    assert abs(result.at["__macro__", "auroc"] - macro) < 1e-9
    micro = roc_auc_score(truth.to_numpy().ravel(), predicted[list(LABELS)].to_numpy().ravel())
    assert abs(result.at["__micro__", "auroc"] - micro) < 1e-9
    assert result.at["__micro__", "n_pos"] == truth.to_numpy().sum()


def test_undefined_values_are_named(evaluated):
    base, process = evaluated
    result = pd.read_csv(outputs(locate(base, "eval"), "metrics")[0]).set_index("label")
    never, rare = LABELS[NEVER], LABELS[RARE]
    assert np.isnan(result.at[never, "auroc"]) and "auroc, auprc, recall undefined" in result.at[never, "note"]
    assert result.at[never, "threshold"] == 0.5
    assert "threshold not chosen, not calibrated" in result.at[rare, "note"]
    assert f"note: auroc, auprc, recall undefined, no record has it: {never}\n" in process.stdout
    assert result["note"].isna()["__micro__"]


def test_labels_of_few_patients_are_marked_and_not_in_the_macro_averages(evaluated, capsys, tmp_path):
    base, process = evaluated
    folder = locate(base, "eval")
    result = pd.read_csv(outputs(folder, "metrics")[0]).set_index("label")
    truth = pd.read_csv(locate(base, "test_labels")).set_index("idx")
    patient = pd.read_csv(locate(base, "record_list")).set_index("study_id")["subject_id"].reindex(truth.index)
    for label in LABELS:
        counts = [patient[truth[label] == wanted].nunique() for wanted in (1, 0)]
        assert result.loc[label, ["n_pos_patients", "n_neg_patients"]].to_list() == counts
        assert result.at[label, "few_patients"] == (min(counts) < 10)
    few = [label for label in LABELS if result.at[label, "few_patients"]]
    note = result.at["__macro__", "note"]
    assert f"mean over {17 - len(few)} of 17 labels, those with at least 10 positive and 10 negative patients" in note
    assert f"(not {', '.join(few)})" in note and LABELS[RARE] in few
    for label in LABELS:
        marked = f"\n{label} * " in process.stdout
        assert marked == (label in few)
    assert "fewer than 10 positive patients, intervals unreliable" in result.at[LABELS[RARE], "note"]
    assert "* too few patients for reliable intervals, see the notes" in process.stdout

    arguments = ["--base-dir", base, "--predictions", outputs(folder, "predictions")[0], "--out", tmp_path]
    text = evaluate(capsys, ANY, *arguments, "--bootstrap", 20, "--min-positive-patients", 1)
    again = pd.read_csv(outputs(tmp_path, "metrics")[0]).set_index("label")
    assert again["few_patients"].sum() == 1  # no record has it
    assert again.at["__macro__", "auroc"] == pytest.approx(again["auroc"].drop(["__macro__", "__micro__"]).mean())
    assert f"those with at least 1 positive and 1 negative patients (not {LABELS[NEVER]}): Macro average" in text
    text = evaluate(capsys, ANY, *arguments, "--bootstrap", 0, "--min-positive-patients", 1000)
    assert "undefined, no label has at least 1000 positive and 1000 negative patients" in text
    assert np.isnan(pd.read_csv(outputs(tmp_path, "metrics")[1]).set_index("label").at["__macro__", "auroc"])


def test_positives_of_the_valid_split_stand_beside_the_thresholds(evaluated, capsys, tmp_path):
    base, process = evaluated
    result = pd.read_csv(outputs(locate(base, "eval"), "metrics")[0]).set_index("label")
    manifests = locate(base, "manifests")
    labels, order = np.load(manifests / "y.npy"), np.load(manifests / "original_idx_order.npy")
    positives = labels[6 : 6 + len(order[6:]) // 2].sum(axis=0)  # after the train rows, one segment of each record
    np.testing.assert_array_equal(result["valid_n_pos"][:17], positives)
    warned = [label for label, count in zip(LABELS, positives) if 0 < count < 10]
    for label in LABELS:
        told = "threshold and calibration rest on fewer than 10 positive records of the valid split"
        assert (told in str(result.at[label, "note"])) == (label in warned)
    assert warned and f"{told}: {', '.join(warned)}\n" in process.stdout
    assert " threshold  valid_n_pos  recall " in process.stdout
    arguments = ["--base-dir", base, "--predictions", outputs(locate(base, "eval"), "predictions")[0]]
    text = evaluate(capsys, ANY, *arguments, "--out", tmp_path, "--bootstrap", 0, "--threshold-rule", 0.5)
    assert "note: calibration rests on fewer than 10 positive records" in text and "threshold and" not in text


def test_predictions_file_gives_the_same_metrics_without_pytorch(evaluated, run_script, tmp_path):
    base, _ = evaluated
    folder = locate(base, "eval")
    (tmp_path / "torch.py").write_text("raise ImportError('PyTorch must not be imported')\n")
    arguments = ["--base-dir", base, "--predictions", outputs(folder, "predictions")[0], "--bootstrap", 50]
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    run_script(ANY, *arguments, "--out", tmp_path / "out", env={"PYTHONPATH": path})
    again = outputs(tmp_path / "out", "metrics")[0].read_bytes()
    assert again == outputs(folder, "metrics")[0].read_bytes()
    report = outputs(tmp_path / "out", "report", ".html")[0].read_text()
    assert "checkpoint_best.pt" in report  # the origin of the predictions is known from the file beside them
    assert not outputs(tmp_path / "out", "predictions")


def test_comparison(evaluated, capsys, tmp_path):
    base, _ = evaluated
    first = outputs(locate(base, "eval"), "predictions")[0]
    write_checkpoint(tmp_path / "other.pt", seed=5)
    common = ["--base-dir", base, "--out", tmp_path, "--bootstrap", 40]
    evaluate(capsys, ANY, *common, "--model-path", tmp_path / "other.pt", "--compare", first)
    table = pd.read_csv(outputs(tmp_path, "comparison")[0]).set_index("label")
    ours = pd.read_csv(outputs(tmp_path, "metrics")[0]).set_index("label")
    other = pd.read_csv(outputs(locate(base, "eval"), "metrics")[0]).set_index("label")
    for metric in ("auroc", "auprc"):
        difference = table[f"{metric}_difference"]
        np.testing.assert_allclose(difference, ours[metric] - other[metric], atol=1e-12)
        assert (table[f"{metric}_difference_low"].dropna() <= table[f"{metric}_difference_high"].dropna()).all()
    assert difference.abs().max() > 0.01
    assert (table["n_records"] == 60).all() and (table["n_pos"] == ours["n_pos"]).all()
    assert ">Comparison</h2>" in outputs(tmp_path, "report", ".html")[0].read_text()

    # A model differs from itself by nothing, in every resample: the comparison is paired.
    again = tmp_path / "same"
    evaluate(capsys, ANY, *common[:2], "--out", again, "--predictions", first, "--compare", first, "--bootstrap", 20)
    same = pd.read_csv(outputs(again, "comparison")[0])
    values = same[[name for name in same if "difference" in name]].to_numpy()
    assert np.nanmax(np.abs(values)) == 0


def test_comparison_on_the_records_that_both_have_predicted(evaluated, capsys, tmp_path):
    base, _ = evaluated
    first = outputs(locate(base, "eval"), "predictions")[0]
    table, rng = pd.read_csv(first), np.random.default_rng(0)
    # The other model lacks 20 records, has two that were not evaluated, and another order.
    other = table.iloc[:40].sample(frac=1, random_state=1)
    other = pd.concat([other, table.iloc[:2].assign(study_id=[98, 99])])
    other[list(LABELS)] = np.clip(other[list(LABELS)] + 0.05 * rng.normal(size=(42, 17)), 0, 1)
    other.to_csv(tmp_path / "other.csv", index=False)
    arguments = ["--base-dir", base, "--out", tmp_path, "--predictions", first, "--bootstrap", 40]
    text = evaluate(capsys, ANY, *arguments, "--compare", tmp_path / "other.csv")
    told = (
        "40 records of 20 patients that both have predicted; excluded: 20 evaluated here but not in that file, "
        "2 in that file but not evaluated here"
    )
    assert f"comparison with other.csv: {told}\n" in text
    assert "40 records of 20 patients" in outputs(tmp_path, "report", ".html")[0].read_text()

    found = pd.read_csv(outputs(tmp_path, "comparison")[0]).set_index("label")
    assert (found["n_records"] == 40).all()
    truth = pd.read_csv(locate(base, "test_labels")).set_index("idx")
    mine, theirs = (t.set_index("study_id").loc[table["study_id"][:40]] for t in (table, other))
    truth = truth.loc[mine.index]
    for label in LABELS:
        if truth[label].nunique() == 2:
            expected = [roc_auc_score(truth[label], scores[label]) for scores in (mine, theirs)]
            np.testing.assert_allclose(found.loc[label, ["auroc", "auroc_other"]].astype(float), expected, atol=1e-12)
    # As if only these records had been evaluated: the same difference and interval.
    table.iloc[:40].to_csv(tmp_path / "first_40.csv", index=False)
    again = tmp_path / "again"
    arguments = ["--base-dir", base, "--out", again, "--bootstrap", 40, "--max-samples", 40]
    evaluate(capsys, ANY, *arguments, "--predictions", tmp_path / "first_40.csv", "--compare", tmp_path / "other.csv")
    pd.testing.assert_frame_equal(pd.read_csv(outputs(again, "comparison")[0]).set_index("label"), found)


def test_without_valid_split_and_patients(evaluated, capsys, tmp_path):
    base, _ = evaluated
    predictions = shutil.copy(outputs(locate(base, "eval"), "predictions")[0], tmp_path / "mine.csv")
    arguments = ["--base-dir", base, "--predictions", predictions, "--out", tmp_path, "--bootstrap", 10]
    text = evaluate(capsys, ANY, *arguments, "--record-list", tmp_path / "none.csv")
    assert "note: no predictions for a valid split: thresholds were not chosen" in text
    assert "patients are not known, so records were resampled" in text
    table = pd.read_csv(outputs(tmp_path, "metrics")[0])
    assert (table["threshold"].dropna() == 0.5).all() and "calibration_slope" not in table
    assert table["brier_calibrated"].isna().all()
    report = outputs(tmp_path, "report", ".html")[0].read_text()
    assert "records were resampled" in report and "Not recorded beside the predictions file" in report


def test_valid_predictions_that_are_none(evaluated, capsys, tmp_path):
    base, _ = evaluated
    folder = locate(base, "eval")
    test_file = outputs(folder, "predictions")[0]
    arguments = ["--base-dir", base, "--out", tmp_path, "--bootstrap", 0]
    told = evaluate(capsys, ANY, *arguments, "--predictions", test_file, "--valid-predictions", test_file, exit_code=1)
    assert "is in the test set too (60 are)" in told

    write_checkpoint(tmp_path / "other.pt", seed=5)
    (valid_file,) = folder.glob("predictions_valid_*.csv")
    arguments += ["--model-path", tmp_path / "other.pt", "--valid-predictions", valid_file]
    assert "was made by another checkpoint" in evaluate(capsys, ANY, *arguments)


@pytest.mark.parametrize("lead", ["I", "II"])
def test_a_network_of_another_lead_is_told(evaluated, capsys, tmp_path, lead):
    base, _ = evaluated
    write_checkpoint(tmp_path / "other.pt")
    record = {"settings": {"lead": lead}, "checkpoint_sha256": sha256(tmp_path / "other.pt")}
    (tmp_path / "settings.json").write_text(json.dumps(record))
    arguments = ["--base-dir", base, "--out", tmp_path, "--bootstrap", 0, "--max-samples", 20]
    text = evaluate(capsys, ANY, *arguments, "--model-path", tmp_path / "other.pt")
    assert ("fine-tuned on lead II, the test set is lead I" in text) == (lead == "II")
    text = evaluate(capsys, ANY, *arguments, "--predictions", outputs(tmp_path, "predictions")[0])
    assert ("fine-tuned on lead II, the test set is lead I" in text) == (lead == "II")


def test_patients_in_more_than_one_split_are_told(evaluated, capsys, tmp_path):
    base, _ = evaluated
    records = pd.read_csv(locate(base, "record_list"))
    split = pd.read_csv(locate(base, "meta_split"))
    patient = records["subject_id"].iloc[0]
    assert (records["subject_id"] == patient).sum() == 2
    split.loc[0, "split"] = "train"  # one of this patient's two test records
    split.to_csv(tmp_path / "split.csv", index=False)
    predictions = outputs(locate(base, "eval"), "predictions")[0]
    arguments = ["--base-dir", base, "--predictions", predictions, "--out", tmp_path, "--bootstrap", 0]
    text = evaluate(capsys, ANY, *arguments, "--meta", tmp_path / "split.csv")
    assert "warning: 1 of the evaluated records are not in the test split" in text
    assert "warning: 1 of the evaluated patients have records in another split too" in text
    assert "evaluated patients have records" not in evaluate(capsys, ANY, *arguments)


def test_patients_from_the_path_alone(evaluated, capsys, tmp_path):
    base, _ = evaluated
    records = pd.read_csv(locate(base, "record_list"))
    path = [f"files/p1000/p{s}/s{r}/{r}" for s, r in zip(records["subject_id"], records["study_id"])]
    pd.DataFrame({"study_id": records["study_id"], "path": path}).to_csv(tmp_path / "records.csv", index=False)
    predictions = outputs(locate(base, "eval"), "predictions")[0]
    arguments = ["--base-dir", base, "--predictions", predictions, "--out", tmp_path, "--bootstrap", 50]
    evaluate(capsys, ANY, *arguments, "--record-list", tmp_path / "records.csv")
    again = outputs(tmp_path, "metrics")[0].read_bytes()
    assert again == outputs(locate(base, "eval"), "metrics")[0].read_bytes()


def test_max_samples(evaluated, capsys, tmp_path):
    base, _ = evaluated
    arguments = ["--base-dir", base, "--max-samples", 7, "--out", tmp_path, "--bootstrap", 5, "--threshold-rule", "0.3"]
    text = evaluate(capsys, FINETUNED, *arguments, "--num-workers", 0)
    assert "7 records evaluated" in text
    (predictions,) = outputs(tmp_path, "predictions")
    assert len(pd.read_csv(predictions)) == 7
    assert (pd.read_csv(outputs(tmp_path, "metrics")[0])["threshold"].dropna() == 0.3).all()
    told = evaluate(capsys, ANY, "--base-dir", base, "--predictions", predictions, exit_code=1)
    assert "is missing (53 missing, 0 unknown)" in told and "--max-samples" in told


def test_user_errors_are_one_line(evaluated, capsys, tmp_path, run_script):
    base, _ = evaluated
    before = sorted(locate(base, "eval").iterdir())
    predictions = outputs(locate(base, "eval"), "predictions")[0]
    table = pd.read_csv(predictions)

    def told(*arguments, script=ANY):
        return evaluate(capsys, script, "--base-dir", base, *arguments, exit_code=1)

    def changed(change) -> str:
        change(table.copy()).to_csv(tmp_path / "changed.csv", index=False)
        return told("--predictions", tmp_path / "changed.csv")

    assert "no test set; run build" in told("--test-dir", tmp_path / "nowhere")
    assert "--model-path is missing" in told()
    assert "no such file" in told("--model-path", tmp_path / "none.pt")
    (tmp_path / "broken.pt").write_bytes(b"PK\x03\x04 nothing")
    assert "broken.pt" in told("--model-path", tmp_path / "broken.pt")
    write_checkpoint(tmp_path / "five.pt", num_labels=5)
    assert "5 labels" in told("--model-path", tmp_path / "five.pt")
    assert "no such device" in told("--device", "gpu9", script=FINETUNED)
    assert "'Atrial flutter' is missing" in changed(lambda t: t.drop(columns="Atrial flutter"))
    assert f"study {table['study_id'].iloc[3]} is missing (1 missing" in changed(lambda t: t.drop(index=3))
    assert "study 99 is not among" in changed(lambda t: pd.concat([t, t.iloc[:1].assign(study_id=99)]))
    assert "duplicate" in changed(lambda t: pd.concat([t, t.iloc[:1]]))
    wrong = changed(lambda t: t.assign(Infarction=t["Infarction"].where(t.index != 4, 1.5)))
    assert f"study {table['study_id'].iloc[4]}, column 'Infarction' (line 6): a probability is" in wrong
    assert "a probability is" in changed(lambda t: t.assign(Infarction=t["Infarction"].where(t.index != 4)))
    assert "line 6" in changed(
        lambda t: t.astype({"Infarction": "object"}).replace({"Infarction": {t.at[4, "Infarction"]: "x"}})
    )
    table.iloc[:5].assign(study_id=range(5)).to_csv(tmp_path / "other.csv", index=False)
    assert "none of its 5 records is among the 60 evaluated" in told(
        "--predictions", predictions, "--compare", tmp_path / "other.csv"
    )
    short = pd.read_csv(locate(base, "record_list")).iloc[1:]
    short.to_csv(tmp_path / "records.csv", index=False)
    assert "is missing; give the record list" in told(
        "--predictions", predictions, "--record-list", tmp_path / "records.csv"
    )
    assert sorted(locate(base, "eval").iterdir()) == before
    run_script(ANY, "--base-dir", base, "--predictions", tmp_path / "none.csv", exit_code=1)


@pytest.mark.parametrize(
    "option, told",
    [
        ("--threshold-rule=best", "neither f1 nor youden"),
        ("--bootstrap=-1", "an integer from 0"),
        ("--bootstrap=1", "at least 2"),
        ("--min-positive-patients=0", "an integer from 1"),
    ],
)
def test_wrong_usage(option, told, capsys):
    with pytest.raises(SystemExit) as stopped:
        load_parser(ANY).parse_args([option])
    assert stopped.value.code == 2 and told in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, told",
    [
        ("--operating-points m.csv --sensitivity 0.9,0.95", "--sensitivity: not allowed with argument --operating"),
        ("--operating-points m.csv --specificity 0.5", "--specificity: not allowed with argument --operating"),
        ("--set valid --valid-predictions v.csv", "--valid-predictions: not allowed with --set valid"),
    ],
)
def test_options_that_would_be_ignored_are_wrong_usage(options, told, capsys):
    parser = load_parser(ANY)
    check = refuse_contradictions(parser)
    check(parser.parse_args(["--operating-points", "m.csv"]))
    with pytest.raises(SystemExit) as stopped:
        check(parser.parse_args(options.split()))
    assert stopped.value.code == 2 and told in capsys.readouterr().err


def test_trust_checkpoint_is_the_one_door(evaluated, capsys, tmp_path):
    base, _ = evaluated
    write_checkpoint(tmp_path / "unusual.pt")
    content = torch.load(tmp_path / "unusual.pt", weights_only=True)
    torch.save({**content, "args": argparse.Namespace(lr=1e-6)}, tmp_path / "unusual.pt")
    arguments = ["--base-dir", base, "--model-path", tmp_path / "unusual.pt", "--out", tmp_path, "--bootstrap", 0]
    told = evaluate(capsys, ANY, *arguments, exit_code=1)
    assert "argparse.Namespace" in told and "--trust-checkpoint" in told
    with pytest.warns(UserWarning, match="trusted"):
        evaluate(capsys, ANY, *arguments, "--max-samples", 4, "--trust-checkpoint")

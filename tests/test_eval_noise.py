"""Evaluation under noise: the table against scikit-learn and plain loops, resuming, comparing, and what is refused."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from ecg_evaluation import noise_options, noise_stage
from ecg_evaluation.noise_report import TITLES
from ecg_evaluation.noise_stage import Condition, NoisyRecords, conditions_of
from ecg_evaluation.prediction import RecordDataset
from evaluation_world import make_world, write_checkpoint
from sklearn.metrics import average_precision_score, roc_auc_score

from ecg_finetune import noise
from ecg_finetune.documents import load_parser
from ecg_finetune.ecg_fm import load_classifier
from ecg_finetune.label_set import LABELS
from ecg_finetune.noise import NoiseSource
from ecg_finetune.paths import locate
from ecg_finetune.waveform import RECORD_SAMPLES

SCRIPT = "eval/scripts/eval_noise.py"
FEW = ("--kinds", "muscle,white,inversion", "--snr", "12,-6", "--batch-size", 16, "--num-workers", 0)
CONDITIONS = [
    ("clean", None), ("muscle", 12), ("muscle", -6), ("white", 12), ("white", -6), ("inversion", None),
]  # fmt: skip


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, run_script):
    """Return a base folder with one finished run, and the process that made it."""
    base = make_world(tmp_path_factory.mktemp("noise"))
    return base, run_script(SCRIPT, "--base-dir", base, "--bootstrap", 40, *FEW)


@pytest.fixture
def world(evaluated, tmp_path):
    """Return a copy of the base folder that a test may change."""
    return shutil.copytree(evaluated[0], tmp_path / "base", symlinks=True)


def tables(base):
    return sorted(locate(base, "eval").glob("noise_*.csv"))


def predictions(base):
    (folder,) = (path for path in locate(base, "eval").glob("noise_*") if path.is_dir())
    return folder


def test_options_name_what_the_noise_module_has():
    assert noise.NOISES == noise_options.NOISES and tuple(noise.EFFECTS) == noise_options.EFFECTS
    assert set(TITLES) == {"clean", *noise.KINDS}
    defaults = load_parser(SCRIPT).parse_args([])
    assert len(conditions_of(defaults.kinds, defaults.snr)) == 44


def test_every_condition_has_a_row_per_label(evaluated):
    base, process = evaluated
    table = pd.read_csv(tables(base)[0])
    assert list(table.columns[:3]) == ["kind", "snr", "label"]
    assert list(table["label"]) == [*LABELS, "__macro__", "__micro__"] * len(CONDITIONS)
    found = table[table["label"] == LABELS[0]][["kind", "snr"]].astype(object)
    assert [(kind, None if np.isnan(snr) else snr) for kind, snr in found.to_numpy()] == CONDITIONS
    assert "macro AUROC" in process.stdout and process.stdout.splitlines()[-1].endswith(".html")
    page = tables(base)[0].with_suffix(".html").read_text()
    assert "http" not in page.split("</style>")[1] and page.count("<svg") == 2 * 18  # no label, but one that never is
    told = json.loads(tables(base)[0].with_suffix(".json").read_text())
    assert (
        told["stage"] == "eval_noise" and told["settings"]["--snr"] == "12,-6" and "synthetic" in str(told["settings"])
    )


def network_on(model, lead):
    """Return what a network says of a record, segment by segment: (17,)."""
    with torch.inference_mode():
        halves = [torch.from_numpy(half.copy())[None].expand(12, -1)[None] for half in lead.reshape(2, -1)]
        one, other = (torch.sigmoid(model(half).double())[0].numpy() for half in halves)
    from ecg_finetune.label_set import COMBINED_BY_MAX

    return np.where(np.isin(LABELS, COMBINED_BY_MAX), np.maximum(one, other), (one + other) / 2)


def test_numbers_are_those_of_a_plain_loop_and_scikit_learn(evaluated):
    base, _ = evaluated
    table = pd.read_csv(tables(base)[0]).set_index(["kind", "label"])
    truth = pd.read_csv(locate(base, "test_labels")).set_index("idx")
    records = RecordDataset(locate(base, "test"), truth.index.to_numpy())
    model = load_classifier(locate(base, "checkpoint_best"))
    upside_down = np.stack([network_on(model, -records[i][0].reshape(-1)) for i in range(len(records))])
    written = np.load(predictions(base) / "inversion.npy")
    np.testing.assert_allclose(written, upside_down, atol=1e-6)
    clean = np.load(predictions(base) / "clean.npy")
    for column in (1, 6, 15):
        name = LABELS[column]
        row = table.loc[("inversion", name)]
        assert row["auroc"] == pytest.approx(roc_auc_score(truth[name], written[:, column]), abs=1e-9)
        assert row["auprc"] == pytest.approx(average_precision_score(truth[name], written[:, column]), abs=1e-9)
        change = row["auroc"] - roc_auc_score(truth[name], clean[:, column])
        assert row["auroc_change"] == pytest.approx(change, abs=1e-9)
        assert row["auroc_low"] <= row["auroc"] <= row["auroc_high"]
        assert row["auroc_change_low"] <= change <= row["auroc_change_high"]
    of_clean = table.loc["clean"]
    assert (of_clean["auroc_change"].dropna() == 0).all() and (of_clean["auroc_change_high"].dropna() == 0).all()


def test_intervals_of_changes_are_paired(world, call_script):
    """Noise of 40 dB changes next to nothing in the same patients: that is known far better than either AUROC."""
    call_script(SCRIPT, "--base-dir", world, "--bootstrap", 40, "--kinds", "white", "--snr", "40", "--num-workers", 0)
    table = pd.read_csv(tables(world)[-1]).set_index(["kind", "label"])
    row = table.loc[("white", "__macro__")]
    assert 0 < row["auroc_change_high"] - row["auroc_change_low"] < (row["auroc_high"] - row["auroc_low"]) / 3


def test_the_study_decides_the_noise_and_not_which_others_are_there(evaluated):
    base, _ = evaluated
    studies = pd.read_csv(locate(base, "test_labels"))["idx"].to_numpy()
    source = NoiseSource.open(None, "test")
    condition = Condition("muscle", 6.0)
    all_of_them = NoisyRecords(RecordDataset(locate(base, "test"), studies), condition, source, 1, None)
    some = NoisyRecords(RecordDataset(locate(base, "test"), studies[7:9]), condition, source, 1, None)
    np.testing.assert_array_equal(all_of_them[8][0], some[1][0])
    other_seed = NoisyRecords(RecordDataset(locate(base, "test"), studies[7:9]), condition, source, 2, None)
    assert not np.allclose(some[1][0], other_seed[1][0])
    noisy = some[1][0].reshape(RECORD_SAMPLES)
    assert abs(noisy.mean()) < 1e-5 and abs(noisy.std() - 1) < 1e-5


def test_devices_act_on_the_millivolts_of_the_report(evaluated):
    base, _ = evaluated
    studies = pd.read_csv(locate(base, "test_labels"))["idx"].to_numpy()[:1]
    scale = pd.DataFrame({"mean_mv": 4.9, "std_mv": 0.25}, index=studies)
    records = RecordDataset(locate(base, "test"), studies)
    clipped = NoisyRecords(records, Condition("clipping"), NoiseSource.open(None, "test"), 1, scale)[0][0]
    cut = np.minimum(records[0][0].reshape(-1) * 0.25 + 4.9, 5)
    np.testing.assert_allclose(clipped.reshape(-1), (cut - cut.mean()) / cut.std(), atol=1e-4)


def test_a_run_that_was_stopped_predicts_only_what_is_missing(world, call_script, monkeypatch):
    folder = predictions(world)
    (folder / "white_-6_dB.npy").unlink()
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npy")}
    ran = []
    real = noise_stage.predict
    monkeypatch.setattr(noise_stage, "predict", lambda *a, **k: ran.append(k["unit"]) or real(*a, **k))
    output = call_script(SCRIPT, "--base-dir", world, "--bootstrap", 40, *FEW)
    assert ran == ["records, white -6 dB"] and "5 of 6 conditions are there already" in output.out
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npy")}.items() > before.items()
    one, again = (pd.read_csv(path) for path in tables(world))
    pd.testing.assert_frame_equal(one, again)
    ran.clear()
    call_script(SCRIPT, "--base-dir", world, "--bootstrap", 0, *FEW, "--seed", 7)
    assert len(ran) == 6  # other noise
    with pytest.raises(AssertionError):
        pd.testing.assert_frame_equal(one, pd.read_csv(tables(world)[-1]))


def test_another_network_meets_the_same_noise(world, call_script):
    other = world / "other" / "checkpoint_best.pt"
    write_checkpoint(other, seed=5)
    call_script(SCRIPT, "--base-dir", world, "--bootstrap", 40, *FEW, "--compare", other)
    table = pd.read_csv(tables(world)[-1])
    call_script(SCRIPT, "--base-dir", world, "--bootstrap", 40, *FEW, "--model-path", other)
    alone = pd.read_csv(tables(world)[-1])
    np.testing.assert_allclose(table["auroc_other"], alone["auroc"])
    np.testing.assert_allclose(table["auroc_other_change"], alone["auroc_change"])
    labels = ~table["label"].str.startswith("__")
    np.testing.assert_allclose(table["auroc_difference"][labels], (table["auroc"] - table["auroc_other"])[labels])
    assert table["auroc_difference_low"].notna().any()
    page = sorted(locate(world, "eval").glob("noise_*.html"))[-2].read_text()
    assert str(other) in page and "AUROC difference" in page
    output = call_script(SCRIPT, "--base-dir", world, "--compare", locate(world, "checkpoint_best"), exit_code=1)
    assert "the same network" in output.err


def test_damaged_predictions_and_noise_are_one_line(world, call_script, tmp_path):
    file = predictions(world) / "clean.npy"
    for content in (np.zeros((3, 17)), np.load(file)[::-1]):  # of another shape, and in another order
        np.save(file, content)
        told = call_script(SCRIPT, "--base-dir", world, *FEW, exit_code=1)
        assert f"error: {file}: changed since it was written" in told.err
    told = call_script(SCRIPT, "--base-dir", world, *FEW, "--noise-root", tmp_path / "none", exit_code=1)
    assert "no such folder" in told.err


def test_recorded_noise_gives_other_numbers_than_synthetic(world, call_script, test_data):
    call_script(SCRIPT, "--base-dir", world, "--bootstrap", 0, *FEW, "--noise-root", test_data / "noise")
    table = [pd.read_csv(path).set_index(["kind", "snr", "label"])["auroc"] for path in tables(world)]
    assert (table[0]["white"].dropna() == table[1]["white"].dropna()).all()
    assert (table[0]["muscle"].dropna() != table[1]["muscle"].dropna()).any()
    told = json.loads(sorted(locate(world, "eval").glob("noise_*.json"))[-1].read_text())
    assert set(told["settings"]["noise"]) == {"BW.mat", "EM.mat", "MA.mat"}


@pytest.mark.parametrize(
    "options", [("--kinds", "hum"), ("--kinds", "muscle,muscle"), ("--snr", "99"), ("--snr", "6,"), ("--kinds", "")]
)
def test_bad_values_are_wrong_usage(options, capsys):
    with pytest.raises(SystemExit) as end:
        load_parser(SCRIPT).parse_args([*options])
    assert end.value.code == 2 and f"argument {options[0]}: " in capsys.readouterr().err

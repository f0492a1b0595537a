"""Inference against a plain loop: which files, which segments, how they are combined."""

import numpy as np
import pytest
import torch
from ecg_evaluation.inputs import read_test_set, read_valid_set
from ecg_evaluation.prediction import RecordDataset, combine_segments, load_model, predict, valid_segments
from evaluation_world import make_world, write_checkpoint
from scipy.io import loadmat

from ecg_finetune.ecg_fm import load_classifier
from ecg_finetune.files import UserError
from ecg_finetune.label_set import ECG_FM
from ecg_finetune.matfile import write_mat
from ecg_finetune.paths import locate
from ecg_finetune.segments import read_lead
from ecg_finetune.studies import save_file_name
from ecg_finetune.waveform import RECORD_SAMPLES

MAX = (0, 2, 4, 5, 16)  # the places of the labels for which ECG-FM takes the maximum over the segments


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"), test_records=12, valid_records=10)


def by_hand(base, mats: list) -> np.ndarray:
    """Return the probabilities of 10 s records (their two halves combined), one file at a time."""
    model = load_classifier(locate(base, "checkpoint_best"))
    result = []
    for feats in mats:
        halves = torch.from_numpy(np.stack((feats[:, :2500], feats[:, 2500:])))
        with torch.no_grad():
            segments = torch.sigmoid(model(halves)).numpy()
        record = segments.mean(axis=0)
        record[list(MAX)] = segments.max(axis=0)[list(MAX)]
        result.append(record)
    return np.array(result)


@pytest.mark.parametrize("workers", [0, 2])
def test_test_records_equal_a_plain_loop(world, workers):
    model, _ = load_model(locate(world, "checkpoint_best"), ECG_FM, device="cpu", precision="float32", trust=False)
    test = read_test_set(locate(world, "test"), None)
    data = RecordDataset(locate(world, "test"), test.study_id)
    study, ours = predict(model, data, ECG_FM, batch_size=5, num_workers=workers, unit="records")
    np.testing.assert_array_equal(study, test.study_id)
    mats = [loadmat(locate(world, "test_mats") / save_file_name(study))["feats"] for study in study]
    np.testing.assert_allclose(ours, by_hand(world, mats), atol=1e-6)
    assert ours.std(axis=0).min() > 1e-4  # the records do differ, else the order would not be tested


def test_valid_segments_equal_a_plain_loop_and_meet_their_labels(world):
    model, _ = load_model(locate(world, "checkpoint_best"), ECG_FM, device="cpu", precision="float32", trust=False)
    data = valid_segments(locate(world, "manifests"), None)
    study, ours = predict(model, data, ECG_FM, batch_size=7, num_workers=0, unit="segments")
    assert len(study) == 10
    folder = locate(world, "segments")
    files = [[loadmat(folder / f"mimic_iv_ecg_{s}_{half}.mat") for half in (0, 1)] for s in study]
    mats = [np.concatenate([file["feats"] for file in pair], axis=1) for pair in files]
    np.testing.assert_allclose(ours, by_hand(world, mats), atol=1e-6)
    y = np.load(locate(world, "manifests") / "y.npy")
    expected = np.array([y[pair[0]["idx"].item()] for pair in files])
    np.testing.assert_array_equal(read_valid_set(locate(world, "manifests"), study, "valid").truth, expected)


def test_max_samples_takes_whole_records(world):
    data = valid_segments(locate(world, "manifests"), 3)
    studies = [data[i][1].item() for i in range(len(data))]
    assert len(studies) == 6 and len(set(studies)) == 3


def test_bf16_is_close_to_float32(world):
    data = RecordDataset(locate(world, "test"), read_test_set(locate(world, "test"), None).study_id)
    results = []
    for precision in ("float32", "bf16"):
        model, described = load_model(
            locate(world, "checkpoint_best"), ECG_FM, device="cpu", precision=precision, trust=False
        )
        assert {"float32": "float32", "bf16": "bfloat16"}[precision] in described
        results.append(predict(model, data, ECG_FM, batch_size=5, num_workers=0, unit="records")[1])
    difference = np.abs(results[0] - results[1]).max()
    assert 0 < difference < 0.05


def test_combination_by_label():
    segments = np.array([np.full(17, 0.2), np.full(17, 0.9), np.full(17, 0.4)])
    study, combined = combine_segments(np.array([8, 3, 8]), segments, ECG_FM)
    assert study.tolist() == [8, 3]
    np.testing.assert_allclose(combined[1], 0.9)
    np.testing.assert_allclose(combined[0, list(MAX)], 0.4)
    np.testing.assert_allclose(np.delete(combined[0], MAX), 0.3)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_record_is_named_in_one_line(tmp_path, workers):
    base = make_world(tmp_path, test_records=4, valid_records=2)
    test = read_test_set(locate(base, "test"), None)
    path = locate(base, "test_mats") / save_file_name(test.study_id[2])
    feats = loadmat(path)["feats"]
    feats[:, 17] = np.nan
    write_mat(path, {"feats": feats, "curr_sample_rate": 500})
    model, _ = load_model(locate(base, "checkpoint_best"), ECG_FM, device="cpu", precision="float32", trust=False)
    with pytest.raises(UserError, match=f"{path.name}: feats holds NaN") as raised:
        data = RecordDataset(locate(base, "test"), test.study_id)
        predict(model, data, ECG_FM, batch_size=2, num_workers=workers, unit="records")
    assert "\n" not in str(raised.value)


def test_records_of_another_shape_rate_or_content_are_refused(tmp_path):
    good = np.zeros((12, 5000), np.float32)
    different = good.copy()
    different[3] = 1
    for content, told in (
        ({"feats": good[:, :2500], "curr_sample_rate": 500}, r"feats of shape \(12, 2500\)"),
        ({"other": good}, "no usable feats"),
        ({"feats": good, "curr_sample_rate": 250}, "sampled at 250 Hz"),
        ({"feats": different, "curr_sample_rate": 500}, "the rows of feats differ"),
    ):
        write_mat(tmp_path / "x.mat", content)
        with pytest.raises(UserError, match=told):
            read_lead(tmp_path / "x.mat", RECORD_SAMPLES)


def test_a_checkpoint_of_other_labels_is_refused(tmp_path):
    write_checkpoint(tmp_path / "five.pt", num_labels=5)
    with pytest.raises(UserError, match="a classifier of 5 labels, but the test set has 17"):
        load_model(tmp_path / "five.pt", ECG_FM, device="cpu", precision="float32", trust=False)


def test_genuine_checkpoint(test_data, world):
    model, described = load_model(
        test_data / "checkpoints" / "tiny1_finetuned.pt", ECG_FM, device="cpu", precision="float32", trust=False
    )
    data = RecordDataset(locate(world, "test"), read_test_set(locate(world, "test"), None).study_id)
    _, probabilities = predict(model, data, ECG_FM, batch_size=8, num_workers=0, unit="records")
    assert "parameters" in described
    assert probabilities.shape == (12, 17) and ((probabilities > 0) & (probabilities < 1)).all()

"""--augment wearable: decided by (seed, epoch, segment) alone, on train segments alone, and recorded."""

import json
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from ecg_training.augmentation import AugmentedData, AugmentedSegments, Augmenter, recorded
from ecg_training.settings import Augmentation
from ecg_training.training_data import TrainingData
from finetune_world import SCRIPT, make_manifests, tiny_run

from ecg_finetune.batch import loader_workers
from ecg_finetune.checkpoint import load_checkpoint
from ecg_finetune.noise import NoiseSource, qrs_amplitude

ALWAYS = Augmentation(noise=1.0, effects=0.5)


@pytest.fixture(scope="module")
def source():
    return NoiseSource.open(None, "train")


@pytest.fixture(scope="module")
def leads():
    """Return segments of noisy beats, float32 (40, 2500)."""
    rng = np.random.default_rng(0)
    t = np.arange(2500) / 500
    rates = rng.uniform(50, 150, (40, 1))
    beats = np.exp(-((((t * rates / 60) % 1 - 0.5) * 60 / rates / 0.02) ** 2))
    beats += 0.02 * rng.standard_normal((40, 2500))
    return torch.from_numpy(((beats - beats.mean(1, keepdims=True)) / beats.std(1, keepdims=True)).astype(np.float32))


def epoch_of(leads, source, workers=0, epoch=0, seed=1, rows=((0, 1, 2), (39, 5), (7,)), augmentation=ALWAYS):
    data = AugmentedData(leads, leads[:, :2], "cpu", Augmenter(augmentation, source), seed=seed, workers=workers)
    with loader_workers():
        return list(data.batches([np.array(batch) for batch in rows], epoch))


def test_segments_are_the_same_for_any_number_of_workers_batches_and_orders(leads, source):
    one = epoch_of(leads, source)
    for workers in (1, 2):
        for batch, same in zip(one, epoch_of(leads, source, workers), strict=True):
            assert torch.equal(batch[0], same[0]) and torch.equal(batch[1], same[1])
    (other_order,) = epoch_of(leads, source, rows=[(7, 5, 39, 2, 1, 0)])
    assert torch.equal(torch.cat([batch[0] for batch in one])[[5, 4, 3, 2, 1, 0]], other_order[0])
    assert torch.equal(one[0][1], leads[:3, :2])  # targets as they were


def test_workers_that_are_not_forked_map_the_leads_anew(leads, source, tmp_path):
    np.save(tmp_path / "leads.npy", np.concatenate((leads, -leads)))
    segments = AugmentedSegments(leads, leads[:, :2], Augmenter(ALWAYS, source), 1, 0, tmp_path / "leads.npy")
    content = pickle.dumps(segments)
    plain = len(pickle.dumps(AugmentedSegments(leads, leads[:, :2], Augmenter(ALWAYS, source), 1, 0)))
    assert plain - len(content) > 0.99 * leads.numpy().nbytes
    there = pickle.loads(content)
    assert len(there) == len(leads)
    for i in (0, 39):
        np.testing.assert_array_equal(there[i][0], segments[i][0])


def test_seed_epoch_and_segment_decide(leads, source):
    (first, _), *_ = epoch_of(leads, source)
    assert not torch.equal(first, epoch_of(leads, source, epoch=1)[0][0])
    assert not torch.equal(first, epoch_of(leads, source, seed=2)[0][0])
    same = leads[:1].expand(3, -1).contiguous()
    (drawn, _), *_ = epoch_of(same, source, rows=[(0, 1, 2)])
    assert not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[1], drawn[2])


def test_mean_and_deviation_of_a_segment_stay(leads, source):
    """They tell how it lies in its 10 s, which were standardised as a whole."""
    shifted = 0.7 * leads + 0.2
    for drawn, _ in epoch_of(shifted, source):
        assert torch.allclose(drawn.mean(1), torch.tensor(0.2), atol=1e-4)
        assert torch.allclose(drawn.std(1), torch.tensor(0.7), atol=1e-3) and drawn.isfinite().all()


def test_probabilities_and_ranges_are_kept(leads, source):
    untouched = AugmentedSegments(leads, leads, Augmenter(Augmentation(0.0, 0.0), source), 1, 0)
    assert all(np.abs(untouched[i][0] - leads[i].numpy()).max() < 1e-5 for i in range(40))
    changed = []
    for epoch in range(10):
        some = AugmentedSegments(leads, leads, Augmenter(Augmentation(0.3, 0.0), source), 1, epoch)
        changed += [np.abs(some[i][0] - leads[i].numpy()).max() > 1e-3 for i in range(40)]
    assert 0.22 < np.mean(changed) < 0.38  # of 400 at 0.3: within 3.5 standard errors

    weak = AugmentedSegments(leads, leads, Augmenter(Augmentation(1.0, 0.0, (40.0, 60.0)), source), 1, 0)
    strong = AugmentedSegments(leads, leads, Augmenter(Augmentation(1.0, 0.0, (-20.0, -10.0)), source), 1, 0)
    for i in range(10):
        correlations = [np.corrcoef(data[i][0], leads[i])[0, 1] for data in (weak, strong)]
        assert correlations[0] > 0.98 and correlations[1] < 0.6
    effects = AugmentedSegments(leads, leads, Augmenter(Augmentation(0.0, 1.0), source), 1, 0)
    assert np.corrcoef(effects[3][0], leads[3])[0, 1] < 0  # turned upside down, among the rest


def test_a_flat_segment_stays_flat(source):
    flat = torch.full((2, 2500), 0.3)
    (drawn, _), *_ = epoch_of(flat, source, rows=[(0, 1)])
    assert torch.equal(drawn, flat) and qrs_amplitude(flat[0].numpy()) == 0


def test_a_run_augments_train_and_not_valid_and_is_recorded(tmp_path, call_script, test_data, monkeypatch):
    manifests = make_manifests(tmp_path / "build")
    validated = []
    real = TrainingData.batch
    monkeypatch.setattr(TrainingData, "batch", lambda data, rows: validated.append(type(data)) or real(data, rows))
    options = ("--augment", "wearable", "--augment-noise", "0.8", "--noise-root", test_data / "noise", "--epochs", 2)
    call_script(SCRIPT, *tiny_run(manifests, tmp_path / "run", *options))
    assert set(validated) == {TrainingData}  # the train split came through its own batches
    told = json.loads((tmp_path / "run" / "settings.json").read_text())["settings"]["augment"]
    assert (told["noise"], told["effects"], told["snr"]) == (0.8, 0.1, [-6.0, 24.0])
    assert set(told["source"]) == {"BW.mat", "EM.mat", "MA.mat"}
    call_script(SCRIPT, *tiny_run(manifests, tmp_path / "plain", "--epochs", 2))
    logs = [pd.read_csv(tmp_path / name / "training_log.csv") for name in ("run", "plain")]
    assert logs[0]["train_loss"][0] != logs[1]["train_loss"][0]
    assert json.loads((tmp_path / "plain" / "settings.json").read_text())["settings"]["augment"] is None
    # Other noise is another run.
    told = call_script(
        SCRIPT, *tiny_run(manifests, tmp_path / "run", "--augment", "wearable", "--epochs", 2), exit_code=1
    )
    assert "was filled with" in told.err and "augment" in told.err


def test_weights_are_the_same_for_any_number_of_workers(tmp_path, call_script):
    manifests, weights = make_manifests(tmp_path / "build"), []
    for workers in (1, 2):
        run = tiny_run(manifests, tmp_path / f"run{workers}", "--augment", "wearable", "--epochs", 1)
        run[run.index("--workers") + 1] = workers
        call_script(SCRIPT, *run)
        weights.append(load_checkpoint(tmp_path / f"run{workers}" / "checkpoint_best.pt")["model"])
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_what_decides_an_augmentation_is_its_settings_and_its_noise(test_data):
    one, other = (recorded(Augmentation(noise_root=root)) for root in (None, test_data / "noise"))
    assert {**one, "source": 0} == {**other, "source": 0} and one["source"] != other["source"]
    assert recorded(None) is None and json.loads(json.dumps(one)) == one


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--augment-noise", "0.5"), "--augment-noise is for --augment wearable"),
        (("--noise-root", "."), "--noise-root is for --augment wearable"),
        (("--augment", "wearable", "--noise-root", "nowhere"), "no such folder"),
    ],
)
def test_options_that_do_not_go_together_are_told(options, told, tmp_path, call_script):
    manifests = make_manifests(tmp_path / "build")
    assert told in call_script(SCRIPT, *tiny_run(manifests, tmp_path / "run", *options), exit_code=1).err
    assert not (tmp_path / "run").exists()

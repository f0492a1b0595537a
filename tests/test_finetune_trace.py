"""The torch engine against a recorded fine-tuning run of fairseq-signals, and its checkpoint against a genuine one."""

import copy
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from ecg_training.fairseq_checkpoint import fairseq_checkpoint, fairseq_config
from ecg_training.trainer import Position, Trainer
from ecg_training.training_data import TrainingData
from finetune_world import some_settings

from ecg_finetune.checkpoint import load_checkpoint, save_checkpoint, strip_validation
from ecg_finetune.ecg_fm import Architecture, EcgClassifier, load_classifier, parse_conv_layers

CPU = torch.device("cpu")
SETTINGS = some_settings(epochs=3, lr=5e-4, batch_size=16)


@pytest.fixture(scope="module")
def genuine(test_data):
    return load_checkpoint(test_data / "checkpoints" / "tiny1_finetuned.pt")


@pytest.fixture(scope="module")
def trace(test_data):
    return dict(np.load(test_data / "checkpoints" / "training_trace.npz"))


@pytest.fixture
def trainer(test_data, genuine, trace):
    """Return a trainer at the recorded run's starting point: its settings, no dropout."""
    model = EcgClassifier(Architecture.from_config(genuine["cfg"]["model"], activation_dropout=0.0))
    model.load_state_dict(load_checkpoint(test_data / "checkpoints" / "training_trace_init_state.pt"))
    return Trainer(model, trace["pos_weight"], SETTINGS, CPU)


def follow(trainer, trace):
    """Feed the recorded batches; return the logged loss of every update and the validation of every epoch."""
    leads, labels = torch.from_numpy(trace["train_lead"]), torch.from_numpy(trace["train_labels"])
    valid_set = TrainingData(torch.from_numpy(trace["valid_lead"]), torch.from_numpy(trace["valid_labels"]))
    losses, validations = [], []
    for number, batch in enumerate(trace["batches"], start=1):
        parts = np.array_split(batch, trainer.settings.accumulate)
        sizes = [len(part) for part in parts]
        total, _ = trainer.update(iter([(leads[part], labels[part]) for part in parts]), sizes)
        losses.append(total.item() / labels[batch].numel() / math.log(2))
        if number % 4 == 0:
            validations.append(trainer.validate(valid_set))
    return losses, validations


def test_every_loss_is_the_recorded_one_to_all_its_decimals(trainer, trace):
    losses, validations = follow(trainer, trace)
    # The record has 3 decimals; half of the last one, and a little for another machine's rounding.
    np.testing.assert_allclose(losses, trace["train_loss"], rtol=0, atol=7e-4)
    np.testing.assert_allclose([v["valid_loss"] for v in validations], trace["valid_loss"], rtol=0, atol=7e-4)
    np.testing.assert_allclose([v["auroc"] for v in validations], trace["valid_auroc"], rtol=0, atol=1e-4)
    np.testing.assert_allclose([v["auprc"] for v in validations], trace["valid_auprc"], rtol=0, atol=1e-4)


def test_accumulated_parts_give_the_same_update(trainer, trace, test_data):
    whole, _ = follow(trainer, trace)
    model = EcgClassifier(trainer.model.architecture)
    model.load_state_dict(load_checkpoint(test_data / "checkpoints" / "training_trace_init_state.pt"))
    parted = Trainer(model, trace["pos_weight"], dataclasses.replace(SETTINGS, accumulate=3), CPU)
    np.testing.assert_allclose(follow(parted, trace)[0], whole, rtol=0, atol=1e-4)


def test_the_convolutions_stay_as_they_were_and_all_else_moves(trainer, trace):
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    follow(trainer, trace)
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[name]) == ("feature_extractor" in name), name


def test_the_configuration_of_a_checkpoint_is_the_genuine_one(genuine):
    """Every section, key and value, for a run with the settings of the genuine one."""
    expected = copy.deepcopy(genuine["cfg"])
    del expected["job_logging_cfg"]
    settings = some_settings(
        manifests=Path("/data/manifests"),
        output=Path("/data/out"),
        pretrained=Path("/data/pretrained.pt"),
        epochs=expected["optimization"]["max_epoch"],
        max_update=expected["optimization"]["max_update"],
        lr=expected["optimization"]["lr"][0],
        batch_size=expected["dataset"]["batch_size"],
        workers=expected["dataset"]["num_workers"],
    )
    architecture = Architecture.from_config(expected["model"])
    config = fairseq_config(architecture, settings, expected["criterion"]["pos_weight"])
    # Paths were removed from the genuine file.
    expected["model"] |= {"data": "/data/manifests", "model_path": "/data/pretrained.pt"}
    expected["task"] |= {"data": "/data/manifests", "label_file": "/data/manifests/y.npy"}
    # Above 0 it makes second copies of the best checkpoint.
    expected["checkpoint"] |= {"save_dir": "/data/out", "keep_best_checkpoints": 0}
    layers = [parse_conv_layers(part["model"].pop("conv_feature_layers")) for part in (config, expected)]
    assert layers[0] == layers[1] and config == expected


def test_the_configuration_tells_parts_and_limits_of_a_run():
    settings = some_settings(batch_size=256, accumulate=8, max_update=9000, patience=4, seed=3)
    config = fairseq_config(Architecture(), settings, [1.0])
    assert (config["dataset"]["batch_size"], config["dataset"]["batch_size_valid"]) == (32, 32)
    assert (config["optimization"]["update_freq"], config["optimization"]["max_update"]) == ([8], 9000)
    assert (config["checkpoint"]["patience"], config["common"]["seed"]) == (4, 3)
    assert config["model"]["model_path"] is None and config["model"]["no_pretrained_weights"]
    config = fairseq_config(Architecture(), some_settings(), [1.0])
    assert (config["optimization"]["max_update"], config["checkpoint"]["patience"]) == (0, -1)  # no limits


def test_the_checkpoint_has_every_part_of_a_genuine_one(trainer, genuine, tmp_path):
    history = [{"seconds": 2.0}]
    position = Position(epoch=1, updates=4, best_loss=1.854, best_epoch=1, history=history)
    content = fairseq_checkpoint(trainer.model, trainer.settings, position, [1.5] * 17, "0" * 64)
    assert list(content) == list(genuine)
    assert {name: value.shape for name, value in content["model"].items()} == {
        name: value.shape for name, value in genuine["model"].items()
    }
    assert set(content["extra_state"]) == {*genuine["extra_state"], "training_records_sha256", "labels", "combine"}
    ours, theirs = (part["optimizer_history"][0] for part in (content, genuine))
    assert {key: type(value) for key, value in ours.items()} == {key: type(value) for key, value in theirs.items()}
    assert strip_validation(content)[1] == []
    save_checkpoint(tmp_path / "ours.pt", content)
    source = torch.randn(2, 12, 2500)
    with torch.inference_mode():
        logits = load_classifier(tmp_path / "ours.pt")(source)
        assert torch.equal(logits, trainer.model.eval()(source))
    # Plain types only: PyTorch's own safe loading reads it with no allow-list, and so does any fairseq-signals.
    assert torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / "ours.pt") == []

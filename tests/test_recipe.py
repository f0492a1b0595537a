"""Recipes: schedule, warm-up, layer decay, weight decay, freezing, drop path, input, sweeps, event files."""

import copy
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from ecg_training.recipe import depth_of, features_of, freeze, optimizer_of, rate_factor, set_drop_path
from ecg_training.torch_engine import TINY
from ecg_training.training_data import TrainingData
from finetune_world import SAMPLES, SCRIPT, make_manifests, small_trainer, some_settings, tiny_run, write_pretrained
from hypothesis import given
from hypothesis import strategies as st

from ecg_finetune.checkpoint import load_checkpoint
from ecg_finetune.ecg_fm import EcgClassifier, load_classifier
from ecg_finetune.segments import expand_lead

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    return make_manifests(tmp_path_factory.mktemp("build"))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    return write_pretrained(tmp_path_factory.mktemp("pretrained") / "tiny.pt")


@pytest.fixture
def main(call_script):
    return lambda *options, **expected: call_script(SCRIPT, *options, **expected)


def batch(count=6, seed=0):
    torch.manual_seed(seed)
    return torch.randn(count, SAMPLES), (torch.rand(count, 17) < 0.5).float()


# The learning rate


@given(warmup=st.integers(0, 30), updates=st.integers(1, 100), cosine=st.booleans())
def test_the_rate_rises_and_then_stays_or_falls_along_a_cosine(warmup, updates, cosine):
    settings = some_settings(schedule="cosine" if cosine else "constant", warmup=warmup)
    factors = [rate_factor(settings, update, updates) for update in range(1, updates + 1)]
    rising, rest = factors[:warmup], factors[warmup:]
    assert rising == [update / warmup for update in range(1, len(rising) + 1)]
    assert all(0 < factor <= 1 for factor in factors)
    if rest and cosine:
        expected = [(1 + math.cos(math.pi * k / len(rest))) / 2 for k in range(len(rest))]
        np.testing.assert_allclose(rest, expected, atol=1e-12)
    elif rest:
        assert set(rest) == {1.0}


def test_cosine_and_warmup_are_those_of_pytorch_over_a_whole_run():
    trainer = small_trainer(schedule="cosine", warmup=3, lr=0.1)
    trainer.planned = 12
    plain = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    warm = torch.optim.lr_scheduler.LinearLR(plain, 1 / 3, 1.0, total_iters=2)
    then = torch.optim.lr_scheduler.CosineAnnealingLR(plain, T_max=9)
    schedule = torch.optim.lr_scheduler.SequentialLR(plain, [warm, then], milestones=[3])
    for _ in range(12):
        expected = plain.param_groups[0]["lr"]
        trainer.update(iter([batch(5)]), [5])
        assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-9)
        plain.step()
        schedule.step()


def test_each_layer_has_the_rate_of_the_one_above_times_the_decay():
    model = EcgClassifier(TINY)
    optimizer = optimizer_of(model, some_settings(lr=0.01, layer_decay=0.5), CPU)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    expected = {"proj": 0.01, "encoder.encoder.layers.1": 0.005, "encoder.encoder.layers.0": 0.0025}
    expected["encoder.encoder.layer_norm"] = 0.005  # in this network after the last layer
    for name, parameter in model.named_parameters():
        rate = next((rate for start, rate in expected.items() if name.startswith(start)), 0.00125)
        assert rates[id(parameter)] == pytest.approx(rate), name
    assert depth_of("encoder.encoder.layer_norm.weight", 12) == 13


def test_weight_decay_takes_off_its_share_of_all_parameters_as_fairseq_signals_does():
    """Decoupled: Adam's step is the same, and besides the weights lose learning rate x decay of what they were."""
    decayed, plain = (small_trainer(weight_decay=decay, lr=0.01) for decay in (0.1, 0.0))
    before = copy.deepcopy(plain.model.state_dict())
    for trainer in (decayed, plain):
        torch.manual_seed(1)
        trainer.update(iter([batch(5)]), [5])
    for (name, ours), other in zip(decayed.model.named_parameters(), plain.model.parameters(), strict=True):
        assert torch.allclose(ours - other, -0.01 * 0.1 * before[name], atol=1e-6), name


# What is trained


@pytest.mark.parametrize("norm_first", [True, False])
def test_frozen_layers_stay_and_the_rest_moves(norm_first):
    import dataclasses

    model = EcgClassifier(dataclasses.replace(TINY, layer_norm_first=norm_first))
    freeze(model, 1)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    own = {"proj.weight", "proj.bias"} | {n for n, _ in model.named_parameters() if "encoder.layers.1." in n}
    norm = {"encoder.encoder.layer_norm.weight", "encoder.encoder.layer_norm.bias"}
    assert trained == own | (norm if norm_first else set())


def test_a_linear_probe_is_the_head_trained_on_features_computed_once(
    manifests, pretrained, tmp_path, main, monkeypatch
):
    calls = []
    real = EcgClassifier.embed
    monkeypatch.setattr(EcgClassifier, "embed", lambda model, leads: calls.append(len(leads)) or real(model, leads))
    options = [
        "--pretrained",
        pretrained,
        "--engine",
        "torch",
        "--manifests",
        manifests,
        "--output-dir",
        tmp_path / "run",
    ]
    main(*options, "--batch-size", 5, "--epochs", 3, "--lr", "1e-2", "--device", "cpu", "--freeze-layers", "all")
    assert sum(calls) == 22 + 10  # train and valid segments, whatever the epochs
    before, after = (
        load_checkpoint(pretrained)["model"],
        load_checkpoint(tmp_path / "run" / "checkpoint_best.pt")["model"],
    )
    assert all(torch.equal(after[f"encoder.{name}"], value) for name, value in before.items())
    # The loss on record is that of the whole network with the head that was found.
    monkeypatch.undo()
    model = load_classifier(tmp_path / "run" / "checkpoint_best.pt")
    leads = torch.from_numpy(np.load(manifests / "leads.npy"))[22:]
    targets = torch.from_numpy(np.load(manifests / "y.npy"))[22:]
    with torch.no_grad():
        loss = torch.nn.BCEWithLogitsLoss(pos_weight=torch.full((17,), 1.5))(model(leads), targets).item() / math.log(2)
    log = pd.read_csv(tmp_path / "run" / "training_log.csv")
    assert log[log["best"] == 1]["valid_loss"].iloc[-1] == pytest.approx(loss, abs=1e-5)
    assert log["train_loss"].iloc[-1] < log["train_loss"].iloc[0]


def test_features_are_those_of_the_network_without_dropout():
    trainer = small_trainer()
    leads, targets = batch(7)
    found = features_of(trainer.model, TrainingData(leads, targets), trainer.autocast, 3, "segments")
    model = trainer.model.eval()
    with torch.no_grad():
        assert torch.allclose(model.proj(found.leads), model(leads), atol=1e-6)
    assert found.batch([6, 1])[0].shape == (2, TINY.encoder_embed_dim)


def test_branches_are_dropped_by_segment_and_scaled():
    model = EcgClassifier(TINY)
    set_drop_path(model, 0.4)
    layers = model.encoder.encoder.layers
    assert [layer.drop_path for layer in layers] == [0.0, 0.4]
    branch = torch.ones(2000, 3, 4)
    torch.manual_seed(0)
    kept = layers[1].train().kept(branch)
    assert kept.unique().tolist() == pytest.approx([0.0, 1 / 0.6])
    assert (kept == kept[:, :1, :1]).all() and abs(kept.mean().item() - 1) < 0.06
    assert layers[1].eval().kept(branch) is branch and layers[0].train().kept(branch) is branch


# How a lead enters


@pytest.mark.parametrize("channel", [None, 0, 7])
def test_a_lead_enters_as_many_channels_as_it_should(channel):
    model = EcgClassifier(TINY).eval()
    model.input_channel = channel
    leads, _ = batch(3)
    whole = expand_lead(leads, 12, channel)
    if channel is not None:
        others = [c for c in range(12) if c != channel]
        assert not whole[:, others].any() and torch.equal(whole[:, channel], leads)
    with torch.no_grad():
        assert torch.allclose(model(leads), model(whole), atol=1e-5)


@pytest.mark.parametrize(("lead", "channel"), [("I", 0), ("V2", 7)])
def test_zero_is_on_record_in_the_checkpoint_as_fairseq_signals_states_it(manifests, tmp_path, main, lead, channel):
    run = tiny_run(manifests, tmp_path / "run", "--input", "zero", "--lead", lead, "--max-update", 1)
    main(*run)
    path = tmp_path / "run" / "checkpoint_best.pt"
    task = load_checkpoint(path)["cfg"]["task"]
    assert (task["leads_to_load"], task["enable_padding_leads"]) == (f"[{channel}]", True)
    model = load_classifier(path)
    assert model.input_channel == channel
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["settings"]["input"] == "zero"
    # A start with another input is told.
    output = main(
        *tiny_run(manifests, tmp_path / "more", "--max-update", 1, "--engine", "torch")[3:], "--pretrained", path
    )
    assert "was fine-tuned with --input zero, this run has duplicate" in output.out
    assert load_classifier(tmp_path / "more" / "checkpoint_best.pt").input_channel is None


@pytest.mark.parametrize(
    ("task", "channel"),
    [
        ({"leads_to_load": "[0]", "enable_padding_leads": True}, 0),
        ({"leads_to_load": "['aVF']", "enable_padding_leads": True}, 5),
        ({"leads_to_load": "[11]", "enable_padding_leads": True}, 11),
        ({"leads_to_load": "[0]", "enable_padding_leads": False}, None),
        ({"leads_to_load": None, "enable_padding_leads": True}, None),
        ({"leads_to_load": "[0, 1]", "enable_padding_leads": True}, None),
        ({"leads_to_load": "[12]", "enable_padding_leads": True}, None),
        ({"leads_to_load": ["x"] * 9, "enable_padding_leads": True}, None),
        ("text", None),
    ],
)
def test_the_input_of_a_checkpoint_of_fairseq_signals_is_understood(tmp_path, task, channel):
    path = write_pretrained(tmp_path / "model.pt", fine_tuned=True)
    content = load_checkpoint(path)
    content["cfg"]["task"] = task
    torch.save(content, path)
    assert load_classifier(path).input_channel == channel


# Runs


def test_several_rates_are_compared_in_a_table_and_finished_ones_are_not_run_again(manifests, tmp_path, main):
    run = tiny_run(manifests, tmp_path / "sweep", "--epochs", 2, "--lr", "1e-4,1e-2")
    output = main(*run)
    table = pd.read_csv(tmp_path / "sweep" / "sweep.csv")
    assert list(table.columns) == ["lr", "best_epoch", "valid_loss", "auroc", "auprc", "auroc_macro", "folder"]
    for row in table.itertuples():
        settings = json.loads((tmp_path / "sweep" / row.folder / "settings.json").read_text())
        log = pd.read_csv(tmp_path / "sweep" / row.folder / "training_log.csv").set_index("epoch")
        assert settings["settings"]["lr"] == row.lr and row.valid_loss == pytest.approx(
            log.at[row.best_epoch, "valid_loss"], abs=1e-5
        )
    best = table.loc[table["valid_loss"].idxmin()]
    assert f"the lowest loss with {best['lr']:g}:" in output.out.splitlines()[-1]
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "sweep").glob("lr_*/checkpoint_best.pt")}
    output = main(*tiny_run(manifests, tmp_path / "sweep", "--epochs", 2, "--lr", "1e-4,1e-3,1e-2"))
    assert output.out.count("is finished") == 2 and len(pd.read_csv(tmp_path / "sweep" / "sweep.csv")) == 3
    assert all(path.stat().st_mtime_ns == before for path, before in times.items())


def test_a_rate_that_fails_does_not_end_the_comparison(manifests, tmp_path, main):
    output = main(*tiny_run(manifests, tmp_path / "sweep", "--epochs", 2, "--lr", "1e30,1e-3"))
    table = pd.read_csv(tmp_path / "sweep" / "sweep.csv")
    assert table["lr"].tolist() == [1e30, 1e-3] and table["valid_loss"].isna().tolist() == [True, False]
    assert f"warning: learning rate 1e+30, {tmp_path / 'sweep' / 'lr_1e+30'}: the loss is " in output.err
    assert "2 learning rates, 1 failed (1e+30) compared on valid, the lowest loss with 0.001:" in output.out


@pytest.mark.parametrize("stop_after", [1, 4])
def test_a_run_with_every_part_of_a_recipe_goes_on_bit_for_bit(manifests, tmp_path, stop_after):
    from ecg_training.trainer import train
    from finetune_world import Quiet, Stop, datasets

    recipe = {"schedule": "cosine", "warmup": 2, "layer_decay": 0.7, "weight_decay": 0.05}
    weights = []
    for folder, stops in ((tmp_path / "whole", [None]), (tmp_path / "parts", [stop_after, None])):
        folder.mkdir()
        for stop in stops:
            trainer = small_trainer(**recipe)
            set_drop_path(trainer.model, 0.3)
            torch.manual_seed(5)
            arguments = {
                "last": folder / "last.pt",
                "resume": (folder / "last.pt").exists(),
                "save_best": lambda _: None,
            }
            try:
                train(trainer, *datasets(manifests), **arguments, progress=Quiet(stop))
            except Stop:
                continue
        weights.append(trainer.model.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_a_cosine_run_cannot_be_made_longer(manifests, tmp_path, main):
    main(*tiny_run(manifests, tmp_path / "run", "--epochs", 1, "--schedule", "cosine"))
    told = main(*tiny_run(manifests, tmp_path / "run", "--epochs", 2, "--schedule", "cosine", "--resume"), exit_code=1)
    assert "was filled with epochs 1, this run has epochs 2" in told.err


def test_event_files_hold_every_update_and_every_epoch(manifests, tmp_path, main):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    main(*tiny_run(manifests, tmp_path / "run", "--epochs", 2, "--tensorboard"))
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss/update")] == [5, 10, 15, 20, 22, 27, 32, 37, 42, 44]
    log = pd.read_csv(tmp_path / "run" / "training_log.csv")
    found = [event.value for event in events.Scalars("epoch/valid_loss")]
    np.testing.assert_allclose(found, log["valid_loss"], rtol=1e-6)
    main(*tiny_run(manifests, tmp_path / "run", "--epochs", 1, "--overwrite"))
    assert not list((tmp_path / "run" / "tensorboard").iterdir())


@pytest.mark.parametrize(
    "options",
    [
        ("--augment", "wearable"), ("--schedule", "cosine"), ("--layer-decay", "0.7"), ("--freeze-layers", "2"),
        ("--drop-path", "0.1"), ("--tensorboard",), ("--lr", "1e-6,1e-5"),
    ],
)  # fmt: skip
def test_fairseq_signals_is_not_asked_for_what_it_cannot_do(manifests, pretrained, main, options):
    told = main(
        "--engine",
        "fairseq",
        "--print-command",
        "--pretrained",
        pretrained,
        "--manifests",
        manifests,
        *options,
        exit_code=1,
    )
    assert f"{options[0]}" in told.err and "is for --engine torch" in told.err


def test_fairseq_signals_gets_what_it_can_do(manifests, main):
    recipe = ("--warmup", 100, "--weight-decay", "0.01", "--input", "zero", "--lead", "II")
    output = main("--print-command", "--fairseq-root", "/f", "--manifests", manifests, "--pretrained", "/m.pt", *recipe)
    for setting in (
        *("lr_scheduler.warmup_updates=100", "+optimizer.weight_decay=0.01", "task.enable_padding_leads=true"),
        "'task.leads_to_load=\"[1]\"'",
    ):
        assert f" {setting} " in output.out


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--freeze-layers", "1"), "--freeze-layers needs a checkpoint"),
        (("--freeze-layers", "all"), "--freeze-layers needs a checkpoint"),
    ],
)
def test_options_that_do_not_go_together_are_told(options, told, manifests, tmp_path, main):
    assert told in main(*tiny_run(manifests, tmp_path / "run", *options), exit_code=1).err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--freeze-layers", "3"), "the network has 2"),
        (("--freeze-layers", "all", "--augment", "wearable"), "omit --augment wearable"),
        (("--freeze-layers", "all", "--drop-path", "0.1"), "omit --drop-path"),
    ],
)
def test_what_a_checkpoint_cannot_do_is_told(options, told, manifests, pretrained, tmp_path, main):
    run = ["--engine", "torch", "--pretrained", pretrained, "--manifests", manifests, "--output-dir", tmp_path / "run"]
    assert told in main(*run, *options, exit_code=1).err and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "option",
    [
        "--layer-decay=0", "--layer-decay=1.1", "--drop-path=1", "--weight-decay=-1", "--freeze-layers=most",
        "--warmup=-1", "--schedule=linear", "--lr=1e-3,1e-3", "--augment-snr=24,-6", "--augment-snr=6", "--input=one",
    ],
)  # fmt: skip
def test_bad_values_are_wrong_usage(option, capsys):
    from ecg_finetune.documents import load_parser

    with pytest.raises(SystemExit) as end:
        load_parser(SCRIPT).parse_args([option])
    assert end.value.code == 2 and f"argument {option.partition('=')[0]}: " in capsys.readouterr().err

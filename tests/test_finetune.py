"""finetune_ecgfm.py: runs that stop and go on, share work, refuse, and the fairseq-signals command."""

import copy
import dataclasses
import functools
import importlib.util
import json
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from ecg_training import fairseq_command, torch_engine
from ecg_training import trainer as trainer_module
from ecg_training.processes import Processes, join_processes, leave_processes
from ecg_training.run_folder import claim_folder, interrupted, write_settings
from ecg_training.torch_engine import TINY, build_model
from ecg_training.trainer import (
    ADAM_EPS,
    Position,
    Settings,
    Trainer,
    epoch_batches,
    out_of_patience,
    scores,
    share_of,
    train,
)
from sklearn.metrics import average_precision_score, roc_auc_score

from ecg_finetune import run_folder
from ecg_finetune.batch import loader_workers
from ecg_finetune.checkpoint import load_checkpoint
from ecg_finetune.documents import load_parser
from ecg_finetune.ecg_fm import Architecture, EcgClassifier, load_classifier
from ecg_finetune.files import UserError
from ecg_finetune.label_set import LABELS, read_pos_weight
from ecg_finetune.matfile import write_mat
from ecg_finetune.segments import SegmentDataset, expand_lead, read_label_rows, read_labels, read_manifest, read_segment

SCRIPT = "finetune/scripts/finetune_ecgfm.py"
REPOSITORY = Path(__file__).resolve().parent.parent
SAMPLES = 300


def make_manifests(folder, train_segments=22, valid_segments=10):
    """Write segments, manifests and labels as the build stage does, in which label 0 shows as a raised signal."""
    segments, manifests = folder / "segmented_5s", folder / "manifests"
    segments.mkdir(parents=True)
    manifests.mkdir()
    random = np.random.default_rng(0)
    total = train_segments + valid_segments
    y = (random.random((total, len(LABELS))) < 0.4).astype(np.float32)
    np.save(manifests / "y.npy", y)
    np.save(manifests / "original_idx_order.npy", 1000 + np.arange(total))
    for split, rows in (("train", range(train_segments)), ("valid", range(train_segments, total))):
        lines = [str(segments)]
        for row in rows:
            lead = random.standard_normal(SAMPLES).astype(np.float32) + 2 * y[row, 0]
            ids = {"idx": row, "original_idx": 1000 + row}
            write_mat(segments / f"{row}_0.mat", {"feats": np.tile(lead, (12, 1)), "curr_sample_rate": 500, **ids})
            lines.append(f"{row}_0.mat\t{SAMPLES}")
        (manifests / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    (manifests / "pos_weight.txt").write_text(" ".join(["1.50000000"] * len(LABELS)) + "\n")
    return manifests


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    return make_manifests(tmp_path_factory.mktemp("build"))


def tiny_run(manifests, folder, *more):
    """Return the options of a run of 5 updates an epoch."""
    options = ["--pretrained", "none", "--tiny", "--manifests", manifests, "--output-dir", folder, "--batch-size", 5]
    return [*options, "--device", "cpu", "--workers", 1, *more]


@pytest.fixture
def main(capfd, monkeypatch):
    """Return a function that runs the script in this process: it asserts the exit code and returns (stdout, stderr)."""
    spec = importlib.util.spec_from_file_location("finetune_ecgfm", REPOSITORY / SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def run(*options, exit_code=0):
        monkeypatch.setattr(sys, "argv", [SCRIPT, *map(str, options)])
        assert script.main() == exit_code
        output = capfd.readouterr()
        assert exit_code == 0 or (output.err.startswith("error: ") and output.err.count("\n") == 1)
        return output

    return run


@pytest.fixture(scope="module")
def uninterrupted(manifests, tmp_path_factory, run_script):
    """Run 4 epochs as a user does; return the folder and the process."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run_script(SCRIPT, *tiny_run(manifests, folder, "--epochs", 4, "--save-every", 1))


def assert_same_run(folder, other):
    """Assert that two runs came out bit for bit equal."""
    for name in ("checkpoint_best.pt", "checkpoint_last.pt"):
        mine, theirs = (load_checkpoint(place / name) for place in (folder, other))
        assert list(mine["model"]) == list(theirs["model"])
        assert all(torch.equal(mine["model"][key], theirs["model"][key]) for key in mine["model"]), name
    assert mine["position"]["updates"] == theirs["position"]["updates"]
    for key, state in mine["optimizer"]["state"].items():
        assert torch.equal(state["exp_avg_sq"], theirs["optimizer"]["state"][key]["exp_avg_sq"])
    columns = ["epoch", "updates", "train_loss", "valid_loss", "auroc", "auprc", "auroc_macro", "best"]
    logs = [pd.read_csv(place / "training_log.csv")[columns] for place in (folder, other)]
    pd.testing.assert_frame_equal(*logs, check_exact=True)


def test_a_run_leaves_checkpoint_log_curves_and_settings(uninterrupted, manifests):
    folder, process = uninterrupted
    assert {path.name for path in folder.iterdir()} == {
        "checkpoint_best.pt",
        "checkpoint_last.pt",
        "training_log.csv",
        "training_curves.png",
        "settings.json",
    }
    log = pd.read_csv(folder / "training_log.csv")
    assert list(log["epoch"]) == [1, 2, 3, 4] and list(log["updates"]) == [5, 10, 15, 20]
    assert log["train_loss"].iloc[-1] < log["train_loss"].iloc[0]  # the convolutions of a random start are trained too
    told = re.findall(
        r"epoch (\d)/4: loss train ([\d.]+) valid ([\d.]+), AUROC micro .* segments/s, \S+ left", process.stdout
    )
    assert [(int(a), float(b), float(c)) for a, b, c in told] == [
        (row.epoch, pytest.approx(row.train_loss, abs=6e-4), pytest.approx(row.valid_loss, abs=6e-4))
        for row in log.itertuples()
    ]
    best = log.loc[log["best"] == 1].iloc[-1]
    assert best["valid_loss"] == pytest.approx(log["valid_loss"].min(), abs=6e-4)
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["finished"] and settings["best"]["epoch"] == best["epoch"]
    assert settings["settings"]["labels"] == list(LABELS)
    assert (folder / "training_curves.png").read_bytes().startswith(b"\x89PNG")
    # The checkpoint is the network whose valid loss the log tells.
    model = load_classifier(folder / "checkpoint_best.pt")
    dataset = SegmentDataset(read_manifest(manifests / "valid.tsv"), *read_label_rows(manifests)).load()
    trainer = Trainer(model, read_pos_weight(manifests / "pos_weight.txt"), Settings(1, 1e-3, 5), torch.device("cpu"))
    assert trainer.validate(dataset)["valid_loss"] == pytest.approx(best["valid_loss"], abs=1e-6)


def test_a_killed_run_goes_on_bit_for_bit(uninterrupted, manifests, tmp_path, run_script):
    command = [sys.executable, SCRIPT, *map(str, tiny_run(manifests, tmp_path, "--epochs", 4, "--save-every", 1))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=REPOSITORY)
    last = tmp_path / "checkpoint_last.pt"
    while not (last.exists() and load_checkpoint(last)["position"]["updates"] >= 7):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    stopped_at = load_checkpoint(last)["position"]
    assert 7 <= stopped_at["updates"] < 20
    resumed = run_script(SCRIPT, *tiny_run(manifests, tmp_path, "--epochs", 4, "--save-every", 1, "--resume"))
    assert "resumed after epoch" in resumed.stdout
    assert_same_run(tmp_path, uninterrupted[0])


def test_a_run_killed_before_its_last_log_row_writes_it_when_resumed(uninterrupted, manifests, tmp_path, main):
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted[0], folder)
    whole = pd.read_csv(folder / "training_log.csv")
    whole.iloc[:-1].to_csv(folder / "training_log.csv", index=False)
    (folder / "training_curves.png").unlink()
    main(*tiny_run(manifests, folder, "--epochs", 4, "--resume"))
    pd.testing.assert_frame_equal(pd.read_csv(folder / "training_log.csv"), whole)
    assert (folder / "training_curves.png").read_bytes() == (uninterrupted[0] / "training_curves.png").read_bytes()


def test_an_interrupted_run_goes_on_with_the_same_command_only(tmp_path):
    settings = {"lr": 1e-3, "epochs": 3, "patience": 0}
    assert not interrupted(tmp_path, settings)  # nothing there
    write_settings(tmp_path, settings, finished=False)
    assert interrupted(tmp_path, settings)
    assert not interrupted(tmp_path, settings | {"epochs": 4})
    write_settings(tmp_path, settings, finished=True)
    assert not interrupted(tmp_path, settings)
    (tmp_path / "settings.json").write_text("{")
    assert not interrupted(tmp_path, settings)


@pytest.mark.parametrize("name", ["checkpoint_last.pt", "checkpoint_best.pt"])
def test_a_run_without_its_checkpoints_is_not_started_over(uninterrupted, manifests, tmp_path, main, name):
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted[0], folder)
    (folder / name).unlink()
    left = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert (
        f"{name} of its run is gone" in main(*tiny_run(manifests, folder, "--epochs", 4, "--resume"), exit_code=1).err
    )
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == left


def test_a_second_run_into_the_same_folder_is_refused(manifests, tmp_path, main, monkeypatch):
    monkeypatch.setattr(run_folder, "LOCK_PATIENCE", 0.1)
    with run_folder.locked(tmp_path, tmp_path / "run.lock"):
        assert "another run" in main(*tiny_run(manifests, tmp_path), exit_code=1).err
    assert list(tmp_path.iterdir()) == []


class Stop(Exception):
    """Stands for a kill in the middle of an epoch."""


class Quiet:
    """A progress line that shows nothing, and stops the run after some updates."""

    def __init__(self, stop_after=None):
        self.left = stop_after

    def start(self, *_):
        pass

    def update(self, *_):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Stop

    def epoch(self, *_):
        pass


def datasets(manifests):
    """Return the train and the valid set."""
    rows = read_label_rows(manifests)
    return [SegmentDataset(read_manifest(manifests / f"{split}.tsv"), *rows).load() for split in ("train", "valid")]


def small_trainer(seed=1, processes=None, arch=TINY, **changes):
    """Return a trainer of the tiny network at its random start."""
    torch.manual_seed(seed)
    settings = Settings(**{"epochs": 3, "lr": 1e-3, "batch_size": 5, "save_every": 2} | changes)
    return Trainer(EcgClassifier(arch), np.full(17, 1.5), settings, torch.device("cpu"), processes)


@pytest.mark.parametrize("stop_after", [0, 1, 2, 5, 6, 9, 14])
def test_wherever_a_run_stops_it_goes_on_bit_for_bit(manifests, tmp_path, stop_after):
    train_set, valid_set = datasets(manifests)
    weights = []
    for folder, stops in ((tmp_path / "whole", [None]), (tmp_path / "parts", [stop_after, None])):
        for stop in stops:
            trainer = small_trainer(accumulate=2)
            resume = (folder / "last.pt").exists()
            torch.manual_seed(9 if resume else 1)  # a resumed process starts in another random state
            try:
                position = train(
                    trainer,
                    train_set,
                    valid_set,
                    last=folder / "last.pt",
                    resume=resume,
                    save_best=lambda _: None,
                    progress=Quiet(stop),
                )
            except Stop:
                continue
        weights.append((trainer.model.state_dict(), position.history))
    (whole, history), (parts, other_history) = weights
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    for row, other in zip(history, other_history, strict=True):
        assert (row["train_loss"], row["valid_loss"]) == (other["train_loss"], other["valid_loss"])


def test_a_restored_trainer_is_in_the_state_it_was_saved_in():
    """Also when no update is left: killed in the last validation, a run saves once more what it restored."""
    trainer, other = small_trainer(), small_trainer()
    for _ in range(3):
        trainer.update(iter([(torch.randn(2, SAMPLES), torch.ones(2, 17))]), [2], 2)
    state = trainer.state(Position(updates=3))
    other.restore(copy.deepcopy(state))
    again = other.state(Position(updates=3))
    assert again["optimizer"]["param_groups"] == state["optimizer"]["param_groups"]
    assert again["optimizer"]["param_groups"][0]["eps"] > ADAM_EPS
    for place, moments in state["optimizer"]["state"].items():
        for name, value in moments.items():
            assert torch.equal(again["optimizer"]["state"][place][name], value)
    assert all(torch.equal(again["model"][name], value) for name, value in state["model"].items())


def run_one_of_two(rank, manifests, folder, port):
    """Train as one of two processes that torchrun would start."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    processes, _ = join_processes(torch.device("cpu"))
    run_without_dropout(manifests, folder, processes)
    leave_processes()


def run_without_dropout(manifests, folder, processes):
    """Train 2 epochs; batches of 5 and a last one of 2, so that shares differ between processes."""
    trainer = small_trainer(processes=processes, arch=dataclasses.replace(TINY, activation_dropout=0.0), epochs=2)
    position = train(
        trainer,
        *datasets(manifests),
        last=folder / f"last{processes.world}.pt",
        resume=False,
        save_best=lambda _: None,
        progress=Quiet(),
    )
    if processes.first:
        torch.save(
            {"model": trainer.model.state_dict(), "history": position.history}, folder / f"end{processes.world}.pt"
        )


def test_two_processes_train_as_one_does(manifests, tmp_path):
    run_without_dropout(manifests, tmp_path, Processes())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(run_one_of_two, (manifests, tmp_path, port), nprocs=2)
    one, two = (torch.load(tmp_path / f"end{world}.pt") for world in (1, 2))
    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, rtol=1e-3, atol=1e-4)
    for row, other in zip(one["history"], two["history"], strict=True):
        for column in ("updates", "train_loss", "valid_loss", "auroc", "auprc"):
            assert row[column] == pytest.approx(other[column], abs=1e-4), column


@pytest.mark.parametrize(("world", "accumulate", "size"), [(1, 1, 5), (2, 1, 5), (2, 3, 17), (3, 2, 2)])
def test_shares_of_a_batch_cover_it_once(world, accumulate, size):
    batch = np.arange(100, 100 + size)
    counted, lengths = [], set()
    for rank in range(world):
        parts, sizes = share_of(batch, Processes(rank, world), accumulate)
        lengths.add(len(parts))
        assert all(parts)  # an empty part would leave a process behind
        counted += [row for part, count in zip(parts, sizes) for row in part[:count]]
    assert sorted(counted) == list(batch) and lengths == {accumulate}


def test_epochs_see_every_segment_once_in_an_order_of_their_own():
    first, second = (epoch_batches(22, 5, 1, epoch) for epoch in (0, 1))
    assert [len(batch) for batch in first] == [5, 5, 5, 5, 2]
    assert sorted(np.concatenate(first)) == sorted(np.concatenate(second)) == list(range(22))
    assert not np.array_equal(np.concatenate(first), np.concatenate(second))
    assert np.array_equal(first[2], epoch_batches(22, 5, 1, 0)[2])


class Losses(Trainer):
    """A trainer whose valid losses are given."""

    def validate(self, _):
        return {"valid_loss": next(self.losses), "auroc": 0.5, "auprc": 0.5, "auroc_macro": 0.5}


@pytest.mark.parametrize(
    ("losses", "patience", "best", "epochs"),
    [
        ([1.0, 0.9, 0.95, 0.8, 0.9, 0.9], 0, 4, 6),
        ([1.0, 0.9, 0.95, 0.96, 0.8, 0.7], 2, 2, 4),
        ([1.0, 0.9004, 0.9001, 0.9003, 0.9, 1.0], 0, 5, 6),  # equal to 3 decimals: the later one
        ([1.0, 0.8996, 0.9, 0.9002, 0.95, 0.95], 0, 4, 6),
    ],
)
def test_the_best_epoch_and_patience(manifests, tmp_path, losses, patience, best, epochs):
    train_set, valid_set = datasets(manifests)
    trainer = small_trainer(epochs=len(losses), patience=patience, batch_size=22)
    trainer.__class__, trainer.losses = Losses, iter(losses)
    kept = []
    position = train(
        trainer,
        train_set,
        valid_set,
        last=tmp_path / "last.pt",
        resume=False,
        save_best=lambda position: kept.append(position.epoch),
        progress=Quiet(),
    )
    assert (position.best_epoch, position.epoch, kept[-1]) == (best, epochs, best)
    assert out_of_patience(position, patience) == (patience > 0)


def test_scores_are_scikit_learn_s_on_the_labels_that_have_both_classes():
    random = np.random.default_rng(1)
    logits, targets = random.standard_normal((40, 3)) * 30, random.random((40, 3)) < 0.5
    targets[:, 2] = False
    result = scores(logits, targets)
    assert result["auroc"] == roc_auc_score(targets.ravel(), logits.ravel())
    assert result["auprc"] == average_precision_score(targets.ravel(), logits.ravel())
    assert result["auroc_macro"] == np.mean([roc_auc_score(targets[:, k], logits[:, k]) for k in (0, 1)])
    assert np.isnan(scores(logits, np.zeros((40, 3), bool))["auroc"])


def test_a_loss_that_is_not_finite_stops_the_run_before_the_update():
    trainer = small_trainer()
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    with pytest.raises(UserError, match="loss is nan at update 1"):
        trainer.update(iter([(torch.full((2, SAMPLES), torch.nan), torch.zeros(2, 17))]), [2], 2)
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


def frozen_parts(model) -> set[str]:
    """Return the parts of the encoder of which a parameter is not trained."""
    return {name.split(".")[1] for name, weight in model.named_parameters() if not weight.requires_grad}


def test_convolutions_are_frozen_in_a_pretrained_network_and_trained_in_a_random_one(test_data, monkeypatch):
    path = test_data / "checkpoints" / "tiny1_pretrained.pt"
    pretrained = build_model(path, tiny=False, seed=1, trust=False)
    small = functools.partial(Architecture, encoder_layers=1, encoder_embed_dim=32, encoder_ffn_embed_dim=32)
    monkeypatch.setattr(torch_engine, "Architecture", functools.partial(small, encoder_attention_heads=2))
    random = build_model(None, tiny=False, seed=1, trust=False)
    assert frozen_parts(pretrained) == {"feature_extractor"} and frozen_parts(random) == set()
    for network in (pretrained.architecture, random.architecture):
        assert network.activation_dropout == 0.1
        assert network.dropout == network.attention_dropout == network.dropout_input == network.final_dropout == 0


def test_an_update_is_adam_as_fairseq_signals_writes_it(monkeypatch):
    """With an eps that counts: fairseq-signals adds it before the bias correction, PyTorch after it."""
    monkeypatch.setattr(trainer_module, "ADAM_EPS", 1e-2)
    trainer = small_trainer(arch=dataclasses.replace(TINY, activation_dropout=0.0), lr=1e-2)
    model = copy.deepcopy(trainer.model).train()
    weights = list(model.parameters())
    means, squares = ([torch.zeros_like(weight) for weight in weights] for _ in range(2))
    for step in range(1, 4):
        leads, targets = torch.randn(5, SAMPLES), (torch.rand(5, 17) < 0.4).float()
        trainer.update(iter([(leads, targets)]), [5], 5)
        loss = torch.nn.BCEWithLogitsLoss(pos_weight=torch.full((17,), 1.5))(model(expand_lead(leads)), targets)
        size = 1e-2 * (1 - 0.98**step) ** 0.5 / (1 - 0.9**step)
        for weight, gradient, mean, square in zip(weights, torch.autograd.grad(loss, weights), means, squares):
            mean += 0.1 * (gradient - mean)
            square += 0.02 * (gradient**2 - square)
            weight.data -= size * mean / (square.sqrt() + 1e-2)
    for found, expected in zip(trainer.model.parameters(), weights, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


# What may be used again


def test_a_used_folder_is_refused(tmp_path):
    settings = {"lr": 1e-3, "epochs": 3, "patience": 0}
    assert claim_folder(tmp_path, settings, resume=True, overwrite=False) is False  # nothing there yet
    write_settings(tmp_path, settings, finished=False)
    with pytest.raises(UserError, match="holds a run already"):
        claim_folder(tmp_path, settings, resume=False, overwrite=False)
    with pytest.raises(UserError, match=r"lr was 0.001 and is 0.01 now"):
        claim_folder(tmp_path, settings | {"lr": 1e-2}, resume=False, overwrite=False)
    with pytest.raises(UserError, match=r"lr was 0.001 and is 0.01 now"):
        claim_folder(tmp_path, settings | {"lr": 1e-2}, resume=True, overwrite=False)
    assert claim_folder(tmp_path, settings | {"epochs": 9}, resume=True, overwrite=False) is False
    (tmp_path / "checkpoint_last.pt").touch()
    assert claim_folder(tmp_path, settings | {"epochs": 9}, resume=True, overwrite=False) is True
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(UserError, match="settings.json cannot be read"):
        claim_folder(tmp_path, settings, resume=True, overwrite=False)
    (tmp_path / "README.md").touch()
    assert claim_folder(tmp_path, settings, resume=False, overwrite=True) is False
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_a_foreign_checkpoint_is_not_overwritten(tmp_path):
    (tmp_path / "checkpoint_best.pt").touch()
    with pytest.raises(UserError, match="settings.json is missing"):
        claim_folder(tmp_path, {}, resume=False, overwrite=False)


def test_the_script_refuses_a_folder_with_a_run(uninterrupted, manifests, main):
    before = (uninterrupted[0] / "checkpoint_best.pt").read_bytes()
    told = main(*tiny_run(manifests, uninterrupted[0], "--epochs", 4), exit_code=1).err
    assert "--resume" in told and "--overwrite" in told
    assert (uninterrupted[0] / "checkpoint_best.pt").read_bytes() == before


# What is read


def change_line(text, number, line):
    """Replace a line."""
    lines = text.splitlines()
    lines[number] = line
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda _: "", "lists no segment"),
        (lambda t: t.splitlines()[0], "lists no segment"),
        (lambda t: change_line(t, 2, "a.mat 300"), r"line 3 is 'a.mat 300', not path<TAB>samples"),
        (lambda t: change_line(t, 2, "a.mat\t"), "line 3"),
        (lambda t: change_line(t, 2, "a.mat\t-1"), "line 3"),
        (lambda t: change_line(t, 2, "a.mat\t299"), "segments of 299 and of 300"),
        (lambda t: change_line(t, 2, f"0_0.mat\t{SAMPLES}"), "0_0.mat stands twice"),
        (lambda t: change_line(t, 0, "/no/such/folder"), "'/no/such/folder' .* does not exist"),
    ],
)
def test_a_bad_manifest_is_one_line(manifests, tmp_path, change, told):
    path = tmp_path / "train.tsv"
    path.write_text(change((manifests / "train.tsv").read_text()))
    with pytest.raises(UserError, match=told) as caught:
        read_manifest(path)
    assert "train.tsv" in str(caught.value)


def test_a_missing_manifest_names_the_stage_that_makes_it(tmp_path, main):
    told = main(*tiny_run(tmp_path, tmp_path / "out"), exit_code=1).err
    assert "train.tsv" in told and "build" in told
    assert not (tmp_path / "out").exists()


def flat(**changes):
    """Return the content of a segment file."""
    return {
        "feats": np.ones((12, SAMPLES), np.float32),
        "curr_sample_rate": 500,
        "idx": 3,
        "original_idx": 1003,
    } | changes


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (flat(feats=np.full((12, SAMPLES), np.nan, np.float32)), "NaN"),
        (flat(feats=np.arange(12 * SAMPLES, dtype=np.float32).reshape(12, SAMPLES)), "rows of feats differ"),
        (flat(feats=np.ones((12, SAMPLES - 1), np.float32)), rf"shape \(12, {SAMPLES - 1}\)"),
        (flat(curr_sample_rate=250), "250 Hz"),
        (flat(idx=9), "idx 9 is no row"),
        (flat(idx=-1), "idx -1 is no row"),
        (flat(idx=np.array([1, 2])), "no usable"),
        (flat(idx=0.5), "idx 0.5 is no row"),
        (flat(original_idx=np.nan), "no usable original_idx"),
        ({"feats": np.ones((12, SAMPLES))}, "curr_sample_rate"),
    ],
)
def test_a_bad_segment_never_reaches_the_network(tmp_path, content, told):
    write_mat(tmp_path / "s.mat", content)
    with pytest.raises(UserError, match=told) as caught:
        read_segment(tmp_path / "s.mat", SAMPLES, 9)
    assert "s.mat" in str(caught.value)


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_a_segment_whose_idx_is_the_row_of_another_study_is_refused(manifests, cache_bytes):
    labels, studies = read_label_rows(manifests)
    studies[7] = 5
    with pytest.raises(UserError, match="7_0.mat: of study 1007, but its idx 7 is the row of study 5"):
        dataset = SegmentDataset(read_manifest(manifests / "train.tsv"), labels, studies, cache_bytes).load()
        list(dataset[i] for i in range(len(dataset)))


def test_labels_and_studies_of_different_length_are_refused(manifests, tmp_path):
    for name, rows in (("y.npy", slice(None)), ("original_idx_order.npy", slice(1, None))):
        np.save(tmp_path / name, np.load(manifests / name)[rows])
    with pytest.raises(UserError, match=r"y.npy: 32 rows, but original_idx_order.npy beside it has 31"):
        read_label_rows(tmp_path)


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_a_bad_segment_stops_a_run_in_one_line_wherever_it_is_read(tmp_path, cache_bytes):
    manifests = make_manifests(tmp_path / "build", 4, 2)
    write_mat(tmp_path / "build" / "segmented_5s" / "2_0.mat", flat(feats=np.full((12, SAMPLES), np.nan, np.float32)))
    dataset = SegmentDataset(read_manifest(manifests / "train.tsv"), *read_label_rows(manifests), cache_bytes)
    with pytest.raises(UserError, match="^[^ ]*2_0.mat: feats holds NaN") as caught:
        list(small_trainer(workers=1).loader(dataset.load(), [[0, 1], [2, 3]]))
    assert "Traceback" not in str(caught.value)


def test_a_killed_reader_stops_a_run_in_one_line(tmp_path):
    """In a process of its own: PyTorch goes on raising after the first error, wherever Python just is."""
    program = (
        "import sys, test_finetune; from pathlib import Path; test_finetune.kill_readers(Path(sys.argv[1]))",
        str(make_manifests(tmp_path / "build", 400, 2)),
    )
    process = subprocess.run(
        [sys.executable, "-c", *program], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert process.returncode == 1 and "worker process was killed" in process.stdout, process.stderr
    assert process.stdout.count("\n") == 1


def kill_readers(manifests):
    """Read segments in another process, which is killed; print the error and end without cleaning up, exit code 1."""
    dataset = SegmentDataset(read_manifest(manifests / "train.tsv"), *read_label_rows(manifests), cache_bytes=0)
    batches = small_trainer(workers=1).loader(dataset, [[i] for i in range(400)])
    try:
        with loader_workers():
            for _ in batches:
                for process in multiprocessing.active_children():
                    process.kill()
    except UserError as error:
        print(error, flush=True)
        os._exit(1)


def test_a_bad_segment_leaves_an_older_run_alone(tmp_path, main):
    manifests = make_manifests(tmp_path / "build", 4, 2)
    (manifests.parent / "segmented_5s" / "5_0.mat").unlink()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "checkpoint_best.pt").write_text("of an older run")
    assert "5_0.mat" in main(*tiny_run(manifests, tmp_path / "out", "--overwrite"), exit_code=1).err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["checkpoint_best.pt"]


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros((5, 16)), r"shape \(5, 16\)"),
        (np.zeros(17), r"shape \(17,\)"),
        (np.full((5, 17), np.nan), "row 0 holds a label outside 0 to 1"),
        (np.eye(17) * 2, "row 0"),
        (np.full((5, 17), "a"), "<U1"),
    ],
)
def test_bad_labels_are_one_line(tmp_path, array, told):
    np.save(tmp_path / "y.npy", array)
    with pytest.raises(UserError, match=told):
        read_labels(tmp_path / "y.npy")


@pytest.mark.parametrize("text", ["", "1 2 3", "a " * 17, "-1 " * 17, "nan " * 17])
def test_bad_weights_are_one_line(tmp_path, text):
    (tmp_path / "pos_weight.txt").write_text(text)
    with pytest.raises(UserError, match="pos_weight.txt"):
        read_pos_weight(tmp_path / "pos_weight.txt")


def test_cached_and_streamed_segments_are_the_same(manifests):
    (y, studies), manifest = read_label_rows(manifests), read_manifest(manifests / "valid.tsv")
    cached = SegmentDataset(manifest, y, studies).load()
    streamed = SegmentDataset(manifest, y, studies, cache_bytes=100).load()
    assert cached.leads.shape == (10, SAMPLES) and streamed.leads is None
    trainer = small_trainer(workers=1)
    batches = [[3, 1], [7]]
    for (lead, target), (other, other_target) in zip(
        trainer.loader(cached, batches), trainer.loader(streamed, batches)
    ):
        assert torch.equal(lead, other) and torch.equal(target, other_target)
    assert torch.equal(target[0], torch.from_numpy(y[22 + 7]))
    source = expand_lead(lead)
    assert source.shape == (1, 12, SAMPLES) and torch.equal(source[0, 11], lead[0])


# fairseq-signals


def command_of(output) -> list[str]:
    """Return the shown command as a shell would split it."""
    return shlex.split(next(line for line in output.out.splitlines() if line.startswith("fairseq-hydra-train")))


def test_the_fairseq_command_is_the_one_that_ran(manifests, tmp_path, main):
    """The settings, and which of them carry a +, were found by running fairseq-hydra-train for real."""
    output = main(
        *("--print-command", "--fairseq-root", "/opt/fairseq-signals", "--manifests", manifests),
        *("--pretrained", "/models/ecg_fm.pt", "--output-dir", tmp_path / "out"),
    )
    weights = ",".join(["1.50000000"] * 17)
    expected = f"""fairseq-hydra-train task.data={manifests} +task.label_file={manifests}/y.npy task.normalize=false
        task.enable_padding=true task.enable_padding_leads=false model.model_path=/models/ecg_fm.pt model.num_labels=17
        model.no_pretrained_weights=false model.dropout=0.0 model.attention_dropout=0.0 model.activation_dropout=0.1
        model.feature_grad_mult=0 model.freeze_finetune_updates=0 model.in_d=12 model.saliency=false
        +criterion.pos_weight=[{weights}] criterion.report_auc=true criterion.report_cinc_score=false
        optimization.max_epoch=100 optimization.max_update=320000 optimization.lr=[1e-06] lr_scheduler._name=fixed
        lr_scheduler.warmup_updates=0 dataset.num_workers=6 dataset.batch_size=256 dataset.max_tokens=null
        dataset.valid_subset="valid" dataset.disable_validation=false distributed_training.distributed_world_size=1
        distributed_training.find_unused_parameters=true checkpoint.save_dir={tmp_path}/out checkpoint.save_interval=1
        checkpoint.no_epoch_checkpoints=true checkpoint.no_last_checkpoints=true checkpoint.keep_last_epochs=0
        checkpoint.keep_best_checkpoints=1 checkpoint.no_save_optimizer_state=true
        checkpoint.best_checkpoint_metric=loss checkpoint.maximize_best_checkpoint_metric=false common.fp16=false
        common.log_format=json --config-dir
        /opt/fairseq-signals/examples/w2v_cmsc/config/finetuning/ecg_transformer --config-name diagnosis"""
    assert command_of(output) == expected.split()
    assert not (tmp_path / "out").exists()


def some_command(**changes):
    """Return a command with changed arguments."""
    arguments = dict(
        manifests=Path("/m"),
        pos_weight=[1.0] * 17,
        pretrained=Path("/p.pt"),
        architecture=Architecture(),
        fairseq_root=Path("/f"),
        output=Path("/o"),
        epochs=1,
        lr=5e-5,
        batch_size=64,
        accumulate=1,
        workers=6,
    )
    return fairseq_command.fairseq_command(**arguments | changes)


def test_overrides_replace_a_setting_or_come_last_before_the_configuration():
    command = some_command(overrides=["common.fp16=true", "+task.label_file=/other.npy", "distributed_training.x=2"])
    assert [part for part in command if "fp16" in part or "label_file" in part] == [
        "common.fp16=true",
        "+task.label_file=/other.npy",
    ]
    assert command.index("distributed_training.x=2") == command.index("--config-dir") - 1


def test_other_options_reach_the_command():
    small = Architecture(conv_feature_layers=((32, 2, 2),) * 2, encoder_layers=2, layer_norm_first=True)
    command = some_command(accumulate=4, seed=7, patience=3, architecture=small, output=Path("/a b,c"))
    assert {"dataset.batch_size=16", "optimization.update_freq=[4]", "common.seed=7", "checkpoint.patience=3"} <= set(
        command
    )
    assert {"+model.encoder_layers=2", "+model.layer_norm_first=true"} <= set(command)
    assert '+model.conv_feature_layers="[(32, 2, 2), (32, 2, 2)]"' in command
    assert "checkpoint.save_dir='/a b,c'" in command


def executable(path, text):
    """Write an executable file."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def fairseq_machine(tmp_path, manifests, monkeypatch):
    """Return the options of a run on a machine on which fairseq-signals seems to be installed, with a GPU."""
    executable(tmp_path / "bin" / "nvidia-smi", "#!/bin/sh\necho 'GPU 0: Made up'\n")
    executable(
        tmp_path / "bin" / "fairseq-hydra-train",
        '#!/bin/sh\nprintf "%s\\n" "$@" >arguments.txt\necho $HYDRA_FULL_ERROR >>arguments.txt\n'
        f"test -e {tmp_path}/fail && exit 3\necho weights >checkpoint_best.pt\n",
    )
    config = tmp_path / "fairseq-signals" / fairseq_command.CONFIG_DIR
    config.mkdir(parents=True)
    (config / "diagnosis.yaml").touch()
    model = EcgClassifier(dataclasses.replace(TINY, num_labels=17))
    weights = {
        name.removeprefix("encoder."): value
        for name, value in model.state_dict().items()
        if name.startswith("encoder.")
    }
    config = dataclasses.asdict(TINY) | {"_name": "wav2vec2_cmsc", "extractor_mode": "default"}
    config["conv_feature_layers"] = str(list(TINY.conv_feature_layers))
    torch.save({"cfg": {"model": config}, "model": weights}, tmp_path / "pretrained.pt")
    options = ["--manifests", manifests, "--pretrained", tmp_path / "pretrained.pt", "--batch-size", "8"]
    options += ["--fairseq-root", tmp_path / "fairseq-signals", "--output-dir", tmp_path / "out"]
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return options


def test_auto_runs_fairseq_where_it_can(fairseq_machine, tmp_path, main):
    output = main(*fairseq_machine, "--", "common.fp16=true")
    received = (tmp_path / "out" / "arguments.txt").read_text().splitlines()
    assert received == [*command_of(output)[1:], "1"] and "common.fp16=true" in received
    assert "+model.encoder_embed_dim=64" in received
    assert "fairseq-hydra-train" in (tmp_path / "out" / "command.sh").read_text()
    assert json.loads((tmp_path / "out" / "settings.json").read_text())["finished"]
    assert "strip" in output.out


def test_a_failed_fairseq_run_is_told(fairseq_machine, tmp_path, main):
    (tmp_path / "fail").touch()
    assert "exit code 3" in main(*fairseq_machine, exit_code=1).err


@pytest.mark.usefixtures("fairseq_machine")
def test_each_missing_piece_is_told_with_what_to_do(tmp_path, monkeypatch):
    root, pretrained = tmp_path / "fairseq-signals", tmp_path / "pretrained.pt"
    assert fairseq_command.missing_pieces(root, pretrained) == [] and fairseq_command.can_run()
    assert "give the clone" in fairseq_command.missing_pieces(tmp_path, pretrained)[0]
    assert "--pretrained" in fairseq_command.missing_pieces(root, tmp_path / "none.pt")[0]
    executable(tmp_path / "bin" / "fairseq-hydra-train", f"#!{sys.executable}\n")
    expected = f"Python {sys.version_info[0]}.{sys.version_info[1]}"
    monkeypatch.setattr(fairseq_command, "NEWEST_PYTHON", (3, 9))
    assert expected in fairseq_command.missing_pieces(root, pretrained)[0]
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    told = " ".join(fairseq_command.missing_pieces(None, tmp_path / "none.pt"))
    for piece in ("no fairseq-hydra-train on PATH", "no CUDA device", "no --fairseq-root", "no pretrained checkpoint"):
        assert piece in told
    assert not fairseq_command.can_run()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--engine", "torch", "--print-command"], "--print-command"),
        (["--engine", "fairseq", "--pretrained", "none"], "--pretrained none is for --engine torch"),
        (["--tiny"], "give --pretrained none"),
        (["--resume", "--overwrite"], "give one of them"),
        (["--print-command", "--batch-size", "20"], "multiple of 8"),
        (["--engine", "torch", "--batch-size", "2", "--accumulate", "3"], "--accumulate 3 is more"),
        (["--engine", "torch", "--", "common.fp16=true"], "the engine is torch"),
        (["--engine", "torch", "--pretrained", "/none.pt"], "/none.pt: no such file"),
        (["--pretrained", "none", "--device", "cuda:99"], "--device cuda:99"),
        (["--pretrained", "none", "--device", "abacus"], "--device abacus"),
    ],
)
def test_options_that_do_not_go_together_are_told(options, told, tmp_path, main):
    assert told in main("--base-dir", tmp_path, *options, exit_code=1).err


@pytest.mark.parametrize("option", ["--seed=-1", "--patience=-1", "--save-every=-1", "--lr=0", "--epochs=0"])
def test_numbers_out_of_range_are_wrong_usage(option, capsys):
    with pytest.raises(SystemExit) as stopped:
        load_parser(SCRIPT).parse_args([option])
    assert stopped.value.code == 2 and f"argument {option.partition('=')[0]}: " in capsys.readouterr().err

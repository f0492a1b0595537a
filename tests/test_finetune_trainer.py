"""The trainer: batches, parts, processes, updates, scores, when it stops, and that it resumes bit for bit."""

import copy
import dataclasses
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from ecg_training import progress as progress_module
from ecg_training import trainer as trainer_module
from ecg_training.processes import Processes, join_processes, leave_processes
from ecg_training.progress import Progress
from ecg_training.settings import ADAM_EPS
from ecg_training.torch_engine import TINY
from ecg_training.trainer import (
    Position,
    Trainer,
    epoch_batches,
    is_over,
    length_of,
    out_of_patience,
    scores,
    share_of,
    summed_loss,
    train,
    train_epoch,
)
from ecg_training.training_data import TrainingData
from finetune_world import SAMPLES, Quiet, Stop, datasets, make_manifests, small_trainer
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score
from torch.utils._python_dispatch import TorchDispatchMode

from ecg_finetune.files import UserError
from ecg_finetune.segments import expand_lead


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    return make_manifests(tmp_path_factory.mktemp("build"))


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
        trainer.update(iter([(torch.randn(2, SAMPLES), torch.ones(2, 17))]), [2])
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
    # A thread of the group that lives on can abort the process when Python ends (seen on a busy machine).
    assert not [task for task in Path("/proc/self/task").glob("*/comm") if "gloo" in task.read_text()]


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


@pytest.mark.parametrize("unknown", [0.0, 0.5])
def test_two_processes_train_as_one_does(tmp_path, unknown):
    manifests = make_manifests(tmp_path, unknown=unknown)
    if unknown:
        y = np.load(manifests / "y.npy")
        y[:8] = np.nan  # shares without any known label
        np.save(manifests / "y.npy", y)
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
        assert all(map(len, parts))  # an empty part would leave a process behind
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
        ([1.0, 0.9004, 0.9001, 0.9003, 0.9, 1.0], 2, 4, 4),  # but no progress
        ([1.0, 0.9004, 0.9001, 0.8994, 0.9, 1.0], 2, 4, 6),
        ([1.0, 0.8996, 0.9, 0.9002, 0.95, 0.95], 0, 4, 6),
        ([1.0, 1.0, 0.5], 1, 2, 2),
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


@given(st.lists(st.integers(0, 12), max_size=12), st.integers(0, 4))
def test_patience_counts_as_fairseq_signals_does(losses, patience):
    """There an epoch without a loss below the best so far adds one to a count that any other sets back to 0."""
    best, count = float("inf"), 0
    for epoch, loss in enumerate(losses, start=1):
        best, count = (loss, 0) if loss < best else (best, count + 1)
        history = [{"valid_loss": loss / 1000} for loss in losses[:epoch]]
        assert out_of_patience(history, patience) == (0 < patience <= count)


@pytest.mark.parametrize(
    ("max_update", "length"), [(0, (15, 66)), (4, (4, 20)), (5, (5, 22)), (7, (7, 32)), (15, (15, 66)), (99, (15, 66))]
)
def test_max_update_ends_a_run_after_as_many_updates_wherever_that_is(manifests, tmp_path, max_update, length):
    train_set, valid_set = datasets(manifests)
    trainer = small_trainer(max_update=max_update)
    assert length_of(trainer.settings, len(train_set)) == length
    progress = Quiet()
    arguments = dict(last=tmp_path / "last.pt", save_best=lambda _: None, progress=progress)
    position = train(trainer, train_set, valid_set, resume=False, **arguments)
    assert (position.updates, progress.segments) == length
    assert [row["updates"] for row in position.history] == sorted({*range(5, length[0], 5), length[0]})
    assert is_over(position, trainer.settings)
    # Stopped between the last update and its validation, a run is not over.
    position.batch = 1
    assert is_over(position, trainer.settings) == (position.epoch == 3)


def test_scores_are_scikit_learn_s_on_the_labels_that_have_both_classes():
    random = np.random.default_rng(1)
    logits, targets = random.standard_normal((40, 3)) * 30, random.random((40, 3)) < 0.5
    targets[:, 2] = False
    result = scores(logits, targets)
    assert result["auroc"] == roc_auc_score(targets.ravel(), logits.ravel())
    assert result["auprc"] == average_precision_score(targets.ravel(), logits.ravel())
    assert result["auroc_macro"] == np.mean([roc_auc_score(targets[:, k], logits[:, k]) for k in (0, 1)])
    assert np.isnan(scores(logits, np.zeros((40, 3), bool))["auroc"])


def some_unknown(targets, share=0.4):
    """Return float32 targets of which a share is NaN."""
    return np.where(np.random.default_rng(2).random(targets.shape) < share, np.nan, targets).astype(np.float32)


def test_scores_of_unknown_labels_are_scikit_learn_s_on_the_known_ones():
    random = np.random.default_rng(1)
    logits, told = random.standard_normal((60, 4)), random.random((60, 4)) < 0.5
    targets = some_unknown(told)
    targets[:, 2] = np.nan  # never known
    targets[targets[:, 3] == 0, 3] = np.nan  # known where positive
    known = ~np.isnan(targets)
    result = scores(logits, targets)
    assert result["auroc"] == roc_auc_score(told[known], logits[known])
    assert result["auprc"] == average_precision_score(told[known], logits[known])
    each = [roc_auc_score(told[known[:, k], k], logits[known[:, k], k]) for k in (0, 1)]
    assert result["auroc_macro"] == pytest.approx(np.mean(each), abs=1e-12)
    assert np.isnan(scores(logits, np.full((60, 4), np.nan))["auroc"])


def test_the_loss_of_unknown_labels_is_pytorch_s_on_the_known_ones():
    logits = torch.randn(7, 5, requires_grad=True)
    targets = torch.from_numpy(some_unknown(np.random.default_rng(1).random((7, 5)) < 0.5))
    weight, known = torch.rand(5) * 9, ~targets.isnan()
    loss = summed_loss(logits, targets, weight)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits[known], targets[known], pos_weight=weight.expand(7, 5)[known], reduction="sum"
    )
    torch.testing.assert_close(loss, expected)
    mine, theirs = (torch.autograd.grad(value, logits)[0] for value in (loss, expected))
    torch.testing.assert_close(mine, theirs)
    assert (mine[~known] == 0).all()


def test_with_all_labels_known_the_loss_is_the_plain_one_bit_for_bit():
    logits, targets = torch.randn(16, 17, requires_grad=True), (torch.rand(16, 17) < 0.3).float()
    plain = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, targets, pos_weight=torch.full((17,), 1.5), reduction="sum"
    )
    loss = summed_loss(logits, targets, torch.full((17,), 1.5))
    assert torch.equal(loss, plain)
    assert torch.equal(*(torch.autograd.grad(value, logits)[0] for value in (loss, plain)))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_gradient_is_of_the_mean_over_the_known_labels_of_the_whole_batch(accumulate):
    trainer = small_trainer(arch=dataclasses.replace(TINY, activation_dropout=0.0))
    model = copy.deepcopy(trainer.model).train()
    leads, targets = torch.randn(9, SAMPLES), torch.from_numpy(some_unknown(np.eye(9, 17)))
    targets[:3] = torch.nan  # a whole part of the three
    parts = list(zip(leads.chunk(accumulate), targets.chunk(accumulate)))
    total, known = trainer.update(iter(parts), [len(part) for part, _ in parts])
    assert known == (~targets.isnan()).sum()
    each = torch.nn.functional.binary_cross_entropy_with_logits(
        model(expand_lead(leads)), targets.nan_to_num(), pos_weight=torch.full((17,), 1.5), reduction="none"
    )[~targets.isnan()]
    assert total == pytest.approx(each.sum().item(), rel=1e-5)
    gradients = torch.autograd.grad(each.mean(), list(model.parameters()))
    for mine, theirs in zip(trainer.model.parameters(), gradients, strict=True):
        torch.testing.assert_close(mine.grad, theirs, rtol=1e-3, atol=1e-6)


def test_a_batch_without_any_known_label_teaches_nothing():
    trainer = small_trainer()
    before = copy.deepcopy(trainer.model.state_dict())
    assert trainer.update(iter([(torch.randn(2, SAMPLES), torch.full((2, 17), torch.nan))]), [2]) == (0.0, 0)
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


def test_valid_loss_and_training_loss_are_over_the_known_labels(tmp_path):
    train_set, valid_set = datasets(make_manifests(tmp_path, unknown=0.6))
    trainer = small_trainer(arch=dataclasses.replace(TINY, activation_dropout=0.0), lr=1e-12, epochs=1)
    history = train(
        trainer,
        train_set,
        valid_set,
        last=tmp_path / "last.pt",
        resume=False,
        save_best=lambda _: None,
        progress=Quiet(),
    ).history
    for dataset, column in ((train_set, "train_loss"), (valid_set, "valid_loss")):
        leads, targets = dataset.leads, dataset.targets
        with torch.inference_mode():
            loss = torch.nn.BCEWithLogitsLoss(pos_weight=torch.full((17,), 1.5), reduction="none")(
                trainer.model.eval()(expand_lead(leads)), targets
            )
        assert history[0][column] == pytest.approx(loss[~targets.isnan()].mean().item() / np.log(2), abs=1e-5)


@pytest.mark.parametrize("look_every", [1, 4, 16])
def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(look_every):
    """Whether the losses are looked at after every update, as on a CPU, or after some, as on a GPU."""
    data = TrainingData(torch.randn(40, SAMPLES), torch.zeros(40, 17))
    data.leads[epoch_batches(40, 5, 1, 0)[5][0]] = torch.nan
    trainer, position, saved, progress = small_trainer(), Position(), [], Quiet()
    trainer.look_every = look_every
    with pytest.raises(UserError, match="loss is nan at update 6"):
        train_epoch(trainer, data, position, lambda: saved.append((position.updates, position.loss_labels)), progress)
    assert saved == [(2, 170), (4, 340)] and progress.segments == 25


def test_an_update_is_adam_as_fairseq_signals_writes_it(monkeypatch):
    """With an eps that counts: fairseq-signals adds it before the bias correction, PyTorch after it."""
    monkeypatch.setattr(trainer_module, "ADAM_EPS", 1e-2)
    trainer = small_trainer(arch=dataclasses.replace(TINY, activation_dropout=0.0), lr=1e-2)
    model = copy.deepcopy(trainer.model).train()
    weights = list(model.parameters())
    means, squares = ([torch.zeros_like(weight) for weight in weights] for _ in range(2))
    for step in range(1, 4):
        leads, targets = torch.randn(5, SAMPLES), (torch.rand(5, 17) < 0.4).float()
        trainer.update(iter([(leads, targets)]), [5])
        loss = torch.nn.BCEWithLogitsLoss(pos_weight=torch.full((17,), 1.5))(model(expand_lead(leads)), targets)
        size = 1e-2 * (1 - 0.98**step) ** 0.5 / (1 - 0.9**step)
        for weight, gradient, mean, square in zip(weights, torch.autograd.grad(loss, weights), means, squares):
            mean += 0.1 * (gradient - mean)
            square += 0.02 * (gradient**2 - square)
            weight.data -= size * mean / (square.sqrt() + 1e-2)
    for found, expected in zip(trainer.model.parameters(), weights, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


class NoFloat64(TorchDispatchMode):
    """Refuses every tensor in float64, which some devices do not have."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            assert not isinstance(value, torch.Tensor) or value.dtype != torch.float64, function
        return result


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_and_validation_need_no_float64(manifests, precision):
    trainer, (train_set, valid_set) = small_trainer(precision=precision), datasets(manifests)
    batch = train_set.batch([0, 1, 2])
    with NoFloat64():
        trainer.update(iter([batch]), [3])
        trainer.validate(valid_set)


def test_only_matrix_products_are_in_bfloat16():
    trainer, dtypes = small_trainer(precision="bfloat16"), set()
    trainer.model.proj.register_forward_hook(lambda *passed: dtypes.add(passed[2].dtype))
    trainer.update(iter([(torch.randn(2, SAMPLES), torch.ones(2, 17))]), [2])
    assert dtypes == {torch.bfloat16} and {p.dtype for p in trainer.model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    "environment",
    [
        {"WORLD_SIZE": "2"},
        {"WORLD_SIZE": "two", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
        {"WORLD_SIZE": "2", "RANK": "", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
        {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_PORT": "1"},
    ],
)
def test_several_processes_need_the_environment_of_torchrun(monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="start several processes with torchrun"):
        join_processes(torch.device("cpu"))


def test_into_a_pipe_progress_is_a_line_a_minute(tmp_path, monkeypatch, capsys):
    seconds = iter(range(0, 10_000, 25))
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: next(seconds))
    progress = Progress(tmp_path, segments=10, total=25)
    progress.start([], 0)
    for _ in range(5):
        progress.update(5, 0.5)
    progress.close()
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "epoch 2/3: loss 0.500, AUROC -, 0.2 segments/s, 0:50 left",
    ]

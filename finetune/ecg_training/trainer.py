"""Fine-tuning in plain PyTorch, with the loss, optimiser and choice of checkpoint of fairseq-signals.

One update: binary cross-entropy with logits and `pos_weight`, averaged over the known labels of the batch, then Adam,
at a constant learning rate unless the recipe says otherwise. One epoch: every training segment once, in an order drawn
from (seed, epoch), then validation; the checkpoint with the lowest valid loss is kept. Losses are shown divided by
ln 2, as fairseq-signals logs them. Where every label is known, all is as there; a label that is not (NaN) has no part
in losses and scores.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ecg_finetune.checkpoint import load_checkpoint, save_checkpoint
from ecg_finetune.device import random_state, set_random_state
from ecg_finetune.ecg_fm import EcgClassifier
from ecg_finetune.files import UserError
from ecg_finetune.progress_bar import progress_bar
from ecg_training.processes import Processes
from ecg_training.recipe import Head, optimizer_of, rate_factor
from ecg_training.settings import ADAM_BETAS, ADAM_EPS, ALL, FinetuneSettings
from ecg_training.training_data import TrainingData

if TYPE_CHECKING:
    from ecg_training.progress import Progress

# Losses are compared when rounded so, as in fairseq-signals: of equal ones the later epoch gives the best checkpoint,
# but an equal loss is no progress for `patience`.
LOSS_DECIMALS = 3
# Updates on a GPU between two looks at their losses: each look waits until it has done all it was given.
LOOK_EVERY = 16
# The columns of training_log.csv.
HISTORY = (
    *("epoch", "updates", "train_loss", "valid_loss", "auroc", "auprc", "auroc_macro", "best"),
    *("segments_per_second", "seconds"),
)


@dataclasses.dataclass
class Position:
    """How far a run has come; with the weights, the optimiser and the random state, all that `--resume` needs."""

    epoch: int = 0  # finished epochs; the last one may have been cut short by max_update
    batch: int = 0  # updates in the epoch under way
    updates: int = 0
    loss_sum: float = 0.0  # of the epoch under way
    loss_labels: int = 0  # the known labels, of all segments, that it sums over
    best_loss: float = math.inf
    best_epoch: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def check(self) -> None:
        """Raise `ValueError` if this is no position that a run can have."""
        counts = (self.epoch, self.batch, self.updates, self.loss_labels, self.best_epoch)
        if not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError("a counter in its position is not an integer of at least 0")
        if not all(type(number) is float and not math.isnan(number) for number in (self.loss_sum, self.best_loss)):
            raise ValueError("a loss in its position is not a number")
        for row in self.history:
            if tuple(row) != HISTORY or not all(type(value) in (int, float) for value in row.values()):
                raise ValueError("an epoch in its history is incomplete")
        epochs = [row["epoch"] for row in self.history]
        best = max((row["epoch"] for row in self.history if row["best"] == 1), default=0)
        if epochs != list(range(1, len(epochs) + 1)) or len(epochs) != self.epoch or best != self.best_epoch:
            raise ValueError("its history does not match its number of epochs")


class Trainer:
    """The network with its optimiser: `update` on a batch, `validate` on a data set.

    Parameters
    ----------
    model : EcgClassifier
        The network; moved to `device` and trained in place.
    pos_weight : ndarray (labels,)
        Weight of the positives of each label in the loss.
    settings : FinetuneSettings
        How to train.
    device : torch.device
        Where to train.
    processes : Processes
        The processes that share each batch.
    """

    def __init__(
        self,
        model: EcgClassifier,
        pos_weight: np.ndarray,
        settings: FinetuneSettings,
        device: torch.device,
        processes: Processes | None = None,
    ):
        self.processes = processes or Processes()
        self.settings, self.device = settings, device
        self.model = model.to(device)
        # What gradients go through: of a linear probe the head alone, on features in place of leads.
        self.trained = Head(self.model) if settings.freeze_layers == ALL else self.model
        self.network = DistributedDataParallel(self.trained) if self.processes.world > 1 else self.trained
        self.pos_weight = torch.as_tensor(pos_weight, dtype=torch.float32, device=device)
        self.optimizer = optimizer_of(self.model, settings, device)
        self.updates = 0
        self.planned = 0  # updates of the whole run
        self.look_every = 1 if device.type == "cpu" else LOOK_EVERY

    def loss(self, leads: Tensor, targets: Tensor) -> Tensor:
        """Return the `summed_loss` of leads (batch, samples) and targets (batch, labels)."""
        with self.autocast():
            logits = self.network(leads)
        return summed_loss(logits, targets, self.pos_weight)

    def update(self, parts: Iterator[tuple[Tensor, Tensor]], sizes: list[int]) -> tuple[Tensor, Tensor]:
        """Do one update.

        Parameters
        ----------
        parts : iterator of (leads, targets)
            The parts of the batch that fall to this process; their gradients are accumulated.
        sizes : list of int
            How many segments of each part count: all of them, or 0 for a part that only keeps processes in step.

        Returns
        -------
        loss, known : Tensor ()
            This process's share of the summed loss, and the known labels that it sums over. They are on the device:
            reading them waits for the update to be done.
        """
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        loaded = [(*next(parts), size) for size in sizes]
        total, known = torch.zeros((), device=self.device), torch.zeros((), dtype=torch.int64, device=self.device)
        for _, targets, size in loaded:
            known += known_labels(targets) * (size > 0)
        whole = self.processes.sum(known).clamp(min=1)
        for number, (leads, targets, size) in enumerate(loaded, start=1):
            # Processes exchange gradients once, in the last part.
            exchange = number == len(sizes) or self.processes.world == 1
            with contextlib.nullcontext() if exchange else self.network.no_sync():
                loss = self.loss(leads, targets) * (size > 0)
                # DistributedDataParallel averages over processes, but the mean is over the whole batch.
                (loss * self.processes.world / whole).backward()
            total += loss.detach()
        self.updates += 1
        self._set_rates()
        self.optimizer.step()
        return total, known

    @torch.inference_mode()
    def validate(self, data: TrainingData) -> dict[str, float]:
        """Return `valid_loss` and AUROC (micro, macro) and AUPRC (micro) over a split.

        Micro takes all known labels of all segments together, as the "AUROC" in fairseq-signals' log does; macro is the
        mean over the labels that occur and are not everywhere. A score is NaN where the set has only one class.
        """
        self.network.eval()
        rank, world = self.processes.rank, self.processes.world
        size = max(1, self.settings.part_size // world)
        mine = range(rank, len(data), world)
        losses, logits, targets = [], [], []
        shown = progress_bar(len(mine), "segments validated") if rank == 0 else contextlib.nullcontext(lambda _: None)
        with shown as advance:
            for start in range(0, len(mine), size):
                leads, target = data.batch(mine[start : start + size])
                with self.autocast():
                    output = self.trained(leads)
                # They stay on the device until the last batch: to fetch them each time would be to wait each time.
                losses.append(summed_loss(output, target, self.pos_weight))
                logits.append(output)
                targets.append(target)
                advance(len(target))
        found = sum(x.item() for x in losses), *([x.cpu().numpy() for x in part] for part in (logits, targets))
        sums, logits, targets = zip(*self.processes.gather(found))
        logits = np.concatenate([x for part in logits for x in part])
        targets = np.concatenate([x for part in targets for x in part])
        known = int(known_labels(targets))
        return {"valid_loss": sum(sums) / known / math.log(2) if known else math.nan, **scores(logits, targets)}

    def autocast(self):
        """Return the context in which the network runs at the precision of the settings."""
        if self.settings.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=getattr(torch, self.settings.precision))

    def state(self, position: Position) -> dict[str, Any]:
        """Return everything that continues the run; every process must call it."""
        sums = self.processes.gather((position.loss_sum, position.loss_labels))
        loss_sum, loss_labels = (sum(values) for values in zip(*sums))
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "position": dataclasses.asdict(position) | {"loss_sum": loss_sum, "loss_labels": loss_labels},
            "random": self.processes.gather((torch.get_rng_state(), random_state(self.device))),
        }

    def restore(self, state: dict[str, Any]) -> Position:
        """Go to the point at which `state` was made, and return it; every process must call it.

        Raises
        ------
        Exception
            Of any kind, if `state` is not that of this run.
        """
        self.model.load_state_dict(state["model"])
        position = Position(**state["position"])
        position.check()
        # The groups hold nothing but settings, and those are this run's.
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state["optimizer"]["state"], "param_groups": groups})
        self._check_optimizer(position.updates)
        self.updates = position.updates
        if self.updates:
            self._set_rates()  # there may be no update left to do it before the next checkpoint
        if not self.processes.first:
            position.loss_sum, position.loss_labels = 0.0, 0
        if len(state["random"]) == self.processes.world:
            cpu, own = state["random"][self.processes.rank]
            torch.set_rng_state(cpu)
            set_random_state(self.device, own)
        return position

    def _set_rates(self) -> None:
        """Set the learning rates for this update, and Adam's eps.

        fairseq-signals adds eps before the bias correction, PyTorch after it.
        """
        rate = self.settings.lr * rate_factor(self.settings, self.updates, self.planned)
        for group in self.optimizer.param_groups:
            group["eps"] = ADAM_EPS / math.sqrt(1 - ADAM_BETAS[1] ** self.updates)
            group["lr"] = rate * group["share"]

    def _check_optimizer(self, updates: int) -> None:
        """Raise `ValueError` if the optimiser's state is not that of this network after so many updates."""
        if not updates:
            if self.optimizer.state:
                raise ValueError("its optimiser has a state, although no update was done")
            return
        for parameter in (each for group in self.optimizer.param_groups for each in group["params"]):
            step, *moments = (self.optimizer.state[parameter][name] for name in ("step", "exp_avg", "exp_avg_sq"))
            like = [(step, torch.zeros(())), *((moment, parameter) for moment in moments)]
            fits = all(one.shape == other.shape and one.dtype == other.dtype for one, other in like)
            if not fits or step.item() != updates or not all(moment.isfinite().all() for moment in moments):
                raise ValueError("the state of its optimiser belongs to another network or another update")


def summed_loss(logits: Tensor, targets: Tensor, pos_weight: Tensor) -> Tensor:
    """Return the binary cross-entropy of logits (batch, labels), summed over the targets that are known (not NaN)."""
    known = (targets == targets).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(
        logits, targets.nan_to_num(0.0), known, pos_weight=pos_weight, reduction="sum"
    )


def known_labels(targets: Tensor | np.ndarray) -> Tensor | np.int64:
    """Return how many of the targets (segments, labels) are known (not NaN), where the targets are."""
    return (targets == targets).sum()


def scores(logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Return `auroc` and `auprc` over all known targets, and `auroc_macro`; arrays (segments, labels), NaN: unknown."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    known, positive = targets == targets, targets > 0.5
    usable = np.flatnonzero(positive.any(axis=0) & (known & ~positive).any(axis=0))
    if not len(usable):
        return {"auroc": math.nan, "auprc": math.nan, "auroc_macro": math.nan}

    # Sigmoid keeps the order, but in float32 it can make ties that the logits do not have: rank the logits.
    def auroc(k: int) -> float:
        return roc_auc_score(positive[known[:, k], k], logits[known[:, k], k])

    return {
        "auroc": float(roc_auc_score(positive[known], logits[known])),
        "auprc": float(average_precision_score(positive[known], logits[known])),
        "auroc_macro": float(np.mean([auroc(k) for k in usable])),
    }


def epoch_batches(segments: int, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Draw the batches of an epoch: a permutation that depends on (seed, epoch) only, cut into batches."""
    order = np.random.default_rng([seed, epoch]).permutation(segments)
    return [order[start : start + batch_size] for start in range(0, segments, batch_size)]


def length_of(settings: FinetuneSettings, segments: int) -> tuple[int, int]:
    """Return how many updates and segments a run has, with so many segments an epoch, if patience does not end it."""
    batches = math.ceil(segments / settings.batch_size)
    updates = settings.epochs * batches
    if settings.max_update:
        updates = min(updates, settings.max_update)
    return updates, updates // batches * segments + updates % batches * settings.batch_size


def share_of(batch: np.ndarray, processes: Processes, accumulate: int) -> tuple[list[np.ndarray], list[int]]:
    """Return the parts of a batch (segments,) that fall to this process, and how many segments of each count.

    A batch too small to give every process a part lends them its first segment, which then counts 0.
    """
    parts = np.array_split(batch, processes.world * accumulate)[processes.rank :: processes.world]
    return [part if len(part) else batch[:1] for part in parts], [len(part) for part in parts]


def train(
    trainer: Trainer,
    train_set: TrainingData,
    valid_set: TrainingData,
    *,
    last: Path,
    resume: bool,
    save_best: Callable[[Position], None],
    progress: Progress,
) -> Position:
    """Train until the settings say to stop (see `is_over`), with a validation after each epoch and the last update.

    Parameters
    ----------
    trainer : Trainer
        The network at its starting point.
    train_set, valid_set : TrainingData
        The splits.
    last : Path
        Where the state is written after every epoch and every `save_every` updates.
    resume : bool
        Whether to continue from `last`.
    save_best : function
        Called in the first process when an epoch has the lowest valid loss so far.
    progress : Progress
        Shows and logs what was reached.
    """
    settings, processes = trainer.settings, trainer.processes
    trainer.planned = length_of(settings, len(train_set))[0]
    position = resume_from(trainer, last) if resume else Position()

    def save():
        state = trainer.state(position)
        if processes.first:
            save_checkpoint(last, state)

    done = position.epoch * len(train_set) + min(position.batch * settings.batch_size, len(train_set))
    progress.start(position.history, done)
    while not is_over(position, settings):
        started = time.monotonic()
        segments = train_epoch(trainer, train_set, position, save, progress)
        sums = processes.gather((position.loss_sum, position.loss_labels))
        loss_sum, loss_labels = (sum(values) for values in zip(*sums))
        seconds = time.monotonic() - started
        valid = trainer.validate(valid_set)
        position.epoch, position.batch, position.loss_sum, position.loss_labels = position.epoch + 1, 0, 0.0, 0
        if not math.isfinite(valid["valid_loss"]):
            raise UserError(f"the valid loss of epoch {position.epoch} is {valid['valid_loss']}; lower --lr")
        best = round(valid["valid_loss"], LOSS_DECIMALS) <= position.best_loss
        if best:
            position.best_loss, position.best_epoch = round(valid["valid_loss"], LOSS_DECIMALS), position.epoch
        position.history.append(
            {
                "epoch": position.epoch,
                "updates": position.updates,
                "train_loss": loss_sum / max(loss_labels, 1) / math.log(2),
                **valid,
                "best": int(best),
                "segments_per_second": segments / seconds,
                "seconds": time.monotonic() - started,
            }
        )
        if best and processes.first:
            save_best(position)
        save()
        progress.epoch(position.history)
    return position


def resume_from(trainer: Trainer, path: Path) -> Position:
    """Bring a trainer to the state in a file; return the position of the run.

    Raises
    ------
    UserError
        The file cannot be read, or is not the state of this run.
    """
    state = load_checkpoint(path)
    try:
        return trainer.restore(state)
    except Exception as error:  # what another program has written fails in any way
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"{path}: not the state of this run ({type(error).__name__}: {reason}); put the run's own file back, or "
            "start over with --overwrite"
        ) from None


def is_over(position: Position, settings: FinetuneSettings) -> bool:
    """Tell whether the last epoch or update is done and validated, or patience has run out."""
    last_update = 0 < settings.max_update <= position.updates and position.batch == 0
    return position.epoch >= settings.epochs or last_update or out_of_patience(position.history, settings.patience)


def out_of_patience(history: list[dict[str, Any]], patience: int) -> bool:
    """Tell whether `patience` epochs (0: no limit) have passed without a valid loss below all before.

    >>> [out_of_patience([{"valid_loss": loss} for loss in (0.9, 0.8, 0.8004)[:epochs]], 1) for epochs in (0, 1, 2, 3)]
    [False, False, False, True]
    """
    losses = [round(epoch["valid_loss"], LOSS_DECIMALS) for epoch in history]
    return bool(losses) and 0 < patience < len(losses) - losses.index(min(losses))


def train_epoch(
    trainer: Trainer, train_set: TrainingData, position: Position, save: Callable[[], None], progress: Progress
) -> int:
    """Do the updates of the epoch under way, from `position.batch` on, at most until `max_update`.

    Returns how many segments these are, in all processes.

    Raises
    ------
    UserError
        A loss is not finite; nothing has been saved since.
    """
    settings, processes = trainer.settings, trainer.processes
    batches = epoch_batches(len(train_set), settings.batch_size, settings.seed, position.epoch)[position.batch :]
    if settings.max_update:
        batches = batches[: settings.max_update - position.updates]
    shares = [share_of(batch, processes, settings.accumulate) for batch in batches]
    parts = train_set.batches([part for share, _ in shares for part in share], position.epoch)
    done: list[tuple[Tensor, Tensor, int]] = []  # loss, known labels and segments of the updates not looked at

    def look() -> None:
        losses, known = (torch.stack(values).tolist() for values in list(zip(*done))[:2])
        for number, (loss, labels, (_, _, segments)) in enumerate(zip(losses, known, done), start=1 - len(done)):
            if not math.isfinite(loss):
                update = position.updates + number
                raise UserError(f"the loss is {loss} at update {update}; lower --lr, or use --precision float32")
            position.loss_sum += loss
            position.loss_labels += labels
            progress.update(segments, loss / max(labels, 1) / math.log(2))
        done.clear()

    for number, (batch, (_, sizes)) in enumerate(zip(batches, shares), start=1):
        done.append((*trainer.update(parts, sizes), len(batch)))
        position.batch += 1
        position.updates += 1
        save_now = settings.save_every and position.updates % settings.save_every == 0
        if save_now or len(done) == trainer.look_every or number == len(batches):
            look()
        if save_now:
            save()
    return sum(map(len, batches))

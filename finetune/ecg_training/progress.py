"""What a run shows and logs: a progress line, training_log.csv, training_curves.png, and event files if asked for."""

import time
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from ecg_finetune.files import replacing
from ecg_finetune.progress_bar import MINUTE, on_terminal
from ecg_finetune.tables import write_table
from ecg_training.checkpoint_folder import CURVES, EVENTS, LOG


class Progress:
    """The progress line of a run, and its log files in `folder`.

    On a terminal a bar shows segments done, segments/s, time left, loss and AUROC; elsewhere a line a minute does.

    Parameters
    ----------
    folder : Path
        Where the log goes.
    segments : int
        Training segments of one epoch.
    total : int
        Training segments of the whole run; its last epoch may have fewer than the others.
    first : bool
        Whether this process shows and writes anything.
    tensorboard : bool
        Whether to write event files for TensorBoard, the training loss of every update among them. Their steps are
        segments seen, which runs of different batch sizes can be compared by.
    """

    def __init__(self, folder: Path, segments: int, total: int, first: bool = True, *, tensorboard: bool = False):
        self.folder, self.segments, self.total, self.first = folder, segments, total, first
        self.epochs = -(-total // segments)
        self.auroc = "-"  # none before the first validation
        self.seconds: list[float] = []
        self.events = None
        if first and tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.events = SummaryWriter(str(folder / EVENTS))

    def start(self, history: list[dict[str, Any]], done: int) -> None:
        """Begin, or go on after the epochs of `history` and `done` segments."""
        self.done = self.began_at = done
        self.began = self.printed = time.monotonic()
        self.bar = tqdm(
            total=self.total,
            initial=done,
            unit=" segments",
            unit_scale=True,
            disable=not (self.first and on_terminal()),
        )
        if history:
            self.auroc = f"{history[-1]['auroc']:.3f}"
            self._say(f"resumed after epoch {len(history)}, {done:,} segments")
            self._write(history)  # the run may have been killed before it could

    def update(self, segments: int, loss: float) -> None:
        """Show one update."""
        self.done += segments
        self.bar.update(segments)
        self.bar.set_postfix(loss=f"{loss:.3f}", AUROC=self.auroc, refresh=False)
        if self.events is not None:
            self.events.add_scalar("loss/update", loss, self.done)
        now = time.monotonic()
        if self.bar.disable and now - self.printed >= MINUTE:
            self.printed = now
            rate = (self.done - self.began_at) / (now - self.began)
            left = (self.total - self.done) / rate
            self._say(
                f"epoch {-(-self.done // self.segments)}/{self.epochs}: loss {loss:.3f}, AUROC {self.auroc}, "
                f"{rate:.1f} segments/s, {clock(left)} left"
            )

    def epoch(self, history: list[dict[str, Any]]) -> None:
        """Show a finished epoch, and write the log and the curves."""
        row = history[-1]
        self.auroc = f"{row['auroc']:.3f}"
        self.seconds.append(row["seconds"])
        self.done = min(row["epoch"] * self.segments, self.total)
        left = (self.total - self.done) / self.segments * sum(self.seconds) / len(self.seconds)
        self._say(
            f"epoch {row['epoch']}/{self.epochs}: loss train {row['train_loss']:.3f} valid {row['valid_loss']:.3f}, "
            f"AUROC micro {row['auroc']:.3f} macro {row['auroc_macro']:.3f}, "
            f"{row['segments_per_second']:.1f} segments/s, {clock(left)} left{', best so far' if row['best'] else ''}"
        )
        self._write(history)
        if self.events is not None:
            for name in ("train_loss", "valid_loss", "auroc", "auprc", "auroc_macro", "segments_per_second"):
                self.events.add_scalar(f"epoch/{name}", row[name], self.done)
            self.events.flush()

    def close(self) -> None:
        """End the bar and the event file."""
        self.bar.close()
        if self.events is not None:
            self.events.close()

    def _write(self, history: list[dict[str, Any]]) -> None:
        if self.first:
            write_table(self.folder / LOG, pd.DataFrame(history))
            draw_curves(self.folder / CURVES, history)

    def _say(self, line: str) -> None:
        if self.first:
            with self.bar.external_write_mode():
                print(line, flush=True)


def clock(seconds: float) -> str:
    """Write a duration: 75 is 1:15, 3675 is 1:01:15.

    >>> clock(75), clock(3675)
    ('1:15', '1:01:15')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def draw_curves(path: Path, history: list[dict[str, Any]]) -> None:
    """Draw loss and AUROC against the epoch, with the best epoch marked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    log = pd.DataFrame(history)
    best = log[log["best"] == 1].iloc[-1]
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    losses, aurocs = figure.subplots(1, 2)
    for axes, columns, title in (
        (losses, {"train_loss": "train", "valid_loss": "valid"}, "Loss (mean cross-entropy / ln 2)"),
        (aurocs, {"auroc": "micro", "auroc_macro": "macro"}, "AUROC on the valid split"),
    ):
        for column, name in columns.items():
            axes.plot(log["epoch"], log[column], marker="o", markersize=3, label=name)
        axes.axvline(best["epoch"], color="0.6", linestyle="--", linewidth=1, label=f"best: epoch {best['epoch']:.0f}")
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)

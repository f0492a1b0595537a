"""The same run with several learning rates, each in a folder of its own, and the table that compares them on valid."""

from collections.abc import Callable, Sequence
from pathlib import Path

from ecg_finetune.tables import write_rows
from ecg_training.checkpoint_folder import finished_with
from ecg_training.processes import Processes
from ecg_training.settings import FinetuneSettings
from ecg_training.torch_engine import recorded_settings

SCORES = ("valid_loss", "auroc", "auprc", "auroc_macro")


def sweep(
    runs: Sequence[FinetuneSettings],
    finetune: Callable[[FinetuneSettings], str],
    table: Path,
    processes: Processes,
    *,
    again: bool,
) -> str:
    """Do the runs one after the other, those that are finished excepted, and write the table after each.

    Parameters
    ----------
    runs : sequence of FinetuneSettings
        They differ in `lr` and `output`.
    finetune : function
        Does a run.
    table : Path
        `lr,best_epoch,valid_loss,auroc,auprc,auroc_macro,folder`.
    processes : Processes
        Those that share each batch.
    again : bool
        Do finished runs, too: to go on with them, or to start them over.

    Returns
    -------
    str
        A summary.
    """
    rows: list[list] = []
    for number, settings in enumerate(runs, start=1):
        recorded = recorded_settings(settings)
        done = None if again else processes.gather(finished_with(settings.output, recorded))[0]
        print(
            f"run {number} of {len(runs)}, learning rate {settings.lr:g}{': is finished' if done else ''}", flush=True
        )
        if done is None:
            print(finetune(settings), flush=True)
            done = processes.gather(finished_with(settings.output, recorded))[0]
        scores = [f"{done[name]:.6g}" for name in SCORES]
        rows.append([f"{settings.lr:g}", done["epoch"], *scores, settings.output.name])
        if processes.first:
            write_rows(table, ["lr", "best_epoch", *SCORES, "folder"], rows)
    heads = ["lr", "best epoch", *SCORES]
    print("", *("".join(f"{cell:>12}" for cell in row[: len(heads)]) for row in [heads, *rows]), "", sep="\n")
    best = min(rows, key=lambda row: float(row[2]))
    return f"{len(rows)} learning rates compared on valid, the lowest loss with {best[0]}: {table}"

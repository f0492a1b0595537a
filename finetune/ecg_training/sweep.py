"""The same run with several learning rates, each in a folder of its own, and the table that compares them on valid."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ecg_finetune.files import UserError
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
        A summary. A run that fails, as at a rate at which the loss is not finite, has no scores in the table.

    Raises
    ------
    UserError
        The only run fails, or each does; of several processes any, as the others would wait for it.
    """
    rows: list[list] = []
    failed: list[str] = []
    for number, settings in enumerate(runs, start=1):
        recorded = recorded_settings(settings)
        done = None if again else processes.gather(finished_with(settings.output, recorded))[0]
        print(
            f"run {number} of {len(runs)}, learning rate {settings.lr:g}{': is finished' if done else ''}", flush=True
        )
        if done is None:
            try:
                print(finetune(settings), flush=True)
            except UserError as error:
                if processes.world > 1:
                    raise
                print(f"warning: learning rate {settings.lr:g}, {settings.output}: {error}", file=sys.stderr)
                failed.append(f"{settings.lr:g}")
            else:
                done = processes.gather(finished_with(settings.output, recorded))[0]
        scores = [f"{done[name]:.6g}" for name in SCORES] if done else [""] * len(SCORES)
        rows.append([f"{settings.lr:g}", done["epoch"] if done else "", *scores, settings.output.name])
        if processes.first:
            write_rows(table, ["lr", "best_epoch", *SCORES, "folder"], rows)
    heads = ["lr", "best epoch", *SCORES]
    print("", *("".join(f"{cell:>12}" for cell in row[: len(heads)]) for row in [heads, *rows]), "", sep="\n")
    if len(failed) == len(rows):
        raise UserError(f"{table}: no learning rate has a result, see the warnings above")
    best = min((row for row in rows if row[2]), key=lambda row: float(row[2]))
    told = f", {len(failed)} failed ({', '.join(failed)})" if failed else ""
    return f"{len(rows)} learning rates{told} compared on valid, the lowest loss with {best[0]}: {table}"

"""The folder of a fine-tuning run: what it holds, and when another run may use it."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecg_finetune.files import UserError, read_json, replacing, sha256, write_json
from ecg_finetune.paths import ARTEFACTS, inside
from ecg_finetune.run_folder import refuse_other_settings
from ecg_finetune.tables import finite_number, iterate_rows, read_header

BEST, LAST, LOG, CURVES, SETTINGS, COMMAND, RECORDS, LABEL_DEFINITION, LOCK = (
    Path(ARTEFACTS[name].location).name
    for name in (
        *("checkpoint_best", "checkpoint_last", "training_log", "training_curves", "finetune_settings"),
        *("finetune_command", "training_records", "finetune_label_def", "finetune_lock"),
    )
)
# What a run has to show for its work, in the order in which it is deleted: killed in between, a run without its last
# checkpoint is never resumed. The last are the copies that fairseq-signals makes with keep_best_checkpoints.
RESULTS = (LAST, BEST, CURVES, LOG, "checkpoint.best_*.pt")
EVENTS = Path(ARTEFACTS["events"].location).name
UNFINISHED = "checkpoint*.pt.tmp"  # checkpoints that fairseq-signals was stopped in writing
# Folders with these are of other stages; a run would replace their label_def.csv.
OF_OTHERS = [Path(ARTEFACTS[name].location).name for name in ("manifest_y", "test_labels", "labels", "meta_split")]
# What a resumed run may change: how long to go on, not what is computed.
MAY_CHANGE = ("epochs", "patience")


def check_folder(folder: Path, settings: Mapping[str, Any], *, resume: bool, overwrite: bool, resumable: bool) -> bool:
    """Tell whether a folder holds a run to go on with, and refuse it if a run with these settings must not use it.

    A folder with results in it is left alone unless told: "best so far" would start afresh there, and a worse
    checkpoint would replace a better one. A run that has left no results does not stand in the way of another.

    Parameters
    ----------
    folder : Path
        The folder.
    settings : mapping
        What settings.json will record.
    resume : bool
        Go on with the run in the folder, if there is one, even if it has ended.
    overwrite : bool
        Delete the run in the folder.
    resumable : bool
        Whether the engine can go on with a run at all. If it can, an interrupted run with the same settings is resumed
        without `resume`.

    Returns
    -------
    bool
        Whether there is a run to resume.

    Raises
    ------
    UserError
        The folder holds results that may neither be continued nor deleted.
    """
    for name in OF_OTHERS:
        if (folder / name).exists():
            raise UserError(f"{folder}: holds {name} of another stage; choose another --output-dir")
    results = results_in(folder)
    if overwrite or not results:
        return False
    elsewhere = "choose another --output-dir, or start over with --overwrite"
    try:
        record = read_json(folder / SETTINGS, dict)
        before = record["settings"]
        if not isinstance(before, dict):
            raise UserError("no settings in it")
    except (UserError, KeyError):
        raise UserError(
            f"{folder}: holds {results[0].name}, but {SETTINGS}, which says how it was made, is missing or damaged; "
            + elsewhere
        ) from None
    # With another number of epochs the cosine schedule would have been another one from the first update on.
    allowed = MAY_CHANGE[1:] if settings.get("schedule") == "cosine" else MAY_CHANGE
    may_change = allowed if resume else ()
    longer = "" if resume or not resumable else f"--resume goes on with other {' or '.join(allowed)}; "
    refuse_other_settings(folder, before, settings, may_change=may_change, remedy=longer + elsewhere)
    if not resumable:
        raise UserError(f"{folder}: holds a run with these settings already, which cannot be resumed; {elsewhere}")
    if not resume and record.get("finished") is not False:
        raise UserError(
            f"{folder}: holds a finished run with these settings; go on with --resume and more --epochs, {elsewhere}"
        )
    missing = [name for name in (LAST, BEST) if not (folder / name).exists()]
    if missing and (folder / LOG).exists():  # the log is written after the checkpoints of its epoch
        raise UserError(f"{folder}: {missing[0]} of its run is missing; put it back, or start over with --overwrite")
    return LAST not in missing


def finished_with(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the best epoch of a run with these settings that a folder holds finished; None: there is none.

    Raises
    ------
    UserError
        settings.json is damaged.
    """
    record = read_json(folder / SETTINGS, dict) if (folder / SETTINGS).is_file() else {}
    done = record.get("finished") is True and record.get("settings") == settings and (folder / BEST).exists()
    return record.get("best") if done else None


def claim_folder(folder: Path, settings: Mapping[str, Any], *, resume: bool, overwrite: bool, resumable: bool) -> bool:
    """Make a folder ready for a run with these settings; arguments, result and errors as `check_folder`."""
    found = check_folder(folder, settings, resume=resume, overwrite=overwrite, resumable=resumable)
    results = results_in(folder)
    if overwrite or not results:
        more = (path for pattern in (UNFINISHED, f"{EVENTS}/events.*") for path in folder.glob(pattern))
        notes = (folder / name for name in (COMMAND, RECORDS, LABEL_DEFINITION, SETTINGS))
        for path in (*results, *more, *notes):
            path.unlink(missing_ok=True)
    return found


def results_in(folder: Path) -> list[Path]:
    """Return the files of a folder that a run has to show for its work: what another run would replace or delete."""
    return [path for name in RESULTS for path in sorted(folder.glob(name))]


def note_labels(folder: Path, manifests: Path) -> list[str]:
    """Copy label_def.csv of the manifests into the folder of a run; return the labels that it cannot teach.

    Those have a weight of 0: no train record is known to have them, or none to lack them.
    """
    path = inside(manifests, "manifest_label_def")
    with replacing(folder / LABEL_DEFINITION) as temporary:
        shutil.copyfile(path, temporary)
    if "pos_weight" not in read_header(path):
        return []
    return [name for _, (name, text) in iterate_rows(path, ["name", "pos_weight"]) if finite_number(text) == 0]


def record_run(folder: Path, lineage: Mapping[str, Any], versions: Mapping[str, str], **more: Any) -> None:
    """Write settings.json: the lineage with the settings, versions of what ran, and results of the run.

    With the SHA-256 of the best checkpoint, where there is one, by which `lineage.finetuning_of` knows it as its own.
    """
    best = {"checkpoint_sha256": sha256(folder / BEST)} if (folder / BEST).exists() else {}
    write_json(folder / SETTINGS, {**lineage, "versions": versions, **best, **more})

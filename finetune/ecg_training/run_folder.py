"""The folder of one fine-tuning run: what it holds, and when it may be used again."""

import json
import platform
from pathlib import Path
from typing import Any

import numpy
import torch

from ecg_finetune.files import UserError, replacing

BEST, LAST, SETTINGS = "checkpoint_best.pt", "checkpoint_last.pt", "settings.json"
LOG, CURVES, COMMAND = "training_log.csv", "training_curves.png", "command.sh"
# In the order in which they are deleted: killed in between, a run without its last checkpoint is never gone on with.
WRITTEN = (LAST, BEST, CURVES, COMMAND, LOG, SETTINGS)
# What may differ when a run is resumed: how long to go on, not what is computed.
MAY_CHANGE = ("epochs", "patience")


def claim_folder(folder: Path, settings: dict[str, Any], *, resume: bool, overwrite: bool) -> bool:
    """Make `folder` ready for a run with these settings.

    A folder with a run in it is left alone unless told: "best so far" would start afresh there, and a worse checkpoint
    would replace a better one.

    Returns
    -------
    bool
        Whether there is a run to resume.

    Raises
    ------
    UserError
        The folder holds a run and neither `resume` nor `overwrite` is given; or a run is resumed that has other
        settings, or whose checkpoints have been removed.
    """
    folder = Path(folder)
    present = [name for name in WRITTEN if (folder / name).exists()]
    if overwrite:
        for name in present:
            (folder / name).unlink()
        return False
    if not present:
        return False
    other = _changed_setting(folder, settings)
    if not resume:
        why = f"a run with other settings ({other})" if other else f"a run already ({', '.join(present)})"
        raise UserError(
            f"{folder}: holds {why}; choose another --output-dir, continue with --resume or start over with --overwrite"
        )
    if other:
        raise UserError(
            f"{folder}: its run has other settings ({other}); resume with the same ones, or start over with --overwrite"
        )
    gone = [name for name in (LAST, BEST) if not (folder / name).exists()]
    if gone and (folder / LOG).exists():  # the log comes after the checkpoints of its epoch
        raise UserError(f"{folder}: {gone[0]} of its run is gone; put it back, or start over with --overwrite")
    return LAST not in gone


def interrupted(folder: Path, settings: dict[str, Any]) -> bool:
    """Tell whether `folder` holds a run with exactly these settings that did not come to its end."""
    try:
        before = json.loads((Path(folder) / SETTINGS).read_text(encoding="utf-8"))
        return before["settings"] == settings and before["finished"] is False
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False


def _changed_setting(folder: Path, settings: dict[str, Any]) -> str | None:
    """Describe the first setting in which the folder's run differs; None when there is none."""
    try:
        before = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))["settings"]
        names = [name for name in {**before, **settings} if name not in MAY_CHANGE]
    except FileNotFoundError:
        return f"{SETTINGS} is missing"
    except (ValueError, KeyError, TypeError):
        return f"{SETTINGS} cannot be read"
    for name in names:
        if before.get(name) != settings.get(name):
            return f"{name} was {before.get(name)!r} and is {settings.get(name)!r} now"
    return None


def write_settings(folder: Path, settings: dict[str, Any], **results: Any) -> None:
    """Write settings.json: the settings with the checksums of what went in, the versions, and results of the run."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__}
    with replacing(folder / SETTINGS) as temporary:
        content = {"settings": settings, "versions": versions, **results}
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

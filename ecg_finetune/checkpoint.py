"""Checkpoints of ECG-FM and fairseq-signals: read safely, written, shown, and stripped of validation data.

A checkpoint is a pickle, and unpickling can run any code. These files come from the internet, so they are read as data
(`torch_archive`); `trust=True` unpickles everything, for a file whose origin you know.

    python -m ecg_finetune.checkpoint show FILE          what the file holds
    python -m ecg_finetune.checkpoint strip IN OUT       copy without validation labels and scores, fit to be shared
"""

import argparse
import collections
import pickle
import sys
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ecg_finetune.cli import add_trust, execute, usable_path
from ecg_finetune.files import UserError, existing_file, replacing, shown
from ecg_finetune.label_set import stated_label_set
from ecg_finetune.lineage import Inputs
from ecg_finetune.tables import listed
from ecg_finetune.torch_archive import RefusedGlobal, read_archive, refuse_excess


def load_checkpoint(path: Path, *, trust: bool = False) -> dict[str, Any]:
    """Read a checkpoint to the CPU.

    Parameters
    ----------
    path : Path
        A `torch.save` file whose content is a dict.
    trust : bool
        Unpickle whatever the file holds, which can run any code in it. The safe way is always tried first: a file
        that needs no trust gets none.

    Raises
    ------
    UserError
        The file is missing, unreadable, damaged or no checkpoint, or asks for a global outside the allow-list.
    """
    path = existing_file(path, "the finetune stage")
    try:
        content = read_archive(path)
    except RefusedGlobal as error:
        told = f"it asks for {shown(str(error))}, which is more than weights and settings need and may run code"
        content = _trusted(path, told, trust)
    except zipfile.BadZipFile as error:
        with path.open("rb") as file:
            if file.read(1) != pickle.PROTO:
                raise _unreadable(path, error) from None
        content = _trusted(path, "it is in the format before PyTorch 1.6, and reading that may run code", trust)
    except OSError:
        raise
    except Exception as error:  # a damaged zip or pickle raises anything from EOFError to KeyError
        raise _unreadable(path, error) from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a checkpoint (it holds a {type(content).__name__}); give a .pt of ECG-FM")
    return content


def _trusted(path: Path, refused: str, trust: bool) -> Any:
    """Unpickle whatever a file holds if it is trusted; else say why it is refused."""
    if not trust:
        raise UserError(
            f"{path}: refused, because {refused}; if you trust where the file comes from, repeat with "
            "--trust-checkpoint"
        )
    warnings.warn(f"{path}: trusted, although {refused}", stacklevel=3)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if damaged := archive.testzip():  # PyTorch does not look at its checksums
                    raise zipfile.BadZipFile(f"the checksum of {damaged} in it is wrong")
        content = torch.load(path, map_location="cpu", weights_only=False)
        size = path.stat().st_size
        refuse_excess(content, most_values=size, most_bytes=2 * size)
    except Exception as error:  # the objects may belong to a package that is not installed
        raise _unreadable(path, error) from None
    return content


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return UserError(f"{path}: not a readable checkpoint, or cut off ({reason}); download or copy it again")


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint, under a temporary name first.

    Raises
    ------
    OSError
        The disk is full, or anything else the operating system refuses.
    """
    with replacing(path) as temporary:
        try:
            # Given the path, PyTorch would not tell why a write failed, and keep the temporary name in the file.
            with temporary.open("wb") as file:
                torch.save(dict(content), file)
        except (OSError, RuntimeError) as error:
            reason = error if isinstance(error, OSError) else error.__context__
            if not isinstance(reason, OSError):
                raise
            raise OSError(reason.errno, reason.strerror, str(path)) from None


def strip_validation(checkpoint: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a copy without the per-record labels and scores that fairseq-signals keeps, and what was taken out.

    With `report_auc`, `extra_state` holds the meters of every validation so far, among them the arrays of all labels
    and scores. The meters are plain numbers besides, and only that run's log needs them: any meter that holds an
    array is emptied, so weights, configuration and the numbers of the run stay as they were.
    """
    removed: list[str] = []

    def cleaned(value: Any, where: str) -> Any:
        if isinstance(value, np.ndarray) or (isinstance(value, torch.Tensor) and value.numel() > 1):
            removed.append(f"{where} {tuple(value.shape)}")
            return None
        if isinstance(value, Mapping):
            return type(value)((key, cleaned(item, f"{where}.{key}")) for key, item in value.items())
        if isinstance(value, (list, tuple)):
            kept = [cleaned(item, f"{where}[{number}]") for number, item in enumerate(value)]
            return type(value)(item for item, before in zip(kept, value) if item is not None or before is None)
        return value

    stripped = dict(checkpoint)
    if "extra_state" in stripped:
        stripped["extra_state"] = cleaned(stripped["extra_state"], "extra_state")
    return stripped, removed


def describe(checkpoint: Mapping[str, Any]) -> list[str]:
    """Describe a checkpoint in a few lines: its parts, network, weights, labels, and the validation data it carries."""
    lines = [f"parts: {', '.join(shown(name) for name in checkpoint)}"]
    config = checkpoint.get("cfg")
    model = config.get("model") if isinstance(config, Mapping) else None
    if isinstance(model, Mapping):
        lines += [f"model.{shown(key)}: {shown(value)}" for key, value in model.items() if "mask" not in str(key)]
    weights = checkpoint.get("model")
    if isinstance(weights, Mapping):
        sizes = collections.Counter()
        for name, value in weights.items():
            sizes[str(name).split(".")[0]] += value.numel() if isinstance(value, torch.Tensor) else 0
        lines += [f"weights {shown(part)}: {count:,} numbers" for part, count in sizes.items()]
    state = checkpoint.get("extra_state")
    if isinstance(state, Mapping) and (label_set := stated_label_set(state)):
        lines.append(f"labels: {listed(label_set.names, most=100)}")
    _, removed = strip_validation(checkpoint)
    lines.append(f"validation labels and scores: {len(removed)} arrays" + ("; `strip` removes them" if removed else ""))
    return lines


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of `python -m ecg_finetune.checkpoint`."""
    parser = argparse.ArgumentParser(
        prog="python -m ecg_finetune.checkpoint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(artefact_of={}, base_dir=None)
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="print what a checkpoint holds")
    strip = commands.add_parser("strip", help="copy a checkpoint without validation labels and scores")
    for command in (show, strip):
        command.add_argument("checkpoint", type=usable_path, metavar="FILE", help="the checkpoint to read")
        add_trust(command)
    strip.add_argument("output", type=usable_path, metavar="OUT", help="the file to write; it must not exist")
    return parser


def run(args: argparse.Namespace, _inputs: Inputs) -> str:
    """Show or strip."""
    checkpoint = load_checkpoint(args.checkpoint, trust=args.trust_checkpoint)
    if args.command == "show":
        print("\n".join(describe(checkpoint)))
        return f"{args.checkpoint} shown"
    if args.output.exists():
        raise UserError(f"{args.output}: exists already; give another name for the stripped copy")
    stripped, removed = strip_validation(checkpoint)
    save_checkpoint(args.output, stripped)
    return f"{len(removed)} arrays of validation labels and scores excluded, {args.output} written"


def main() -> int:
    """Run the command line."""
    return execute(get_parser(), run)


if __name__ == "__main__":
    sys.exit(main())

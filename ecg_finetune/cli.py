"""Command-line manners that all scripts share.

A stage's script has one shape: docstring, `get_parser()`, `run(args)`, `main()`. `stage_parser` starts the parser,
`add_path` adds an option whose default is a row of the artefact table, and `execute` is the body of `main`: it prints
the settings first, the summary that `run` returns last, and turns every user-level failure into one line on stderr.
"""

import argparse
import errno
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ecg_finetune.files import UserError
from ecg_finetune.lineage import Inputs
from ecg_finetune.operating_system import usable_cores
from ecg_finetune.paths import ARTEFACTS, locate
from ecg_finetune.waveform import LEADS


def stage_parser(docstring: str) -> argparse.ArgumentParser:
    """Return a parser with the script's docstring as its description and the common `--base-dir`."""
    parser = argparse.ArgumentParser(
        description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--base-dir",
        type=Path,
        default=None,
        metavar="DIR",
        help="root of all stages' files (default: $ECG_FINETUNE_BASE, else the current folder)",
    )
    parser.set_defaults(artefact_of={})
    return parser


def add_path(parser: argparse.ArgumentParser, flag: str, artefact: str, meaning: str) -> None:
    """Add a path option whose default is the location of `artefact`; `execute` fills it in."""
    shown = ARTEFACTS[artefact].location.replace("{n}", "<lead number>")
    action = parser.add_argument(
        flag, type=Path, default=None, metavar="PATH", help=f"{meaning} (default: <base-dir>/{shown})"
    )
    parser.get_default("artefact_of")[action.dest] = artefact


def add_lead(parser: argparse.ArgumentParser) -> None:
    """Add `--lead`."""
    parser.add_argument("--lead", choices=LEADS, default="I", help="the lead to use, by name (default: I)")


def add_workers(parser: argparse.ArgumentParser, waiting: int = 0) -> None:
    """Add `--workers`, of a run on this machine alone, of whose workers so many wait for the disk at any time."""
    more = f" and {waiting} more, as they wait for the disk at times" if waiting else ""
    parser.add_argument(
        "--workers",
        type=positive_int,
        default=usable_cores() + waiting,
        metavar="N",
        help=f"local worker processes (default: the cores this process may use{more})",
    )


def add_batch(parser: argparse.ArgumentParser, waiting: int = 0) -> None:
    """Add `--workers` and `--dask`, which every batch run has."""
    add_workers(parser, waiting)
    parser.add_argument(
        "--dask",
        default=None,
        metavar="ADDRESS",
        help="run on the Dask cluster of this scheduler instead, e.g. tcp://scheduler:8786 (default: local workers)",
    )


def positive_int(text: str) -> int:
    """Parse an integer of at least 1 for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def non_negative_int(text: str) -> int:
    """Parse an integer of at least 0 for argparse."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is not at least 0")
    return value


def fraction(text: str) -> float:
    """Parse a number from 0 to 1 for argparse."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def execute(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace, Inputs], str],
    argv: list[str] | None = None,
    resolve: Callable[[argparse.Namespace], None] | None = None,
) -> int:
    """Parse, print the settings, run, print what was done; return the exit code.

    `resolve` fills in the defaults that depend on other options, before the settings are printed.

    Exit codes: 0 done, 1 a user-level error told in one line on stderr, 2 wrong usage (argparse), 130 Ctrl-C.
    """
    args = parser.parse_args(argv)
    args.base_dir = Path(args.base_dir or os.environ.get("ECG_FINETUNE_BASE") or ".")
    for dest, artefact in args.artefact_of.items():
        if getattr(args, dest) is None:
            setattr(args, dest, locate(args.base_dir, artefact, getattr(args, "lead", "I")))
    del args.artefact_of
    inputs = Inputs(args.base_dir)
    started = time.monotonic()
    try:
        if resolve is not None:
            resolve(args)
        print(f"{parser.prog}: {parser.description.strip().splitlines()[0]}")
        for name, value in sorted(vars(args).items()):
            print(f"  --{name.replace('_', '-')} {value}")
        sys.stdout.flush()
        summary = run(args, inputs)
        inputs.refuse_changed()
        print(f"done in {time.monotonic() - started:.1f} s: {summary}", flush=True)
    except UserError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(describe_os_error(error))
    except KeyboardInterrupt as stop:
        again = "the same command without --overwrite" if getattr(args, "overwrite", False) else "the same command"
        return _fail(str(stop) or f"stopped by Ctrl-C; what was finished is kept, run {again} to go on", code=130)
    return 0


def describe_os_error(error: OSError) -> str:
    """Say in one line what the operating system refused, and the remedy where there is a known one."""
    remedy = {
        errno.ENOSPC: "the disk is full: free space and run the same command again; finished files are kept",
        errno.EDQUOT: "the disk quota is used up: free space and run the same command again; finished files are kept",
        errno.EROFS: "the file system is read-only: choose another --base-dir or output path",
        errno.EACCES: "no permission: check the owner and mode",
        errno.ENOENT: "no such file or folder",
    }.get(error.errno, error.strerror or str(error))
    return f"{error.filename}: {remedy}" if error.filename else remedy


def _fail(message: str, code: int = 1) -> int:
    sys.stdout.flush()
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return code

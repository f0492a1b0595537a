"""Command-line manners that all scripts share.

A stage's script has one shape: docstring, `get_parser()`, `run(args)`, `main()`. `stage_parser` starts the parser,
`add_path` adds an option whose default is a row of the artefact table, and `execute` is the body of `main`: it prints
the settings first, the summary that `run` returns last, and turns every user-level failure into one line on stderr.
"""

import argparse
import errno
import io
import math
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ecg_finetune.files import UserError, short_repr
from ecg_finetune.lineage import Inputs
from ecg_finetune.paths import ARTEFACTS, locate
from ecg_finetune.tables import finite_number
from ecg_finetune.waveform import LEADS

# Far beyond what any run needs, and what every number fits that they become: 32 bits, NumPy's seeds, a list's length.
MOST_NUMBER = 2**32 - 1
MOST_WORKERS = 1000
# What Linux takes, and far deeper than folders are.
MOST_PATH_BYTES, MOST_PATH_PARTS = 4095, 200
MOST_MESSAGE = 3000  # characters of an error


def stage_parser(docstring: str) -> argparse.ArgumentParser:
    """Return a parser with the script's docstring as its description and the common `--base-dir`."""
    parser = argparse.ArgumentParser(
        description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.register("type", Path, usable_path)  # every option of type=Path is parsed by it
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
        type=whole_number(1, MOST_WORKERS),
        default=usable_cores() + waiting,
        metavar="N",
        help=f"local worker processes (default: the cores this process may use{more})",
    )


def add_batch(parser: argparse.ArgumentParser, waiting: int = 0) -> None:
    """Add `--workers` and `--dask`, which every batch run has."""
    add_workers(parser, waiting)
    parser.add_argument(
        "--dask",
        type=scheduler_address,
        default=None,
        metavar="ADDRESS",
        help="run on the Dask cluster of this scheduler instead, e.g. tcp://scheduler:8786 (default: local workers)",
    )


def usable_cores() -> int:
    """Return how many cores this process may run on (cgroup-unaware, affinity-aware)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_path(text: str) -> Path:
    """Parse a path for argparse: one that the system can have and that can be written into a text file."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty; leave the option out for its default")
    if "\0" in text:
        raise argparse.ArgumentTypeError(f"{short_repr(text)} holds a zero byte")
    found = Path(os.path.expanduser(text))  # noqa: PTH111  Path would take ./~ for the home folder, too
    if len(os.fsencode(text)) > MOST_PATH_BYTES or len(found.parts) > MOST_PATH_PARTS:
        raise argparse.ArgumentTypeError(f"{short_repr(text)} is longer than any path")
    try:
        os.fsencode(text).decode()
    except UnicodeDecodeError:
        raise argparse.ArgumentTypeError(f"{short_repr(text)} is no UTF-8 text; rename the folder or file") from None
    return found


def whole_number(least: int, most: int = MOST_NUMBER) -> Callable[[str], int]:
    """Return a parser for argparse: plain digits, from `least` to `most`."""

    def parse(text: str) -> int:
        if re.fullmatch("[+-]?[0-9]{1,20}", text) and least <= int(text) <= most:
            return int(text)
        raise argparse.ArgumentTypeError(f"{short_repr(text)} is not a whole number from {least} to {most:,}")

    return parse


positive_int = whole_number(1)
non_negative_int = whole_number(0)


def number(text: str) -> float:
    """Parse a finite number for argparse."""
    value = finite_number(text)
    if math.isnan(value):
        raise argparse.ArgumentTypeError(f"{short_repr(text)} is not a number")
    return value


def fraction(text: str) -> float:
    """Parse a number from 0 to 1 for argparse."""
    value = number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{short_repr(text)} is not between 0 and 1")
    return value


def scheduler_address(text: str) -> str:
    """Parse the address of a Dask scheduler for argparse."""
    if not re.fullmatch(r"([a-z]+://)?[!-~]+:[0-9]{1,5}", text):
        raise argparse.ArgumentTypeError(f"{short_repr(text)} is no address such as tcp://scheduler:8786")
    return text


def execute(
    parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace, Inputs], str], argv: list[str] | None = None
) -> int:
    """Parse, print the settings, run, print what was done; return the exit code.

    Exit codes: 0 done, 1 a user-level error told in one line on stderr, 2 wrong usage (argparse), 130 Ctrl-C.
    """
    args = parser.parse_args(argv)
    try:
        args.base_dir = args.base_dir or usable_path(os.environ.get("ECG_FINETUNE_BASE") or ".")
    except argparse.ArgumentTypeError as error:
        parser.error(f"environment variable ECG_FINETUNE_BASE: {error}")
    for dest, artefact in args.artefact_of.items():
        if getattr(args, dest) is None:
            setattr(args, dest, locate(args.base_dir, artefact, getattr(args, "lead", "I")))
    del args.artefact_of
    inputs = Inputs()
    started = time.monotonic()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may know fewer characters than a path or a label has
            stream.reconfigure(errors="backslashreplace")
    try:
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
    except UnicodeEncodeError as error:
        return _fail(
            f"{short_repr(error.object)} cannot be written as {error.encoding} text; rename that file or folder"
        )
    except KeyboardInterrupt:
        return _fail("stopped by Ctrl-C; what was finished is kept, run the same command to go on", code=130)
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
    # A message can hold names out of a file, and these anything, escape sequences of a terminal too.
    line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in " ".join(message.split()))
    if len(line) > MOST_MESSAGE:
        line = f"{line[: MOST_MESSAGE // 2]} ... {line[-MOST_MESSAGE // 2 :]}"
    print(f"error: {line}", file=sys.stderr, flush=True)
    return code

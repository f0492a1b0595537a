"""Command-line manners that all scripts share.

A stage's script has one shape: docstring, `get_parser()`, `run(args)`, `main()`. `stage_parser` starts the parser,
`add_path` adds an option whose default is a row of the artefact table, and `execute` is the body of `main`: it prints
the settings first, the summary that `run` returns last, and turns every user-level failure into one line on stderr.
"""

import argparse
import contextlib
import errno
import functools
import os
import re
import select
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ecg_finetune.leads import LEADS
from ecg_finetune.operating_system import process_exists, sync_file, usable_cores
from ecg_finetune.paths import ARTEFACTS, locate

LARGEST_INT = 2**32 - 1  # of an option: the largest seed that numpy, scikit-learn and PyTorch all take
MOST_PROCESSES = 1024
READER_GONE = 141  # what a shell gives for a program that a closed pipe has ended


class UserError(Exception):
    """Something the user can mend: the message names the file, row or value, and what to do."""


# Every input file read so far and what it was then: see `watch_input`.
_inputs: dict[Path, tuple[int, int, int]] = {}


def watch_input(path: Path) -> None:
    """Note that `path` is about to be read; `execute` refuses to report success if it changes during the run."""
    _inputs[Path(path)] = _identity(path)


def _identity(path: Path) -> tuple[int, int, int]:
    status = Path(path).stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _refuse_changed_inputs() -> None:
    for path, identity in _inputs.items():
        if not path.exists() or _identity(path) != identity:
            raise UserError(
                f"{path}: the file changed during this run, what was written belongs to its earlier content; run again"
            )


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
        type=integer_from(1, MOST_PROCESSES),
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


def integer_from(least: int, most: int = LARGEST_INT) -> Callable[[str], int]:
    """Return the function by which argparse parses an integer of `least` to `most`: digits, and nothing else."""

    def parse(text: str) -> int:
        if not re.fullmatch("[0-9]{1,10}", text) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not an integer from {least} to {most:,}")
        return int(text)

    return parse


positive_int = integer_from(1)
non_negative_int = integer_from(0)


def real_number(text: str) -> float:
    """Parse a number for argparse: digits, point and exponent; not all that Python reads, such as 1_000 or nan."""
    try:
        return float(re.fullmatch(r"[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?", text)[0])
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number") from None


def fraction(text: str) -> float:
    """Parse a number from 0 to 1 for argparse."""
    value = real_number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def orderly_output(main: Callable[..., int]) -> Callable[..., int]:
    """Decorate a function that prints and returns an exit code, so that it may be used in any shell.

    Where nobody reads the output any more, as with `| head`, it ends without a word, with exit code 141; streams that
    the caller has closed, and characters that the locale does not have, do no harm.
    """

    @functools.wraps(main)
    def decorated(*args, **kwargs) -> int:
        _prepare_output()
        try:
            return main(*args, **kwargs)
        except BrokenPipeError:
            if not _nobody_reads():
                raise
            return READER_GONE
        finally:
            _finish_output()

    return decorated


@orderly_output
def execute(
    parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], str], argv: list[str] | None = None
) -> int:
    """Parse, print the settings, run, print what was done; return the exit code.

    Exit codes: 0 done, 1 a user-level error told in one line on stderr, 2 wrong usage (argparse), 130 Ctrl-C, 141
    nobody reads the output any more.
    """
    args = parser.parse_args(argv)
    args.base_dir = Path(args.base_dir or os.environ.get("ECG_FINETUNE_BASE") or ".")
    for dest, artefact in args.artefact_of.items():
        if getattr(args, dest) is None:
            setattr(args, dest, locate(args.base_dir, artefact, getattr(args, "lead", "I")))
    del args.artefact_of
    _inputs.clear()
    started = time.monotonic()
    try:
        purpose = (parser.description or "").strip().partition("\n")[0]  # without one under python -OO
        print(f"{parser.prog}: {purpose}" if purpose else parser.prog)
        for name, value in sorted(vars(args).items()):
            print(f"  --{name.replace('_', '-')} {value}")
        sys.stdout.flush()
        _refuse_undecoded_paths(args)
        summary = run(args)
        _refuse_changed_inputs()
        print(f"done in {time.monotonic() - started:.1f} s: {summary}", flush=True)
    except UserError as error:
        return _fail(str(error))
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            raise
        return _fail(describe_os_error(error))
    except UnicodeEncodeError as error:
        return _fail(f"{error.object[:200]!a}: not to be written in this locale's encoding ({error.encoding}); {UTF8}")
    except KeyboardInterrupt:
        return _fail("stopped by Ctrl-C; what was finished is kept, run the same command to go on", code=130)
    return 0


UTF8 = "set PYTHONUTF8=1 and run the same command again"


def _prepare_output() -> None:
    """Have streams that take any text, even where the caller has closed them, as `>&-` does, or the locale is ASCII."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # It gets the lowest free number, its own: else an output file would, and whatever a library prints with it.
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _nobody_reads() -> bool:
    """Tell whether stdout or stderr is a pipe whose other end has been closed."""
    poll = select.poll()
    for descriptor in (1, 2):
        poll.register(descriptor, 0)  # asks for errors alone
    return bool(poll.poll(0))


def _finish_output() -> None:
    """Write out what was printed; what cannot be is dropped, so that Python does not complain of it at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, stream.fileno())
            os.close(nothing)


def _refuse_undecoded_paths(args: argparse.Namespace) -> None:
    """Refuse a path whose bytes are no text in this locale: it could not be written into a manifest or a report."""
    for name, value in sorted(vars(args).items()):
        if isinstance(value, Path):
            path = str(value.absolute())
            try:
                path.encode()
            except UnicodeEncodeError:
                option, encoding = name.replace("_", "-"), sys.getfilesystemencoding()
                raise UserError(f"--{option} {path!a}: no {encoding} text; {UTF8}, or rename it") from None


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
    _finish_output()
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return code


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block succeeds, else remove it.

    The content is on disk before the rename, so no half-written file is ever seen under its final name, even after a
    power failure. Missing parent folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix is kept last: numpy and pandas choose a format by it.
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    remove_leftovers(path.parent, path.name)
    try:
        yield temporary
        with temporary.open("rb") as handle:
            sync_file(handle.fileno())
        temporary.replace(path)
        _inputs.pop(path, None)  # our own doing
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path, name: str = "") -> None:
    """Remove the temporary files that killed processes left in a folder: those of the file `name`, or all."""
    ours = re.compile(rf"\.tmp-([1-9][0-9]{{0,9}})-{re.escape(name) or '.+'}", re.DOTALL)
    for leftover in Path(folder).glob(".tmp-*"):
        match = ours.fullmatch(leftover.name)
        if match and not process_exists(int(match[1])):
            with contextlib.suppress(OSError):  # a folder, which is none of ours, or gone
                leftover.unlink()


def refuse_irregular(path: Path) -> None:
    """Refuse a pipe, a device or a folder in the place of an input file: one could wait for it, or read it, for ever.

    Raises
    ------
    UserError
        The path is of something that is not a regular file. One that does not exist is left to the reader.
    """
    if Path(path).exists() and not Path(path).is_file():
        raise UserError(f"{path}: not a regular file but a folder, a pipe or a device; give the path of a file")

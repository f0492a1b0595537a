"""Command-line manners that all scripts share.

A stage's script has one shape: docstring, `get_parser()`, `run(args)`, `main()`. `stage_parser` starts the parser,
`add_path` adds an option whose default is a row of the artefact table, and `execute` is the body of `main`: it prints
the settings first, the summary that `run` returns last, and turns every user-level failure into one line on stderr.
"""

import argparse
import errno
import functools
import os
import re
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ecg_finetune.device import PRECISIONS
from ecg_finetune.files import UserError, short_repr
from ecg_finetune.lineage import Inputs
from ecg_finetune.operating_system import usable_cores
from ecg_finetune.paths import ARTEFACTS, locate
from ecg_finetune.waveform import HIGHEST_RATE, LEADS, LOWEST_RATE, millivolts_per

LARGEST_INT = 2**32 - 1  # of an option: the largest seed that numpy, scikit-learn and PyTorch all take
MOST_PROCESSES = 1024
# What Linux takes, and far deeper than folders are.
MOST_PATH_BYTES, MOST_PATH_PARTS = 4095, 200
MOST_MESSAGE = 3000  # characters of an error
READER_GONE = 141  # what a shell gives for a program that a closed pipe has ended


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


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add `--channel`, `--rate` and `--unit`: how a recording is read whose file leaves that open."""
    parser.add_argument(
        "--channel",
        type=channel_name,
        default=None,
        metavar="NAME_OR_NUMBER",
        help="the channel to take for the lead whatever its name says: its name, or its number from 1 (default: the "
        "one that is named like the lead, or the only one)",
    )
    parser.add_argument(
        "--rate",
        type=sampling_rate,
        default=None,
        metavar="HZ",
        help="samples a second, of files that state none: CSV, .npy, .npz, .mat (default: such a file is refused)",
    )
    parser.add_argument(
        "--unit",
        type=voltage_unit,
        default=None,
        metavar="UNIT",
        help="mV, uV, V or nV: the unit of numbers that state none, in the same files (default: mV)",
    )


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
        type=scheduler_address,
        default=None,
        metavar="ADDRESS",
        help="run on the Dask cluster of this scheduler instead, e.g. tcp://scheduler:8786 (default: local workers)",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add `--device`, `--precision` and `--trust-checkpoint`, of a run that loads a checkpoint and runs the network."""
    parser.add_argument(
        "--device",
        default="auto",
        help="auto (CUDA if there is one, else Apple's mps, else cpu), cpu, cuda, cuda:N or mps (default: auto)",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="arithmetic of the network, in training of its matrix products alone: auto = bf16 on a CUDA GPU that has "
        "it, else float32 (default: auto)",
    )
    add_trust(parser)


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add `--trust-checkpoint`."""
    parser.add_argument(
        "--trust-checkpoint",
        action="store_true",
        help="load a checkpoint that holds unusual Python objects; it can run code, so only from a source you trust "
        "(default: refuse it)",
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


class Listed(tuple):
    """Values that were given between commas, and are shown so."""

    def __str__(self) -> str:
        return ",".join(f"{value:g}" if isinstance(value, float) else str(value) for value in self)


def between_commas(parse: Callable[[str], object], least: int = 1, most: int = 100) -> Callable[[str], Listed]:
    """Return the function by which argparse parses values between commas, each once and each by `parse`."""

    def parse_all(text: str) -> Listed:
        values = Listed(parse(part) for part in text.split(","))
        if len(set(values)) < len(values):
            raise argparse.ArgumentTypeError(f"{short_repr(text)} has a value twice")
        if not least <= len(values) <= most:
            wanted = f"{least}" if least == most else f"{least} to {most}"
            raise argparse.ArgumentTypeError(f"{short_repr(text)}: {len(values)} given between commas, not {wanted}")
        return values

    return parse_all


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
        found.stat()
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
            raise argparse.ArgumentTypeError(f"{short_repr(text)}: {error.strerror}") from None
    return found


def channel_name(text: str) -> str:
    """Parse the name or number of a channel for argparse."""
    if not text.strip() or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{short_repr(text)} is no name or number of a channel")
    return text.strip()


def sampling_rate(text: str) -> float:
    """Parse a sampling rate for argparse."""
    value = real_number(text)
    if not LOWEST_RATE <= value <= HIGHEST_RATE:
        raise argparse.ArgumentTypeError(f"{short_repr(text)} is not between {LOWEST_RATE} and {HIGHEST_RATE:,} Hz")
    return int(value) if value.is_integer() else value


def voltage_unit(text: str) -> str:
    """Parse a unit of voltage for argparse."""
    if millivolts_per(text) is None:
        raise argparse.ArgumentTypeError(f"{short_repr(text)} is none of mV, uV, V and nV")
    return text


def fraction(text: str) -> float:
    """Parse a number from 0 to 1 for argparse."""
    value = real_number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{short_repr(text)} is not between 0 and 1")
    return value


def scheduler_address(text: str) -> str:
    """Parse the address of a Dask scheduler for argparse."""
    if not re.fullmatch(r"([a-z]+://)?[!-~]+:[0-9]{1,5}", text):
        raise argparse.ArgumentTypeError(f"{short_repr(text)} is no address such as tcp://scheduler:8786")
    return text


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
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace, Inputs], str],
    argv: list[str] | None = None,
    resolve: Callable[[argparse.Namespace], None] | None = None,
) -> int:
    """Parse, print the settings, run, print what was done; return the exit code.

    `resolve` fills in the defaults that depend on other options, before the settings are printed.

    Exit codes: 0 done, 1 a user-level error told in one line on stderr, 2 wrong usage (argparse), 130 Ctrl-C, 141
    nobody reads the output any more.
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
    inputs = Inputs(args.base_dir)
    started = time.monotonic()
    try:
        if resolve is not None:
            resolve(args)
        purpose = (parser.description or "").strip().partition("\n")[0]  # without one under python -OO
        print(f"{parser.prog}: {purpose}" if purpose else parser.prog)
        for name, value in sorted(vars(args).items()):
            shown = " ".join(map(str, value)) if isinstance(value, list) else value
            print(f"  --{name.replace('_', '-')} {shown}")
        sys.stdout.flush()
        _refuse_undecoded_paths(args)
        summary = run(args, inputs)
        inputs.refuse_changed()
        print(f"done in {time.monotonic() - started:.1f} s: {summary}", flush=True)
    except UserError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("ecg_"):  # ours
            raise
        return _fail(f'{error.name} is not installed, which this needs: pip install "ecg-finetune[pipeline]"')
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            raise
        return _fail(describe_os_error(error))
    except UnicodeEncodeError as error:
        return _fail(f"{error.object[:200]!a}: not to be written in this locale's encoding ({error.encoding}); {UTF8}")
    except KeyboardInterrupt as stop:
        again = "the same command without --overwrite" if getattr(args, "overwrite", False) else "the same command"
        return _fail(str(stop) or f"stopped by Ctrl-C; what was finished is kept, run {again} to go on", code=130)
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
    # A message can hold names out of a file, and these anything, escape sequences of a terminal too.
    line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in " ".join(message.split()))
    if len(line) > MOST_MESSAGE:
        line = f"{line[: MOST_MESSAGE // 2]} ... {line[-MOST_MESSAGE // 2 :]}"
    print(f"error: {line}", file=sys.stderr, flush=True)
    return code

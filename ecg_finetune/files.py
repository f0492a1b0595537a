"""Files that stages hand over: written whole or not at all, read with one-line errors; JSON, NPY and checksums."""

import contextlib
import functools
import hashlib
import io
import json
import math
import os
import re
import reprlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ecg_finetune.operating_system import process_exists, sync_file

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200
short_repr = _SHORT.repr  # for messages: a value out of a file can be of any length


class UserError(Exception):
    """Something the user can mend: the message names the file, row or value, and what to do."""


def shown(value: object) -> str:
    r"""Return a name or value out of a file for a message: short, on one line, printable; a text without quotes.

    >>> shown("adam"), shown("two" + chr(10) + "lines"), shown([1, 2, 3] * 9)
    ('adam', "'two\\nlines'", '[1, 2, 3, 1, 2, 3, ...]')
    """
    return value if isinstance(value, str) and len(value) <= 200 and value.isprintable() else short_repr(value)


def existing_file(path: Path, made_by: str = "the stage that makes it") -> Path:
    """Return the path of an input file, which `made_by` makes.

    Raises
    ------
    UserError
        There is no such file, or it is no regular file: a pipe or a device could be read for ever.
    """
    path = Path(path)
    if not path.is_file():
        if path.exists():
            raise UserError(f"{path}: not a regular file but a folder, a pipe or a device; give the path of a file")
        raise UserError(f"{path}: no such file; give its path or run {made_by} (FILE_LOCATIONS.md)")
    return path


def refuse_outputs(*, files: Iterable[Path] = (), folders: Iterable[Path] = ()) -> None:
    """Refuse outputs that cannot be written; called before the first one is, so that a refused run changes nothing.

    Raises
    ------
    UserError
        Something else is there under the name of a file or folder to write or of a folder above it, or the folder may
        not be written to.
    """
    for path, is_right, kind in (
        *((path, Path.is_file, "regular file") for path in files),
        *((path, Path.is_dir, "folder") for path in folders),
    ):
        real = Path(os.path.realpath(path))
        if real.is_symlink():
            raise UserError(f"{path}: a link that leads to itself; choose another path")
        if real.exists() and not is_right(real):
            raise UserError(f"{path}: exists and is not a {kind}; choose another path")
        above = next(parent for parent in real.parents if parent.exists())
        if not above.is_dir():
            raise UserError(f"{above}: not a folder, so {path} cannot be written; choose another path")
        if not os.access(above, os.W_OK | os.X_OK):
            if hasattr(os, "statvfs") and os.statvfs(above).f_flag & os.ST_RDONLY:
                raise UserError(f"{above}: the file system is read-only; choose another --base-dir or path for {path}")
            raise UserError(f"{above}: no permission to write into this folder; choose another path for {path}")


def printable(text: str) -> str:
    r"""Return a text for the terminal: what would act on it, such as an escape sequence, or is no text, is escaped.

    >>> printable("a" + chr(27) + "[1m"), printable("two" + chr(10) + "lines")
    ('a\\x1b[1m', 'two\\nlines')
    """
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block succeeds, else remove it.

    The content is on disk before the rename, so no half-written file is ever seen under its final name, even after a
    power failure. Missing parent folders are made.
    """
    path = Path(path)
    refuse_outputs(files=[path])  # the rename would replace a device or pipe
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix is kept last: numpy and pandas choose a format by it.
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    remove_leftovers(path.parent, path.name)
    try:
        yield temporary
        with temporary.open("rb") as handle:
            sync_file(handle.fileno())
        temporary.replace(path)
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


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as handle:
        digest = hashlib.sha256()
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_text(path: Path, made_by: str = "the stage that makes it") -> str:
    """Read a UTF-8 text file, which `made_by` makes.

    Raises
    ------
    UserError
        The file is missing or not UTF-8 text.
    """
    path = existing_file(path, made_by)
    try:
        return path.read_bytes().decode("utf-8")  # read_text would turn every kind of line end into a line feed
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error}); run {made_by} again") from None


def read_json(path: Path, kind: type) -> dict | list:
    """Read a JSON file that holds an object (`kind` dict) or a list.

    Raises
    ------
    UserError
        The file is missing, no JSON, holds something else, or names a key twice in one object.
    """
    path = existing_file(path)

    def unique(pairs):
        table = {}
        for key, value in pairs:
            if key in table:
                raise UserError(f"{path}: {short_repr(key)} is listed twice; remove one")
            table[key] = value
        return table

    def number(text, kind=float):
        if len(text) > 300 or not math.isfinite(value := kind(text)):
            raise ValueError(f"{short_repr(text)} is no number of a usual size")
        return value

    try:
        content = json.loads(
            path.read_text(encoding="utf-8-sig"),
            object_pairs_hook=unique,
            parse_constant=number,
            parse_float=number,
            parse_int=functools.partial(number, kind=int),
        )
        json.dumps(content, ensure_ascii=False).encode()  # half a character, written as \ud800, cannot be shown
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); correct it or make it again") from None
    if not isinstance(content, kind):
        raise UserError(
            f"{path}: it must hold a JSON {'list' if kind is list else 'object'}; correct it or make it again"
        )
    return content


def write_json(path: Path, content: dict | list) -> None:
    """Write a JSON file, under a temporary name first."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_array(path: Path) -> np.ndarray:
    """Read an .npy file.

    Raises
    ------
    UserError
        The file is missing or no array of numbers.
    """
    path = existing_file(path)
    try:
        # Through a map, because numpy makes room for any shape that the file claims before it reads.
        content = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(content, np.memmap):
            content = np.array(content)
    except Exception as error:  # numpy reads the header with Python's own parser, which raises anything
        raise UserError(f"{path}: not a readable .npy file ({error}); run the stage that makes it again") from None
    if not isinstance(content, np.ndarray):
        raise UserError(f"{path}: an archive of arrays, not one .npy array; run the stage that makes it again")
    return content


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an .npy file, under a temporary name first."""
    content = io.BytesIO()  # np.save into a real file hides the reason when the disk is full
    np.save(content, array)
    with replacing(path) as temporary:
        temporary.write_bytes(content.getbuffer())

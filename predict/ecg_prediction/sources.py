"""Which recordings are asked about: files, folders, or the rows of a record list, one at a time."""

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ecg_finetune.files import UserError
from ecg_finetune.operating_system import read_regular
from ecg_finetune.tables import iterate_rows
from ecg_finetune.wfdb_records import MOST_HEADER_BYTES

MOST_NAMED = 5  # files that are left out


class Source(NamedTuple):
    """A recording: its name in the tables, and where it is, from any folder of this file system."""

    name: str
    path: str


class Given:
    """Recordings that are named one by one, or in folders.

    Of a folder, and of those in it, all WFDB records are meant; if there are none, all files.

    Raises
    ------
    UserError
        A path does not exist, or a folder holds no file.
    """

    def __init__(self, paths: Sequence[Path]):
        self.paths = paths
        self.left_out, self.first_left_out = 0, []  # files of folders that are no part of a WFDB record
        self.folders: dict[Path, bool] = {}  # whether WFDB records are meant
        self.count = 0
        for path in paths:
            if not path.is_dir():
                if not path.exists() and not Path(f"{path}.hea").exists():
                    raise UserError(f"{path}: no such recording; give a file, a WFDB record or a folder of them")
                self.count += 1
                continue
            files, records, others, first = 0, 0, 0, []
            for folder, names in itertools.groupby(files_below(path), os.path.dirname):
                names = list(names)
                headers, left_out = parts_of_records(folder, names)
                files, records, others = files + len(names), records + headers, others + len(left_out)
                first += left_out[: MOST_NAMED - len(first)]
            if not files:
                raise UserError(f"{path}: a folder without files; give one with recordings")
            self.folders[path] = records > 0
            self.count += records or files
            if records:
                self.left_out += others
                self.first_left_out += first[: MOST_NAMED - len(self.first_left_out)]

    def __iter__(self) -> Iterator[Source]:
        for path in self.paths:
            if path not in self.folders:
                yield Source(record_name(str(path)), str(path.absolute()))
                continue
            for name in files_below(path):
                if name.endswith(".hea") or not self.folders[path]:
                    yield Source(record_name(name), os.path.abspath(name))  # noqa: PTH100


class Listed:
    """The recordings of a record list, `path` below a root.

    Raises
    ------
    UserError
        The list is missing or damaged, holds no row, or a row without a path.
    """

    left_out, first_left_out = 0, ()

    def __init__(self, record_list: Path, root: Path):
        self.record_list, self.root = record_list, root
        if not root.is_dir():
            raise UserError(f"{root}: no such folder; give the folder that the paths start from with --raw-root")
        self.count = 0
        for line, (path,) in iterate_rows(record_list, ["path"]):
            if not path:
                raise UserError(f"{record_list}: line {line} has no path; correct or remove the row")
            self.count += 1
        if not self.count:
            raise UserError(f"{record_list}: no rows below the header; give a list with recordings")

    def __iter__(self) -> Iterator[Source]:
        for _, (path,) in iterate_rows(self.record_list, ["path"]):
            yield Source(path, str(self.root.absolute() / path))


def files_below(folder: Path) -> Iterator[str]:
    """Yield the path of every file in a folder and in those below it, in order; hidden ones are passed over."""
    for inner, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield os.path.join(inner, name)  # noqa: PTH118


def parts_of_records(folder: str, names: Sequence[str]) -> tuple[int, list[str]]:
    """Return how many of the files of a folder are WFDB headers, and which are no part of a record."""
    headers = [name for name in names if name.endswith(".hea")]
    stems = {name.removesuffix(".hea") for name in headers}
    others = [name for name in names if not name.endswith(".hea") and not is_signal_file(name, stems)]
    if headers and others:  # headers may name files of any name
        named = {os.path.join(folder, name) for header in headers for name in named_files(header)}  # noqa: PTH118
        others = [name for name in others if name not in named]
    return len(headers), others


def is_signal_file(path: str, stems: set[str]) -> bool:
    """Tell whether a file has the usual name of a signal file of one of these records."""
    stem, extension = os.path.splitext(path)  # noqa: PTH122
    return extension in (".dat", ".mat") and stem in stems


def named_files(header: str) -> set[str]:
    """Return the signal files that a WFDB header names; of one that cannot be read none."""
    try:
        lines = read_regular(header, MOST_HEADER_BYTES).splitlines()
    except (OSError, ValueError):
        return set()
    return {os.fsdecode(line.split()[0]) for line in lines if line.strip() and not line.lstrip().startswith(b"#")}


def record_name(path: str) -> str:
    """Return the name of a recording: its path, of a WFDB record without the header's extension.

    A path that is no text, as on old disks, is in quotes, with its bytes escaped.
    """
    name = os.path.normpath(path.removesuffix(".hea"))
    try:
        name.encode()
    except UnicodeEncodeError:
        return "'" + os.fsencode(name).replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace") + "'"
    return name

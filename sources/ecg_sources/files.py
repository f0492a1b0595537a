"""The files below the root of a data set, which is walked once."""

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from ecg_finetune.files import UserError

HEADER = ".hea"
SIGNALS = (HEADER, ".dat", ".mat")  # of a WFDB record, which is named without an ending


class Files:
    """The regular files below a folder, links followed.

    Attributes
    ----------
    root : Path
    paths : list of str
        From the root, sorted.

    Raises
    ------
    UserError
        There is no such folder, or it holds no file.
    """

    def __init__(self, root: Path):
        if not root.is_dir():
            raise UserError(f"{root}: no such folder; give the data set's folder as --root")
        self.root = root
        self.paths = sorted(_walk(root))
        if not self.paths:
            raise UserError(f"{root}: holds no file; give the data set's folder as --root")

    @cached_property
    def records(self) -> list[str]:
        """The WFDB records: the paths of the headers, without the ending."""
        return [path.removesuffix(HEADER) for path in self.paths if path.endswith(HEADER)]

    def table(self, given: Path | None, names: Sequence[str], what: str) -> Path:
        """Return the path of a table: the one given, else the first found of these names, the one nearest to the root.

        Raises
        ------
        UserError
            None is found.
        """
        if given is not None:
            return given
        for name in names:
            found = [path for path in self.paths if PurePosixPath(path).name == name]
            if found:
                return self.root / min(found, key=lambda path: (path.count("/"), path))
        raise UserError(
            f"{self.root}: no {' or '.join(names)} below it, {what}; give the data set's folder, or --table FILE"
        )

    def below(self, table: Path) -> str:
        """Return the folder of a table from the root, with a slash at its end; empty where it is not below the root."""
        folder = table.parent.resolve()
        root = self.root.resolve()
        return f"{folder.relative_to(root).as_posix()}/".removeprefix("./") if folder.is_relative_to(root) else ""


class Finder:
    """Finds recordings by path or name, and remembers which it found.

    Parameters
    ----------
    paths : sequence of str
        The recordings that there are: of WFDB records the path without an ending.

    Attributes
    ----------
    several : int
        How many recordings were looked for by name and were there more than once; the first path was taken.
    """

    def __init__(self, paths: Sequence[str]):
        self.paths = paths
        self.several = 0
        self._all = frozenset(paths)
        self._named: dict[str, list[str]] = {}
        for path in paths:
            name = PurePosixPath(path)
            for key in {name.name, name.stem}:
                self._named.setdefault(key, []).append(path)
        self._taken: set[str] = set()

    def find(self, *wanted: str) -> str | None:
        """Return the first of `candidates`, None where there is none."""
        candidates = self.candidates(*wanted)
        self.several += len(candidates) > 1
        self._taken.update(candidates[:1])
        return candidates[0] if candidates else None

    def candidates(self, *wanted: str) -> list[str]:
        """Return the first of these paths that there is, else all paths that end in the last, extension or not."""
        found = [path for path in wanted if path in self._all][:1]
        end = f"/{wanted[-1]}"
        return found or [
            path
            for path in self._named.get(PurePosixPath(end).name, [])
            if f"/{path}".endswith(end) or f"/{PurePosixPath(path).with_suffix('')}".endswith(end)
        ]

    def not_asked_for(self) -> list[str]:
        """Return the recordings that were never found."""
        return [path for path in self.paths if path not in self._taken]


def _walk(root: Path) -> list[str]:
    found, seen, waiting = [], set(), [("", os.fspath(root))]
    while waiting:
        prefix, folder = waiting.pop()
        status = os.stat(folder)  # noqa: PTH116  a Path each would take most of the time
        if (status.st_dev, status.st_ino) in seen:  # links that lead in a circle
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    waiting.append((f"{prefix}{entry.name}/", entry.path))
                elif entry.is_file():
                    found.append(prefix + entry.name)
    return found

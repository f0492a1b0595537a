"""A folder of many small files that a run fills, and goes on filling after any interruption.

Beside the folder stand `<folder>.run.json` (the settings its files were made with), and during a run `<folder>.lock`.
Inside it there are finished files only, whatever happens, and during a run `.partial/`: there a group of files is
written, brought to the disk together and only then renamed into the folder.
"""

import contextlib
import os
import shutil
import socket
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ecg_finetune.files import UserError, read_json, refuse_outputs, write_json
from ecg_finetune.operating_system import lock_file, sync_folder
from ecg_finetune.paths import LOCK, PARTIAL, RUN, beside
from ecg_finetune.progress_bar import progress_bar

# A killed run's workers notice within half a second that they are orphans; until then they hold its lock.
LOCK_PATIENCE = 3.0  # seconds
MOST_IN_GROUP = 500  # files that are brought to the disk, and perhaps lost, together


class RunFolder:
    """A folder that a run owns: locked, and checked to be free or begun with the same settings. See `run_folder`."""

    def __init__(self, stage: str, folder: Path, settings: Mapping[str, object], described_by: Sequence[str]):
        self.stage, self.folder, self.settings, self.described_by = stage, folder, settings, described_by
        self.partial = folder / PARTIAL
        self.start_over = False

    def check(self, overwrite: bool) -> None:
        """Refuse the folder if this run must not write into it; nothing is changed."""
        record = beside(self.folder, RUN)
        if not self.folder.is_dir() or not any(self.folder.iterdir()):
            self.start_over = True
            return
        if not record.exists():
            raise UserError(
                f"{self.folder}: holds files, but {record.name} beside it, which says how they were made, is missing; "
                "remove them yourself, or choose another folder"
            )
        try:
            before = read_json(record, dict)
        except UserError:
            if not overwrite:
                raise
            before = {}
        if before.get("stage", self.stage) != self.stage:
            raise UserError(
                f"{self.folder}: was filled by the {before['stage']} stage; choose another folder for this one"
            )
        self.start_over = overwrite
        if not overwrite:
            settings = before.get("settings", before)  # until 0.1 the file held nothing but the settings
            if not isinstance(settings, dict):
                raise UserError(f"{record}: holds no settings; put the run's own file back, or run with --overwrite")
            refuse_other_settings(self.folder, settings, self.settings)

    def begin(self) -> Path:
        """Empty the folder if it is begun anew, note the settings, and return the folder for unfinished files."""
        if self.start_over:
            for ending in self.described_by:
                beside(self.folder, ending).unlink(missing_ok=True)
            if self.folder.is_dir() and any(self.folder.iterdir()):
                _empty(self.folder)
            self.record({"stage": self.stage, "settings": self.settings})
        self.folder.mkdir(exist_ok=True)
        shutil.rmtree(self.partial, ignore_errors=True)
        # Within the folder, so that its files can be shown there even if it is a mount point or has a quota of its own.
        self.partial.mkdir(exist_ok=True)
        return self.partial

    def record(self, lineage: Mapping[str, object]) -> None:
        """Write how the folder's files are made beside it; `lineage` has `stage` and `settings` at least."""
        write_json(beside(self.folder, RUN), dict(lineage))


@contextlib.contextmanager
def run_folder(
    stage: str, folder: Path, settings: Mapping[str, object], overwrite: bool, described_by: Sequence[str] = ()
) -> Iterator[RunFolder]:
    """Own a folder for the time of a run: alone, and with the settings it was begun with.

    Nothing in it is changed before `RunFolder.begin`, so that a run with several folders can own all of them first.

    Parameters
    ----------
    stage : str
        The stage that fills it.
    folder : Path
        The folder; made if missing.
    settings : mapping
        Option name to JSON value: everything that decides the content of the files.
    overwrite : bool
        Start over: remove what the folder holds, if a run of this stage has filled it.
    described_by : sequence of str
        Endings of the files beside the folder that describe its files; they are removed when it is begun anew.

    Raises
    ------
    UserError
        Another run owns the folder, or it was filled with other settings (the message says which) or by another stage,
        or holds files that no run has recorded: these two are not even overwritten.
    """
    refuse_outputs(folders=[folder])
    run = RunFolder(stage, Path(os.path.realpath(folder)), settings, described_by)
    with locked(run.folder, beside(run.folder, LOCK)):
        run.check(overwrite)
        try:
            yield run
        finally:
            shutil.rmtree(run.partial, ignore_errors=True)


def refuse_overlap(folders: Mapping[str, Path], inputs: Mapping[str, Path]) -> None:
    """Refuse folders of a run that lie within each other, and inputs within them: filling one would destroy another.

    Parameters
    ----------
    folders : mapping
        Option to folder, of the folders that are written and of those whose files another stage owns.
    inputs : mapping
        Option to file or folder of what is read besides.
    """
    places = {option: Path(path).resolve() for option, path in folders.items()}
    for option, folder in places.items():
        for other, path in {**places, **{name: Path(path).resolve() for name, path in inputs.items()}}.items():
            if other != option and path.is_relative_to(folder):
                raise UserError(f"{other} {path} lies within {option} {folder}; choose separate folders")


def _empty(folder: Path) -> None:
    """Remove what a folder holds.

    Its settings stand until all is on the disk: a run with the same ones can go on after an interruption of this, and
    one with others is still refused.
    """
    print(f"removing what {folder} holds", flush=True)
    with progress_bar(None, "files") as advance:
        for inner, folders, files in os.walk(folder, topdown=False):
            for name in files:
                Path(inner, name).unlink()
                advance(1)
            for name in folders:
                path = Path(inner, name)
                path.unlink() if path.is_symlink() else path.rmdir()
    sync_folder(folder)


def refuse_other_settings(
    folder: Path,
    before: Mapping[str, object],
    settings: Mapping[str, object],
    *,
    may_change: Sequence[str] = (),
    remedy: str = "use the same, choose another folder, or run with --overwrite to start over",
) -> None:
    """Refuse a run whose settings are not those with which a folder was filled.

    Parameters
    ----------
    folder : Path
        The folder, for the message.
    before, settings : mapping
        Setting to JSON value: those the folder was filled with, and those of this run.
    may_change : sequence of str
        Settings that may differ.
    remedy : str
        What to do, the end of the message.

    Raises
    ------
    UserError
        A setting differs; the message names the first one.
    """
    for name in {**settings, **before}:
        if before.get(name) != settings.get(name) and name not in may_change:
            name, was, now = _innermost_difference(name, before.get(name), settings.get(name))
            raise UserError(f"{folder}: was filled with {name} {was}, this run has {name} {now}; {remedy}")


def _innermost_difference(name: str, was: object, now: object, most: int = 200) -> tuple[str, str, str]:
    """Return the name and the short texts of two values that differ, of an entry where they are mappings."""
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        entry = next(entry for entry in {**now, **was} if was.get(entry) != now.get(entry))
        return _innermost_difference(f"{name} {entry}", was.get(entry), now.get(entry), most)
    was, now = (text if len(text) <= most else f"{text[: most - 3]}..." for text in (str(was), str(now)))
    return name, was, now


class LockedError(UserError):
    """Another run holds the lock."""


@contextlib.contextmanager
def locked(folder: Path, path: Path, patience: float | None = None) -> Iterator[None]:
    """Hold the lock of a folder, the file `path`; the system releases it however the process and its workers end.

    Parameters
    ----------
    folder, path : Path
        The folder, for the message, and the lock file.
    patience : float, optional
        Seconds to wait for the lock (default: `LOCK_PATIENCE`).

    Raises
    ------
    LockedError
        Another run holds it.
    """
    refuse_outputs(folders=[path.parent])
    path.parent.mkdir(parents=True, exist_ok=True)
    limit = time.monotonic() + (LOCK_PATIENCE if patience is None else patience)
    while (file := _try_lock(path)) is None:
        if time.monotonic() > limit:
            with contextlib.suppress(OSError):
                owner = path.read_text(encoding="utf-8", errors="replace").strip()
            raise LockedError(
                f"{folder}: another run ({owner or 'unknown process'}) is writing into this folder; wait for it to end"
            )
        time.sleep(0.05)
    try:
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        file.close()


def _try_lock(path: Path):
    """Return the open, locked file, or None while another process has it."""
    file = path.open("a+", encoding="utf-8")
    try:
        # The run before may have removed the file between our opening and locking it.
        if lock_file(file) and os.fstat(file.fileno()).st_ino == path.stat().st_ino:
            file.truncate(0)
            return file
    except FileNotFoundError:
        pass
    except NotImplementedError as error:
        print(f"warning: {path.parent}: {error}; start no second run here", file=sys.stderr)
        return file
    except OSError:
        file.close()
        raise
    file.close()
    return None


class FileGroup:
    """Files that become visible together, when they are safe on the disk.

    Used as a context manager: at the end of the block all files are shown; none if the block fails. Until then they are
    in a folder of the group's own.

    Parameters
    ----------
    partial : Path
        What `run_folder` yields.
    folder : Path
        Where the files go; on the same mount.
    """

    def __init__(self, partial: Path, folder: Path):
        self.partial = str(partial)
        self.folder = str(folder)
        self.names: set[str] = set()  # of the unfinished files

    def __enter__(self) -> "FileGroup":
        self.unfinished = tempfile.mkdtemp(dir=self.partial)
        return self

    def __exit__(self, error_type, error, traceback) -> None:
        try:
            if error is None:
                self.show()
        finally:
            shutil.rmtree(self.unfinished, ignore_errors=True)

    def write(self, name: str, content: bytes) -> None:
        """Write a file that `show` will show."""
        if len(self.names) == MOST_IN_GROUP:
            self.show()
        # Without a file object, which takes as long to make as the file.
        descriptor = os.open(f"{self.unfinished}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        finally:
            os.close(descriptor)
        self.names.add(name)

    def show(self) -> None:
        """Bring the files to the disk, then show them under their names."""
        if not self.names:
            return
        sync_folder(self.unfinished)
        for name in self.names:
            os.replace(f"{self.unfinished}/{name}", f"{self.folder}/{name}")  # noqa: PTH105
        self.names = set()


def finished_files(folder: Path, number_of: Callable[[str], int | None]) -> tuple[np.ndarray, np.ndarray]:
    """List a folder of up to millions of files in little memory.

    Parameters
    ----------
    folder : Path
        The folder.
    number_of : callable
        File name to the number that stands for it; None for a file that is not ours.

    Returns
    -------
    numbers, sizes : ndarray (files,)
        int64, in ascending order of number, and each file's size in bytes.
    """
    numbers, sizes = array("q"), array("q")
    with os.scandir(folder) as entries:
        for entry in entries:
            number = number_of(entry.name)
            if number is not None:
                numbers.append(number)
                sizes.append(entry.stat().st_size)
    order = np.argsort(np.array(numbers, dtype=np.int64), kind="stable")
    return np.array(numbers, dtype=np.int64)[order], np.array(sizes, dtype=np.int64)[order]

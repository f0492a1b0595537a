"""A folder of many small files that a run fills, and goes on filling after any interruption.

Beside the folder stand `<folder>.run.json` (the settings its files were made with), and during a run `<folder>.lock`.
Inside it there are finished files only, whatever happens, and during a run `.partial/`: there a group of files is
written, without names where the file system can do that, brought to the disk by one call and only then shown in the
folder. One such call for 500 files costs 10 ms where an fsync of each would cost 150.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
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

from ecg_finetune.command_line import UserError, replacing
from ecg_finetune.tables import read_json

# A killed run's workers notice within half a second that they are orphans; until then they hold its lock.
LOCK_PATIENCE = 3.0  # seconds
# Files that are written, and perhaps lost, together. They are open at the same time; a process may often open 1,024.
MOST_IN_GROUP = 500
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_TOPDIR_FL = 0x80086601, 0x40086602, 0x20000  # of Linux's fs.h


def beside(folder: Path, suffix: str) -> Path:
    """Return the path of a file or folder that belongs to `folder` and stands beside it."""
    folder = Path(folder)
    return folder.with_name(folder.name + suffix)


@contextlib.contextmanager
def run_folder(
    folder: Path, settings: Mapping[str, object], overwrite: bool, described_by: Sequence[str] = ()
) -> Iterator[Path]:
    """Own a folder for the time of a run: alone, and with the settings it was begun with.

    Parameters
    ----------
    folder : Path
        The folder; made if missing.
    settings : mapping
        Option name to JSON value: everything that decides the content of the files.
    overwrite : bool
        Start over: remove what the folder holds, if a run has filled it.
    described_by : sequence of str
        Suffixes of the files beside the folder that describe its files; they are removed when it is begun anew.

    Yields
    ------
    Path
        The folder for unfinished files, to be given to `FileGroup`.

    Raises
    ------
    UserError
        Another run owns the folder, or it was filled with other settings (the message says which), or holds files that
        no run has recorded: these are not even overwritten.
    """
    folder = Path(folder).resolve()
    partial, record = folder / ".partial", beside(folder, ".run.json")
    with locked(folder, beside(folder, ".lock")):
        holds_files = folder.is_dir() and any(folder.iterdir())
        if holds_files and not record.exists():
            raise UserError(
                f"{folder}: holds files, but {record.name} beside it, which says how they were made, is missing; "
                "remove them yourself, or choose another folder"
            )
        if holds_files and not overwrite:
            refuse_other_settings(folder, read_json(record, dict), settings)
        else:
            for suffix in described_by:
                beside(folder, suffix).unlink(missing_ok=True)
            if holds_files:
                _empty(folder)
            write_record(record, settings)
        folder.mkdir(exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        # Within the folder, so that its files can be shown there even if it is a mount point or has a quota of its own.
        partial.mkdir(exist_ok=True)
        try:
            _spread_subfolders(partial)
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _spread_subfolders(folder: Path) -> None:
    """Let ext4 give each subfolder, and so the files made in it, a little used part of the disk (as `chattr +T` does).

    In one part workers wait for each other; and without a journal, ext4 takes up to thirty times as long to make a file
    where thousands have been removed in the last minutes.
    """
    flags = array("i", [0])
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, FS_IOC_GETFLAGS, flags)
        flags[0] |= FS_TOPDIR_FL
        fcntl.ioctl(descriptor, FS_IOC_SETFLAGS, flags)
    except OSError:  # another file system: it is only a wish
        pass
    finally:
        os.close(descriptor)


def _empty(folder: Path) -> None:
    """Remove what a folder holds.

    Its settings stand until all is on the disk: a run with the same ones can go on after an interruption of this, and
    one with others is still refused.
    """
    from tqdm import tqdm

    print(f"removing what {folder} holds", flush=True)
    with tqdm(unit=" files", disable=None) as progress:
        for inner, folders, files in os.walk(folder, topdown=False):
            for name in files:
                Path(inner, name).unlink()
                progress.update()
            for name in folders:
                path = Path(inner, name)
                path.unlink() if path.is_symlink() else path.rmdir()
    sync_file_system(str(folder))


def write_record(path: Path, record: Mapping[str, object]) -> None:
    """Write how the files of a folder are made, as JSON."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


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


@contextlib.contextmanager
def locked(folder: Path, path: Path) -> Iterator[None]:
    """Hold the lock of a folder, the file `path`; the system releases it however the process and its workers end.

    Raises
    ------
    UserError
        Another run holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    limit = time.monotonic() + LOCK_PATIENCE
    while (file := _try_lock(path)) is None:
        if time.monotonic() > limit:
            with contextlib.suppress(OSError):
                owner = path.read_text(encoding="utf-8", errors="replace").strip()
            raise UserError(
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
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The run before may have removed the file between our opening and locking it.
        if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
            file.truncate(0)
            return file
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS):
            print(f"warning: {path.parent}: this file system has no locks; start no second run here", file=sys.stderr)
            return file
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            file.close()
            raise
    file.close()
    return None


class FileGroup:
    """Files that become visible together, when they are safe on the disk.

    Used as a context manager: at the end of the block all files are shown; none if the block fails. Until then they are
    in a folder of the group's own (see `_spread_subfolders`), without a name where the file system can do that
    (`O_TMPFILE`: fewer changes of folders, on which workers wait for each other).

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
        self.nameless = hasattr(os, "O_TMPFILE") and os.path.exists("/proc/self/fd")  # noqa: PTH110
        self.descriptors: dict[str, int | None] = {}  # of the files without a name, by the name they will get

    def __enter__(self) -> "FileGroup":
        self.partial = tempfile.mkdtemp(dir=self.partial)
        return self

    def __exit__(self, error_type, error, traceback) -> None:
        try:
            if error is None:
                self.show()
        finally:
            for descriptor in self.descriptors.values():
                if descriptor is not None:
                    os.close(descriptor)
            self.descriptors = {}
            shutil.rmtree(self.partial, ignore_errors=True)

    def write(self, name: str, content: bytes) -> None:
        """Write a file that `show` will show."""
        if len(self.descriptors) == MOST_IN_GROUP:
            self.show()
        descriptor = self._open(name)
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        except BaseException:
            os.close(descriptor)
            raise
        if not self.nameless:
            os.close(descriptor)
        self.descriptors[name] = descriptor if self.nameless else None

    def _open(self, name: str) -> int:
        # Without a file object, which takes as long to make as the file.
        if self.nameless:
            try:
                return os.open(self.partial, os.O_WRONLY | os.O_TMPFILE, 0o666)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                    raise
                self.nameless = False
        return os.open(f"{self.partial}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)

    def show(self) -> None:
        """Bring the files to the disk, then show them under their names."""
        if not self.descriptors:
            return
        sync_file_system(self.folder)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            while self.descriptors:
                name, descriptor = self.descriptors.popitem()
                if descriptor is None:
                    os.rename(f"{self.partial}/{name}", name, dst_dir_fd=folder)  # noqa: PTH104
                else:
                    try:
                        _link(descriptor, name, folder)
                    finally:
                        os.close(descriptor)
        finally:
            os.close(folder)


def _link(descriptor: int, name: str, folder: int) -> None:
    """Give an open file without a name one in an open folder."""
    source = f"/proc/self/fd/{descriptor}"
    try:
        os.link(source, name, dst_dir_fd=folder, follow_symlinks=True)
    except FileExistsError:
        os.unlink(name, dir_fd=folder)
        os.link(source, name, dst_dir_fd=folder, follow_symlinks=True)


def sync_file_system(path: str | Path) -> None:
    """Wait until everything written to the file system of `path` is on the disk."""
    try:
        syncfs = ctypes.CDLL(None, use_errno=True).syncfs
    except AttributeError:  # not Linux
        os.sync()
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if syncfs(descriptor):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
    finally:
        os.close(descriptor)


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

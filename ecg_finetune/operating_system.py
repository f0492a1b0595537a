"""What differs between operating systems, each with what is done where it is missing.

Everything here is at home on Linux. macOS has no `syncfs`, no CPU affinity and no glibc, and its libraries do not
survive a fork; Windows, where the pipeline runs within WSL, has no `fcntl` and no signal masks either.
"""

import contextlib
import ctypes
import errno
import multiprocessing
import os
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def _from_libc(name: str):
    """Return a function of the C library, or None where it has no such function."""
    try:
        return getattr(ctypes.CDLL(None, use_errno=True), name)
    except (AttributeError, OSError, TypeError):
        return None


_syncfs = _from_libc("syncfs")  # Linux
_mallopt = _from_libc("mallopt")  # glibc
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
# A forked worker starts at once and shares what the parent has loaded; a spawned one imports everything again.
START_METHOD = "fork" if sys.platform == "linux" else "spawn"
NO_LOCKS = (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS)


# Processes


def usable_cores() -> int:
    """Return how many cores this process may run on (by its affinity where there is one, whatever its cgroup says)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def process_context() -> BaseContext:
    """Return the `multiprocessing` context in which to start worker processes."""
    if START_METHOD == "spawn" and os.name == "posix":
        # It would start its tracker with the first worker, and up to Python 3.12 end the mask of Ctrl-C by that.
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()
    return multiprocessing.get_context(START_METHOD)


def process_exists(number: int) -> bool:
    """Tell whether there may be a process of this number."""
    if os.name != "posix":  # os.kill would end it
        return True
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True


@contextlib.contextmanager
def ctrl_c_waits() -> Iterator[None]:
    """Let a Ctrl-C come only after the block, which it would leave half done.

    Processes started in the block never get one, where there are signal masks: they inherit it.
    """
    if threading.current_thread() is not threading.main_thread():  # it never comes here
        yield
        return
    came = []
    # A mask alone would not do: the signal then goes to another thread, of numpy say, and from there to this one.
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        with _ctrl_c_masked():
            yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def _ctrl_c_masked() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def keep_freed_memory() -> None:
    """Ask glibc not to hand freed memory back to the system at once; other C libraries are not asked.

    Every record needs the same quarter of a megabyte again; fetching it page by page takes half of the build stage's
    time. At most 16 MB are kept.
    """
    if _mallopt is not None:
        _mallopt(M_MMAP_THRESHOLD, 16 << 20)
        _mallopt(M_TRIM_THRESHOLD, 16 << 20)


# Files


def open_regular(path: Path | str) -> tuple[int, int]:
    """Open a file for reading that must be a regular one; a pipe or device could be waited for, or read, for ever.

    Returns
    -------
    descriptor, size : int
        To be closed by the caller; the file's size in bytes.

    Raises
    ------
    OSError
        The file cannot be opened, or is no regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except BlockingIOError:  # another process (a file server) holds a lease on it, which ends when we wait
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            raise
        descriptor = os.open(path, os.O_RDONLY)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return descriptor, status.st_size


def read_regular(path: Path | str, most: int) -> bytes:
    """Read a regular file of at most `most` bytes.

    Raises
    ------
    OSError
        As `open_regular`; also if the file is larger.
    """
    descriptor, size = open_regular(path)
    try:
        if size > most:
            raise OSError(errno.EFBIG, f"{size:,} bytes, more than {most:,}", os.fspath(path))
        return read_bytes_of(descriptor, size)
    finally:
        os.close(descriptor)


def read_bytes_of(descriptor: int, size: int) -> bytes:
    """Read the next `size` bytes of an open file; fewer where it ends."""
    content = os.read(descriptor, size)
    while len(content) < size and (more := os.read(descriptor, size - len(content))):  # one call reads at most 2 GB
        content += more
    return content


def lock_file(file: IO) -> bool:
    """Lock an open file until it is closed, which the system does however this process and its forked workers end.

    Returns
    -------
    bool
        False while another process has it.

    Raises
    ------
    NotImplementedError
        This system or file system has no such locks.
    """
    if fcntl is None:
        raise NotImplementedError("this system has no file locks")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            raise NotImplementedError("this file system has no locks") from None
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def sync_file(descriptor: int) -> None:
    """Wait until an open file is on the disk; on macOS, where `fsync` leaves it in the disk's own memory, really so."""
    if hasattr(fcntl, "F_FULLFSYNC"):
        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
        except OSError:  # a network disk has no such thing
            pass
    os.fsync(descriptor)


def sync_folder(folder: Path | str) -> None:
    """Wait until a folder and the files in it (not in its subfolders) are on the disk.

    `syncfs` brings everything of the file system there in one call: for 500 files 10 ms, where one call each takes 150.
    """
    folder = os.fspath(folder)
    if _syncfs is None:
        with os.scandir(folder) as entries:
            paths = [entry.path for entry in entries if entry.is_file(follow_symlinks=False)]
        for path in [*paths, folder]:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                sync_file(descriptor)
            finally:
                os.close(descriptor)
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if _syncfs(descriptor):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), folder)
    finally:
        os.close(descriptor)

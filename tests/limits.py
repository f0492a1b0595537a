"""Limits within which a damaged or hostile input must be told."""

import contextlib
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

ROOM = 256 << 20  # bytes


@contextlib.contextmanager
def little_memory(room: int = ROOM) -> Iterator[None]:
    """Leave this process 20 s and so much more address space that what a hostile input claims cannot be had."""

    def too_long(*_):
        raise AssertionError("an input held it up for 20 s")

    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + room, before[1]))
    handler = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(20)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)

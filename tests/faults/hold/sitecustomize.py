"""Holds a run where it opens one file; Python imports this at its start where PYTHONPATH has this folder."""

import os
import sys
from pathlib import Path


def hold(file: str, pipe: str) -> None:
    """Whenever this process or a forked one opens `file`, wait until nobody has `pipe` open for writing any more."""

    def wait(event: str, arguments: tuple) -> None:
        if event != "open" or isinstance(arguments[0], int):
            return
        path = Path(os.fsdecode(arguments[0]))
        if path.name == Path(file).name and path.samefile(file):
            try:
                descriptor = os.open(pipe, os.O_RDONLY)
            except FileNotFoundError:  # nobody is held any more
                return
            os.read(descriptor, 1)
            os.close(descriptor)

    sys.addaudithook(wait)


if "HOLD_FILE" in os.environ:
    hold(os.environ["HOLD_FILE"], os.environ["HOLD_PIPE"])

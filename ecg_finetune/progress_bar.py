"""Progress of anything that may take longer than a few seconds: a bar on a terminal, a line a minute in a log."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

MINUTE = 60  # seconds


def on_terminal() -> bool:
    """Tell whether stderr, where bars are drawn, is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


@contextlib.contextmanager
def progress_bar(
    total: int | None, unit: str = "records", clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[int], None]]:
    """Yield the function to call with the number of items done since its last call.

    Where no terminal shows a bar, a line about once a minute goes to stdout; nothing about a shorter run.

    Parameters
    ----------
    total : int, optional
        How many items there are; None where that is not known.
    unit : str
        Their name, in the plural.
    clock : function
        The seconds since some moment.
    """
    if on_terminal():
        from tqdm import tqdm

        with tqdm(total=total, unit=f" {unit}", leave=None) as bar:  # one below another bar vanishes at its end
            yield bar.update
        return
    done, began = 0, clock()
    told = began

    def advance(items: int) -> None:
        nonlocal done, told
        done += items
        now = clock()
        if now - told >= MINUTE:
            told = now
            print(progress_line(done, total, unit, now - began), flush=True)

    yield advance


def progress_line(done: int, total: int | None, unit: str, seconds: float) -> str:
    """Say how far a run is that took `seconds` for the items done.

    >>> progress_line(12_000, 800_035, "records", 60)
    '12,000 of 800,035 records, 200 a second, 1 h 6 min left'
    >>> progress_line(9, None, "files", 60)
    '9 files, 0.15 a second'
    """
    speed = done / seconds
    rate = f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}"
    if total is None:
        return f"{done:,} {unit}, {rate} a second"
    left = f", {duration((total - done) / speed)} left" if speed else ""
    return f"{done:,} of {total:,} {unit}, {rate} a second{left}"


def duration(seconds: float) -> str:
    """Write a duration as one would say it.

    >>> [duration(seconds) for seconds in (0, 59.4, 90, 3600, 26 * 3600)]
    ['0 s', '59 s', '2 min', '1 h 0 min', '26 h 0 min']
    """
    if seconds < MINUTE - 0.5:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"

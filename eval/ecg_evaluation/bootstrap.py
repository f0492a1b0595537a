"""Bootstrap over patients: intervals that know a patient's records are not independent."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ecg_evaluation.metrics import MACRO, ROWS, Scored, mean_of_defined
from ecg_finetune.operating_system import usable_cores
from ecg_finetune.progress_bar import progress_bar

SEED = 42
CHUNK = 25  # replicates weighed together: enough for a fast matrix product, small enough for memory


def draw(units: int, replicate: int) -> np.ndarray:
    """Draw `units` units with replacement; return how often each was drawn, int32 (units,).

    A replicate's draw depends on its number and on the number of units alone: two models evaluated on the same records
    meet the same resamples, which is what makes their comparison a paired one.
    """
    chosen = np.random.default_rng([SEED, replicate]).integers(0, units, size=units)
    return np.bincount(chosen, minlength=units).astype(np.int32)


def replicates(scored: Scored, count: int) -> np.ndarray:
    """Return the metrics of `count` resamples of the patients: float64 (count, 19, 10), see `Scored.measure`.

    A resample without a positive leaves a rare label undefined. In its macro average that label's value on all records
    stands in: left out, every resample would average other labels, and the interval would show that instead.
    """
    chunks = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]

    def measure(chunk: range) -> np.ndarray:
        return scored.measure(np.stack([draw(scored.units, replicate) for replicate in chunk]))

    point = scored.measure()
    with progress_bar(count, "replicates") as advance:
        drawn = np.concatenate([point[:0], *_in_threads(measure, chunks, advance)])
    labels = ROWS.index(MACRO)
    of_labels = drawn[:, :labels]
    drawn[:, labels] = mean_of_defined(np.where(np.isnan(of_labels), point[:, :labels], of_labels))
    return drawn


def _in_threads(function, chunks: list[range], advance: Callable[[int], None]) -> Iterator[np.ndarray]:
    # Threads, not processes: numpy lets go of the interpreter lock in the passes that take the time.
    with ThreadPoolExecutor(usable_cores()) as pool:
        for chunk, result in zip(chunks, pool.map(function, chunks)):
            advance(len(chunk))
            yield result


def interval(values: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Return the percentile interval over the first axis.

    Parameters
    ----------
    values : ndarray (replicates, ...)
        NaN where a replicate left the metric undefined; these are set aside.
    level : float
        Coverage.

    Returns
    -------
    tuple of ndarray (...)
        Lower and upper end; NaN where no replicate defines the metric.
    """
    if len(values) == 0:
        return np.full(values.shape[1:], np.nan), np.full(values.shape[1:], np.nan)
    defined = np.isfinite(values).any(axis=0)
    low, high = np.nanquantile(np.where(defined, values, 0), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.where(defined, low, np.nan), np.where(defined, high, np.nan)

"""Bootstrap over patients, because a patient's records are not independent."""

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ecg_evaluation.metrics import Scored
from ecg_finetune.operating_system import usable_cores
from ecg_finetune.progress_bar import progress_bar

SEED = 42
CHUNK = 25  # resamples measured together: enough for a fast matrix product, small enough for memory
BLOCK = 250  # resamples in one matrix product with sums


def draw(units: int, replicate: int) -> np.ndarray:
    """Draw `units` units with replacement; return how often each was drawn, int32 (units,).

    A replicate's draw depends on its number and on the number of units alone: two models evaluated on the same records
    meet the same resamples, which is what makes their comparison a paired one.
    """
    chosen = np.random.default_rng([SEED, replicate]).integers(0, units, size=units)
    return np.bincount(chosen, minlength=units).astype(np.int32)


# One evaluation meets the same resamples in each of its analyses; 1,000 of 16,000 patients are 64 MB.
@functools.lru_cache(maxsize=1000 // CHUNK)
def draws(units: int, start: int, stop: int) -> np.ndarray:
    """Return the draws of the replicates from `start` to before `stop`: int32 (replicates, units)."""
    return np.stack([draw(units, replicate) for replicate in range(start, stop)])


def replicates(scored: Scored, count: int, what: str = "resamples") -> np.ndarray:
    """Return the metrics of `count` resamples of the patients: (count, labels + 1, 10), see `Scored.measure`.

    The progress bar counts `what`.
    """
    chunks = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]

    def measure(chunk: range) -> np.ndarray:
        return scored.measure(draws(scored.units, chunk.start, chunk.stop))

    with progress_bar(count, what) as advance:
        return np.concatenate([scored.measure()[:0], *_in_threads(measure, chunks, advance)])


def resampled_sums(sums: np.ndarray, count: int) -> np.ndarray:
    """Return the sums over the units of `count` resamples: (count, ...), from what each unit adds: (units, ...).

    The resamples are those of `replicates`.
    """
    flat = sums.reshape(len(sums), -1)
    drawn = np.empty((count, flat.shape[1]))
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        drawn[start:stop] = draws_to_multiply(len(sums), start, stop) @ flat
    return drawn.reshape(count, *sums.shape[1:])


@functools.lru_cache(maxsize=1000 // BLOCK)
def draws_to_multiply(units: int, start: int, stop: int) -> np.ndarray:
    """Return `draws` as float64, which BLAS multiplies."""
    chunks = range(start, stop, CHUNK)
    return np.concatenate([draws(units, one, min(one + CHUNK, stop)) for one in chunks]).astype(float)


def _in_threads(function, chunks: list[range], advance: Callable[[int], None]) -> Iterator[np.ndarray]:
    # Threads, not processes: numpy releases the interpreter lock in the passes that take the time.
    with ThreadPoolExecutor(usable_cores()) as pool:
        for chunk, result in zip(chunks, pool.map(function, chunks)):
            advance(len(chunk))
            yield result

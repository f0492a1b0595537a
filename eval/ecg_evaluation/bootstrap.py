"""Bootstrap over patients, because a patient's records are not independent."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ecg_evaluation.metrics import Scored
from ecg_finetune.operating_system import usable_cores
from ecg_finetune.progress_bar import progress_bar

SEED = 42
CHUNK = 25  # resamples measured together: enough for a fast matrix product, small enough for memory


def draw(units: int, replicate: int) -> np.ndarray:
    """Draw `units` units with replacement; return how often each was drawn, int32 (units,).

    A replicate's draw depends on its number and on the number of units alone: two models evaluated on the same records
    meet the same resamples, which is what makes their comparison a paired one.
    """
    chosen = np.random.default_rng([SEED, replicate]).integers(0, units, size=units)
    return np.bincount(chosen, minlength=units).astype(np.int32)


def replicates(scored: Scored, count: int) -> np.ndarray:
    """Return the metrics of `count` resamples of the patients: (count, labels + 1, 10), see `Scored.measure`."""
    chunks = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]

    def measure(chunk: range) -> np.ndarray:
        return scored.measure(np.stack([draw(scored.units, replicate) for replicate in chunk]))

    with progress_bar(count, "resamples") as advance:
        return np.concatenate([scored.measure()[:0], *_in_threads(measure, chunks, advance)])


def _in_threads(function, chunks: list[range], advance: Callable[[int], None]) -> Iterator[np.ndarray]:
    # Threads, not processes: numpy releases the interpreter lock in the passes that take the time.
    with ThreadPoolExecutor(usable_cores()) as pool:
        for chunk, result in zip(chunks, pool.map(function, chunks)):
            advance(len(chunk))
            yield result

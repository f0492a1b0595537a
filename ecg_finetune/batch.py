"""The same function over many chunks, on local processes or on a Dask cluster."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import joblib
from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")


def chunked(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Cut a sequence into consecutive pieces of `size` (the last may be shorter)."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def run_batch(
    function: Callable[[Sequence[Item]], Result],
    chunks: Iterable[Sequence[Item]],
    *,
    workers: int,
    total: int,
    unit: str = "records",
    dask: str | None = None,
) -> Iterator[Result]:
    """Yield `function(chunk)` for every chunk, in the order of the chunks, with a progress bar over items.

    `workers` is the number of local processes; `dask` the address of a scheduler to use instead.
    """
    chunks = list(chunks)
    with tqdm(total=total, unit=f" {unit}", disable=None) as progress:
        for chunk, result in zip(chunks, _parallel(function, chunks, workers, dask), strict=True):
            progress.update(len(chunk))
            yield result


def _parallel(function, chunks, workers, dask):
    if dask is None:
        yield from joblib.Parallel(n_jobs=workers, return_as="generator")(joblib.delayed(function)(c) for c in chunks)
        return
    from distributed import Client

    with Client(dask), joblib.parallel_config(backend="dask"):
        yield from joblib.Parallel(return_as="generator")(joblib.delayed(function)(c) for c in chunks)

"""The same function over many chunks, on local processes or on a Dask cluster."""

import collections
import contextlib
import gc
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.pool import ExceptionWithTraceback
from typing import TypeVar

import numpy as np

from ecg_finetune.files import UserError
from ecg_finetune.operating_system import ctrl_c_waits, keep_freed_memory, process_context
from ecg_finetune.progress_bar import progress_bar

KILLED_WORKER = (
    "a worker process was killed, most often because memory ran out: run the same command again, with fewer workers"
)

Item = TypeVar("Item")
Result = TypeVar("Result")


def chunked(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Cut a sequence into consecutive pieces of `size` (the last may be shorter)."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def chunk_size(items: int, workers: int, most: int) -> int:
    """Return a chunk size of at most `most` that gives every worker at least four chunks."""
    return max(1, min(most, -(-items // (4 * workers))))


def run_batch(
    function: Callable[[Sequence[Item]], Result],
    chunks: Iterable[Sequence[Item]],
    *,
    workers: int,
    total: int,
    unit: str = "records",
    dask: str | None = None,
) -> Iterator[Result]:
    """Yield `function(chunk)` for every chunk, in the order of the chunks; show the progress over items.

    Parameters
    ----------
    function : callable
        Importable by name in the workers (a `functools.partial` of such a one will do).
    chunks : iterable of sequences
        Taken one by one as workers become free, so a generator keeps memory flat.
    workers : int
        Local processes, at most one per item; 1 runs in this process.
    total : int
        Items in all chunks.
    dask : str, optional
        The address of a Dask scheduler to use instead.

    Raises
    ------
    UserError
        A worker process was killed, or the cluster failed.
    """
    sizes = collections.deque()

    def measured():
        for chunk in chunks:
            sizes.append(len(chunk))
            yield chunk

    workers = min(workers, total)
    if dask is not None:
        results = _on_dask(function, measured(), dask)
    elif workers <= 1:
        keep_freed_memory()
        results = (function(chunk) for chunk in measured())
    else:
        results = _on_processes(function, measured(), workers)
    with contextlib.closing(results), progress_bar(total, unit) as advance:
        for result in results:
            advance(sizes.popleft())
            yield result


def _on_processes(function, chunks, workers):
    """Yield the results of worker processes.

    Every worker has a pipe of its own. Python's process pool and joblib's share one between all workers and wait for
    ever when one is killed while it writes a result; and a Ctrl-C at the wrong moment leaves a lock of their threads
    taken. Here a dead worker ends its pipe, and there are no threads.
    """
    numbered = enumerate(chunks)
    at_work: dict[Connection, int] = {}  # the number of the chunk that each has been given
    outcomes: dict[int, tuple[bool, object]] = {}  # those that wait for an earlier chunk's
    number = 0  # of the next result to yield
    with _started(function, workers) as idle:
        while True:
            # One slow chunk must not let the others' results pile up.
            while idle and len(at_work) + len(outcomes) < 3 * workers and (task := next(numbered, None)):
                connection = idle.pop()
                at_work[connection], chunk = task
                with _told_if_dead():
                    connection.send(chunk)
            if number in outcomes:
                succeeded, outcome = outcomes.pop(number)
                if not succeeded:
                    raise outcome
                yield outcome
                number += 1
            elif at_work:
                # A Ctrl-C that comes just before the waiting does not end it: look again every half second.
                for connection in multiprocessing.connection.wait(at_work, timeout=0.5):
                    with _told_if_dead():
                        outcomes[at_work.pop(connection)] = connection.recv()
                    idle.append(connection)
            else:
                return


@contextlib.contextmanager
def _told_if_dead():
    try:
        yield
    except (EOFError, OSError):  # OSError: in the middle of a result
        raise UserError(KILLED_WORKER) from None


@contextlib.contextmanager
def _started(function, workers):
    """Yield one connection to each of as many new worker processes, which end with the block."""
    context = process_context()
    connections, processes = [], []
    try:
        with ctrl_c_waits():  # for ever in the workers, which inherit this: the parent ends them
            for _ in range(workers):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(function, theirs, os.getpid()), daemon=True)
                process.start()
                theirs.close()
                connections.append(ours)
                processes.append(process)
        yield list(connections)
    finally:  # on any error and on Ctrl-C nobody waits for the chunks that are under way
        with ctrl_c_waits():
            for process in processes:
                process.kill()
            for process, connection in zip(processes, connections, strict=True):
                process.join()
                connection.close()


def _work(function, connection, parent):
    """Answer every chunk with (True, result) or (False, error), until the parent ends this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    keep_freed_memory()
    gc.freeze()  # what the parent has loaded is not looked through, nor its memory copied, at every collection
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    while True:
        chunk = connection.recv()
        try:
            outcome = True, function(chunk)
        except Exception as error:
            outcome = False, ExceptionWithTraceback(error, error.__traceback__)
        connection.send(outcome)


@contextlib.contextmanager
def loader_workers() -> Iterator[None]:
    """Tell in one line when a worker of a PyTorch `DataLoader` is killed: PyTorch raises that anywhere in the loop."""
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        # The two others come when it is killed while it hands a batch over.
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        # PyTorch's handler raises again and again, wherever Python just is.
        while signal.getsignal(signal.SIGCHLD) != signal.SIG_DFL:
            with contextlib.suppress(RuntimeError):
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        raise UserError(KILLED_WORKER) from None


def loaded_batches(data, *, pin_memory: bool = False, **options) -> Iterator[tuple]:
    """Yield the batches of a PyTorch `DataLoader` over a data set; put the loop over them into `loader_workers`.


    A `UserError` comes out of a worker process as it was raised; PyTorch would put a traceback before its message.
    And arrays come through a pipe: PyTorch's tensors would take /dev/shm, of which a container often has 64 MB, and
    when it is full, the loader waits for ever.

    Parameters
    ----------
    data : object with `__len__` and `__getitem__`
        The data set; its items are tuples of arrays and numbers.
    pin_memory : bool
        Put the batches where a CUDA GPU can fetch them on its own.
    options
        As `DataLoader` takes them.

    Yields
    ------
    tuple of Tensor
        Each field of the items, stacked.

    Raises
    ------
    UserError
        Of an item; or the system does not give the workers their processes and semaphores.
    """
    import torch
    from torch.utils.data import DataLoader

    loader = DataLoader(_ErrorsAsItems(data), collate_fn=_collate, worker_init_fn=_end_with_loader, **options)
    try:
        batches = iter(loader)
    except OSError as error:
        raise UserError(
            f"no worker processes could be started ({error.strerror}): they need memory, and /dev/shm must exist and "
            "have a few free kB; free some, or start fewer workers"
        ) from None
    for batch in batches:
        if isinstance(batch, UserError):
            raise batch
        tensors = tuple(torch.from_numpy(array) for array in batch)
        yield tuple(tensor.pin_memory() for tensor in tensors) if pin_memory else tensors


class _ErrorsAsItems:
    """A data set that returns the `UserError` of an item instead of raising it."""

    def __init__(self, data):
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index):
        try:
            return self.data[index]
        except UserError as error:
            return error


def _collate(items: list) -> tuple[np.ndarray, ...] | UserError:
    """Return each field of the items as one array, or the first error among the items."""
    error = next((item for item in items if isinstance(item, UserError)), None)
    return tuple(np.stack(field) for field in zip(*items)) if error is None else error


def _end_with_loader(_: int) -> None:
    """Make a loader's worker end when the loader was killed: waiting to hand over a batch, it would stay for ever."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """End when the parent is gone, or who asked it, a fork server, for this process: killed, they cannot end it."""
    asked_by = multiprocessing.parent_process()
    while os.getppid() == parent and asked_by.is_alive():
        time.sleep(0.3)
    os._exit(1)


def _on_dask(function, chunks, address):
    try:
        import joblib
        from distributed import Client
        from distributed.scheduler import KilledWorker
    except ImportError:
        raise UserError('--dask needs the extra "cluster": pip install "ecg-finetune[cluster]"') from None
    try:
        client = Client(address)
    except (OSError, ValueError) as error:
        raise UserError(f"--dask {address}: no scheduler answers there ({error})") from None
    try:
        with client, joblib.parallel_config(backend="dask"):
            yield from joblib.Parallel(return_as="generator")(joblib.delayed(function)(chunk) for chunk in chunks)
    except KilledWorker as error:
        raise UserError(
            f"--dask {address}: workers died, most often because memory ran out ({error}): run the same command again"
        ) from None

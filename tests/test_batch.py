"""Batch runs: order, memory, errors, killed workers, Ctrl-C, the Dask cluster."""

import contextlib
import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from ecg_finetune.batch import chunk_size, chunked, run_batch
from ecg_finetune.files import UserError


def double(chunk):
    return [2 * item for item in chunk]


def slow_double(chunk):
    time.sleep(0.2 if chunk[0] == 0 else 0.0)
    return double(chunk)


def die(chunk):
    if chunk[0] >= 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return double(chunk)


def large_once_there(chunk):
    """Return nothing; of a chunk with a path in it, 20 MB once that file is there."""
    for path in chunk:
        while not path.exists():
            time.sleep(0.01)
    return bytes(20_000_000 * len(chunk))


def refuse(chunk):
    raise UserError(f"{chunk}: not wanted")


def remember(folder, chunk):
    (folder / str(chunk[0])).touch()
    return chunk


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("size", [1, 30])
def test_results_come_in_the_order_of_the_chunks(workers, size):
    chunks = chunked(range(100), size)
    results = list(run_batch(slow_double, chunks, workers=workers, total=100))
    assert results == [double(chunk) for chunk in chunks]


def test_no_chunks_no_results():
    assert list(run_batch(double, [], workers=2, total=0)) == []


def test_chunks_are_taken_as_they_are_needed():
    taken = []

    def chunks():
        for i in range(1000):
            taken.append(i)
            yield [i]

    with contextlib.closing(run_batch(double, chunks(), workers=2, total=1000)) as results:
        assert next(results) == [0]
        assert len(taken) < 10


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_worker_comes_through(workers):
    with pytest.raises(UserError, match="not wanted"):
        list(run_batch(refuse, [[1], [2]], workers=workers, total=2))


def test_a_killed_worker_is_told_and_does_not_hang():
    with pytest.raises(UserError, match="worker process was killed") as refusal:
        list(run_batch(die, [[i] for i in range(20)], workers=2, total=20))
    assert "kept" not in str(refusal.value)  # not every stage keeps what was finished


def test_a_worker_killed_while_it_writes_its_result_is_told_and_does_not_hang(tmp_path):
    others = set(multiprocessing.active_children())  # of tests before, which are none of this one's
    with contextlib.closing(run_batch(large_once_there, [[], [tmp_path / "go"]], workers=2, total=2)) as results:
        assert next(results) == b""  # read before the other has begun, however slow the machine is
        (tmp_path / "go").touch()
        time.sleep(0.3)  # the other worker waits for somebody who reads its result
        for worker in set(multiprocessing.active_children()) - others:
            worker.kill()
        with pytest.raises(UserError, match="worker process was killed"):
            next(results)


def test_chunk_size_keeps_all_workers_busy():
    assert chunk_size(2000, 2, 500) == 250
    assert chunk_size(10**6, 8, 500) == 500
    assert chunk_size(3, 8, 500) == 1
    assert chunk_size(0, 2, 500) == 1


SLEEPER = """
    import sys, time
    from pathlib import Path
    from ecg_finetune.batch import run_batch
    def sleep(chunk):
        Path(sys.argv[1], f"working on {chunk[0]}").touch()
        time.sleep(60)
    if __name__ == "__main__":
        try:
            list(run_batch(sleep, [[1], [2], [3]], workers=2, total=3))
        except KeyboardInterrupt:
            sys.exit(130)
"""


# Its workers wait to hand over what nobody takes, as when the one that trained was killed.
LOADER = """
    import sys, time
    from pathlib import Path
    import numpy as np
    from ecg_finetune.batch import loaded_batches
    class Items:
        def __len__(self):
            return 1000
        def __getitem__(self, i):
            Path(sys.argv[1], f"working on {i // 40 % 2}").touch()
            return (np.zeros(100_000),)
    if __name__ == "__main__":
        for batch in loaded_batches(Items(), batch_size=40, num_workers=2):
            time.sleep(60)
"""


def children(pid: int) -> list[Path]:
    """Return the /proc folders of a process's children, which are there as long as those live."""
    return [Path("/proc", child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("script_text", "number", "code"),
    [(SLEEPER, signal.SIGINT, 130), (SLEEPER, signal.SIGKILL, -9), (LOADER, signal.SIGKILL, -9)],
)
def test_no_worker_outlives_its_parent(tmp_path, script_text, number, code):
    script = tmp_path / "sleeper.py"
    script.write_text(textwrap.dedent(script_text))
    process = subprocess.Popen([sys.executable, script, tmp_path], stderr=subprocess.PIPE, text=True)
    limit = time.monotonic() + 60
    while len(list(tmp_path.glob("working*"))) < 2 and time.monotonic() < limit:
        time.sleep(0.02)
    workers = children(process.pid)
    assert len(workers) == 2
    process.send_signal(number)
    sent = time.monotonic()
    assert process.wait(60) == code
    while any(worker.exists() for worker in workers) and time.monotonic() < sent + 20:
        time.sleep(0.02)
    assert not any(worker.exists() for worker in workers)
    assert process.stderr.read() == ""


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        yield cluster


def test_without_dask_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match=r'the extra "cluster": pip install'):
        list(run_batch(double, [[1]], workers=1, total=1, dask="tcp://127.0.0.1:1"))


def test_a_dask_cluster_gives_the_same_in_the_same_order(cluster, tmp_path):
    chunks = chunked(range(50), 3)
    results = list(run_batch(double, chunks, workers=1, total=50, dask=cluster.scheduler_address))
    assert results == [double(chunk) for chunk in chunks]
    work = functools.partial(remember, tmp_path)
    list(run_batch(work, chunks, workers=1, total=50, dask=cluster.scheduler_address))
    assert len(list(tmp_path.iterdir())) == len(chunks)


def test_an_error_on_the_cluster_comes_through(cluster):
    with pytest.raises(UserError, match="not wanted"):
        list(run_batch(refuse, [[1], [2]], workers=1, total=2, dask=cluster.scheduler_address))


def test_an_address_without_scheduler_is_told():
    dask = pytest.importorskip("dask")
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}), pytest.raises(UserError, match="no scheduler"):
        list(run_batch(double, [[1]], workers=1, total=1, dask="tcp://127.0.0.1:1"))

"""The loop over a data set with worker processes: errors and killed workers come in one line."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from finetune_world import SAMPLES, make_manifests

from ecg_finetune.batch import loaded_batches, loader_workers
from ecg_finetune.files import UserError
from ecg_finetune.matfile import write_mat
from ecg_finetune.segments import SegmentDataset, read_label_rows, read_manifest


class Numbers:
    """A data set of numbers, one of which cannot be read."""

    def __init__(self, unreadable=None):
        self.unreadable = unreadable

    def __len__(self):
        return 7

    def __getitem__(self, i):
        if i == self.unreadable:
            raise UserError(f"{i}: cannot be read; UserError: is part of the message")
        return np.full(3, i, dtype=np.float32), i


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_pytorch(workers):
    with loader_workers():
        batches = list(loaded_batches(Numbers(), batch_size=3, num_workers=workers))
    expected = list(torch.utils.data.DataLoader(Numbers(), batch_size=3))
    for (values, numbers), (other_values, other_numbers) in zip(batches, expected, strict=True):
        assert torch.equal(values, other_values) and torch.equal(numbers, other_numbers)


def test_workers_of_a_fork_server_live_as_long_as_they_are_needed(tmp_path):
    """Their parent is not the loader's process. Python 3.14 starts workers so, and macOS in a like way."""
    script = tmp_path / "script.py"
    script.write_text(
        "import time\nfrom test_loaded_batches import Numbers, loaded_batches\nif __name__ == '__main__':\n"
        "    for _, numbers in loaded_batches(Numbers(), batch_size=3, num_workers=1, "
        "multiprocessing_context='forkserver'):\n"
        "        print(*numbers.tolist(), flush=True)\n        time.sleep(0.7)\n"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    process = subprocess.run(
        [sys.executable, script], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    assert process.stdout == "0 1 2\n3 4 5\n6\n", process.stderr


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_as_it_was_raised_after_the_batches_before_it(workers):
    seen = []
    with pytest.raises(UserError) as caught, loader_workers():
        for _, numbers in loaded_batches(Numbers(unreadable=4), batch_size=3, num_workers=workers):
            seen += numbers.tolist()
    assert seen == [0, 1, 2]
    assert str(caught.value) == "4: cannot be read; UserError: is part of the message"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_segment_is_one_line_wherever_it_is_read(tmp_path, workers):
    manifests = make_manifests(tmp_path / "build", 4, 2)
    content = {"feats": np.full((12, SAMPLES), np.nan, np.float32), "curr_sample_rate": 500}
    write_mat(tmp_path / "build" / "segmented_5s" / "2_0.mat", content)
    dataset = SegmentDataset(read_manifest(manifests / "train.tsv"), *read_label_rows(manifests))
    with pytest.raises(UserError, match="^[^ ]*2_0.mat: feats holds NaN") as caught:
        list(loaded_batches(dataset, batch_size=2, num_workers=workers))
    assert "\n" not in str(caught.value)


def test_a_killed_reader_stops_a_run_in_one_line(tmp_path):
    """In a process of its own: PyTorch goes on raising after the first error, wherever Python just is."""
    program = (
        "import sys; from pathlib import Path; from test_loaded_batches import kill_readers; "
        "kill_readers(Path(sys.argv[1]))",
        str(make_manifests(tmp_path / "build", 400, 2)),
    )
    process = subprocess.run(
        [sys.executable, "-c", *program], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert process.returncode == 1 and "worker process was killed" in process.stdout, process.stderr
    assert process.stdout.count("\n") == 1


def kill_readers(manifests):
    """Read segments in another process, which is killed; print the error and end without cleaning up, exit code 1."""
    dataset = SegmentDataset(read_manifest(manifests / "train.tsv"), *read_label_rows(manifests))
    batches = loaded_batches(dataset, batch_size=1, num_workers=1)
    try:
        with loader_workers():
            for _ in batches:
                for process in multiprocessing.active_children():
                    process.kill()
    except UserError as error:
        print(error, flush=True)
        os._exit(1)

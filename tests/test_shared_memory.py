"""Containers often have little /dev/shm: worker processes need it for no data, and say what else they need it for."""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
from ecg_evaluation.prediction import RecordDataset, load_model, predict
from evaluation_world import make_world

from ecg_finetune.batch import loaded_batches
from ecg_finetune.files import UserError
from ecg_finetune.label_set import ECG_FM
from ecg_finetune.paths import locate
from ecg_finetune.segments import SegmentDataset, read_label_rows, read_manifest

PROGRAM = "import sys, test_shared_memory; test_shared_memory.read_with_workers(sys.argv[1])"
SIZE = 500 << 10  # bytes; a batch has 40 x 5,000 x 4 = 800 kB


def read_with_workers(base: str) -> None:
    """Predict the test set and read the valid segments in two workers; then with /dev/shm full."""
    model, _ = load_model(locate(base, "checkpoint_best"), ECG_FM, device="cpu", precision="float32", trust=False)
    studies = [int(path.stem.rpartition("_")[2]) for path in sorted(locate(base, "test_mats").iterdir())]
    records = RecordDataset(locate(base, "test"), studies)
    study, _ = predict(model, records, ECG_FM, batch_size=40, num_workers=2, unit="records")

    manifests = locate(base, "manifests")
    segments = SegmentDataset(read_manifest(manifests / "valid.tsv"), *read_label_rows(manifests))
    leads, targets = next(loaded_batches(segments, batch_size=80, num_workers=2))
    print("read", len(study), tuple(leads.shape), tuple(targets.shape))

    with contextlib.suppress(OSError), Path("/dev/shm/all").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    for read in (
        lambda: predict(model, records, ECG_FM, batch_size=40, num_workers=2, unit="records"),
        lambda: next(loaded_batches(segments, batch_size=80, num_workers=2)),
    ):
        try:
            read()
        except UserError as error:
            print(error)


def test_little_shared_memory(tmp_path):
    base = make_world(tmp_path, test_records=40, valid_records=40)
    mount = f"mount -t tmpfs -o size={SIZE} tmpfs /dev/shm"
    command = ["unshare", "-rm", "sh", "-c", f'{mount} || exit 77; exec "$0" -c "$1" "$2"', sys.executable, PROGRAM]
    run = subprocess.run(
        [*command, base], cwd=Path(__file__).parent, capture_output=True, text=True, check=False, timeout=200
    )
    if run.returncode == 77 or run.stderr.startswith("unshare:"):
        pytest.skip(f"no mounts for tests here: {run.stderr.strip()}")
    assert run.returncode == 0, run.stderr
    told = "no worker processes could be started (No space left on device): they need memory, and /dev/shm must exist"
    read, *errors = run.stdout.splitlines()
    assert read == "read 40 (80, 2500) (80, 17)"
    assert len(errors) == 2 and all(error.startswith(told) for error in errors)

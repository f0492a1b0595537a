"""Training segments a second in one process: from leads.npy, from their files, and as a plain loader reads them.

20,000 segments of synthetic records, made by the preprocess and build stages, in a random order; all in the page cache.
The plain loader calls `scipy.io.loadmat` on each, as fairseq-signals does. Augmentation is `--augment wearable`; the
tiny network on one core is the fastest that it must keep up with here.
"""

import os
import statistics
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from ecg_training.augmentation import AugmentedData, Augmenter
from ecg_training.packed_leads import packed_leads
from ecg_training.settings import Augmentation, FinetuneSettings
from ecg_training.torch_engine import TINY
from ecg_training.trainer import Trainer
from ecg_training.training_data import TrainingData
from scipy.io import loadmat

from bench.stages import BUILD, CORES, PREPROCESS, make_base, make_records, timed, working_folder
from ecg_finetune.ecg_fm import EcgClassifier
from ecg_finetune.label_set import ECG_FM
from ecg_finetune.noise import NoiseSource
from ecg_finetune.paths import inside, locate
from ecg_finetune.segments import SegmentDataset, read_label_rows, read_manifest

SEGMENTS, BATCH = 20_000, 256
STUDIES = SEGMENTS // 2 * 10 // 9 + 10  # of which nine tenths are train and valid
PLAIN, FILES = 8 * BATCH, 24 * BATCH  # segments that are enough for a figure
EPOCHS = 5
PLAIN_LOADER = "scipy.io.loadmat, twelve channels"
ROUNDS = 5  # of each loader in turn; medians


def plain_batch(files: list[Path], labels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Read a batch with scipy: twelve channels each."""
    content = [loadmat(file) for file in files]
    rows = [one["idx"].item() for one in content]
    return torch.from_numpy(np.stack([one["feats"] for one in content])), torch.from_numpy(labels[rows])


def file_batch(data: SegmentDataset, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Read a batch from its files: a lead each."""
    leads, targets = zip(*(data[row] for row in rows.tolist()))
    return torch.from_numpy(np.stack(leads)), torch.from_numpy(np.stack(targets))


def rate(batches: Iterable[object], segments: int) -> float:
    """Return segments a second."""
    started = time.perf_counter()
    for _ in batches:
        pass
    return segments / (time.perf_counter() - started)


def main() -> None:
    """Print the comparison."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])  # inherited by all that is run
    torch.set_num_threads(1)
    with working_folder() as folder:
        raw, base = make_records(folder / "raw", 2000), folder / "base"
        make_base(base, raw, STUDIES)
        timed(PREPROCESS, "--base-dir", base, "--raw-root", raw)
        timed(BUILD, "--base-dir", base, "--skip-test")
        manifests = locate(base, "manifests")
        listed = [read_manifest(inside(manifests, "manifest", split=split)) for split in ("train", "valid")]
        labels, studies = read_label_rows(manifests)
        started = time.perf_counter()
        packed = packed_leads(inside(manifests, "leads"), listed, studies, workers=CORES)
        packing = time.perf_counter() - started

        files, train = listed[0].files, SegmentDataset(listed[0], labels, studies)
        data = TrainingData(torch.from_numpy(packed.leads), torch.from_numpy(labels[packed.idx]))
        order = np.random.default_rng(0).permutation(len(files))

        def batches(number: int) -> list[np.ndarray]:
            return [order[start : start + BATCH] for start in range(0, number, BATCH)]

        def packed_rate(threads: int) -> float:
            torch.set_num_threads(threads)
            try:
                return rate(
                    (data.batch(rows) for _ in range(EPOCHS) for rows in batches(len(order))), EPOCHS * len(order)
                )
            finally:
                torch.set_num_threads(1)

        lead, target = data.batch(order[:BATCH])
        other_lead, other_target = plain_batch([files[i] for i in order[:BATCH]], labels)
        if not (torch.equal(lead, other_lead[:, 7]) and torch.equal(target, other_target)):
            raise RuntimeError("leads.npy and the files differ")
        rounds = [
            {
                PLAIN_LOADER: rate((plain_batch([files[i] for i in rows], labels) for rows in batches(PLAIN)), PLAIN),
                "our files": rate((file_batch(train, rows) for rows in batches(FILES)), FILES),
                **{f"leads.npy, {threads} threads": packed_rate(threads) for threads in (1, CORES)},
            }
            for _ in range(ROUNDS)
        ]
        rates = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
        augmenter = Augmenter(Augmentation(), NoiseSource.open(None, "train"))
        some = batches(FILES)
        for workers in (1, CORES):
            augmented = AugmentedData(data.leads, data.targets, "cpu", augmenter, seed=1, workers=workers)
            rates[f"leads.npy, augmented, {workers} processes"] = rate(augmented.batches(some, 0), FILES)
        settings = FinetuneSettings(manifests=manifests, output=folder, pretrained=None, label_set=ECG_FM)
        trainer = Trainer(EcgClassifier(TINY), np.ones(len(ECG_FM)), settings, torch.device("cpu"))
        updates = (trainer.update(iter([data.batch(rows)]), [BATCH]) for rows in some[:8])
        rates["(training the tiny network)"] = rate(updates, 8 * BATCH)
    print(f"{len(packed.idx):,} segments packed in {packing:.1f} s by {CORES} processes")
    print(f"{'one process':<36}{'segments/s':>12}{'times the plain loader':>24}")
    for name, value in rates.items():
        print(f"{name:<36}{value:>12,.0f}{value / rates[PLAIN_LOADER]:>24.1f}")


if __name__ == "__main__":
    main()

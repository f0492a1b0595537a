"""A small fine-tuning world: segments and manifests as the build stage writes them, and runs of the tiny network."""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from ecg_training.packed_leads import packed_leads
from ecg_training.settings import FinetuneSettings
from ecg_training.torch_engine import TINY
from ecg_training.trainer import Trainer
from ecg_training.training_data import TrainingData

from ecg_finetune.ecg_fm import EcgClassifier
from ecg_finetune.label_set import ECG_FM, write_label_definition
from ecg_finetune.matfile import write_mat
from ecg_finetune.segments import read_label_rows, read_manifest

SCRIPT = "finetune/scripts/finetune_ecgfm.py"
REPOSITORY = Path(__file__).resolve().parent.parent
SAMPLES = 300


def make_manifests(folder, train_segments=22, valid_segments=10, first_study=1000, labels=ECG_FM, unknown=0.0):
    """Write segments, manifests and labels as the build stage does, in which label 0 shows as a raised signal.

    `unknown` is the share of the labels that are not known.
    """
    segments, manifests = folder / "segmented_5s", folder / "manifests"
    segments.mkdir(parents=True)
    manifests.mkdir()
    random = np.random.default_rng(0)
    total = train_segments + valid_segments
    y = (random.random((total, len(labels))) < 0.4).astype(np.float32)
    told = np.where(np.random.default_rng(1).random(y.shape) < unknown, np.nan, y).astype(np.float32)
    np.save(manifests / "y.npy", told)
    write_label_definition(manifests / "label_def.csv", labels, told[:train_segments])
    np.save(manifests / "original_idx_order.npy", first_study + np.arange(total))
    for split, rows in (("train", range(train_segments)), ("valid", range(train_segments, total))):
        lines = [str(segments)]
        for row in rows:
            lead = random.standard_normal(SAMPLES).astype(np.float32) + 2 * y[row, 0]
            ids = {"idx": row, "original_idx": first_study + row}
            write_mat(segments / f"{row}_0.mat", {"feats": np.tile(lead, (12, 1)), "curr_sample_rate": 500, **ids})
            lines.append(f"{row}_0.mat\t{SAMPLES}")
        (manifests / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    (manifests / "pos_weight.txt").write_text(" ".join(["1.50000000"] * len(labels)) + "\n")
    return manifests


def tiny_run(manifests, folder, *more):
    """Return the options of a run of 5 updates an epoch."""
    options = ["--pretrained", "none", "--tiny", "--manifests", manifests, "--output-dir", folder, "--batch-size", 5]
    return [*options, "--device", "cpu", "--workers", 1, *more]


class Stop(Exception):
    """Stands for a kill in the middle of an epoch."""


class Quiet:
    """A progress line that shows nothing, counts segments, and stops the run after some updates."""

    def __init__(self, stop_after=None):
        self.left, self.segments = stop_after, 0

    def start(self, *_):
        pass

    def update(self, segments, _):
        self.segments += segments
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Stop

    def epoch(self, *_):
        pass


def datasets(manifests) -> list[TrainingData]:
    """Return the train and the valid set."""
    labels, studies = read_label_rows(manifests)
    listed = [read_manifest(manifests / f"{split}.tsv") for split in ("train", "valid")]
    packed = packed_leads(manifests / "leads.npy", listed, studies)
    sizes = [len(manifest.files) for manifest in listed]
    arrays = (torch.from_numpy(array).split(sizes) for array in (packed.leads, labels[packed.idx]))
    return [TrainingData(*part) for part in zip(*arrays, strict=True)]


def some_settings(**changes) -> FinetuneSettings:
    """Return settings of a run on nothing in particular."""
    given = {"manifests": Path("manifests"), "output": Path("output"), "pretrained": None, "lr": 1e-3, "workers": 0}
    return FinetuneSettings(**given | {"label_set": ECG_FM} | changes)


def small_trainer(seed=1, processes=None, arch=TINY, **changes):
    """Return a trainer of the tiny network at its random start."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # as the engine does: on a busy machine two take 10 times as long for so small a network
    settings = some_settings(**{"epochs": 3, "batch_size": 5, "save_every": 2} | changes)
    return Trainer(EcgClassifier(arch), np.full(17, 1.5), settings, torch.device("cpu"), processes)


def write_pretrained(path, arch=TINY, fine_tuned=False, seed=1):
    """Write a checkpoint of random weights as pretraining or fine-tuning with fairseq-signals leaves one."""
    torch.manual_seed(seed)
    weights = EcgClassifier(arch).state_dict()
    if not fine_tuned:
        weights = {name.removeprefix("encoder."): w for name, w in weights.items() if name.startswith("encoder.")}
    name = "ecg_transformer_classifier" if fine_tuned else "wav2vec2_cmsc"
    config = dataclasses.asdict(arch) | {"_name": name, "extractor_mode": "default"}
    config["conv_feature_layers"] = str(list(arch.conv_feature_layers))
    if not fine_tuned:
        del config["num_labels"]
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"cfg": {"model": config}, "model": weights}, path)
    return path

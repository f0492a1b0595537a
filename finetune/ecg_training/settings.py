"""The settings of a fine-tuning run: one record, which both engines and the checkpoint's configuration read."""

import dataclasses
from pathlib import Path
from typing import Any

from ecg_finetune.files import sha256
from ecg_finetune.label_set import LabelSet
from ecg_finetune.paths import inside
from ecg_finetune.waveform import LEADS

# As fairseq-signals' configuration for ECG-FM has them.
ADAM_BETAS = (0.9, 0.98)
ADAM_EPS = 1e-8
ALL = "all"  # of `freeze_layers`


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How train segments are made to look recorded by a wearable; see `augmentation.Augmenter`.

    Attributes
    ----------
    noise : float
        The probability that a segment gets noise, of one to three kinds.
    effects : float
        The probability of each effect of devices.
    snr : (float, float)
        The range of the signal-to-noise ratio of each kind, dB.
    noise_root : Path or None
        See `noise.NoiseSource.open`.
    """

    noise: float = 0.5
    effects: float = 0.1
    snr: tuple[float, float] = (-6.0, 24.0)
    noise_root: Path | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """How to fine-tune what on what.

    Attributes
    ----------
    manifests : Path
        The folder with train.tsv, valid.tsv, y.npy, original_idx_order.npy, label_def.csv and pos_weight.txt.
    label_set : LabelSet
        The labels of label_def.csv: the outputs of the network.
    output : Path
        Where checkpoints and logs go.
    pretrained : Path or None
        The checkpoint to start from; None: random weights.
    leads : Path or None
        leads.npy of the torch engine; None: in the folder of the manifests.
    record_list : Path
        record_list.csv, for the patients in training_records.csv; it may be missing.
    lead : str
        The lead in the segments, for the record.
    input : {"duplicate", "zero"}
        Whether the lead goes into all channels of the network's input, or into its own with zeros in the others.
    tiny : bool
        With random weights: a network of 0.1 million parameters.
    keep_head : bool
        Keep the head of a fine-tuned `pretrained`.
    trust : bool
        Unpickle whatever `pretrained` holds.
    epochs : int
        Passes over the training data.
    max_update : int
        Stop after so many updates; 0: no limit.
    patience : int
        Stop after so many epochs without a lower valid loss; 0: never.
    lr : float
        Learning rate of Adam, from which schedule, warm-up and layer decay start.
    schedule : {"constant", "cosine"}
        How the learning rate goes after the warm-up.
    warmup : int
        Updates of linear warm-up.
    layer_decay : float
        Each transformer layer has the learning rate of the one above times this.
    weight_decay : float
        Decoupled weight decay of all trained parameters.
    freeze_layers : int or "all"
        Train neither the first transformer layers nor anything before them, or nothing but the head.
    drop_path : float
        The probability that a segment skips a branch of the last transformer layer; less in the layers before.
    augment : Augmentation or None
        What is done to train segments.
    batch_size : int
        Segments of one update, over all processes and accumulated parts together.
    accumulate : int
        How many parts a batch is worked through in.
    seed : int
        Of the new head, the batches and dropout.
    precision : str
        "float32" or "bfloat16", of the torch engine's matrix products.
    workers : int
        Processes that read segments.
    save_every : int
        Updates between two states from which the torch engine can resume; 0: only after each epoch.
    """

    manifests: Path
    label_set: LabelSet
    output: Path
    pretrained: Path | None
    leads: Path | None = None
    record_list: Path = Path("record_list.csv")
    lead: str = "I"
    input: str = "duplicate"
    tiny: bool = False
    keep_head: bool = False
    trust: bool = False
    epochs: int = 100
    max_update: int = 0
    patience: int = 0
    lr: float = 1e-6
    schedule: str = "constant"
    warmup: int = 0
    layer_decay: float = 1.0
    weight_decay: float = 0.0
    freeze_layers: int | str = 0
    drop_path: float = 0.0
    augment: Augmentation | None = None
    batch_size: int = 256
    accumulate: int = 1
    seed: int = 1
    precision: str = "float32"
    workers: int = 1
    save_every: int = 500

    @property
    def part_size(self) -> int:
        """Segments of one part of a batch; the last part may be smaller."""
        return -(-self.batch_size // self.accumulate)

    @property
    def input_channel(self) -> int | None:
        """The channel that the lead goes into; None: into all."""
        return LEADS.index(self.lead) if self.input == "zero" else None

    def recorded(self) -> dict[str, Any]:
        """Return what decides the weights that come out, as JSON values, with the SHA-256 of every input."""
        pretrained = self.pretrained and {"path": str(self.pretrained), "sha256": sha256(self.pretrained)}
        return {
            "lead": self.lead,
            "input": self.input,
            **self.label_set.stated(),
            "tiny": self.tiny,
            "keep_head": self.keep_head,
            "epochs": self.epochs,
            "max_update": self.max_update,
            "patience": self.patience,
            "lr": self.lr,
            "schedule": self.schedule,
            "warmup": self.warmup,
            "layer_decay": self.layer_decay,
            "weight_decay": self.weight_decay,
            "freeze_layers": self.freeze_layers,
            "drop_path": self.drop_path,
            "batch_size": self.batch_size,
            "accumulate": self.accumulate,
            "seed": self.seed,
            "pretrained": pretrained,
            # fairseq-signals needs no original_idx_order.npy.
            "manifests": {path.name: sha256(path) for path in manifest_files(self.manifests) if path.exists()},
        }


def manifest_files(manifests: Path) -> list[Path]:
    """Return the files of the manifests that a run reads."""
    names = ("manifest_y", "original_idx_order", "manifest_label_def", "manifest_pos_weight")
    listed = [inside(manifests, "manifest", split=split) for split in ("train", "valid")]
    return listed + [inside(manifests, name) for name in names]

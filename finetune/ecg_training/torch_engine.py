"""The torch engine from the data on disk to the checkpoint on disk."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import torch

from ecg_finetune.batch import loader_workers
from ecg_finetune.checkpoint import save_checkpoint
from ecg_finetune.ecg_fm import Architecture, EcgClassifier, load_pretrained
from ecg_finetune.files import UserError, sha256
from ecg_finetune.label_set import LABELS, read_pos_weight
from ecg_finetune.run_folder import locked
from ecg_finetune.segments import SegmentDataset, read_label_rows, read_manifest
from ecg_training.fairseq_checkpoint import fairseq_checkpoint
from ecg_training.processes import Processes
from ecg_training.progress import Progress
from ecg_training.run_folder import BEST, LAST, claim_folder, interrupted, write_settings
from ecg_training.trainer import Position, Settings, Trainer, train

# What fine-tuning changes in the pretrained network: no dropout but after the activation, frozen convolutions.
FINETUNING = {
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.1,
    "dropout_input": 0.0,
    "final_dropout": 0.0,
    "feature_grad_mult": 0.0,
}
# A network of the same kind that trains on a laptop. Its frames are 64 ms apart, so that two layers of attention over
# 77 of them span the whole 5 s that a rhythm needs.
TINY = Architecture(
    encoder_layers=2,
    encoder_embed_dim=64,
    encoder_ffn_embed_dim=128,
    encoder_attention_heads=4,
    layer_norm_first=True,
    conv_feature_layers=((32, 16, 8), (64, 4, 2), (64, 4, 2)),
    conv_pos=16,
    conv_pos_groups=4,
    num_labels=len(LABELS),
    activation_dropout=0.1,
    feature_grad_mult=1.0,
)


def build_model(pretrained: Path | None, *, tiny: bool, seed: int, trust: bool) -> EcgClassifier:
    """Return the network at its starting point: a pretrained encoder with a new head, or all at random.

    A random start trains the convolutions too: frozen at random weights they would pass on noise.
    """
    torch.manual_seed(seed)
    if pretrained is not None:
        return load_pretrained(pretrained, len(LABELS), trust=trust, **FINETUNING)
    if tiny:
        # Its operations are too small to share: on a busy machine two threads took 10 times as long as one.
        torch.set_num_threads(1)
        return EcgClassifier(TINY)
    return EcgClassifier(Architecture(**FINETUNING | {"feature_grad_mult": 1.0}))


def finetune(
    settings: Settings,
    *,
    pretrained: Path | None,
    tiny: bool,
    trust: bool,
    manifests: Path,
    lead: str,
    folder: Path,
    device: torch.device,
    processes: Processes,
    compiled: bool,
    resume: bool,
    overwrite: bool,
) -> str:
    """Fine-tune and leave `checkpoint_best.pt`, log, curves and settings in `folder`; return a summary."""
    train_set, valid_set = _read_sets(manifests)
    pos_weight = read_pos_weight(manifests / "pos_weight.txt")
    recorded = _recorded_settings(settings, pretrained, tiny, manifests, lead)
    for dataset in (train_set, valid_set):
        dataset.load(settings.workers)
    model = build_model(pretrained, tiny=tiny, seed=settings.seed, trust=trust)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if processes.first:
        print(
            f"{len(train_set):,} train and {len(valid_set):,} valid segments; "
            f"{sum(p.numel() for p in model.parameters()):,} parameters, {trained:,} of them trained; on {device}, "
            f"{str(settings.precision).removeprefix('torch.')}",
            flush=True,
        )
    paths = {
        "manifests": str(manifests.absolute()),
        "labels": str((manifests / "y.npy").absolute()),
        "output": str(folder.absolute()),
        "pretrained": None if pretrained is None else str(pretrained.absolute()),
    }
    if compiled:
        model.compile()
    trainer = Trainer(model, pos_weight, settings, device, processes)
    torch.manual_seed(settings.seed + processes.rank)  # dropout differs between processes

    def save_best(position: Position) -> None:
        content = fairseq_checkpoint(trainer.model, settings, position, paths, pos_weight.tolist())
        save_checkpoint(folder / BEST, content)

    # All input is read: a bad file leaves the folder as it was.
    with locked(folder, folder / "run.lock") if processes.first else contextlib.nullcontext(), loader_workers():
        resumed = processes.first and claim_folder(
            folder, recorded, resume=resume or interrupted(folder, recorded), overwrite=overwrite
        )
        resumed = processes.gather(resumed)[0]
        if processes.first:
            write_settings(folder, recorded, finished=False)
        progress = Progress(folder, settings.epochs, len(train_set), processes.first)
        position = train(
            trainer, train_set, valid_set, last=folder / LAST, resume=resumed, save_best=save_best, progress=progress
        )
        progress.close()
        best = position.history[position.best_epoch - 1]
        if processes.first:
            write_settings(folder, recorded, finished=True, best=best)
    return (
        f"{position.epoch} epochs, {position.updates:,} updates; best epoch {position.best_epoch}: valid loss "
        f"{best['valid_loss']:.3f}, AUROC micro {best['auroc']:.4f} macro {best['auroc_macro']:.4f}; {folder / BEST}"
    )


def _read_sets(manifests: Path) -> tuple[SegmentDataset, SegmentDataset]:
    """Return the train and the valid set, their files not yet read."""
    labels, studies = read_label_rows(manifests)
    train_set, valid_set = (
        SegmentDataset(read_manifest(manifests / f"{split}.tsv"), labels, studies) for split in ("train", "valid")
    )
    if train_set.manifest.samples != valid_set.manifest.samples:
        raise UserError(f"{manifests}: train and valid segments differ in length; run the build stage again")
    return train_set, valid_set


def _recorded_settings(
    settings: Settings, pretrained: Path | None, tiny: bool, manifests: Path, lead: str
) -> dict[str, Any]:
    """Return what settings.json records and a resumed run must share, with the checksum of every input."""
    inputs = [manifests / name for name in ("train.tsv", "valid.tsv", "y.npy", "pos_weight.txt")]
    recorded = dataclasses.asdict(settings)
    for name in ("workers", "save_every"):  # they change nothing that is computed
        del recorded[name]
    return {
        "engine": "torch",
        "lead": lead,
        "tiny": tiny,
        **recorded,
        "precision": str(settings.precision).removeprefix("torch."),
        "labels": list(LABELS),
        "pretrained": None if pretrained is None else {"path": str(pretrained), "sha256": sha256(pretrained)},
        "manifests": {path.name: sha256(path) for path in inputs},
    }

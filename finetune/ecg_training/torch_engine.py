"""The torch engine from the data on disk to the checkpoint on disk."""

import contextlib
import dataclasses
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ecg_finetune.batch import loader_workers
from ecg_finetune.checkpoint import save_checkpoint
from ecg_finetune.ecg_fm import Architecture, EcgClassifier, load_architecture, load_pretrained
from ecg_finetune.files import UserError, refuse_outputs
from ecg_finetune.label_set import difference, read_pos_weight
from ecg_finetune.lineage import NOT_LEARNT
from ecg_finetune.noise import NoiseSource
from ecg_finetune.paths import inside
from ecg_finetune.run_folder import locked
from ecg_finetune.segments import Manifest, read_label_rows, read_manifest
from ecg_finetune.tables import listed
from ecg_finetune.training_records import STATED, TRAINED_ON, TrainingRecords, records_of_checkpoint
from ecg_training.augmentation import AugmentedData, Augmenter
from ecg_training.augmentation import recorded as recorded_augmentation
from ecg_training.checkpoint_folder import BEST, LAST, LOCK, check_folder, claim_folder, note_labels, record_run
from ecg_training.fairseq_checkpoint import fairseq_checkpoint
from ecg_training.packed_leads import packed_leads
from ecg_training.processes import Processes
from ecg_training.progress import Progress
from ecg_training.recipe import features_of, freeze, set_drop_path
from ecg_training.seen_records import note_seen_records, run_lineage, seen_records, told_of_start
from ecg_training.settings import ALL, FinetuneSettings
from ecg_training.trainer import Position, Trainer, length_of, train
from ecg_training.training_data import TrainingData

# What fine-tuning changes in the pretrained network: no dropout but after the activation, frozen convolutions.
CHANGES = {
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
    activation_dropout=0.1,
    feature_grad_mult=1.0,
)
# From so many updates on, compiling the network saves more time than it takes.
WORTH_COMPILING = 2000


def finetune(
    settings: FinetuneSettings,
    device: torch.device,
    processes: Processes,
    *,
    compiled: bool | None,
    resume: bool,
    overwrite: bool,
    tensorboard: bool = False,
) -> str:
    """Fine-tune and leave `checkpoint_best.pt`, log, curves and settings in the output folder.

    Parameters
    ----------
    settings : FinetuneSettings
        What to do.
    device : torch.device
        Where to train.
    processes : Processes
        The processes that share each batch.
    compiled : bool or None
        Whether to compile the network; None: on a GPU for long runs.
    resume, overwrite : bool
        See `checkpoint_folder.claim_folder`.
    tensorboard : bool
        Write event files for TensorBoard.

    Returns
    -------
    str
        A summary.

    Raises
    ------
    UserError
        An input cannot be used, the output folder holds another run, or the loss is not finite.
    """
    manifests = _read_manifests(settings.manifests)
    labels, studies = read_label_rows(settings.manifests)
    pos_weight = read_pos_weight(inside(settings.manifests, "manifest_pos_weight"), len(settings.label_set))
    segments = tuple(len(manifest.files) for manifest in manifests)
    trainer = new_trainer(settings, pos_weight, segments, device, processes, compiled)
    recorded = recorded_settings(settings)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    records = None
    if processes.first:
        records = records_of_run(settings, manifests, labels, studies, trainer.model)
        refuse_outputs(folders=[settings.output])
        check_folder(settings.output, recorded, resume=resume, overwrite=overwrite, resumable=True)
    told = run_lineage(recorded, settings.manifests)
    train_set, valid_set = _training_data(settings, manifests, labels, studies, device, processes)
    if settings.freeze_layers == ALL:
        train_set, valid_set = (
            features_of(trainer.model, data, trainer.autocast, settings.part_size, f"features of {split} segments")
            for split, data in (("train", train_set), ("valid", valid_set))
        )
    torch.manual_seed(settings.seed + processes.rank)  # dropout differs between processes
    folder, noted = settings.output, {}

    def save_best(position: Position) -> None:
        content = fairseq_checkpoint(trainer.model, settings, position, pos_weight.tolist(), noted[STATED])
        save_checkpoint(folder / BEST, content)
        record_run(folder, told, versions, **noted, finished=False)

    # All input is read: a bad file leaves the folder as it was.
    with locked(folder, folder / LOCK) if processes.first else contextlib.nullcontext(), loader_workers():
        resumed = processes.first and claim_folder(folder, recorded, resume=resume, overwrite=overwrite, resumable=True)
        resumed = processes.gather(resumed)[0]
        if processes.first:
            noted[NOT_LEARNT] = note_labels(folder, settings.manifests)
            noted[STATED] = note_seen_records(folder, records)
            record_run(folder, told, versions, **noted, finished=False)
        of_run = length_of(settings, segments[0])[1]
        progress = Progress(folder, segments[0], of_run, processes.first, tensorboard=tensorboard)
        position = train(
            trainer, train_set, valid_set, last=folder / LAST, resume=resumed, save_best=save_best, progress=progress
        )
        progress.close()
        best = position.history[position.best_epoch - 1]
        if processes.first:
            record_run(folder, told, versions, **noted, finished=True, best=best)
    return (
        f"{position.epoch} epochs, {position.updates:,} updates; best epoch {position.best_epoch}: valid loss "
        f"{best['valid_loss']:.3f}, AUROC micro {best['auroc']:.4f} macro {best['auroc_macro']:.4f}; {folder / BEST}"
    )


def new_trainer(
    settings: FinetuneSettings,
    pos_weight: np.ndarray,
    segments: tuple[int, int],
    device: torch.device,
    processes: Processes,
    compiled: bool | None,
) -> Trainer:
    """Return the trainer of the network at its starting point; say what will be trained on so many segments.

    `segments` are those of train and valid, the rest as for `finetune`.
    """
    model = build_model(settings)
    told_of_input(model, settings)
    model.input_channel = settings.input_channel
    freeze(model, settings.freeze_layers)
    set_drop_path(model, settings.drop_path)
    if compiled is None:
        compiled = device.type == "cuda" and length_of(settings, segments[0])[0] >= WORTH_COMPILING
    if processes.first:
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        print(
            f"{segments[0]:,} train and {segments[1]:,} valid segments; "
            f"{sum(p.numel() for p in model.parameters()):,} parameters, {trained:,} of them trained; on {device}, "
            f"{settings.precision}{', compiled' if compiled else ''}",
            flush=True,
        )
    if compiled and settings.freeze_layers != ALL:
        model.compile()
    return Trainer(model, pos_weight, settings, device, processes)


def records_of_run(
    settings: FinetuneSettings,
    manifests: Sequence[Manifest],
    labels: np.ndarray,
    studies: np.ndarray,
    model: EcgClassifier,
) -> TrainingRecords:
    """Return the records that the network will have been trained on, by its start too; say what is known of them."""
    records = seen_records(*manifests, settings.record_list, settings.workers)
    for line in told_of_labels(settings, labels, studies, records):
        print(line, flush=True)
    if not model.fine_tuned:
        return records
    start = records_of_checkpoint(settings.pretrained, model.training_records)
    print(told_of_start(settings.pretrained, start, records), flush=True)
    return records.after(start)


def recorded_settings(settings: FinetuneSettings) -> dict[str, Any]:
    """Return what settings.json records of a run with these settings."""
    return {
        "engine": "torch",
        **settings.recorded(),
        "augment": recorded_augmentation(settings.augment),
        "precision": settings.precision,
    }


def told_of_input(model: EcgClassifier, settings: FinetuneSettings) -> None:
    """Say if a fine-tuned start had its lead in other channels; refuse a channel that the network does not have."""
    channel = settings.input_channel
    if channel is not None and channel >= model.architecture.in_d:
        raise UserError(f"--input zero: lead {settings.lead} has no channel of the network's {model.architecture.in_d}")
    if model.fine_tuned and model.input_channel != channel:
        before = "zero" if model.input_channel is not None else "duplicate"
        print(f"note: {settings.pretrained} was fine-tuned with --input {before}, this run has {settings.input}")


def build_model(settings: FinetuneSettings) -> EcgClassifier:
    """Return the network at its starting point: a pretrained encoder with a new head, or all at random.

    A random start trains the convolutions too: frozen at random weights they would pass on noise.

    Raises
    ------
    UserError
        The checkpoint cannot be used, or has no head to keep or one of other labels.
    """
    torch.manual_seed(settings.seed)
    changes = CHANGES | {"num_labels": len(settings.label_set)}
    if settings.pretrained is not None:
        _check_head(settings)
        return load_pretrained(settings.pretrained, keep_head=settings.keep_head, trust=settings.trust, **changes)
    if settings.tiny:
        # Its operations are too small to share: on a busy machine two threads took 10 times as long as one.
        torch.set_num_threads(1)
        return EcgClassifier(dataclasses.replace(TINY, num_labels=len(settings.label_set)))
    return EcgClassifier(Architecture(**changes | {"feature_grad_mult": 1.0}))


def _check_head(settings: FinetuneSettings) -> None:
    """Say what happens to the head of a fine-tuned checkpoint; refuse to keep one of other labels, or none."""
    path = settings.pretrained
    architecture, fine_tuned, label_set = load_architecture(path, trust=settings.trust)
    if not fine_tuned:
        if settings.keep_head:
            raise UserError(f"{path}: not fine-tuned, so it has no head to keep; run without --keep-head")
        return
    count, wanted = architecture.num_labels, settings.label_set.names
    named = "whose names are not known" if label_set is None else ", ".join(label_set.names)
    print(f"{path}: a fine-tuned network of {count} labels ({named})")
    if label_set is not None:
        other = difference(label_set.names, "the checkpoint", wanted, "the manifests")
    else:
        other = None if count == len(wanted) else f"{count} in the checkpoint, {len(wanted)} in the manifests"
    if not settings.keep_head:
        print(f"its head is replaced by a new one{'' if other else '; --keep-head keeps it'}", flush=True)
    elif other:
        raise UserError(f"{path}: its head is for other labels: {other}; run without --keep-head to draw a new one")
    else:
        sure = "" if label_set else ", on the assumption that its labels are those of the manifests in the same order"
        print(f"its head is kept{sure}", flush=True)


def told_of_labels(
    settings: FinetuneSettings, labels: np.ndarray, studies: np.ndarray, records: TrainingRecords
) -> list[str]:
    """Say how much is known of the labels, and which outputs cannot learn to tell records apart.

    Parameters
    ----------
    settings : FinetuneSettings
        Of the run.
    labels, studies : ndarray (rows, labels), ndarray (rows,)
        See `segments.read_label_rows`.
    records : TrainingRecords
        The records of the run.

    Raises
    ------
    UserError
        No label of the train or of the valid segments is known.
    """
    shares = {}
    for split in reversed(TRAINED_ON):
        of_split = np.isin(studies, records.of_split(split).study_id)[:, None]
        known, positive = (((labels == labels) & of_split).sum(axis=0), ((labels > 0) & of_split).sum(axis=0))
        shares[split] = known.sum() / (of_split.sum() * len(known))
        if not known.any():
            path = inside(settings.manifests, "manifest_y")
            raise UserError(f"{path}: no label of a {split} segment is known; give records with labels to that split")
    lines = []
    if min(shares.values()) < 1:
        lines.append(f"labels known: {shares['train']:.1%} of train, {shares['valid']:.1%} of valid")
    for which, told in (
        (known == 0, "no train segment knows whether it has {}: these outputs learn nothing here"),
        ((known > 0) & (positive == 0), "no train segment has {} (weight 0.0): these outputs only learn to be low"),
        (
            (known > 0) & (positive == known),
            "all that know {} have it (weight 0.0): these outputs learn nothing here",
        ),
    ):
        if which.any():
            lines.append("note: " + told.format(listed([settings.label_set.names[k] for k in np.flatnonzero(which)])))
    return lines


def _read_manifests(manifests: Path) -> list[Manifest]:
    """Return the train and the valid manifest."""
    train, valid = (read_manifest(inside(manifests, "manifest", split=split)) for split in ("train", "valid"))
    if train.samples != valid.samples:
        raise UserError(f"{manifests}: train and valid segments differ in length; run the build stage again")
    return [train, valid]


def _training_data(
    settings: FinetuneSettings,
    manifests: Sequence[Manifest],
    labels: np.ndarray,
    studies: np.ndarray,
    device: torch.device,
    processes: Processes,
) -> list[TrainingData]:
    """Return the segments of each manifest with their targets, by way of leads.npy; arrays as `read_label_rows`."""
    path = settings.leads or inside(settings.manifests, "leads")
    packed = packed_leads(path, manifests, studies, workers=settings.workers, first=processes.first)
    leads, targets = torch.from_numpy(packed.leads), torch.from_numpy(labels[packed.idx])
    sizes = [len(manifest.files) for manifest in manifests]
    train, valid = zip(leads.split(sizes), targets.split(sizes), strict=True)
    if settings.augment is None:
        return [TrainingData(*train, device), TrainingData(*valid, device)]
    augmenter = Augmenter(settings.augment, NoiseSource.open(settings.augment.noise_root, "train"))
    augmented = AugmentedData(*train, device, augmenter, seed=settings.seed, workers=settings.workers, file=path)
    return [augmented, TrainingData(*valid, device)]

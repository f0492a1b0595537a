"""The checkpoint file as fairseq-signals writes and reads it (`build_model_from_checkpoint`)."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ecg_finetune.ecg_fm import Architecture, EcgClassifier
from ecg_finetune.paths import inside
from ecg_finetune.training_records import STATED
from ecg_training.settings import ADAM_BETAS, ADAM_EPS, FinetuneSettings
from ecg_training.trainer import Position

# `cfg` as fairseq-signals' own fine-tuning writes it: every section and key; null where a run fills in its value, and
# where fairseq-signals has None.
TEMPLATE = Path(__file__).with_name("fairseq_config.json")


def fairseq_checkpoint(
    model: EcgClassifier,
    settings: FinetuneSettings,
    position: Position,
    pos_weight: Sequence[float],
    records_sha256: str,
) -> dict[str, Any]:
    """Return the content of a checkpoint with all top-level keys of fairseq-signals, without an optimiser state.

    Unlike fairseq-signals', `extra_state` holds no labels and scores of the valid split, so that the file can be
    shared where the data cannot.

    Parameters
    ----------
    model : EcgClassifier
        The network.
    settings, position : FinetuneSettings, Position
        How and how far it was trained.
    pos_weight : sequence of float
        The weight of each label's positives in the loss.
    records_sha256 : str
        The SHA-256 of training_records.csv, by which eval knows that it is this checkpoint's.
    """
    return {
        "args": None,
        "cfg": fairseq_config(model.architecture, settings, pos_weight),
        "model": {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()},
        "criterion": None,
        "optimizer_history": [
            {
                "criterion_name": "BinaryCrossEntropyWithLogitsCriterion",
                "optimizer_name": "Adam",
                "lr_scheduler_state": {"lr": settings.lr},
                "num_updates": position.updates,
            }
        ],
        "task_state": {},
        "extra_state": {
            "metrics": {},
            "previous_training_time": float(sum(row["seconds"] for row in position.history)),
            "train_iterator": {
                "version": 2,
                "epoch": position.epoch + 1,
                "iterations_in_epoch": 0,
                "shuffle": True,
            },
            "val_loss": position.best_loss,
            "best": position.best_loss,
            **settings.label_set.stated(),
            STATED: records_sha256,
        },
    }


def fairseq_config(
    architecture: Architecture, settings: FinetuneSettings, pos_weight: Sequence[float]
) -> dict[str, Any]:
    """Return `cfg`: the template with this run's values."""
    config = json.loads(TEMPLATE.read_text(encoding="utf-8"))
    data, part, lr = str(settings.manifests.absolute()), settings.part_size, [settings.lr]
    labels = str(inside(settings.manifests, "manifest_y").absolute())
    pretrained = None if settings.pretrained is None else str(settings.pretrained.absolute())
    shape = dataclasses.asdict(architecture)
    shape["conv_feature_layers"] = str([tuple(layer) for layer in architecture.conv_feature_layers])
    values = {
        "common": {"seed": settings.seed},
        "dataset": {"num_workers": settings.workers, "batch_size": part, "batch_size_valid": part},
        "optimization": {
            "max_epoch": settings.epochs,
            "max_update": settings.max_update,
            "lr": lr,
            "update_freq": [settings.accumulate],
        },
        "checkpoint": {"save_dir": str(settings.output.absolute()), "patience": settings.patience or -1},
        "model": {
            **shape,
            "data": data,
            "model_path": pretrained,
            "no_pretrained_weights": pretrained is None,
        },
        "task": {"data": data, "label_file": labels, **leads_loaded(settings.input_channel)},
        "criterion": {"pos_weight": list(pos_weight)},
        "lr_scheduler": {"lr": lr, "warmup_updates": settings.warmup},
        "optimizer": {
            "lr": lr,
            "adam_betas": str(ADAM_BETAS),
            "adam_eps": ADAM_EPS,
            "weight_decay": settings.weight_decay,
        },
    }
    for section, filled in values.items():
        config[section] |= filled
    return config


def leads_loaded(input_channel: int | None) -> dict[str, Any]:
    """Return the settings of fairseq-signals' task that have a lead in all channels (None), or in one alone."""
    if input_channel is None:
        return {"leads_to_load": None, "enable_padding_leads": False}
    return {"leads_to_load": f"[{input_channel}]", "enable_padding_leads": True}

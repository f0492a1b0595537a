"""The checkpoint file as fairseq-signals writes and reads it (`build_model_from_checkpoint`)."""

import dataclasses
from typing import Any

from ecg_finetune.ecg_fm import CLASSIFIER_NAME, Architecture, EcgClassifier
from ecg_training.trainer import ADAM_BETAS, ADAM_EPS, Position, Settings


def fairseq_checkpoint(
    model: EcgClassifier, settings: Settings, position: Position, paths: dict[str, str | None], pos_weight: list[float]
) -> dict[str, Any]:
    """Return the content of a checkpoint with all top-level keys of fairseq-signals, without an optimiser state.

    Unlike fairseq-signals', `extra_state` holds no labels and scores of the valid split, so that the file can be
    shared where the data cannot.

    Parameters
    ----------
    model : EcgClassifier
        The network.
    settings, position : Settings, Position
        How and how far it was trained.
    paths : dict
        `manifests` and `labels` of the training data, `output` of the run, and `pretrained`, None for a random start.
    pos_weight : list of float
        The weights of the loss.
    """
    return {
        "args": None,
        "cfg": fairseq_config(model.architecture, settings, paths, pos_weight),
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
        },
    }


def fairseq_config(
    architecture: Architecture, settings: Settings, paths: dict[str, str | None], pos_weight: list[float]
) -> dict[str, Any]:
    """Return `cfg`: every section and key that fairseq-signals' own fine-tuning writes, with this run's values."""
    lr = [settings.lr]
    return {
        "_name": None,
        "common": _common(settings),
        "common_eval": {
            "_name": None,
            "path": None,
            "quiet": False,
            "model_overrides": "{}",
            "extract": None,
            "results_path": None,
        },
        "distributed_training": _distributed_training(),
        "dataset": _dataset(settings),
        "optimization": {
            "_name": None,
            "max_epoch": settings.epochs,
            "max_update": 320000,
            "lr": lr,
            "stop_time_hours": 0.0,
            "clip_norm": 0.0,
            "update_freq": [settings.accumulate],
            "stop_min_lr": -1.0,
        },
        "checkpoint": _checkpoint(settings, paths["output"]),
        "model": _model(architecture, paths),
        "task": _task(paths),
        "criterion": {
            "_name": "binary_cross_entropy_with_logits",
            "weight": None,
            "threshold": 0.5,
            "report_auc": True,
            "auc_average": "macro",
            "pos_weight": pos_weight,
            "report_cinc_score": False,
            "weights_file": "???",
            "per_log_keys": [],
        },
        "lr_scheduler": {"_name": "fixed", "force_anneal": None, "lr_shrink": 0.1, "warmup_updates": 0, "lr": lr},
        "optimizer": {
            "_name": "adam",
            "adam_betas": str(ADAM_BETAS),
            "adam_eps": ADAM_EPS,
            "weight_decay": 0.0,
            "use_old_adam": False,
            "lr": lr,
        },
    }


def _common(settings: Settings) -> dict[str, Any]:
    return {
        "_name": None,
        "no_progress_bar": False,
        "log_interval": 10,
        "log_format": "json",
        "log_file": None,
        "wandb_project": None,
        "wandb_entity": None,
        "seed": settings.seed,
        "fp16": False,
        "memory_efficient_fp16": False,
        "fp16_no_flatten_grads": False,
        "fp16_init_scale": 128,
        "fp16_scale_window": None,
        "fp16_scale_tolerance": 0.0,
        "on_cpu_convert_precision": False,
        "min_loss_scale": 0.0001,
        "threshold_loss_scale": None,
        "empty_cache_freq": 0,
        "all_gather_list_size": 2048000,
        "model_parallel_size": 1,
        "profile": False,
        "reset_logging": False,
        "suppress_crashes": False,
    }


def _distributed_training() -> dict[str, Any]:
    return {
        "_name": None,
        "distributed_world_size": 1,
        "distributed_rank": 0,
        "distributed_backend": "nccl",
        "distributed_init_method": None,
        "distributed_port": 12355,
        "device_id": 0,
        "ddp_comm_hook": "none",
        "bucket_cap_mb": 25,
        "fix_batches_to_gpus": False,
        "find_unused_parameters": True,
        "heartbeat_timeout": -1,
        "broadcast_buffers": False,
        "fp16": False,
        "memory_efficient_fp16": False,
    }


def _dataset(settings: Settings) -> dict[str, Any]:
    return {
        "_name": None,
        "num_workers": settings.workers,
        "skip_invalid_size_inputs_valid_test": False,
        "max_tokens": None,
        "batch_size": settings.batch_size,
        "required_batch_size_multiple": 8,
        "data_buffer_size": 10,
        "train_subset": "train",
        "valid_subset": "valid",
        "combine_valid_subsets": None,
        "ignore_unused_valid_subsets": False,
        "validate_interval": 1,
        "validate_interval_updates": 0,
        "validate_after_updates": 0,
        "fixed_validation_seed": None,
        "disable_validation": False,
        "max_tokens_valid": None,
        "batch_size_valid": settings.batch_size,
        "max_valid_steps": None,
        "curriculum": 0,
        "num_shards": 1,
        "shard_id": 0,
    }


def _checkpoint(settings: Settings, output: str) -> dict[str, Any]:
    return {
        "_name": None,
        "save_dir": output,
        "restore_file": "checkpoint_last.pt",
        "finetune_from_model": None,
        "reset_dataloader": False,
        "reset_lr_scheduler": False,
        "reset_meters": False,
        "reset_optimizer": False,
        "optimizer_overrides": "{}",
        "save_interval": 1,
        "save_interval_updates": 0,
        "keep_interval_updates": -1,
        "keep_interval_updates_pattern": -1,
        "keep_last_epochs": 0,
        "keep_best_checkpoints": 1,
        "no_save": False,
        "no_epoch_checkpoints": True,
        "no_last_checkpoints": True,
        "no_save_optimizer_state": True,
        "best_checkpoint_metric": "loss",
        "maximize_best_checkpoint_metric": False,
        "patience": settings.patience or -1,
        "checkpoint_suffix": "",
        "checkpoint_shard_count": 1,
        "load_checkpoint_on_all_dp_ranks": False,
    }


def _model(architecture: Architecture, paths: dict[str, str | None]) -> dict[str, Any]:
    shape = dataclasses.asdict(architecture)
    shape["conv_feature_layers"] = str([tuple(layer) for layer in architecture.conv_feature_layers])
    masking = {}
    for prefix, length in (("mask", "mask_length"), ("mask_channel", "mask_channel_length")):
        masking |= {
            length: 10,
            f"{prefix}_prob": 0.0,
            f"{prefix}_selection": "static",
            f"{prefix}_other": 0.0,
            f"no_{prefix}_overlap": False,
            f"{prefix}_min_space": 1,
        }
    return {
        "_name": CLASSIFIER_NAME,
        "all_gather": False,
        "normalize": False,
        "filter": False,
        "data": paths["manifests"],
        "args": None,
        "saliency": False,
        "encoder_layerdrop": 0.0,
        "dropout_features": 0.0,
        "apply_mask": False,
        **masking,
        "extractor_mode": "default",
        **shape,
        "model_path": paths["pretrained"],
        "no_pretrained_weights": paths["pretrained"] is None,
        "freeze_finetune_updates": 0,
    }


def _task(paths: dict[str, str | None]) -> dict[str, Any]:
    return {
        "_name": "ecg_classification",
        "data": paths["manifests"],
        "leads_to_load": None,
        "leads_bucket": None,
        "bucket_selection": "uniform",
        "sample_rate": None,
        "filter": False,
        "normalize": False,
        "mean_path": None,
        "std_path": None,
        "enable_padding": True,
        "enable_padding_leads": False,
        "max_sample_size": None,
        "min_sample_size": None,
        "num_batch_buckets": 0,
        "precompute_mask_indices": False,
        "perturbation_mode": None,
        "p": [1.0],
        "max_amplitude": 0.1,
        "min_amplitude": 0.0,
        "dependency": True,
        "shift_ratio": 0.2,
        "num_segment": 1,
        "max_freq": 0.2,
        "min_freq": 0.01,
        "k": 3,
        "mask_leads_selection": "random",
        "mask_leads_prob": 0.5,
        "mask_leads_condition": [4, 5],
        "inferred_w2v_config": None,
        "inferred_3kg_config": None,
        "criterion_name": "binary_cross_entropy_with_logits",
        "path_dataset": False,
        "label_file": paths["labels"],
        "load_specific_lead": False,
    }

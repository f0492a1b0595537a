"""The `fairseq-hydra-train` command that fine-tunes ECG-FM."""

import re
from collections.abc import Sequence
from pathlib import Path

from ecg_finetune.ecg_fm import Architecture
from ecg_finetune.files import UserError
from ecg_finetune.paths import inside
from ecg_training.settings import FinetuneSettings

EXECUTABLE = "fairseq-hydra-train"
CONFIG_DIR = "examples/w2v_cmsc/config/finetuning/ecg_transformer"
CONFIG_NAME = "diagnosis"
# Keys that an option sets, so that the settings on record are true.
OPTIONS = {
    "task.data": "--manifests",
    "task.label_file": "--manifests",
    "task.leads_to_load": "--input",
    "task.enable_padding_leads": "--input",
    "model.model_path": "--pretrained",
    "checkpoint.save_dir": "--output-dir",
    "optimization.max_epoch": "--epochs",
    "optimization.max_update": "--max-update",
    "optimization.lr": "--lr",
    "optimization.update_freq": "--accumulate",
    "lr_scheduler.warmup_updates": "--warmup",
    "optimizer.weight_decay": "--weight-decay",
    "dataset.batch_size": "--batch-size",
    "dataset.num_workers": "--workers",
    "checkpoint.patience": "--patience",
    "common.seed": "--seed",
}
# What shapes the encoder; fairseq-signals does not take it from the pretrained checkpoint.
SIZES = (
    "encoder_layers",
    "encoder_embed_dim",
    "encoder_ffn_embed_dim",
    "encoder_attention_heads",
    "layer_norm_first",
    "conv_feature_layers",
    "conv_bias",
    "conv_pos",
    "conv_pos_groups",
)


def fairseq_command(
    settings: FinetuneSettings,
    architecture: Architecture,
    pos_weight: Sequence[float],
    root: Path,
    overrides: Sequence[str] = (),
) -> list[str]:
    """Return the command as a list of arguments.

    A `+` adds a key that the configuration file does not have; hydra refuses a wrong or missing one before anything
    runs.

    Parameters
    ----------
    settings : FinetuneSettings
        What to do.
    architecture : Architecture
        Of the pretrained checkpoint.
    pos_weight : sequence of float
        The weight of each label's positives in the loss.
    root : Path
        The clone of fairseq-signals.
    overrides : sequence of str
        Further settings, such as `common.fp16=true`: they replace the setting of the same key, or come last.

    Raises
    ------
    UserError
        An override sets what an option of this project sets.
    """
    for override in overrides:
        if option := OPTIONS.get(_key(override)):
            raise UserError(f"{override}: use {option}, so that settings.json tells what was done")
    manifests, output = settings.manifests.absolute(), settings.output.absolute()
    weights = ",".join(f"{weight:.8f}" for weight in pos_weight)
    command = [
        f"task.data={_quoted(manifests)}",
        f"+task.label_file={_quoted(inside(manifests, 'manifest_y'))}",
        "task.normalize=false",
        "task.enable_padding=true",
        *_input(settings.input_channel),
        f"model.model_path={_quoted(settings.pretrained.absolute())}",
        f"model.num_labels={len(settings.label_set)}",
        "model.no_pretrained_weights=false",
        "model.dropout=0.0",
        "model.attention_dropout=0.0",
        "model.activation_dropout=0.1",
        "model.feature_grad_mult=0",
        "model.freeze_finetune_updates=0",
        f"model.in_d={architecture.in_d}",
        "model.saliency=false",
        f"+criterion.pos_weight=[{weights}]",
        "criterion.report_auc=true",
        "criterion.report_cinc_score=false",
        f"optimization.max_epoch={settings.epochs}",
        f"optimization.max_update={settings.max_update}",
        f"optimization.lr=[{settings.lr}]",
        f"optimization.update_freq=[{settings.accumulate}]",
        "lr_scheduler._name=fixed",
        f"lr_scheduler.warmup_updates={settings.warmup}",
        *([f"+optimizer.weight_decay={settings.weight_decay}"] if settings.weight_decay else []),
        f"dataset.num_workers={settings.workers}",
        f"dataset.batch_size={settings.part_size}",
        "dataset.max_tokens=null",
        'dataset.valid_subset="valid"',
        "dataset.disable_validation=false",
        "distributed_training.distributed_world_size=1",
        "distributed_training.find_unused_parameters=true",
        f"checkpoint.save_dir={_quoted(output)}",
        "checkpoint.save_interval=1",
        "checkpoint.no_epoch_checkpoints=true",
        "checkpoint.no_last_checkpoints=true",
        "checkpoint.keep_last_epochs=0",
        "checkpoint.keep_best_checkpoints=0",  # above 0 it keeps second copies of checkpoint_best.pt
        "checkpoint.no_save_optimizer_state=true",
        "checkpoint.best_checkpoint_metric=loss",
        "checkpoint.maximize_best_checkpoint_metric=false",
        f"checkpoint.patience={settings.patience or -1}",
        f"common.seed={settings.seed}",
        "common.fp16=false",
        "common.log_format=json",
        *_other_sizes(architecture),
    ]
    replaced = {_key(override) for override in overrides}
    command = [setting for setting in command if _key(setting) not in replaced]
    # Overrides come before --config-dir.
    config = ["--config-dir", str(root.absolute() / CONFIG_DIR), "--config-name", CONFIG_NAME]
    return [EXECUTABLE, *command, *overrides, *config]


def _input(channel: int | None) -> list[str]:
    """Return the settings that have the lead in all channels (None), or in one alone and zeros in the others."""
    if channel is None:
        return ["task.enable_padding_leads=false"]
    return ["task.enable_padding_leads=true", f'task.leads_to_load="[{channel}]"']


def _quoted(path: Path) -> str:
    """Return a path as hydra's grammar reads it: anything but a few characters needs quotes."""
    text = str(path)
    if re.fullmatch(r"[\w./+@%-]+", text, re.ASCII):
        return text
    escaped = text.replace("'", "\\'")
    return f"'{escaped}'"


def _other_sizes(architecture: Architecture) -> list[str]:
    """Repeat the sizes of the pretrained encoder that are not ECG-FM's."""
    default, settings = Architecture(), []
    for name in SIZES:
        value = getattr(architecture, name)
        if value != getattr(default, name):
            shown = f'"{[tuple(layer) for layer in value]}"' if name == "conv_feature_layers" else str(value).lower()
            settings.append(f"+model.{name}={shown}")
    return settings


def _key(setting: str) -> str:
    return setting.partition("=")[0].lstrip("+~")

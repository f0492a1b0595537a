"""The `fairseq-hydra-train` command that fine-tunes ECG-FM, and what it needs on this machine."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch

from ecg_finetune.ecg_fm import Architecture
from ecg_finetune.files import UserError, replacing
from ecg_training.run_folder import BEST, COMMAND, claim_folder, write_settings

EXECUTABLE = "fairseq-hydra-train"
CONFIG_DIR = "examples/w2v_cmsc/config/finetuning/ecg_transformer"
CONFIG_NAME = "diagnosis"
NEWEST_PYTHON = (3, 10)


def fairseq_command(
    *,
    manifests: Path,
    pos_weight: Sequence[float],
    pretrained: Path,
    architecture: Architecture,
    fairseq_root: Path,
    output: Path,
    epochs: int,
    lr: float,
    batch_size: int,
    accumulate: int,
    workers: int,
    seed: int | None = None,
    patience: int = 0,
    overrides: Sequence[str] = (),
) -> list[str]:
    """Return the command as a list of arguments.

    A `+` adds a key that the configuration file does not have; hydra refuses a wrong or missing one before anything
    runs. `overrides` (such as `common.fp16=true`) replace the setting of the same key, or come last.
    """
    weights = ",".join(f"{weight:.8f}" for weight in pos_weight)
    settings = [
        f"task.data={_quoted(manifests)}",
        f"+task.label_file={_quoted(manifests / 'y.npy')}",
        "task.normalize=false",
        "task.enable_padding=true",
        "task.enable_padding_leads=false",
        f"model.model_path={_quoted(pretrained)}",
        f"model.num_labels={len(pos_weight)}",
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
        f"optimization.max_epoch={epochs}",
        "optimization.max_update=320000",
        f"optimization.lr=[{lr}]",
        "lr_scheduler._name=fixed",
        "lr_scheduler.warmup_updates=0",
        f"dataset.num_workers={workers}",
        f"dataset.batch_size={batch_size // accumulate}",
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
        "checkpoint.keep_best_checkpoints=1",
        "checkpoint.no_save_optimizer_state=true",
        "checkpoint.best_checkpoint_metric=loss",
        "checkpoint.maximize_best_checkpoint_metric=false",
        "common.fp16=false",
        "common.log_format=json",
        *_other_sizes(architecture),
    ]
    if accumulate > 1:
        settings.append(f"optimization.update_freq=[{accumulate}]")
    if seed is not None:
        settings.append(f"common.seed={seed}")
    if patience:
        settings.append(f"checkpoint.patience={patience}")
    settings = _overridden(settings, overrides)
    # Overrides must stand before --config-dir.
    return [EXECUTABLE, *settings, "--config-dir", str(fairseq_root / CONFIG_DIR), "--config-name", CONFIG_NAME]


def _quoted(path: Path) -> str:
    """Return a path as hydra's grammar reads it: a comma, bracket or "=" in it needs quotes."""
    text = str(path)
    if re.fullmatch(r"[\w./~+@%-]+", text, re.ASCII):
        return text
    escaped = text.replace("'", "\\'")
    return f"'{escaped}'"


def _other_sizes(architecture: Architecture) -> list[str]:
    """Repeat the pretrained encoder's sizes where they are not ECG-FM's, for fairseq-signals does not inherit them."""
    default = Architecture()
    names = (
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
    settings = []
    for name in names:
        value = getattr(architecture, name)
        if value != getattr(default, name):
            shown = f'"{[tuple(layer) for layer in value]}"' if name == "conv_feature_layers" else str(value).lower()
            settings.append(f"+model.{name}={shown}")
    return settings


def _overridden(settings: list[str], overrides: Sequence[str]) -> list[str]:
    keys = {_key(override) for override in overrides if "=" in override}
    return [setting for setting in settings if _key(setting) not in keys] + list(overrides)


def _key(setting: str) -> str:
    return setting.partition("=")[0].lstrip("+~")


def missing_pieces(fairseq_root: Path | None, pretrained: Path) -> list[str]:
    """Say what fairseq-signals lacks on this machine, each with what to do; empty when it can run."""
    missing = []
    executable = shutil.which(EXECUTABLE)
    if executable is None:
        missing.append(f"no {EXECUTABLE} on PATH (install fairseq-signals as the README says)")
    else:
        version = python_of(executable)
        if version is not None and version > NEWEST_PYTHON:
            missing.append(
                f"{executable} runs on Python {'.'.join(map(str, version))}, too new for fairseq-signals "
                "(install it in an environment of Python 3.10 or older)"
            )
    if not cuda_present():
        missing.append("no CUDA device (fairseq-signals cannot train without one; use a GPU machine)")
    if fairseq_root is None:
        missing.append("no --fairseq-root (give the folder of the fairseq-signals clone)")
    elif not (fairseq_root / CONFIG_DIR / f"{CONFIG_NAME}.yaml").is_file():
        missing.append(
            f"no {CONFIG_DIR}/{CONFIG_NAME}.yaml below --fairseq-root {fairseq_root} (give the clone's folder)"
        )
    if not pretrained.is_file():
        missing.append(f"no pretrained checkpoint {pretrained} (download ECG-FM's and give it with --pretrained)")
    return missing


def can_run() -> bool:
    """Tell whether `--engine auto` takes fairseq-signals: its executable is on PATH and a CUDA device is there."""
    return shutil.which(EXECUTABLE) is not None and cuda_present()


def cuda_present() -> bool:
    """Tell whether there is a CUDA GPU; this Python's PyTorch may be a CPU build, so the driver is asked too."""
    if torch.cuda.is_available():
        return True
    if shutil.which("nvidia-smi") is None:
        return False
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
    return listed.returncode == 0 and listed.stdout.startswith("GPU")


def python_of(executable: str) -> tuple[int, int] | None:
    """Return the (major, minor) Python version a console script runs on; None when it cannot be told."""
    with Path(executable).open("rb") as handle:
        head = handle.read(4096).decode("utf-8", "replace")
    found = re.match(r"#!\s*(?:/usr/bin/env\s+)?(\S*python\S*)", head) or re.search(
        r"exec'?\s+\"?(/\S*python[\w.]*)", head
    )
    if found is None:
        return None
    try:
        asked = subprocess.run(
            [found.group(1), "-c", "import sys; print(*sys.version_info[:2])"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        major, minor = map(int, asked.stdout.split())
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return major, minor


def run_command(command: list[str], folder: Path, lead: str, *, overwrite: bool) -> str:
    """Run the command with `folder` for its output, where command.sh and settings.json say what was run.

    Returns
    -------
    str
        A summary.

    Raises
    ------
    UserError
        The folder holds another run, or fairseq-hydra-train failed.
    """
    settings = {"engine": "fairseq", "lead": lead, "command": command}
    claim_folder(folder, settings, resume=False, overwrite=overwrite)
    with replacing(folder / COMMAND) as temporary:
        temporary.write_text(f"HYDRA_FULL_ERROR=1 {shlex.join(command)}\n", encoding="utf-8")
    write_settings(folder, settings, finished=False)
    # hydra leaves its own logs in the working folder, and shows the error that stopped a run only with this variable.
    process = subprocess.run(command, cwd=folder, env={**os.environ, "HYDRA_FULL_ERROR": "1"}, check=False)
    best = folder / BEST
    if process.returncode != 0 or not best.is_file():
        raise UserError(
            f"fairseq-hydra-train ended with exit code {process.returncode} "
            f"{'and' if best.is_file() else 'without'} a {best}; see its messages above"
        )
    write_settings(folder, settings, finished=True)
    return (
        f"{best} written; it carries labels and scores of the valid split: "
        "run `python -m ecg_finetune.checkpoint strip` on it before you share it"
    )

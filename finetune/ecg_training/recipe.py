"""What a recipe decides: which parameters are trained, how fast each is, and how the learning rate goes on."""

import math

import torch
from torch import Tensor, nn

from ecg_finetune.ecg_fm import EcgClassifier
from ecg_finetune.files import UserError
from ecg_finetune.progress_bar import progress_bar
from ecg_training.settings import ADAM_BETAS, ADAM_EPS, ALL, FinetuneSettings
from ecg_training.training_data import TrainingData


def freeze(model: EcgClassifier, layers: int | str) -> None:
    """Freeze the first transformer layers and all before them, or everything but the head (`ALL`); 0: nothing more.

    Raises
    ------
    UserError
        The network has fewer layers.
    """
    encoder = model.encoder
    if layers == ALL:
        encoder.requires_grad_(False)
    elif layers:
        transformer = encoder.encoder
        if layers > len(transformer.layers):
            raise UserError(f"--freeze-layers {layers}: the network has {len(transformer.layers)}; give fewer, or all")
        before = [encoder.feature_extractor, encoder.layer_norm, encoder.post_extract_proj, encoder.conv_pos]
        before += [] if transformer.norm_first else [transformer.layer_norm]
        for module in (*before, *transformer.layers[:layers]):
            if module is not None:
                module.requires_grad_(False)


def set_drop_path(model: EcgClassifier, rate: float) -> None:
    """Skip each branch of a transformer layer, per segment and in training alone: at `rate` in the last layer.

    The rate grows linearly from the first layer, at 0 (stochastic depth).
    """
    layers = model.encoder.encoder.layers
    for number, layer in enumerate(layers):
        layer.drop_path = rate * number / max(1, len(layers) - 1)


def depth_of(name: str, layers: int, norm_first: bool = False) -> int:
    """Return how far below the head a parameter is: 0 the head, 1 the last of `layers`, ..., `layers` + 1 all before.

    The norm outside the layers is before them, but with `norm_first` after the last.

    >>> depth_of("proj.weight", 2), depth_of("encoder.encoder.layers.1.fc1.bias", 2), depth_of("encoder.conv_pos.x", 2)
    (0, 1, 3)
    """
    parts = name.split(".")
    if parts[0] == "proj":
        return 0
    if parts[:3] == ["encoder", "encoder", "layers"]:
        return layers - int(parts[3])
    return 1 if norm_first and parts[:3] == ["encoder", "encoder", "layer_norm"] else layers + 1


def optimizer_of(model: EcgClassifier, settings: FinetuneSettings, device: torch.device) -> torch.optim.Adam:
    """Return Adam over the trained parameters, with decoupled weight decay on all of them, as in fairseq-signals.

    With `layer_decay` below 1 each depth is a group of its own, with its share of the learning rate as `share`.
    """
    layers, norm_first = len(model.encoder.encoder.layers), model.encoder.encoder.norm_first
    groups: dict[int, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            depth = depth_of(name, layers, norm_first) if settings.layer_decay < 1 else 0
            groups.setdefault(depth, []).append(parameter)
    described = [
        {"params": parameters, "share": settings.layer_decay**depth, "lr": settings.lr * settings.layer_decay**depth}
        for depth, parameters in groups.items()
    ]
    adam = torch.optim.AdamW if settings.weight_decay else torch.optim.Adam
    fused = device.type in ("cpu", "cuda")  # elsewhere it depends on PyTorch's version: it chooses
    return adam(described, betas=ADAM_BETAS, eps=ADAM_EPS, weight_decay=settings.weight_decay, fused=fused or None)


def rate_factor(settings: FinetuneSettings, update: int, updates: int) -> float:
    """Return the share of the learning rate that an update has, of so many in the whole run; the first is 1.

    Linear warm-up to 1, as fairseq-signals has it; then 1, or with the cosine schedule from 1 towards 0.
    """
    if update <= settings.warmup:
        return update / settings.warmup
    if settings.schedule == "constant":
        return 1.0
    done = (update - 1 - settings.warmup) / max(1, updates - settings.warmup)
    return (1 + math.cos(math.pi * min(1.0, done))) / 2


class Head(nn.Module):
    """The head of a classifier on features that were computed before: (batch, embed dim) to logits (batch, labels)."""

    def __init__(self, model: EcgClassifier):
        super().__init__()
        self.proj = model.proj

    def forward(self, features: Tensor) -> Tensor:
        """Classify."""
        return self.proj(features).float()


@torch.no_grad()
def features_of(model: EcgClassifier, data: TrainingData, autocast, size: int, unit: str) -> TrainingData:
    """Return the features of all segments, which a frozen encoder gives, in place of their leads.

    Parameters
    ----------
    model : EcgClassifier
        On the device of `data`; left in eval mode, so without dropout.
    data : TrainingData
        The segments.
    autocast : context manager factory
        For the precision.
    size : int
        Segments at a time.
    unit : str
        What the progress counts.
    """
    model.eval()
    found = torch.empty(len(data), model.architecture.encoder_embed_dim)
    with progress_bar(len(data), unit) as advance:
        for start in range(0, len(data), size):
            rows = range(start, min(start + size, len(data)))
            leads, _ = data.batch(rows)
            with autocast():
                found[start : rows.stop] = model.embed(leads).float().cpu()
            advance(len(rows))
    return TrainingData(found, data.targets.cpu(), data.device)

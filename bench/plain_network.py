"""ECG-FM's network as a plain stack of modules that computes as fairseq-signals does: the baseline of the benchmarks.

Twelve real channels, attention with its softmax in full, and group norm, softmax and GELU in float32. It imports
nothing but PyTorch and this project's network.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from ecg_finetune.ecg_fm import Architecture, EcgClassifier


class Float32GELU(nn.Module):
    """GELU computed in float32 whatever the dtype of its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it."""
        return nn.functional.gelu(x.float()).type_as(x)


class Float32GroupNorm(nn.GroupNorm):
    """Group norm computed in float32 whatever the dtype of its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (batch, dim, frames)."""
        return super().forward(x.float()).type_as(x)


class PlainLayer(nn.Module):
    """A post-norm transformer layer as one writes it first: softmax attention in full."""

    def __init__(self, arch: Architecture):
        super().__init__()
        dim, hidden = arch.encoder_embed_dim, arch.encoder_ffn_embed_dim
        self.heads = arch.encoder_attention_heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(dim, dim) for _ in range(4))
        self.self_attn_layer_norm, self.final_layer_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.gelu, self.dropout = Float32GELU(), nn.Dropout(arch.activation_dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, frames, dim) to the same."""
        shape = (*x.shape[:2], self.heads, -1)
        query, key, value = (part(x).view(shape).transpose(1, 2) for part in (self.q_proj, self.k_proj, self.v_proj))
        scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
        share = torch.softmax(scores, dim=-1, dtype=torch.float32).type_as(scores)
        x = self.self_attn_layer_norm(x + self.out_proj((share @ value).transpose(1, 2).reshape(x.shape)))
        return self.final_layer_norm(x + self.fc2(self.dropout(self.gelu(self.fc1(x)))))


class PlainNetwork(nn.Module):
    """The whole network (post-norm, even positional kernel); parameters in the order of `EcgClassifier`'s."""

    def __init__(self, arch: Architecture):
        super().__init__()
        dim, blocks, channels = arch.encoder_embed_dim, [], arch.in_d
        for number, (width, kernel, stride) in enumerate(arch.conv_feature_layers):
            norm = [Float32GroupNorm(width, width)] if number == 0 else []
            blocks += [nn.Conv1d(channels, width, kernel, stride, bias=False), *norm, Float32GELU()]
            channels = width
        self.convolutions, self.frozen = nn.Sequential(*blocks), arch.feature_grad_mult == 0
        self.layer_norm, self.projection = nn.LayerNorm(channels), nn.Linear(channels, dim)
        place = nn.Conv1d(dim, dim, arch.conv_pos, padding=arch.conv_pos // 2, groups=arch.conv_pos_groups)
        self.place, self.gelu = weight_norm(place, dim=2), Float32GELU()
        self.layers = nn.ModuleList(PlainLayer(arch) for _ in range(arch.encoder_layers))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, arch.num_labels)

    def forward(self, source: Tensor) -> Tensor:
        """Map (batch, 12, samples) to logits."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.convolutions(source)
        x = self.projection(self.layer_norm(features.transpose(1, 2)))
        x = self.norm(x + self.gelu(self.place(x.transpose(1, 2))[..., :-1]).transpose(1, 2))
        for layer in self.layers:
            x = layer(x)
        return self.head(x.sum(1) / (x != 0).sum(1))


def copy_weights(ours: EcgClassifier, plain: PlainNetwork) -> None:
    """Give the plain network our weights."""
    pairs = [
        (ours.encoder.feature_extractor, plain.convolutions),
        (ours.encoder.layer_norm, plain.layer_norm),
        (ours.encoder.post_extract_proj, plain.projection),
        (ours.encoder.conv_pos.pos_conv[0], plain.place),
        (ours.encoder.encoder.layer_norm, plain.norm),
        (ours.proj, plain.head),
    ]
    for mine, theirs in pairs:
        for source, target in zip(mine.parameters(), theirs.parameters(), strict=True):
            target.data.copy_(source.data)
    for mine, theirs in zip(ours.encoder.encoder.layers, plain.layers, strict=True):
        weights = mine.state_dict()
        theirs.load_state_dict({name.removeprefix("self_attn."): value for name, value in weights.items()})

"""The network of ECG-FM, in plain PyTorch, with the parameter names of fairseq-signals' checkpoints.

    from ecg_finetune.ecg_fm import load_classifier
    model = load_classifier("checkpoint_best.pt")     # eval mode, on the CPU
    logits = model(source)                            # source float32 (batch, 12, samples) -> float32 (batch, labels)
    logits = model(leads)                             # leads float32 (batch, samples), as the network was fine-tuned

Convolutions turn 2,500 samples (5 s at 500 Hz) into 156 frames, a transformer relates the frames to one another, and
their mean goes through a linear head. `model.to(torch.bfloat16)` runs all of it in bfloat16; input and output stay
float32.
"""

import ast
import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecg_finetune.checkpoint import load_checkpoint
from ecg_finetune.files import UserError, short_repr, shown
from ecg_finetune.label_set import LabelSet, label_set_beside, stated_label_set
from ecg_finetune.training_records import STATED
from ecg_finetune.waveform import LEADS

CLASSIFIER_NAME = "ecg_transformer_classifier"
# What pretraining needs besides the encoder; fine-tuning starts without it.
PRETRAINING_HEADS = ("mask_emb", "quantizer.", "project_q.", "final_proj.")
# torch.nn.utils.weight_norm wrote its two parts under these names before parametrizations came.
OLD_WEIGHT_NORM = {
    "pos_conv.0.weight_g": "pos_conv.0.parametrizations.weight.original0",
    "pos_conv.0.weight_v": "pos_conv.0.parametrizations.weight.original1",
}
FIRST_CONVOLUTION = "encoder.feature_extractor.conv_layers.0.0.weight"
ConvLayers = tuple[tuple[int, int, int], ...]


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What shapes the network: the fields of `cfg["model"]` under fairseq-signals' names; defaults are ECG-FM's.

    `conv_feature_layers` is the parsed list of (dim, kernel, stride). The dropouts act in training only.
    `feature_grad_mult` scales the gradient that reaches the convolutions; 0 freezes them.
    """

    encoder_layers: int = 12
    encoder_embed_dim: int = 768
    encoder_ffn_embed_dim: int = 3072
    encoder_attention_heads: int = 12
    layer_norm_first: bool = False
    conv_feature_layers: ConvLayers = ((256, 2, 2),) * 4
    in_d: int = 12
    conv_bias: bool = False
    conv_pos: int = 128
    conv_pos_groups: int = 16
    num_labels: int = 17
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    dropout_input: float = 0.0
    final_dropout: float = 0.0
    feature_grad_mult: float = 0.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            # Wide bounds: they only keep a damaged or hostile file from asking for the whole memory.
            if field.type is int and not (type(value) is int and 1 <= value <= 65536):
                raise ValueError(f"{field.name} is {short_repr(value)}, not an integer from 1 to 65536")
            if field.type is bool and type(value) is not bool:
                raise ValueError(f"{field.name} is {short_repr(value)}, not True or False")
            if field.type is float and not (isinstance(value, (int, float)) and 0 <= value <= 1):
                raise ValueError(f"{field.name} is {short_repr(value)}, not a number from 0 to 1")
        if self.encoder_layers > 1024:
            raise ValueError(f"encoder_layers is {self.encoder_layers}, more than 1024")
        for divisor in ("encoder_attention_heads", "conv_pos_groups"):
            if self.encoder_embed_dim % getattr(self, divisor):
                raise ValueError(f"encoder_embed_dim {self.encoder_embed_dim} is no multiple of {divisor}")

    @classmethod
    def from_config(cls, model_config: Mapping[str, Any], **changes: Any) -> "Architecture":
        """Read the architecture from `cfg["model"]` of a checkpoint; `changes` replace fields of it.

        Raises
        ------
        ValueError
            A field that shapes the network is missing or has a value this network does not have.
        """
        if model_config.get("extractor_mode", "default") != "default":
            raise ValueError(
                f"extractor_mode is {short_repr(model_config['extractor_mode'])}; only 'default' is supported "
                "(other modes do not work in fairseq-signals either)"
            )
        values = {}
        for field in dataclasses.fields(cls):
            if field.name in changes:
                values[field.name] = changes[field.name]
            elif field.name in model_config:
                value = model_config[field.name]
                values[field.name] = parse_conv_layers(value) if field.name == "conv_feature_layers" else value
            elif field.type is not float:  # dropouts leave the network's shape alone, so they may be absent
                raise ValueError(f"{field.name} is missing")
        return cls(**values)

    def frames(self, samples: int) -> int:
        """Return how many frames the convolutions make of a signal; 0 or less when it is too short."""
        for _, kernel, stride in self.conv_feature_layers:
            samples = (samples - kernel) // stride + 1
        return samples


def parse_conv_layers(text: str) -> ConvLayers:
    """Read a list expression such as `"[(256, 2, 2)] * 4 + [(512, 3, 2)]"` of (dim, kernel, stride).

    Only lists, tuples, integers, `+` and `*` are understood; nothing is evaluated.

    >>> parse_conv_layers("[(256, 2, 2)] * 2 + [(512, 3, 2)]")
    ((256, 2, 2), (256, 2, 2), (512, 3, 2))

    Raises
    ------
    ValueError
        The text is anything else, or describes no layer, more than 64, or a size outside 1 to 65536.
    """
    problem = ValueError(f"conv_feature_layers is {short_repr(text)}, not a list of (dim, kernel, stride)")

    def layers(node: ast.AST) -> list[tuple[int, int, int]]:
        match node:
            case ast.List(elts=items) | ast.Tuple(elts=items):
                return [layer(item) for item in items]
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return bounded(layers(left) + layers(right))
            case ast.BinOp(left=left, op=ast.Mult(), right=ast.Constant(value=int(times))):
                return repeated(layers(left), times)
            case ast.BinOp(left=ast.Constant(value=int(times)), op=ast.Mult(), right=right):
                return repeated(layers(right), times)
        raise problem

    def layer(node: ast.AST) -> tuple[int, int, int]:
        match node:
            case ast.Tuple(elts=parts) | ast.List(elts=parts) if len(parts) == 3:
                sizes = tuple(part.value if isinstance(part, ast.Constant) else None for part in parts)
                if all(type(size) is int and 1 <= size <= 65536 for size in sizes):
                    return sizes
        raise problem

    def repeated(items: list, times: int) -> list:
        if not 0 <= times <= 64:
            raise problem
        return bounded(items * times)

    def bounded(items: list) -> list:
        if len(items) > 64:
            raise problem
        return items

    if not isinstance(text, str) or len(text) > 4096:
        raise problem
    try:
        parsed = tuple(bounded(layers(ast.parse(text.strip(), mode="eval").body)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # ValueError: a NUL, in Python 3.10
        raise problem from None
    if not parsed:
        raise problem
    return parsed


class Float32GroupNorm(nn.GroupNorm):
    """Group norm computed in float32 whatever the dtype of its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (batch, dim, frames)."""
        normed = F.group_norm(x.float(), self.num_groups, self.weight.float(), self.bias.float(), self.eps)
        return normed.to(x.dtype)


def lead_kernel(weight: Tensor, channel: int | None) -> Tensor:
    """Return the kernel (dim, 1, taps) that gives for one lead what `weight` (dim, channels, taps) gives for channels.

    This decides how a lead enters the network. None: it stands in every channel, so the kernels of the channels add up,
    and all get the same gradient, as they would from that many equal signals. Else it stands in that channel, and the
    others, which are zero, add nothing.
    """
    return weight.sum(dim=1, keepdim=True) if channel is None else weight[:, channel : channel + 1]


class FeatureExtractor(nn.Module):
    """The convolutions: (batch, channels, samples), or leads (batch, samples), to (batch, dim, frames); no padding."""

    def __init__(self, arch: Architecture):
        super().__init__()
        self.input_channel: int | None = None  # see `lead_kernel`
        self.conv_layers = nn.ModuleList()
        channels = arch.in_d
        for number, (dim, kernel, stride) in enumerate(arch.conv_feature_layers):
            convolution = nn.Conv1d(channels, dim, kernel, stride, bias=arch.conv_bias)
            # Index 1 is fairseq-signals' dropout, which is always 0: it keeps the norm's parameters at index 2.
            norm = [nn.Identity(), Float32GroupNorm(dim, dim)] if number == 0 else []
            self.conv_layers.append(nn.Sequential(convolution, *norm, nn.GELU()))
            channels = dim

    def forward(self, x: Tensor) -> Tensor:
        """Apply all blocks."""
        first, *others = self.conv_layers
        if x.ndim == 2:
            convolution, *rest = first
            kernel = lead_kernel(convolution.weight, self.input_channel)
            x = F.conv1d(x[:, None], kernel, convolution.bias, convolution.stride)
            others = (*rest, *others)
        else:
            x = first(x)
        for block in others:
            x = block(x)
        return x


class GainPerTap(nn.Module):
    """Weight norm of a convolution over all but the kernel's taps: a direction, and one gain per tap.

    The same as `nn.utils.parametrizations.weight_norm(convolution, dim=2)`, whose way to a network without memory (see
    `_build`) loads PyTorch's compiler, which takes 2 s.
    """

    def forward(self, gain: Tensor, direction: Tensor) -> Tensor:
        """Return the weight (out, in, taps) of a gain (1, 1, taps) and a direction (out, in, taps)."""
        return torch._weight_norm(direction, gain, 2)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gain and the direction that give a weight."""
        gain = weight.new_empty(1, 1, weight.shape[2]) if weight.is_meta else torch.norm_except_dim(weight, 2, 2)
        return gain, weight


class PositionalConvolution(nn.Module):
    """A grouped convolution that tells each frame where it stands: (batch, dim, frames) to the same."""

    def __init__(self, arch: Architecture):
        super().__init__()
        dim, kernel = arch.encoder_embed_dim, arch.conv_pos
        convolution = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=arch.conv_pos_groups)
        if not convolution.weight.is_meta:  # as in GainPerTap
            nn.init.normal_(convolution.weight, std=(4 / (kernel * dim)) ** 0.5)
        nn.init.zeros_(convolution.bias)
        nn.utils.parametrize.register_parametrization(convolution, "weight", GainPerTap(), unsafe=True)
        self.pos_conv = nn.Sequential(convolution)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve; an even kernel gives one frame too many at the end."""
        return F.gelu(self.pos_conv(x)[..., : x.shape[-1]])


class SelfAttention(nn.Module):
    """Multi-head self-attention over the frames: (batch, frames, dim) to the same."""

    def __init__(self, arch: Architecture):
        super().__init__()
        dim = arch.encoder_embed_dim
        self.heads, self.dropout = arch.encoder_attention_heads, arch.attention_dropout
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Attend."""
        batch, frames, dim = x.shape
        query, key, value = (
            projection(x).view(batch, frames, self.heads, dim // self.heads).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return self.out_proj(attended.transpose(1, 2).reshape(batch, frames, dim))


class TransformerLayer(nn.Module):
    """Self-attention and a two-layer network, each with a residual; the norms come after (ECG-FM) or before."""

    def __init__(self, arch: Architecture):
        super().__init__()
        dim, self.norm_first = arch.encoder_embed_dim, arch.layer_norm_first
        self.self_attn = SelfAttention(arch)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, arch.encoder_ffn_embed_dim)
        self.fc2 = nn.Linear(arch.encoder_ffn_embed_dim, dim)
        self.final_layer_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(arch.dropout)
        self.activation_dropout = nn.Dropout(arch.activation_dropout)
        self.drop_path = 0.0  # the probability that a segment skips a branch in training

    def kept(self, branch: Tensor) -> Tensor:
        """Return a branch (batch, frames, dim), in training with 0 for segments that skip it, and the rest scaled."""
        if not self.training or self.drop_path == 0:
            return branch
        share = 1 - self.drop_path
        return branch * (torch.rand(len(branch), 1, 1, device=branch.device) < share) / share

    def feed_forward(self, x: Tensor) -> Tensor:
        """Apply the two-layer network to each frame."""
        return self.dropout(self.fc2(self.activation_dropout(F.gelu(self.fc1(x)))))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, frames, dim) to the same."""
        if self.norm_first:
            x = x + self.kept(self.dropout(self.self_attn(self.self_attn_layer_norm(x))))
            return x + self.kept(self.feed_forward(self.final_layer_norm(x)))
        x = self.self_attn_layer_norm(x + self.kept(self.dropout(self.self_attn(x))))
        return self.final_layer_norm(x + self.kept(self.feed_forward(x)))


class Transformer(nn.Module):
    """The layers and the one norm outside them, which stands before them (post-norm) or after (pre-norm)."""

    def __init__(self, arch: Architecture):
        super().__init__()
        self.norm_first = arch.layer_norm_first
        self.layers = nn.ModuleList(TransformerLayer(arch) for _ in range(arch.encoder_layers))
        self.layer_norm = nn.LayerNorm(arch.encoder_embed_dim)
        self.dropout = nn.Dropout(arch.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, frames, dim) to the same."""
        x = self.dropout(x if self.norm_first else self.layer_norm(x))
        for layer in self.layers:
            x = layer(x)
        return self.layer_norm(x) if self.norm_first else x


class Encoder(nn.Module):
    """Everything but the head: (batch, channels, samples) or leads (batch, samples) to (batch, frames, embed dim)."""

    def __init__(self, arch: Architecture):
        super().__init__()
        conv_dim, dim = arch.conv_feature_layers[-1][0], arch.encoder_embed_dim
        self.feature_grad_mult = arch.feature_grad_mult
        self.feature_extractor = FeatureExtractor(arch)
        self.feature_extractor.requires_grad_(arch.feature_grad_mult > 0)
        self.layer_norm = nn.LayerNorm(conv_dim)
        self.post_extract_proj = nn.Linear(conv_dim, dim) if conv_dim != dim else None
        self.dropout_input = nn.Dropout(arch.dropout_input)
        self.conv_pos = PositionalConvolution(arch)
        self.encoder = Transformer(arch)

    def forward(self, source: Tensor) -> Tensor:
        """Encode."""
        features = self.feature_extractor(source)
        if 0 < self.feature_grad_mult < 1:  # the same value, with the gradient scaled
            features = features.detach() + self.feature_grad_mult * (features - features.detach())
        x = self.layer_norm(features.transpose(1, 2))
        if self.post_extract_proj is not None:
            x = self.post_extract_proj(x)
        x = self.dropout_input(x)
        x = x + self.conv_pos(x.transpose(1, 2)).transpose(1, 2)
        return self.encoder(x)


class EcgClassifier(nn.Module):
    """ECG-FM with a linear head on the mean over frames.

    A new instance is at random weights; `load_classifier` and `load_pretrained` give it those of a file.
    """

    def __init__(self, architecture: Architecture):
        super().__init__()
        self.architecture = architecture
        # Of the file whose weights it has: whether they were fine-tuned, the labels of its head where they are known,
        # and the SHA-256 that it states of the list of records trained on.
        self.fine_tuned = False
        self.label_set: LabelSet | None = None
        self.training_records: str | None = None
        self.encoder = Encoder(architecture)
        self.final_dropout = nn.Dropout(architecture.final_dropout)
        self.proj = nn.Linear(architecture.encoder_embed_dim, architecture.num_labels)
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    @property
    def input_channel(self) -> int | None:
        """The channel that a single lead goes into, the others being zero; None: it goes into all."""
        return self.encoder.feature_extractor.input_channel

    @input_channel.setter
    def input_channel(self, channel: int | None) -> None:
        self.encoder.feature_extractor.input_channel = channel

    def forward(self, source: Tensor) -> Tensor:
        """Classify.

        Parameters
        ----------
        source : Tensor float32 (batch, in_d, samples) or (batch, samples)
            ECG segments, standardised; ECG-FM is trained on 5 s at 500 Hz of 12 leads, in_d = 12. Of (batch, samples)
            each is one lead for all channels, or for `input_channel`: the same logits up to rounding as with channels,
            with less work (see `lead_kernel`).

        Returns
        -------
        Tensor float32 (batch, labels)
            Logits; their sigmoid is the probability.

        Raises
        ------
        ValueError
            `source` has another shape, or fewer samples than make one frame.
        """
        return self.classify(self.embed(source))

    def embed(self, source: Tensor) -> Tensor:
        """Return what the head classifies, the mean over frames: float32 (batch, embed dim); see `forward`."""
        channels = self.architecture.in_d
        if source.ndim != 2 and (source.ndim != 3 or source.shape[1] != channels):
            shapes = f"(batch, {channels}, samples) or (batch, samples)"
            raise ValueError(f"source has shape {tuple(source.shape)}, not {shapes}")
        if self.architecture.frames(source.shape[-1]) < 1:
            raise ValueError(f"source has {source.shape[-1]} samples, too few for the convolutions")
        frames = self.final_dropout(self.encoder(source.to(self.proj.weight.dtype))).float()
        # As fairseq-signals divides: by the frames whose value is not exactly 0. Where all are, the mean is 0, not NaN.
        return frames.sum(1) / (frames != 0).sum(1).clamp(min=1)

    def classify(self, embedded: Tensor) -> Tensor:
        """Return the logits, float32 (batch, labels), of what `embed` returns."""
        return self.proj(embedded.to(self.proj.weight.dtype)).float()


def load_classifier(path: Path, *, trust: bool = False) -> EcgClassifier:
    """Load a fine-tuned checkpoint, of fairseq-signals or of this project.

    Parameters
    ----------
    path : Path
        The checkpoint.
    trust : bool
        See `checkpoint.load_checkpoint`.

    Returns
    -------
    EcgClassifier
        On the CPU, float32, in eval mode; every weight is the file's. `label_set` is that of `label_set_of`, and
        `input_channel` says where a lead goes.

    Raises
    ------
    UserError
        The file cannot be read, is no classifier, describes a network this is not, or its weights do not fit.
    """
    content = load_checkpoint(path, trust=trust)
    config, weights = _model_of(path, content)
    if config.get("_name") != CLASSIFIER_NAME:
        raise UserError(
            f"{path}: holds a {short_repr(config.get('_name'))} model, not a classifier ({CLASSIFIER_NAME}); "
            "fine-tune it first, or give a fine-tuned checkpoint"
        )
    model = _build(path, config, weights).eval()
    model.fine_tuned, model.training_records = True, _stated_records(content)
    model.label_set = _label_set(path, content, model.architecture.num_labels)
    model.input_channel = _input_channel(content, model.architecture.in_d)
    return model


def classifier_of(path: Path, model_config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> EcgClassifier:
    """Build the classifier of `cfg["model"]` and a state dict.

    Parameters
    ----------
    path : Path
        Where they come from, for messages.
    model_config, weights : mapping
        As in a checkpoint.

    Returns
    -------
    EcgClassifier
        As `load_classifier`.

    Raises
    ------
    UserError
        The configuration describes a network this is not, or the weights do not fit.
    """
    config, weights = _model_of(path, {"cfg": {"model": model_config}, "model": weights})
    return _build(path, config, weights).eval()


def fold_channels(model: EcgClassifier) -> EcgClassifier:
    """Return the network of one channel that gives for a lead what `model` gives for its channels, see `lead_kernel`.

    All weights but those of the first convolution are shared with `model`.
    """
    weights = dict(model.state_dict())
    weights[FIRST_CONVOLUTION] = lead_kernel(weights[FIRST_CONVOLUTION], model.input_channel)
    with torch.device("meta"):
        folded = EcgClassifier(dataclasses.replace(model.architecture, in_d=1))
    folded.load_state_dict(weights, assign=True)
    return folded.train(model.training)


def load_pretrained(
    path: Path, num_labels: int, *, keep_head: bool = False, trust: bool = False, **changes: Any
) -> EcgClassifier:
    """Build a classifier on the encoder of a checkpoint, for fine-tuning.

    Parameters
    ----------
    path : Path
        A pretrained checkpoint, whose further heads are ignored, or a fine-tuned one.
    num_labels : int
        Width of the head.
    keep_head : bool
        Keep the head of a fine-tuned checkpoint. Otherwise the head is new: Xavier-uniform weights, drawn from
        PyTorch's generator, and zero bias.
    trust : bool
        See `checkpoint.load_checkpoint`.
    changes
        Fields of `Architecture` that replace the file's; dropouts are otherwise those of the pretraining.

    Raises
    ------
    UserError
        As `load_classifier`; also if the head to keep is missing or of another width.
    """
    content = load_checkpoint(path, trust=trust)
    config, weights = _model_of(path, content)
    fine_tuned = config.get("_name") == CLASSIFIER_NAME
    if not fine_tuned:
        if keep_head:
            raise UserError(f"{path}: holds a {config.get('_name')!r} model, which has no head to keep")
        weights = {f"encoder.{k}": v for k, v in weights.items() if not k.startswith(PRETRAINING_HEADS)}
    elif not keep_head:
        weights = {name: value for name, value in weights.items() if not name.startswith("proj.")}
    model = _build(path, config, weights, new_head=not keep_head, num_labels=num_labels, **changes)
    model.fine_tuned, model.training_records = fine_tuned, _stated_records(content)
    model.input_channel = _input_channel(content, model.architecture.in_d) if fine_tuned else None
    if keep_head:
        model.label_set = _label_set(path, content, num_labels)
    return model


def _input_channel(checkpoint: Mapping[str, Any], channels: int) -> int | None:
    """Return the one channel that the lead goes into, the others being zero; None: into all.

    That is stated as fairseq-signals' own task states it: leads_to_load is one lead, enable_padding_leads is true.
    """
    config = checkpoint.get("cfg")
    task = config.get("task") if isinstance(config, Mapping) else None
    if not isinstance(task, Mapping) or task.get("enable_padding_leads") is not True:
        return None
    loaded = task.get("leads_to_load")
    found = re.fullmatch(r"\[['\"]?(\w{1,4})['\"]?\]", loaded) if isinstance(loaded, str) else None
    names = [*map(str, range(channels)), *(lead.lower() for lead in LEADS)]
    return names.index(found[1].lower()) % channels if found and found[1].lower() in names else None


def _extra_state(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a checkpoint states of its training besides weights and settings."""
    state = checkpoint.get("extra_state")
    return state if isinstance(state, Mapping) else {}


def _stated_records(checkpoint: Mapping[str, Any]) -> str | None:
    """Return the SHA-256 of the list of records trained on, as a checkpoint states it; None: it does not."""
    stated = _extra_state(checkpoint).get(STATED)
    return stated if isinstance(stated, str) else None


def _label_set(path: Path, checkpoint: Mapping[str, Any], num_labels: int) -> LabelSet | None:
    """Return the labels of a head of so many outputs: as the checkpoint states them, else as the files beside it do."""
    found = stated_label_set(_extra_state(checkpoint)) or label_set_beside(path)
    return found if found is not None and len(found) == num_labels else None


def load_architecture(path: Path, *, trust: bool = False) -> tuple[Architecture, bool, LabelSet | None]:
    """Return the architecture of a checkpoint, whether it is fine-tuned, and its labels where they are known.

    Only where it is fine-tuned does the architecture's `num_labels` mean anything. Arguments and errors as
    `load_classifier`, but a pretrained checkpoint will do.
    """
    content = load_checkpoint(path, trust=trust)
    config, weights = _model_of(path, content)
    if config.get("_name") != CLASSIFIER_NAME:
        return _architecture(path, config, weights, num_labels=1), False, None
    architecture = _architecture(path, config, weights)
    return architecture, True, _label_set(path, content, architecture.num_labels)


def label_set_of(path: Path, *, trust: bool = False) -> LabelSet | None:
    """Return the labels of a fine-tuned checkpoint in the order of its outputs; None where they are not known.

    The checkpoints of this project state them. For one of fairseq-signals they are in the settings.json of the run that
    made it, or else in a label_def.csv beside it. `load_classifier` gives its network the same as `label_set`.
    """
    return load_architecture(path, trust=trust)[2]


def _architecture(path: Path, config: dict, weights: dict, **changes: Any) -> Architecture:
    # model.in_d given at fine-tuning does not reach a loaded encoder: the weights know better than the configuration.
    for name in (FIRST_CONVOLUTION, FIRST_CONVOLUTION.removeprefix("encoder.")):
        if name in weights and weights[name].ndim == 3:
            changes["in_d"] = weights[name].shape[1]
    try:
        return Architecture.from_config(config, **changes)
    except ValueError as error:
        raise UserError(f"{path}: cfg['model'] cannot be used: {error}") from None


def _model_of(path: Path, checkpoint: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return `cfg["model"]` and the state dict under today's names, checked for kind and for non-finite numbers."""
    if checkpoint.keys() >= {"model", "optimizer", "position", "random"}:
        raise UserError(f"{path}: what a run is resumed from, not a network; give the checkpoint_best.pt of that run")
    config, weights = checkpoint.get("cfg"), checkpoint.get("model")
    if config is None and hasattr(checkpoint.get("args"), "__dict__"):  # older files: one argparse.Namespace
        config = {"model": vars(checkpoint["args"])}
    model_config = config.get("model") if isinstance(config, Mapping) else None
    if isinstance(model_config, str) or not hasattr(model_config, "keys") or not isinstance(weights, Mapping):
        raise UserError(
            f"{path}: has no cfg['model'] beside its weights, so the network cannot be rebuilt; "
            "give the whole checkpoint as fairseq-signals wrote it"
        )
    renamed = {}
    for name, value in weights.items():
        if not isinstance(name, str):
            raise UserError(f"{path}: {shown(name)} in its state dict is no name of a parameter")
        if not isinstance(value, Tensor) or not value.is_floating_point():
            told = str(value.dtype).removeprefix("torch.") if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise UserError(f"{path}: {shown(name)} in its state dict is {told}, not a tensor of real numbers")
        if not torch.isfinite(value).all():
            raise UserError(f"{path}: {shown(name)} holds NaN or infinite numbers; use an earlier checkpoint")
        for old, new in OLD_WEIGHT_NORM.items():
            name = name.removesuffix(old) + new if name.endswith(old) else name
        renamed[name] = value.float()
    # An array, compared with a text or a number, would give no yes or no.
    plain = (str, int, float, list, tuple, dict, type(None))
    settings = {key: value if isinstance(value, plain) else short_repr(value) for key, value in model_config.items()}
    return settings, renamed


def _build(path: Path, config: dict, weights: dict, new_head: bool = False, **changes: Any) -> EcgClassifier:
    """Build the network and give it the weights; names and shapes must match one to one.

    It is built without memory first, so a file cannot make us allocate what it does not itself hold, and no parameter
    can be left at random values unseen.
    """
    architecture = _architecture(path, config, weights, **changes)
    with torch.device("meta"):
        model = EcgClassifier(architecture)
    if new_head:
        head = nn.Linear(architecture.encoder_embed_dim, architecture.num_labels)
        nn.init.xavier_uniform_(head.weight)
        weights = weights | {"proj.weight": head.weight.detach(), "proj.bias": torch.zeros_like(head.bias).detach()}
    expected = model.state_dict()
    problems = {
        "missing": [name for name in expected if name not in weights],
        "unexpected": [name for name in weights if name not in expected],
        "of another shape": [
            f"{name} {shown(tuple(weights[name].shape))} for {tuple(expected[name].shape)}"
            for name in expected
            if name in weights and weights[name].shape != expected[name].shape
        ],
    }
    if any(problems.values()):
        told = "; ".join(f"{kind}: {_listed(names)}" for kind, names in problems.items() if names)
        raise UserError(f"{path}: its weights do not fit the network that its cfg['model'] describes; {told}")
    model.load_state_dict(weights, assign=True)
    return model


def _listed(names: list[str], most: int = 12) -> str:
    return ", ".join(map(shown, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")

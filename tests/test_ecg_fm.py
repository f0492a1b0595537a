"""The network: against fairseq-signals' own logits, and against an independent functional form of the facts."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from ecg_finetune.checkpoint import load_checkpoint
from ecg_finetune.ecg_fm import (
    Architecture,
    EcgClassifier,
    GainPerTap,
    load_architecture,
    load_classifier,
    load_pretrained,
    parse_conv_layers,
)
from ecg_finetune.files import UserError
from ecg_finetune.segments import expand_lead

SMALL = Architecture(
    encoder_layers=2,
    encoder_embed_dim=24,
    encoder_ffn_embed_dim=40,
    encoder_attention_heads=3,
    conv_feature_layers=((16, 3, 2), (16, 2, 2)),
    in_d=12,
    conv_pos=8,
    conv_pos_groups=4,
    num_labels=5,
)
ODD = ((8, 5, 3), (8, 3, 2), (24, 2, 1))
VARIANTS = {
    "as ECG-FM": {},
    "pre-norm": {"layer_norm_first": True},
    "conv bias": {"conv_bias": True},
    "odd positional kernel": {"conv_pos": 7},
    "conv dim is embed dim": {"conv_feature_layers": ODD},
    "one channel, one head, one group": {"in_d": 1, "encoder_attention_heads": 1, "conv_pos_groups": 1},
    "all at once": {
        "layer_norm_first": True,
        "conv_bias": True,
        "conv_pos": 13,
        "conv_feature_layers": ODD,
        "encoder_layers": 3,
        "num_labels": 2,
    },
}


def randomised(architecture: Architecture) -> EcgClassifier:
    """Return a network with every parameter drawn, so that none is at a 0 or 1 that would hide a mistake."""
    torch.manual_seed(0)
    model = EcgClassifier(architecture)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + 0.1)
    return model.eval()


def as_checkpoint(model: EcgClassifier, **changes) -> dict:
    """Return a fine-tuned checkpoint as fairseq-signals writes it."""
    config = dataclasses.asdict(model.architecture)
    config["conv_feature_layers"] = str(list(model.architecture.conv_feature_layers))
    config |= {"_name": "ecg_transformer_classifier", "extractor_mode": "default", "mask_prob": 0.0, **changes}
    return {"args": None, "cfg": {"model": config}, "model": dict(model.state_dict())}


def as_pretrained(model: EcgClassifier) -> dict:
    """Return a pretrained checkpoint around the same encoder, with the heads that pretraining has."""
    content = as_checkpoint(model, _name="wav2vec2_cmsc")
    encoder = {
        name.removeprefix("encoder."): value for name, value in content["model"].items() if name.startswith("encoder.")
    }
    heads = {"mask_emb": torch.ones(24), "quantizer.vars": torch.ones(1, 4, 4), "project_q.bias": torch.ones(4)}
    content["model"] = encoder | heads | {"final_proj.weight": torch.ones(4, 24)}
    return content


def saved(path, content: dict):
    """Write a checkpoint and return its path."""
    torch.save(content, path)
    return path


def old_names(weights: dict) -> dict:
    """Rename the weight-norm pair as older PyTorch wrote it."""
    return {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for name, value in weights.items()
    }


def reference(weights: dict, arch: Architecture, source: torch.Tensor) -> torch.Tensor:
    """Compute the logits in float64, function by function, sharing no code with the network."""
    w = {name: value.double() for name, value in weights.items()}

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        spread = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return centred / spread * w[f"{name}.weight"] + w[f"{name}.bias"]

    def gelu(x):
        return x * 0.5 * (1 + torch.erf(x / 2**0.5))

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x = source.double()
    for i, (_, kernel, stride) in enumerate(arch.conv_feature_layers):
        conv = w[f"encoder.feature_extractor.conv_layers.{i}.0.weight"]
        x = torch.einsum("bctk,dck->bdt", x.unfold(2, kernel, stride), conv)
        if arch.conv_bias:
            x = x + w[f"encoder.feature_extractor.conv_layers.{i}.0.bias"][:, None]
        if i == 0:
            centred = x - x.mean(2, keepdim=True)
            x = centred / (centred.square().mean(2, keepdim=True) + 1e-5).sqrt()
            x = x * w["encoder.feature_extractor.conv_layers.0.2.weight"][:, None]
            x = x + w["encoder.feature_extractor.conv_layers.0.2.bias"][:, None]
        x = gelu(x)
    x = norm(x.transpose(1, 2), "encoder.layer_norm")
    if arch.conv_feature_layers[-1][0] != arch.encoder_embed_dim:
        x = linear(x, "encoder.post_extract_proj")

    gain = w["encoder.conv_pos.pos_conv.0.parametrizations.weight.original0"]
    direction = w["encoder.conv_pos.pos_conv.0.parametrizations.weight.original1"]
    kernel = gain * direction / direction.square().sum((0, 1), keepdim=True).sqrt()
    bias = w["encoder.conv_pos.pos_conv.0.bias"]
    place = F.conv1d(x.transpose(1, 2), kernel, bias, padding=arch.conv_pos // 2, groups=arch.conv_pos_groups)
    if arch.conv_pos % 2 == 0:
        place = place[..., :-1]
    x = x + gelu(place).transpose(1, 2)

    def attention(x, name):
        heads = []
        size = arch.encoder_embed_dim // arch.encoder_attention_heads
        query, key, value = (linear(x, f"{name}.{part}_proj") for part in "qkv")
        for h in range(arch.encoder_attention_heads):
            part = slice(h * size, (h + 1) * size)
            share = torch.softmax(query[..., part] @ key[..., part].transpose(1, 2) / size**0.5, -1)
            heads.append(share @ value[..., part])
        return linear(torch.cat(heads, -1), f"{name}.out_proj")

    if not arch.layer_norm_first:
        x = norm(x, "encoder.encoder.layer_norm")
    for i in range(arch.encoder_layers):
        name = f"encoder.encoder.layers.{i}"
        if arch.layer_norm_first:
            x = x + attention(norm(x, f"{name}.self_attn_layer_norm"), f"{name}.self_attn")
            x = x + linear(gelu(linear(norm(x, f"{name}.final_layer_norm"), f"{name}.fc1")), f"{name}.fc2")
        else:
            x = norm(x + attention(x, f"{name}.self_attn"), f"{name}.self_attn_layer_norm")
            x = norm(x + linear(gelu(linear(x, f"{name}.fc1")), f"{name}.fc2"), f"{name}.final_layer_norm")
    if arch.layer_norm_first:
        x = norm(x, "encoder.encoder.layer_norm")
    return linear(x.sum(1) / (x != 0).sum(1), "proj")


def test_logits_of_a_genuine_checkpoint_are_fairseq_signals_own(test_data):
    folder = test_data / "checkpoints"
    known = np.load(folder / "tiny1_io.npz")
    model = load_classifier(folder / "tiny1_finetuned.pt")
    assert not model.training
    with torch.inference_mode():
        logits = model(torch.from_numpy(known["source"]))
    assert logits.dtype == torch.float32
    np.testing.assert_allclose(logits.numpy(), known["logits"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("names", ["new weight norm", "old weight norm"])
@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_every_architecture_equals_the_functional_form(tmp_path, changes, names):
    arch = dataclasses.replace(SMALL, **changes)
    model = randomised(arch)
    content = as_checkpoint(model)
    expected_names = list(content["model"])
    if names == "old weight norm":
        content["model"] = old_names(content["model"])
        assert list(content["model"]) != expected_names
    loaded = load_classifier(saved(tmp_path / "a.pt", content))
    source = torch.randn(3, arch.in_d, 203)
    with torch.inference_mode():
        logits = loaded(source)
    torch.testing.assert_close(logits.double(), reference(model.state_dict(), arch, source), rtol=1e-4, atol=1e-4)
    assert list(loaded.state_dict()) == expected_names


def test_ecg_fm_has_its_published_number_of_parameters():
    with torch.device("meta"):  # no memory
        model = EcgClassifier(Architecture())
    assert sum(parameter.numel() for parameter in model.parameters()) == 90_386_321
    assert Architecture().frames(2500) == 156


def test_bfloat16_stays_close_and_returns_float32():
    model, source = randomised(SMALL), torch.randn(4, 12, 203)
    with torch.inference_mode():
        exact = model(source)
        half = model.to(torch.bfloat16)(source)
    assert half.dtype == torch.float32
    assert 0 < (half - exact).abs().max() < 0.2 * exact.abs().max()


def test_pooling_counts_only_frames_that_are_not_zero():
    model = randomised(SMALL)
    frames = torch.randn(1, 7, 24)
    frames[0, :3, 0] = 0
    frames[0, :, 1] = 0
    model.encoder.forward = lambda _: frames
    pooled = frames[0].mean(0)
    pooled[0], pooled[1] = frames[0, 3:, 0].mean(), 0
    expected = model.proj.weight @ pooled + model.proj.bias
    torch.testing.assert_close(model(torch.zeros(1, 12, 99))[0], expected)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_a_lead_is_as_good_as_twelve_channels_of_it(changes):
    """The same logits, and the same gradient of every weight: that of the first convolution stays one per channel."""
    model = randomised(dataclasses.replace(SMALL, **{"feature_grad_mult": 1.0} | changes))
    lead = torch.randn(3, 99)
    weights, found = list(model.parameters()), []
    for source in (lead, expand_lead(lead, model.architecture.in_d)):
        logits = model(source)
        found.append([logits, *torch.autograd.grad(logits.square().sum(), weights)])
    for value, expected in zip(*found, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(2500,), (2, 3), (2, 11, 2500), (2, 12, 4), (2, 12, 2500, 1)])
def test_input_of_another_shape_is_an_error(shape):
    with pytest.raises(ValueError, match="source has"):
        EcgClassifier(SMALL)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: c["model"].pop("proj.bias"), "missing: proj.bias"),
        (lambda c: c["model"].update(extra=torch.ones(1)), "unexpected: extra"),
        (lambda c: c["model"].update({"proj.bias": torch.ones(6)}), r"of another shape: proj.bias \(6,\) for \(5,\)"),
        (lambda c: c["model"].update({"proj.bias": torch.full((5,), torch.nan)}), "proj.bias holds NaN"),
        (lambda c: c["model"].update({"proj.bias": [1, 2]}), "proj.bias .* is a list"),
        (lambda c: c["cfg"]["model"].update(extractor_mode="layer_norm"), "extractor_mode is 'layer_norm'"),
        (lambda c: c["cfg"]["model"].pop("encoder_layers"), "encoder_layers is missing"),
        (lambda c: c["cfg"]["model"].update(encoder_layers=10**9), "encoder_layers is 1000000000"),
        (lambda c: c["cfg"]["model"].update(encoder_attention_heads=7), "no multiple of encoder_attention_heads"),
        (lambda c: c["cfg"]["model"].update(layer_norm_first="no"), "layer_norm_first is 'no'"),
        (lambda c: c["cfg"]["model"].update(conv_feature_layers="open('x')"), "conv_feature_layers is"),
        (lambda c: c["cfg"]["model"].update(_name="wav2vec2_cmsc"), "fine-tune it first"),
        (lambda c: c.pop("cfg"), r"no cfg\['model'\]"),
        (lambda c: c.update(cfg={"model": "text"}), r"no cfg\['model'\]"),
        (lambda c: c.pop("model"), "beside its weights"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_line_that_says_why(tmp_path, change, told):
    content = as_checkpoint(randomised(SMALL))
    change(content)
    with pytest.raises(UserError, match=told) as caught:
        load_classifier(saved(tmp_path / "odd.pt", content))
    assert "odd.pt" in str(caught.value) and "\n" not in str(caught.value)


def test_missing_and_unexpected_keys_are_told_together(tmp_path):
    content = as_checkpoint(randomised(SMALL))
    content["model"]["encoder.encoder.layers.9.fc1.bias"] = content["model"].pop("encoder.encoder.layers.1.fc1.bias")
    with pytest.raises(UserError) as caught:
        load_classifier(saved(tmp_path / "a.pt", content))
    assert "missing: encoder.encoder.layers.1.fc1.bias" in str(caught.value)
    assert "unexpected: encoder.encoder.layers.9.fc1.bias" in str(caught.value)


def test_channels_come_from_the_weights_when_the_configuration_is_wrong(tmp_path):
    content = as_checkpoint(randomised(dataclasses.replace(SMALL, in_d=1)), in_d=12)
    assert load_classifier(saved(tmp_path / "a.pt", content)).architecture.in_d == 1


def test_half_precision_weights_load_as_float32(tmp_path):
    content = as_checkpoint(randomised(SMALL))
    content["model"] = {name: value.half() for name, value in content["model"].items()}
    model = load_classifier(saved(tmp_path / "a.pt", content))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_pretrained_encoder_takes_every_weight_and_a_new_head(tmp_path):
    donor = randomised(SMALL)
    path = saved(tmp_path / "p.pt", as_pretrained(donor))
    torch.manual_seed(3)
    model = load_pretrained(path, 17, activation_dropout=0.1, feature_grad_mult=0.0)
    for name, value in donor.encoder.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], value), name
    assert model.proj.weight.shape == (17, 24) and model.proj.bias.abs().max() == 0
    assert 0 < model.proj.weight.abs().max() <= (6 / (17 + 24)) ** 0.5  # the range of Xavier-uniform
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if "feature_extractor" in name}
    torch.manual_seed(3)
    assert torch.equal(load_pretrained(path, 17).proj.weight, model.proj.weight)


def test_pretrained_file_with_an_unknown_part_is_refused(tmp_path):
    content = as_pretrained(randomised(SMALL))
    content["model"]["surprise.weight"] = torch.ones(2)
    with pytest.raises(UserError, match="unexpected: encoder.surprise.weight"):
        load_pretrained(saved(tmp_path / "p.pt", content), 17)


def test_finetuning_may_start_from_a_finetuned_checkpoint(tmp_path):
    donor = randomised(SMALL)
    model = load_pretrained(saved(tmp_path / "f.pt", as_checkpoint(donor)), 17)
    assert torch.equal(model.encoder.layer_norm.weight, donor.encoder.layer_norm.weight)
    assert model.proj.weight.shape == (17, 24)


def test_a_finetuned_head_is_kept_when_asked_for(tmp_path):
    donor = randomised(SMALL)
    path = saved(tmp_path / "f.pt", as_checkpoint(donor))
    model = load_pretrained(path, 5, keep_head=True)
    assert torch.equal(model.proj.weight, donor.proj.weight) and torch.equal(model.proj.bias, donor.proj.bias)
    with pytest.raises(UserError, match=r"proj.weight \(5, 24\) for \(17, 24\)"):
        load_pretrained(path, 17, keep_head=True)
    with pytest.raises(UserError, match="no head to keep"):
        load_pretrained(saved(tmp_path / "p.pt", as_pretrained(donor)), 5, keep_head=True)


def test_architecture_of_a_file_and_whether_it_is_finetuned(tmp_path):
    donor = randomised(SMALL)
    assert load_architecture(saved(tmp_path / "f.pt", as_checkpoint(donor))) == (SMALL, True, None)
    pretrained, fine_tuned, _ = load_architecture(saved(tmp_path / "p.pt", as_pretrained(donor)))
    assert not fine_tuned and dataclasses.replace(pretrained, num_labels=5) == SMALL


def test_weight_norm_is_that_of_pytorch():
    ours, theirs = (torch.nn.Conv1d(6, 4, 5, groups=2) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    torch.nn.utils.parametrize.register_parametrization(ours, "weight", GainPerTap(), unsafe=True)
    torch.nn.utils.parametrizations.weight_norm(theirs, dim=2)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    with torch.no_grad():
        for first, second in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(first, second)
            first.mul_(1.5).add_(0.1)
            second.copy_(first)
    assert torch.equal(ours.weight, theirs.weight)


def test_loading_a_checkpoint_loads_no_compiler(tmp_path):
    path = saved(tmp_path / "f.pt", as_checkpoint(randomised(SMALL)))
    program = (
        "import sys; from ecg_finetune.ecg_fm import load_classifier; load_classifier(sys.argv[1]);"
        "print([name for name in sys.modules if name.startswith(('torch._dynamo', 'torch._inductor'))])"
    )
    output = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True).stdout
    assert output == "[]\n"


def test_genuine_pretrained_checkpoint_leaves_only_its_known_heads_out(test_data):
    path = test_data / "checkpoints" / "tiny1_pretrained.pt"
    model = load_pretrained(path, 17)
    weights = load_checkpoint(path)["model"]
    taken = {name.removeprefix("encoder.") for name in model.state_dict() if name.startswith("encoder.")}
    assert {name.split(".")[0] for name in set(weights) - taken} == {
        "mask_emb",
        "quantizer",
        "project_q",
        "final_proj",
    }


@pytest.mark.parametrize("mult", [0.0, 0.1, 1.0])
def test_feature_grad_mult_scales_the_gradient_of_the_convolutions_alone(mult):
    gradients = {}
    for value in (mult, 1.0):
        model = EcgClassifier(dataclasses.replace(SMALL, feature_grad_mult=value))
        model.load_state_dict(randomised(SMALL).state_dict())
        model(torch.randn(2, 12, 99, generator=torch.Generator().manual_seed(1))).sum().backward()
        gradients[value] = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, full in gradients[1.0].items():
        scaled = gradients[mult][name]
        if "feature_extractor" not in name:
            torch.testing.assert_close(scaled, full)
        elif mult == 0:
            assert scaled is None
        else:
            torch.testing.assert_close(scaled, full * mult)


@given(
    st.lists(st.tuples(*[st.integers(1, 999)] * 3), min_size=1, max_size=3),
    st.integers(1, 5),
    st.sampled_from(["{0}", "{0} * {1}", "{1}*{0}", "{0} + {0} * {1}", "  [({2},2,2)]+{0} "]),
)
def test_conv_stacks_parse_as_python_would_evaluate_them(layers, times, form):
    text = form.format(layers, times, layers[0][0])
    assert list(parse_conv_layers(text)) == eval(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[(1, 2)]",
        "[(1, 2, 3, 4)]",
        "[(1, 2, -2)]",
        "[(1, 2, 2.0)]",
        "[(1, 2, True)]",
        "[(0, 2, 2)]",
        "[(1, 2, 99999999)]",
        "[(1, 2, 2)] * 65",
        "[(1, 2, 2)] * 10 ** 9",
        "[(1, 2, 2)] * 64 * 64 * 64",
        "[(1, 2, 2)] * -1",
        "__import__('os').system('true')",
        "[(256, 2, 2) for _ in range(4)]",
        "[(1, 2, 2)",
        "(" * 3000,
        None,
        [(1, 2, 2)],
    ],
)
def test_anything_else_in_place_of_a_conv_stack_is_refused(text):
    with pytest.raises(ValueError, match="conv_feature_layers is"):
        parse_conv_layers(text)


@given(st.text(max_size=40))
def test_no_text_makes_the_parser_fail_otherwise(text):
    try:
        assert all(len(layer) == 3 for layer in parse_conv_layers(text))
    except ValueError as error:
        assert "conv_feature_layers" in str(error)

"""The network as files that need no pickle: safetensors, ONNX, and ONNX with weights in 8 bits."""

import contextlib
import io
import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from ecg_finetune.ecg_fm import EcgClassifier
from ecg_finetune.files import replacing
from ecg_finetune.model_folder import INPUT, OUTPUT
from ecg_finetune.waveform import SEGMENT_SAMPLES

OPSET = 18  # onnxruntime 1.14 and newer, of February 2023


def write_safetensors(path: Path, model: EcgClassifier) -> None:
    """Write the weights under the names they have in the checkpoint."""
    from safetensors.torch import save

    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    with replacing(path) as temporary:
        temporary.write_bytes(save(weights, metadata={"format": "pt"}))


class _OneLead(nn.Module):
    """A network of one channel: lead (batch, samples) to logits (batch, labels)."""

    def __init__(self, model: EcgClassifier):
        super().__init__()
        self.model = model

    def forward(self, lead: Tensor) -> Tensor:
        """Classify."""
        return self.model(lead[:, None])


def write_onnx(path: Path, folded: EcgClassifier) -> None:
    """Write a network that reads one lead, see `fold_channels`, for any number of segments and of samples.

    Nothing in the file tells of this machine. Its weight-normed convolution is made a plain one, in `folded` too.
    """
    import onnx

    nn.utils.parametrize.remove_parametrizations(folded.encoder.conv_pos.pos_conv[0], "weight")
    example = torch.zeros(2, SEGMENT_SAMPLES)
    any_size = torch.export.Dim.DYNAMIC
    with _quiet():
        program = torch.onnx.export(
            _OneLead(folded).eval(),
            (example,),
            dynamo=True,
            dynamic_shapes=({0: any_size, 1: any_size},),
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    network = program.model_proto
    _forget_sources(network)
    for value, names in ((network.graph.input[0], ("batch", "samples")), (network.graph.output[0], ("batch", None))):
        for size, name in zip(value.type.tensor_type.shape.dim, names):
            if name:
                size.dim_param = name
    onnx.checker.check_model(network)
    with replacing(path) as temporary:
        temporary.write_bytes(network.SerializeToString())


def _forget_sources(network) -> None:
    """Remove what an exporter notes of each node: the lines of source, with the folders of this machine."""
    del network.graph.value_info[:]
    for part in (network, network.graph, *network.graph.node, *network.graph.initializer, *network.functions):
        part.doc_string = ""
        del part.metadata_props[:]


def write_int8(path: Path, float32: Path) -> None:
    """Write the network of an ONNX file with the weights of its matrix products in 8 bits; activations as they come.

    Seven of the bits are used: with all eight, processors without VNNI instructions overflow and answer differently.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with replacing(path) as temporary, _quiet():
        quantize_dynamic(
            float32,
            temporary,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )


@contextlib.contextmanager
def _quiet():
    """Hold back what exporters print and warn of about themselves; errors come through."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

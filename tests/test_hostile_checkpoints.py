"""Checkpoints made to do harm: one line that names the file, little memory, whichever command reads them."""

import _codecs
import argparse
import collections
import contextlib
import functools
import io
import os
import pickle
import re
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from ecg_evaluation.prediction import load_model
from ecg_training.settings import FinetuneSettings
from ecg_training.torch_engine import TINY, build_model
from ecg_training.trainer import Trainer, resume_from
from hypothesis import given, settings
from hypothesis import strategies as st
from limits import ROOM, little_memory

from ecg_finetune import checkpoint
from ecg_finetune.cli import execute
from ecg_finetune.ecg_fm import CLASSIFIER_NAME, EcgClassifier, load_classifier
from ecg_finetune.files import UserError
from ecg_finetune.label_set import ECG_FM
from ecg_finetune.torch_archive import read_archive

# What a pickled array and a pickled NumPy number call; where they live depends on NumPy's version.
RECONSTRUCT, SCALAR = np.empty(0).__reduce__()[0], np.float32(0).__reduce__()[0]
ONE = torch.zeros(1)._typed_storage()


class Calls:
    """In a pickle, an instance is a call of a function, as in a file that somebody has made by hand."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


class Subclass(torch.Tensor):
    """A tensor of a class of its own."""


def holding(value, **entries) -> dict:
    """Return a checkpoint of a classifier with a value among its weights."""
    return {"cfg": {"model": {"_name": CLASSIFIER_NAME}}, "model": {"w": value}, **entries}


def instead(**changes) -> dict:
    """Return a checkpoint whose network settings are others."""
    return {"cfg": {"model": {"_name": CLASSIFIER_NAME, **changes}}, "model": {}}


def within_itself() -> dict:
    """Return a checkpoint that is among its own weights."""
    content = holding(None)
    content["model"]["w"] = content
    return content


def many_times() -> dict:
    """Return a checkpoint of a few lists, which written out would be 2 ** 60 numbers."""
    numbers = [1]
    for _ in range(60):
        numbers = [numbers, numbers]
    return instead(encoder_layers=numbers) | {"extra_state": numbers}


def quietly(function, *arguments, **keywords):
    """Call a function of PyTorch that warns of what it does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **keywords)


CONTENTS = {
    # Tensors that claim more numbers than the file has.
    "expanded": lambda: holding(torch.zeros(1).expand(10**12)),
    "expanded in two dimensions": lambda: holding(torch.zeros(1).expand(10**6, 10**6)),
    "overlapping": lambda: holding(torch.zeros(10**5).as_strided((5 * 10**4, 5 * 10**4), (1, 1))),
    "listed 1,000 times": lambda: holding(torch.zeros(1), more=[torch.zeros(10**6)] * 1000),
    "many dimensions": lambda: holding(
        Calls(torch._utils._rebuild_tensor_v2, ONE, 0, (2**62,) * 3 * 10**5, (1,), False, collections.OrderedDict())
    ),
    "sparse": lambda: holding(torch.eye(2).to_sparse().sparse_resize_((10**6, 10**6), 2, 0)),
    "sparse rows": lambda: holding(
        quietly(torch.sparse_csr_tensor, torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), (1, 10**12))
    ),
    "meta": lambda: holding(torch.empty(10**12, device="meta")),
    "quantized": lambda: holding(quietly(torch.quantize_per_tensor, torch.zeros(4), 0.1, 0, torch.qint8)),
    "nested": lambda: holding(quietly(torch.nested.nested_tensor, [torch.zeros(2), torch.zeros(3)])),
    "subclass": lambda: holding(torch.zeros(3).as_subclass(Subclass)),
    # Calls that take memory or time.
    "bytearray": lambda: holding(Calls(bytearray, 2 * 10**9)),
    "tensor of a size": lambda: holding(Calls(torch.FloatTensor, 5 * 10**8)),
    "array of a size": lambda: holding(Calls(np.ndarray, (10**10,))),
    "array to be filled": lambda: holding(Calls(RECONSTRUCT, np.ndarray, (10**10,), b"b")),
    "array of few bytes": lambda: holding(
        Calls(RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, (10**10,), np.dtype("f4"), False, b"x"))
    ),
    "number of any size": lambda: holding(Calls(SCALAR, np.dtype("V2000000000"))),
    "slow codec": lambda: holding(Calls(_codecs.encode, "".join(map(chr, range(0x4E00, 0x9E00))) * 50, "punycode")),
    "long number": lambda: holding(10**400),
    # Structures.
    "within itself": within_itself,
    "many times": many_times,
    # Names and keys.
    "number as a name": lambda: {"cfg": {"model": {"_name": CLASSIFIER_NAME}}, "model": {5: torch.zeros(2)}},
    "tuple as a name": lambda: {"cfg": {"model": {"_name": CLASSIFIER_NAME}}, "model": {("a", 1): torch.zeros(2)}},
    "tuple in cfg": lambda: {"cfg": {"model": {("b",): 1}}, "model": {"w": torch.zeros(2)}},
    "tuple at the top": lambda: {("a",): 1},
    "half a character": lambda: holding(torch.zeros(1), **{"\ud800": 1}) | instead(**{"\ud800": "\ud800"}),
    "escape sequences": lambda: {
        **instead(**{"\x1b[31m\nerror: a": "\x1b[2J\nb"}),
        "\x1b[2J\rc": 1,
        "model": {"\x1b[2J\nd": torch.zeros(1)},
    },
    "long names": lambda: {"cfg": {"model": {"_name": "a" * 10**6}}, "model": {"b" * 10**6: torch.zeros(2)}},
    "methods as values": lambda: {
        "cfg": {"model": Calls(collections.OrderedDict, state={"items": 1, "get": 2, "keys": 3})},
        "model": Calls(collections.OrderedDict, state={"items": 1}),
    },
    # Settings of the network.
    "array as a setting": lambda: instead(_name=np.zeros((2, 2)), extractor_mode=torch.zeros(2)),
    "array as another": lambda: instead(extractor_mode=np.zeros(3)),
    "long setting": lambda: instead(encoder_layers="9" * 10**6, conv_feature_layers="(" * 10**6),
    # No checkpoint.
    "a tensor": lambda: torch.zeros(2),
    "a list": lambda: [1, 2],
    "weights as a list": lambda: {"cfg": {"model": {"_name": CLASSIFIER_NAME}}, "model": [torch.zeros(2)]},
    "cfg as a list": lambda: {"cfg": [1], "model": {}},
    "nothing": lambda: {},
}


def archive(path: Path, pickled: bytes, compression: int = zipfile.ZIP_STORED, **entries: bytes) -> None:
    """Write a file as `torch.save` does, around a pickle and the bytes of tensors."""
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in {"data.pkl": pickled, "version": b"3\n", "byteorder": b"little", **entries}.items():
            file.writestr(f"archive/{name}", content)


def entries_of(content) -> dict[str, bytes]:
    """Return what `torch.save` writes, by the names within the archive."""
    file = io.BytesIO()
    torch.save(content, file)
    with zipfile.ZipFile(file) as written:
        return {name.partition("/")[2]: written.read(name) for name in written.namelist()}


def with_entries(path: Path, content, compression: int = zipfile.ZIP_STORED, **changes: bytes) -> None:
    """Write a checkpoint with other bytes in some of its entries."""
    entries = entries_of(content) | changes
    archive(path, entries.pop("data.pkl"), compression, **entries)


def one_entry_twice(path: Path) -> None:
    """Write an archive that lists the same bytes as two thousand entries."""
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries_of(holding(torch.zeros(10**6))).items():
            file.writestr(f"archive/{name}", content)
        file.filelist += [file.getinfo("archive/data/0")] * 2000


# A pickle of protocol 2: {"model": <what stands between>}.
START, END = b"\x80\x02}X\x05\x00\x00\x00model", b"s."
FILES = {
    "nested lists": lambda path: archive(path, START + b"]" * 10**4 + b"a" * (10**4 - 1) + END),
    "nested tuples": lambda path: archive(path, START + b")" + b"\x85" * 10**5 + END),
    "key of a list": lambda path: archive(path, b"\x80\x02]X\x01\x00\x00\x00aNs."),
    "state of a function": lambda path: archive(path, b"\x80\x02}ccollections\nOrderedDict\n}X\x01\x00\x00\x00aNsb."),
    "memo of any size": lambda path: archive(path, b"\x80\x02}r\xff\xff\xff\xff0."),
    "other instructions": lambda path: archive(path, pickle.dumps({"model": {}}, protocol=5)),
    "no pickle": lambda path: archive(path, b""),
    "fewer bytes than numbers": lambda path: with_entries(path, holding(torch.zeros(10**6)), **{"data/0": bytes(8)}),
    "more bytes than numbers": lambda path: with_entries(path, holding(torch.zeros(2)), **{"data/0": bytes(10**6)}),
    "no bytes": lambda path: archive(path, entries_of(holding(torch.zeros(10**6)))["data.pkl"]),
    "other byte order": lambda path: with_entries(path, holding(torch.zeros(2)), byteorder=b"big"),
    "compressed": lambda path: with_entries(
        path, holding(torch.zeros(2)), zipfile.ZIP_DEFLATED, **{"data/9": bytes(ROOM)}
    ),
    "one entry many times": one_entry_twice,
    "two pickles": lambda path: with_entries(path, holding(torch.zeros(2)), **{"../b/data.pkl": b"\x80\x02}."}),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("error\n"),
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    **{
        name: lambda path, content=content: torch.save(content(), path, pickle_protocol=2)
        for name, content in CONTENTS.items()
    },
}


def show(path: Path) -> None:
    """Run `show`, or `strip`."""
    run_module("show", path)


def strip(path: Path) -> None:
    """Run `strip`."""
    run_module("strip", path, path.with_suffix(".stripped.pt"))


def run_module(*arguments) -> None:
    """Run the module's command line; what it reports as an error is raised as one."""
    output, errors = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()  # strict, as a terminal is
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        code = execute(checkpoint.get_parser(), checkpoint.run, [str(argument) for argument in arguments])
    output.flush()
    assert "\x1b" not in output.buffer.getvalue().decode() and len(output.buffer.getvalue()) < 20_000
    if code:
        assert code == 1 and errors.getvalue().startswith("error: ") and errors.getvalue().endswith("\n")
        raise UserError(errors.getvalue().removesuffix("\n"))


def settings_for(pretrained: Path | None) -> FinetuneSettings:
    """Return the settings of a run that starts from a file."""
    return FinetuneSettings(
        manifests=Path(), label_set=ECG_FM, output=Path(), pretrained=pretrained, epochs=1, lr=1e-3, batch_size=2
    )


@functools.cache
def trainer() -> Trainer:
    """Return a run that could go on."""
    return Trainer(
        EcgClassifier(TINY),
        np.ones(17),
        settings_for(None),
        torch.device("cpu"),
    )


def resume(path: Path) -> None:
    """Read the state of an interrupted training."""
    resume_from(trainer(), path)


COMMANDS = {
    "show": show,
    "strip": strip,
    "eval --model-path": lambda path: load_model(path, ECG_FM, device="cpu", precision="float32", trust=False),
    "finetune --pretrained": lambda path: build_model(settings_for(path)),
    "finetune --resume": resume,
}
# Unusual, but they can be shown and copied.
SHOWN = {
    *("number as a name", "half a character", "escape sequences", "long names"),
    *("array as a setting", "array as another", "long setting", "weights as a list", "cfg as a list", "nothing"),
    *("two pickles", "array to be filled"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_is_told_in_one_line(tmp_path, name):
    path = tmp_path / f"{name}.pt"
    FILES[name](path)
    trainer()  # its imports take more memory than any of the files may
    for command, run in COMMANDS.items():
        with little_memory():
            if name in SHOWN and command in ("show", "strip"):
                run(path)
                continue
            with pytest.raises(UserError) as caught:
                run(path)
        message = str(caught.value)
        assert path.name in message and message.isprintable() and len(message) < 5000, command
        assert "emory" not in message, f"{command}: it tried to take what the file claims"


NESTED = b")" + b"\x85" * 10**6  # a tuple of so many levels; Python crashes when it is to tell its hash


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02}" + NESTED + b"Ns.",
        b"\x80\x02}(" + NESTED + b"Nu.",
        b"\x80\x02ccollections\nOrderedDict\n)R(" + NESTED + b"tb.",
        b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + NESTED + b"NK\x01tQ.",
    ],
    ids=["key", "one of the keys", "state", "name of an entry"],
)
def test_a_nested_tuple_does_not_crash_python(tmp_path, pickled):
    archive(tmp_path / "a.pt", pickled)
    with pytest.raises(ValueError, match="a key is|a state for|the name of an entry"):
        read_archive(tmp_path / "a.pt")


@pytest.mark.parametrize("name", ["expanded", "within itself", "many times", "sparse", "number as a name"])
def test_a_trusted_file_is_told_in_one_line_too(tmp_path, name):
    """An unusual object gets the file to PyTorch's own reader where it is trusted."""
    path = tmp_path / "trusted.pt"
    torch.save({"args": argparse.Namespace(a=1)} | CONTENTS[name](), path)
    with pytest.warns(UserWarning, match="trusted"), pytest.raises(UserError, match=r"trusted\.pt: "):
        load_classifier(path, trust=True)


def test_a_trusted_file_is_compared_with_its_checksums(tmp_path):
    path = tmp_path / "trusted.pt"
    torch.save({"args": argparse.Namespace(a=1)} | holding(torch.full((1000,), 1.5)), path)
    content = bytearray(path.read_bytes())
    content[content.index(np.float32(1.5).tobytes() * 100) + 7] ^= 1
    path.write_bytes(content)
    with (
        pytest.warns(UserWarning, match="trusted"),
        pytest.raises(UserError, match="the checksum of .*/data/0 in it is wrong"),
    ):
        checkpoint.load_checkpoint(path, trust=True)


def test_a_file_of_before_pytorch_1_6_needs_trust(tmp_path):
    path = tmp_path / "old.pt"
    torch.save(holding(torch.ones(3)), path, _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match="--trust-checkpoint"):
        checkpoint.load_checkpoint(path)
    with pytest.warns(UserWarning, match="before PyTorch 1.6"):
        assert checkpoint.load_checkpoint(path, trust=True)["model"]["w"].tolist() == [1, 1, 1]


def test_a_process_ends_with_one_line(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    command = [sys.executable, "-m", "ecg_finetune.checkpoint", "show", tmp_path / "pipe.pt"]
    process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert process.returncode == 1 and process.stderr.count("\n") == 1
    assert re.fullmatch("error: .*pipe.pt: not a regular file but .*\n", process.stderr)


# What is no harm is read as PyTorch reads it.

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]


@st.composite
def tensors(draw):
    """Draw a small tensor of any dtype, in any layout of its numbers."""
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    tensor = torch.arange(np.prod(shape, dtype=int)).reshape(shape).to(draw(st.sampled_from(DTYPES)))
    if tensor.ndim and draw(st.booleans()):
        tensor = tensor.transpose(0, -1)[draw(st.integers(0, 1)) :]
    return torch.nn.Parameter(tensor) if tensor.is_floating_point() and draw(st.booleans()) else tensor


@st.composite
def arrays(draw):
    """Draw a small array or a number of NumPy."""
    dtype = draw(st.sampled_from(["f4", "f8", "i8", "i4", "u1", "b1"]))
    shape = draw(st.lists(st.integers(0, 3), max_size=2))
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    return draw(st.sampled_from([array, np.asfortranarray(array), np.array(1, dtype)[()]]))


plain = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63), st.floats(allow_nan=False), st.text(), st.binary()
)
contents = st.recursive(
    st.one_of(plain, tensors(), arrays()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(st.one_of(st.text(), st.integers(0, 99)), inner, max_size=4),
        st.dictionaries(st.text(), inner, max_size=4).map(collections.OrderedDict),
    ),
    max_leaves=12,
)


def assert_same(one, other):
    """Assert that two values are of the same types and equal."""
    if isinstance(other, torch.Tensor):
        assert one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
        assert one.stride() == other.stride()
    elif isinstance(other, (np.ndarray, np.generic)):
        assert type(one) is type(other) and one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    elif isinstance(other, dict):
        assert type(one) is type(other) and list(one) == list(other)
        for key, value in other.items():
            assert_same(one[key], value)
    elif isinstance(other, (list, tuple)):
        assert type(one) is type(other) and len(one) == len(other)
        for value, expected in zip(one, other):
            assert_same(value, expected)
    else:
        assert type(one) is type(other) and one == other


@settings(max_examples=100, deadline=None)
@given(content=contents)
def test_anything_that_is_data_is_read_as_pytorch_reads_it(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "data.pt"
    torch.save(content, path)
    assert_same(read_archive(path), torch.load(path, weights_only=False))


def test_weights_keep_what_pytorch_notes_beside_them(tmp_path):
    state = torch.nn.BatchNorm1d(3).state_dict()
    torch.save(state, tmp_path / "a.pt")
    assert read_archive(tmp_path / "a.pt")._metadata == state._metadata


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_damage_of_the_pickle_is_a_traceback(tmp_path_factory, data):
    """The checksums, which tell most damage, are made to fit."""
    scores = {"scores": [np.ones((2, 3), np.float32)], "best": np.float64(1)}
    entries = entries_of(holding(torch.ones(4), extra_state=scores, number=2**40))
    content = bytearray(entries.pop("data.pkl"))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    archive(path, bytes(content), **entries)
    with contextlib.suppress(UserError):
        load_classifier(path)

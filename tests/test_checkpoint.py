"""Checkpoints: nothing in a file runs, damaged files are told in one line, and stripping takes validation data out."""

import argparse
import collections
import datetime
import os
import pickle
import pickletools
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecg_finetune.checkpoint import get_parser, load_checkpoint, run, save_checkpoint, strip_validation
from ecg_finetune.cli import execute
from ecg_finetune.ecg_fm import load_classifier
from ecg_finetune.files import UserError


class Runs:
    """Unpickling an instance calls a function, as a malicious file does."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def saved(path, content):
    """Write with torch.save and return the path."""
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, "system"), (eval, "eval"), (exec, "exec"), (subprocess.call, "call"), (os.mkdir, "mkdir")],
)
def test_a_malicious_file_does_not_run(tmp_path, function, name):
    mark = tmp_path / "it_ran"
    arguments = {
        "system": (f"touch {mark}",),
        "eval": (f"open({str(mark)!r}, 'w')",),
        "exec": (f"open({str(mark)!r}, 'w')",),
        "call": (["touch", str(mark)],),
        "mkdir": (str(mark),),
    }[name]
    content = {"model": {}, "cfg": {"model": Runs(function, *arguments)}}
    for number, options in enumerate(({}, {"_use_new_zipfile_serialization": False})):
        path = tmp_path / f"evil{number}.pt"
        torch.save(content, path, **options)
        with pytest.raises(UserError, match="format before PyTorch 1.6" if options else name) as caught:
            load_checkpoint(path)
        assert not mark.exists()
        assert "--trust-checkpoint" in str(caught.value) and path.name in str(caught.value)
        assert "\n" not in str(caught.value)
    # The same file does run where it is trusted: the test above could have failed.
    with pytest.warns(UserWarning, match="trusted"):
        load_checkpoint(path, trust=True)
    assert mark.exists()


def test_a_plain_pickle_does_not_run_either(tmp_path):
    mark, path = tmp_path / "it_ran", tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps({"model": Runs(os.mkdir, str(mark))}, protocol=2))
    with pytest.raises(UserError, match="evil.pt"):
        load_checkpoint(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("thing", "name"),
    [
        (argparse.Namespace(a=1), "argparse.Namespace"),
        (datetime.date(2020, 1, 1), "datetime.date"),
        (np.random.default_rng(0), "numpy.random"),
        (np.array([argparse.Namespace()], dtype=object), "numpy.dtype"),
        (collections.deque([1]), "collections.deque"),
    ],
)
def test_what_genuine_files_do_not_hold_is_refused_by_name(tmp_path, thing, name):
    with pytest.raises(UserError, match=name):
        load_checkpoint(saved(tmp_path / "odd.pt", {"model": {}, "extra": thing}))


def test_trust_holds_for_one_call(tmp_path):
    path = saved(tmp_path / "old.pt", {"args": argparse.Namespace(a=1), "model": {}})
    with pytest.warns(UserWarning, match="argparse.Namespace"):
        assert load_checkpoint(path, trust=True)["args"].a == 1
    with pytest.raises(UserError, match="argparse.Namespace"):
        load_checkpoint(path)


def test_what_the_process_allows_elsewhere_does_not_count_here(tmp_path):
    path = saved(tmp_path / "old.pt", {"args": argparse.Namespace(a=1)})
    with torch.serialization.safe_globals([argparse.Namespace]):
        with pytest.raises(UserError, match="argparse.Namespace"):
            load_checkpoint(path)
        assert argparse.Namespace in torch.serialization.get_safe_globals()
    assert np.ndarray not in torch.serialization.get_safe_globals()


@pytest.mark.parametrize("core", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_arrays_and_scalars_of_numpy_1_and_2_load(tmp_path, core):
    content = {
        "scores": np.arange(6, dtype=np.float32).reshape(2, 3),
        "targets": np.arange(3),
        "best": np.float64(0.25),
        "ordered": collections.OrderedDict(a=1),
    }

    class Renaming(pickle._Pickler):
        """The pure-Python pickler, which lets us write the module name of either numpy."""

        def save_global(self, obj, name=None):
            found = pickle.whichmodule(obj, getattr(obj, "__qualname__", obj.__class__.__qualname__))
            if found and found.endswith("core.multiarray"):
                self.write(pickle.GLOBAL + f"{core}\n{obj.__name__}\n".encode())
                self.memoize(obj)
            else:
                super().save_global(obj, name)

        dispatch = pickle._Pickler.dispatch | {type(np.empty): save_global, type(lambda: 0): save_global}

    class Module:
        """What torch.save wants: a module with Pickler and dump."""

        Pickler, __name__ = Renaming, "renaming"
        dump, dumps = staticmethod(pickle.dump), staticmethod(pickle.dumps)

    path = tmp_path / "a.pt"
    torch.save(content, path, pickle_module=Module)
    assert core in "".join(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    loaded = load_checkpoint(path)
    np.testing.assert_array_equal(loaded["scores"], content["scores"])
    assert loaded["best"] == 0.25 and loaded["targets"].dtype == np.int64


def test_missing_and_foreign_files_are_told(tmp_path):
    with pytest.raises(UserError, match="absent.pt: no such file"):
        load_checkpoint(tmp_path / "absent.pt")
    with pytest.raises(UserError, match="not a regular file but a folder"):
        load_checkpoint(tmp_path)
    for name, content in {"empty": b"", "text": b"hello\n", "html": b"<html>404</html>" * 99, "zip": b"PK\3\4"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}: not a readable checkpoint") as caught:
            load_checkpoint(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="holds a list"):
        load_checkpoint(saved(tmp_path / "list.pt", [1, 2]))


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "whole.pt"
    content = {"model": {"w": torch.arange(1000.0)}, "extra_state": {"x": np.arange(9.0)}, "cfg": {"model": {"a": 1}}}
    return saved(path, content)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_never_a_traceback(tmp_path, whole_file, data):
    content = bytearray(whole_file.read_bytes())
    if data.draw(st.booleans(), label="cut"):
        content = content[: data.draw(st.integers(0, len(content) - 1), label="length")]
    else:
        for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8), label="places"):
            content[place] ^= 0xFF
    path = tmp_path / "damaged.pt"
    path.write_bytes(content)
    try:
        load_checkpoint(path)
    except UserError as error:
        assert "damaged.pt" in str(error)


def test_stripping_a_genuine_file_takes_out_labels_and_scores_and_nothing_else(test_data, tmp_path, run_module):
    path, output = test_data / "checkpoints" / "tiny1_finetuned.pt", tmp_path / "stripped.pt"
    before = load_checkpoint(path)
    meter = next(m for m in before["extra_state"]["metrics"]["valid"] if m[2] == "AUCMeter")[3]
    scores = meter["scores"][0]
    assert scores.shape == (32, 17) and scores.tobytes()[:64] in uncompressed(path)
    assert "2 arrays" in run_module("strip", path, output).out
    after = load_checkpoint(output)
    assert scores.tobytes()[:64] not in uncompressed(output)
    assert after["cfg"] == before["cfg"] and list(after) == list(before)
    assert all(torch.equal(after["model"][name], value) for name, value in before["model"].items())
    assert after["extra_state"]["best"] == before["extra_state"]["best"]
    losses = [m[3] for m in after["extra_state"]["metrics"]["valid"] if m[1] == "loss"]
    assert losses == [m[3] for m in before["extra_state"]["metrics"]["valid"] if m[1] == "loss"]
    assert strip_validation(after)[1] == []
    load_classifier(output)
    assert "exists already" in run_module("strip", path, output, exit_code=1).err


def uncompressed(path) -> bytes:
    """Return the file with the UTF-8 that numpy arrays become in a protocol-2 pickle turned back into bytes."""
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        text = archive.read(name)
    return b"".join(
        argument.encode("latin-1", "replace") if isinstance(argument, str) else argument
        for _, argument, _ in pickletools.genops(text)
        if isinstance(argument, (str, bytes))
    )


@pytest.fixture
def run_module(capsys):
    """Return a function that runs the command line: it asserts the exit code and returns (stdout, stderr)."""

    def run_here(*arguments, exit_code=0):
        assert execute(get_parser(), run, [str(argument) for argument in arguments]) == exit_code
        return capsys.readouterr()

    return run_here


def test_showing_a_file_says_whether_it_carries_validation_data(test_data, run_module):
    shown = run_module("show", test_data / "checkpoints" / "tiny1_finetuned.pt").out
    assert "model.encoder_embed_dim: 64" in shown and "validation labels and scores: 2 arrays" in shown


def test_a_refused_file_is_one_line_and_exit_code_1(tmp_path):
    path = saved(tmp_path / "evil.pt", {"model": Runs(os.mkdir, str(tmp_path / "it_ran"))})
    command = [sys.executable, "-m", "ecg_finetune.checkpoint", "show", str(path)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert process.stderr.startswith("error: ") and process.stderr.count("\n") == 1 and "mkdir" in process.stderr
    assert not (tmp_path / "it_ran").exists()


def test_saving_leaves_no_temporary_file(tmp_path):
    save_checkpoint(tmp_path / "a" / "b.pt", {"model": {"w": torch.ones(2)}})
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.pt"]


def test_a_flipped_bit_in_the_weights_is_refused(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"model": {"w": torch.full((1000,), 1.5)}}, path)
    content = bytearray(path.read_bytes())
    content[content.index(np.float32(1.5).tobytes() * 100) + 7] ^= 1
    path.write_bytes(content)
    assert not torch.equal(torch.load(path)["model"]["w"], torch.full((1000,), 1.5))  # PyTorch does not notice
    with pytest.raises(UserError, match=r"x\.pt: not a readable checkpoint, .*Bad CRC-32 for file 'x/data/0'"):
        load_checkpoint(path)

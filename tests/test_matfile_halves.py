"""MATLAB-5 files that are cut without compressing them again, against scipy."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from test_matfile import NAMES, NUMBERS, assert_same, by_scipy, twelve_times

from ecg_finetune.files import UserError
from ecg_finetune.matfile import decode_mat, encode_mat, read_mat
from ecg_finetune.matfile_halves import encode_packed, pack_columns, take_columns


@settings(max_examples=100, deadline=None)
@given(
    name=NAMES,
    kind=NUMBERS,
    rows=st.integers(1, 20),
    columns=st.integers(0, 30),
    parts=st.integers(1, 3),
    order=st.sampled_from("CF"),
    numbers=st.dictionaries(st.sampled_from(["x y", "Idx"]), st.integers(-(2**63), 2**63 - 1) | st.floats(-1, 1)),
)
def test_scipy_reads_packed_columns_as_it_reads_the_array(name, kind, rows, columns, parts, order, numbers):
    array = np.random.default_rng(rows).integers(0, 100, (rows, columns * parts)).astype(kind)
    array = np.asarray(array, order=order)
    content = encode_packed(name, pack_columns(array, parts), numbers)
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {name: array, **numbers})
    expected = by_scipy(buffer.getvalue())
    assert_same(by_scipy(content), expected)
    assert_same(decode_mat(content), expected)
    if parts > 1:
        taken = take_columns(content, name, array.shape, kind)
        assert len(taken) == parts
        for part, share in enumerate(taken):
            found = decode_mat(encode_packed(name, [share], {}))[name]
            np.testing.assert_array_equal(found, array[:, part * columns : (part + 1) * columns])


def in_halves(seed: int) -> tuple[np.ndarray, bytes]:
    feats = twelve_times(seed)
    return feats, encode_packed("feats", pack_columns(feats, 2), {"idx": 5})


def test_columns_are_taken_out_without_compressing_again():
    feats, content = in_halves(2)
    halves = take_columns(content, "feats", (12, 5000), "f4")
    for half, expected in zip(halves, (feats[:, :2500], feats[:, 2500:]), strict=True):
        again = encode_packed("feats", [half], {"idx": 6})
        assert again == encode_packed("feats", pack_columns(expected, 1), {"idx": 6})
        assert_same(by_scipy(again), {"feats": expected, "idx": np.array([[6]])})


def test_columns_are_not_taken_from_other_files():
    feats, content = in_halves(3)
    shape = (12, 5000)
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"feats": feats}, do_compression=True)
    assert take_columns(buffer.getvalue(), "feats", shape, "f4") is None
    assert take_columns(encode_mat({"feats": feats}), "feats", shape, "f4") is None
    assert take_columns(encode_packed("feats", pack_columns(feats, 1), {}), "feats", shape, "f4") is None
    assert take_columns(content, "other", shape, "f4") is None
    assert take_columns(content, "feats", (12, 2500), "f4") is None
    assert take_columns(content, "feats", shape, "i4") is None
    assert take_columns(b"", "feats", shape, "f4") is None


@settings(max_examples=100, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_damage_is_noticed(tmp_path_factory, place, bit, cut):
    feats, content = in_halves(4)
    assert take_columns(content, "feats", (12, 5000), "f4") is not None
    content = bytearray(content)
    position = int(place * len(content))
    if cut:
        del content[position:]
    else:
        content[position] ^= 1 << bit
    halves = take_columns(bytes(content), "feats", (12, 5000), "f4")
    assert halves is None
    path = tmp_path_factory.mktemp("damaged") / "a.mat"
    path.write_bytes(content)
    try:
        found = read_mat(path)
    except UserError as error:
        assert str(path) in str(error)
    else:  # in the text of the header, in a name, in the one number that is not compressed, or whole variables gone
        assert "feats" not in found or np.array_equal(found["feats"], feats)


def recorded_lead(seed: int) -> np.ndarray:
    """Return 5 s of beats with noise in steps of 5 microvolts, standardised, as columns of 12 channels."""
    time, rng = np.arange(2500) / 500, np.random.default_rng(seed)
    lead = rng.normal(0, 0.01, 2500)
    for beat in np.arange(rng.uniform(0, 0.5), 5, rng.uniform(0.4, 1.2)):
        lead += np.exp(-(((time - beat) / 0.01) ** 2)) + 0.3 * np.exp(-(((time - beat - 0.2) / 0.05) ** 2))
    lead = np.round(lead * 200) / 200
    return np.repeat(((lead - lead.mean()) / lead.std()).astype("f4"), 12).reshape(-1, 12).T


def test_every_process_writes_the_same_bytes():
    """With igzip's level 1 or 2, one or two of the 2,500 files differ in every third process, even with equal input."""
    program = (
        "import hashlib; from test_matfile_halves import encode_packed, pack_columns, recorded_lead\n"
        "files = [encode_packed('feats', pack_columns(recorded_lead(seed), 1), {}) for seed in range(2500)]\n"
        "print(hashlib.sha256(b''.join(files)).hexdigest())"
    )
    command = [sys.executable, "-c", program]
    digests = {
        subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout
        for _ in range(4)
    }
    assert len(digests) == 1

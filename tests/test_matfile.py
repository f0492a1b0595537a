"""The MATLAB-5 writer and reader, against scipy's."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ecg_finetune.files import UserError
from ecg_finetune.matfile import decode_mat, encode_mat, pack_columns, read_mat, take_columns, write_mat

SHAPES = arrays.array_shapes(min_dims=1, max_dims=3, max_side=20) | st.just((12, 100)) | st.just((3, 0))
NUMBERS = st.sampled_from(["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
ARRAYS = st.builds(
    lambda dtype, shape, order: np.asarray(
        np.random.default_rng(sum(shape)).integers(0, 100, shape).astype(dtype), order=order
    ),
    NUMBERS,
    SHAPES,
    st.sampled_from("CF"),
)
NAMES = st.from_regex(r"[a-z][a-z_0-9]{0,20}", fullmatch=True)
VALUES = ARRAYS | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)


def by_scipy(content: bytes) -> dict:
    return {name: value for name, value in scipy.io.loadmat(io.BytesIO(content)).items() if not name.startswith("__")}


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape
        assert np.array_equal(found[name], value)


@settings(max_examples=150, deadline=None)
@given(variables=st.dictionaries(NAMES, VALUES, max_size=4), parts=st.integers(1, 3))
def test_scipy_reads_what_is_written_as_if_it_had_written_it_itself(variables, parts):
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables)
    expected = by_scipy(buffer.getvalue())
    packed = {
        name: pack_columns(value, parts)
        for name, value in variables.items()
        if isinstance(value, np.ndarray) and value.ndim > 1 and value.shape[-1] % parts == 0
    }
    for some in (variables, variables | packed):
        content = encode_mat(some)
        assert_same(by_scipy(content), expected)
        assert_same(decode_mat(content), expected)


@pytest.mark.parametrize("compressed", [True, False])
def test_files_of_scipy_are_read(tmp_path, compressed):
    variables = {"feats": np.arange(24000, dtype=np.float32).reshape(12, 2000), "idx": 7, "text": "abc", "flag": True}
    path = tmp_path / "a.mat"
    for some in (variables, {"feats": variables["feats"], "idx": 7}):
        scipy.io.savemat(path, some, do_compression=compressed)
        expected = by_scipy(path.read_bytes())
        assert_same(read_mat(path), {name: value for name, value in expected.items() if value.dtype.kind in "iuf"})


def test_numbers_stored_in_a_smaller_type_are_read(tmp_path):
    """MATLAB itself saves whole numbers of a double array as bytes."""
    content = bytearray(encode_mat({"a": np.array([[3.0]])}))
    content[-16:] = b"\x02\x00\x01\x00\x07\x00\x00\x00"  # one uint8, within its tag
    content[132:136] = (int.from_bytes(content[132:136], "little") - 8).to_bytes(4, "little")
    (tmp_path / "a.mat").write_bytes(content)
    assert_same(read_mat(tmp_path / "a.mat"), by_scipy(bytes(content)))
    assert read_mat(tmp_path / "a.mat")["a"].tolist() == [[7]]


@pytest.mark.parametrize("shape", [(-1, 1), (2, 1), (1, 2**31 - 1)])
def test_a_wrong_shape_is_refused(tmp_path, shape):
    content = encode_mat({"a": np.array([[3.0]])})
    (tmp_path / "a.mat").write_bytes(
        content.replace(np.array([1, 1], "<i4").tobytes(), np.array(shape, "<i4").tobytes())
    )
    with pytest.raises(UserError, match=r"a\.mat: not a readable MATLAB-5 file"):
        read_mat(tmp_path / "a.mat")


def twelve_times(seed: int, samples: int = 5000) -> np.ndarray:
    lead = np.random.default_rng(seed).integers(-50, 50, samples).astype(np.float32) / 7
    return np.repeat(lead, 12).reshape(samples, 12).T


def test_a_file_is_a_tenth_and_the_same_each_time(tmp_path):
    write_mat(tmp_path / "a.mat", {"feats": twelve_times(1), "idx": 5})
    content = (tmp_path / "a.mat").read_bytes()
    assert content == encode_mat({"feats": twelve_times(1), "idx": 5})
    assert len(content) < 24_000
    assert not list(tmp_path.glob(".tmp*"))


def in_halves(seed: int) -> tuple[np.ndarray, bytes]:
    feats = twelve_times(seed)
    return feats, encode_mat({"feats": pack_columns(feats, 2), "idx": 5})


def test_columns_are_taken_out_without_compressing_again():
    feats, content = in_halves(2)
    halves = take_columns(content, "feats", (12, 5000), "f4")
    for half, expected in zip(halves, (feats[:, :2500], feats[:, 2500:]), strict=True):
        again = encode_mat({"feats": [half], "idx": 6})
        assert again == encode_mat({"feats": expected, "idx": 6})
        assert_same(by_scipy(again), {"feats": expected, "idx": np.array([[6]])})


def test_columns_are_not_taken_from_other_files():
    feats, content = in_halves(3)
    shape = (12, 5000)
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"feats": feats}, do_compression=True)
    assert take_columns(buffer.getvalue(), "feats", shape, "f4") is None
    assert take_columns(encode_mat({"feats": feats}), "feats", shape, "f4") is None
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


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_mat(tmp_path / "a.mat")


@pytest.mark.parametrize("value", [np.array([1 + 1j]), "text", np.array([True])])
def test_other_types_are_refused(value):
    with pytest.raises(TypeError, match="feats"):
        encode_mat({"feats": value})


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
        "import hashlib; from test_matfile import encode_mat, recorded_lead\n"
        "files = [encode_mat({'feats': recorded_lead(seed)}) for seed in range(2500)]\n"
        "print(hashlib.sha256(b''.join(files)).hexdigest())"
    )
    command = [sys.executable, "-c", program]
    digests = {
        subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout
        for _ in range(4)
    }
    assert len(digests) == 1


def test_equal_numbers_of_different_types_keep_their_types():
    for value, dtype in ((500, "<i8"), (500.0, "<f8"), (500, "<i8")):
        assert by_scipy(encode_mat({"rate": value}))["rate"].dtype == dtype

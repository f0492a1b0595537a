"""The MATLAB-5 writer and reader, against scipy's."""

import io
import os

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ecg_finetune.files import UserError
from ecg_finetune.matfile import decode_mat, encode_mat, read_mat, write_mat

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
@given(variables=st.dictionaries(NAMES, VALUES, max_size=4))
def test_scipy_reads_what_is_written_as_if_it_had_written_it_itself(variables):
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables)
    expected, content = by_scipy(buffer.getvalue()), encode_mat(variables)
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


def test_what_is_no_file_is_told(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_mat(tmp_path / "a.mat")
    os.mkfifo(tmp_path / "b.mat")
    (tmp_path / "c.mat").symlink_to("/dev/zero")
    for name in ("b.mat", "c.mat"):
        with pytest.raises(UserError, match=rf"{name}: not a regular file"):
            read_mat(tmp_path / name)


@pytest.mark.parametrize("value", [np.array([1 + 1j]), "text", np.array([True])])
def test_other_types_are_refused(value):
    with pytest.raises(TypeError, match="feats"):
        encode_mat({"feats": value})


def test_equal_numbers_of_different_types_keep_their_types():
    for value, dtype in ((500, "<i8"), (500.0, "<f8"), (500, "<i8")):
        assert by_scipy(encode_mat({"rate": value}))["rate"].dtype == dtype

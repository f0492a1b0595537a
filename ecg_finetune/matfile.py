"""MATLAB-5 files, as `scipy.io.loadmat` (and so fairseq-signals) reads them.

Written by hand because the pipeline lives on it: 2.4 million small files, whose 12 identical channels a fast deflate
shrinks to a twentieth. Layout: a 128-byte header, then one element per variable; arrays of 1 kB and more are
compressed elements, single numbers are not (they would only grow).
"""

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from isal import isal_zlib

from ecg_finetune.command_line import UserError, replacing

# No date in the text: the same variables give the same bytes.
FILE_HEADER = b"MATLAB 5.0 MAT-file, written by ecg-finetune".ljust(116) + bytes(8) + b"\x00\x01IM"
COMPRESS_FROM = 1024  # bytes
# Of igzip's levels, 1 is as small as 2 and hardly slower than 0; zlib's level 1 takes eight times as long.
LEVEL = 1

# dtype -> (class of the array, type of its data) in the MAT-file's numbering.
NUMBERS = {
    "f8": (6, 9),
    "f4": (7, 7),
    "i1": (8, 1),
    "u1": (9, 2),
    "i2": (10, 3),
    "u2": (11, 4),
    "i4": (12, 5),
    "u4": (13, 6),
    "i8": (14, 12),
    "u8": (15, 13),
}
DTYPES = {numbers: np.dtype(f"<{name}") for name, numbers in NUMBERS.items()}
INT8, INT32, UINT32, MATRIX, COMPRESSED = 1, 5, 6, 14, 15


def write_mat(path: Path, variables: Mapping[str, np.ndarray | int | float]) -> None:
    """Write the variables as one compressed MATLAB-5 file, under a temporary name first (see `encode_mat`)."""
    with replacing(path) as temporary:
        temporary.write_bytes(encode_mat(variables))


def encode_mat(variables: Mapping[str, np.ndarray | int | float]) -> bytes:
    """Return the content of a MATLAB-5 file with the variables.

    Arrays of one to many dimensions keep shape and dtype (one dimension becomes a row, as `savemat` does); a number
    becomes (1, 1), int64 or float64. Fortran-ordered arrays are the fast case.

    Raises
    ------
    TypeError
        A value is not made of real numbers.
    """
    return b"".join([FILE_HEADER, *(_element(name, value) for name, value in variables.items())])


def _element(name: str, value: np.ndarray | int | float) -> bytes:
    array = np.asarray(value)
    if array.ndim < 2:
        array = array.reshape(1, -1)
    try:
        array_class, data_type = NUMBERS[array.dtype.str[1:]]
    except KeyError:
        raise TypeError(f"{name}: cannot write dtype {array.dtype} to a MATLAB file") from None
    # MATLAB stores the first dimension fastest; `array.T` is then a plain buffer, without a copy if already so.
    data = np.ascontiguousarray(array.T, dtype=array.dtype.newbyteorder("<"))
    shape = struct.pack(f"<{array.ndim}i", *array.shape)
    flags = struct.pack("<4I", UINT32, 8, array_class, 0)
    head = flags + _tagged(INT32, shape) + _tagged(INT8, name.encode("ascii"))
    padding = bytes(-data.nbytes % 8)
    tags = struct.pack("<2I", MATRIX, len(head) + 8 + data.nbytes + len(padding)) + head
    content = b"".join([tags, struct.pack("<2I", data_type, data.nbytes), data.data if data.size else b"", padding])
    if data.nbytes < COMPRESS_FROM:
        return content
    packed = isal_zlib.compress(content, LEVEL)
    return struct.pack("<2I", COMPRESSED, len(packed)) + packed


def _tagged(kind: int, data: bytes) -> bytes:
    return struct.pack("<2I", kind, len(data)) + data + bytes(-len(data) % 8)


def read_mat(path: Path) -> dict[str, np.ndarray]:
    """Read all variables of a MATLAB-5 file: arrays of at least two dimensions, as stored.

    Plain arrays of real numbers, which is all this pipeline writes, are decoded here; any other file by scipy.

    Raises
    ------
    UserError
        The file is missing or no MATLAB-5 file.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - called for every segment of every epoch; Path.open is slower
            content = file.read()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the stage that makes it again") from None
    try:
        return decode_mat(content)
    except _NotPlainError:
        return _read_with_scipy(path)
    except (struct.error, ValueError, isal_zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable MATLAB-5 file ({error}); delete it and run its stage again") from None


class _NotPlainError(Exception):
    """The file has something other than full arrays of real numbers in little-endian order."""


def decode_mat(content: bytes) -> dict[str, np.ndarray]:
    """Return the variables of a MATLAB-5 file made of plain arrays of real numbers (Fortran order)."""
    if content[124:128] != b"\x00\x01IM":
        raise _NotPlainError
    variables, position = {}, 128
    while position < len(content):
        kind, size = struct.unpack_from("<2I", content, position)
        position += 8
        if kind == COMPRESSED:
            element = isal_zlib.decompress(memoryview(content)[position : position + size])
        elif kind == MATRIX:
            element = content[position - 8 : position + size]
        else:
            raise _NotPlainError
        position += size
        name, array = _decode_matrix(element)
        variables[name] = array
    return variables


def _decode_matrix(element: bytes) -> tuple[str, np.ndarray]:
    kind, size = struct.unpack_from("<2I", element, 0)
    flags_kind, flags_size, flags, _ = struct.unpack_from("<4I", element, 8)
    if kind != MATRIX or (flags_kind, flags_size) != (UINT32, 8) or flags >> 8:
        raise _NotPlainError  # complex, global or logical
    if len(element) < 8 + size:
        raise ValueError("it ends within a variable")
    shape_kind, shape, position = _subelement(element, 24)
    name_kind, name, position = _subelement(element, position)
    data_kind, data, _ = _subelement(element, position)
    dtype = DTYPES.get((flags & 0xFF, data_kind))
    if (shape_kind, name_kind) != (INT32, INT8) or dtype is None:
        raise _NotPlainError  # a cell, a text, or numbers stored in a smaller type than their own
    shape = struct.unpack(f"<{len(shape) // 4}i", shape)
    return name.tobytes().decode("ascii"), np.frombuffer(data, dtype).copy().reshape(shape, order="F")


def _subelement(element: bytes, position: int) -> tuple[int, memoryview, int]:
    """Return kind and data of the part at `position`, and where the next one starts."""
    kind, size = struct.unpack_from("<2I", element, position)
    if kind >> 16:  # up to four bytes stand within the tag itself
        kind, size, start, after = kind & 0xFFFF, kind >> 16, position + 4, position + 8
    else:
        start = position + 8
        after = start + size + (-size % 8)
    data = memoryview(element)[start : start + size]
    if len(data) != size:
        raise ValueError("it ends within a variable")
    return kind, data, after


def _read_with_scipy(path: Path) -> dict[str, np.ndarray]:
    import scipy.io  # takes longer to import than 1,000 files take to read

    try:
        content = scipy.io.loadmat(path)
    except Exception as error:  # scipy raises anything from TypeError to zlib.error on a damaged file
        raise UserError(f"{path}: not a readable MATLAB-5 file ({error}); delete it and run its stage again") from None
    return {name: value for name, value in content.items() if not name.startswith("__")}

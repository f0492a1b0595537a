"""MATLAB-5 files, as `scipy.io.loadmat` (and so fairseq-signals) reads them.

Written by hand because the pipeline lives on it: 2.4 million small files, whose 12 identical channels a fast deflate
shrinks to less than a tenth. Layout: a 128-byte header, then one element per variable; arrays of 1 kB and more are
compressed elements, single numbers are not (they would only grow). how the build stage cuts a 10-second record without
compressing it again is told in `matfile_halves`; nothing here depends on it.
"""

import functools
import math
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from isal import isal_zlib

from ecg_finetune.files import UserError, replacing
from ecg_finetune.operating_system import read_regular

# No date in the text: the same variables give the same bytes.
HEADER_TEXT = b"MATLAB 5.0 MAT-file, written by ecg-finetune"
HEADER_END = bytes(8) + b"\x00\x01IM"  # no subsystem, version, byte order
COMPRESS_FROM = 1024  # bytes
MOST_BYTES = 1 << 30  # of a file that is read: ours have some 20 kB
# igzip's level 0 is the fastest and, unlike 1 and 2, gives the same bytes in every process: with those, one file in a
# few thousand comes out a little differently from time to time. Zlib's level 1 takes five times as long.
LEVEL = 0

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
CLASSES = {number for number, _ in NUMBERS.values()}
DATA_TYPES = {number: np.dtype(f"<{name}") for name, (_, number) in NUMBERS.items()}
OTHER_CLASSES = {1, 2, 3, 4, 5}  # cell, structure, object, text, sparse
LOGICAL_OR_GLOBAL, COMPLEX = 0x0600, 0x0800  # flags
INT8, INT32, UINT32, MATRIX, COMPRESSED = 1, 5, 6, 14, 15


def write_mat(path: Path, variables: Mapping[str, np.ndarray | int | float]) -> None:
    """Write the variables as one compressed MATLAB-5 file, under a temporary name first (see `encode_mat`)."""
    with replacing(path) as temporary:
        temporary.write_bytes(encode_mat(variables))


def encode_mat(variables: Mapping[str, np.ndarray | int | float]) -> bytes:
    """Return the content of a MATLAB-5 file with the variables.

    Arrays of one to many dimensions keep shape and dtype (one dimension becomes a row, as `savemat` does); a number
    becomes (1, 1), int64 or float64.

    Raises
    ------
    TypeError
        A value is not made of real numbers.
    """
    return file_header() + b"".join([_element(name, value) for name, value in variables.items()])


def file_header(text: bytes = HEADER_TEXT) -> bytes:
    """Return the file's first 128 bytes, which begin with at most 116 of text."""
    if len(text) > 116:
        raise ValueError(f"a text of {len(text)} bytes is too long for the header of a MATLAB file")
    return text.ljust(116) + HEADER_END


def _element(name: str, value: np.ndarray | int | float) -> bytes:
    """Return the element of a variable."""
    if isinstance(value, (int, float)):
        return encode_number(name, value)
    array = np.asarray(value)
    if array.ndim < 2:
        array = array.reshape(1, -1)
    data = array.astype(array.dtype.newbyteorder("<")).tobytes(order="F")
    element = array_head(name, array.shape, array.dtype.str[1:]) + data + bytes(-len(data) % 8)
    if len(data) < COMPRESS_FROM:
        return element
    packed = isal_zlib.compress(element, LEVEL)
    return struct.pack("<2I", COMPRESSED, len(packed)) + packed


@functools.lru_cache(maxsize=64, typed=True)  # the rates and sizes are the same in file after file; 0 is not 0.0
def encode_number(name: str, value: int | float) -> bytes:
    """Return the element of a number, as `encode_mat` writes it."""
    kind, code = ("i8", "<q") if isinstance(value, int) else ("f8", "<d")
    return array_head(name, (1, 1), kind) + struct.pack(code, value)


@functools.lru_cache(maxsize=64)
def array_head(name: str, shape: tuple[int, ...], kind: str) -> bytes:
    """Return everything of an uncompressed element that stands before its data; `kind` as in `NUMBERS`."""
    try:
        array_class, data_type = NUMBERS[kind]
    except KeyError:
        raise TypeError(f"{name}: cannot write numbers of type {kind!r} to a MATLAB file") from None
    size = math.prod(shape) * int(kind[1:])
    head = (
        struct.pack("<4I", UINT32, 8, array_class, 0)
        + _tagged(INT32, struct.pack(f"<{len(shape)}i", *shape))
        + _tagged(INT8, name.encode("ascii"))
        + struct.pack("<2I", data_type, size)
    )
    return struct.pack("<2I", MATRIX, len(head) + size + (-size % 8)) + head


def _tagged(kind: int, data: bytes) -> bytes:
    return struct.pack("<2I", kind, len(data)) + data + bytes(-len(data) % 8)


def read_mat(path: Path) -> dict[str, np.ndarray]:
    """Read the numbers of a MATLAB-5 file: arrays of at least two dimensions, as stored; see `decode_mat`.

    Raises
    ------
    UserError
        The file is missing, damaged or no MATLAB-5 file.
    """
    try:
        return decode_mat(read_bytes(path))
    except (struct.error, ValueError, isal_zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable MATLAB-5 file ({error}); delete it and run its stage again") from None


def read_bytes(path: Path | str) -> bytes:
    """Read a file that an earlier stage has written.

    Raises
    ------
    UserError
        It is missing, cannot be read, or is no regular file.
    """
    try:
        return read_regular(path, MOST_BYTES)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the stage that makes it again") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; check the file and the disk") from None


def decode_mat(content: bytes, most: int = MOST_BYTES) -> dict[str, np.ndarray]:
    """Return the variables of a MATLAB-5 file that are full arrays of real numbers, in Fortran order.

    They may have `most` bytes in all: a damaged or hostile file can unpack to any size. Texts, cells, structures,
    sparse and complex arrays are skipped. (Not left to scipy, which a damaged file can bring to a crash that no
    program survives.)

    Raises
    ------
    ValueError, struct.error, isal.isal_zlib.error
        The file is damaged, or not of this format and byte order.
    """
    if content[124:128] != HEADER_END[8:]:
        raise ValueError("its header is not that of a little-endian MATLAB-5 file")
    variables, position = {}, 128
    while position < len(content):
        kind, size = struct.unpack_from("<2I", content, position)
        position += 8
        if position + size > len(content):
            raise ValueError("it ends within a variable")
        if kind == COMPRESSED:
            stream = isal_zlib.decompressobj()
            element = stream.decompress(memoryview(content)[position : position + size], most + 1)
            most -= len(element)
            if most < 0:
                raise ValueError("its variables unpack to more than any record here")
            if not stream.eof or stream.unused_data:
                raise ValueError("a variable is shorter or longer than its compressed data")
        elif kind == MATRIX:
            element = content[position - 8 : position + size]
        else:
            raise ValueError(f"an element of kind {kind}")
        position += size
        variables |= _decode_matrix(element)
    return variables


def _decode_matrix(element: bytes) -> dict[str, np.ndarray]:
    """Return {name: array}; nothing for a variable that is no full array of real numbers."""
    kind, size = struct.unpack_from("<2I", element, 0)
    flags_kind, flags_size, flags, _ = struct.unpack_from("<4I", element, 8)
    if kind != MATRIX or (flags_kind, flags_size) != (UINT32, 8) or flags & ~(0xFF | LOGICAL_OR_GLOBAL | COMPLEX):
        raise ValueError("it holds something other than variables")
    if len(element) != 8 + size:
        raise ValueError("it ends within a variable, or after it")
    shape_kind, shape, position = _subelement(element, 24)
    name_kind, name, position = _subelement(element, position)
    if shape_kind == INT32 and name_kind == INT8 and (flags & COMPLEX or flags & 0xFF in OTHER_CLASSES):
        return {}
    data_kind, data, end = _subelement(element, position)
    if end < len(element):
        raise ValueError("more data than its array has")
    # MATLAB itself stores numbers in a smaller type than the array's where they fit; as with scipy they keep that type.
    dtype = DATA_TYPES.get(data_kind)
    if (shape_kind, name_kind) != (INT32, INT8) or flags & 0xFF not in CLASSES or dtype is None:
        raise ValueError("an array of unknown type")
    shape = struct.unpack(f"<{len(shape) // 4}i", shape)
    if len(shape) < 2 or min(shape) < 0:
        raise ValueError(f"an array of shape {shape}")
    return {name.tobytes().decode("ascii"): np.frombuffer(data, dtype).copy().reshape(shape, order="F")}


def _subelement(element: bytes, position: int) -> tuple[int, memoryview, int]:
    """Return kind and data of the part at `position`, and where the next one starts."""
    kind, size = struct.unpack_from("<2I", element, position)
    if kind >> 16:  # up to four bytes stand within the tag itself
        kind, size, start, after = kind & 0xFFFF, kind >> 16, position + 4, position + 8
        if size > 4:
            raise ValueError("an element of four bytes that are more")
    else:
        start = position + 8
        after = start + size + (-size % 8)
    data = memoryview(element)[start : start + size]
    if len(data) != size:
        raise ValueError("it ends within a variable")
    return kind, data, after

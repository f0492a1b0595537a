"""MATLAB-5 files, as `scipy.io.loadmat` (and so fairseq-signals) reads them.

Written by hand because the pipeline lives on it: 2.4 million small files, whose 12 identical channels a fast deflate
shrinks to less than a tenth. Layout: a 128-byte header, then one element per variable; arrays of 1 kB and more are
compressed elements, single numbers are not (they would only grow).
"""

import functools
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from isal import isal_zlib

from ecg_finetune.command_line import UserError, replacing

# No date in the text: the same variables give the same bytes.
FILE_HEADER = b"MATLAB 5.0 MAT-file, written by ecg-finetune".ljust(116) + bytes(8) + b"\x00\x01IM"
COMPRESS_FROM = 1024  # bytes
# igzip's level 0 is the fastest and, unlike 1 and 2, always gives the same bytes: those read memory that nobody has
# written, and one file in a few thousand comes out a little differently. Zlib's level 1 takes five times as long.
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
DTYPES = {numbers: np.dtype(f"<{name}") for name, numbers in NUMBERS.items()}
# The pieces a zlib stream is put together from (RFC 1950, 1951).
ZLIB_HEADER, FLUSHED, LAST_BLOCK = b"\x78\x01", b"\x00\x00\xff\xff", b"\x03\x00"
INT8, INT32, UINT32, MATRIX, COMPRESSED = 1, 5, 6, 14, 15


def write_mat(path: Path, variables: Mapping[str, np.ndarray | int | float]) -> None:
    """Write the variables as one compressed MATLAB-5 file, under a temporary name first (see `encode_mat`)."""
    with replacing(path) as temporary:
        temporary.write_bytes(encode_mat(variables))


def encode_mat(variables: Mapping[str, "np.ndarray | int | float | PackedColumns"], parts: int = 1) -> bytes:
    """Return the content of a MATLAB-5 file with the variables.

    Arrays of one to many dimensions keep shape and dtype (one dimension becomes a row, as `savemat` does); a number
    becomes (1, 1), int64 or float64. Fortran-ordered arrays are the fast case.

    Parameters
    ----------
    variables : mapping
        Name to value.
    parts : int
        Compress large arrays in so many equal shares of their columns, each on its own, for `packed_columns`.

    Raises
    ------
    TypeError
        A value is not made of real numbers.
    """
    return b"".join([FILE_HEADER, *(_element(name, value, parts) for name, value in variables.items())])


@dataclass(frozen=True)
class PackedColumns:
    """Consecutive columns of an array, ready to be written as an array of their own without compressing them again.

    `blocks` are deflate blocks that refer to nothing before them, `data` the bytes they stand for.
    """

    shape: tuple[int, int]
    kind: str
    blocks: bytes
    data: bytes | memoryview


def packed_columns(
    content: bytes, name: str, shape: tuple[int, int], kind: str, parts: int
) -> list[PackedColumns] | None:
    """Take the shares of columns out of a file that `encode_mat` wrote with `parts`.

    Parameters
    ----------
    content : bytes
        The file.
    name, shape, kind
        Its first variable, the array's shape and its dtype as in `NUMBERS`.
    parts : int
        As given to `encode_mat`.

    Returns
    -------
    list of PackedColumns or None
        None where the file was not written in this way, or is damaged: `decode_mat` then reads it, or says so.
    """
    start = 128 + 8
    kind_of_element, size = struct.unpack_from("<2I", content, 128) if len(content) >= start else (0, 0)
    stream, head = content[start : start + size], _head(name, shape, kind)
    opening = ZLIB_HEADER + _stored(head)
    if kind_of_element != COMPRESSED or len(stream) != size or not stream.startswith(opening):
        return None
    *shares, rest = stream[len(opening) : -4].split(FLUSHED)
    if len(shares) != parts or rest != LAST_BLOCK or shape[1] % parts:
        return None
    columns = (shape[0], shape[1] // parts)
    size_of_share = math.prod(columns) * int(kind[1:])
    try:
        all_blocks = [share + FLUSHED for share in shares]
        all_data = [
            isal_zlib.decompress(blocks + LAST_BLOCK, wbits=-15, bufsize=size_of_share) for blocks in all_blocks
        ]
    except isal_zlib.error:
        return None
    if {len(data) for data in all_data} != {size_of_share} or _checksum(head, *all_data) != stream[-4:]:
        return None
    return [PackedColumns(columns, kind, blocks, data) for blocks, data in zip(all_blocks, all_data, strict=True)]


def _element(name: str, value: "np.ndarray | int | float | PackedColumns", parts: int) -> bytes:
    if isinstance(value, PackedColumns):
        return _compressed(_head(name, value.shape, value.kind), [(value.blocks, value.data)])
    if isinstance(value, (int, float)):
        return encode_number(name, value)
    array = np.asarray(value)
    if array.ndim < 2:
        array = array.reshape(1, -1)
    # MATLAB stores the first dimension fastest; `array.T` is then a plain buffer, without a copy if already so.
    turned = np.ascontiguousarray(array.T, dtype=array.dtype.newbyteorder("<"))
    head, padding = _head(name, array.shape, array.dtype.str[1:]), bytes(-turned.nbytes % 8)
    if turned.nbytes < COMPRESS_FROM:
        return head + turned.tobytes() + padding
    shares = [memoryview(share).cast("B") for share in np.array_split(turned, parts) if share.size]
    if padding:
        shares.append(padding)
    return _compressed(head, [(_deflated(share), share) for share in shares])


def _compressed(head: bytes, shares: "list[tuple[bytes, bytes | memoryview]]") -> bytes:
    """Return a compressed element: `head` stored as it is, then the (blocks, data) of the shares."""
    checksum = _checksum(head, *(data for _, data in shares))
    stream = b"".join([ZLIB_HEADER, _stored(head), *(blocks for blocks, _ in shares), LAST_BLOCK, checksum])
    return struct.pack("<2I", COMPRESSED, len(stream)) + stream


def _deflated(data: bytes | memoryview) -> bytes:
    """Return deflate blocks that refer to nothing outside `data`, up to the next byte boundary."""
    packer = isal_zlib.compressobj(LEVEL, wbits=-15)
    return packer.compress(data) + packer.flush(isal_zlib.Z_FULL_FLUSH)


def _stored(data: bytes) -> bytes:
    """Return a deflate block that holds at most 64 kB as they are."""
    return struct.pack("<B2H", 0, len(data), len(data) ^ 0xFFFF) + data


def _checksum(*pieces: bytes | memoryview) -> bytes:
    value = 1
    for piece in pieces:
        value = isal_zlib.adler32(piece, value)
    return struct.pack(">I", value)


@functools.lru_cache(maxsize=64, typed=True)  # the rates and sizes are the same in file after file; 0 is not 0.0
def encode_number(name: str, value: int | float) -> bytes:
    """Return the element of a number, as `encode_mat` writes it."""
    kind, code = ("i8", "<q") if isinstance(value, int) else ("f8", "<d")
    return _head(name, (1, 1), kind) + struct.pack(code, value)


@functools.lru_cache(maxsize=64)
def _head(name: str, shape: tuple[int, ...], kind: str) -> bytes:
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
    """Read all variables of a MATLAB-5 file: arrays of at least two dimensions, as stored.

    Plain arrays of real numbers, which is all this pipeline writes, are decoded here; any other file by scipy.

    Raises
    ------
    UserError
        The file is missing or no MATLAB-5 file.
    """
    try:
        return decode_mat(read_bytes(path))
    except _NotPlainError:
        return _read_with_scipy(path)
    except (struct.error, ValueError, isal_zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable MATLAB-5 file ({error}); delete it and run its stage again") from None


def read_bytes(path: Path | str) -> bytes:
    """Read a file that an earlier stage has written."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - called for every segment; Path.open is slower
            return file.readall()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the stage that makes it again") from None


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

"""MATLAB-5 files whose array can be cut without compressing it again.

Why: the build stage cuts each 10 s array of 12 x 5000 numbers in two and writes each half as a file. To compress them
again takes longer than all the rest of that stage.

How: a compressed element of a MATLAB file is one zlib stream (RFC 1950): two bytes, deflate blocks (RFC 1951), and the
Adler-32 of all that they stand for. MATLAB stores column after column, so half of the columns are half of the bytes.

* Writing, `pack_columns` deflates each half on its own: its blocks refer to nothing before them and end at a byte.
  `encode_packed` strings them together, behind a block that holds the head of the array (name, shape, kind) as it is.
  The Adler-32 of the whole follows from those of the pieces, so no byte is looked at twice.
* The file's header has room for a text. It says how many bytes the blocks of each half take, and their Adler-32; and,
  as the halves will not be decompressed, the CRC-32 of the whole file, which vouches for them.
* Cutting, `take_columns` reads that text, checks the CRC-32 and returns the blocks; `encode_packed` makes them files.

To everybody else these are ordinary files: `matfile.read_mat` and `scipy.io.loadmat` know nothing of the halves.
"""

import functools
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from isal import isal_zlib

from ecg_finetune.matfile import COMPRESSED, HEADER_END, HEADER_TEXT, LEVEL, array_head, encode_number, file_header

SHARES = re.compile(rb"(" + HEADER_TEXT + rb"; shares((?: \d+:[0-9a-f]{8})+)) crc ([0-9a-f]{8}) *")
ZLIB_HEADER, LAST_BLOCK = b"\x78\x01", b"\x03\x00"


@dataclass(frozen=True)
class PackedColumns:
    """Columns of an array, compressed on their own.

    `blocks` are deflate blocks that refer to nothing before them, `checksum` the Adler-32 of the bytes they stand for.
    """

    shape: tuple[int, ...]
    kind: str
    blocks: bytes | memoryview
    checksum: int

    @property
    def size(self) -> int:
        """How many bytes they stand for."""
        return math.prod(self.shape) * int(self.kind[1:])


def pack_columns(array: np.ndarray, parts: int) -> list[PackedColumns]:
    """Compress the columns (the last dimension) of an array in so many equal shares."""
    # MATLAB stores the first dimension fastest; `array.T` is then a plain buffer, without a copy if already so.
    turned = np.ascontiguousarray(array.T, dtype=array.dtype.newbyteorder("<"))
    columns, rest = divmod(len(turned), parts)
    if rest:
        raise ValueError(f"{len(turned)} columns cannot be shared equally by {parts}")
    shape, packed = (*array.shape[:-1], columns), []
    for part in range(parts):
        share = turned[part * columns : (part + 1) * columns]
        packed.append(PackedColumns(shape, array.dtype.str[1:], _deflated(share), isal_zlib.adler32(share)))
    return packed


def encode_packed(name: str, shares: list[PackedColumns], numbers: Mapping[str, int | float]) -> bytes:
    """Return the content of a MATLAB-5 file with the array that the shares make side by side, then the numbers.

    If there are several shares, `take_columns` can take them out of the file.
    """
    elements = b"".join([*_array(name, shares), *(encode_number(key, value) for key, value in numbers.items())])
    text = HEADER_TEXT
    if len(shares) > 1:
        text += b"; shares" + b"".join(b" %d:%08x" % (len(share.blocks), share.checksum) for share in shares)
        text += b" crc %08x" % isal_zlib.crc32(elements, isal_zlib.crc32(text))
    return file_header(text) + elements


def take_columns(content: bytes, name: str, shape: tuple[int, int], kind: str) -> list[PackedColumns] | None:
    """Take the shares out of a file that `encode_packed` wrote, without decompressing them.

    Parameters
    ----------
    content : bytes
        The file.
    name, shape, kind
        Its first variable, the array's shape and its dtype as in `matfile.NUMBERS`.

    Returns
    -------
    list of PackedColumns or None
        None where the file was not written in this way, or is damaged: `read_mat` then reads it, or says so.
    """
    text, elements = SHARES.fullmatch(content[:116]), memoryview(content)[128:]
    if text is None or content[116:128] != HEADER_END:
        return None
    if isal_zlib.crc32(elements, isal_zlib.crc32(text[1])) != int(text[3], 16):
        return None
    opening = _opening(name, shape, kind)[0]
    position = 8 + len(opening)
    if elements[8:position] != opening:
        return None
    entries = [entry.split(b":") for entry in text[2].split()]
    columns, shares = (*shape[:-1], shape[-1] // len(entries)), []
    for size, checksum in entries:
        blocks = elements[position : position + int(size)]
        shares.append(PackedColumns(columns, kind, blocks, int(checksum, 16)))
        position += len(blocks)
    return shares


def _array(name: str, shares: list[PackedColumns]) -> list[bytes]:
    """Return, in pieces, the compressed element of the array that the shares make side by side."""
    rows, columns = shares[0].shape[:-1], sum([share.shape[-1] for share in shares])
    opening, checksum = _opening(name, (*rows, columns), shares[0].kind)
    stream, total = [opening], 0
    for share in shares:
        size = share.size
        checksum = _adler32_of_both(checksum, share.checksum, size)
        stream.append(share.blocks)
        total += size
    padding = bytes(-total % 8)
    if padding:
        stream.append(_stored(padding))
        checksum = isal_zlib.adler32(padding, checksum)
    stream += [LAST_BLOCK, struct.pack(">I", checksum)]
    return [struct.pack("<2I", COMPRESSED, sum(map(len, stream))), *stream]


@functools.lru_cache(maxsize=64)
def _opening(name: str, shape: tuple[int, ...], kind: str) -> tuple[bytes, int]:
    """Return the beginning of a stream, up to the array's data, and the Adler-32 of what it stands for."""
    head = array_head(name, shape, kind)
    return ZLIB_HEADER + _stored(head), isal_zlib.adler32(head)


def _adler32_of_both(first: int, second: int, size: int) -> int:
    """Return the Adler-32 of two pieces after each other from those of each; `size` of the second, in bytes.

    It is two sums (RFC 1950): of the bytes, which starts at 1, and of all values that the first sum has on the way.
    """
    low = (first & 0xFFFF) - 1
    return (((first >> 16) + (second >> 16) + size * low) % 65521) << 16 | ((second & 0xFFFF) + low) % 65521


def _deflated(data: np.ndarray) -> bytes:
    """Return deflate blocks that refer to nothing outside `data`, up to the next byte boundary."""
    packer = isal_zlib.compressobj(LEVEL, wbits=-15)
    return packer.compress(data) + packer.flush(isal_zlib.Z_FULL_FLUSH)


def _stored(data: bytes) -> bytes:
    """Return a deflate block that holds at most 64 kB as they are."""
    return struct.pack("<B2H", 0, len(data), len(data) ^ 0xFFFF) + data

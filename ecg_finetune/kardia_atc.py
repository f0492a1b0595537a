"""The .atc files of AliveCor's Kardia devices, of AliveCor's published file format 1.6."""

import struct

import numpy as np

from ecg_finetune.waveform import RecordError, Recording

MAGIC = b"ALIVE\0\0\0"
HEADER_BYTES = 12  # with the version
BLOCK_HEAD = struct.Struct("<4sI")
CHECKSUM = struct.Struct("<I")
FORMAT = struct.Struct("<BHHBH")  # format, rate (Hz), resolution (nV), flags, reserved
LEAD_OF_BLOCK = {b"ecg ": "I", b"ecg2": "II", b"ecg3": "III", b"ecg4": "aVR", b"ecg5": "aVL", b"ecg6": "aVF"}


def read_atc(content: bytes) -> Recording:
    """Read the leads of an .atc file.

    Its `info` block (dates, numbers of phone and recorder) is not looked at.

    Raises
    ------
    RecordError
        bad_checksum, truncated or unreadable.
    """
    layout, samples = None, {}
    position = HEADER_BYTES
    while position < len(content):
        if position + BLOCK_HEAD.size > len(content):
            raise RecordError("truncated", "it ends within the head of a block")
        name, length = BLOCK_HEAD.unpack_from(content, position)
        start, end = position + BLOCK_HEAD.size, position + BLOCK_HEAD.size + length
        if end + CHECKSUM.size > len(content):
            raise RecordError("truncated", f"its block at byte {position:,} has {length:,} bytes, more than are there")
        found = int(np.frombuffer(content, np.uint8, end - position, position).sum(dtype=np.uint32))
        if found != CHECKSUM.unpack_from(content, end)[0]:
            raise RecordError("bad_checksum", f"its block at byte {position:,} does not add up to its checksum")
        if name == b"fmt ":
            if length < FORMAT.size:
                raise RecordError("unreadable", "its format block is too short")
            layout = FORMAT.unpack_from(content, start)
        elif name in LEAD_OF_BLOCK:
            samples[LEAD_OF_BLOCK[name]] = np.frombuffer(content, "<i2", length // 2, start)
        position = end + CHECKSUM.size
    if layout is None or not samples:
        raise RecordError("unreadable", "it holds no ECG")
    _, rate, nanovolts, _, _ = layout
    if not nanovolts:
        raise RecordError("unreadable", "its format block states no resolution")
    if len({len(values) for values in samples.values()}) > 1:
        raise RecordError("unreadable", "its leads differ in length")
    leads = {name: values * (nanovolts / 1e6) for name, values in samples.items()}
    return Recording(leads, rate, "Kardia ATC", device="AliveCor Kardia")

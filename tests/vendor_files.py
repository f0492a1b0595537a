"""Files of makers' formats, built from their definitions: small, with known samples."""

import json
import struct

import numpy as np


def edf(leads: dict[str, np.ndarray], rate: int, seconds: int, unit: str = "uV", patient: str = "X X X X") -> bytes:
    """Return an EDF file of int16 leads, one data record a second, a microvolt a step."""
    count = len(leads)
    head = [("0", 8), (patient, 80), ("Startdate 02-MAR-2020 X X X", 80), ("02.03.20", 8), ("09.15.00", 8)]
    head += [(str(256 * (count + 1)), 8), ("", 44), (str(seconds), 8), ("1", 8), (str(count), 4)]
    each = [
        (list(leads), 16),
        ([""], 80),
        ([unit], 8),
        (["-32768"], 8),
        (["32767"], 8),
        (["-32768"], 8),
        (["32767"], 8),
    ]
    each += [([""], 80), ([str(rate)], 8), ([""], 32)]
    texts = [text.ljust(width) for text, width in head]
    texts += [cell.ljust(width) for cells, width in each for cell in (cells if len(cells) == count else cells * count)]
    blocks = [
        lead[k * rate : (k + 1) * rate].astype("<i2").tobytes() for k in range(seconds) for lead in leads.values()
    ]
    return "".join(texts).encode("ascii") + b"".join(blocks)


def ishne(leads: list[np.ndarray], rate: int, name: str = "") -> bytes:
    """Return an ISHNE Holter file of int16 leads I, II ..., 1,000 nV a step."""
    header = bytearray(512)
    struct.pack_into("<iiii", header, 0, 0, len(leads[0]), 522, 522)
    struct.pack_into("<h", header, 16, 1)
    header[18 : 18 + len(name)] = name.encode()
    struct.pack_into("<hhh", header, 128, 2, 3, 2020)  # where an implementation looks for it does not matter here
    struct.pack_into("<h", header, 146, len(leads))
    codes = [5, 6, 7, 8, 9, 10][: len(leads)] + [-9] * (12 - len(leads))
    struct.pack_into("<12h", header, 148, *codes)
    struct.pack_into("<12h", header, 172, *[1] * 12)
    struct.pack_into("<12h", header, 196, *[1000] * 12)
    struct.pack_into("<h", header, 262, rate)
    body = bytes(header)
    return b"ISHNE1.0" + struct.pack("<H", crc_ccitt(body)) + body + np.stack(leads, axis=1).astype("<i2").tobytes()


def crc_ccitt(content: bytes) -> int:
    """Return the CRC-16 (CCITT, from 0xFFFF) of a header."""
    register = 0xFFFF
    for byte in content:
        register ^= byte << 8
        for _ in range(8):
            register = (register << 1 ^ 0x1021 if register & 0x8000 else register << 1) & 0xFFFF
    return register


def kardia_json(leads: dict[str, np.ndarray], rate: int, nanovolts: int = 500, **more) -> bytes:
    """Return a Kardia recording as AliveCor's interface gives it."""
    samples = {name: values.tolist() for name, values in leads.items()}
    raw = {"frequency": rate, "mainsFrequency": 50, "amplitudeResolution": nanovolts, "numLeads": len(leads)}
    content = {"recordedAt": "2020-03-02T09:15:00Z", "algorithmDetermination": "normal", "duration": 10_000, **more}
    return json.dumps({**content, "data": {"raw": {**raw, "samples": samples}}}).encode()

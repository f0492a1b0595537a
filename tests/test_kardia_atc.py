"""The .atc files of Kardia devices."""

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecg_finetune.kardia_atc import read_atc
from ecg_finetune.recordings import read_recording
from ecg_finetune.waveform import RecordError


def block(name: bytes, data: bytes, length: int | None = None, more: int = 0) -> bytes:
    head = name + struct.pack("<I", len(data) if length is None else length)
    return head + data + struct.pack("<I", (sum(head) + sum(data) + more) % 2**32)


def atc(*blocks: bytes, rate: int = 300, resolution: int = 500) -> bytes:
    layout = block(b"fmt ", struct.pack("<BHHBH", 1, rate, resolution, 2, 0))
    return b"ALIVE\0\0\0" + struct.pack("<I", 2) + block(b"info", b"2026 Test Person") + layout + b"".join(blocks)


SAMPLES = np.arange(-50, 50, dtype="<i2") * 600


def plain_reading(content: bytes) -> dict[str, list[float]]:
    """Return millivolts by block: slowly, sample by sample, without looking at checksums."""
    found, position = {}, 12
    while position < len(content):
        name, length = (
            content[position : position + 4].decode(),
            int.from_bytes(content[position + 4 : position + 8], "little"),
        )
        data = content[position + 8 : position + 8 + length]
        found[name] = data
        position += 12 + length
    resolution = int.from_bytes(found["fmt "][3:5], "little")
    leads = {name: found[name] for name in ("ecg ", "ecg2", "ecg3", "ecg4", "ecg5", "ecg6") if name in found}
    return {
        name: [
            int.from_bytes(data[k : k + 2], "little", signed=True) * resolution / 1e6 for k in range(0, len(data), 2)
        ]
        for name, data in leads.items()
    }


@pytest.mark.parametrize(("name", "leads"), [("1", ["I"]), ("6", ["I", "II", "III", "aVR", "aVL", "aVF"])])
def test_genuine_files(test_data, name, leads):
    path = test_data / f"recordings/kardia_{name}_lead.atc"
    found, expected = read_recording(path), plain_reading(path.read_bytes())
    assert list(found.leads) == leads and found.rate == 300 and found.source == "Kardia ATC"
    for values, plain in zip(found.leads.values(), expected.values(), strict=True):
        assert np.allclose(values, plain, rtol=1e-12) and 0.05 < values.std() < 1 and len(values) == 9000
    if name == "6":
        first, second, third = (found.leads[lead] for lead in leads[:3])
        assert np.abs(second - first - third).max() < 0.01


def test_a_genuine_damaged_file(test_data):
    with pytest.raises(RecordError) as error:
        read_recording(test_data / "recordings/kardia_broken_checksum.atc")
    assert error.value.status == "bad_checksum" and "\n" not in error.value.detail


def test_a_made_file():
    found = read_atc(atc(block(b"ecg ", SAMPLES.tobytes()), block(b"avg ", b"xx"), block(b"ecg2", SAMPLES.tobytes())))
    assert list(found.leads) == ["I", "II"] and np.allclose(found.leads["II"], SAMPLES * 0.0005)
    assert "Person" not in repr(found) and found.start is None


ECG = block(b"ecg ", SAMPLES.tobytes())


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (atc(), "unreadable"),
        (b"ALIVE\0\0\0", "unreadable"),
        (atc(block(b"ecg ", SAMPLES.tobytes(), more=1)), "bad_checksum"),
        (atc(block(b"info", b"x", more=1), ECG), "bad_checksum"),
        (atc(block(b"ecg ", SAMPLES.tobytes(), length=2**32 - 1)), "truncated"),
        (atc(ECG)[:-1], "truncated"),
        (atc(ECG) + b"ec", "truncated"),
        (atc(ECG, resolution=0), "unreadable"),
        (atc(ECG, rate=0), "bad_rate"),
        (atc(ECG, block(b"ecg2", SAMPLES[1:].tobytes())), "unreadable"),
        (atc(block(b"ecg ", b"")), "too_short"),
        (b"ALIVE\0\0\0" + b"\2\0\0\0" + block(b"fmt ", b"\1") + ECG, "unreadable"),
        (b"ALIVE\0\0\0" + b"\2\0\0\0" + ECG, "unreadable"),
    ],
)
def test_damaged_files_are_refused(tmp_path, content, status):
    (tmp_path / "x").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(RecordError) as error:
        read_recording(tmp_path / "x")
    assert error.value.status == status
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


@settings(max_examples=150, deadline=None)
@given(places=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4), cut=st.booleans())
def test_any_changed_byte_is_noticed(places, cut):
    content = bytearray(atc(ECG))
    for place, value in places:
        content[12 + place % (len(content) - 12)] = value
    if cut:
        del content[12 + places[0][0] :]
    try:
        found = read_atc(bytes(content))
    except RecordError as error:
        assert error.status in ("bad_checksum", "truncated", "unreadable")
    else:  # two changes that make up for each other, or none
        assert len(places) > 1 or bytes(content) == atc(ECG)
        assert set(found.leads) <= {"I"}

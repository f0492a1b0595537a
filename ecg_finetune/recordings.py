"""Any file of an ECG: the format is found from the content, and the leads come in millivolts.

WFDB, Apple Watch CSV, Kardia .atc, plain tables and arrays are read here; the formats of devices' makers through
ecgdatakit (`vendor_formats`). Nothing that says whose recording it is leaves a file: no name, no date of birth.
"""

import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ecg_finetune.operating_system import open_regular, read_bytes_of
from ecg_finetune.waveform import LeadSignal, RecordError, Recording, lead_parts, refuse_rate
from ecg_finetune.wfdb_records import read_record, read_record_lead

MOST_BYTES = 1 << 28  # of a file that is not WFDB: a day of three leads has some 100 MB
MOST_TEXT_BYTES = 1 << 26  # of a table, whose lines take ten times as much while they are read
HEAD_BYTES = 4096


def read_recording(path: Path | str, rate: float | None = None, unit: str | None = None) -> Recording:
    """Read all leads of a recording.

    Parameters
    ----------
    path : Path or str
        A WFDB record with or without the extension of its header or signal file; any other file as it is.
    rate : float, optional
        Samples a second, of files that state none (tables and arrays).
    unit : str, optional
        The unit of numbers that state none (default: mV).

    Returns
    -------
    Recording
        Its leads are float64 in millivolts, NaN where missing.

    Raises
    ------
    RecordError
        The file is missing, damaged, of no known format, or lacks a rate. The message does not name the file.
    UserError
        What reads its format is not installed.
    """
    stem = _wfdb_stem(os.fspath(path))
    recording = read_record(stem) if stem is not None else _read_file(Path(path), rate, unit)
    refuse_rate(recording.rate)
    if not len(next(iter(recording.leads.values()))):
        raise RecordError("too_short", "it holds no samples")
    return recording


def read_lead(
    path: str,
    seconds: float = math.inf,
    *,
    lead: str,
    channel: str | None = None,
    rate: float | None = None,
    unit: str | None = None,
    verify_checksums: bool = False,
) -> LeadSignal:
    """Read the first seconds of one lead of a recording at its own rate.

    Parameters
    ----------
    path, rate, unit
        As `read_recording`.
    seconds : float
        How much to read at least, where reading less is faster (default: all).
    lead : str
        One of `waveform.LEADS`; how it is found among the channels: `waveform.lead_parts`.
    channel : str, optional
        The channel to take for the lead, by name or by number from 1.
    verify_checksums : bool
        Compare a WFDB record with its header's checksums.

    Raises
    ------
    RecordError, UserError
        As `read_recording`; also no_lead and bad_checksum.
    """
    try:
        return read_record_lead(path, lead, seconds, verify_checksums, channel)
    except RecordError as error:
        if error.status != "missing_header" or os.path.isdir(path):  # noqa: PTH112
            raise
        if not os.path.lexists(path):
            name = os.path.basename(path)  # noqa: PTH119
            raise RecordError("missing_header", f"no such file: neither {name} nor {name}.hea") from None
    stem = _wfdb_stem(path)
    if stem is not None:
        return read_record_lead(stem, lead, seconds, verify_checksums, channel)
    recording = read_recording(path, rate, unit)
    parts = lead_parts(list(recording.leads), lead, channel)
    samples = list(recording.leads.values())
    values = sum(weight * samples[position] for position, weight in parts.items())
    values = values[: len(values) - _calibration_samples(recording)]
    wanted = len(values) if math.isinf(seconds) else math.ceil(seconds * recording.rate)
    return LeadSignal(values[:wanted], "mV", recording.rate, len(values))


def _wfdb_stem(path: str) -> str | None:
    """Return the path of a WFDB record without extension, if this is one: a header is there for it."""
    stem, extension = os.path.splitext(path)  # noqa: PTH122
    if os.path.lexists(f"{path}.hea"):
        return path
    if extension == ".hea":
        return stem
    # A signal file: its header names it.
    if extension and os.path.lexists(f"{stem}.hea"):
        return stem
    return None


def _read_file(path: Path, rate: float | None, unit: str | None) -> Recording:
    try:
        descriptor, size = open_regular(path)
        try:
            if size > MOST_BYTES:
                raise RecordError("unreadable", f"{size:,} bytes, more than {MOST_BYTES:,}")
            head = read_bytes_of(descriptor, min(size, HEAD_BYTES))

            def content() -> bytes:
                return head + read_bytes_of(descriptor, size - len(head))

            return _read_content(path, size, head, content, rate, unit)
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        raise RecordError("missing_header", f"no such file: neither {path.name} nor {path.name}.hea") from None
    except OSError as error:
        raise RecordError("unreadable", error.strerror or "not to be read") from None
    except ValueError as error:  # a path that this system cannot express
        raise RecordError("unreadable", str(error)) from None


def _read_content(
    path: Path, size: int, head: bytes, content: Callable[[], bytes], rate: float | None, unit: str | None
) -> Recording:
    """Read a file by its first bytes; `content()` gives all of them."""
    from ecg_finetune import apple_watch, kardia_atc, number_tables, vendor_formats

    if head.startswith(kardia_atc.MAGIC):
        return kardia_atc.read_atc(content())
    if head.startswith(b"\x93NUMPY"):
        return number_tables.read_npy(content(), rate, unit)
    if head.startswith(b"PK\3\4"):
        return number_tables.read_npz(content(), rate, unit)
    if head[126:128] in (b"IM", b"MI") and head[124:126] in (b"\0\1", b"\1\0"):
        return number_tables.read_mat_table(content(), rate, unit)
    if head.startswith(b"\x89HDF\r\n"):
        raise RecordError("unreadable", "HDF5, as MATLAB writes with -v7.3; save it with -v7, or as .npy or .csv")
    family = vendor_formats.vendor_format(head)
    if family is not None:
        return vendor_formats.read_vendor_file(path, family, head)
    if b"\0" in head and head[:2] not in UTF_16:
        raise RecordError("unreadable", "of no format of ECGs that is known here")
    if size > MOST_TEXT_BYTES:
        raise RecordError("unreadable", f"a table of {size:,} bytes, more than {MOST_TEXT_BYTES:,}; save it as .npy")
    text = _decode(content())
    if apple_watch.is_apple_watch(text):
        return apple_watch.read_apple_watch(text, rate)
    return number_tables.read_text_table(text, rate, unit)


UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def _decode(content: bytes) -> str:
    try:
        return content.decode("utf-16" if content[:2] in UTF_16 else "utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _calibration_samples(recording: Recording) -> int:
    """Return how many samples at the end are a calibration pulse in all leads, as Philips' carts write, else 0.

    0.1 s of nothing, 0.2 s of 1 mV, 0.1 s of nothing: to a network a beat.
    """
    tenth = round(0.1 * recording.rate)
    pulse = np.repeat([0.0, 1.0, 1.0, 0.0], tenth)
    ends = [values[-len(pulse) :] for values in recording.leads.values()]
    return len(pulse) if all(len(end) == len(pulse) and np.allclose(end, pulse) for end in ends) else 0

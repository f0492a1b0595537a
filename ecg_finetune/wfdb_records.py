"""Reading WFDB records: one lead by hand where the header is plain, through the wfdb package anywhere else.

wfdb takes 2 to 4 ms a record, nearly all of it for the header. Plain is what MIMIC-IV-ECG has: one segment, all signals
in one format-16 file without offset, skew or several samples per frame. The patterns below match nothing else; what
they do not match is left to wfdb, and what they do match gives the same numbers as wfdb, to the last bit.
"""

import contextlib
import datetime
import math
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ecg_finetune.files import UserError
from ecg_finetune.operating_system import open_regular, read_bytes_of, read_regular
from ecg_finetune.waveform import (
    LeadSignal,
    RecordError,
    Recording,
    find_lead,
    lead_parts,
    millivolts_per,
    refuse_rate,
)

MOST_HEADER_BYTES = 1 << 20
MOST_GAPS = 1000  # samples wanted per sample that the segments of a record hold
MISSING = -32768  # format 16's code for a missing sample

# As in wfdb's reader, blanks separate fields; unlike there, nothing may be glued to them or omitted but the time, the
# date, the baseline and the unit. Digits are limited so that no number leaves the range of int64.
TIME = rb"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?"
DATE = rb"(?P<day>\d\d)/(?P<month>\d\d)/(?P<year>\d{4})"
INTEGER = rb"-?\d{1,9}"
RECORD_LINE = re.compile(
    rb"[-\w]+[ \t]+(?P<signals>[1-9]\d{0,3})[ \t]+(?P<rate>[1-9]\d{0,5}(?:\.\d{1,6})?)[ \t]+(?P<samples>[1-9]\d{0,8})"
    rb"(?:[ \t]+%b(?:[ \t]+%b)?)?[ \t]*\r?\n" % (TIME, DATE)
)
SIGNAL_LINE = re.compile(
    rb"(?P<file>[-\w]+\.\w+)[ \t]+16"
    rb"[ \t]+(?P<gain>-?\d{1,9}(?:\.\d{1,9})?)(?:\((?P<baseline>%b)\))?(?:/(?P<unit>[\w^?%%/-]+))?"
    rb"[ \t]+\d{1,9}[ \t]+(?P<zero>%b)[ \t]+%b[ \t]+%b[ \t]+\d{1,9}"
    rb"[ \t]+(?P<lead>[!-~](?:[ -~]*[!-~])?)[ \t]*(?:\r?\n|\Z)" % (INTEGER, INTEGER, INTEGER, INTEGER)
)
# Below the signals: comments and empty lines. Other control characters would end a line for wfdb.
REMAINDER = re.compile(rb"(?:[ \t]*(?:#[\t -~\x80-\xff]*)?(?:\r?\n|\Z))*")

BYTES_PER_SAMPLE = {
    "8": 1,
    "16": 2,
    "24": 3,
    "32": 4,
    "61": 2,
    "80": 1,
    "160": 2,
    "212": 1.5,
    "310": 4 / 3,
    "311": 4 / 3,
}


@dataclass(frozen=True)
class PlainHeader:
    """What a plain header says of one lead."""

    file: str
    channels: int
    channel: int
    rate: int | float
    samples: int
    gain: float
    baseline: int
    unit: str


def read_record_lead(
    stem: str, lead: str, seconds: float = math.inf, verify_checksums: bool = False, channel: str | None = None
) -> LeadSignal:
    """Read the first seconds of one lead.

    Parameters
    ----------
    stem : str
        The record's path without extension.
    lead : str
        One of `waveform.LEADS`; how it is found among the record's channels: `waveform.lead_parts`.
    seconds : float
        How much to read at least (default: all).
    verify_checksums : bool
        Read all channels in the lead's file and compare them with the header's checksums.
    channel : str, optional
        The channel to take for the lead, by name or number.

    Raises
    ------
    RecordError
        missing_header, no_lead, bad_rate, missing_data, truncated, bad_checksum or unreadable.
    UserError
        The record needs wfdb, which is not installed.
    """
    content = _read_header(stem)
    header = None if verify_checksums else parse_plain(content, lead, channel)
    if header is None:
        with _errors_of_wfdb():
            return _read_with_wfdb(stem, content, lead, seconds, verify_checksums, channel)
    return _read_plain(os.path.dirname(stem), header, seconds)  # noqa: PTH120


def read_record(stem: str) -> Recording:
    """Read a whole record: all its channels that are voltages and whose files are there.

    Raises
    ------
    RecordError
        As `read_record_lead`, but for no_lead.
    """
    content = _read_header(stem)
    with _errors_of_wfdb():
        wfdb, header = _open_with_wfdb(stem, content)
        folder, names = os.path.dirname(stem), _names(header)  # noqa: PTH120
        channels = list(range(len(names)))
        if getattr(header, "segments", None) is None:
            there = [k for k in channels if os.path.lexists(os.path.join(folder, header.file_name[k]))]  # noqa: PTH118
            channels = there or channels
        values, units, _ = _read_channels(wfdb, stem, content, header, channels)
        leads = {}
        for k, unit, column in zip(channels, units, values.T):
            if scale := millivolts_per(unit):
                leads.setdefault(names[k] or f"channel {k + 1}", column * scale)
        if not leads:
            raise RecordError("no_lead", "the header describes no signal that is a voltage")
        start = (
            datetime.datetime.combine(header.base_date, header.base_time or datetime.time())
            if header.base_date
            else None
        )
        left_out = tuple(name for name in names if name not in leads)
        return Recording(leads, header.fs, "WFDB", start, left_out=left_out)


def _read_header(stem: str) -> bytes:
    try:
        return read_regular(f"{stem}.hea", MOST_HEADER_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise RecordError("missing_header", f"no {os.path.basename(stem)}.hea") from None  # noqa: PTH119
    except OSError as error:
        raise RecordError("unreadable", f"header: {error.strerror}") from None
    except ValueError as error:  # a path that this system cannot express
        raise RecordError("unreadable", f"header: {error}") from None


def parse_plain(content: bytes, lead: str, channel: str | None = None) -> PlainHeader | None:
    """Return what a plain header says of a lead; None where the header is not plain in every line, or lacks the lead.

    Raises
    ------
    RecordError
        no_lead: the header is plain and has no such `channel`.
    """
    record = RECORD_LINE.match(content)
    if record is None or not _is_date(record):
        return None
    channels, position = int(record["signals"]), record.end()
    signals = []
    for _ in range(channels):
        signal = SIGNAL_LINE.match(content, position)
        if signal is None or signal["file"] != (signals or [signal])[0]["file"]:
            return None
        signals.append(signal)
        position = signal.end()
    if REMAINDER.fullmatch(content, position) is None:
        return None
    position = find_lead([signal["lead"].decode() for signal in signals], lead, channel)
    if position is None:
        return None
    signal = signals[position]
    baseline = signal["zero"] if signal["baseline"] is None else signal["baseline"]
    rate = float(record["rate"])
    return PlainHeader(
        file=signal["file"].decode(),
        channels=channels,
        channel=position,
        rate=int(rate) if rate.is_integer() else rate,
        samples=int(record["samples"]),
        gain=float(signal["gain"]) or 200.0,  # a gain of 0 means: not given
        baseline=int(baseline),
        unit=(signal["unit"] or b"mV").decode(),
    )


def _is_date(record: re.Match) -> bool:
    if record["day"] is None:
        return True
    try:
        datetime.date(int(record["year"]), int(record["month"]), int(record["day"]))
    except ValueError:
        return False
    return True


def _frames_wanted(seconds: float, rate: float, samples: int) -> int:
    return samples if math.isinf(seconds) else min(samples, math.ceil(seconds * rate))


def _read_plain(folder: str, header: PlainHeader, seconds: float) -> LeadSignal:
    refuse_rate(header.rate)
    frame = 2 * header.channels
    expected, wanted = header.samples * frame, _frames_wanted(seconds, header.rate, header.samples) * frame
    try:
        descriptor, size = open_regular(os.path.join(folder, header.file))  # noqa: PTH118
        try:
            content = read_bytes_of(descriptor, wanted) if size >= expected else b""
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise RecordError("missing_data", f"no {header.file}") from None
    except OSError as error:
        raise RecordError("unreadable", f"{header.file}: {error.strerror}") from None
    if len(content) < wanted:
        raise RecordError("truncated", f"{header.file} has {size} of {expected} bytes")
    digital = np.frombuffer(content, "<i2")[header.channel :: header.channels]
    values = np.subtract(digital, header.baseline, dtype=np.float64)
    values /= header.gain
    values[digital == MISSING] = np.nan
    return LeadSignal(values, header.unit, header.rate, header.samples)


@contextlib.contextmanager
def _errors_of_wfdb() -> Iterator[None]:
    """Turn what goes wrong in the block into `RecordError`."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        name = os.path.basename(error.filename or "")  # noqa: PTH119
        raise RecordError("missing_data", f"no {name or 'signal file'}") from None
    except Exception as error:  # wfdb raises almost anything on a damaged record
        raise RecordError("unreadable", f"{type(error).__name__}: {error}") from None


def _open_with_wfdb(stem: str, content: bytes):
    """Return the package, and the record's header, with those of its segments where it has several."""
    try:
        import wfdb  # 0.6 s to import, and most data sets never need it
    except ImportError:
        raise UserError("a WFDB record other than plain format 16 needs wfdb: pip install wfdb") from None

    line = next((line for line in content.splitlines() if line.strip() and not line.lstrip().startswith(b"#")), b"")
    # wfdb takes a rate that it cannot read for one that is not given, which means 250 Hz.
    if stated := re.match(rb"\s*\S+\s+\d+\s+([^\s.\d]\S*)", line):
        raise RecordError("bad_rate", f"{stated[1].decode('latin-1')}, which is no sampling rate")
    header = wfdb.rdheader(stem)
    if isinstance(header, wfdb.MultiRecord):
        header = _read_segment_headers(wfdb, stem, header)
    if not header.sig_name:
        raise RecordError("no_lead", "the header describes no signal")
    refuse_rate(header.fs)
    return wfdb, header


def _names(header) -> list[str]:
    return [name or "" for name in header.sig_name]


def _unit(content: bytes, header, channel: int, unit: str | None) -> str:
    """Return the unit of a channel; wfdb drops what is not ASCII, and so takes microvolts for volts."""
    if not content.isascii() and getattr(header, "segments", None) is None:
        lines = [line for line in content.splitlines() if line.strip() and not line.lstrip().startswith(b"#")]
        fields = lines[channel + 1].split() if channel + 1 < len(lines) else []
        stated = fields[2].partition(b"/")[2] if len(fields) > 2 else b""
        if not stated.isascii():
            try:
                return stated.decode()
            except UnicodeDecodeError:
                return stated.decode("latin-1")
    return unit or "mV"


def _read_with_wfdb(
    stem: str, content: bytes, lead: str, seconds: float, verify_checksums: bool, channel: str | None
) -> LeadSignal:
    wfdb, header = _open_with_wfdb(stem, content)
    parts = lead_parts(_names(header), lead, channel)
    if verify_checksums:
        for position in parts:
            _refuse_short_files(stem, header, position)
            _verify_checksums(wfdb, stem, header, position)
    values, units, samples = _read_channels(wfdb, stem, content, header, list(parts), seconds)
    if len(parts) == 1:
        return LeadSignal(values[:, 0], units[0], header.fs, samples)
    weights = [weight * (millivolts_per(unit) or 1.0) for weight, unit in zip(parts.values(), units)]
    return LeadSignal(values @ weights, "mV", header.fs, samples)


def _read_channels(
    wfdb, stem: str, content: bytes, header, channels: Sequence[int], seconds: float = math.inf
) -> tuple[np.ndarray, list[str], int]:
    """Return the first seconds of channels, float64 (samples, channels), their units, and the record's samples."""
    for channel in channels:
        _refuse_short_files(stem, header, channel)
    if header.sig_len is None:  # then only wfdb's reading of everything finds the length
        record = wfdb.rdrecord(stem, channels=channels)
        wanted = _frames_wanted(seconds, header.fs, record.sig_len)
    else:
        wanted = _frames_wanted(seconds, header.fs, header.sig_len)
        _refuse_gaps(header, wanted)
        record = wfdb.rdrecord(stem, sampto=wanted, channels=channels)
        if wanted < header.sig_len:  # the rest is not needed, but a file that ends early is not to be trusted
            wfdb.rdrecord(stem, sampfrom=header.sig_len - 1, sampto=header.sig_len, channels=channels)
    units = [_unit(content, header, channel, unit) for channel, unit in zip(channels, record.units)]
    return np.asarray(record.p_signal, dtype=np.float64)[:wanted], units, header.sig_len or record.sig_len


def _read_segment_headers(wfdb, stem: str, header):
    """Return the header of a record of several segments with those of its segments.

    wfdb makes room for as many segments and samples as the header names: they must be there.
    """
    if header.n_seg != len(header.seg_name):
        raise RecordError("unreadable", f"the header names {len(header.seg_name)} of {header.n_seg} segments")
    if not header.sig_len or header.sig_len > sum(header.seg_len):
        raise RecordError("unreadable", f"segments of {sum(header.seg_len)} samples in a record of {header.sig_len}")
    for name in {name for name in header.seg_name if name != "~"}:
        status = os.stat(os.path.join(os.path.dirname(stem), f"{name}.hea"))  # noqa: PTH116, PTH118, PTH120
        if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_HEADER_BYTES:
            raise RecordError("unreadable", f"{name}.hea: not a header")
    return wfdb.rdheader(stem, rd_segments=True)


def _refuse_short_files(stem: str, header, channel: int) -> None:
    """Refuse a record whose files hold less than its headers say, before wfdb makes room for that.

    Of a record of one segment the file of the channel counts; of several segments, all files that are there.
    """
    folder = os.path.dirname(stem)  # noqa: PTH120
    if getattr(header, "segments", None) is None:
        _refuse_short_file(folder, header, header.file_name[channel])
        return
    for segment, samples in zip(header.segments, header.seg_len, strict=True):
        if segment is None or not samples:  # a gap, or the layout of the others
            continue
        if samples != segment.sig_len:
            raise RecordError("unreadable", f"segment {segment.record_name} has {segment.sig_len} of {samples} samples")
        for name in dict.fromkeys(segment.file_name):
            if os.path.lexists(os.path.join(folder, name)):  # noqa: PTH118
                _refuse_short_file(folder, segment, name)


def _refuse_gaps(header, wanted: int) -> None:
    """Refuse a record of several segments of which next to nothing is there, and wfdb makes room for all of it."""
    if getattr(header, "segments", None) is None:
        return
    there = sum(samples for samples, name in zip(header.seg_len, header.seg_name, strict=True) if name != "~")
    if wanted > MOST_GAPS * there:
        raise RecordError("truncated", f"its segments hold {there} of {header.sig_len} samples, the rest are gaps")


def _refuse_short_file(folder: str, header, name: str) -> None:
    """Refuse a signal file that is missing, no regular file, or shorter than the header of its segment says."""
    status = os.stat(os.path.join(folder, name))  # noqa: PTH116, PTH118
    if not stat.S_ISREG(status.st_mode):
        raise RecordError("unreadable", f"{name}: not a regular file")
    if not header.sig_len:
        return
    channels = [k for k, other in enumerate(header.file_name) if other == name]
    if max(header.skew[k] or 0 for k in channels) > header.sig_len:
        raise RecordError("unreadable", f"{name}: a signal that lags behind by more than the record")
    width = BYTES_PER_SAMPLE.get(header.fmt[channels[0]])
    if width is None:  # compressed, or unknown
        return
    frame = sum(header.samps_per_frame[k] or 1 for k in channels)
    expected = (header.byte_offset[channels[0]] or 0) + math.floor(header.sig_len * frame * width)
    if status.st_size < expected:
        raise RecordError("truncated", f"{name} has {status.st_size} of {expected} bytes")


def _verify_checksums(wfdb, stem: str, header, channel: int) -> None:
    """Compare all channels in the file of the lead with their header (a multi-segment one has no checksums)."""
    if not getattr(header, "checksum", None):
        return
    channels = [k for k, name in enumerate(header.file_name) if name == header.file_name[channel]]
    record = wfdb.rdrecord(stem, channels=channels, physical=False, ignore_skew=True, smooth_frames=False)
    for k, found in zip(channels, record.calc_checksum(expanded=True), strict=True):
        stated = header.checksum[k]
        if stated is not None and stated % 65536 != found:
            raise RecordError("bad_checksum", f"lead {header.sig_name[k]}: {found}, the header says {stated % 65536}")

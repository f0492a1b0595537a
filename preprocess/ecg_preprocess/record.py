"""Reading one lead of a WFDB record: by hand where its header is plain, through the wfdb package anywhere else.

wfdb takes 2 to 4 ms a record, nearly all of it for the header. Plain is what MIMIC-IV-ECG has: one segment, all signals
in one format-16 file without offset, skew or several samples per frame. The patterns below match nothing else; what
they do not match is left to wfdb, and what they do match gives the same numbers as wfdb, to the last bit.
"""

import datetime
import math
import os
import re
from dataclasses import dataclass

import numpy as np

MISSING = -32768  # format 16's code for a missing sample

# As in wfdb's reader, blanks separate fields; unlike there, nothing may be glued to them or left out but the time, the
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

MILLIVOLTS = {"V": 1e3, "mV": 1.0, "uV": 1e-3, "nV": 1e-6}
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


class RecordError(Exception):
    """A record that cannot be used: `status` is the reason's short name, `detail` says more."""

    def __init__(self, status: str, detail: str):
        super().__init__(status, detail)
        self.status = status
        self.detail = detail


@dataclass(frozen=True)
class LeadSignal:
    """The beginning of one lead.

    `values` are float64 (samples,) in the header's physical `unit`, NaN where missing; `rate` is in Hz and `samples`
    how many the whole record has.
    """

    values: np.ndarray
    unit: str
    rate: int | float
    samples: int

    @property
    def millivolts_per_unit(self) -> float:
        """Return what one unit is in millivolts; 1.0 for a unit that is no voltage."""
        return MILLIVOLTS.get(self.unit, 1.0)


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


def read_lead(stem: str, lead: str, seconds: float = math.inf, verify_checksums: bool = False) -> LeadSignal:
    """Read the first seconds of one lead.

    Parameters
    ----------
    stem : str
        The record's path without extension.
    lead : str
        Its name; capitals do not matter.
    seconds : float
        How much to read at least (default: all).
    verify_checksums : bool
        Read all channels in the lead's file and compare them with the header's checksums.

    Raises
    ------
    RecordError
        missing_header, missing_data, truncated, bad_checksum, no_lead or unreadable.
    """
    try:
        with open(f"{stem}.hea", "rb") as file:  # noqa: PTH123 - 800,000 times; Path.open is slower
            content = file.read()
    except (FileNotFoundError, NotADirectoryError):
        raise RecordError("missing_header", f"no {os.path.basename(stem)}.hea") from None  # noqa: PTH119
    except OSError as error:
        raise RecordError("unreadable", f"header: {error.strerror}") from None
    header = None if verify_checksums else parse_plain(content, lead)
    if header is None:
        return _read_with_wfdb(stem, lead, seconds, verify_checksums)
    return _read_plain(os.path.dirname(stem), header, seconds)  # noqa: PTH120


def parse_plain(content: bytes, lead: str) -> PlainHeader | None:
    """Return what a plain header says of a lead; None where the header is not plain in every line.

    Raises
    ------
    RecordError
        no_lead: the header is plain and names no such lead.
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
    channel = find_lead([signal["lead"].decode() for signal in signals], lead)
    signal = signals[channel]
    baseline = signal["zero"] if signal["baseline"] is None else signal["baseline"]
    rate = float(record["rate"])
    return PlainHeader(
        file=signal["file"].decode(),
        channels=channels,
        channel=channel,
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


def find_lead(names: list[str], lead: str) -> int:
    """Return the position of a lead among signal names: as written, else without regard to capitals."""
    if lead in names:
        return names.index(lead)
    folded = [name.strip().lower() for name in names]
    if lead.lower() in folded:
        return folded.index(lead.lower())
    raise RecordError("no_lead", f"no lead {lead} among {' '.join(names)}")


def _frames_wanted(seconds: float, rate: float, samples: int) -> int:
    return samples if math.isinf(seconds) else min(samples, math.ceil(seconds * rate))


def _read_plain(folder: str, header: PlainHeader, seconds: float) -> LeadSignal:
    wanted = _frames_wanted(seconds, header.rate, header.samples)
    frame = 2 * header.channels
    try:
        with open(os.path.join(folder, header.file), "rb", buffering=0) as file:  # noqa: PTH118, PTH123
            size = os.fstat(file.fileno()).st_size
            if size < header.samples * frame:
                raise RecordError("truncated", f"{header.file} has {size} of {header.samples * frame} bytes")
            content = file.read(wanted * frame)
    except FileNotFoundError:
        raise RecordError("missing_data", f"no {header.file}") from None
    except OSError as error:
        raise RecordError("unreadable", f"{header.file}: {error.strerror}") from None
    digital = np.frombuffer(content, "<i2")[header.channel :: header.channels]
    values = np.subtract(digital, header.baseline, dtype=np.float64)
    values /= header.gain
    values[digital == MISSING] = np.nan
    return LeadSignal(values, header.unit, header.rate, header.samples)


def _read_with_wfdb(stem: str, lead: str, seconds: float, verify_checksums: bool) -> LeadSignal:
    import wfdb  # 0.6 s to import, and most data sets never need it

    header = None
    try:
        header = wfdb.rdheader(stem, rd_segments=True)
        if not header.sig_name:
            raise RecordError("no_lead", "the header describes no signal")
        if not header.fs:
            raise RecordError("unreadable", "the header has a sampling rate of 0")
        channels = [find_lead([name or "" for name in header.sig_name], lead)]
        if verify_checksums:
            _verify_checksums(wfdb, stem, header, channels[0])
        if header.sig_len is None:  # then only wfdb's reading of everything finds the length
            record = wfdb.rdrecord(stem, channels=channels)
            wanted = _frames_wanted(seconds, header.fs, record.sig_len)
        else:
            wanted = _frames_wanted(seconds, header.fs, header.sig_len)
            record = wfdb.rdrecord(stem, sampto=wanted, channels=channels)
            if wanted < header.sig_len:  # the rest is not needed, but a file that ends early is not to be trusted
                wfdb.rdrecord(stem, sampfrom=header.sig_len - 1, sampto=header.sig_len, channels=channels)
        samples = header.sig_len or record.sig_len
        values = np.asarray(record.p_signal, dtype=np.float64)[:wanted, 0]
        return LeadSignal(values, record.units[0], record.fs, samples)
    except RecordError:
        raise
    except FileNotFoundError as error:
        name = os.path.basename(error.filename or "")  # noqa: PTH119
        raise RecordError("missing_data", f"no {name or 'signal file'}") from None
    except Exception as error:  # wfdb raises almost anything on a damaged record
        missing = _missing_bytes(stem, header)
        if missing:
            raise RecordError("truncated", missing) from None
        raise RecordError("unreadable", f"{type(error).__name__}: {error}") from None


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


def _missing_bytes(stem: str, header) -> str:
    """Say which signal file of a single-segment record is shorter than its header promises; empty if none is."""
    if header is None or not getattr(header, "file_name", None) or not header.sig_len:
        return ""
    for name in dict.fromkeys(header.file_name):
        places = [place for place, other in enumerate(header.file_name) if other == name]
        width = BYTES_PER_SAMPLE.get(header.fmt[places[0]])
        path = os.path.join(os.path.dirname(stem), name)  # noqa: PTH118, PTH120
        if width is None or not os.path.isfile(path):  # noqa: PTH113
            continue
        frame = sum(header.samps_per_frame[place] or 1 for place in places)
        expected = (header.byte_offset[places[0]] or 0) + math.floor(header.sig_len * frame * width)
        size = os.path.getsize(path)  # noqa: PTH202
        if size < expected:
            return f"{name} has {size} of {expected} bytes"
    return ""

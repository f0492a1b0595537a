"""The formats of devices' makers and of standards, through the package ecgdatakit (extra `formats`).

It is imported when such a file comes. Its messages may quote the file, and with it a name or a date of birth: none is
passed on, and of what it reads only leads, rate, time, maker and model are kept.
"""

import logging
import warnings
from pathlib import Path

import numpy as np

from ecg_finetune.files import UserError
from ecg_finetune.waveform import RecordError, Recording, standard_lead

# The parsers that are used: ecgdatakit's readings of WFDB and of formats known from single files are not.
PARSERS = {
    "HL7aECGParser",
    "GEMuseXMLParser",
    "SierraXMLParser",
    "SCPECGParser",
    "DICOMWaveformParser",
    "EDFParser",
    "ISHNEHolterParser",
    "AliveCorKardiaParser",
    "MFERParser",
    "MortaraEL250Parser",
}
MOST_TEXT_BYTES = 1 << 24  # XML and JSON can grow to fifty times their size in memory
DEFLATED = b"1.2.840.10008.1.2.1.99"  # a DICOM file that is compressed as a whole


def vendor_format(head: bytes) -> str | None:
    """Return the family of a file by its first 4,096 bytes: what `read_vendor_file` may be able to read, else None."""
    text = head.decode("utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8", errors="ignore")
    text = text.lstrip("\ufeff \t\r\n")
    for family, found in (
        ("XML", text.startswith("<")),
        ("JSON", text.startswith("{")),
        ("DICOM", head[128:132] == b"DICM"),
        ("ISHNE", head.startswith(b"ISHNE1.0")),
        ("EDF", head.startswith(b"0       ") and len(head) >= 256),
        ("SCP-ECG", head[8:10] == b"\0\0" and head[22:24] == b"\0\0" and head[28:32] == b"\7\0\0\0"),
        ("MFER", b"MFR " in head[:16]),
    ):
        if found:
            return family
    return None


def read_vendor_file(path: Path, family: str, head: bytes) -> Recording:
    """Read a file of a maker's format.

    Parameters
    ----------
    path : Path
        A regular file.
    family, head
        What `vendor_format` says of its beginning, and that.

    Raises
    ------
    RecordError
        unreadable, truncated or bad_checksum.
    UserError
        ecgdatakit, or pydicom for a DICOM file, is not installed.
    """
    if family in ("XML", "JSON") and path.stat().st_size > MOST_TEXT_BYTES:
        raise RecordError("unreadable", f"{family} of {path.stat().st_size:,} bytes, more than {MOST_TEXT_BYTES:,}")
    if family == "DICOM" and DEFLATED in head:
        raise RecordError("unreadable", "a deflated DICOM file; save it with another transfer syntax")
    needed = f'{path}: {family} files need the extra "formats": pip install "ecg-finetune[formats]"'
    try:
        from ecgdatakit.exceptions import ChecksumWarning, ECGDataKitError
        from ecgdatakit.parsing.parser import FileParser
    except ImportError:
        raise UserError(needed) from None
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = FileParser.detect_format(path)
            if found is None or found["parser"] not in PARSERS:
                raise RecordError("unreadable", f"{family}, but of no format of ECGs that is known here")
            record = FileParser.parse(path)
    except RecordError:
        raise
    except ImportError:
        raise UserError(needed) from None
    except ECGDataKitError as error:
        raise RecordError("unreadable", f"{found['name']}, but damaged or unusual ({type(error).__name__})") from None
    except Exception as error:  # a damaged file
        raise RecordError("unreadable", f"{family}, but damaged ({type(error).__name__})") from None
    if any(issubclass(warning.category, ChecksumWarning) for warning in said):
        raise RecordError("bad_checksum", f"{found['name']}, but it does not add up to its checksum")
    if any("truncated" in str(warning.message).lower() for warning in said):
        raise RecordError("truncated", f"{found['name']}, but shorter than its header says")
    return _recording(record, found["name"])


def _recording(record, source: str) -> Recording:
    voltages = [lead for lead in record.leads if not lead.is_raw and lead.units == "mV" and len(lead.samples)]
    # Channels of one recording may differ in rate: those stay that go with most of the 12 leads.
    layouts = {}
    for lead in voltages:
        group = layouts.setdefault((lead.sampling_rate, len(lead.samples)), [])
        group.append(lead)
    if not layouts:
        raise RecordError("unreadable", f"{source}, but without a lead in a unit of voltage")
    (rate, _), kept = max(layouts.items(), key=lambda item: sum(standard_lead(x.label) is not None for x in item[1]))
    leads = {}
    for lead in kept:
        values = np.asarray(lead.samples, dtype=np.float64)
        leads.setdefault(lead.label, np.where(np.isfinite(values), values, np.nan))
    device = record.recording.device
    return Recording(
        leads,
        rate,
        source,
        record.recording.date,
        " ".join(part for part in (device.manufacturer, device.model) if part),
        tuple(lead.label for lead in record.leads if lead.label not in leads),
    )

"""Recordings as plain numbers: CSV and TSV, .npy, .npz and .mat. They state no rate, and no unit."""

import io
import math
import re
import struct
import zipfile
from array import array
from collections.abc import Mapping, Sequence

import numpy as np
from isal import isal_zlib

from ecg_finetune.matfile import decode_mat
from ecg_finetune.waveform import DERIVED, LEADS, RecordError, Recording, millivolts_per

MOST_NUMBERS_BYTES = 1 << 28  # of the arrays in a file, which may be compressed
MOST_COLUMNS = 1000
SAME_NAME = "two of its columns have the same name"
_ALONE_WITH_COMMA = re.compile(r"[-+]?\d+,\d+")
# The first column of a table where it counts or times the others; it has no name where pandas wrote an index.
_COUNT = re.compile(r"(?:time|t|timestamp|samples?|index|n|seconds?|s|ms|zeit)?(?:[ _(\[].*)?", re.IGNORECASE)
_UNIT = re.compile(r"(.*?)\s*[(\[]\s*(\S+)\s*[)\]]")


def read_text_table(text: str, rate: float | None, unit: str | None) -> Recording:
    """Read a CSV or TSV file: a header of lead names and a column for each, or one column without a header.

    Columns are separated by tabs, semicolons, commas or blanks; with tabs and semicolons, numbers may have a decimal
    comma. Empty cells and NaN are missing samples. A name may end in its unit: `I (uV)`.

    Parameters
    ----------
    text : str
        The file.
    rate : float
        Samples a second.
    unit : str, optional
        Of the numbers whose column states none (default: mV).

    Raises
    ------
    RecordError
        bad_rate or unreadable. No message quotes the text, which may be about a person.
    """
    lines = [line for line in text.lstrip("\ufeff").splitlines() if line.strip()]
    if not lines:
        raise RecordError("unreadable", "it is empty")
    separator = _separator(lines)
    decimal_comma = separator in ("\t", ";")
    first = _cells(lines[0], separator)
    has_names = any(_number(cell, decimal_comma) is None for cell in first)
    names = first if has_names else [str(k + 1) for k in range(len(first))]
    if len(names) > MOST_COLUMNS:
        raise RecordError("unreadable", f"its first line has {len(names):,} cells")
    if not has_names and separator == "," and all(_ALONE_WITH_COMMA.fullmatch(line.strip()) for line in lines):
        raise RecordError("unreadable", "columns, or decimal commas? Name the columns, or write decimal points")
    cells = array("d")
    for number, line in enumerate(lines[has_names:], start=1 + has_names):
        row = [_number(cell, decimal_comma) for cell in _cells(line, separator)]
        if len(row) != len(names) or None in row:
            plural = "s" if len(names) > 1 else ""
            where = f"line {number:,} of those with text is not {len(names)} number{plural}"
            raise RecordError("unreadable", f"of no format of ECGs that is known here, nor a table of numbers: {where}")
        cells.extend(row)
    values = np.array(cells).reshape(-1, len(names))
    if not has_names:
        return _recording(_named(values.T), rate, unit, "table")
    columns, left_out = dict(zip(names, values.T)), ()
    if len(columns) < len(names):
        raise RecordError("unreadable", SAME_NAME)
    if len(names) > 1 and _COUNT.fullmatch(names[0]):
        left_out = (names[0],)
        _refuse_other_rate(columns.pop(names[0]), rate)
    return _recording(columns, rate, unit, "table", left_out)


def _refuse_other_rate(times: np.ndarray, rate: float | None) -> None:
    """Raise `RecordError` if a column of even times, in s, ms or us, is of another rate; one that counts has none."""
    steps = np.diff(times)
    step = float(np.median(steps)) if len(steps) else math.nan
    if rate is None or not step > 0 or step == 1 or np.abs(steps - step).max() > 0.1 * step:
        return
    rates = [per_second / step for per_second in (1, 1e3, 1e6)]
    if not any(math.isclose(rate, one, rel_tol=0.02) for one in rates):
        raise RecordError(
            "bad_rate", f"its first column goes in steps of {step:g}, which is not {rate:g} Hz; give another --rate"
        )


def _separator(lines: Sequence[str]) -> str | None:
    """Return what separates cells: None for blanks, a line feed (which no line has) for a single column."""
    for separator in "\t;,":
        if separator in lines[0]:
            return separator
    widths = {len(line.split()) for line in (lines[0], lines[-1])}
    return None if len(widths) == 1 and widths != {1} else "\n"


def _cells(line: str, separator: str | None) -> list[str]:
    return [cell.strip().strip('"').strip() for cell in line.split(separator)]


def _number(cell: str, decimal_comma: bool) -> float | None:
    """Return the number of a cell, NaN for a missing sample, None for a text."""
    if cell.lower() in ("", "nan", "na"):
        return math.nan
    try:
        value = float(cell.replace(",", ".") if decimal_comma else cell)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in cell else None


def read_npy(content: bytes, rate: float | None, unit: str | None) -> Recording:
    """Read an .npy file: one lead, or channels by samples, or samples by channels. Parameters as `read_text_table`."""
    array = _decode_npy(content)
    if array is None:
        raise RecordError("unreadable", "an array of something else than numbers")
    return _from_arrays({"1": array}, rate, unit, "NumPy array")


def read_npz(content: bytes, rate: float | None, unit: str | None) -> Recording:
    """Read an .npz file: one array as in .npy, or an array for each lead. Parameters as `read_text_table`."""
    arrays, room = {}, MOST_NUMBERS_BYTES
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.infolist():
                if not member.filename.endswith(".npy"):
                    continue
                with archive.open(member) as file:
                    array = file.read(room + 1)  # whatever size the archive states
                room -= len(array)
                if room < 0:
                    raise RecordError("unreadable", f"its arrays have more than {MOST_NUMBERS_BYTES:,} bytes")
                decoded = _decode_npy(array)
                if decoded is not None:  # not names of leads, say
                    arrays[member.filename.removesuffix(".npy")] = decoded
    except RecordError:
        raise
    except Exception as error:  # a damaged archive brings zipfile to almost anything
        raise RecordError("unreadable", f"not a readable .npz file ({type(error).__name__})") from None
    return _from_arrays(arrays, rate, unit, "NumPy archive")


def read_mat_table(content: bytes, rate: float | None, unit: str | None) -> Recording:
    """Read a MATLAB 5 file: one array as in .npy, or an array for each lead. Parameters as `read_text_table`."""
    try:
        arrays = decode_mat(content, MOST_NUMBERS_BYTES)
    except (struct.error, ValueError, isal_zlib.error, MemoryError) as error:
        raise RecordError("unreadable", f"not a readable MATLAB 5 file ({error})") from None
    return _from_arrays(arrays, rate, unit, "MATLAB file")


def _decode_npy(content: bytes) -> np.ndarray | None:
    """Return the array of an .npy file, None where it holds no real numbers.

    numpy itself would make room for any shape that the file claims, and run what a pickled object says.
    """
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except Exception as error:  # the header is read with Python's own parser, which raises anything
        raise RecordError("unreadable", f"not a readable .npy file ({type(error).__name__})") from None
    data = memoryview(content)[file.tell() :]
    if dtype.kind not in "iuf":
        return None
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(data):
        raise RecordError("unreadable", f"an array of {dtype.name}, shape {shape}, in {len(data):,} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _from_arrays(arrays: Mapping[str, np.ndarray], rate: float | None, unit: str | None, source: str) -> Recording:
    """Return the recording of arrays by name: one with channels, or those of one dimension as long as the longest."""
    arrays = {name: np.squeeze(array) for name, array in arrays.items()}
    arrays = {name: array for name, array in arrays.items() if array.size > 1 and array.dtype.kind in "iuf"}
    several = [name for name, array in arrays.items() if array.ndim > 1]
    if len(several) > 1 or any(arrays[name].ndim > 2 for name in several):
        raise RecordError("unreadable", "it holds several recordings; write each to a file of its own")
    if not arrays:
        raise RecordError("unreadable", "it holds no signal")
    if several:
        array = arrays[several[0]]
        leads = _named(array if array.shape[0] < array.shape[1] else array.T)
        left_out = tuple(name for name in arrays if name != several[0])
    else:
        longest = max(map(len, arrays.values()))
        leads = {name: array for name, array in arrays.items() if len(array) == longest}
        left_out = tuple(name for name in arrays if name not in leads)
    return _recording(leads, rate, unit, source, left_out)


def _named(rows: np.ndarray) -> dict[str, np.ndarray]:
    """Name channels by number; 12 whose limb leads fit each other in the conventional order have that order."""
    if len(rows) > MOST_COLUMNS:
        raise RecordError("unreadable", f"it holds {len(rows):,} channels")
    names = LEADS if len(rows) == len(LEADS) and _in_order(rows) else [str(k + 1) for k in range(len(rows))]
    return dict(zip(names, rows))


def _real(values: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):  # what a damaged file may hold
        return np.asarray(values, dtype=np.float64)


def _in_order(rows: np.ndarray) -> bool:
    leads = dict(zip(LEADS, _real(rows)))
    for name, parts in DERIVED.items():
        expected = sum(weight * leads[part] for part, weight in parts.items())
        known = ~np.isnan(expected + leads[name])
        expected, found = expected[known] - np.mean(expected[known]), leads[name][known] - np.mean(leads[name][known])
        # Each lead may have been filtered for itself, so they need not fit to the last digit.
        if not np.dot(expected, found) > 0.97 * math.sqrt(np.dot(expected, expected) * np.dot(found, found)) > 0:
            return False
    return True


def _recording(
    columns: Mapping[str, np.ndarray], rate: float | None, unit: str | None, source: str, left_out: tuple[str, ...] = ()
) -> Recording:
    if rate is None:
        raise RecordError("bad_rate", f"a {source} states no sampling rate; give it with --rate")
    assumed = millivolts_per(unit or "mV")
    if assumed is None:
        raise RecordError("unreadable", f"{unit} is no unit of voltage")
    leads = {}
    for name, values in columns.items():
        match = _UNIT.fullmatch(name)
        stated = millivolts_per(match[2]) if match else None
        with np.errstate(invalid="ignore", over="ignore"):
            values = _real(values) * (stated or assumed)
        values[~np.isfinite(values)] = np.nan
        name = match[1] if stated else name
        if name in leads:
            raise RecordError("unreadable", SAME_NAME)
        leads[name] = values
    return Recording(leads, rate, source, left_out=left_out)

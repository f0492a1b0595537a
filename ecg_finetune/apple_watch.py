"""The CSV files of Apple Watch ECGs (Health app, "Export All Health Data").

Keys, values and numbers follow the phone's language, so nothing is found by its key: the header ends at the first line
that is a number; the rate is the value that reads "512 hertz"; the unit is the value that is a voltage. Name and date
of birth stand in the header too: no part of it that is not known to be something else may leave this module.
"""

import datetime
import re

import numpy as np

from ecg_finetune.waveform import LEADS, RecordError, Recording, millivolts_per

MOST_HEADER_LINES = 100
# Blanks between digits, minus signs and decimal separators of other languages.
_PLAIN = str.maketrans({"\u00a0": " ", "\u202f": " ", "\u2212": "-", "\u066b": ".", "\u200e": None, "\u200f": None})
# A number of one separator has a decimal one: -180,596. Only with both is one of them between thousands.
_NUMBER = re.compile(
    r"[-+]?(?:\d{1,12}(?:[.,]\d{1,20})?|\d{1,3}(?:,\d{3}){1,3}\.\d+|\d{1,3}(?:\.\d{3}){1,3},\d+)(?:[eE][-+]?\d\d?)?"
)
_SEPARATOR = re.compile("[,;\t]")  # of key and value
_UNIT = re.compile("[\u00b5\u03bcum]v", re.IGNORECASE)
_RATE = re.compile(r"(?P<number>\d{1,6}(?:[.,]\d{1,20})?) *(?P<unit>[^\W\d_]+)\.?")
# Hertz in the languages that do not write it so.
_HERTZ = ("hert", "herc", "hz", "赫", "ヘルツ", "헤르츠", "герц", "χερτζ", "هرتز", "הרץ", "เฮิรตซ์")
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?: [-+]\d{4})?")
_DEVICE = re.compile(r"Watch\d+,\d+")


def is_apple_watch(text: str) -> bool:
    """Tell whether a text is an ECG of an Apple Watch: lines of words, with a rate or unit, before the numbers."""
    header = [line for line in _header(text.lstrip("\ufeff").split("\n", MOST_HEADER_LINES + 1)) if line.strip()]
    values = [_value(line) for line in header]
    # Two lines may be the names and the units of a table.
    return len(header) > 2 and any(_rate(value) or _UNIT.fullmatch(value) for value in values)


def read_apple_watch(text: str, rate: float | None = None) -> Recording:
    """Read the lead of an Apple Watch's CSV file.

    Parameters
    ----------
    text : str
        The file.
    rate : float, optional
        Samples a second, for a file that states none.

    Raises
    ------
    RecordError
        bad_rate or unreadable.
    """
    lines = text.lstrip("\ufeff").splitlines()
    header = _header(lines)
    values = [_value(line) for line in header]
    rates = [number for value in values if (number := _rate(value))]
    if len(rates) != 1 and rate is None:
        raise RecordError("bad_rate", "its header states no sampling rate (or several); give it with --rate")
    units = [millivolts_per(value) for value in values if _UNIT.fullmatch(value)]
    if len(units) != 1:
        raise RecordError("unreadable", "its header states no unit, or several")
    samples = []
    for number, line in enumerate(lines[len(header) :], start=len(header) + 1):
        text = _plain(line)
        if _NUMBER.fullmatch(text):
            samples.append(_number(text))
        elif text:
            raise RecordError("unreadable", f"its line {number:,} is not a number")
    start = next((value for value in values if _TIME.fullmatch(value)), None)
    device = next((value for value in values if _DEVICE.fullmatch(value)), None)
    return Recording(
        {_lead(values): np.array(samples) * units[0]},
        rates[0] if len(rates) == 1 else rate,
        "Apple Watch CSV",
        _time(start) if start else None,
        f"Apple {device}" if device else "Apple Watch",
    )


def _header(lines: list[str]) -> list[str]:
    """Return the lines before the first that is a number; none if that is the first, or comes too late."""
    for count, line in enumerate(lines[: MOST_HEADER_LINES + 1]):
        if _NUMBER.fullmatch(_plain(line)):
            return lines[:count]
    return []


def _plain(text: str) -> str:
    return text.translate(_PLAIN).strip().strip('"').strip()


def _value(line: str) -> str:
    """Return what stands behind the key, which the first comma ends: those in a number need not be quoted."""
    return _plain(_SEPARATOR.split(_plain(line), 1)[-1]) if _SEPARATOR.search(line) else ""


def _number(text: str) -> float:
    """Return a number in which the last of different separators, or a single one, is the decimal separator."""
    comma, point = text.rfind(","), text.rfind(".")
    if comma > point:
        return float(text.replace(".", "").replace(",", "."))
    return float(text.replace(",", ""))


def _rate(value: str) -> float | None:
    match = _RATE.fullmatch(value)
    return _number(match["number"]) if match and match["unit"].lower().startswith(_HERTZ) else None


def _lead(values: list[str]) -> str:
    """Return the lead, which a value behind the rate ends with; the watch records Lead I."""
    behind = next((place for place, value in enumerate(values) if _rate(value)), 0)
    ends = [value.split()[-1] for value in values[behind:] if value]
    return next((end for end in ends if end in LEADS), "I")


def _time(text: str) -> datetime.datetime | None:
    try:
        return datetime.datetime.strptime(text, "%Y-%m-%d %H:%M:%S %z" if len(text) > 19 else "%Y-%m-%d %H:%M:%S")
    except ValueError:
        return None

"""The signal as ECG-FM reads it: leads and their names, units, and the way from one lead as recorded to the input.

preprocess and predict go this way: the lead is chosen by name (`find_lead`), its gaps are filled, it is resampled to
500 Hz, checked, cut, and brought to zero mean and unit deviation (`measure`, `standardise`). Build cuts the records,
fine-tuning and eval read them.
"""

import datetime
import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ecg_finetune.files import UserError

SAMPLE_RATE = 500  # Hz
CHANNELS = 12  # all hold the one lead
RECORD_SECONDS = 10
RECORD_SAMPLES = RECORD_SECONDS * SAMPLE_RATE
SEGMENT_SAMPLES = RECORD_SAMPLES // 2
# Resampling 10 s reaches at most 10.002 s into a record.
SECONDS_READ = 10.01

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
# What the limb leads that a recording lacks are of those that it has; GE MUSE stores I and II alone.
DERIVED = {
    "III": {"I": -1.0, "II": 1.0},
    "aVR": {"I": -0.5, "II": -0.5},
    "aVL": {"I": 1.0, "II": -0.5},
    "aVF": {"I": -0.5, "II": 1.0},
}
_LEAD_PREFIX = re.compile(r"mdc_ecg_lead_|(?:(?:ecg|ekg)[ _-]*)?lead[ _-]*|(?:ecg|ekg)[ _-]+")
_ALIASES = {
    **{lead.lower(): lead for lead in LEADS},
    **{f"{start}{number}": lead for start in ("ml", "d") for number, lead in zip(("i", "ii", "iii"), LEADS)},
    **{f"{start}{number}": lead for start in ("d", "lead ") for number, lead in zip("123", LEADS)},
}
_MILLIVOLTS = {"v": 1e3, "mv": 1.0, "uv": 1e-3, "\u00b5v": 1e-3, "\u03bcv": 1e-3, "nv": 1e-6}

# Beyond these, a rate is an error of its header: a lower one shows no QRS complex, a higher one belongs to no ECG.
LOWEST_RATE, HIGHEST_RATE = 50, 100_000  # Hz
# From here on a straight line between samples is as good as any interpolation (r > 0.995), and it is what ECG-FM did;
# at 128 Hz it is not (r = 0.973).
LOWEST_LINEAR_RATE = 250  # Hz

# Limits, stated in docs/preprocess-and-build.md. A gap of 0.2 s is shorter than any beat interval that matters, and a
# straight line across it adds no wave; a longer one would be an invention.
LONGEST_GAP_S = 0.2
GREATEST_NAN_SHARE = 0.1
LONGEST_FLAT_S = 5.0  # half of the record, the length of one training segment
GREATEST_AMPLITUDE_MV = 20.0
LONGEST_DETAIL = 200  # characters


class RecordError(UserError):
    """A record that cannot be used: `status` is the reason's short name, `detail` says more.

    Parts of the detail come from headers: control characters are taken out of it, and it is cut to some 200 characters.
    """

    def __init__(self, status: str, detail: str):
        self.status = status
        shown = "".join(letter if letter.isprintable() else " " for letter in detail[:LONGEST_DETAIL])
        self.detail = " ".join(shown.split()) + (" ..." if len(detail) > LONGEST_DETAIL else "")
        super().__init__(status, self.detail)

    def __str__(self) -> str:
        return f"{self.detail} ({self.status})"


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
        return millivolts_per(self.unit) or 1.0


@dataclass(frozen=True)
class Recording:
    """A recording as its file has it, without anything that says whose it is.

    Parameters
    ----------
    leads : mapping
        Name in the file to float64 (samples,) in millivolts, NaN where missing; all of one length.
    rate : int or float
        Samples a second.
    source : str
        The format, such as "Apple Watch CSV".
    start : datetime, optional
        When it was recorded, where the file says so.
    device : str
        Maker and model, where the file says so.
    left_out : tuple of str
        Channels that are no voltage or have another rate than the leads.
    """

    leads: Mapping[str, np.ndarray]
    rate: int | float
    source: str
    start: datetime.datetime | None = None
    device: str = ""
    left_out: tuple[str, ...] = ()


# Names and units


def lead_number(lead: str) -> int:
    """Return the number of a lead as folder names use it: I is 1, aVF is 6, V6 is 12.

    This is the conventional order of the 12 leads, not the order of channels in a record: MIMIC-IV-ECG stores
    aVF before aVL, so a record's channel is always found by name.

    Raises
    ------
    ValueError
        `lead` is none of `LEADS`.
    """
    return LEADS.index(lead) + 1


@functools.lru_cache(maxsize=1000)
def standard_lead(name: str) -> str | None:
    """Return which of the 12 leads a channel's name means; None if it means none of them.

    >>> [standard_lead(name) for name in ("avr", "ECG Lead I", "MDC_ECG_LEAD_V2", "D1", "MLII", "ECG")]
    ['aVR', 'I', 'V2', 'I', 'II', None]
    """
    text = " ".join(name.lower().split())
    return _ALIASES.get(text) or _ALIASES.get(_LEAD_PREFIX.sub("", text, count=1))


def find_lead(names: Sequence[str], lead: str, channel: str | None = None) -> int | None:
    """Return the position of a lead among the names of a recording's channels; None if it is not there.

    A single channel is the lead asked for, unless its name means another of the 12.

    Parameters
    ----------
    names : sequence of str
        The names.
    lead : str
        One of `LEADS`; as written, else by another name of it (`standard_lead`).
    channel : str, optional
        The channel to take for the lead whatever its name says: a name, else a number counted from 1.

    Raises
    ------
    RecordError
        no_lead: there is no such `channel`.
    """
    if channel is not None:
        return _find_channel(names, channel)
    if lead in names:
        return names.index(lead)
    meant = [standard_lead(name) for name in names]
    if lead in meant:
        return meant.index(lead)
    return 0 if meant == [None] else None


def _find_channel(names: Sequence[str], channel: str) -> int:
    if channel in names:
        return names.index(channel)
    folded, wanted = [name.strip().lower() for name in names], channel.strip().lower()
    if wanted in folded:
        return folded.index(wanted)
    if channel.isascii() and channel.isdigit() and len(channel) < 10 and 1 <= int(channel) <= len(names):
        return int(channel) - 1
    raise RecordError("no_lead", f"no channel {channel} among {' '.join(names)}")


def lead_parts(names: Sequence[str], lead: str, channel: str | None = None) -> dict[int, float]:
    """Return the positions of the channels that make a lead, with their weights: one, or I and II (`DERIVED`).

    Raises
    ------
    RecordError
        no_lead: the lead is not there, and does not follow from I and II; or there is no such `channel`.
    """
    position = find_lead(names, lead, channel)
    if position is not None:
        return {position: 1.0}
    meant = [standard_lead(name) for name in names]
    if lead in DERIVED and "I" in meant and "II" in meant:
        return {meant.index(part): weight for part, weight in DERIVED[lead].items()}
    raise RecordError("no_lead", f"no lead {lead} among {' '.join(names)}")


@functools.lru_cache(maxsize=100)
def millivolts_per(unit: str) -> float | None:
    """Return what one unit is in millivolts; None for a unit that is no voltage.

    >>> [millivolts_per(unit) for unit in ("mV", "mv", "uV", "V", "mmHg")]
    [1.0, 1.0, 0.001, 1000.0, None]
    """
    return _MILLIVOLTS.get(unit.strip().lower())


def refuse_rate(rate: float) -> None:
    """Raise `RecordError` (bad_rate) for a rate that no ECG has."""
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise RecordError("bad_rate", f"{rate} Hz, not {LOWEST_RATE} to {HIGHEST_RATE:,} Hz")


# From the lead as recorded to the network's input


class SignalStatistics(NamedTuple):
    """What the report says of a signal: its rate (Hz), the samples of the record, and of its first 10 s as recorded the
    mean and standard deviation (mV), the missing samples, and how long (s) it stays at one value.

    Mean and deviation are NaN where every sample is missing.
    """

    rate: int | float
    samples: int
    mean_mv: float
    std_mv: float
    nan_count: int
    longest_flat_s: float


class Centred(NamedTuple):
    """Values less their mean (float64), the mean, and the standard deviation (of the population)."""

    values: np.ndarray
    mean: float
    std: float


def measure(signal: LeadSignal) -> tuple[SignalStatistics, Centred]:
    """Return the statistics of the first 10 s, and its samples that are not missing, centred, in the record's unit."""
    values = signal.values[: math.ceil(RECORD_SECONDS * signal.rate)]
    nan_count, centred = 0, centre(values)
    if math.isnan(centred.mean):
        missing = np.isnan(values)
        nan_count, centred = int(np.count_nonzero(missing)), centre(values[~missing])
    scale, flat = signal.millivolts_per_unit, longest_run(values) / signal.rate
    mean_mv, std_mv = centred.mean * scale, centred.std * scale
    return SignalStatistics(signal.rate, signal.samples, mean_mv, std_mv, nan_count, flat), centred


def centre(values: np.ndarray) -> Centred:
    """Return the values less their mean, with mean and standard deviation; NaN if there are none, or any is NaN."""
    if not len(values):
        return Centred(values, math.nan, math.nan)
    # The sums are numpy's own, not those of its BLAS, whose last bit depends on the processor.
    mean = float(np.add.reduce(values)) / len(values)
    rest = values - mean
    return Centred(rest, mean, math.sqrt(float(np.add.reduce(rest * rest)) / len(values)))


def longest_run(values: np.ndarray) -> int:
    """Return how many samples the longest run of one value has; NaN belongs to no run.

    >>> longest_run(np.array([1.0, 2.0, 2.0, 2.0, np.nan, np.nan]))
    3
    """
    last = np.flatnonzero(values[1:] != values[:-1])  # of every run but the final one
    if not len(last):
        return len(values)
    return max(int(last[0]) + 1, len(values) - 1 - int(last[-1]), int((last[1:] - last[:-1]).max(initial=0)))


def standardise(
    signal: LeadSignal, statistics: SignalStatistics, centred: Centred, samples: int = RECORD_SAMPLES
) -> np.ndarray:
    """Return the network's input: float32 (samples,), 10 s at 500 Hz with zero mean and unit standard deviation.

    Parameters
    ----------
    signal : LeadSignal
        At least its first `SECONDS_READ`.
    statistics, centred
        What `measure` says of it.
    samples : int
        How many at 500 Hz; fewer than the 10 s for a recording that is shorter.

    Raises
    ------
    RecordError
        too_short, nan, flat or amplitude.
    """
    size = resampled_size(signal)
    if size < samples:
        needed = f"{samples / SAMPLE_RATE:g} s are needed"
        raise RecordError("too_short", f"{signal.samples / signal.rate:.3g} s, {needed}")
    values = signal.values[: math.ceil(SECONDS_READ * signal.rate)]
    # Resampling also looks at what little is read beyond the 10 s.
    if statistics.nan_count or (
        signal.rate != SAMPLE_RATE and np.isnan(values[math.ceil(RECORD_SECONDS * signal.rate) :]).any()
    ):
        values = fill_gaps(values, signal.rate)
    if statistics.longest_flat_s >= LONGEST_FLAT_S:
        raise RecordError("flat", f"one value for {statistics.longest_flat_s:.3g} s")
    values = to_500_hz(values, signal, size)[:samples]
    peak = max(float(values.max()), -float(values.min())) * signal.millivolts_per_unit
    if peak > GREATEST_AMPLITUDE_MV:
        raise RecordError("amplitude", f"{peak:.4g} mV, beyond {GREATEST_AMPLITUDE_MV:g} mV")
    # At 500 Hz and without gaps, the first 10 s are the values that were measured.
    if signal.rate != SAMPLE_RATE or statistics.nan_count or len(values) != len(centred.values):
        centred = centre(values)
    if not centred.std > 0:
        raise RecordError("flat", "one value throughout")
    return (centred.values / centred.std).astype(np.float32)


def resampled_size(signal: LeadSignal) -> int:
    """Return how many samples the whole record has at 500 Hz."""
    return int(signal.samples * SAMPLE_RATE / signal.rate)


def resampling(rate: float) -> str:
    """Return how a lead of this rate comes to 500 Hz: none, linear or band-limited.

    >>> [resampling(rate) for rate in (500, 1000, 300, 128)]
    ['none', 'linear', 'linear', 'band-limited']
    """
    if rate == SAMPLE_RATE:
        return "none"
    return "linear" if rate >= LOWEST_LINEAR_RATE else "band-limited"


def to_500_hz(values: np.ndarray, signal: LeadSignal, size: int) -> np.ndarray:
    """Resample values of a signal that have no gaps, and cut them to 10 s.

    From 250 Hz on by linear interpolation as ECG-FM does. The first and last sample of the whole record stay where they
    are: sample k of `size` is taken at position k * (samples - 1) / (size - 1) of the original. Below 250 Hz
    band-limited, through `scipy.signal.resample_poly`.
    """
    match resampling(signal.rate):
        case "none":
            return values[:RECORD_SAMPLES]
        case "linear":
            positions = np.arange(min(size, RECORD_SAMPLES)) * ((signal.samples - 1) / (size - 1))
            return np.interp(positions, np.arange(len(values)), values)
        case _:
            try:
                from scipy.signal import resample_poly  # 0.3 s to import, and most data sets never need it
            except ImportError:
                needed = "needs scipy: pip install scipy"
                raise UserError(f"a rate of {signal.rate:g} Hz, below {LOWEST_LINEAR_RATE} Hz, {needed}") from None

            # The straight line from first to last sample is taken off meanwhile, so that the filter meets no step at
            # the ends.
            rate = signal.rate
            if rate == int(rate):
                return resample_poly(values, SAMPLE_RATE, int(rate), padtype="line")[:RECORD_SAMPLES]
            times = math.ceil(4 * SAMPLE_RATE / rate)  # so many samples for one that straight lines between them do
            fine = resample_poly(values, times, 1, padtype="line")
            positions = np.arange(min(size, RECORD_SAMPLES)) * (times * rate / SAMPLE_RATE)
            return np.interp(positions, np.arange(len(fine)), fine)


def fill_gaps(values: np.ndarray, rate: float) -> np.ndarray:
    """Draw a straight line across the missing samples of the first 10 s (at the edges: the nearest value).

    Raises
    ------
    RecordError
        nan: a gap is longer than 0.2 s, or more than a tenth of the samples are missing.
    """
    missing = np.isnan(values)
    share = float(missing[: math.ceil(RECORD_SECONDS * rate)].mean())
    edges = np.flatnonzero(np.diff(missing, prepend=False, append=False))
    longest = float((edges[1::2] - edges[::2]).max(initial=0)) / rate
    if longest > LONGEST_GAP_S or share > GREATEST_NAN_SHARE:
        raise RecordError("nan", f"{share:.2%} of the samples are missing, the longest gap has {longest:.3g} s")
    index = np.arange(len(values))
    return np.interp(index, index[~missing], values[~missing])

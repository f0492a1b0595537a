"""From the lead as recorded to what the network reads: gaps filled, 500 Hz, exactly 10 s, zero mean, unit deviation."""

import math
from typing import NamedTuple

import numpy as np

from ecg_finetune.waveform import RECORD_SAMPLES, RECORD_SECONDS, SAMPLE_RATE
from ecg_preprocess.record import LeadSignal, RecordError

# Resampling 10 s reaches at most 10.002 s into a record.
SECONDS_READ = 10.01

# Limits, stated in docs/preprocess-and-build.md. A gap of 0.2 s is shorter than any beat interval that matters, and a
# straight line across it adds no wave; a longer one would be an invention.
LONGEST_GAP_S = 0.2
GREATEST_NAN_SHARE = 0.1
LONGEST_FLAT_S = 5.0  # half of the record, the length of one training segment
GREATEST_AMPLITUDE_MV = 20.0


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


def standardise(signal: LeadSignal, statistics: SignalStatistics, centred: Centred) -> np.ndarray:
    """Return the network's input: float32 (5000,), 10 s at 500 Hz with zero mean and unit standard deviation.

    Parameters
    ----------
    signal : LeadSignal
        At least its first `SECONDS_READ`.
    statistics, centred
        What `measure` says of it.

    Raises
    ------
    RecordError
        too_short, nan, flat or amplitude.
    """
    size = resampled_size(signal)
    if size < RECORD_SAMPLES:
        raise RecordError("too_short", f"{signal.samples / signal.rate:.3g} s, 10 s are needed")
    values = fill_gaps(signal.values, signal.rate) if statistics.nan_count else signal.values
    if statistics.longest_flat_s >= LONGEST_FLAT_S:
        raise RecordError("flat", f"one value for {statistics.longest_flat_s:.3g} s")
    values = to_500_hz(values, signal, size)
    peak = max(float(values.max()), -float(values.min())) * signal.millivolts_per_unit
    if peak > GREATEST_AMPLITUDE_MV:
        raise RecordError("amplitude", f"{peak:.4g} mV, beyond {GREATEST_AMPLITUDE_MV:g} mV")
    if signal.rate != SAMPLE_RATE or statistics.nan_count:  # else these are the values that were measured
        centred = centre(values)
    if not centred.std > 0:
        raise RecordError("flat", "one value throughout")
    return (centred.values / centred.std).astype(np.float32)


def resampled_size(signal: LeadSignal) -> int:
    """Return how many samples the whole record has at 500 Hz."""
    return int(signal.samples * SAMPLE_RATE / signal.rate)


def to_500_hz(values: np.ndarray, signal: LeadSignal, size: int) -> np.ndarray:
    """Resample by linear interpolation as ECG-FM does, and cut to 10 s.

    The first and last sample of the whole record stay where they are: sample k of `size` is taken at position
    k * (samples - 1) / (size - 1) of the original.
    """
    if signal.rate == SAMPLE_RATE:
        return values[:RECORD_SAMPLES]
    positions = np.arange(RECORD_SAMPLES) * ((signal.samples - 1) / (size - 1))
    return np.interp(positions, np.arange(len(values)), values)


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

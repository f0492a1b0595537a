"""A recording of any length as the network reads it: windows of 10 s, each standardised on its own and cut in two."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ecg_finetune.waveform import (
    RECORD_SAMPLES,
    RECORD_SECONDS,
    SAMPLE_RATE,
    SEGMENT_SAMPLES,
    LeadSignal,
    RecordError,
    measure,
    refuse_rate,
    standardise,
)

SHORTEST_SECONDS = SEGMENT_SAMPLES / SAMPLE_RATE
MOST_UNSEEN_S = 0.1  # between two windows, where a further one would repeat nearly all of the last


@dataclass(frozen=True)
class Window:
    """A window of a recording.

    Attributes
    ----------
    start_s : float
        Where it begins, in seconds.
    seconds : float
        How long it is: 10, or less where the recording is shorter.
    status, detail : str
        "ok", or why it cannot be used; more about it in words.
    segments : ndarray float32 (segments, 2500), optional
        What the network reads of it; None where it cannot be used.
    """

    start_s: float
    seconds: float
    status: str
    detail: str
    segments: np.ndarray | None

    @property
    def lead(self) -> np.ndarray:
        """The whole of it, standardised, at 500 Hz: float32 (samples,); only of a window that can be used."""
        rest = round(self.seconds * SAMPLE_RATE) - SEGMENT_SAMPLES
        return np.concatenate([self.segments[0], self.segments[-1][SEGMENT_SAMPLES - rest :]])


def window_starts(samples: int, rate: float) -> list[int]:
    """Return the first sample of each window: one after the other, the last one aligned to the end.

    >>> window_starts(27 * 500, 500), window_starts(30 * 500, 500), window_starts(7 * 500, 500)
    ([0, 5000, 8500], [0, 5000, 10000], [0])
    """
    length = window_length(rate)
    if samples <= length:
        return [0]
    count = math.ceil((samples - MOST_UNSEEN_S * rate) / (RECORD_SECONDS * rate))
    starts = [round(number * RECORD_SECONDS * rate) for number in range(count - 1)]
    return [*starts, samples - length] if count > 1 else [0]


def window_length(rate: float) -> int:
    """Return how many samples 10 s have, so that they give 5000 at 500 Hz."""
    return math.ceil(RECORD_SECONDS * rate)


def cut_windows(values: np.ndarray, rate: float) -> Iterator[Window]:
    """Yield the windows of a lead.

    Parameters
    ----------
    values : ndarray float64 (samples,)
        In millivolts, NaN where missing.
    rate : float
        Samples a second.

    Raises
    ------
    RecordError
        too_short or bad_rate: the recording gives no window at all.
    """
    refuse_rate(rate)
    samples = min(RECORD_SAMPLES, int(len(values) * SAMPLE_RATE / rate))
    if samples < SEGMENT_SAMPLES:
        raise RecordError("too_short", f"{len(values) / rate:.3g} s, {SHORTEST_SECONDS:g} s are needed")
    for start in window_starts(len(values), rate):
        part = values[start : start + window_length(rate)]
        yield _window(start / rate, LeadSignal(part, "mV", rate, len(part)), samples)


def _window(start_s: float, signal: LeadSignal, samples: int) -> Window:
    seconds = samples / SAMPLE_RATE
    try:
        lead = standardise(signal, *measure(signal), samples)
    except RecordError as error:
        return Window(start_s, seconds, error.status, error.detail, None)
    detail = "" if samples == RECORD_SAMPLES else f"{seconds:.3g} s instead of {RECORD_SECONDS} s"
    starts = sorted({0, samples - SEGMENT_SAMPLES})
    segments = np.stack([lead[begin : begin + SEGMENT_SAMPLES] for begin in starts])
    return Window(start_s, seconds, "ok", detail, segments)

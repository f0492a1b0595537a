"""Recordings that are upside down: a watch on the other arm, a handheld turned round.

In lead I of a heart that lies where it should, P wave, QRS complex and T wave point upwards. Disease turns one or two
of them round, seldom all three; a device worn the wrong way always does. So the average beat decides: where it points
downwards as a whole, the recording is called inverted. docs/use-the-model.md has how often that is right.
"""

from collections.abc import Iterable

import numpy as np

from ecg_finetune.waveform import SAMPLE_RATE
from ecg_finetune.windows import Window

FEWEST_BEATS = 4  # in a window
SHORTEST_INTERVAL = 0.5  # seconds: in a faster rhythm P and T waves run into one another
LEAST_LIKENESS = 0.8  # of the beats to their average: below, it is an average of noise
# Of where QRS complex, three times T and three times P wave point, and where the QRS complex is no spike on a baseline,
# in its heights.
CLEAR, WIDEST = -0.7, -1.2


def is_inverted(windows: Iterable[Window]) -> bool:
    """Tell whether lead I is clearly upside down.

    The median over its windows is, and at least half of those that can be used show a beat.
    """
    beats = [measure_beat(window.lead) for window in windows if window.segments is not None]
    found = [beat for beat in beats if beat is not None]
    if not found or 2 * len(found) < len(beats):
        return False
    qrs, t, p = np.median(found, axis=0)
    return bool(WIDEST < qrs < 0 and t < 0 and qrs + 3 * t + 3 * p < CLEAR)


def measure_beat(lead: np.ndarray) -> tuple[float, float, float] | None:
    """Return where QRS complex, T wave and P wave of the average beat point.

    Parameters
    ----------
    lead : ndarray (samples,)
        At 500 Hz.

    Returns
    -------
    tuple of float, or None
        Of each the sum of its highest and lowest point above the baseline, in heights of the QRS complex: negative
        where it points downwards. None: there are too few beats, or they are too fast or too different.
    """
    spectrum = np.fft.rfft(lead)
    frequency = np.fft.rfftfreq(len(lead), 1 / SAMPLE_RATE)
    smooth = np.fft.irfft(spectrum * _band(frequency, 0.5, 40), len(lead))
    peaks = find_beats(np.fft.irfft(spectrum * _band(frequency, 8, 30), len(lead)))
    before, after = _samples(0.3), _samples(0.5)
    beats = [smooth[p - before : p + after] for p in peaks if p >= before and p + after <= len(lead)]
    interval = float(np.median(np.diff(peaks))) / SAMPLE_RATE if len(peaks) > 1 else 0
    if len(beats) < FEWEST_BEATS or interval < SHORTEST_INTERVAL:
        return None
    beat = np.median(beats, axis=0)

    def part(start_s: float, end_s: float) -> np.ndarray:
        return beat[before + _samples(start_s) : before + _samples(end_s)]

    beat = beat - np.median(np.concatenate([part(-0.09, -0.06), part(-0.28, -0.22)]))
    qrs = part(-0.06, 0.06)
    around = slice(before - _samples(0.06), before + _samples(0.06))
    if _likeness(np.array(beats)[:, around], qrs) < LEAST_LIKENESS:
        return None
    height = qrs.max() - qrs.min()
    t, p = part(0.14, min(0.42, 0.6 * interval)), np.sort(part(-0.24, -0.07))
    if not height > 0 or not len(t):
        return None
    return (
        float(qrs.max() + qrs.min()) / height,
        float(t.max() + t.min()) / height,
        float(p[len(p) // 20] + p[-1 - len(p) // 20]) / height,
    )


def _likeness(beats: np.ndarray, average: np.ndarray) -> float:
    """Return the mean correlation of beats (n, samples) with their average (samples,)."""
    beats = beats - beats.mean(axis=1, keepdims=True)
    average = average - average.mean()
    norms = np.sqrt((beats**2).sum(axis=1) * (average**2).sum())
    return float(np.divide(beats @ average, norms, out=np.zeros(len(beats)), where=norms > 0).mean())


def find_beats(steep: np.ndarray) -> list[int]:
    """Return the steepest point of each beat in a lead (samples,) of which 8 to 30 Hz are left."""
    width = _samples(0.1)
    energy = np.convolve(steep**2, np.full(width, 1 / width), "same")
    loud = energy > 0.35 * np.sort(energy)[-1 - len(energy) // 50]
    peaks, start = [], 0
    while True:
        ahead = np.flatnonzero(loud[start:])
        if not len(ahead):
            return peaks
        begin = start + int(ahead[0])
        top = begin + int(np.argmax(energy[begin : begin + _samples(0.25)]))
        near = max(0, top - _samples(0.08))
        peaks.append(near + int(np.argmax(np.abs(steep[near : top + _samples(0.08)]))))
        start = top + _samples(0.25)


def _samples(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)


def _band(frequency: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return what a band-pass filter of second order without delay leaves of each frequency."""
    with np.errstate(divide="ignore"):
        return 1 / (1 + (low / frequency) ** 4) / (1 + (frequency / high) ** 4)

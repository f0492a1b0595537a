"""One lead drawn on ECG paper, as inline SVG: 25 mm/s, 10 mm/mV, a 1 mm and a 5 mm grid."""

import math
from html import escape

import numpy as np

# All coordinates are hundredths of a millimetre of paper: whole numbers keep a 10 s strip near 20 kB.
MM = 100
SECOND = 25 * MM
MILLIVOLT = 10 * MM
LEFT = 10 * MM  # room for the calibration pulse: 1 mV for 0.2 s
TOP = 5 * MM  # room for the caption
REACH = (1.0, 4.0)  # millivolts shown above and below the middle: at least, at most


def strip_svg(millivolts: np.ndarray, rate: float, caption: str = "") -> str:
    """Draw one lead as an inline SVG element, true to scale when printed.

    The strip is centred on the lead's median; an offset of at least 0.5 mV is stated. Missing samples (NaN) are a
    shaded gap. What leaves the paper, more than 4 mV from the middle, is cut off at its edge and marked there in red.

    Parameters
    ----------
    millivolts : ndarray (samples,)
        The signal in millivolts; NaN where it is missing.
    rate : float
        Samples per second.
    caption : str
        Plain text above the trace; it is also what a screen reader says.

    Returns
    -------
    str
        `<svg ...>...</svg>`, with no outside reference, as wide as its container allows and at most as wide as paper.
    """
    signal = np.asarray(millivolts, dtype=np.float64)
    valid = np.isfinite(signal)
    offset = _middle(signal[valid]) if valid.any() else 0.0
    signal = signal - offset
    top, bottom = _reach(signal[valid]), _reach(-signal[valid])
    # Whole 5 mm squares above and below the middle line.
    width = LEFT + math.ceil(len(signal) * SECOND / rate / (5 * MM)) * 5 * MM
    middle = TOP + round(top * MILLIVOLT)
    height = middle + round(bottom * MILLIVOLT) + 5 * MM
    x = LEFT + np.rint(np.arange(len(signal)) * SECOND / rate).astype(int)
    y = middle - np.rint(np.where(valid, np.clip(signal, -bottom, top), 0) * MILLIVOLT).astype(int)
    outside = valid & ((signal > top) | (signal < -bottom))

    notes = ["25 mm/s, 10 mm/mV"]
    if abs(offset) >= 0.5:
        notes.append(f"offset of {offset:+.2f} mV not shown")
    if outside.any():
        notes.append(f"cut off: {np.nanmin(signal + offset):.1f} to {np.nanmax(signal + offset):.1f} mV")
    if not valid.all():
        notes.append(f"{np.mean(~valid):.1%} missing")
    text = 'font-family="sans-serif" font-size="300" fill="#333"'
    pulse = f"M{MM} {middle}h{MM}v{-MILLIVOLT}h{SECOND // 5}v{MILLIVOLT}h{MM}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(caption or "ECG strip")}"'
        f' viewBox="0 0 {width} {height}" width="{width // MM}mm" style="max-width:100%;height:auto;background:#fff">'
        f'<path d="{_grid(width, height, MM)}" stroke="#f6d5d2" stroke-width="8" fill="none"/>'
        f'<path d="{_grid(width, height, 5 * MM)}" stroke="#e9a8a2" stroke-width="14" fill="none"/>'
        f'<path d="{_gaps(x, valid, SECOND / rate, height)}" fill="#c0392b" fill-opacity="0.15"/>'
        f'<path d="{pulse}" stroke="#111" stroke-width="25" fill="none"/>'
        f'<path d="{_trace(x, y, valid)}" stroke="#111" stroke-width="25" stroke-linejoin="round" fill="none"/>'
        f'<path d="{_trace(x, y, outside)}" stroke="#c0392b" stroke-width="60" stroke-linecap="round" fill="none"/>'
        f'<text x="{MM}" y="{TOP - MM}" {text}>{escape(caption)}</text>'
        f'<text x="{MM}" y="{height - MM}" {text}>{escape("; ".join(notes))}</text>'
        "</svg>"
    )


def _middle(values: np.ndarray) -> float:
    """Return the median (of an even number of values: the upper of the two)."""
    return float(np.partition(values, len(values) // 2)[len(values) // 2])  # np.median imports numpy.ma: 0.03 s


def _reach(signal: np.ndarray) -> float:
    """Return how many millivolts of paper the positive side of a centred signal gets, in steps of 0.5 (5 mm)."""
    needed = np.ceil(signal.max(initial=0) * 2) / 2
    return float(np.clip(needed, *REACH))


def _grid(width: int, height: int, step: int) -> str:
    vertical = "".join(f"M{x} 0v{height}" for x in range(0, width + 1, step))
    return vertical + "".join(f"M0 {y}h{width}" for y in range(0, height + 1, step))


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """Return the (first, one past last) positions of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
    return [(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def _trace(x: np.ndarray, y: np.ndarray, shown: np.ndarray) -> str:
    """Return a path through the samples of each run of `shown`; a lone sample becomes a dot."""
    parts = []
    for start, stop in _runs(shown):
        steps = np.column_stack((np.diff(x[start:stop]), np.diff(y[start:stop])))
        parts.append(f"M{x[start]} {y[start]}l" + (" ".join(f"{dx} {dy}" for dx, dy in steps.tolist()) or "1 0"))
    return "".join(parts).replace(" -", "-")


def _gaps(x: np.ndarray, valid: np.ndarray, step: float, height: int) -> str:
    """Return a path around each run of missing samples, over the whole height of the paper."""
    return "".join(
        f"M{x[start]} 0H{x[start] + max(round((stop - start) * step), MM // 4)}V{height}H{x[start]}z"
        for start, stop in _runs(~valid)
    )

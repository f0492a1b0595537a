"""The report's figures as small inline SVG: curves thinned to what the eye can see, no fonts, no scripts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import escape

from ecg_evaluation.metrics import threshold_curve

# What the classes in the SVG look like; goes into the page once. The variables are those of `html_page`.
STYLE = """
.axis { fill: none; stroke: var(--faint); } .grid { fill: none; stroke: var(--line); }
.guide { fill: none; stroke: var(--faint); stroke-dasharray: 3 3; }
.curve { fill: none; stroke: var(--accent); stroke-width: 1.6; stroke-linejoin: round; } .point { fill: var(--mark); }
.before { fill: none; stroke: var(--faint); stroke-width: 1.2; }
.after { fill: none; stroke: var(--accent); stroke-width: 1.4; }
.before-dot { fill: var(--page); stroke: var(--faint); } .after-dot { fill: var(--accent); }
.whisker { stroke: var(--accent); stroke-width: 2; } .published { fill: none; stroke: var(--ink); stroke-width: 1.2; }
.heat { fill: var(--accent); } .box { fill: var(--band); stroke: var(--faint); }
svg.figure text { font-size: 9px; fill: var(--ink); } svg.figure text.on { fill: var(--page); }
svg.figure text.soft { fill: var(--soft); } .end { text-anchor: end; } .middle { text-anchor: middle; }
svg.figure text.strong { font-weight: 600; }
"""
LAYOUT = """
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 28rem), 1fr)); gap: .4rem 1.6rem; }
.plots figure { margin: .3rem 0; } .plots figcaption { color: inherit; } .plots figcaption b { display: block; }
.plots .four { display: grid; grid-template-columns: repeat(4, 1fr); gap: .3rem; }
.wide svg { max-width: none; }
.forest { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: .5rem 1rem; }
.forest svg { width: 100%; } .flow svg { width: 100%; max-width: 34rem; }
@media (max-width: 480px) { .plots .four { grid-template-columns: 1fr 1fr; } }
@media print { .plots { grid-template-columns: 1fr 1fr; } .forest { grid-template-columns: 1fr 1fr; }
  .wide svg { width: 130mm; } }
"""
SIDE = 100  # a panel's plot area is SIDE x SIDE units
LEFT, TOP = 27, 4
STEPS = 250  # points closer than 1 / STEPS of the axis are one


def panel(content: str, x_label: str, y_label: str, alt: str, top: float = 1) -> str:
    """Return a square panel with both axes from 0 to `top` around `content`, drawn in units of `SIDE`.

    `alt` is plain text that says what the panel shows, with its numbers, to who does not see it.
    """
    ticks = "".join(
        f'<text class="soft middle" x="{LEFT + value * SIDE:g}" y="{TOP + SIDE + 10}">{value * top:g}</text>'
        f'<text class="soft end" x="{LEFT - 3}" y="{TOP + (1 - value) * SIDE + 3:g}">{value * top:g}</text>'
        for value in (0, 0.5, 1)
    )
    left = LEFT if top == 1 else LEFT + 11  # the smaller the axis, the longer its numbers
    return (
        f'<svg class="figure" viewBox="{LEFT - left} 0 {left + SIDE + 6} {TOP + SIDE + 24}" role="img" '
        f'aria-label="{escape(alt)}">{ticks}'
        f'<text class="middle" x="{LEFT + SIDE / 2}" y="{TOP + SIDE + 21}">{x_label}</text>'
        f'<text class="middle" transform="translate({LEFT - left + 7} {TOP + SIDE / 2}) rotate(-90)">{y_label}</text>'
        f'<g transform="translate({LEFT} {TOP})"><path class="grid" d="M0 {SIDE / 2}h{SIDE}M{SIDE / 2} 0v{SIDE}"/>'
        f'<path class="axis" d="M0 0h{SIDE}v{SIDE}h-{SIDE}z"/>{content}</g></svg>'
    )


def thinned(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the points (m, 2) of x, y (n,) in the unit square that can be told apart, each once."""
    points = np.rint(np.column_stack((x, y)) * STEPS).astype(int)
    places = np.unique(points, axis=0, return_index=True)[1]
    return points[np.sort(places)] / STEPS


def path(x: np.ndarray, y: np.ndarray, css: str, steps: bool = False) -> str:
    """Return a line through points x, y (n,) of the unit square, points that cannot be told apart drawn once.

    With `steps` each point's height holds back to the point before, as a precision-recall curve is read.
    """
    places = [(f"{px:g}", f"{SIDE - py:g}") for px, py in (thinned(x, y) * SIDE).round(3)]
    first, rest = places[0], places[1:]
    line = "".join(f"V{py}H{px}" for px, py in rest) if steps else "".join(f"L{px} {py}" for px, py in rest)
    return f'<path class="{css}" d="M{first[0]} {first[1]}{line}"/>'


def dot(x: float, y: float, css: str, radius: float = 2.6) -> str:
    """Return a dot at a point of the unit square."""
    return f'<circle class="{css}" cx="{x * SIDE:.1f}" cy="{(1 - y) * SIDE:.1f}" r="{radius:.1f}"/>'


@dataclass(frozen=True)
class Curve:
    """The points of a curve in the unit square, and the one at the threshold (NaN without one)."""

    x: np.ndarray
    y: np.ndarray
    point: tuple[float, float]


def roc_curve(truth: np.ndarray, scores: np.ndarray, threshold: float) -> Curve:
    """Return recall against 1 - specificity of truth and scores (n,); truth must hold both kinds."""
    thresholds, tp, fp = threshold_curve(truth, scores)
    x, y = np.append(0, fp / fp[-1]), np.append(0, tp / tp[-1])
    place = np.searchsorted(-thresholds, -threshold, side="right")  # how many distinct scores are passed
    return Curve(x, y, (np.nan, np.nan) if np.isnan(threshold) else (x[place], y[place]))


def precision_recall_curve(truth: np.ndarray, scores: np.ndarray, threshold: float) -> Curve:
    """Return precision against recall of truth and scores (n,); truth holds a positive."""
    thresholds, tp, fp = threshold_curve(truth, scores)
    recall, precision = tp / tp[-1], tp / (tp + fp)
    place = np.searchsorted(-thresholds, -threshold, side="right") - 1
    undefined = np.isnan(threshold) or place < 0
    point = (np.nan, np.nan) if undefined else (recall[place], precision[place])
    return Curve(np.append(0, recall), np.append(precision[0], precision), point)


def roc_panel(curve: Curve, alt: str) -> str:
    """Return a ROC curve with a dot at the threshold."""
    content = f'<path class="guide" d="M0 {SIDE}L{SIDE} 0"/>' + path(curve.x, curve.y, "curve")
    return panel(content + _point(curve), "1 \u2212 specificity", "recall", alt)


def precision_recall_panel(curve: Curve, prevalence: float, alt: str) -> str:
    """Return a precision-recall curve with a dot at the threshold, and the prevalence as guide."""
    content = f'<path class="guide" d="M0 {(1 - prevalence) * SIDE:.1f}h{SIDE}"/>'
    content += path(curve.x, curve.y, "curve", steps=True)
    return panel(content + _point(curve), "recall", "precision", alt)


def _point(curve: Curve) -> str:
    return "" if np.isnan(curve.point[0]) else dot(*curve.point, "point")


def reliability_panel(curves: Sequence[tuple[np.ndarray, np.ndarray, str]], alt: str) -> str:
    """Return reliability curves, each (predicted, observed, class), on axes that end where the largest value is."""
    largest = max(float(np.max(values)) for x, y, _ in curves for values in (x, y))
    top = next((step for step in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if largest <= step), 1)
    content = f'<path class="guide" d="M0 {SIDE}L{SIDE} 0"/>'
    for x, y, css in curves:
        content += path(x / top, y / top, css) + "".join(
            dot(*point, f"{css}-dot", 1.8) for point in zip(x / top, y / top)
        )
    return panel(content, "predicted", "observed", alt, top)


def decision_panel(thresholds: np.ndarray, benefit: np.ndarray, treat_all: np.ndarray, alt: str) -> str:
    """Return a decision curve: net benefit (n,) as a share of the largest there can be, and that of acting on all.

    Below 0, where acting on none is better, the line runs along the bottom.
    """
    content = "".join(
        path(thresholds, np.clip(values, 0, 1), css) for values, css in ((treat_all, "guide"), (benefit, "curve"))
    )
    return panel(content, "threshold", "net benefit", alt)


def forest(
    rows: Sequence[tuple[str, float, float, float, float]], head: str, alt: str, published: str | None = None
) -> str:
    """Return a forest plot of one metric, narrow enough for a phone.

    Parameters
    ----------
    rows : sequence of (label, value, low, high, published value)
        From 0 to 1; NaN leaves a place empty.
    head : str
        The metric. The axis begins at 0.5 where all that it shows is above.
    alt : str
        As in `panel`.
    published : str, optional
        What the hollow diamonds are, where there are any.
    """
    line, name, width, top = 15, name_width([row[0] for row in rows], 190) + 2, 150, 16
    values = np.array([row[1:] for row in rows], dtype=float).reshape(-1, 4)
    start = 0.5 if np.nanmin(values, initial=1) >= 0.5 else 0.0
    place = name + (values - start) / (1 - start) * width
    height = top + line * len(rows) + 16 + (14 if published else 0)
    parts = [f'<text class="middle" x="{name + width / 2:g}" y="10">{escape(head)}</text>']
    for fifth in range(6):
        x = name + fifth / 5 * width
        parts.append(f'<path class="grid" d="M{x:g} {top}v{line * len(rows)}"/>')
        tick = start + fifth / 5 * (1 - start)
        parts.append(f'<text class="soft middle" x="{x:g}" y="{top + line * len(rows) + 12}">{tick:g}</text>')
    for number, ((label, *_), (value, low, high, other)) in enumerate(zip(rows, place)):
        y = top + line * (number + 0.5)
        parts.append(f'<text class="end" x="{name - 8}" y="{y + 3:g}">{escape(label)}</text>')
        if not np.isnan(low):
            parts.append(f'<path class="whisker" d="M{low:.1f} {y:g}H{high:.1f}"/>')
        if not np.isnan(value):
            parts.append(f'<circle class="point" cx="{value:.1f}" cy="{y:g}" r="2.5"/>')
        if not np.isnan(other):
            parts.append(diamond(other, y))
    if published:
        parts += [
            diamond(name + 4, height - 5),
            f'<text class="soft" x="{name + 12}" y="{height - 2}">{published}</text>',
        ]
    return (
        f'<svg class="figure" viewBox="0 0 {name + width + 12} {height}" role="img" aria-label="{escape(alt)}">'
        f"{''.join(parts)}</svg>"
    )


def diamond(x: float, y: float) -> str:
    """Return the mark of a published value."""
    return f'<path class="published" d="M{x - 3.5:.1f} {y:g}l3.5 -4l3.5 4l-3.5 4z"/>'


def boxes(rows: Sequence[tuple[Sequence[str], Sequence[str]]], alt: str) -> str:
    """Return boxes below each other, joined by arrows, each with what is set aside before the next at its right.

    Parameters
    ----------
    rows : sequence of (lines of the box, lines of what is set aside)
        Plain text, of at most about 36 and 40 characters; the first line of a box is its head.
    alt : str
        As in `panel`.
    """
    line, width, side_left, side_width, gap = 12, 180, 196, 194, 16
    parts, y = [], 2
    for number, (texts, aside) in enumerate(rows):
        height = line * len(texts) + 8
        parts.append(_box(2, y, width, height, texts, line))
        bottom = y + height
        if aside:
            middle = bottom + gap / 2 + (line * len(aside) + 8) / 2
            parts.append(f'<path class="axis" d="M{2 + width / 2} {middle:g}H{side_left}"/>')
            parts.append(_box(side_left, bottom + gap / 2, side_width, line * len(aside) + 8, aside, line))
        y = bottom + gap + (line * len(aside) + 8 if aside else 0)
        if number < len(rows) - 1:
            x = 2 + width / 2
            parts.append(f'<path class="axis" d="M{x:g} {bottom:g}V{y:g}m-3 -5l3 5l3 -5"/>')
    return (
        f'<svg class="figure" viewBox="0 0 {side_left + side_width + 2} {y - gap + 4:g}" role="img" '
        f'aria-label="{escape(alt)}">{"".join(parts)}</svg>'
    )


def _box(x: float, y: float, width: float, height: float, texts: Sequence[str], line: float) -> str:
    parts = [f'<rect class="box" x="{x}" y="{y:g}" width="{width}" height="{height:g}" rx="3"/>']
    for row, text in enumerate(texts):
        css = ' class="strong"' if row == 0 else ""
        parts.append(f'<text{css} x="{x + 6}" y="{y + 1 + line * (row + 1):g}">{escape(text)}</text>')
    return "".join(parts)


def name_width(labels: Sequence[str], least: int = 228) -> int:
    """Return the width that the longest of the names takes in a figure, with some distance to what follows."""
    return max(least, 12 + 5 * max(map(len, labels), default=0))


def heatmap(shares: np.ndarray, labels: Sequence[str], alt: str) -> str:
    """Return a square table of shares (n, n) from 0 to 1 as coloured cells with whole percents; NaN stays empty."""
    cell, name = 25, name_width(labels)
    top = round(0.86 * name)  # the names above the cells are slanted by 60 degrees
    size = len(labels) * cell
    width = name + size + 100  # the last slanted name reaches beyond the cells
    parts = []
    for row, label in enumerate(labels):
        y = top + row * cell
        parts.append(f'<text class="end" x="{name - 6}" y="{y + cell / 2 + 3}">{escape(label)}</text>')
        x = name + row * cell + cell / 2
        parts.append(f'<text transform="translate({x + 3} {top - 5}) rotate(-60)">{escape(label)}</text>')
        for column, share in enumerate(shares[row]):
            if np.isnan(share) or share == 0:
                continue
            text = f"{share * 100:.0f}" if share >= 0.005 else "<1"
            on = " on" if share > 0.55 else ""  # strong cells carry text in the colour of the page
            x = name + column * cell
            size_of = f'width="{cell}" height="{cell}" fill-opacity="{share:.2f}"'
            parts.append(f'<rect class="heat" x="{x}" y="{y}" {size_of}/>')
            parts.append(f'<text class="middle{on}" x="{x + cell / 2}" y="{y + cell / 2 + 3}">{escape(text)}</text>')
    lines = "".join(f"M{name} {top + i * cell}h{size}M{name + i * cell} {top}v{size}" for i in range(len(labels) + 1))
    return (
        f'<svg class="figure" viewBox="0 0 {width} {top + size + 2}" width="{width}" role="img" '
        f'aria-label="{escape(alt)}">{"".join(parts)}<path class="axis" d="{lines}"/></svg>'
    )

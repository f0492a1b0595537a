"""The report's figures as small inline SVG: curves thinned to what the eye can see, no fonts, no scripts."""

from collections.abc import Sequence

import numpy as np
from markupsafe import escape

from ecg_evaluation.metrics import threshold_curve

# What the classes in the SVG look like; goes into the page once.
STYLE = """
.axis { fill: none; stroke: #c3ced8; } .grid { fill: none; stroke: #e6ebf0; }
.guide { fill: none; stroke: #9aa8b5; stroke-dasharray: 3 3; }
.curve { fill: none; stroke: #0b62a4; stroke-width: 1.6; stroke-linejoin: round; } .point { fill: #c2410c; }
.before { fill: none; stroke: #98a5b3; stroke-width: 1.2; } .after { fill: none; stroke: #0b62a4; stroke-width: 1.4; }
.before-dot { fill: #fff; stroke: #98a5b3; } .after-dot { fill: #0b62a4; }
.whisker { stroke: #0b62a4; stroke-width: 2; }
svg.figure text { font-size: 9px; fill: #1b2733; }
svg.figure text.soft { fill: #5a6b7b; } .end { text-anchor: end; } .middle { text-anchor: middle; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(22rem, 1fr)); gap: .4rem 1.6rem; }
.plots figure { margin: .3rem 0; } .plots figcaption { color: inherit; } .plots figcaption b { display: block; }
.plots .three { display: grid; grid-template-columns: repeat(3, 1fr); gap: .3rem; }
.wide svg { max-width: none; } .forest svg { width: 100%; min-width: 36rem; max-width: 60rem; }
@media (max-width: 480px) { .plots { grid-template-columns: 1fr; } }
@media print { .plots { grid-template-columns: 1fr 1fr; } .forest svg { max-width: 100%; min-width: 0; }
  .wide svg { width: 130mm; } }
"""
SIDE = 100  # a panel's plot area is SIDE x SIDE units
LEFT, TOP = 27, 4
STEPS = 250  # points closer than 1 / STEPS of the axis are one


def panel(content: str, x_label: str, y_label: str) -> str:
    """Return a square panel with both axes from 0 to 1 around `content`, drawn in units of `SIDE`."""
    ticks = "".join(
        f'<text class="soft middle" x="{LEFT + value * SIDE:g}" y="{TOP + SIDE + 10}">{value:g}</text>'
        f'<text class="soft end" x="{LEFT - 3}" y="{TOP + (1 - value) * SIDE + 3:g}">{value:g}</text>'
        for value in (0, 0.5, 1)
    )
    return (
        f'<svg class="figure" viewBox="0 0 {LEFT + SIDE + 6} {TOP + SIDE + 24}" role="img" '
        f'aria-label="{y_label} against {x_label}">{ticks}'
        f'<text class="middle" x="{LEFT + SIDE / 2}" y="{TOP + SIDE + 21}">{x_label}</text>'
        f'<text class="middle" transform="translate(7 {TOP + SIDE / 2}) rotate(-90)">{y_label}</text>'
        f'<g transform="translate({LEFT} {TOP})"><path class="grid" d="M0 {SIDE / 2}h{SIDE}M{SIDE / 2} 0v{SIDE}"/>'
        f'<path class="axis" d="M0 0h{SIDE}v{SIDE}h-{SIDE}z"/>{content}</g></svg>'
    )


def path(x: np.ndarray, y: np.ndarray, css: str, steps: bool = False) -> str:
    """Return a line through points x, y (n,) of the unit square, points that cannot be told apart drawn once.

    With `steps` each point's height holds back to the point before, as a precision-recall curve is read.
    """
    places = np.unique(np.rint(np.column_stack((x, y)) * STEPS).astype(int), axis=0, return_index=True)[1]
    points = np.rint(np.column_stack((x, y))[np.sort(places)] * STEPS) * (SIDE / STEPS)
    places = [(f"{px:g}", f"{SIDE - py:g}") for px, py in points]
    first, rest = places[0], places[1:]
    line = "".join(f"V{py}H{px}" for px, py in rest) if steps else "".join(f"L{px} {py}" for px, py in rest)
    return f'<path class="{css}" d="M{first[0]} {first[1]}{line}"/>'


def dot(x: float, y: float, css: str, radius: float = 2.6) -> str:
    """Return a dot at a point of the unit square."""
    return f'<circle class="{css}" cx="{x * SIDE:.1f}" cy="{(1 - y) * SIDE:.1f}" r="{radius:.1f}"/>'


def roc_panel(truth: np.ndarray, scores: np.ndarray, threshold: float | None) -> str:
    """Return the ROC curve of truth and scores (n,), with a dot at the threshold; truth must hold both kinds."""
    thresholds, tp, fp = threshold_curve(truth, scores)
    x, y = np.append(0, fp / fp[-1]), np.append(0, tp / tp[-1])
    content = f'<path class="guide" d="M0 {SIDE}L{SIDE} 0"/>' + path(x, y, "curve")
    if threshold is not None:
        place = np.searchsorted(-thresholds, -threshold, side="right")  # how many distinct scores are passed
        content += dot(x[place], y[place], "point")
    return panel(content, "1 \u2212 specificity", "recall")


def precision_recall_panel(truth: np.ndarray, scores: np.ndarray, threshold: float | None) -> str:
    """Return the precision-recall curve of truth and scores (n,), the prevalence as guide; truth holds a positive."""
    thresholds, tp, fp = threshold_curve(truth, scores)
    recall, precision = tp / tp[-1], tp / (tp + fp)
    prevalence = tp[-1] / len(truth)
    content = f'<path class="guide" d="M0 {(1 - prevalence) * SIDE:.1f}h{SIDE}"/>'
    content += path(np.append(0, recall), np.append(precision[0], precision), "curve", steps=True)
    if threshold is not None:
        place = np.searchsorted(-thresholds, -threshold, side="right") - 1
        if place >= 0:
            content += dot(recall[place], precision[place], "point")
    return panel(content, "recall", "precision")


def reliability_panel(before: np.ndarray, after: np.ndarray | None) -> str:
    """Return reliability curves (bins, 3), see `reliability_curve`: grey before, blue after calibration.

    The area of a dot is proportional to its records.
    """
    content = f'<path class="guide" d="M0 {SIDE}L{SIDE} 0"/>'
    for curve, css in ((before, "before"), (after, "after")):
        if curve is not None:
            content += path(curve[:, 0], curve[:, 1], css)
            radii = 1.2 + 3.2 * np.sqrt(curve[:, 2] / curve[:, 2].sum())
            content += "".join(dot(x, y, f"{css}-dot", radius) for (x, y, _), radius in zip(curve, radii))
    return panel(content, "predicted", "observed")


def forest(rows: Sequence[tuple[str, Sequence[tuple[float, float, float]]]], heads: Sequence[str]) -> str:
    """Return a forest plot.

    Parameters
    ----------
    rows : sequence of (label, values)
        `values` holds (value, low, high) per column, from 0 to 1; NaN leaves a place empty.
    heads : sequence of str
        The columns. An axis begins at 0.5 where all that it shows is above.
    """
    line, name, width, gap, top = 15, name_width([label for label, _ in rows]) + 4, 220, 30, 16
    height = line * len(rows) + 34
    parts = []
    for number, (label, _) in enumerate(rows):
        parts.append(
            f'<text class="end" x="{name - 12}" y="{top + line * (number + 0.5) + 3:g}">{escape(label)}</text>'
        )
    for column, head in enumerate(heads):
        values = np.array([row[1][column] for row in rows], dtype=float)
        start = 0.5 if np.nanmin(values, initial=1) >= 0.5 else 0.0
        left = name + column * (width + gap)
        place = left + (values - start) / (1 - start) * width
        parts.append(f'<text class="middle" x="{left + width / 2}" y="10">{escape(head)}</text>')
        for fifth in range(6):
            x = left + fifth / 5 * width
            parts.append(f'<path class="grid" d="M{x:g} {top}v{line * len(rows)}"/>')
            tick = start + fifth / 5 * (1 - start)
            parts.append(f'<text class="soft middle" x="{x:g}" y="{height - 6}">{tick:g}</text>')
        for number, (value, low, high) in enumerate(place):
            y = top + line * (number + 0.5)
            if not np.isnan(low):
                parts.append(f'<path class="whisker" d="M{low:.1f} {y:g}H{high:.1f}"/>')
            if not np.isnan(value):
                parts.append(f'<circle class="point" cx="{value:.1f}" cy="{y:g}" r="2.5"/>')
    total = name + len(heads) * (width + gap)
    return (
        f'<svg class="figure" viewBox="0 0 {total} {height}" role="img" aria-label="{", ".join(heads)}">'
        f"{''.join(parts)}</svg>"
    )


def name_width(labels: Sequence[str]) -> int:
    """Return the width that the longest of the names takes in a figure, with some distance to what follows."""
    return max(228, 12 + 5 * max(map(len, labels), default=0))


def heatmap(shares: np.ndarray, labels: Sequence[str]) -> str:
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
            # White to the blue of the curves; dark cells carry white text.
            colour = "#" + "".join(f"{round(255 + (end - 255) * share):02x}" for end in (0x0B, 0x62, 0xA4))
            text = f"{share * 100:.0f}" if share >= 0.005 else "<1"
            fill = ' style="fill:#fff"' if share > 0.55 else ""
            x = name + column * cell
            parts.append(f'<rect x="{x}" y="{y}" width="{cell}" height="{cell}" fill="{colour}"/>')
            parts.append(f'<text class="middle"{fill} x="{x + cell / 2}" y="{y + cell / 2 + 3}">{escape(text)}</text>')
    lines = "".join(f"M{name} {top + i * cell}h{size}M{name + i * cell} {top}v{size}" for i in range(len(labels) + 1))
    return (
        f'<svg class="figure" viewBox="0 0 {width} {top + size + 2}" width="{width}" role="img" '
        f'aria-label="co-occurrence of labels">{"".join(parts)}<path class="axis" d="{lines}"/></svg>'
    )

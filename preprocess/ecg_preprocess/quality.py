"""The quality page: how many records are usable or excluded and why, with strips of each kind."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from markupsafe import escape

from ecg_finetune.ecg_paper import strip_svg
from ecg_finetune.files import replacing
from ecg_finetune.html_page import html_page, html_table
from ecg_finetune.waveform import RECORD_SECONDS, LeadSignal, RecordError
from ecg_preprocess.preprocess_report import STATUSES, PreprocessReport, ReportRow

STRIPS = {"ok": 4}  # all other statuses: 2


def write_quality_page(
    path: Path,
    report: PreprocessReport,
    raw_root: Path,
    paths: Sequence[str],
    lead: str,
    read: Callable[[str, float], LeadSignal],
) -> None:
    """Write the page.

    `paths` are the records' paths below `raw_root`, in the order of the report; `read` reads the first seconds of the
    lead from the file at a path.
    """
    counts, total = report.counts(), len(report.rows)
    usable = counts.get("ok", 0)
    table = [[status, f"{n:,}", f"{n / total:.2%}", STATUSES[status]] for status, n in counts.items()]
    parts = [
        f"<p>Lead {lead} of the {total:,} records of meta_split.csv. {usable:,} are usable, {total - usable:,} are "
        f"excluded; each one's row is in {escape(report.path.name)}.</p>",
        html_table(["status", "records", "share", "meaning"], table),
        "<h2>Signal statistics of the usable records</h2>",
        _statistics_table([row for row in report.rows if row.status == "ok"]),
        '<section class="strips">',
    ]
    for status, number in counts.items():
        parts.append(f"<h2>{status}: {escape(STATUSES[status])} ({number:,})</h2>")
        for position in _spread(report.positions_of(status), STRIPS.get(status, 2)):
            parts.append(_strip(report.rows[position], raw_root, paths[position], lead, read))
    parts.append("</section>")
    with replacing(path) as temporary:
        temporary.write_text(html_page(f"Signal quality, lead {lead}", "\n".join(parts)), encoding="utf-8")


def _spread(positions: np.ndarray, number: int) -> list[int]:
    """Return at most `number` of the positions, evenly spread."""
    number = min(number, len(positions))
    return positions[np.linspace(0, len(positions) - 1, number).round().astype(int)].tolist()


def _strip(row: ReportRow, raw_root: Path, path: str, lead: str, read: Callable[[str, float], LeadSignal]) -> str:
    """Return the strip of a record's first 10 s as recorded, or a line where it cannot be read."""
    caption = f"study {row.study_id}, lead {lead}" + (f": {row.detail}" if row.detail else "")
    try:
        signal = read(str(Path(raw_root, path)), RECORD_SECONDS)
    except RecordError:
        return f"<p>{escape(caption)}</p>"
    strip = strip_svg(signal.values * signal.millivolts_per_unit, signal.rate, caption)
    return f"<figure class=scroll><div style='min-width:40rem'>{strip}</div></figure>"


def _statistics_table(usable: Sequence[ReportRow]) -> str:
    """Return a table over the usable records."""
    if not usable:
        return "<p>None.</p>"
    names = ["mean_mv", "std_mv", "nan_count", "longest_flat_s"]
    values = np.array([[getattr(row.signal, name) for name in names] for row in usable], dtype=np.float64)
    # Values of records, nothing in between; np.percentile imports numpy.ma for that: 0.03 s.
    ranks = np.rint(np.array([0, 0.01, 0.25, 0.5, 0.75, 0.99, 1]) * (len(values) - 1)).astype(int)
    shown = np.sort(values, axis=0)[ranks].T.tolist()
    rows = [[name, *(f"{value:.4g}" for value in figures)] for name, figures in zip(names, shown, strict=True)]
    heads = ["minimum", "1 %", "25 %", "median", "75 %", "99 %", "maximum"]
    return html_table(["figure", *heads], rows, caption="Percentiles over the records")

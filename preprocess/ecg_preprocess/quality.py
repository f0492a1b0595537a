"""The quality page: how many records came through or were left out and why, with strips of each kind."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import escape

from ecg_finetune.ecg_paper import strip_svg
from ecg_finetune.files import replacing
from ecg_finetune.html_page import html_page, html_table
from ecg_finetune.waveform import RECORD_SECONDS
from ecg_preprocess.convert import REPORT_COLUMNS, STATUSES
from ecg_preprocess.record import RecordError, read_lead
from ecg_preprocess.report import Report

STRIPS = {"ok": 4}  # all other statuses: 2


def write_quality_page(path: Path, report: Report, raw_root: Path, paths: Sequence[str], lead: str) -> None:
    """Write the page; `paths` are the records' paths below `raw_root`, in the order of the report."""
    codes, counts, total = report.status_codes(), report.counts(), len(report.rows)
    table = [[status, f"{n:,}", f"{n / total:.2%}", STATUSES[status]] for status, n in counts.items()]
    parts = [
        f"<p>Lead {lead} of the {total:,} records of meta_split.csv. {counts.get('ok', 0):,} came through, "
        f"{total - counts.get('ok', 0):,} were left out; each one's row is in {escape(report.path.name)}.</p>",
        html_table(["status", "records", "share", "meaning"], table),
        "<h2>Figures of the records that came through</h2>",
        _figures_table(report, np.flatnonzero(codes == 0)),
        '<section class="strips">',
    ]
    for status, number in counts.items():
        parts.append(f"<h2>{status}: {escape(STATUSES[status])} ({number:,})</h2>")
        for position in _spread(np.flatnonzero(codes == list(STATUSES).index(status)), STRIPS.get(status, 2)):
            parts.append(_strip(report.rows[position], raw_root, paths[position], lead))
    parts.append("</section>")
    with replacing(path) as temporary:
        temporary.write_text(html_page(f"Signal quality, lead {lead}", "\n".join(parts)), encoding="utf-8")


def _spread(positions: np.ndarray, number: int) -> list[int]:
    """Return at most `number` of the positions, evenly spread."""
    number = min(number, len(positions))
    return positions[np.linspace(0, len(positions) - 1, number).round().astype(int)].tolist()


def _strip(row: str, raw_root: Path, path: str, lead: str) -> str:
    """Return the strip of a record's first 10 s as recorded, or a line where it cannot be read."""
    cells = dict(zip(REPORT_COLUMNS, next(csv.reader([row])), strict=True))
    caption = f"study {cells['study_id']}, lead {lead}" + (f": {cells['detail']}" if cells["detail"] else "")
    try:
        signal = read_lead(str(Path(raw_root, path)), lead, RECORD_SECONDS)
    except RecordError:
        return f"<p>{escape(caption)}</p>"
    strip = strip_svg(signal.values * signal.millivolts_per_unit, signal.rate, caption)
    return f"<figure class=scroll><div style='min-width:40rem'>{strip}</div></figure>"


def _figures_table(report: Report, good: np.ndarray) -> str:
    """Return a table over the records at the positions `good`, whose status is ok."""
    if not len(good):
        return "<p>None.</p>"
    names = ["mean_mv", "std_mv", "nan_count", "longest_flat_s"]
    places = [REPORT_COLUMNS.index(name) for name in names]
    values = np.empty((len(good), len(names)))
    for row, position in enumerate(good.tolist()):
        cells = report.rows[position].split(",")  # an ok row has no detail, so no comma within a cell
        values[row] = [float(cells[place]) for place in places]
    # Values of records, nothing in between; np.percentile imports numpy.ma for that: 0.03 s.
    places = np.rint(np.array([0, 0.01, 0.25, 0.5, 0.75, 0.99, 1]) * (len(good) - 1)).astype(int)
    shown = np.sort(values, axis=0)[places].T.tolist()
    rows = [[name, *(f"{value:.4g}" for value in figures)] for name, figures in zip(names, shown, strict=True)]
    heads = ["minimum", "1 %", "25 %", "median", "75 %", "99 %", "maximum"]
    return html_table(["figure", *heads], rows, caption="Percentiles over the records")

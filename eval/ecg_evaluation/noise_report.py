"""The page of eval_noise.py: AUROC and AUPRC against the signal-to-noise ratio, and what devices change."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from ecg_evaluation.provenance import chain
from ecg_evaluation.results import MACRO, MICRO, SHOWN
from ecg_finetune.files import replacing
from ecg_finetune.html_page import html_page, html_table
from ecg_finetune.label_set import LabelSet

TITLES = {
    "clean": "Clean",
    "baseline_wander": "Baseline wander",
    "electrode_motion": "Electrode motion",
    "muscle": "Muscle",
    "mains_50": "Mains, 50 Hz",
    "mains_60": "Mains, 60 Hz",
    "white": "White noise",
    "band_pass": "Band-pass 0.5 to 40 Hz",
    "resample_512": "Sampled at 512 Hz",
    "resample_300": "Sampled at 300 Hz",
    "resample_250": "Sampled at 250 Hz",
    "inversion": "Inverted",
    "clipping": "Clipped at \u00b15 mV",
    "quantisation": "10 bits for \u00b15 mV",
    "contact_loss": "No contact for 1 s",
}
# Colours that stay apart for the colour-blind, and in grey by their order.
COLOURS = ("#0b62a4", "#c2410c", "#0f7b4f", "#8a5bb5", "#b3860b", "#1b2733")
METRICS = {"auroc": "AUROC", "auprc": "AUPRC"}
STYLE = """
svg.noise text { font-size: 10px; fill: #5a6b7b; } svg.noise .end { text-anchor: end; }
svg.noise .middle { text-anchor: middle; } svg.noise .grid { fill: none; stroke: #e6ebf0; }
svg.noise .axis { fill: none; stroke: #c3ced8; } svg.noise .line { fill: none; stroke-width: 1.6; }
svg.noise .other { stroke-dasharray: 4 3; stroke-width: 1.2; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .875rem; position: sticky; top: 0;
  background: #fff; padding: .3rem 0; }
.legend i { display: inline-block; width: 1.6rem; border-top: 3px solid; vertical-align: middle; margin-right: .4rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(21rem, 1fr)); gap: .4rem 1.6rem; }
td small, td:first-child { white-space: nowrap; } li, p { overflow-wrap: anywhere; }
.plots figure { margin: .3rem 0; } .plots .two { display: grid; grid-template-columns: 1fr 1fr; gap: .3rem; }
@media (max-width: 480px) { .plots { grid-template-columns: 1fr; } }
@media print { .plots { grid-template-columns: 1fr 1fr; } .legend { position: static; } }
"""


@dataclass(frozen=True, kw_only=True)
class NoiseReport:
    """What the page shows."""

    table: pd.DataFrame  # see `noise_stage.noise_table`
    labels: LabelSet
    name: str  # of the set
    records: int
    patients: int | None  # None: not known
    bootstrap: int
    lead: str
    models: Sequence[tuple[Path, str]]  # of this checkpoint, and of the one compared with
    alarms: list[str]
    findings: list[str]
    lineage: Mapping[str, Any]

    @property
    def compared(self) -> bool:
        """Whether there is another model."""
        return len(self.models) > 1

    def rows(self, label: str) -> pd.DataFrame:
        """Return the rows of a label, by condition."""
        return self.table[self.table["label"] == label]

    @property
    def noises(self) -> list[str]:
        """The kinds of noise in the table."""
        return list(dict.fromkeys(self.table["kind"][self.table["snr"].notna()]))


def write_noise_report(path: Path, report: NoiseReport) -> None:
    """Write the HTML file."""
    parts = [headline(report), methods(report), curves(report), devices(report), numbers(report), provenance(report)]
    title = f"Under noise: ECG-FM on Lead {report.lead}, {report.name}"
    with replacing(path) as temporary:
        temporary.write_text(html_page(title, "\n".join(filter(None, parts)), STYLE), encoding="utf-8")


def headline(report: NoiseReport) -> str:
    """Return the macro AUROC of clean records, and of each kind of noise at its strongest."""
    macro = report.rows(MACRO)
    clean = macro.iloc[0]
    cards = [("AUROC, macro, clean", clean["auroc"], interval(clean, "auroc"))]
    for kind in report.noises:
        worst = macro[macro["kind"] == kind].iloc[-1]
        cards.append((f"{TITLES[kind]}, {worst['snr']:g} dB", worst["auroc"], f"{worst['auroc_change']:+.3f}"))
    shown = "".join(
        f'<div class="card"><span>{escape(name)}</span><b>{value:.3f}</b><span>{below}</span></div>'
        for name, value, below in cards
        if not np.isnan(value)
    )
    alarms = "".join(f"<li>{escape(alarm)}</li>" for alarm in report.alarms)
    notes = "".join(f"<li>{escape(finding)}</li>" for finding in report.findings)
    return (
        (f'<ul class="alarm">{alarms}</ul>' if alarms else "")
        + f'<div class="cards">{shown}</div>'
        + (f'<ul class="warning">{notes}</ul>' if notes else "")
    )


def interval(row: Mapping[str, Any], column: str, sign: str = "") -> str:
    """Return an interval of the table as text; "" where there is none."""
    low, high = row[f"{column}_low"], row[f"{column}_high"]
    return "" if np.isnan(low) else f"{low:{sign}.3f} to {high:{sign}.3f}"


def methods(report: NoiseReport) -> str:
    """Return how the numbers were made."""
    patients = "" if report.patients is None else f" of {report.patients:,} patients"
    units = "records" if report.patients is None else "patients"
    intervals = (
        f" Intervals (95 %) come from {report.bootstrap:,} resamples of the {units}; those of changes and differences "
        "are paired, as all conditions and models meet the same resamples."
        if report.bootstrap
        else ""
    )
    other = f" Dashed: {escape(report.models[1][0])}, on the same noisy records." if report.compared else ""
    return (
        f"<p>{report.records:,} records{patients}. Noise is added to each 10 s, which are standardised again. Its seed "
        "and the study decide it: every network meets the same, and it differs between strengths in size alone. The "
        "signal-to-noise ratio is that of PhysioNet\u2019s <code>nst</code>: the squared peak-to-peak amplitude of "
        "the QRS complexes over 8, against the squared amplitude of the noise (the mean over seconds of the deviation "
        "within a second). Each effect of a device is applied alone. Of NSTDB\u2019s records the second half is used, "
        f"the first in training with <code>--augment wearable</code>.{intervals} AUPRC is average precision; macro "
        f"averages are over the labels with enough {units}.{other}</p>"
    )


def curves(report: NoiseReport) -> str:
    """Return AUROC and AUPRC against the signal-to-noise ratio, of the averages and of each label."""
    if not report.noises:
        return ""
    legend = "".join(
        f'<span><i style="border-color:{colour}"></i>{escape(TITLES[kind])}</span>'
        for kind, colour in zip(report.noises, COLOURS)
    )
    figures = []
    for label in (MACRO, MICRO, *report.labels.names):
        rows = report.rows(label)
        if rows["auroc"].isna().all():
            continue
        panels = "".join(panel(rows, metric, report) for metric in METRICS)
        few = " *" if rows["few_patients"].iloc[0] else ""
        name, positive = SHOWN.get(label, label), f"{rows['n_pos'].iloc[0]:,} positive"
        figures.append(
            f'<figure><figcaption><b>{escape(name)}{few}</b>, {positive}</figcaption><div class="two">{panels}</div>'
            "</figure>"
        )
    return (
        '<h2>Against the signal-to-noise ratio</h2><p class="note">From clean records on the left to the strongest '
        "noise on the right. An asterisk marks a label with few patients.</p>"
        f'<div class="legend">{legend}</div><div class="plots">{"".join(figures)}</div>'
    )


def panel(rows: pd.DataFrame, metric: str, report: NoiseReport) -> str:
    """Return one metric of one label against the ratio, a line for each kind of noise."""
    ratios = sorted(rows["snr"].dropna().unique(), reverse=True)
    width, height, left, top = 170, 110, 26, 14
    columns = [metric, f"{metric}_other"] if report.compared else [metric]
    noisy = rows[rows["snr"].notna() | (rows["kind"] == "clean")]
    least = np.nanmin(noisy[columns].to_numpy(dtype=float), initial=1.0)
    start = max(0.0, np.floor(least * 10) / 10)
    start = min(start, 0.9)

    def place(step: int, value: float) -> str:
        return f"{left + step / len(ratios) * width:.1f} {top + (1 - (value - start) / (1 - start)) * height:.1f}"

    parts = [f'<text x="{left}" y="9">{METRICS[metric]}</text>']
    for value in np.linspace(start, 1, 3):
        y = top + (1 - (value - start) / (1 - start)) * height
        parts.append(f'<path class="grid" d="M{left} {y:.1f}h{width}"/>')
        parts.append(f'<text class="end" x="{left - 3}" y="{y + 3:.1f}">{value:.2g}</text>')
    for step, name in enumerate(["clean", *(f"{ratio:g}" for ratio in ratios)]):
        x = left + step / len(ratios) * width
        parts.append(f'<text class="middle" x="{x:.1f}" y="{top + height + 12}">{name}</text>')
    parts.append(f'<text class="middle" x="{left + width / 2}" y="{top + height + 24}">SNR, dB</text>')
    parts.append(f'<path class="axis" d="M{left} {top}v{height}h{width}"/>')
    for kind, colour in zip(report.noises, COLOURS):
        of_kind = rows[rows["kind"] == kind].set_index("snr")
        for column, css in zip(columns, ("line", "line other")):
            values = [rows[column].iloc[0], *of_kind[column].reindex(ratios)]
            points = [place(step, value) for step, value in enumerate(values) if not np.isnan(value)]
            if points:
                parts.append(f'<path class="{css}" style="stroke:{colour}" d="M{"L".join(points)}"/>')
    return (
        f'<svg class="noise" viewBox="0 0 {left + width + 14} {top + height + 28}" role="img" '
        f'aria-label="{METRICS[metric]} against the signal-to-noise ratio">{"".join(parts)}</svg>'
    )


def devices(report: NoiseReport) -> str:
    """Return what each effect of devices changes in the macro averages, and the label it changes most."""
    effects = list(dict.fromkeys(report.table["kind"][report.table["snr"].isna()]))[1:]
    if not effects:
        return ""
    lines = []
    for kind in effects:
        rows = report.table[report.table["kind"] == kind].set_index("label")
        named = rows.loc[[n for n in report.labels.names if not rows.at[n, "few_patients"]], "auroc_change"].dropna()
        most = None if named.empty else f"{named.idxmin()} ({named.min():+.3f})"
        lines.append([TITLES[kind], *changes(rows.loc[MACRO], report), most])
    return f"<h2>Effects of devices</h2>{html_table([*heads(report, 'Effect'), 'Label that loses most'], lines)}"


def heads(report: NoiseReport, first: str) -> list[str]:
    """Return the heads of the columns that `changes` fills."""
    other = ("{}, other", "{} difference") if report.compared else ()
    return [first, *(form.format(name) for name in METRICS.values() for form in ("{}, macro", "{} change", *other))]


def changes(row: Mapping[str, Any], report: NoiseReport) -> list[Markup | str | None]:
    """Return AUROC and AUPRC of a row of the table with intervals, and their changes, in bold where these exclude 0."""
    cells = []
    for metric in METRICS:
        cells += [f"{row[metric]:.3f}" if not np.isnan(row[metric]) else None, signed(row, f"{metric}_change")]
        if report.compared:
            cells += [f"{row[f'{metric}_other']:.3f}", signed(row, f"{metric}_difference")]
    return cells


def signed(row: Mapping[str, Any], column: str) -> Markup | None:
    """Return a change with its interval in small type."""
    value, low, high = (row[f"{column}{end}"] for end in ("", "_low", "_high"))
    if np.isnan(value):
        return None
    text = Markup("{:+.3f}").format(value)
    if low > 0 or high < 0:
        text = Markup("<b>{}</b>").format(text)
    return Markup("{} <small>{}</small>").format(text, interval(row, column, "+"))


def numbers(report: NoiseReport) -> str:
    """Return the macro averages under every kind and strength of noise."""
    macro = report.rows(MACRO)
    noisy = macro[macro["snr"].notna()]
    if noisy.empty:
        return ""
    lines = [[TITLES[row["kind"]], f"{row['snr']:g}", *changes(row, report)] for row in noisy.to_dict("records")]
    first, *rest = heads(report, "Noise")
    return f"<h2>Macro averages under noise</h2>{html_table([first, 'SNR, dB', *rest], lines)}"


def provenance(report: NoiseReport) -> str:
    """Return checkpoints, noise, settings and the chain back to the raw tables."""
    models = [[str(path), made_by] for path, made_by in report.models]
    told = [[name, value if isinstance(value, (str, int, float)) else json.dumps(value)]
            for name, value in report.lineage["settings"].items()]  # fmt: skip
    stages = [
        [stage, version, Markup("<br>").join(settings), Markup("<code>{}</code>").format(Markup("<br>").join(read))]
        for stage, version, settings, read in chain(report.lineage)
    ]
    return (
        f"<h2>Provenance</h2>{html_table(['Checkpoint', ''], models)}<h3>Settings</h3>"
        f"{html_table(['Setting', 'Value'], told)}<h3>From the table to the raw tables</h3>"
        f"{html_table(['Stage', 'Version', 'Settings', 'Files read, SHA-256'], stages)}"
    )


def macro_table(table: pd.DataFrame) -> str:
    """Return the macro AUROC under each condition for the terminal: a row for each kind, a column for each ratio."""
    macro = table[table["label"] == MACRO]
    ratios = sorted(macro["snr"].dropna().unique(), reverse=True)
    rows = [["macro AUROC", *(f"{ratio:g} dB" for ratio in ratios)]]
    for kind, of_kind in macro.groupby("kind", sort=False):
        by_ratio = of_kind.set_index("snr")["auroc"]
        values = by_ratio.reindex(ratios) if by_ratio.index.notna().all() else by_ratio
        rows.append([TITLES[kind], *("" if np.isnan(value) else f"{value:.3f}" for value in values)])
    widths = [max(len(row[0]) for row in rows), *[7] * len(ratios)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(7) for cell in row[1:])]).rstrip() for row in rows
    )

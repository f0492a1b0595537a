"""The page: what was found, on which strips, by which model, and what it cannot tell."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from markupsafe import Markup, escape

from ecg_finetune.ecg_paper import strip_svg
from ecg_finetune.files import UserError, replacing
from ecg_finetune.html_page import html_page, html_table
from ecg_finetune.label_set import ROW_NAMES
from ecg_finetune.model_folder import ONE_LEAD, ModelConfig
from ecg_finetune.paths import inside
from ecg_finetune.probabilities import can_calibrate
from ecg_finetune.tables import iterate_rows, read_header
from ecg_finetune.waveform import RECORD_SECONDS, LeadSignal
from ecg_prediction.answering import INVERTED, INVERTED_BY_US, Result
from ecg_prediction.tables import duration, found_labels, with_threshold

MOST_SHOWN = 20  # recordings with their strips
MOST_STRIPS = 18  # of one recording: 3 minutes
MOST_LISTED = 200  # recordings without an answer
NOT_A_DEVICE = (
    "Not a medical device: the answers of a research model, which no physician has checked. Do not treat anybody, or "
    "leave anybody untreated, because of them. Who feels ill should see a physician whatever this page says."
)
CAPTION = "Probabilities, calibrated unless the words say otherwise; the line in each bar is the label's threshold"
STYLE = """
.bar { position: relative; display: inline-block; width: 6rem; height: .7rem; background: var(--band);
  border: 1px solid var(--line); vertical-align: middle; print-color-adjust: exact; }
.bar i { position: absolute; inset: 0 auto 0 0; background: #9aa7b5; }
.bar.found i { background: #b3261e; }
.bar b { position: absolute; top: -.2rem; bottom: -.2rem; border-left: 2px solid #111; }
section.recording { break-before: auto; border-top: 2px solid var(--line); margin-top: 1.5rem; }
.refused { opacity: .55; }
.strip { min-width: 40rem; }
.recording td:nth-child(5) { min-width: 15rem; }
.recording h2 { overflow-wrap: anywhere; }
"""


@dataclass
class Summary:
    """What all recordings of a run give, gathered as the results come.

    `shown` says at which places the recordings stand whose results are kept for the page.
    """

    config: ModelConfig
    shown: Sequence[int]
    statuses: dict[str, int] = field(default_factory=dict)
    found: dict[str, int] = field(default_factory=dict)
    inverted: int = 0
    windows: int = 0
    excluded: int = 0
    total: int = 0
    kept: list[Result] = field(default_factory=list)
    failed: list[Result] = field(default_factory=list)

    def add(self, results: Sequence[Result]) -> None:
        """Take further results, in the order of the recordings."""
        for result in results:
            if self.total in self.shown:
                self.kept.append(result)
            self.total += 1
            self.statuses[result.status] = self.statuses.get(result.status, 0) + 1
            self.inverted += result.inverted
            if result.answer is not None:
                self.windows += len(result.answer.windows)
                self.excluded += result.answer.excluded
            if result.status == "ok":
                for label in found_labels(self.config, result):
                    self.found[label] = self.found.get(label, 0) + 1
            elif len(self.failed) < MOST_LISTED:
                self.failed.append(result)

    @property
    def answered(self) -> int:
        """How many recordings have an answer."""
        return self.statuses.get("ok", 0)


def shown_places(count: int) -> list[int]:
    """Return which of so many recordings the page shows with their strips: at most 20, evenly spread."""
    return sorted(set(np.linspace(0, count - 1, min(count, MOST_SHOWN)).round().astype(int).tolist()))


def write_report(
    folder: Path, model: Path, summary: Summary, signal_of: Callable[[Result], LeadSignal], *, lead: str, invert: bool
) -> None:
    """Write report.html.

    Parameters
    ----------
    folder : Path
        Where to.
    model : Path
        The model folder, for the metrics of its test set.
    summary : Summary
        Of all recordings.
    signal_of : callable
        Reads the lead of a recording again, in millivolts.
    lead : str
        Its name.
    invert : bool
        Whether all were turned round.
    """
    config = summary.config
    metrics = inside(model, "model_metrics")
    quality = metrics_by_label(metrics) if metrics.name in config.files else {}  # only as export wrote it
    one = summary.total == 1
    parts = [
        f"<p class=warning>{NOT_A_DEVICE}</p>",
        "" if one else _overview(summary),
        *(_recording(config, result, signal_of, quality, lead, invert) for result in summary.kept),
        _failures(summary) if not one else "",
        _cannot(lead),
        _model(config, model, quality),
    ]
    what = summary.kept[0].recording if one else f"{summary.total:,} recordings"
    title = f"Lead {lead} of {Path(what).name if one else what}"
    with replacing(inside(folder, "prediction_report")) as temporary:
        temporary.write_text(html_page(title, "\n".join(parts), STYLE), encoding="utf-8")


def metrics_by_label(path: Path) -> dict[str, dict[str, float]]:
    """Return what metrics.csv of a model folder says of each row; empty where it is missing or damaged."""
    columns = ("auroc", "auroc_low", "auroc_high", "recall", "specificity")
    try:
        kept = [name for name in columns if name in read_header(path)]
        return {
            label: {name: float(cell or "nan") for name, cell in zip(kept, cells)}
            for _, (label, *cells) in iterate_rows(path, ["label", *kept])
        }
    except (UserError, ValueError):
        return {}


def _threshold(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.3g}"


def sentence(probability: float, found: bool, calibrated: bool, *, decided: bool = True, note: str = "") -> str:
    """Say in plain words what an answer means; `decided`: the label has a threshold; `note`: of the label.

    >>> sentence(0.873, True, True)
    'Found. About 87 in 100 recordings with this answer have it.'
    >>> sentence(0.002, False, True)
    'Not found. Fewer than 1 in 100 recordings with this answer have it.'
    >>> sentence(0.4, True, False, note="not calibrated (no valid split)")
    'Found. The probability is no frequency: not calibrated (no valid split).'
    """
    if not decided:
        return "No answer: the recordings that the model was made with do not tell who has it."
    verdict = "Found." if found else "Not found."
    if not calibrated:
        return f"{verdict} The probability is no frequency: {note or 'not calibrated'}."
    share = 100 * probability
    amount = "Fewer than 1" if share < 1 else "More than 99" if share > 99 else f"About {share:.0f}"
    return f"{verdict} {amount} in 100 recordings with this answer have it."


def _overview(summary: Summary) -> str:
    answered = summary.answered
    cards = [
        (f"{summary.total:,}", "recordings"),
        (f"{answered:,}", "with an answer"),
        (f"{summary.total - answered:,}", "without"),
        (f"{summary.windows - summary.excluded:,}", f"windows of {RECORD_SECONDS} s used"),
        (f"{summary.excluded:,}", "windows excluded"),
    ]
    if summary.inverted:
        cards.append((f"{summary.inverted:,}", "look upside down"))
    thresholds = summary.config.calibrated_thresholds
    rows = [
        [name, f"{summary.found.get(name, 0):,}", _percent(summary.found.get(name, 0), answered), _threshold(threshold)]
        for name, threshold in zip(summary.config.label_set.names, thresholds.tolist())
    ]
    boxes = "".join(f"<div class=card><b>{value}</b><span>{what}</span></div>" for value, what in cards)
    shown = f"<p class=note>{len(summary.kept)} of them, evenly spread, are shown below with their strips.</p>"
    table = html_table(["label", "found in", "share", "threshold"], rows)
    few = len(summary.kept) < summary.total
    return f"<div class=cards>{boxes}</div><h2>What was found</h2>{table}{shown if few else ''}"


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else ""


def _recording(
    config: ModelConfig,
    result: Result,
    signal_of: Callable[[Result], LeadSignal],
    quality: Mapping[str, Mapping[str, float]],
    lead: str,
    invert: bool,
) -> str:
    facts = [f"lead {lead}"]
    if result.rate is not None:
        facts.append(f"{duration(result.seconds)} at {result.rate:.6g} Hz")
    if result.answer is not None:
        windows = len(result.answer.windows)
        facts.append(f"{windows - result.answer.excluded:,} of {windows:,} windows used")
    if invert:
        facts.append("turned upside down (--invert)")
    parts = [f"<section class=recording><h2>{escape(result.recording)}</h2><p>{escape(', '.join(facts))}</p>"]
    if result.status != "ok":
        parts.append(f"<p class=alarm>No answer: {escape(result.detail)} ({escape(result.status)}).</p>")
    else:
        if result.inverted:
            parts.append(f"<p class=warning>It {INVERTED_BY_US if invert else INVERTED}.</p>")
        found = found_labels(config, result)
        parts.append(f"<p><b>{escape('; '.join(found)) if found else 'None of the labels was found.'}</b></p>")
        parts.append(_probabilities(config, result, quality))
    if result.answer is not None:
        parts += ['<div class="strips"><h3>Strips and windows</h3>', *_strips(result, signal_of), "</div>"]
    return "".join([*parts, "</section>"])


def _probabilities(config: ModelConfig, result: Result, quality: Mapping[str, Mapping[str, float]]) -> Markup:
    probabilities = config.calibrated(result.answer.combined[None])[0].tolist()
    thresholds = config.calibrated_thresholds.tolist()
    found = config.found(result.answer.combined).tolist()
    calibrated = can_calibrate(config.calibration).tolist()
    rows = []
    for k in config.order(np.array(found), np.array(probabilities)):
        name, decided = config.label_set.names[k], not math.isnan(thresholds[k])
        mark = Markup('<b style="left:{:.1f}%"></b>').format(100 * thresholds[k]) if decided else ""
        bar = Markup('<span class="bar{}"><i style="width:{:.1f}%"></i>{}</span>').format(
            " found" if found[k] else "", 100 * probabilities[k], mark
        )
        auroc = quality.get(name, {}).get("auroc", math.nan)
        known = "" if math.isnan(auroc) else f"{auroc:.2f}"
        said = sentence(probabilities[k], found[k], calibrated[k], decided=decided, note=config.notes.get(name, ""))
        probability, threshold = with_threshold(probabilities[k], thresholds[k], found=found[k])
        rows.append([name, probability, bar, threshold, said, known])
    heads = ["label", "probability", "", "threshold", "in words", "AUROC on the test set"]
    return html_table(heads, rows, caption=CAPTION)


def _strips(result: Result, signal_of: Callable[[Result], LeadSignal]) -> list[str]:
    try:
        signal = signal_of(result)
    except UserError as error:  # gone since
        return [f"<p>{escape(str(error))}</p>"]
    parts = []
    for window in result.answer.windows[:MOST_STRIPS]:
        begin = round(window.start_s * signal.rate)
        values = signal.values[begin : begin + math.ceil(window.seconds * signal.rate)]
        place = f"{window.start_s:.4g} to {window.start_s + window.seconds:.4g} s"
        usable = window.status == "ok"
        caption = place if usable else f"{place}: excluded, {window.detail} ({window.status})"
        kind = "scroll" if usable else "scroll refused"
        parts.append(
            f'<figure class="{kind}"><div class=strip>{strip_svg(values, signal.rate, caption)}</div></figure>'
        )
    left = len(result.answer.windows) - MOST_STRIPS
    if left > 0:
        parts.append(f"<p class=note>{left:,} more windows are in windows.csv.</p>")
    return parts


def _failures(summary: Summary) -> str:
    without = summary.total - summary.answered
    if not without:
        return ""
    rows = [[result.recording, result.status, result.detail] for result in summary.failed]
    more = f"<p class=note>The first {len(rows)}; all are in predictions.csv.</p>" if len(rows) < without else ""
    return f"<h2>Without an answer ({without:,})</h2>{html_table(['recording', 'status', 'why'], rows)}{more}"


def _cannot(lead: str) -> str:
    items = [
        ONE_LEAD.format(lead=lead),
        "A label that is not in the table was not looked for, so its absence says nothing.",
        "A finding that comes and goes is missed where it does not show in the recording; a normal strip does not "
        "exclude it.",
        f"Calibrated probabilities hold for recordings of {RECORD_SECONDS} s like those of the model's data; in longer "
        "ones, labels that combine by maximum are found more easily.",
    ]
    listed = "".join(f"<li>{escape(text)}</li>" for text in items)
    return f"<h2>What lead {lead} alone does not show</h2><ul>{listed}</ul>"


def _model(config: ModelConfig, model: Path, quality: Mapping[str, Mapping[str, float]]) -> str:
    macro = quality.get(ROW_NAMES[0], {})
    auroc = ""
    if not math.isnan(macro.get("auroc", math.nan)):
        auroc = f"{macro['auroc']:.3f}"
        if not math.isnan(macro.get("auroc_low", math.nan)):
            auroc += f" ({macro['auroc_low']:.3f} to {macro['auroc_high']:.3f})"
    notes = "".join(f"<p class=note>{escape(name)}: {escape(note)}.</p>" for name, note in config.notes.items())
    rows = [
        ["name", config.name],
        ["labels", str(len(config.label_set))],
        ["made for", f"lead {config.lead}, windows of {RECORD_SECONDS} s"],
        ["thresholds chosen by", str(config.threshold_rule) + (", see the notes below" if notes else "")],
        ["mean AUROC over its labels, on its test set", auroc or "not stated"],
        ["made with ecg-finetune", str(config.lineage.get("version", "not recorded"))],
        ["folder", str(model)],
    ]
    return (
        f"<h2>The model</h2>{html_table(['', 'what it is'], rows)}{notes}"
        "<p>Its card, README.md in that folder, says what it was trained and evaluated on, and its limits.</p>"
    )

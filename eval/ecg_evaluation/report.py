"""The report: one self-contained HTML file with everything a supplement needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from ecg_evaluation import figures
from ecg_evaluation.calibration import reliability_curve
from ecg_evaluation.misses import worst_misses
from ecg_evaluation.provenance import chain
from ecg_evaluation.results import (
    NOT_ANNOTATED,
    Comparison,
    Decisions,
    Evaluation,
    compared,
    display_name,
    grouped_notes,
    known_records,
    number_text,
    with_interval,
)
from ecg_evaluation.thresholds import has_both, known_cells
from ecg_finetune.data_sets import Source
from ecg_finetune.files import replacing
from ecg_finetune.html_page import html_page, html_table
from ecg_finetune.label_set import MAX, ROW_NAMES, LabelSet
from ecg_finetune.lineage import software, stage_settings


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the report shows."""

    results: Evaluation
    comparison: Comparison | None
    alarms: list[str]  # shown in red: leaks, or that it was not possible to look for them
    caveats: list[str]  # what a reader of the whole must know
    sources: list[tuple[str, str, str]]  # what, file, SHA-256
    origin: Mapping[str, Any]  # lineage of the predictions, as far as it is known
    records_lineage: Mapping[str, Any]  # of the evaluated records and their labels
    source: Source  # the data set that these are of
    predictions: str  # the name of the predictions file
    whole_recordings: bool  # predict_ecg.py has made it
    lead: str
    operating_points: str | None  # where frozen thresholds and calibration come from; None: not frozen
    other: str | None  # the name of the predictions file compared with
    test_dir: Path | None  # where the signals of the evaluated records are; None: not shown
    signal_report: Path  # preprocess's report, with their scale
    settings: Mapping[str, Any]  # of this evaluation


def write_report(path: Path, report: Report) -> None:
    """Write the HTML file."""
    results = report.results
    parts = [
        headline(report),
        methods(report),
        per_label(results),
        curves(results),
        comparison_section(report),
        co_occurrence(results),
        misses_section(report),
        provenance_section(report),
    ]
    title = f"{model_name(report)} on Lead {report.lead} of {report.source.name or results.test.name}"
    with replacing(path) as temporary:
        temporary.write_text(html_page(title, "\n".join(filter(None, parts)), figures.STYLE), encoding="utf-8")


def model_name(report: Report) -> str:
    """Return what made the predictions: the checkpoint's name and the beginning of its SHA-256, or else their file."""
    checkpoint, digest = (report.origin.get(name) for name in ("checkpoint", "checkpoint_sha256"))
    if not isinstance(checkpoint, str) or not isinstance(digest, str):
        return report.predictions
    return f"{Path(checkpoint).name} ({digest[:8]})"


def rows_of(table: pd.DataFrame) -> list[dict]:
    """Return the rows of metrics.csv as dicts, `label` as it is shown, and `average` of those of no single label."""
    return [
        {**row, "label": display_name(row), "average": row["label"] in ROW_NAMES} for row in table.to_dict("records")
    ]


def any_marked(rows: list[dict]) -> bool:
    """Tell whether a row rests on few patients."""
    return any(row["label"].endswith("*") for row in rows)


def cell(row: dict, metric: str) -> Markup | None:
    """Return a value with its interval in small type, or None where it is undefined."""
    value, interval = with_interval(row, metric)
    return Markup("{} <small>{}</small>").format(value, interval.replace(" to ", "\u2013")) if value else None


def headline(report: Report) -> str:
    """Return the numbers a reader looks for first."""
    results = report.results
    macro, micro = rows_of(results.table)[-2:]
    wanted = [
        ("AUROC, micro", micro, "auroc"),
        ("AUROC, macro", macro, "auroc"),
        ("AUPRC, micro", micro, "auprc"),
        ("AUPRC, macro", macro, "auprc"),
        ("F1, macro", macro, "f1"),
        ("Brier", micro, "brier"),
        ("Brier, calibrated", micro, "brier_calibrated"),
    ]
    cards = []
    for name, row, metric in wanted:
        value, interval = with_interval(row, metric)
        if value:
            name += " *" if any_marked([row]) else ""
            cards.append(f'<div class="card"><span>{name}</span><b>{value}</b><span>{interval}</span></div>')
    units = f"{results.unit.max() + 1:,} patients" if results.resampled == "patients" else "patients not known"
    cards.append(
        f'<div class="card"><span>Test set</span><b>{len(results.unit):,}</b><span>records, {units}</span></div>'
    )
    alarms = "".join(f"<li>{escape(alarm)}</li>" for alarm in report.alarms)
    notes = "".join(f"<li>{escape(caveat)}</li>" for caveat in report.caveats)
    return (
        (f'<ul class="alarm">{alarms}</ul>' if alarms else "")
        + f'<div class="cards">{"".join(cards)}</div>'
        + (f'<ul class="warning">{notes}</ul>' if notes else "")
    )


def methods(report: Report) -> str:
    """Return in a few sentences how the numbers were made, and what they do not cover."""
    results, units = report.results, report.results.resampled
    sentences = [
        "Each recording was predicted whole, by predict_ecg.py, which takes its windows together."
        if report.whole_recordings
        else f"Each record is 10 s of Lead {escape(report.lead)} at 500 Hz, standardised, in all 12 input channels. "
        f"The network sees its two 5 s segments; {combined(results.test.labels)}.",
        "AUPRC is average precision. Micro averages pool the decisions on all labels of every record; macro averages "
        f"are means over the labels with at least {results.min_patients} positive and {results.min_patients} negative "
        f"{units}.",
    ]
    if np.isnan(results.test.truth).any():
        sentences.append(
            "A label that the source does not say of a record is unknown: neither positive nor negative, and in no "
            "number. Every metric of a label is over the records that know it."
        )
    count = len(results.estimates.drawn)
    if count:
        whole = ", each with all of a patient's records" if units == "patients" else ""
        sentences.append(
            f"Intervals (95 %) use the standard error over {count:,} bootstrap resamples of {units}{whole}, and "
            f"Student's t with the effective number of {units} (Kish) less one degrees of freedom. AUROC, AUPRC, Brier "
            "scores and macro averages have t intervals on the logit scale; accuracy, recall, precision, F1, "
            "specificity and NPV have Clopper-Pearson intervals for the effective number of records (Korn and "
            "Graubard). Where resamples do not vary, as with a recall or an AUROC of 1, Clopper-Pearson intervals are "
            f"for the number of {units}. Rows with an asterisk have fewer than {results.min_patients} positive or "
            f"negative {units}; their intervals are unreliable."
        )
    decisions = results.decisions
    if decisions.frozen:
        sentences.append(f"The operating points are frozen: {escape(report.operating_points)}.")
    if decisions.calibration is None:
        sentences.append("Without a valid split, thresholds were not chosen and probabilities are not calibrated.")
    else:
        sentences.append(
            f"A label's threshold {threshold_words(decisions)}. For the calibrated probabilities a sigmoid was fitted "
            f"to the logits of each label on {decisions.chosen_on} (Platt's method)"
            + (". Nothing was chosen or fitted on the evaluated records." if report.settings["set"] == "test" else ".")
        )
    return f"<p>{' '.join(sentences)}</p><p>{' '.join(limits(report))}</p>"


def combined(labels: LabelSet) -> str:
    """Say how the probabilities of a record's segments combine."""
    of_max = [name for name, how in zip(labels.names, labels.combine) if how == MAX]
    if not of_max:
        return "a record's probability is the mean of the two"
    if len(of_max) == len(labels):
        return "a record's probability is the higher of the two"
    return (
        f"a record's probability is the higher of the two for {escape(', '.join(of_max).lower())}, and their mean for "
        "the other labels"
    )


def threshold_words(decisions: Decisions) -> str:
    """Say how the thresholds were chosen."""
    if isinstance(decisions.rule, float):
        return f"is {decisions.rule:g}"
    best = {
        "f1": "is the one that has the highest F1",
        "youden": "is the one that has the highest recall + specificity",
    }
    return f"{best.get(decisions.rule, 'was chosen')} on {decisions.chosen_on}"


def limits(report: Report) -> list[str]:
    """Return what is held fixed, what the labels are, and who is not among the records."""
    return [
        "<b>What is held fixed.</b> The intervals are for new patients of the same source. They do not cover another "
        "training run: there is one checkpoint, of one seed. Thresholds and calibration are taken as they are. The "
        "valid split chose the epoch, the thresholds and the calibration, so metrics on it (the F1 behind a threshold, "
        "say) are optimistic.",
        f"<b>Reference standard.</b> {reference(report)}; findings that one lead does not show may be among them.",
        "<b>Excluded</b> are records that preprocess could not use and records without labels; each is listed with its "
        "reason in the report of preprocess and in the build stage's list of excluded records.",
    ]


def reference(report: Report) -> str:
    """Say who the labels come from."""
    if report.source.name is not None:
        return (
            f"Labels are what {escape(report.source.name)} says of its records, in the terms of this label set; what "
            "it does not say is unknown"
        )
    policy = stage_settings(report.records_lineage, "labels").get("--policy")
    labelled = f"labelling policy {escape(policy)}" if isinstance(policy, str) else "labelling policy not recorded"
    return (
        f"Labels come from the statements that the recording machine made of all 12 leads ({labelled}), not from "
        "physicians"
    )


def per_label(results: Evaluation) -> str:
    """Return the forest plot and the two tables of results."""
    rows = rows_of(results.table)
    drawn = [row for row in rows if not pd.isna(row["n_pos"])]
    forest = figures.forest(
        [(r["label"], [(r[m], r[f"{m}_low"], r[f"{m}_high"]) for m in ("auroc", "auprc")]) for r in drawn],
        ("AUROC", "AUPRC"),
    )

    def table(columns: dict, metrics: tuple[str, ...]) -> Markup:
        lines = [
            [shown_label(row), *(cell(row, m) for m in metrics), *(column(row) for column in columns.values())]
            for row in rows
        ]
        heads = ["Label", *(NAMES[metric] for metric in metrics), *columns]
        return html_table(heads, lines[:-2], footer=lines[-2:])

    known = {"Known": lambda row: number_text(known_records(row))} if results.table["n_unknown"].any() else {}
    ranking = table(
        {
            **known,
            "Positive": lambda row: number_text(row["n_pos"]),
            "Patients": lambda row: number_text(row["n_pos_patients"]),
            "Share": share,
        },
        ("auroc", "auprc", "brier", "brier_calibrated"),
    )
    told_known = "Known: the records of which the source says whether they have the label. " if known else ""
    few = "* Too few patients for reliable intervals, see the notes below. " if any_marked(rows) else ""
    noted = "".join(f"<li>{escape(note)}</li>" for note in grouped_notes(results.table))
    remarks = f'<h3>Notes</h3><ul class="note">{noted}</ul>' if noted else ""
    decisions = table(
        {
            "Threshold": lambda row: None if pd.isna(row["threshold"]) else f"{row['threshold']:.3f}",
            "Positive in valid": lambda row: number_text(row["valid_n_pos"]),
        },
        ("recall", "precision", "f1", "specificity", "npv", "accuracy"),
    )
    return (
        f'<h2>Results per label</h2><div class="scroll forest">{forest}</div>'
        '<p class="note">Click the head of a column to sort. Patients: those with at least one positive record. '
        f"{told_known}{few}An empty cell is undefined, for the reason given below. Positive in valid: the records "
        "with the label that its threshold and calibration rest on.</p>"
        f"<h3>Ranking and calibration</h3>{ranking}<h3>Decisions at the thresholds</h3>{decisions}"
        f"{remarks}"
    )


NAMES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "brier": "Brier",
    "brier_calibrated": "Brier, calibrated",
    "recall": "Recall",
    "precision": "Precision",
    "f1": "F1",
    "specificity": "Specificity",
    "npv": "NPV",
    "accuracy": "Accuracy",
}


def shown_label(row: dict) -> str | Markup:
    """Return the label of a row, with the reason why all other cells are empty where they are."""
    label = row["label"]
    return Markup("{} <small>{}</small>").format(label, NOT_ANNOTATED) if pd.isna(row["n_pos"]) else label


def share(row: dict) -> str | None:
    """Return the share of positive records among those that know the label of a row; None for an average."""
    known = known_records(row)
    return f"{row['n_pos'] / known:.2%}" if known and not row["average"] else None


def curves(results: Evaluation) -> str:
    """Return ROC, precision-recall and reliability curves of every label and of all pooled."""
    truth, probabilities, calibrated = results.test.truth, results.probabilities, results.calibrated
    names, defined = results.test.labels.names, has_both(truth)
    cards, rows = [], rows_of(results.table)
    for number in (*np.flatnonzero(defined).tolist(), None):  # the last is the micro average
        row = rows[-1 if number is None else number]
        t, p = known_cells(truth, probabilities, number)
        if number is None and not 0 < t.sum() < len(t):
            continue
        threshold = None if number is None else results.decisions.thresholds[number]
        if threshold is not None and np.isnan(threshold):
            threshold = None
        after = None if calibrated is None else reliability_curve(*known_cells(truth, calibrated, number))
        panels = figures.roc_panel(t, p, threshold) + figures.precision_recall_panel(t, p, threshold)
        panels += figures.reliability_panel(reliability_curve(t, p), after)
        text = f"AUROC {row['auroc']:.3f}, AUPRC {row['auprc']:.3f}, {row['n_pos']:,} positive"
        caption = f"<figcaption><b>{escape(row['label'])}</b>{text}</figcaption>"
        cards.append(f'<figure>{caption}<div class="three">{panels}</div></figure>')
    excluded = [name for name, both, known in zip(names, defined, results.annotated) if known and not both]
    missing = f" Not drawn, because never or always present: {', '.join(excluded)}." if excluded else ""
    return (
        '<h2>Curves</h2><p class="note">Left: ROC; middle: precision against recall, the dashed line is the share of '
        "positive records; the dot is the threshold. Right: reliability, the observed frequency against the predicted "
        "probability in bins of 0.1 (wider where one had fewer than 10 records), grey as predicted, blue calibrated; "
        "larger dots are more records."
        f'{missing}</p><div class="plots">{"".join(cards)}</div>'
    )


def comparison_section(report: Report) -> str:
    """Return the comparison with the other run; empty without one."""
    if report.comparison is None:
        return ""
    rows = rows_of(report.comparison.table)
    lines = []
    for row in rows:
        line = [shown_label(row), number_text(row["n_pos"])]
        for metric in ("auroc", "auprc"):
            difference, low, high = (row[f"{metric}_difference{end}"] for end in ("", "_low", "_high"))
            if np.isnan(difference):
                line += [None, None, None]
                continue
            text = Markup("{:+.3f}").format(difference)
            if not np.isnan(low):
                if low > 0 or high < 0:
                    text = Markup("<b>{}</b>").format(text)
                text = Markup("{} <small>{:+.3f} to {:+.3f}</small>").format(text, low, high)
            line += [f"{row[metric]:.3f}", f"{row[f'{metric}_other']:.3f}", text]
        lines.append(line)
    areas = (f"{name}{what}" for name in ("AUROC", "AUPRC") for what in ("", ", other", " difference"))
    few = " * Too few patients for reliable intervals." if any_marked(rows) else ""
    return (
        f"<h2>Comparison</h2><p>This run minus {escape(report.other)}, on the "
        f"{compared(report.comparison, report.results.resampled)}. Both met the same resamples: these are t intervals "
        "of paired differences, bold where they exclude 0. With this many rows, some do so by chance."
        f"{few}</p>{html_table(['Label', 'Positive', *areas], lines[:-2], footer=lines[-2:])}"
    )


def co_occurrence(results: Evaluation) -> str:
    """Return how often labels occur together, in truth and as predicted."""

    annotated = results.annotated
    truth = results.test.truth[:, annotated]
    names = [name for name, known in zip(results.test.labels.names, annotated) if known]
    predicted = (results.probabilities >= results.decisions.thresholds)[:, annotated]
    known = ~np.isnan(truth)
    tables = {"True labels": truth == 1, "Predicted labels": predicted & known}
    parts = [
        f'<h3>{name}</h3><div class="scroll wide">{figures.heatmap(shares_together(labels, known), names)}</div>'
        for name, labels in tables.items()
    ]
    among = "" if known.all() else "know both labels and "
    return (
        f'<h2>Labels that occur together</h2><p class="note">Of the records that {among}have the label of the row, the '
        f"percentage that also has the label of the column. Empty: none.</p>{''.join(parts)}"
    )


def shares_together(labels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return of the records with one label that know another how many have that, too: (labels, labels), NaN of none.

    Parameters
    ----------
    labels, known : ndarray bool (records, labels)
        Whether a record has a label, and whether its truth is known.
    """
    with_first = labels.T.astype(float)
    count = with_first @ known
    return np.divide(with_first @ labels, count, out=np.full(count.shape, np.nan), where=count > 0)


def misses_section(report: Report) -> str:
    """Return the records that are furthest from their labels, as strips on ECG paper; empty without signals."""
    if report.test_dir is None:
        return ""
    strips, note = worst_misses(report.results, report.test_dir, report.signal_report)
    if not strips:
        return f'<h2>Worst misses</h2><p class="note">{escape(note)}</p>'
    drawn = "".join(f"<figure>{strip}<figcaption>{caption}</figcaption></figure>" for strip, caption in strips)
    return (
        '<section class="strips"><h2>Worst misses</h2><p class="note">The most confident mistakes at the thresholds: '
        "labels that are present and were given little probability, or are absent and were given much; at most one of "
        "each kind per label and one per record. In bold where truth and prediction disagree. They show where the "
        f"network fails, and where a label may be wrong. {escape(note)}</p>{drawn}</section>"
    )


def provenance_section(report: Report) -> str:
    """Return the files read with their checksums, the chain back to the raw tables, settings and versions."""
    lines = [[what, path, Markup("<code>{}</code>").format(digest)] for what, path, digest in report.sources]
    files = html_table(["What", "File", "SHA-256"], lines)
    stages = [
        [stage, version, _lines(settings), Markup("<code>{}</code>").format(_lines(read))]
        for stage, version, settings, read in chain(report.origin)
    ]
    lineage = (
        html_table(["Stage", "Version", "Settings", "Files read, SHA-256"], stages)
        if report.origin
        else '<p class="note">Not recorded beside the predictions file.</p>'
    )
    plain = {key: value for key, value in report.origin.items() if not isinstance(value, (dict, list))}
    settings = [[f"--{name.replace('_', '-')}", value] for name, value in sorted(report.settings.items())]
    return (
        f"<h2>Provenance</h2><h3>Files read</h3>{files}<h3>From the report to the raw tables</h3>{lineage}"
        f"<h3>The predictions</h3>{html_table(['', 'Value'], plain.items())}"
        f"<h3>Settings of this evaluation</h3>{html_table(['Option', 'Value'], settings)}"
        f"<h3>Versions</h3>{html_table(['Software', 'Version'], software().items())}"
    )


def _lines(texts: list[str]) -> Markup:
    return Markup("<br>").join(texts)

"""The report: one self-contained HTML file with everything a supplement needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from ecg_evaluation import figures, sections
from ecg_evaluation.calibration_quality import AS_PREDICTED, CALIBRATED
from ecg_evaluation.figure_files import Album
from ecg_evaluation.misses import worst_misses
from ecg_evaluation.number_text import capital
from ecg_evaluation.provenance import chain
from ecg_evaluation.published import OTHER_DATA
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
from ecg_evaluation.sections import NAMES, cell, signed_cell
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
    tables: Mapping[str, pd.DataFrame]  # of the further analyses, see `analyse`
    comparison: Comparison | None
    leaked: np.ndarray | None  # bool (records,): of a patient trained on; None: not known
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
    by_time: bool  # whether a patient's first record is known by its time
    test_dir: Path | None  # where the signals of the evaluated records are; None: not shown
    signal_report: Path  # preprocess's report, with their scale
    settings: Mapping[str, Any]  # of this evaluation
    label_remark: str  # why there are no other definitions of the labels
    stamp: str  # the time of the evaluation, as in the names of its files

    @property
    def data_set(self) -> str:
        """The data set that was evaluated, in words."""
        return self.source.name or self.results.test.name

    @property
    def date(self) -> str:
        """The day of the evaluation: YYYY-MM-DD."""
        return f"{self.stamp[:4]}-{self.stamp[4:6]}-{self.stamp[6:8]}"


def write_report(path: Path, report: Report) -> Album:
    """Write the HTML file; return the figures in it."""
    results, tables, album = report.results, report.tables, Album()
    parts = [
        headline(report),
        methods(report),
        per_label(results, tables, album),
        sections.groups_section(tables),
        sections.estimands_section(tables, by_time=report.by_time),
        curves(results, tables, album),
        sections.calibration_section(tables),
        sections.operating_section(tables),
        sections.subgroups_section(tables, results.min_patients),
        sections.definitions_section(tables, report.label_remark),
        sections.baselines_section(tables),
        sections.published_section(tables),
        comparison_section(report),
        co_occurrence(results, tables, album),
        misses_section(report, album),
        sections.flow_section(tables, report.settings["set"], album),
        provenance_section(report),
    ]
    title = f"{model_name(report)} on Lead {report.lead} of {report.data_set}, {report.date}"
    style = figures.STYLE + figures.LAYOUT
    page = html_page(title, "\n".join(filter(None, parts)), style, contents=True)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return album


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
    of_set = "Valid split" if report.settings["set"] == "valid" else "Test set"
    cards.append(
        f'<div class="card"><span>{of_set}</span><b>{len(results.unit):,}</b><span>records, {units}</span></div>'
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
        else f"Each record is 10 s of Lead {escape(report.lead)} at 500 Hz, standardised{escape(channels(report))}. "
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
            f"to the logits of each label on {decisions.chosen_on} (Platt's method; not used where its slope is not "
            "positive)"
            + (". Nothing was chosen or fitted on the evaluated records." if report.settings["set"] == "test" else ".")
        )
    return f"<p>{' '.join(sentences)}</p><p>{' '.join(limits(report))}</p>"


def channels(report: Report) -> str:
    """Say which input channels of the network the lead goes into; empty where it is not known."""
    where = {
        "duplicate": ", in all 12 input channels",
        "zero": f", in the input channel of Lead {report.lead} with zeros in the other 11",
    }
    how = report.origin.get("input", stage_settings(report.origin, "finetune").get("input"))
    return where.get(str(how), "")


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
    fixed = "Thresholds are" if report.results.decisions.calibration is None else "Thresholds and calibration are"
    chosen = settled(report)
    optimistic = " Metrics on the records of such a choice are optimistic." if chosen else ""
    return [
        "<b>What is held fixed.</b> The intervals are for new patients of the same source. They do not cover another "
        f"training run: there is one checkpoint, of one seed. {fixed} taken as they are. {chosen}{optimistic}",
        f"<b>Reference standard.</b> {reference(report)}; findings that one lead does not show may be among them.",
        "<b>Excluded</b> are records that preprocess could not use and records without labels; each is listed with its "
        "reason in the report of preprocess and in the build stage's list of excluded records.",
    ]


def settled(report: Report) -> str:
    """Say what valid splits have chosen, as far as it is known; empty where nothing is."""
    decisions, told = report.results.decisions, []
    if stage_settings(report.origin, "finetune"):
        told.append("the valid split of the fine-tuning chose the epoch")
    if decisions.calibration is not None:
        thresholds = "" if isinstance(decisions.rule, float) else "the thresholds and "
        told.append(f"{decisions.chosen_on} chose {thresholds}the calibration")
    return f"{capital('; '.join(told))}." if told else ""


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


def per_label(results: Evaluation, tables: Mapping[str, pd.DataFrame], album: Album) -> str:
    """Return the forest plots and the two tables of results."""
    rows = rows_of(results.table)
    forests = "".join(forest(results.table, tables.get("published"), metric, album) for metric in ("auroc", "auprc"))

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
        f'<h2>Results per label</h2><div class="forest">{forests}</div>'
        '<p class="note">Click the head of a column to sort, or press Enter on it. Patients: those with at least one '
        f"positive record. {told_known}{few}An empty cell is undefined, for the reason given below. Positive in "
        "valid: the records with the label that its threshold and calibration rest on.</p>"
        f"<h3>Ranking and calibration</h3>{ranking}<h3>Decisions at the thresholds</h3>{decisions}"
        f"{remarks}"
    )


def forest(table: pd.DataFrame, published: pd.DataFrame | None, metric: str, album: Album) -> str:
    """Return the forest plot of a metric, with the published values where they are of the same records."""
    same = published is not None and not (published[f"{metric}_relation"] == OTHER_DATA).any()
    theirs = published.set_index("label")[f"{metric}_published"] if same else pd.Series(dtype=float)
    drawn = table[table["n_pos"].notna()]
    numbers = drawn[["label", metric, f"{metric}_low", f"{metric}_high"]].copy()
    numbers["published"] = theirs.reindex(drawn["label"]).to_numpy()
    labels = [display_name(row) for row in drawn.to_dict("records")]
    rows = [(label, *values) for label, values in zip(labels, numbers.iloc[:, 1:].to_numpy(dtype=float).tolist())]
    alt = f"{NAMES[metric]} of each label: " + "; ".join(
        f"{label} {value:.3f}" + ("" if np.isnan(low) else f" ({low:.3f} to {high:.3f})")
        for label, value, low, high, _ in rows
        if not np.isnan(value)
    )
    svg = figures.forest(rows, NAMES[metric], alt, "published Lead-I result" if same else None)
    return album.add(f"forest_{metric}", svg, numbers)


def shown_label(row: dict) -> str | Markup:
    """Return the label of a row, with the reason why all other cells are empty where they are."""
    label = row["label"]
    return Markup("{} <small>{}</small>").format(label, NOT_ANNOTATED) if pd.isna(row["n_pos"]) else label


def share(row: dict) -> str | None:
    """Return the share of positive records among those that know the label of a row; None for an average."""
    known = known_records(row)
    return f"{row['n_pos'] / known:.2%}" if known and not row["average"] else None


def curves(results: Evaluation, tables: Mapping[str, pd.DataFrame], album: Album) -> str:
    """Return four curves of every label (ROC, precision-recall, reliability, decision), and two of all pooled."""
    truth, probabilities = results.test.truth, results.probabilities
    names, defined = results.test.labels.names, has_both(truth)
    cards, rows = [], rows_of(results.table)
    for number in (*np.flatnonzero(defined).tolist(), None):  # the last is the micro average
        row = rows[-1 if number is None else number]
        t, p = known_cells(truth, probabilities, number)
        if number is None and not 0 < t.sum() < len(t):
            continue
        name = "micro average" if number is None else names[number]
        threshold = np.nan if number is None else results.decisions.thresholds[number]
        panels = ranking_panels(name, row, t, p, threshold, album)
        if number is not None:
            panels += reliability_panel(name, tables["reliability"], album)
            panels += decision_panel(name, tables["decision_curves"], album)
        text = f"AUROC {row['auroc']:.3f}, AUPRC {row['auprc']:.3f}, {row['n_pos']:,} positive"
        caption = f"<figcaption><b>{escape(row['label'])}</b>{text}</figcaption>"
        cards.append(f'<figure>{caption}<div class="four">{panels}</div></figure>')
    excluded = [name for name, both, known in zip(names, defined, results.annotated) if known and not both]
    missing = f" Not drawn, because never or always present: {', '.join(excluded)}." if excluded else ""
    kind = "calibrated" if results.calibrated is not None else "predicted"
    return (
        '<h2>Curves</h2><p class="note">ROC; precision against recall, the dashed line is the share of positive '
        "records; the dot is the threshold. Reliability: the observed frequency against the mean probability in ten "
        "bins of equally many records, grey as predicted, blue calibrated; the axes end where the largest value is. "
        f"Decision curve: the net benefit of acting on the {kind} probabilities from each threshold on, as a share of "
        "the prevalence, the most there can be; dashed that of acting on everybody, and that of acting on nobody is 0."
        f'{missing}</p><div class="plots">{"".join(cards)}</div>'
    )


def ranking_panels(name: str, row: dict, truth: np.ndarray, scores: np.ndarray, threshold: float, album: Album) -> str:
    """Return the ROC and the precision-recall curve of a row of metrics.csv."""
    roc = figures.roc_curve(truth, scores, threshold)
    pr = figures.precision_recall_curve(truth, scores, threshold)
    at, pr_at = "", ""
    if not np.isnan(roc.point[0]):
        at = f"; at the threshold recall {roc.point[1]:.3f}, 1 \u2212 specificity {roc.point[0]:.3f}"
    if not np.isnan(pr.point[0]):
        pr_at = f"; at the threshold recall {pr.point[0]:.3f}, precision {pr.point[1]:.3f}"
    prevalence = float(truth.mean())
    svg = figures.roc_panel(roc, f"ROC curve of {name}: AUROC {row['auroc']:.3f}{at}")
    x, y = figures.thinned(roc.x, roc.y).T
    panels = album.add(f"roc {name}", svg, pd.DataFrame({"one_minus_specificity": x, "recall": y}))
    alt = f"Precision-recall curve of {name}: AUPRC {row['auprc']:.3f}, prevalence {prevalence:.3g}{pr_at}"
    x, y = figures.thinned(pr.x, pr.y).T
    numbers = pd.DataFrame({"recall": x, "precision": y})
    return panels + album.add(f"precision recall {name}", figures.precision_recall_panel(pr, prevalence, alt), numbers)


def reliability_panel(name: str, table: pd.DataFrame, album: Album) -> str:
    """Return the reliability curves of a label, from reliability.csv."""
    own = table[table["label"] == name]
    drawn, told = [], []
    for kind, css in ((AS_PREDICTED, "before"), (CALIBRATED, "after")):
        bins = own[own["probabilities"] == kind]
        if len(bins):
            drawn.append((bins["predicted"].to_numpy(), bins["observed"].to_numpy(), css))
            last = bins.iloc[-1]
            told.append(f"{kind}, in the highest bin mean {last['predicted']:.3g} and frequency {last['observed']:.3g}")
    svg = figures.reliability_panel(drawn, f"Reliability curve of {name}: {'; '.join(told)}")
    return album.add(f"reliability {name}", svg, own)


def decision_panel(name: str, table: pd.DataFrame, album: Album) -> str:
    """Return the decision curve of a label, from decision_curves.csv, as a share of its prevalence."""
    own = table[table["label"] == name]
    prevalence = own["prevalence"].iloc[0]
    better = ((own["net_benefit"] > 0) & (own["net_benefit"] > own["treat_all"])).to_numpy()
    runs = [run for run in np.split(np.arange(len(own)), np.flatnonzero(np.diff(better)) + 1) if better[run[0]]]
    at = own["threshold"].to_numpy()
    ranges = ", ".join(f"{at[run[0]]:g} to {at[run[-1]]:g}" if len(run) > 1 else f"{at[run[0]]:g}" for run in runs)
    told = f"better than acting on all or none at thresholds {ranges}" if runs else "nowhere better than all or none"
    alt = f"Decision curve of {name}: {told}"
    thresholds, benefit, treat_all = (own[column].to_numpy() for column in ("threshold", "net_benefit", "treat_all"))
    svg = figures.decision_panel(thresholds, benefit / prevalence, treat_all / prevalence, alt)
    return album.add(f"decision {name}", svg, own)


def comparison_section(report: Report) -> str:
    """Return the comparison with the other run; empty without one."""
    if report.comparison is None:
        return ""
    rows = rows_of(report.comparison.table)
    lines = []
    for row in rows:
        line = [shown_label(row), number_text(row["n_pos"])]
        for metric in ("auroc", "auprc"):
            difference = signed_cell(row, f"{metric}_difference")
            values = (row[metric], row[f"{metric}_other"])
            line += [None, None, None] if difference is None else [*(f"{value:.3f}" for value in values), difference]
        lines.append(line)
    areas = (f"{name}{what}" for name in ("AUROC", "AUPRC") for what in ("", ", other", " difference"))
    few = " * Too few patients for reliable intervals." if any_marked(rows) else ""
    return (
        f"<h2>Comparison</h2><p>This run minus {escape(report.other)}, on the "
        f"{compared(report.comparison, report.results.resampled)}. Both met the same resamples: these are t intervals "
        "of paired differences, bold where they exclude 0. With this many rows, some do so by chance."
        f"{few}</p>{html_table(['Label', 'Positive', *areas], lines[:-2], footer=lines[-2:])}"
    )


def co_occurrence(results: Evaluation, tables: Mapping[str, pd.DataFrame], album: Album) -> str:
    """Return how often labels occur together, in truth and as predicted."""
    parts = []
    for kind, table in tables["co_occurrence"].groupby("labels", sort=False):
        shares = table.pivot(index="label", columns="other", values="share")
        names = table["label"].unique().tolist()
        most = table[table["label"] != table["other"]].nlargest(3, "share")
        told = "; ".join(f"{row.share:.0%} of {row.label} have {row.other}" for row in most.itertuples())
        alt = f"{kind.capitalize()} labels that occur together" + (f", most often: {told}" if told else "")
        svg = figures.heatmap(shares.reindex(index=names, columns=names).to_numpy(), names, alt)
        svg = album.add(f"together {kind}", svg, table)
        parts.append(f'<h3>{kind.capitalize()} labels</h3><div class="scroll wide">{svg}</div>')
    among = "know both labels and " if np.isnan(results.test.truth[:, results.annotated]).any() else ""
    return (
        f'<h2>Labels that occur together</h2><p class="note">Of the records that {among}have the label of the row, the '
        f"percentage that also has the label of the column. Empty: none.</p>{''.join(parts)}"
    )


def misses_section(report: Report, album: Album) -> str:
    """Return the records that are furthest from their labels, as strips on ECG paper; empty without signals."""
    if report.test_dir is None:
        return ""
    strips, note = worst_misses(report.results, report.test_dir, report.signal_report)
    if not strips:
        return f'<h2>Worst misses</h2><p class="note">{escape(note)}</p>'
    drawn = "".join(
        f"<figure>{album.add(f'miss {number}', strip, signal)}<figcaption>{caption}</figcaption></figure>"
        for number, (strip, caption, signal) in enumerate(strips, start=1)
    )
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

"""Sections of the report, each from the table of an analysis, so that every number in it is in a CSV file."""

import itertools
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from ecg_evaluation import figures, flow
from ecg_evaluation.calibration_quality import AS_PREDICTED, CALIBRATED
from ecg_evaluation.figure_files import Album
from ecg_evaluation.label_groups import ALL, NOT_VISIBLE
from ecg_evaluation.number_text import capital, p_text, plain_interval, share_text, signed_interval, with_small_interval
from ecg_evaluation.published import ABOVE, BELOW, OTHER_DATA, SOURCE, WITHIN
from ecg_evaluation.results import SHOWN
from ecg_evaluation.subgroups import SHOWN as OF_GROUPS
from ecg_finetune.html_page import html_table
from ecg_finetune.label_set import ROW_NAMES

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
    "intercept": "Intercept",
    "slope": "Slope",
    "expected_observed": "Expected / observed",
    "ece": "ECE",
    "ppv": "PPV",
}


def cell(row: dict, name: str, digits: int = 3) -> Markup | None:
    """Return a value of a row of a table with its interval, None where it is undefined."""
    return with_small_interval(*plain_interval(*(row[f"{name}{end}"] for end in ("", "_low", "_high")), digits))


def signed_cell(row: dict, name: str) -> Markup | None:
    """Return a difference with its interval, bold where that excludes 0; None where it is undefined."""
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if np.isnan(value):
        return None
    return with_small_interval(*signed_interval(value, low, high), bold=low > 0 or high < 0)


def shown(label: str) -> str:
    """Return a label as the report shows it."""
    return SHOWN.get(label, label)


def calibration_section(tables: Mapping[str, pd.DataFrame]) -> str:
    """Return calibration on the evaluated records, before and after."""
    table = tables["calibration"]
    if table.empty:
        return ""
    kinds = [kind for kind in (AS_PREDICTED, CALIBRATED) if (table["probabilities"] == kind).any()]
    parts = []
    for kind in kinds:
        rows = table[table["probabilities"] == kind].to_dict("records")
        lines = [
            [starred(row), *(cell(row, name) for name in ("intercept", "slope", "expected_observed", "ece"))]
            for row in rows
        ]
        heads = ["Label", *(NAMES[name] for name in ("intercept", "slope", "expected_observed", "ece"))]
        parts.append(f"<h3>{capital(kind)}</h3>{html_table(heads, lines)}")
    return (
        "<h2>Calibration</h2><p>Intercept: calibration in the large, the shift of the logits that makes the mean "
        "right; 0 is right, and below 0 the probabilities are too high. Slope: of a logistic regression on the "
        "logit; 1 is right, and below 1 the probabilities are too extreme. Expected / observed: the sum of the "
        "probabilities over the number of positive records; 1 is right. ECE: the mean distance of probability and "
        "frequency, in ten bins of equally many records. It is never below 0, and chance alone makes it more than 0. "
        "An empty slope: a threshold separates the classes, or all probabilities are equal, so there is none."
        f"</p>{''.join(parts)}"
    )


FEW = " * Too few patients for reliable intervals."


def starred(row: dict) -> str:
    """Return the label of a row, with an asterisk where it rests on few patients."""
    return shown(row["label"]) + star([row])


def star(rows: Iterable[dict]) -> str:
    """Return an asterisk where one of the rows of a label rests on few patients."""
    return " *" if any(is_few(row["few_patients"]) for row in rows) else ""


def is_few(value) -> bool:
    """Tell whether a cell of `few_patients` says so; averages have empty ones."""
    return not pd.isna(value) and value == 1


def few_told(table: pd.DataFrame) -> str:
    """Return what an asterisk means, where a row of a table has one."""
    return FEW if table["few_patients"].map(is_few).any() else ""


def operating_section(tables: Mapping[str, pd.DataFrame]) -> str:
    """Return what each operating point gives, one table per rule."""
    table, parts = tables["operating_points"], []
    shares = ("recall", "specificity", "precision", "npv")
    for rule in table["rule"].unique():
        rows = table[table["rule"] == rule].to_dict("records")
        lines = [
            [
                starred(row),
                f"{row['threshold']:#.3g}",
                f"{row['tp'] + row['fp']:,}",
                *(cell(row, share) for share in shares),
            ]
            for row in rows
        ]
        heads = ["Label", "Threshold", "Predicted", *("Recall", "Specificity", "Precision (PPV)", "NPV")]
        parts.append(f"<h3>{escape(rule_text(rule))}</h3>{html_table(heads, lines)}")
    told = (
        "Highest F1 is a usual rule, and no more: F1 ignores true negatives, changes with the prevalence, is no "
        "proper score, and weighs the harms of no decision. The others state what a use may ask for, a sensitivity "
        "(recall) or a specificity; what they give here differs from that by chance, and where patients differ. A "
        f"label is not in a table where no threshold gave that on the valid split.{few_told(table)}"
    )
    return f"<h2>Operating points</h2><p>{told}</p>{''.join(parts)}{prevalence_part(tables)}"


def rule_text(rule: str) -> str:
    """Return a rule in words."""
    words = {"f1": "Highest F1 on the valid split", "youden": "Highest recall + specificity on the valid split"}
    if rule in words:
        return words[rule]
    return f"{capital(rule)} on the valid split" if rule.startswith("s") else capital(rule)


def short_rule(rule: str) -> str:
    """Return a rule in a word or two, for the head of a column."""
    return {"f1": "highest F1", "youden": "highest sum"}.get(rule, rule)


def prevalence_part(tables: Mapping[str, pd.DataFrame]) -> str:
    """Return the predictive values at other prevalences; empty where none was asked for."""
    if "prevalence" not in tables:
        return ""
    parts = []
    for prevalence, table in tables["prevalence"].groupby("prevalence"):
        rules, lines = table["rule"].unique().tolist(), []
        for label in table["label"].unique():
            rows = table[table["label"] == label].set_index("rule").to_dict("index")
            cells = (
                (cell(rows[rule], "ppv"), cell(rows[rule], "npv", 4)) if rule in rows else (None, None)
                for rule in rules
            )
            lines.append([label + star(rows.values()), *itertools.chain.from_iterable(cells)])
        heads = ["Label", *(f"{value}, {short_rule(rule)}" for rule in rules for value in ("PPV", "NPV"))]
        parts.append(html_table(heads, lines, f"Prevalence {prevalence:.4g}"))
    return (
        '<h3>At other prevalences</h3><p class="note">Sensitivity and specificity are taken as measured here, which '
        f"other people need not have.{few_told(tables['prevalence'])}</p>{''.join(parts)}"
    )


def subgroups_section(tables: Mapping[str, pd.DataFrame], min_patients: int) -> str:
    """Return the groups of each column; empty without --subgroups."""
    if "subgroups" not in tables:
        return ""
    parts = []
    for by, table in tables["subgroups"].groupby("by", sort=False):
        lines = []
        for row in table.to_dict("records"):
            remark = Markup(" <small>too small</small>") if row["too_small"] else ""
            line = [row["label"], Markup("{}{}").format(row["group"], remark), f"{row['n']:,}"]
            line.append(share_text(row["prevalence"]))
            for metric in OF_GROUPS:
                line += [cell(row, metric), difference(row, metric)]
            lines.append(line)
        heads = ["Label", capital(by), "Records", "Prevalence"]
        heads += [f"{NAMES[metric]}{what}" for metric in OF_GROUPS for what in ("", ", difference")]
        parts.append(f"<h3>By {escape(by)}</h3>{html_table(heads, sorted(lines, key=lambda line: line[0]))}")
    return (
        "<h2>Subgroups</h2><p>Differences are to all other records, their intervals from those of both parts and "
        "from how these vary together over the same resamples of the patients; p is adjusted by Holm\u2019s method "
        "over all labels and groups of a column, for each metric apart. Recall and specificity are at the one "
        "threshold of the label. AUPRC rises with the prevalence, so it differs between groups where that does. Too "
        f"small: fewer than {min_patients} patients with, or without, the label.</p>{''.join(parts)}"
    )


def difference(row: dict, metric: str) -> Markup | None:
    """Return a difference with its interval and adjusted p value; None where there is none."""
    shown_difference = signed_cell(row, f"{metric}_difference")
    p = row[f"{metric}_p_holm"]
    if shown_difference is None or np.isnan(p):
        return shown_difference
    return Markup("{} <small>p {}</small>").format(shown_difference, p_text(p))


def estimands_section(tables: Mapping[str, pd.DataFrame], by_time: bool) -> str:
    """Return the headline numbers per record, per patient's first ECG, and patient-weighted."""
    table = tables["estimands"]
    names = table["estimand"].unique().tolist()
    if len(names) == 1:
        return ""
    lines = []
    for label, metric in ((label, metric) for label in ROW_NAMES[::-1] for metric in ("auroc", "auprc")):
        rows = table[table["label"] == label].set_index("estimand").to_dict("index")
        lines.append(
            [
                f"{NAMES[metric]}, {shown(label).removesuffix(' average').lower()}",
                *(cell(rows[name], metric) for name in names),
            ]
        )
    labels = table[~table["label"].isin(ROW_NAMES)]
    for label in labels["label"].unique():
        rows = labels[labels["label"] == label].set_index("estimand").to_dict("index")
        lines.append([f"AUROC, {label}{star(rows.values())}", *(cell(rows[name], "auroc") for name in names)])
    count = table["n_labels"].dropna()
    first = "earliest by ecg_time" if by_time else "the smallest study_id, as times are not known"
    return (
        "<h2>Estimands</h2><p>Per record: how the model does on the next ECG, which is most often that of a patient "
        f"with many. First ECG per patient: only the first here ({first}). Patient-weighted: every record, and every "
        f"patient the same weight. Macro averages here are over the {int(count.iloc[0]) if len(count) else 0} labels "
        f"that have enough patients in all three.{few_told(labels)}</p>"
        f"{html_table(['', *(capital(name) for name in names)], lines)}"
    )


def definitions_section(tables: Mapping[str, pd.DataFrame], remark: str) -> str:
    """Return AUROC and AUPRC under each definition of the labels, or why there are no others."""
    if "definitions" not in tables:
        return (
            f'<h2>Other definitions of the labels</h2><p class="note">Not computed: {escape(remark)}.</p>'
            if remark
            else ""
        )
    table, parts = tables["definitions"], []
    names = table["definition"].unique().tolist()
    for metric in ("auroc", "auprc"):
        lines = []
        for label in table["label"].unique():
            rows = table[table["label"] == label].set_index("definition").to_dict("index")
            counts = [f"{rows[name]['n_pos']:,}" for name in names] if label not in ROW_NAMES else [None] * len(names)
            lines.append(
                [
                    shown(label) + star(rows.values()),
                    *(part for name, count in zip(names, counts) for part in (count, cell(rows[name], metric))),
                ]
            )
        heads = [head for name in names for head in ("Positive", capital(name))]
        parts.append(f"<h3>{NAMES[metric]}</h3>{html_table(['Label', *heads], lines[:-1], footer=lines[-1:])}")
    return (
        "<h2>Other definitions of the labels</h2><p>The same predictions against the same machine statements, read "
        "in other ways. Policy ecg-fm: any mention is positive. Policy asserted: each statement on its own, without "
        "negated findings; \u201cpossible\u201d is positive. Definite only: \u201cpossible\u201d and "
        "\u201cprobable\u201d are negative. Uncertain excluded: records whose label is merely possible or probable "
        f"are not counted for that label.{few_told(table)}</p>{''.join(parts)}"
    )


def groups_section(tables: Mapping[str, pd.DataFrame]) -> str:
    """Return the macro averages of groups of labels."""
    metrics = ("auroc", "auprc", "recall", "precision", "f1", "specificity")
    lines = [
        [capital(row["group"]), row["n_labels"], *(cell(row, metric) for metric in metrics)]
        for row in tables["label_groups"].to_dict("records")
    ]
    told = (
        f"The labels {NOT_VISIBLE} are findings of other leads (infarction) or of all twelve (quality): one lead "
        "cannot show them, so a macro average with them says less about the network."
    )
    heads = ["Group", "Labels", *(NAMES[metric] for metric in metrics)]
    groups = tables["label_groups"][~tables["label_groups"]["group"].str.startswith(ALL)]
    members = "".join(
        f"<li>{capital(group)}: {escape(names)}</li>" for group, names in zip(groups["group"], groups["labels"])
    )
    return (
        f"<h2>Groups of labels</h2><p>Macro averages of the labels that have enough patients. {told}</p>"
        f'{html_table(heads, lines)}<ul class="note">{members}</ul>'
    )


def published_section(tables: Mapping[str, pd.DataFrame]) -> str:
    """Return the published results beside ours; empty where no label has any."""
    if "published" not in tables:
        return ""
    table, lines = tables["published"], []
    same = not (table["auroc_relation"] == OTHER_DATA).any()
    for row in table.to_dict("records"):
        line = [starred(row), None if pd.isna(row["n_pos"]) else f"{row['n_pos']:,}"]
        line.append(None if pd.isna(row["n_pos_published"]) else f"{row['n_pos_published']:,}")
        for metric in ("auroc", "auprc"):
            published = row[f"{metric}_published"]
            line += [cell(row, metric), None if np.isnan(published) else f"{published:.3f}", row[f"{metric}_relation"]]
        lines.append(line)
    heads = ["Label", "Positive", "published", "AUROC", "published", "Ours is", "AUPRC", "published", "Ours is"]
    told = (
        f"{relations(table, 'auroc')} Above, within, below: the published value is below our interval, in it, or "
        "above it. It has an error of its own, which is not published."
        if same
        else "The records evaluated here are not those of that split (their number, or the positives of a label, "
        "differ), so the numbers are those of other data and are not compared."
    )
    averages = int(table["label"].isin(ROW_NAMES).sum())  # the last rows
    shown_table = html_table(heads, lines[: len(lines) - averages], footer=lines[len(lines) - averages :])
    return f"<h2>Published results</h2><p>Published for {SOURCE}. {told}{few_told(table)}</p>{shown_table}"


def relations(table: pd.DataFrame, metric: str) -> str:
    """Say which labels are above, within and below the published value of a metric."""
    own = table[~table["label"].isin(ROW_NAMES)]
    parts = []
    for relation in (ABOVE, WITHIN, BELOW):
        names = own["label"][own[f"{metric}_relation"] == relation].tolist()
        parts.append(f"{relation}: {', '.join(names) if names else 'none'}")
    return escape(f"{NAMES[metric]}, {'; '.join(parts)}.")


def baselines_section(tables: Mapping[str, pd.DataFrame]) -> str:
    """Return the rules on Lead I beside the network; empty without them."""
    if "baselines" not in tables:
        return ""
    lines = []
    for row in tables["baselines"].to_dict("records"):
        line = [starred(row), row["rule"], f"{row['n_pos']:,}", f"{row['n_no_beats']:,}"]
        for metric in ("auroc", "auprc"):
            line += [
                None if np.isnan(row[metric]) else f"{row[metric]:.3f}",
                cell(row, f"{metric}_rule"),
                signed_cell(row, f"{metric}_difference"),
            ]
        lines.append([*line, *(cell(row, f"{metric}_rule") for metric in ("recall", "specificity", "precision"))])
    heads = ["Label", "Rule", "Positive", "Too few beats", "AUROC, network", "rule", "difference"]
    heads += ["AUPRC, network", "rule", "difference", "Recall, rule", "Specificity, rule", "Precision, rule"]
    return (
        "<h2>Rules on Lead I</h2><p>What heart rate and irregularity of the beats tell of the same 10 s, a reference "
        "that a network has to beat. Beats are those of sleepecg\u2019s detector. RR irregularity: the median "
        "difference of successive RR distances over the median distance. A record with fewer than three beats "
        "counts as the least likely to have the label. Differences are network minus rule, paired."
        f"{few_told(tables['baselines'])}</p>"
        f"{html_table(heads, lines)}"
    )


def flow_section(tables: Mapping[str, pd.DataFrame], split: str, album: Album) -> str:
    """Return the flow of records, as a figure and as a table with the labels of the excluded."""
    table = tables["flow"]
    steps = [step for step in flow_steps(table, split) if step[0]]
    alt = "Flow of records. " + " ".join(
        f"{'; '.join(box)}." + (f" Excluded: {'; '.join(aside[1:])}." if aside else "") for box, aside in steps
    )
    svg = album.add("flow", figures.boxes(steps, alt), table)
    columns = table[table["outcome"].isin([flow.EXCLUDED, flow.EVALUATED])].to_dict("records")
    words = {"n_records": "Records", "n_patients": "Patients", "n_labelled": "With labels"}
    counts = table.columns[table.columns.get_loc("n_records") :]
    lines = [[words.get(name, name), *(count_text(column[name]) for column in columns)] for name in counts]
    heads = [
        "",
        *(f"{column['split'] or column['stage']}: {cut(column['reason'] or 'evaluated')}" for column in columns),
    ]
    by_label = html_table(heads, lines, "The excluded, and those evaluated, by label")
    return f'<h2>Flow of records</h2><div class="flow">{svg}</div>{by_label}'


def count_text(count) -> str:
    """Return a count as text; "" where it is not known."""
    return "" if count is None or pd.isna(count) else f"{int(count):,}"


def flow_steps(table: pd.DataFrame, split: str) -> list[tuple[list[str], list[str]]]:
    """Return the boxes of the flow, each with what is excluded after it; see `figures.boxes`."""

    def rows(stage: str, of_split: str | None, outcome: str) -> pd.DataFrame:
        own = table[(table["stage"] == stage) & (table["outcome"] == outcome)]
        return own if of_split is None else own[own["split"] == of_split]

    def box(head: str, own: pd.DataFrame) -> list[str]:
        if own.empty:
            return []
        row = own.iloc[0]
        patients = count_text(row["n_patients"])
        return [head, f"{row['n_records']:,} records" + (f" of {patients} patients" if patients else "")]

    def aside(own: pd.DataFrame) -> list[str]:
        if own.empty:
            return []
        told = [f"Excluded: {own['n_records'].sum():,}"]
        return told + [f"{row['n_records']:,} {cut(row['reason'])}" for row in own.to_dict("records")]

    splits = rows(flow.SPLIT, None, flow.ENTERED)
    later = {name: rows(flow.BUILD, name, flow.EXCLUDED)["n_records"].sum() for name in splits["split"]}
    divided = [
        f"{row['split']}: {row['n_records']:,} records"
        + (f", {later[row['split']]:,} excluded" if row["split"] != split and later[row["split"]] else "")
        for row in splits.to_dict("records")
    ]
    return [
        (box("Record list", rows(flow.LISTED, "", flow.ENTERED)), aside(rows(flow.SPLIT, "", flow.EXCLUDED))),
        (["Split", *divided] if divided else [], []),
        (
            box(f"{capital(split)} split", rows(flow.SPLIT, split, flow.ENTERED)),
            aside(rows(flow.BUILD, split, flow.EXCLUDED)),
        ),
        (
            box(f"Usable {split} records", rows(flow.EVALUATION, split, flow.ENTERED)),
            aside(rows(flow.EVALUATION, split, flow.EXCLUDED)),
        ),
        (box("Evaluated", rows(flow.EVALUATION, split, flow.EVALUATED)), []),
    ]


REASONS = {"no_labels": "without labels", "not_preprocessed": "not preprocessed", "nan": "with missing samples"}


def cut(reason: str, most: int = 30) -> str:
    """Return a reason in words that fit into a box."""
    reason = REASONS.get(reason, reason.replace("_", " "))
    return reason if len(reason) <= most else reason[: most - 1] + "\u2026"

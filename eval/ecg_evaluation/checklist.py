"""The TRIPOD+AI checklist of an evaluation: what this run knows for each item, and gaps where only the authors can say.

The items are those of the TRIPOD+AI statement (Collins et al., BMJ 2024;385:e078378), named in short; the statement has
their wording.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ecg_evaluation import flow
from ecg_evaluation.provenance import trained_on_sources
from ecg_evaluation.report import Report, channels, model_name, settled
from ecg_evaluation.results import MACRO, MICRO, with_interval
from ecg_finetune.files import replacing
from ecg_finetune.lineage import latest, software, stage_settings

# Item, where it belongs, what it asks for.
ITEMS = (
    ("1", "Title", "model, population and outcome in the title"),
    ("2", "Abstract", "a structured summary"),
    ("3a", "Introduction", "the health problem, and why this model"),
    ("3b", "Introduction", "for whom, and for which use, the model is meant"),
    ("3c", "Introduction", "known health inequalities"),
    ("4", "Introduction", "objectives: development, evaluation, or both"),
    ("5a", "Methods", "sources of data, for development and evaluation"),
    ("5b", "Methods", "dates of the data"),
    ("6a", "Methods", "setting: hospitals, countries"),
    ("6b", "Methods", "who is eligible"),
    ("6c", "Methods", "treatments received"),
    ("7", "Methods", "preparation and quality control of the data"),
    ("8a", "Methods", "outcome: what it is, when and how it was assessed"),
    ("8b", "Methods", "who assessed the outcome"),
    ("8c", "Methods", "blinding of the assessment"),
    ("9a", "Methods", "choice of predictors"),
    ("9b", "Methods", "definition and measurement of predictors"),
    ("9c", "Methods", "who measured predictors that need judgement"),
    ("10", "Methods", "sample size"),
    ("11", "Methods", "missing data"),
    ("12a", "Methods", "how the data were divided and used"),
    ("12b", "Methods", "handling of predictors"),
    ("12c", "Methods", "type of model, building and tuning, internal validation"),
    ("12d", "Methods", "differences between clusters such as hospitals"),
    ("12e", "Methods", "measures of performance"),
    ("12f", "Methods", "updating, such as recalibration"),
    ("12g", "Methods", "how predictions were calculated"),
    ("13", "Methods", "class imbalance"),
    ("14", "Methods", "fairness"),
    ("15", "Methods", "what the model gives, and thresholds"),
    ("16", "Methods", "differences between development and evaluation data"),
    ("17", "Methods", "ethical approval and consent"),
    ("18a", "Open science", "funding"),
    ("18b", "Open science", "conflicts of interest"),
    ("18c", "Open science", "protocol"),
    ("18d", "Open science", "registration"),
    ("18e", "Open science", "availability of data"),
    ("18f", "Open science", "availability of code"),
    ("19", "Patient involvement", "patients and the public"),
    ("20a", "Results", "flow of participants"),
    ("20b", "Results", "characteristics of participants"),
    ("20c", "Results", "comparison with the development data"),
    ("21", "Results", "numbers of participants and outcomes in each analysis"),
    ("22", "Results", "the full model, or how to get it"),
    ("23a", "Results", "performance with intervals, in subgroups too"),
    ("23b", "Results", "performance in each cluster"),
    ("24", "Results", "results of updating"),
    ("25", "Discussion", "interpretation, fairness included"),
    ("26", "Discussion", "limitations"),
    ("27a", "Discussion", "poor or missing input in use"),
    ("27b", "Discussion", "what users need to do and know"),
    ("27c", "Discussion", "next steps"),
)
GAP = "**Gap: only the authors can say.**"


def write_checklist(path: Path, report: Report) -> None:
    """Write the checklist as Markdown."""
    known = answers(report)
    gaps = sum(item not in known for item, _, _ in ITEMS)
    lines = [
        f"# TRIPOD+AI checklist: {plain(model_name(report))} on Lead {report.lead} of {plain(report.data_set)}",
        "",
        f"Of the evaluation of {report.date} (`{report.stamp}`). {len(ITEMS) - gaps} of {len(ITEMS)} items say what "
        f"this run knows, which the authors have to check and to put into the paper's words; {gaps} are gaps that "
        "only they can fill. Files are those of the same time in the folder of the report.",
        "",
        "| item | section | asks for | this evaluation |",
        "|---|---|---|---|",
    ]
    lines += [f"| {item} | {section} | {what} | {known.get(item, GAP)} |" for item, section, what in ITEMS]
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def plain(text: Any) -> str:
    """Return a text as it can stand in a cell of a table in Markdown."""
    return "".join(f"\\{char}" if char in "\\`*_|<>[]" else char for char in str(text) if char.isprintable())


def answers(report: Report) -> dict[str, str]:
    """Return what this run knows, by item."""
    results, tables = report.results, report.tables
    size = f"{len(results.unit):,} records of {units_text(report)}"
    count = len(results.estimates.drawn)
    intervals = "without intervals (--bootstrap 0)"
    if count:
        intervals = f"each with 95 % intervals from {count:,} bootstrap resamples of {results.resampled}"
    known: dict[str, str] = {
        "1": f"{plain(model_name(report))}, Lead {report.lead}, {plain(report.data_set)}. {GAP} The population.",
        "4": "Evaluation of a model that was developed before; the same pipeline develops it (see 12).",
        "5a": f"Evaluated on {plain(report.data_set)} (`{results.test.name}`). "
        f"{GAP} Why these data, and how representative they are.",
        "7": "Each record is read, checked for missing samples, flat stretches and amplitude, and standardised by the "
        f"preprocess stage; what was excluded for which reason is in flow.csv. {excluded_text(tables['flow'], report)}",
        "8a": outcome(report),
        "8c": "The labels were there before the model was; the model sees the signal alone.",
        "9a": f"No choice: the predictor is the signal of Lead {report.lead}.",
        "9b": f"Two 5 s segments of 10 s at 500 Hz, standardised{channels(report)}; their probabilities are combined "
        "per label."
        if not report.whole_recordings
        else "Whole recordings, predicted by predict_ecg.py.",
        "9c": "None needs judgement.",
        "10": f"{size}; positives of each label in metrics.csv, the fewest {fewest(results.table)}. "
        f"{GAP} Why that is enough.",
        "11": missing(report),
        "12a": divided(report),
        "12b": "None: the network reads the signal.",
        "12e": "AUROC, AUPRC, recall, precision, specificity, NPV, F1, accuracy, Brier score, calibration intercept "
        f"and slope, expected / observed, ECE and net benefit, {intervals} (metrics.csv, calibration.csv, "
        "decision_curves.csv).",
        "12f": f"A sigmoid per label, fitted on {results.decisions.chosen_on}; the network is as it was."
        if results.decisions.calibration is not None
        else "None.",
        "12g": made(report),
        "14": "Performance by " + plain(report.settings["by"]) + f" in subgroups.csv. {GAP} Why these groups."
        if "subgroups" in tables
        else f"{GAP} No subgroups were evaluated: --subgroups gives them.",
        "15": f"A probability per label, thresholds by rule in operating_points.csv ({thresholds(report)}). "
        f"{GAP} Which threshold the use asks for.",
        "16": frozen(report),
        "18f": f"ecg-finetune {software()['ecg-finetune']}, commit {software()['commit'] or 'not recorded'}. "
        f"{GAP} Where it is published.",
        "20a": f"flow.csv and its figure. {excluded_text(tables['flow'], report)}",
        "21": f"{size}; positives, negatives and unknown of each label in metrics.csv, and of each further analysis "
        "in its table.",
        "22": checkpoint(report),
        "23a": headline(results.table)
        + " Each label in metrics.csv"
        + ("; subgroups in subgroups.csv." if "subgroups" in tables else f". {GAP} Subgroups (--subgroups).")
        + ("" if count else f" {GAP} Intervals (--bootstrap)."),
        "24": "Calibration before and after in calibration.csv."
        if results.decisions.calibration is not None
        else "Nothing was updated.",
        "26": "Said in the report: the reference standard, one training run, what the intervals do not cover"
        + ("; " + plain("; ".join(report.alarms + report.caveats)) if report.alarms or report.caveats else "")
        + f". {GAP} All others.",
        "27a": "Records that the quality checks reject get no prediction; see 7.",
    }
    tuned = stage_settings(report.origin, "finetune")
    if tuned:
        known["12c"] = f"ECG-FM, fine-tuned: {settings_text(tuned)}. The valid split chose the epoch."
        known["13"] = (
            "Loss weighted by pos_weight of the train records, (negatives / positives) per label; probabilities are "
        )
        known["13"] += "not calibrated." if results.decisions.calibration is None else "calibrated afterwards."
    return known


def settings_text(settings: Mapping[str, Any]) -> str:
    """Return the settings of a stage that are single values."""
    pairs = [f"{name} {value}" for name, value in settings.items() if isinstance(value, str | int | float | bool)]
    return plain(", ".join(pairs))


def excluded_text(table: pd.DataFrame, report: Report) -> str:
    """Say how many records of the evaluated split were excluded, and why."""
    of_split = table[table["split"] == report.settings["set"]]
    own = of_split[of_split["outcome"] == flow.EXCLUDED]
    reasons = "; ".join(f"{row['n_records']:,} {plain(row['reason'])}" for row in own.to_dict("records"))
    told = f"Excluded of the evaluated split: {reasons}." if reasons else ""
    if not (of_split["stage"] == flow.SPLIT).any():
        return f"{told} {GAP} What earlier stages excluded: there is no meta_split.csv.".strip()
    return told or "No record of the evaluated split was excluded."


def outcome(report: Report) -> str:
    """Say what the labels are."""
    if report.source.name is not None:
        return f"The labels of {plain(report.source.name)}, as it says them of its records."
    policy = stage_settings(report.records_lineage, "labels").get("--policy", "not recorded")
    return (
        "Machine statements of the 12-lead ECG of the same 10 s, read by ECG-FM's labeler (policy "
        f"{plain(policy)}); no physician has read the ECGs for it. What other readings of the statements give is in "
        + ("definitions.csv." if "definitions" in report.tables else "no file of this run.")
    )


def units_text(report: Report) -> str:
    """Return the number of patients."""
    results = report.results
    return f"{results.unit.max() + 1:,} patients" if results.resampled == "patients" else "patients not known"


def fewest(table: pd.DataFrame) -> str:
    """Return the label with fewest positive records."""
    labels = table[~table["label"].isin([MACRO, MICRO]) & table["n_pos"].notna()]
    row = labels.loc[labels["n_pos"].astype(int).idxmin()]
    return f"{row['n_pos']:,} ({plain(row['label'])})"


def missing(report: Report) -> str:
    """Say what is done with missing samples and unknown labels."""
    unknown = int(pd.to_numeric(report.results.table["n_unknown"][:-2]).sum())
    told = "No label is unknown." if unknown == 0 else f"{unknown:,} labels are unknown and in no number."
    return f"Records with missing samples are excluded (see 7). {told}"


def divided(report: Report) -> str:
    """Say how the data were divided."""
    fitted = "Train fits the network." if stage_settings(report.origin, "finetune") else f"{GAP} How it was trained."
    told = " ".join(filter(None, (fitted, settled(report), seen(report))))
    if report.settings["set"] == "valid":
        told += " This evaluation is of the valid split: it is not one of new data."
    split = stage_settings(report.origin, "split")
    return f"{told} Split: {settings_text(split) or GAP}."


def thresholds(report: Report) -> str:
    """Return the rules of the operating points."""
    rules = report.tables["operating_points"]["rule"].unique()
    return plain(", ".join(rules)) if len(rules) else "none"


def frozen(report: Report) -> str:
    """Say how the evaluated data differ from those of the development, as far as it is known."""
    if report.results.decisions.frozen:
        source = f"External: {plain(report.operating_points)}."
    else:
        trained = {one.key for one in trained_on_sources(latest(report.origin, "finetune"))}
        if not trained or None in trained | {report.source.key}:
            source = "Whether the network was trained on the same source is not recorded."
        else:
            same = report.source.key in trained
            source = f"The network was trained on {'the same source' if same else 'another source'}."
    return f"{source} {seen(report)} {GAP} How setting, patients and devices differ."


def seen(report: Report) -> str:
    """Say whether evaluated patients were trained on."""
    leaked = report.leaked
    if leaked is None:
        return "Whether evaluated patients were trained on was not checked (see 26)."
    if leaked.any():
        return f"{leaked.sum():,} of the {len(leaked):,} evaluated records are of patients trained on."
    return "None of the evaluated patients was found among those trained on (see 26 for what could not be checked)."


def made(report: Report) -> str:
    """Say how the predictions were calculated, as the file beside them does."""
    parts = (report.origin.get(name) for name in ("settings", "versions"))
    told = "; ".join(settings_text(part) for part in parts if isinstance(part, Mapping))
    return f"From the checkpoint: {told}." if told else f"{GAP} No file beside the predictions says how."


def checkpoint(report: Report) -> str:
    """Say which checkpoint made the predictions."""
    digest = report.origin.get("checkpoint_sha256")
    if not digest:
        return f"{GAP} Which checkpoint made {plain(report.predictions)}, and where it can be had."
    return f"{plain(model_name(report))}: the checkpoint of SHA-256 {plain(digest)}. {GAP} Where it can be had."


def headline(table: pd.DataFrame) -> str:
    """Return the headline numbers."""
    rows = table.set_index("label", drop=False).to_dict("index")
    told = []
    for metric, name in (("auroc", "AUROC"), ("auprc", "AUPRC")):
        for label, kind in ((MACRO, "macro"), (MICRO, "micro")):
            value, interval = with_interval(rows[label], metric)
            if value:
                told.append(f"{name} {kind} {value}" + (f" ({interval})" if interval else ""))
    return "; ".join(told) + "." if told else "No average is defined."

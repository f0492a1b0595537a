"""The model card: README.md of the model folder, in the form of the Hugging Face Hub."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ecg_export.evaluation import EvaluatedModel, Extra
from ecg_finetune.label_set import ROW_NAMES
from ecg_finetune.lineage import lineages, stage_settings
from ecg_finetune.model_folder import ONE_LEAD, ModelConfig
from ecg_finetune.waveform import RECORD_SECONDS, SAMPLE_RATE

MACRO, MICRO = ROW_NAMES
SHOWN = {MACRO: "Macro average", MICRO: "Micro average"}
GUIDELINES = "https://physionet.org/news/post/guidelines-creating-datasets-models"


def model_card(
    config: ModelConfig,
    evaluation: EvaluatedModel,
    checks: Mapping[str, Any],
    *,
    trained_on: str,
    evaluated_on: str,
    licence: str,
    extras: Iterable[Extra] = (),
) -> str:
    """Return the card.

    Parameters
    ----------
    config : ModelConfig
        The folder's.
    evaluation : EvaluatedModel
        On the test set.
    checks : mapping
        The content of checks.json.
    trained_on, evaluated_on : str
        The data sets, in words.
    licence : str
        The Hub's identifier.
    extras : iterable of Extra
        Subgroups, noise, where evaluated.
    """
    counts = evaluation.table.loc[list(evaluation.names), ["n_pos", "n_neg", "n_unknown"]]
    records = int(counts.sum(axis=1).max())
    parts = [
        "---",
        *yaml_lines(front_matter(config, evaluation, evaluated_on, licence)),
        "---",
        "",
        f"# {config.name}",
        "",
        f"ECG-FM fine-tuned on lead {config.lead} alone: from {RECORD_SECONDS} s of one lead to calibrated "
        f"probabilities of {len(config.label_set)} findings. Made with ecg-finetune.",
        "",
        "**Not a medical device.** For research. No regulator has cleared it, no physician has checked its answers; "
        "nobody should be treated, or not be treated, because of them.",
        "",
        *_use(config),
        *_intended(config),
        *_data(config, trained_on, evaluated_on, records),
        *_results(config, evaluation, records),
        *(line for extra in extras for line in _extra(extra)),
        *_limits(config, evaluation),
        *_rules(),
        *_files(config, checks),
    ]
    return "\n".join(parts) + "\n"


def front_matter(config: ModelConfig, evaluation: EvaluatedModel, data: str, licence: str) -> dict[str, Any]:
    """Return the metadata at the head of the card, with the results as `model-index`."""
    names = {"roc_auc": ("auroc", "AUROC"), "average_precision": ("auprc", "AUPRC"), "f1": ("f1", "F1")}
    metrics = []
    for row in (MACRO, *config.label_set.names):
        for kind, (column, shown) in names.items():
            value = evaluation.table.at[row, column] if row in evaluation.table.index else math.nan
            if math.isfinite(value):
                metrics.append({"type": kind, "name": f"{shown}, {SHOWN.get(row, row)}", "value": round(value, 4)})
    dataset = {"name": data, "type": re.sub("[^a-z0-9]+", "-", data.lower()).strip("-"), "split": "test"}
    results = [{"task": {"type": "other", "name": "ECG classification"}, "dataset": dataset, "metrics": metrics}]
    return {
        "license": licence,
        "library_name": "ecg-finetune",
        "tags": ["ecg", "electrocardiogram", "ecg-fm", "single-lead", "onnx", "safetensors", "medical"],
        "metrics": list(names),
        "model-index": [{"name": config.name, "results": results}],
    }


def yaml_lines(content: Any, indent: str = "") -> list[str]:
    """Return mappings, lists, texts and numbers as lines of YAML; keys must be plain words.

    >>> yaml_lines({"a": [1, {"b": "x: y"}]})
    ['a:', '- 1', '- b: "x: y"']
    """
    if isinstance(content, Mapping):
        lines = []
        for key, value in content.items():
            if isinstance(value, (Mapping, list)) and value:
                deeper = indent if isinstance(value, list) else indent + "  "
                lines += [f"{indent}{key}:", *yaml_lines(value, deeper)]
            else:
                lines.append(f"{indent}{key}: {json.dumps(value, ensure_ascii=False)}")
        return lines
    if isinstance(content, list):
        lines = []
        for value in content:
            first, *more = yaml_lines(value, indent + "  ")
            lines += [f"{indent}- {first.lstrip()}", *more]
        return lines
    return [f"{indent}{json.dumps(content, ensure_ascii=False)}"]


def _use(config: ModelConfig) -> list[str]:
    return [
        "## Use",
        "",
        "```python",
        'from ecg_finetune import load_model      # pip install "ecg-finetune[onnx]"',
        "",
        f'model = load_model("{config.name}")',
        "print(model.predict(signal_mv, rate=512))     # one lead in millivolts; 5 s or longer",
        "```",
        "",
        f"Input: lead {config.lead}, resampled to {SAMPLE_RATE} Hz, in windows of {RECORD_SECONDS} s, each brought to "
        "zero mean and unit standard deviation and cut into two segments of 5 s. `model.onnx` takes such segments "
        "(`lead`, float32, batch x samples) and gives `logits`; their sigmoid is the probability before calibration. "
        "Over the segments of a recording it is combined by maximum or mean, as `config.json` says of each label, then "
        "compared with the threshold, and calibrated: `1 / (1 + exp(-(slope * log(p / (1 - p)) + intercept)))`.",
        "",
    ]


def _intended(config: ModelConfig) -> list[str]:
    return [
        "## What it is for, and what not",
        "",
        f"For research on single-lead ECGs: screening of archives, study of wearables, a baseline to compare with. It "
        f"answers for resting ECGs of adults in lead {config.lead} of 5 s and more.",
        "",
        "Not for diagnosis, alarms or triage; not for children, for other leads, or for exercise; not where a missed "
        "finding would do harm. A finding that is not on the list of labels is not looked for. "
        + ONE_LEAD.format(lead=config.lead),
        "",
    ]


def _data(config: ModelConfig, trained_on: str, evaluated_on: str, records: int) -> list[str]:
    finetuning = next((one for one in lineages(config.lineage) if one.get("stage") == "finetune"), {})
    build = stage_settings(finetuning, "build")
    counts = [(split, build.get(f"number of {split} records")) for split in ("train", "valid")]
    told = [f"{number:,} records of the {split} split" for split, number in counts if isinstance(number, int)]
    policy = stage_settings(config.lineage, "labels").get("--policy")
    lines = [
        "## Data",
        "",
        f"Fine-tuned on {trained_on}" + (f": {', '.join(told)}" if told else "") + ". The reference standard are the "
        "statements of the recordings' own labels, not a physician's reading for this purpose"
        + (f" (label policy: {policy})" if isinstance(policy, str) else "")
        + ". Thresholds and calibration were chosen on the valid split, patients of which are in no other split where "
        "the split is by patient.",
        "",
    ]
    settings = stage_settings(finetuning, "finetune")
    if "pretrained" in settings:
        start = settings["pretrained"]
        lines += ["Started from random weights." if start is None else f"Started from `{start}`.", ""]
    lines += [f"Evaluated on {records:,} records of the test split of {evaluated_on}.", ""]
    rows = [
        [one.get("stage"), one.get("version", "not recorded"), ", ".join(_told(one.get("settings")))]
        for one in lineages(config.lineage)
    ]
    return [*lines, *_table(["stage", "version", "settings"], rows), ""]


def _told(settings: Any) -> list[str]:
    """Return the settings that are one short value each."""
    if not isinstance(settings, Mapping):
        return []
    pairs = [(name, value) for name, value in settings.items() if isinstance(value, (str, int, float, bool))]
    return [f"{name} {value}" for name, value in pairs if len(str(value)) <= 40]


def _results(config: ModelConfig, evaluation: EvaluatedModel, records: int) -> list[str]:
    columns = ["auroc", "auprc", "recall", "specificity", "precision", "f1"]
    thresholds = dict(zip(config.label_set.names, config.calibrated_thresholds.tolist()))
    rows = []
    for label in evaluation.table.index:
        row = evaluation.table.loc[label]
        cells = [SHOWN.get(label, label), _count(row["n_pos"]), *(_with_interval(row, name) for name in columns)]
        threshold = thresholds.get(label, math.nan)
        rows.append([*cells, "" if math.isnan(threshold) else f"{threshold:.3g}"])
    heads = ["label", "positive", "AUROC", "AUPRC", "recall", "specificity", "precision", "F1", "threshold"]
    lines = [
        "## Results",
        "",
        f"On {records:,} records of the test split, with 95 % intervals from resampling patients where they were "
        f"computed. Thresholds, on calibrated probabilities, were chosen by the rule `{config.threshold_rule}` "
        "on the valid split. Precision, F1 and AUPRC hold for the frequencies of these data alone. Everything is in "
        "`metrics.csv`.",
        "",
        *_table(heads, rows),
        "",
    ]
    averaged = evaluation.table["note"].get(MACRO)
    if isinstance(averaged, str):
        lines += [f"{SHOWN[MACRO]}: {averaged or f'mean over all {len(evaluation.names)} labels'}.", ""]
    if evaluation.told:
        lines += [
            "Labels whose threshold or calibration the valid split could not choose:",
            "",
            *(f"- {note}" for note in evaluation.told),
            "",
        ]
    return lines


def _count(value: float) -> str:
    return f"{int(value):,}" if math.isfinite(value) else ""


def _with_interval(row: Mapping[str, float], name: str) -> str:
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if not math.isfinite(value):
        return ""
    return f"{value:.3f}" + (f" ({low:.3f} to {high:.3f})" if math.isfinite(low) and math.isfinite(high) else "")


def _extra(extra: Extra) -> list[str]:
    return [f"## {extra.heading}", "", *_table(extra.columns, extra.rows), ""]


def _limits(config: ModelConfig, evaluation: EvaluatedModel) -> list[str]:
    few = [name for name in evaluation.names if not evaluation.table.at[name, "n_pos"] >= 10]
    lines = [
        "## Limits",
        "",
        f"- {ONE_LEAD.format(lead=config.lead)}",
        "- The labels are those of the data, errors included: the numbers say how far one lead agrees with them.",
        "- Made from recordings in hospitals. On a watch or a patch there is other noise and other contact; without an "
        "evaluation on such recordings nobody knows how much worse it is there.",
        "- Calibrated probabilities hold for the frequencies of the valid split, and for recordings of "
        f"{RECORD_SECONDS} s: labels that combine by maximum are found more easily the longer a recording is.",
        "- How it does in groups of patients is known only where a table above says so.",
    ]
    if few:
        lines.append(f"- Fewer than 10 positive records in the test set: {', '.join(few)}. Nothing is known of these.")
    return [*lines, ""]


def _rules() -> list[str]:
    return [
        "## If patients' data went in",
        "",
        "Weights can hold traces of the records they were trained on. MIMIC-IV-ECG itself is open (ODbL 1.0). Of data "
        "that need a signed agreement, such as MIMIC-IV's other modules, PhysioNet asks that models be treated as "
        f"containing sensitive information and be shared there, under the agreement of the data [(guidelines)]"
        f"({GUIDELINES}). "
        "Look which holds for the data named above before passing these files on. No record, label or score of a "
        "patient is in this folder.",
        "",
    ]


def _files(config: ModelConfig, checks: Mapping[str, Any]) -> list[str]:
    rows = [[f"`{name}`", f"`{checksum}`"] for name, checksum in config.files.items()]
    worst = checks["largest_logit_difference"]
    told = "; ".join(f"`{name}` {value:.2g}" for name, value in worst.items())
    lines = [
        "## Files",
        "",
        *_table(["file", "SHA-256"], rows),
        "",
        f"Largest difference of a logit from the checkpoint's, on {checks['segments']} segments of the test set: "
        f"{told}.",
    ]
    if "int8" in checks:
        means = checks["int8"]["means"]
        told = ", ".join(f"{name} {row[2]:+.4f} ({row[3]})" for name, row in means.items() if row[3])
        lines.append(
            f"Change in int8, on {checks['int8']['records']:,} records, of the mean over all labels that have a metric "
            f"(in brackets how many): {told}."
        )
    return lines


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    def line(cells: Iterable[Any]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return [line(heads), line(["---"] * len(heads)), *map(line, rows)]

"""The model folder, written and compared with the checkpoint before anybody sees it."""

import dataclasses
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ecg_export.checks import (
    GREATEST_DIFFERENCE,
    RECORDS_COMPARED,
    CheckRecords,
    compare_logits,
    compare_metrics,
    means_over_labels,
    refuse_differences,
)
from ecg_export.evaluation import EvaluatedModel, Extra, to_give_away
from ecg_export.model_card import model_card
from ecg_export.networks import write_int8, write_onnx, write_safetensors
from ecg_finetune.data_sets import MACHINE_STATEMENTS, source_of
from ecg_finetune.ecg_fm import EcgClassifier, fold_channels
from ecg_finetune.files import replacing, sha256, write_json
from ecg_finetune.label_set import LabelSet
from ecg_finetune.lineage import latest, software
from ecg_finetune.model_folder import ModelConfig, load_model
from ecg_finetune.paths import inside


def write_networks(folder: Path, model: EcgClassifier, *, int8: bool) -> None:
    """Write the weights, and the network for one lead."""
    write_safetensors(inside(folder, "model_weights"), model)
    write_onnx(inside(folder, "model_onnx"), fold_channels(model))
    if int8:
        write_int8(inside(folder, "model_int8"), inside(folder, "model_onnx"))


def configuration(
    name: str,
    model: EcgClassifier,
    label_set: LabelSet,
    evaluation: EvaluatedModel,
    lead: str,
    lineage: Mapping[str, Any],
) -> ModelConfig:
    """Return what config.json will say, but for the checksums of the files."""
    shape = dataclasses.asdict(model.architecture)
    return ModelConfig(
        name=name,
        architecture={**shape, "conv_feature_layers": str(list(model.architecture.conv_feature_layers))},
        label_set=label_set,
        thresholds=evaluation.thresholds,
        calibration=evaluation.calibration,
        threshold_rule=evaluation.rule,
        lead=lead,
        input_channel=model.input_channel,
        files={},
        lineage=to_give_away(lineage),
        notes=evaluation.notes,
    )


def write_config(folder: Path, config: ModelConfig) -> ModelConfig:
    """Write config.json with the SHA-256 of all that is in the folder; return what it says."""
    path = inside(folder, "model_config")
    files = {file.name: sha256(file) for file in sorted(folder.iterdir()) if file != path}
    config = dataclasses.replace(config, files=files)
    write_json(path, config.to_json())
    return config


def compare(
    folder: Path, model: EcgClassifier, records: CheckRecords, *, int8: bool, most_records: int | None
) -> dict[str, Any]:
    """Return the content of checks.json: how far the folder, as others will load it, answers like the checkpoint.

    Raises
    ------
    UserError
        A logit of a network in float32 differs by more than `GREATEST_DIFFERENCE`.
    """
    onnx = load_model(folder, "onnx")
    models = {"model.safetensors": load_model(folder, "torch"), "model.onnx": onnx}
    compared = records.spread(RECORDS_COMPARED)
    differences = compare_logits(model, models, compared)
    refuse_differences(differences)
    checks: dict[str, Any] = {
        "segments": 2 * len(compared),
        "largest_logit_difference": differences,
        "greatest_allowed": GREATEST_DIFFERENCE,
        "versions": software(),
    }
    if int8:
        quantised = load_model(folder, "onnx", precision="int8")
        differences |= compare_logits(model, {"model_int8.onnx": quantised}, compared)
        chosen = records.spread(most_records)
        metrics = compare_metrics(onnx, quantised, chosen)
        columns = ["float32", "int8", "change"]
        checks["int8"] = {
            "records": len(chosen),
            "columns": columns,
            "metrics": metrics,
            "columns_of_means": [*columns, "labels"],
            "means": means_over_labels(metrics),
        }
    return checks


def write_papers(
    folder: Path,
    config: ModelConfig,
    evaluation: EvaluatedModel,
    checks: Mapping[str, Any],
    *,
    data: str | None,
    licence: str,
    extras: Iterable[Extra],
) -> None:
    """Write the model card, the metrics and the checks; `data` is what went in, None: as the lineage says."""
    with replacing(inside(folder, "model_metrics")) as temporary:
        shutil.copyfile(evaluation.path, temporary)
    write_json(inside(folder, "model_checks"), dict(checks))
    named = {
        "trained_on": data or data_named(latest(config.lineage, "finetune")),
        "evaluated_on": data or data_named(evaluation.lineage),
    }
    card = model_card(config, evaluation, checks, **named, licence=licence, extras=extras)
    with replacing(inside(folder, "model_card")) as temporary:
        temporary.write_text(card, encoding="utf-8")


def data_named(lineage: Mapping[str, Any]) -> str:
    """Return what a lineage calls the data set at its beginning."""
    source = source_of(lineage)
    if source.key == MACHINE_STATEMENTS:
        return "MIMIC-IV-ECG 1.0"
    return source.name or "data that its lineage does not name"

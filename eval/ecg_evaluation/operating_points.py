"""Frozen operating points: the thresholds and the calibration of the development's evaluation, for another data set."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ecg_evaluation.inputs import Labelled
from ecg_evaluation.results import Decisions
from ecg_finetune.files import UserError, read_json, sha256
from ecg_finetune.lineage import latest, read_lineage
from ecg_finetune.paths import inside
from ecg_finetune.tables import listed, read_header, read_table, refuse_duplicates

NUMBERS = ("threshold", "calibration_slope", "calibration_intercept", "valid_n_pos", "valid_n_neg")
CHOICES = "operating points"  # the settings of an evaluation that say how its operating points were chosen


@dataclass(frozen=True)
class OperatingPoints:
    """What a metrics.csv says of the labels to evaluate, and where that comes from."""

    file: Path
    decisions: Decisions
    lineage: Mapping[str, Any]  # of the evaluation that wrote the file, as far as it is known

    @property
    def choices(self) -> Mapping[str, Any]:
        """How they were chosen, see `choices_of`; empty where that is not known."""
        settings = self.lineage.get("settings")
        found = settings.get(CHOICES) if isinstance(settings, Mapping) else None
        return found if isinstance(found, Mapping) else {}

    def recorded(self) -> dict[str, Any]:
        """Return how they were chosen and the file they come from, as a lineage states it."""
        return {**self.choices, "file": str(self.file), "sha256": sha256(self.file)}

    def told(self) -> str:
        """Say where thresholds and calibration come from."""
        file = f"{self.file} (SHA-256 {sha256(self.file)[:12]})"
        if self.decisions.calibration is None:
            return f"thresholds are those of {file}, an evaluation without a valid split: nothing is calibrated"
        name, source, records = (self.choices.get(key) for key in ("set", "source", "records"))
        where = f"{name}{f' of {source}' if source else ''}, {records} records" if name else "a set it does not record"
        return f"thresholds and calibration are those of {file}, chosen on {where}"


def choices_of(rule: str | float, valid: Labelled | None, source: str | None) -> dict[str, Any]:
    """Return how an evaluation chose its operating points, as its lineage states it.

    Parameters
    ----------
    rule : str or float
        See `choose_thresholds`.
    valid : Labelled or None
        The records of the valid split; None: nothing was chosen.
    source : str or None
        The data set they are of, where it is known.
    """
    if valid is None:
        return {"rule": rule}
    return {"rule": rule, "set": valid.name, "records": len(valid.study_id), "source": source}


def metrics_of(path: Path) -> Path:
    """Return the metrics CSV that `--operating-points` names: the file, or metrics.csv of a model folder."""
    file = path / "metrics.csv" if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        raise UserError(f"{path}: has no metrics.csv; give a model folder, or the metrics CSV of an evaluation")
    return file


def read_operating_points(path: Path, names: Sequence[str]) -> OperatingPoints:
    """Read the threshold and the calibration of each label from the metrics CSV of an evaluation.

    Parameters
    ----------
    path : Path
        The CSV, or a model folder with metrics.csv: `label`, `threshold` and, where the evaluation had a valid split,
        `calibration_slope`, `calibration_intercept`, `valid_n_pos`, `valid_n_neg`.
    names : sequence of str
        The labels to evaluate. One that the file does not have, or whose threshold there is empty, gets none.

    Raises
    ------
    UserError
        The file is missing or damaged, holds a number that cannot be, or has a threshold for none of the labels.
    """
    file = metrics_of(path)
    header = read_header(file)
    table = read_table(file, {"label": "str", **dict.fromkeys((n for n in NUMBERS if n in header), "float64")})
    refuse_duplicates(file, table, "label")
    if "threshold" not in table:
        raise UserError(f"{file}: column 'threshold' is missing; it has {listed(header)}")
    for line, value in table["threshold"].items():
        if not (math.isnan(value) or 0 <= value <= 1):
            raise UserError(f"{file}: line {line} has threshold {value:g}, which is not from 0 to 1; correct it")
    table = table.set_index("label").reindex(list(names))
    values = {name: table[name].to_numpy() if name in table else np.full(len(names), np.nan) for name in NUMBERS}
    if np.isnan(values["threshold"]).all():
        raise UserError(f"{file}: has a threshold for none of the labels {listed(names)}; give metrics of these labels")
    calibration = np.column_stack((values["calibration_slope"], values["calibration_intercept"]))
    calibrated = not np.isnan(calibration).all()
    decisions = Decisions(
        None,
        values["threshold"],
        np.where(np.isnan(calibration), [1.0, 0.0], calibration) if calibrated else None,
        values["valid_n_pos"],
        values["valid_n_neg"],
        frozen=True,
    )
    beside = file.with_name(file.name.replace("metrics_", "operating_points_", 1))
    written = [file, beside] if beside != file and beside.is_file() else [file]
    config = inside(path, "model_config") if path.is_dir() else None
    if config is not None and config.is_file():
        lineage = lineage_in_model_folder(config, file)
    else:
        lineage = read_lineage("eval", file.with_suffix(".json"), written)
    found = OperatingPoints(file, decisions, lineage)
    rule = found.choices.get("rule")
    rule = rule if isinstance(rule, str | float) else None
    further = read_further(beside, names) if len(written) > 1 else {}
    return replace(found, decisions=replace(decisions, rule=rule, further=further))


def lineage_in_model_folder(config: Path, metrics: Path) -> Mapping[str, Any]:
    """Return the lineage of the evaluation whose metrics.csv a model folder has, by its config.json.

    Raises
    ------
    UserError
        The configuration is damaged, or the metrics are not those that it names.
    """
    content = read_json(config, dict)
    files, lineage = content.get("files"), content.get("lineage")
    if not isinstance(files, dict) or not isinstance(lineage, dict):
        raise UserError(f"{config}: files or lineage is missing; export the model again")
    if files.get(metrics.name) != sha256(metrics):
        raise UserError(f"{metrics}: not the file that export wrote; export the model again")
    return latest(lineage, "eval")


def read_further(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Read the thresholds (labels,) of the further rules that an evaluation has chosen: those for a target."""
    table = read_table(path, {"label": "str", "rule": "str", "threshold": "float64"})
    further = {}
    for rule in table["rule"].unique():
        if re.fullmatch("(sensitivity|specificity) 0[.][0-9]+", rule):
            own = table[table["rule"] == rule]
            refuse_duplicates(path, own, "label")
            further[rule] = own.set_index("label")["threshold"].reindex(list(names)).to_numpy()
    return further

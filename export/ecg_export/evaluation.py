"""What an evaluation says of a checkpoint: thresholds, calibration, metrics; and whether it is of this checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from ecg_finetune.files import UserError, sha256
from ecg_finetune.label_set import ROW_NAMES, LabelSet, check_names, difference, read_label_set
from ecg_finetune.lineage import read_lineage
from ecg_finetune.probabilities import can_calibrate
from ecg_finetune.tables import finite_number, iterate_rows, read_header, read_table

if TYPE_CHECKING:
    import pandas as pd

METRICS = ("auroc", "auprc", "recall", "precision", "specificity", "f1", "brier_calibrated")
MOST_ROWS = 100  # of a further table on the card
CHOICES = ("threshold", "calibration_slope", "calibration_intercept", "valid_n_pos", "valid_n_neg")


@dataclass(frozen=True)
class Extra:
    """A further table of an evaluation that the card shows: its heading, and the file's columns and rows."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class EvaluatedModel:
    """An evaluation on the test set, as its metrics file and the lineage beside it have it.

    Attributes
    ----------
    path : Path
        The metrics file.
    table : DataFrame
        A row per label and average, under its name: `n_pos`, `n_neg`, `n_unknown`, the `METRICS` with `_low` and
        `_high`, `note`; NaN where something is not defined or not in the file.
    names : tuple of str
        The labels.
    thresholds : ndarray float64 (labels,)
        On probabilities before calibration.
    calibration : ndarray float64 (labels, 2)
        Slope and intercept; (1, 0) where the valid split could not calibrate, or its scores rank the wrong way.
    notes : mapping
        Label to why its threshold or calibration is not what the valid split chose, see `label_notes`.
    rule : str or float
        How the thresholds were chosen.
    trained_on_lead : str, optional
        The lead that the checkpoint was fine-tuned on; None: not known.
    lineage : mapping
        Of the metrics.
    """

    path: Path
    table: pd.DataFrame
    names: tuple[str, ...]
    thresholds: np.ndarray
    calibration: np.ndarray
    notes: Mapping[str, str]
    rule: str | float
    trained_on_lead: str | None
    lineage: Mapping[str, Any]

    @property
    def told(self) -> list[str]:
        """The notes, each once with the labels it holds for."""
        labels_of: dict[str, list[str]] = {}
        for label, note in self.notes.items():
            labels_of.setdefault(note, []).append(label)
        return [f"{note}: {', '.join(labels)}" for note, labels in labels_of.items()]


def read_evaluation(path: Path, checkpoint: Path) -> EvaluatedModel:
    """Read metrics_<set>_<time>.csv and the lineage beside it.

    Raises
    ------
    UserError
        A file is missing or damaged, the metrics are of another checkpoint or of the valid split, or it is not known of
        which.
    """
    beside = path.with_suffix(".json")
    columns = [
        "n_pos",
        "n_neg",
        "n_unknown",
        *CHOICES,
        *(f"{name}{end}" for name in METRICS for end in ("", "_low", "_high")),
    ]
    header = read_header(path)
    if "label" not in header or "threshold" not in header:
        raise UserError(f"{path}: not the metrics of an evaluation; give metrics_<set>_<time>.csv, as eval writes it")
    kinds = {"label": "str", **dict.fromkeys(columns, "float64"), "note": "str"}
    table = read_table(path, {name: kind for name, kind in kinds.items() if name in header})
    lineage = read_lineage("eval", beside, [path])
    again = "evaluate the checkpoint again"
    origin, settings = _origin(lineage), lineage.get("settings")
    stated = origin.get("checkpoint_sha256")
    if not isinstance(stated, str) or not isinstance(settings, dict):
        raise UserError(f"{path}: {beside.name} beside it does not say of which checkpoint the metrics are; {again}")
    if stated != sha256(checkpoint):
        raise UserError(f"{path}: the metrics are of another checkpoint than {checkpoint} (by SHA-256); {again}")
    if str(settings.get("set")).startswith("valid"):
        raise UserError(f"{path}: metrics of the valid split, which chose the thresholds; give those of the test set")
    labels = table[~table["label"].isin(ROW_NAMES)]
    names = tuple(labels["label"])
    check_names(path, names)
    table = table.set_index("label").reindex(columns=[*columns, "note"])
    choices = table.loc[list(names), list(CHOICES)].to_numpy()
    undecided = np.isnan(choices[:, 0])  # nothing could be chosen, as for a label that the data do not know
    wrong = ~(undecided | ((choices[:, 0] >= 0) & (choices[:, 0] <= 1)))
    if wrong.any():
        raise UserError(f"{path}: no threshold from 0 to 1 for {names[int(np.argmax(wrong))]!r}; {again}")
    if undecided.all():
        raise UserError(f"{path}: no label has a threshold; {again}, with a valid split or --operating-points")
    calibration = np.where(can_calibrate(choices[:, 1:3])[:, None], choices[:, 1:3], [1.0, 0.0])
    chosen = settings.get("operating points")
    rule = chosen.get("rule") if isinstance(chosen, dict) else None
    notes = label_notes(names, choices, by_rule=isinstance(rule, str))
    lead = origin.get("finetuned_on_lead")
    return EvaluatedModel(path, table, names, choices[:, 0], calibration, notes, rule, lead, lineage)


def label_notes(names: Sequence[str], choices: np.ndarray, *, by_rule: bool) -> dict[str, str]:
    """Say of each label whose threshold or calibration is not what the valid split chose, why.

    Parameters
    ----------
    names : sequence of str
        The labels.
    choices : ndarray float64 (labels, 5)
        The `CHOICES` of metrics.csv.
    by_rule : bool
        Whether the valid split chose thresholds, and not one number was given for all, or other ones.
    """
    notes = {}
    for name, (threshold, slope, intercept, *counts) in zip(names, choices.tolist()):
        if math.isnan(threshold):
            notes[name] = "no threshold, so never found, as the evaluation could choose none"
        elif math.isnan(slope + intercept) or (slope, intercept) == (1, 0):
            default = f"threshold not chosen but {threshold:g}, " if by_rule else ""
            why = "not both present and absent on the valid split" if 0 in counts else "no valid split to fit it on"
            notes[name] = f"{default}not calibrated ({why})"
        elif slope <= 0:
            notes[name] = (
                "not calibrated, and not even its order is reliable (the scores rank the wrong way on the valid split)"
            )
    return notes


def _origin(lineage: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the lineage of the predictions that metrics were computed from."""
    earlier = lineage.get("earlier")
    first = earlier[0] if isinstance(earlier, list) and earlier else {}
    return first if isinstance(first, Mapping) else {}


def evaluated_labels(evaluation: EvaluatedModel, stated: LabelSet | None, definition: Path, outputs: int) -> LabelSet:
    """Return the label set of a network of so many outputs.

    Parameters
    ----------
    evaluation : EvaluatedModel
        Of the network.
    stated : LabelSet, optional
        What the checkpoint says its labels are.
    definition : Path
        label_def.csv of the test set, for a checkpoint that does not say.
    outputs : int
        Of the network.

    Raises
    ------
    UserError
        These do not go together.
    """
    names = evaluation.names
    if len(names) != outputs:
        raise UserError(f"{evaluation.path}: {len(names)} labels, but the checkpoint has {outputs} outputs")
    label_set = read_label_set(definition) if stated is None else stated
    if other := difference(label_set.names, "the checkpoint" if stated else str(definition), names, "the metrics"):
        raise UserError(f"{evaluation.path}: metrics of other labels: {other}; evaluate the checkpoint again")
    return label_set


def refuse_foreign(path: Path, evaluation: EvaluatedModel) -> None:
    """Raise `UserError` unless a further table is of this evaluation, by its SHA-256.

    The lineage of the metrics names it, or the one beside it, which eval_noise.py has written for the same checkpoint
    and the same records.
    """

    def part(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        return found if isinstance(found := content.get(key), Mapping) else {}

    def records(lineage: Mapping[str, Any]) -> Any:
        return earlier[-1:] if isinstance(earlier := lineage.get("earlier"), list) else None

    checksum, origin = sha256(path), _origin(evaluation.lineage)
    noise = read_lineage("eval_noise", path.with_suffix(".json"), [path])
    settings = part(noise, "settings")
    checkpoint = part(settings, "checkpoints").get(str(settings.get("--model-path")))
    same = checkpoint == origin.get("checkpoint_sha256") and records(noise) == records(origin)
    if checksum not in part(evaluation.lineage, "outputs").values() and not (
        same and checksum in part(noise, "outputs").values()
    ):
        raise UserError(
            f"{path}: no table that eval, together with {evaluation.path.name}, or eval_noise has written of this "
            "checkpoint and test set (by SHA-256); evaluate again and give its table, with the .json beside it"
        )


def read_extra(path: Path, heading: str, column: str, evaluation: EvaluatedModel) -> Extra:
    """Read a further table of an evaluation for the card: of noise, of groups of patients.

    Where it has rows for labels and for their means, the means are shown; `<metric>_low` and `_high` stand behind the
    metric as its interval.

    Raises
    ------
    UserError
        The file is missing or damaged, lacks `column`, is not of this evaluation, or has more rows than a card can
        show.
    """
    header = read_header(path)
    if column not in header:
        raise UserError(f"{path}: column {column!r} is missing; give the table that eval or eval_noise has written")
    refuse_foreign(path, evaluation)
    table = list(iterate_rows(path, header))
    rows = [dict(zip(header, cells)) for _, cells in table]
    if any(row.get("label") == ROW_NAMES[0] for row in rows):
        rows = [row for row in rows if row["label"] == ROW_NAMES[0]]
        header = [name for name in header if name != "label"]
    if not 0 < len(rows) <= MOST_ROWS:
        raise UserError(f"{path}: {len(rows):,} rows, a card shows 1 to {MOST_ROWS}; give a table with mean rows")
    shown = [name for name in header if not name.endswith(("_low", "_high"))]
    return Extra(heading, shown, [[_cell(row, name) for name in shown] for row in rows])


def _cell(row: Mapping[str, str], name: str) -> str:
    parts = [_rounded(row[name]), *(_rounded(row.get(f"{name}{end}", "")) for end in ("_low", "_high"))]
    return f"{parts[0]} ({parts[1]} to {parts[2]})" if parts[1] and parts[2] else parts[0]


def _rounded(text: str) -> str:
    value = finite_number(text) if text else math.nan
    return text if math.isnan(value) or value.is_integer() else f"{value:.3f}"


def to_give_away(content: Any) -> Any:
    """Return a lineage without the folders of this machine: of an absolute path its last part is left."""
    if isinstance(content, Mapping):
        return {to_give_away(key): to_give_away(value) for key, value in content.items()}
    if isinstance(content, list):
        return [to_give_away(value) for value in content]
    if isinstance(content, str) and PurePath(content).is_absolute():
        return PurePath(content).name
    return content

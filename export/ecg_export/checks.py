"""What a model folder says, compared with the checkpoint on real segments of the test set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ecg_finetune.batch import chunked
from ecg_finetune.ecg_fm import EcgClassifier
from ecg_finetune.files import UserError
from ecg_finetune.label_set import LabelSet
from ecg_finetune.model_folder import BATCH_SIZE, Model
from ecg_finetune.paths import inside
from ecg_finetune.probabilities import combine
from ecg_finetune.progress_bar import progress_bar
from ecg_finetune.segments import SEGMENTS, expand_lead, read_record
from ecg_finetune.tables import read_table, refuse_duplicates
from ecg_finetune.waveform import RECORD_SAMPLES, SEGMENT_SAMPLES

GREATEST_DIFFERENCE = 1e-4  # of logits, in float32
RECORDS_COMPARED = 32


@dataclass(frozen=True)
class CheckRecords:
    """Records of the test set: study ids int64 (n,), the files, and labels float64 (n, labels), NaN where unknown."""

    study_id: np.ndarray
    files: Sequence[Path]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.files)

    def segments(self, row: int) -> np.ndarray:
        """Return the two segments of a record: float32 (2, 2500)."""
        lead = read_record(self.files[row], RECORD_SAMPLES, int(self.study_id[row]))
        return lead.reshape(SEGMENTS, SEGMENT_SAMPLES)

    def spread(self, most: int | None) -> CheckRecords:
        """Return at most so many of them, evenly spread."""
        if most is None or most >= len(self):
            return self
        rows = np.linspace(0, len(self) - 1, most).round().astype(int)
        return CheckRecords(self.study_id[rows], [self.files[row] for row in rows], self.labels[rows])


def read_test_records(folder: Path, label_set: LabelSet) -> CheckRecords:
    """Read which records the test set has, and their labels.

    Raises
    ------
    UserError
        The folder or one of its tables is missing or damaged.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no test set, with which export checks what it writes; give it with --test-dir")
    listed, labelled = inside(folder, "test_file_list"), inside(folder, "test_labels")
    files = read_table(listed, {"study_id": "int64", "save_file": "str"})
    labels = read_table(labelled, {"idx": "int64", **dict.fromkeys(label_set.names, "float64")})
    refuse_duplicates(listed, files, "study_id")
    refuse_duplicates(labelled, labels, "idx")
    labels = labels.set_index("idx").reindex(files["study_id"])
    paths = [inside(folder, "test_mats") / name for name in files["save_file"]]
    return CheckRecords(files["study_id"].to_numpy(), paths, labels.to_numpy())


def compare_logits(checkpoint: EcgClassifier, models: dict[str, Model], records: CheckRecords) -> dict[str, float]:
    """Return the largest difference between the checkpoint's logits and those of each model, by the model's name."""
    segments = np.concatenate([records.segments(row) for row in range(len(records))])
    worst = dict.fromkeys(models, 0.0)
    for start in range(0, len(segments), 8):
        lead = segments[start : start + 8]
        with torch.inference_mode():
            channels = expand_lead(torch.from_numpy(lead), checkpoint.architecture.in_d, checkpoint.input_channel)
            wanted = checkpoint(channels).numpy()
        for name, model in models.items():
            difference = np.abs(model.network(lead) - wanted).max()
            worst[name] = max(worst[name], float(difference)) if np.isfinite(difference) else np.inf
    return worst


def refuse_differences(differences: dict[str, float], limit: float = GREATEST_DIFFERENCE) -> None:
    """Raise `UserError` if logits differ by more than `limit`."""
    for name, difference in differences.items():
        if not difference <= limit:
            raise UserError(
                f"{name}: its logits differ from the checkpoint's by up to {difference:.3g}, more than {limit:g}; "
                "nothing was exported; try other versions of torch, onnx and onnxruntime"
            )


def compare_metrics(reference: Model, other: Model, records: CheckRecords) -> dict[str, dict[str, list[float | None]]]:
    """Return each metric of each label for two models: [reference, other, change].

    Both decide with the thresholds of the folder, and are calibrated as it says. None: undefined.
    """
    probabilities = [[], []]
    with progress_bar(len(records), "records") as advance:
        for rows in chunked(range(len(records)), BATCH_SIZE // SEGMENTS):
            segments = np.concatenate([records.segments(row) for row in rows])
            for model, found in zip((reference, other), probabilities):
                of_records = model.probabilities(segments).reshape(len(rows), SEGMENTS, -1)
                found += [combine(parts, model.config.label_set) for parts in of_records]
            advance(len(rows))
    config = reference.config
    columns = [(found, config.calibrated(found)) for found in map(np.array, probabilities)]
    result = {}
    for k, name in enumerate(config.label_set.names):
        before, after = (
            label_metrics(records.labels[:, k], found[:, k], calibrated[:, k], config.thresholds[k])
            for found, calibrated in columns
        )
        result[name] = {
            metric: [value, after[metric], change(value, after[metric])] for metric, value in before.items()
        }
    return result


def means_over_labels(metrics: Mapping[str, Mapping[str, Sequence[float | None]]]) -> dict[str, list[float | None]]:
    """Return of each metric the means of `compare_metrics` over the labels for which both models define it.

    [reference, other, change, number of these labels]; None and 0 where there is none.
    """
    means = {}
    for metric in next(iter(metrics.values())):
        defined = [row[metric] for row in metrics.values() if row[metric][2] is not None]
        means[metric] = [*(np.mean(defined, axis=0).tolist() if defined else [None] * 3), len(defined)]
    return means


def label_metrics(
    truth: np.ndarray, probability: np.ndarray, calibrated: np.ndarray, threshold: float
) -> dict[str, float | None]:
    """Return the metrics of one label over the records (n,) that know it; None where one is undefined."""
    from sklearn import metrics

    known = ~np.isnan(truth)
    truth, probability, calibrated = truth[known] > 0.5, probability[known], calibrated[known]
    decided = probability >= threshold
    both = truth.any() and not truth.all()
    rate = {"zero_division": np.nan}
    values = {
        "auroc": metrics.roc_auc_score(truth, probability) if both else np.nan,
        "auprc": metrics.average_precision_score(truth, probability) if truth.any() else np.nan,
        "accuracy": (truth == decided).mean() if len(truth) else np.nan,
        "recall": metrics.recall_score(truth, decided, **rate),
        "precision": metrics.precision_score(truth, decided, **rate),
        "f1": metrics.f1_score(truth, decided, **rate),
        "specificity": metrics.recall_score(~truth, ~decided, **rate),
        "npv": metrics.precision_score(~truth, ~decided, **rate),
        "brier": ((probability - truth) ** 2).mean() if len(truth) else np.nan,
        "brier_calibrated": ((calibrated - truth) ** 2).mean() if len(truth) else np.nan,
    }
    return {name: None if np.isnan(value) else float(value) for name, value in values.items()}


def change(before: float | None, after: float | None) -> float | None:
    """Return by how much a value has changed; None where one is undefined."""
    return None if before is None or after is None else after - before

"""Probabilities of records: both 5 s segments through the network, combined per label as ECG-FM does."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from ecg_evaluation.inputs import test_checksums, test_files
from ecg_finetune.batch import loaded_batches, loader_workers
from ecg_finetune.device import choose_device, choose_precision
from ecg_finetune.ecg_fm import EcgClassifier, load_classifier
from ecg_finetune.files import UserError
from ecg_finetune.label_set import LABELS, LabelSet, difference
from ecg_finetune.paths import inside
from ecg_finetune.progress_bar import progress_bar
from ecg_finetune.segments import (
    SegmentDataset,
    read_label_rows,
    read_manifest,
    read_record,
    signal_checksum,
)
from ecg_finetune.waveform import CHANNELS, RECORD_SAMPLES, SEGMENT_SAMPLES


def load_model(path: Path, labels: LabelSet, *, device: str, precision: str, trust: bool) -> tuple[EcgClassifier, str]:
    """Load a classifier of these labels to its device; return it and what it is in words.

    Raises
    ------
    UserError
        As `load_classifier`; also when it is of other labels, or has another number of input channels.
    """
    chosen = choose_device(device)
    dtype = choose_precision(precision, chosen)
    model = load_classifier(path, trust=trust)
    refuse_other_labels(path, model, labels)
    if model.architecture.in_d != CHANNELS:
        raise UserError(f"{path}: a network of {model.architecture.in_d} input channels, but records have {CHANNELS}")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    name = str(dtype).removeprefix("torch.")
    return model.to(chosen, dtype), f"{parameters:,} parameters, {name} on {chosen.type}"


def refuse_other_labels(path: Path, model: EcgClassifier, labels: LabelSet) -> None:
    """Refuse a checkpoint whose outputs are not the evaluated labels in their order.

    One that does not say its labels is taken for what the number of its outputs says: 17 are ECG-FM's.
    """
    remedy = "give a checkpoint that was fine-tuned on the labels of the test set"
    count = model.architecture.num_labels
    if model.label_set is not None:
        names = model.label_set.names
    elif count == len(LABELS):
        names = LABELS
    elif count != len(labels):
        raise UserError(f"{path}: a classifier of {count} labels, but the test set has {len(labels)}; {remedy}")
    else:
        return
    if other := difference(names, "the checkpoint", labels.names, "the test set"):
        raise UserError(f"{path}: a classifier of other labels: {other}; {remedy}")


class RecordDataset(Dataset):
    """The 10-second records of the test set: item `i` is (leads float32 (2, 2500), study_id).

    A record that is no longer what it was when the test set was built is refused, where the test set says what it was.
    """

    def __init__(self, folder: Path, study_ids: np.ndarray):
        self.study_ids, self.files = study_ids, test_files(folder, study_ids)
        self.checksums = test_checksums(folder, study_ids)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        lead = read_record(self.files[i], RECORD_SAMPLES, self.study_ids[i])
        if self.checksums is not None and signal_checksum(lead) != self.checksums[i]:
            raise UserError(
                f"{self.files[i]}: not the signal of study {self.study_ids[i]} that the test set was built with; "
                "preprocess has run again since: run the build stage with --overwrite"
            )
        return lead.reshape(2, SEGMENT_SAMPLES), self.study_ids[i]


def valid_segments(manifests: Path, max_samples: int | None) -> SegmentDataset:
    """Return the segments of the valid split (of its first `max_samples` records only where that is given).

    Item `i` is (lead float32 (2500,), study_id int64 (1,)).
    """
    manifest = read_manifest(inside(manifests, "manifest", split="valid"))
    # <base>_<0 or 1>.mat: both segments of a record share the base.
    bases = [file.name.rpartition("_")[0] for file in manifest.files]
    kept = set(list(dict.fromkeys(bases))[:max_samples])
    files = [file for file, base in zip(manifest.files, bases) if base in kept]
    _, studies = read_label_rows(manifests)  # damaged labels are told now, not after the inference
    return SegmentDataset(dataclasses.replace(manifest, files=files), studies[:, None], studies)


def predict(
    model: EcgClassifier, data: Dataset, labels: LabelSet, *, batch_size: int, num_workers: int, unit: str
) -> tuple[np.ndarray, np.ndarray]:
    """Run the network over every segment of a data set and combine the segments of each record; as `run_network`."""
    more = {"batch_size": batch_size, "num_workers": num_workers, "unit": unit}
    return run_network(model, data, labels, embed=False, **more)[:2]


def run_network(
    model: EcgClassifier,
    data: Dataset,
    labels: LabelSet,
    *,
    embed: bool,
    batch_size: int,
    num_workers: int,
    unit: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Run the network over every segment of a data set and combine the segments of each record.

    Returns
    -------
    study_id : ndarray int64 (records,)
        In the order in which the data set first names them.
    probabilities : ndarray float64 (records, labels)
    embeddings : ndarray float32 (records, embed dim) or None
        With `embed` the mean over all frames of the record before the head.
    """
    device = next(model.parameters()).device
    probabilities, studies, embeddings = [], [], []
    with loader_workers(), torch.inference_mode(), progress_bar(len(data), unit) as advance:
        for leads, study in loaded_batches(data, batch_size=batch_size, num_workers=num_workers):
            segments = leads.flatten(end_dim=-2).to(device)
            embedded = model.embed(segments)
            logits = model.classify(embedded)
            if embed:
                embeddings.append(embedded.cpu().numpy())
            # float64, so that probabilities near 1 stay apart as their logits do; Apple's GPUs have none.
            probabilities.append(torch.sigmoid(logits.cpu().double()).numpy())
            studies.append(np.repeat(study.numpy().ravel(), len(segments) // len(study)))
            advance(len(study))
    study = np.concatenate(studies)
    of_records = None
    if embed:
        means = pd.DataFrame(np.concatenate(embeddings)).groupby(study, sort=False).mean()
        of_records = means.to_numpy(np.float32)
    return *combine_segments(study, np.concatenate(probabilities), labels), of_records


def combine_segments(study: np.ndarray, probabilities: np.ndarray, labels: LabelSet) -> tuple[np.ndarray, np.ndarray]:
    """Combine segments into records, as the label set says: by maximum or by mean.

    Parameters
    ----------
    study : ndarray int64 (segments,)
        The record of each segment.
    probabilities : ndarray (segments, labels)
    labels : LabelSet

    Returns
    -------
    ndarray int64 (records,), ndarray (records, labels)
        Records in order of first appearance.
    """
    groups = pd.DataFrame(probabilities).groupby(study, sort=False)
    combined = groups.agg(dict(enumerate(labels.combine)))
    return combined.index.to_numpy(), combined.to_numpy()

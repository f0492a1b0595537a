"""What a run's checkpoint has seen: training_records.csv, which eval looks for leaks in, and its lineage."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ecg_finetune.batch import chunk_size, chunked, run_batch
from ecg_finetune.files import UserError, sha256
from ecg_finetune.lineage import NOT_RECORDED, finetuning_of, lineage, read_lineage, refuse_other_lead
from ecg_finetune.paths import inside
from ecg_finetune.segments import Manifest, read_study_of_segment, segment_of_file
from ecg_finetune.studies import SPLITS, first_repeated, read_studies
from ecg_finetune.training_records import TRAINED_ON, UNKNOWN, TrainingRecords, write_training_records


def seen_records(train: Manifest, valid: Manifest, record_list: Path, workers: int) -> TrainingRecords:
    """Return the records of the train and valid manifests, each once, with their patients as far as they are known.

    Parameters
    ----------
    train, valid : Manifest
        What is trained and validated on.
    record_list : Path
        record_list.csv; it may be missing, then no patient is known.
    workers : int
        Processes that read segments whose file names do not tell their record.

    Raises
    ------
    UserError
        A segment or the record list cannot be read, or a record is in both manifests.
    """
    studies: list[int] = []
    splits: list[int] = []
    for split, manifest in zip(TRAINED_ON, (train, valid), strict=True):
        of_split = dict.fromkeys(_studies_of(manifest, workers))
        studies += of_split
        splits += [SPLITS.index(split)] * len(of_split)
    study_id = np.array(studies, dtype=np.int64)
    duplicate = first_repeated(study_id)
    if duplicate is not None:
        raise UserError(f"{train.path}: study {duplicate} is in {valid.path.name} too; run the build stage again")
    subject_id = np.full(len(study_id), UNKNOWN, dtype=np.int64)
    if record_list.exists():
        listed = read_studies(record_list, need_patients=False, otherwise="")
        if "subject_id" in listed:
            patients = pd.Series(listed["subject_id"].to_numpy(), index=listed["study_id"])
            subject_id = patients.reindex(study_id).fillna(UNKNOWN).to_numpy(dtype=np.int64)
    return TrainingRecords(study_id, subject_id, np.array(splits, dtype=np.int8))


def _studies_of(manifest: Manifest, workers: int) -> list[int]:
    """Return the study of each segment of a manifest: from its file name, else from the file."""
    segments = [segment_of_file(file.name) for file in manifest.files]
    if None not in segments:
        return [study for study, _ in segments]
    chunks = chunked(manifest.files, chunk_size(len(manifest.files), workers, 500))
    results = run_batch(_read_studies, chunks, workers=workers, total=len(manifest.files), unit="segments")
    with contextlib.closing(results):
        return [study for chunk in results for study in chunk]


def _read_studies(files: Sequence[Path]) -> list[int]:
    return [read_study_of_segment(file) for file in files]


def told_of_start(checkpoint: Path, start: TrainingRecords | None, records: TrainingRecords) -> str:
    """Say what is known of the records that a fine-tuned start has seen, and whether `records` are validated on some.

    Parameters
    ----------
    checkpoint : Path
        The start.
    start : TrainingRecords or None
        The records it was trained on; None: not known.
    records : TrainingRecords
        The records of the run.
    """
    if start is None:
        return (
            f"note: it is not known which records {checkpoint} was trained on (no training_records.csv of its own "
            "beside it); eval will say so, unless it is given their split as --trained-on"
        )
    memorised, valid = start.of_split("train"), records.of_split("valid")
    seen = np.isin(valid.study_id, memorised.study_id)
    seen |= (valid.subject_id != UNKNOWN) & np.isin(valid.subject_id, memorised.subject_id)
    if seen.any():
        return (
            f"warning: {checkpoint} was trained on patients of {int(seen.sum()):,} of the {len(seen):,} valid records: "
            "valid loss and AUROC are of memorised records; fine-tune with the split that it was trained with"
        )
    return f"the {len(start.study_id):,} records that {checkpoint} was trained on count as trained on"


def note_seen_records(folder: Path, records: TrainingRecords) -> str:
    """Write training_records.csv into the folder of a run, unless it is there; return its SHA-256.

    A run that goes on keeps the file: its checkpoints state the SHA-256 of that one.
    """
    path = inside(folder, "training_records")
    if not path.exists():
        write_training_records(path, records)
    return sha256(path)


def run_lineage(settings: dict[str, Any], manifests: Path) -> dict[str, Any]:
    """Return the lineage of a run with these settings, which state the SHA-256 of its inputs."""
    names = ("manifest_y", "original_idx_order", "manifest_label_def", "manifest_pos_weight")
    files = [inside(manifests, name) for name in names]
    build = read_lineage("build", inside(manifests, "manifests_lineage"), [file for file in files if file.exists()])
    refuse_other_lead(manifests, build, settings["lead"])
    earlier = [build]
    if pretrained := settings["pretrained"]:
        start = finetuning_of(Path(pretrained["path"]))
        known = "settings" in start
        earlier.append(start if known else {"stage": "pretraining", "note": NOT_RECORDED, **pretrained})
    return lineage("finetune", settings, earlier=earlier)

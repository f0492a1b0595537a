"""Cutting the 10-second records into 5 s segments."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ecg_finetune.files import UserError
from ecg_finetune.matfile import encode_number, read_bytes, read_mat
from ecg_finetune.matfile_halves import PackedColumns, encode_packed, pack_columns, take_columns
from ecg_finetune.run_folder import FileGroup, finished_files
from ecg_finetune.segments import SEGMENTS, read_record, segment_name, segment_of_file, signal_checksum
from ecg_finetune.studies import find_rows, save_file_name
from ecg_finetune.waveform import CHANNELS, RECORD_SAMPLES, SAMPLE_RATE


@dataclass(frozen=True)
class CutJob:
    """What every chunk needs to know; `partial` is the folder for unfinished files (see `run_folder`)."""

    preprocessed: Path
    out: Path
    partial: Path


def pending_records(folder: Path, study_id: np.ndarray) -> np.ndarray:
    """Return the positions of the records of which a segment is missing in `folder`."""

    def number_of(name: str) -> int | None:
        segment = segment_of_file(name)
        return None if segment is None else segment[0] * SEGMENTS + segment[1]

    present, sizes = finished_files(folder, number_of)
    present = present[sizes > 0]
    there = [find_rows(present, study_id * SEGMENTS + part)[1] for part in range(SEGMENTS)]
    return np.flatnonzero(~np.logical_and.reduce(there))


def cut_records(job: CutJob, records: Sequence[tuple[int, int]]) -> int:
    """Write both segments of each record (study_id, its position in the order of all records); return how many records.

    Segment k of the record at position p is row 2 p + k of y.npy. All are on the disk when this returns.
    """
    with FileGroup(job.partial, job.out) as group:
        for study_id, position in records:
            halves = read_halves(f"{job.preprocessed}/{save_file_name(study_id)}", study_id)
            for part, half in enumerate(halves):
                numbers = {
                    "curr_sample_rate": SAMPLE_RATE,
                    "idx": SEGMENTS * position + part,
                    "original_idx": study_id,
                }
                group.write(segment_name(study_id, part), encode_packed("feats", [half], numbers))
    return len(records)


def checksums(preprocessed: Path, studies: Sequence[int]) -> list[int]:
    """Return the checksum of each study's 10-second record, see `segments.signal_checksum`."""
    return [
        signal_checksum(read_record(preprocessed / save_file_name(study), RECORD_SAMPLES, study)) for study in studies
    ]


def read_halves(path: str, study_id: int) -> list[PackedColumns]:
    """Read the two segments of a 10-second record, float32 (12, 2500) each; compressed as preprocess wrote them.

    Raises
    ------
    UserError
        The file cannot be read or is not that record's 10-second record.
    """
    content = read_bytes(path)
    halves = take_columns(content, "feats", (CHANNELS, RECORD_SAMPLES), "f4")
    if halves is None or len(halves) != SEGMENTS or not content.endswith(encode_number("idx", study_id)):
        return _pack_halves(path, study_id)
    return halves


def _pack_halves(path: str, study_id: int) -> list[PackedColumns]:
    """Read a 10-second record that this project's preprocess stage has not written, or whose checksum is wrong."""
    content = read_mat(path)
    feats, idx = content.get("feats"), content.get("idx")
    if (
        feats is None
        or feats.shape != (CHANNELS, RECORD_SAMPLES)
        or feats.dtype.kind not in "fiu"
        or idx is None
        or idx.size != 1
        or idx.item() != study_id
    ):
        raise UserError(f"{path}: not the 10-second record of study {study_id}; delete it and run preprocess again")
    feats = feats.astype(np.float32)
    if not np.isfinite(feats).all():
        raise UserError(f"{path}: holds samples that are not numbers; delete it and run preprocess again")
    return pack_columns(feats, SEGMENTS)

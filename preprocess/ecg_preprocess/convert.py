"""One chunk of records: read the lead, standardise it, write the 10-second files, report what became of each."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ecg_finetune.matfile_halves import encode_packed, pack_columns
from ecg_finetune.run_folder import FileGroup
from ecg_finetune.studies import save_file_name
from ecg_finetune.waveform import (
    CHANNELS,
    RECORD_SAMPLES,
    SAMPLE_RATE,
    SECONDS_READ,
    LeadSignal,
    RecordError,
    SignalStatistics,
    measure,
    standardise,
)
from ecg_preprocess.preprocess_report import ReportRow, rounded


@dataclass(frozen=True)
class ConvertJob:
    """What every chunk needs to know: how to `read` the first seconds of the lead from the file at a path.

    `partial` is the folder for unfinished files (see `run_folder`).
    """

    raw_root: Path
    out: Path
    partial: Path
    read: Callable[[str, float], LeadSignal]


def convert_records(job: ConvertJob, records: Sequence[tuple[int, str]]) -> list[ReportRow]:
    """Write the 10-second files of the records (study_id, path below the raw root; empty: not listed).

    Returns
    -------
    list of ReportRow
        One per record. A file is on the disk before its row is returned.
    """
    with FileGroup(job.partial, job.out) as group:
        return [_convert(job, group, study_id, path) for study_id, path in records]


def _convert(job: ConvertJob, group: FileGroup, study_id: int, path: str) -> ReportRow:
    reported = None
    try:
        if not path:
            raise RecordError("not_in_record_list", "")
        signal = job.read(os.path.join(job.raw_root, path), SECONDS_READ)  # noqa: PTH118
        statistics, centred = measure(signal)
        reported = rounded(statistics)
        content = encode_record(standardise(signal, statistics, centred), study_id, statistics)
    except RecordError as error:
        return ReportRow(study_id, error.status, error.detail, reported)
    group.write(save_file_name(study_id), content)
    return ReportRow(study_id, "ok", "", reported, len(content))


def encode_record(lead: np.ndarray, study_id: int, statistics: SignalStatistics) -> bytes:
    """Return the content of the 10-second file of a standardised lead, float32 (5000,)."""
    feats = np.repeat(lead, CHANNELS).reshape(RECORD_SAMPLES, CHANNELS).T
    numbers = {
        "org_sample_rate": statistics.rate,
        "curr_sample_rate": SAMPLE_RATE,
        "org_sample_size": statistics.samples,
        "curr_sample_size": RECORD_SAMPLES,
        "idx": study_id,
    }
    return encode_packed("feats", pack_columns(feats, 2), numbers)  # which the build stage cuts in two

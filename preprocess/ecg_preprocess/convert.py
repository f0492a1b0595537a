"""One chunk of records: read the lead, standardise it, write the 10 s files, say in a report row what happened."""

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ecg_finetune.matfile_halves import encode_packed, pack_columns
from ecg_finetune.paths import save_file_name
from ecg_finetune.run_folder import FileGroup
from ecg_finetune.signal_format import CHANNELS, RECORD_SAMPLES, SAMPLE_RATE
from ecg_preprocess.record import RecordError, read_lead
from ecg_preprocess.standardise import SECONDS_READ, Figures, measure, standardise

REPORT_COLUMNS = (
    *("save_file", "study_id", "status", "detail"),
    *("rate", "samples"),  # of the record
    *("mean_mv", "std_mv", "nan_count", "longest_flat_s"),  # of its first 10 s as recorded
    "mat_bytes",  # the size of the 10 s file
)

# Every status of the report, in the order of the checks.
STATUSES = {
    "ok": "came through",
    "not_in_record_list": "record_list.csv has no such study_id",
    "missing_header": "the .hea file is not there",
    "no_lead": "the header names no such lead",
    "missing_data": "the signal file is not there",
    "truncated": "the signal file is shorter than its header says",
    "bad_checksum": "the samples do not add up to the header's checksum",
    "unreadable": "anything else that stops the reader",
    "too_short": "less than 10 s",
    "nan": "missing samples: a gap longer than 0.2 s, or more than a tenth of the 10 s",
    "flat": "one value for 5 s or longer",
    "amplitude": "beyond 20 mV",
}


@dataclass(frozen=True)
class Job:
    """What every chunk needs to know; `partial` is the folder for unfinished files (see `run_folder`)."""

    raw_root: Path
    out: Path
    partial: Path
    lead: str
    verify_checksums: bool


def convert_records(job: Job, records: Sequence[tuple[int, str]]) -> list[str]:
    """Write the 10 s files of the records (study_id, path below the raw root; empty: not listed).

    Returns
    -------
    list of str
        Each record's row of the report, without line end. A file is on the disk before its row is returned.
    """
    with FileGroup(job.partial, job.out) as group:
        return [_convert(job, group, study_id, path) for study_id, path in records]


def _convert(job: Job, group: FileGroup, study_id: int, path: str) -> str:
    name, figures = save_file_name(study_id), None
    try:
        if not path:
            raise RecordError("not_in_record_list", "")
        stem = os.path.join(job.raw_root, path)  # noqa: PTH118
        signal = read_lead(stem, job.lead, SECONDS_READ, job.verify_checksums)
        figures = measure(signal)
        content = encode_10_s(standardise(signal, figures), study_id, figures)
    except RecordError as error:
        return report_row(name, study_id, error.status, error.detail, figures)
    group.write(name, content)
    return report_row(name, study_id, "ok", "", figures, len(content))


def encode_10_s(lead: np.ndarray, study_id: int, figures: Figures) -> bytes:
    """Return the content of the 10 s file of a standardised lead, float32 (5000,)."""
    feats = np.repeat(lead, CHANNELS).reshape(RECORD_SAMPLES, CHANNELS).T
    numbers = {
        "org_sample_rate": figures.rate,
        "curr_sample_rate": SAMPLE_RATE,
        "org_sample_size": figures.samples,
        "curr_sample_size": RECORD_SAMPLES,
        "idx": study_id,
    }
    return encode_packed("feats", pack_columns(feats, 2), numbers)  # which the build stage cuts in two


def report_row(name: str, study_id: int, status: str, detail: str, figures: Figures | None, size: int = 0) -> str:
    """Return one CSV row of the report."""
    start = f"{name},{study_id},{status},{_quoted(detail)}"
    if figures is None:
        return f"{start},,,,,,,"
    return (
        f"{start},{figures.rate},{figures.samples},{figures.mean_mv:.5g},{figures.std_mv:.5g},{figures.nan_count},"
        f"{figures.longest_flat_s:.4g},{size or ''}"
    )


def _quoted(text: str) -> str:
    if not text:
        return ""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow([" ".join(text.split())])
    return buffer.getvalue()

"""Turn one lead of every recording into the 10-second record that ECG-FM reads.

The path in the record list is that of a WFDB record without extension, or of any other file that docs/recordings.md
names. The lead is taken by name, resampled to 500 Hz, cut to its first 10 s, standardised to zero mean and unit
standard deviation, and written to all 12 channels. Short gaps of missing samples (up to 0.2 s) are interpolated;
records that cannot be used are excluded and listed with their reason. An interrupted run goes on where it stopped.

    python preprocess/scripts/preprocess_ecgfm.py --raw-root /data/mimic-iv-ecg
    python preprocess/scripts/preprocess_ecgfm.py --base-dir demo/data --raw-root demo/data/mimic-iv-ecg-demo \\
        --record-list demo/data/mimic-iv-ecg-demo/record_list.csv    # a small run, after `make demo`

Reads   split/data/meta_split.csv (800,035 rows, 26 MB), split/data/record_list.csv (83 MB) and the records (96 GB)
Writes  preprocess/data/lead_1_duplicated/<save_file>       787,000 files of about 18 kB (17 GB on disk)
        preprocess/data/lead_1_duplicated.report.csv        a row per record of meta_split.csv (90 MB)
        preprocess/data/lead_1_duplicated.quality.html      counts, and strips of each kind on ECG paper (1 MB)
"""

import argparse
import contextlib
import functools
import os
import sys
from pathlib import Path

import numpy as np
from ecg_preprocess.convert import ConvertJob, convert_records
from ecg_preprocess.preprocess_report import STATUSES, PreprocessReport

from ecg_finetune.batch import chunk_size, run_batch
from ecg_finetune.cli import add_batch, add_lead, add_path, add_reading, execute, fraction, stage_parser
from ecg_finetune.files import UserError, existing_file
from ecg_finetune.lineage import Inputs, lineage, read_lineage
from ecg_finetune.paths import JOURNAL, QUALITY, REPORT, beside
from ecg_finetune.recordings import read_lead
from ecg_finetune.run_folder import refuse_overlap, run_folder
from ecg_finetune.studies import read_paths, read_splits

MOST_PER_CHUNK = 500  # records that an interruption may cost, per worker


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of this script."""
    parser = stage_parser(__doc__)
    add_path(parser, "--meta", "meta_split", "which records, and their splits: `save_file,split`")
    add_path(parser, "--record-list", "record_list", "where each recording is: `study_id,path`")
    add_path(parser, "--raw-root", "raw_root", "the folder that the paths of the record list start from")
    add_path(parser, "--out", "lead", "folder for the 10-second files; the report and the quality page go beside it")
    add_lead(parser)
    add_reading(parser)
    add_batch(parser, waiting=1)
    parser.add_argument(
        "--overwrite", action="store_true", help="remove what --out holds and start over (default: do what is missing)"
    )
    parser.add_argument(
        "--max-failed-fraction",
        type=fraction,
        default=0.05,
        metavar="SHARE",
        help="exit with an error if a greater share of the records was excluded; what was written stays; "
        "1 = never (default: 0.05)",
    )
    parser.add_argument(
        "--verify-checksums",
        action="store_true",
        help="compare every channel with its header's checksum, through wfdb: ten times slower (default: do not)",
    )
    return parser


def run(args: argparse.Namespace, inputs: Inputs) -> str:
    """Write the 10-second records that are missing, then the report and the quality page."""
    if not args.raw_root.is_dir():
        raise UserError(f"{args.raw_root}: no such folder; give the folder that holds files/ with --raw-root")
    folders = {"--raw-root": args.raw_root, "--meta": args.meta, "--record-list": args.record_list}
    refuse_overlap({"--out": args.out}, folders)
    existing_file(args.meta, "the split stage")
    inputs.add(args.meta, args.record_list)
    earlier = read_lineage("split", args.meta.with_suffix(".json"), [args.meta])
    study_id, _ = read_splits(args.meta)
    paths = read_paths(args.record_list, study_id)
    settings = {
        "--lead": args.lead,
        "--raw-root": stated_root(args.raw_root, args.base_dir),
        "--verify-checksums": args.verify_checksums,
        "--channel": args.channel,
        "--rate": args.rate,
        "--unit": args.unit,
    }
    read = functools.partial(
        read_lead,
        lead=args.lead,
        channel=args.channel,
        rate=args.rate,
        unit=args.unit,
        verify_checksums=args.verify_checksums,
    )
    with run_folder("preprocess", args.out, settings, args.overwrite, described_by=[REPORT, JOURNAL]) as run:
        partial = run.begin()
        report = PreprocessReport(args.out, study_id)
        pending = report.pending()
        print(f"{len(study_id):,} records, {len(study_id) - len(pending):,} of them done before")
        job = ConvertJob(args.raw_root.resolve(), args.out.resolve(), partial, read)
        convert(job, report, pending, paths, args.workers, args.dask)
        report.write()
        from ecg_preprocess.quality import write_quality_page

        write_quality_page(beside(args.out, QUALITY), report, args.raw_root, paths, args.lead, read)
        run.record(lineage("preprocess", settings, inputs, earlier=[earlier]))
    print_reasons(report)
    excluded = len(study_id) - report.counts().get("ok", 0)
    if excluded > args.max_failed_fraction * len(study_id):
        raise UserError(
            f"{report.path}: {excluded:,} of {len(study_id):,} records ({excluded / len(study_id):.1%}) were excluded, "
            f"more than --max-failed-fraction {args.max_failed_fraction:g}; what was written stays: mend what the "
            "report names and run again, or allow more"
        )
    return f"{len(pending):,} records processed, {len(study_id) - excluded:,} 10-second files in {args.out}"


def stated_root(raw_root: Path, base_dir: Path) -> str:
    """Return the raw root as the settings state it: relative within the base folder, so that this can be moved."""
    root, base = raw_root.resolve(), base_dir.resolve()
    stated = root.relative_to(base) if root.is_relative_to(base) else root
    return os.fsencode(stated).decode("utf-8", "backslashreplace")  # the same whatever the locale


def convert(
    job: ConvertJob, report: PreprocessReport, pending: np.ndarray, paths: list[str], workers: int, dask: str | None
) -> None:
    """Process the pending records in chunks, on local workers or on the cluster."""
    size = chunk_size(len(pending), workers, MOST_PER_CHUNK)
    starts = range(0, len(pending), size)
    chunks = ([(int(report.study_id[i]), paths[i]) for i in pending[start : start + size]] for start in starts)
    work = functools.partial(convert_records, job)
    results = run_batch(work, chunks, workers=workers, total=len(pending), dask=dask)
    with contextlib.closing(results):
        for start, rows in zip(starts, results, strict=True):
            report.add(pending[start : start + size], rows)


def print_reasons(report: PreprocessReport) -> None:
    """Print how many records have each status."""
    counts = report.counts()
    print(f"{'records':>9}  {'share':>7}  {'status':<18}  meaning")
    for status, number in counts.items():
        print(f"{number:>9,}  {number / len(report.rows):>7.2%}  {status:<18}  {STATUSES[status]}")
    if report.unlisted_files:
        print(f"note: {report.unlisted_files:,} files of records that meta_split.csv does not list stay in place")


def main() -> int:
    """Run the command line."""
    return execute(get_parser(), run)


if __name__ == "__main__":
    sys.exit(main())

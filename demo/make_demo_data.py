"""Make a synthetic data set in MIMIC-IV-ECG's own layout, to try the whole pipeline on.

The signals follow their reports: rate, P waves, conduction, early beats, pacing spikes, infarct Q waves, disturbance
(demo/README.md says which finding shows where). Findings are far more frequent than in MIMIC-IV-ECG, so results on
this data say that the pipeline works, and nothing about ECG-FM.

    python demo/make_demo_data.py --base-dir demo/data
    python demo/make_demo_data.py --base-dir /tmp/try --records 50    # a small one, half a second

Reads nothing. Writes into <base-dir>/mimic-iv-ecg-demo (121 kB and 2 ms of one core a record: 170 MB for 1400):

    record_list.csv            subject_id,study_id,file_name,ecg_time,path; a row per record
    machine_measurements.csv   subject_id,study_id,cart_id,ecg_time,report_0..report_17, intervals; a row per record
    files/pNNNN/pNNNNNNNN/sNNNNNNNN/NNNNNNNN.{hea,dat}   12 leads, 10 s at 500 Hz, format 16
    broken_records.csv         study_id,path,broken,meaning: the records damaged on purpose
    watch_ecg.csv              30 s of Lead I in atrial fibrillation, as an Apple Watch exports them
"""

import argparse
import shutil
import sys
from functools import partial
from pathlib import Path

import pandas as pd
from ecg_simulation.demo_records import BROKEN, Record, draw_records, write_records
from ecg_simulation.watch import write_watch_recording

from ecg_finetune.batch import chunked, run_batch
from ecg_finetune.cli import add_workers, execute, integer_from, non_negative_int, stage_parser
from ecg_finetune.files import UserError
from ecg_finetune.lineage import Inputs
from ecg_finetune.tables import write_table


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of this script."""
    parser = stage_parser(__doc__)
    parser.add_argument(
        "--records", type=integer_from(1, 1_000_000), default=1400, metavar="N", help="records (default: 1400)"
    )
    parser.add_argument(
        "--seed", type=non_negative_int, default=0, help="same seed, same files, whatever --workers (default: 0)"
    )
    parser.add_argument(
        "--out", type=Path, default=None, metavar="DIR", help="folder (default: <base-dir>/mimic-iv-ecg-demo)"
    )
    parser.add_argument(
        "--broken",
        type=non_negative_int,
        default=None,
        metavar="N",
        help=f"records to damage, in turn: {'; '.join(BROKEN)} (default: 6, one in fifty below 300 records; 0 = none)",
    )
    add_workers(parser)
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a demo data set that is already there (default: refuse)"
    )
    return parser


def run(args: argparse.Namespace, _inputs: Inputs) -> str:
    """Draw the records, write their files in chunks, then the tables."""
    folder = args.out or args.base_dir / "mimic-iv-ecg-demo"
    n_broken = min(len(BROKEN), args.records // 50) if args.broken is None else args.broken
    if n_broken > args.records:
        raise UserError(f"--broken {n_broken} is more than the number of records, {args.records}")
    prepare_folder(folder, args.overwrite)

    records = draw_records(args.records, n_broken, args.seed)
    broken = [record for record in records if record.broken]
    listing = [(record.study_id, record.path, record.broken, BROKEN[record.broken]) for record in broken]
    # Written first: it marks the folder as one that --overwrite may replace.
    write_table(folder / "broken_records.csv", pd.DataFrame(listing, columns=["study_id", "path", "broken", "meaning"]))
    work = partial(write_records, folder=folder, seed=args.seed)
    rows = []
    for some in run_batch(work, chunked(records, 200), workers=args.workers, total=len(records)):
        rows += some
    write_table(folder / "machine_measurements.csv", pd.DataFrame(rows))
    write_table(folder / "record_list.csv", record_list(records))
    write_watch_recording(folder / "watch_ecg.csv", args.seed)

    for study_id, path, kind, _ in listing:
        print(f"broken on purpose: {study_id} ({kind}) {path}")
    patients = len({record.patient.subject_id for record in records})
    return f"{len(records)} records of {patients} patients, {len(broken)} of them broken on purpose, in {folder}"


def prepare_folder(folder: Path, overwrite: bool) -> None:
    """Make the folder; empty it when it holds a demo data set and `overwrite` is set; refuse anything else."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / "broken_records.csv").is_file():
            raise UserError(f"{folder} holds files that are no demo data set; give an empty folder with --out")
        if not overwrite:
            raise UserError(f"{folder} already holds a demo data set; use it, or replace it with --overwrite")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)


def record_list(records: list[Record]) -> pd.DataFrame:
    """Return record_list.csv."""
    columns = ["subject_id", "study_id", "file_name", "ecg_time", "path"]
    rows = [(r.patient.subject_id, r.study_id, r.study_id, f"{r.time:%Y-%m-%d %H:%M:%S}", r.path) for r in records]
    return pd.DataFrame(rows, columns=columns)


def main() -> int:
    """Run the command line."""
    return execute(get_parser(), run)


if __name__ == "__main__":
    sys.exit(main())

"""Build the test set, and the 5 s segments and manifests that fine-tuning reads.

A record is built when preprocess brought it through and it has labels; all others are listed with their reason. Each
10 s file is read once and cut into two segments, each written once with its final `idx`, the row of y.npy. Rows stand
in the order train, valid, test, within each as in meta_split.csv. The label weights come from the train records alone.
An interrupted run goes on where it stopped.

    python build/scripts/build_test_and_finetune_data.py
    python build/scripts/build_test_and_finetune_data.py --base-dir demo/data    # a small run, after `make demo`

Reads   split/data/meta_split.csv (800,035 rows), labels/computed_labels/{labels,study_id_mapping}.csv (800,035 rows),
        preprocess/data/lead_1_duplicated (787,000 files) and its report
Writes  build/data/test_lead1_duplicated/                   links and labels of the test records (80,000)
        build/data/finetune_lead1_duplicated/segmented_5s/  1,574,000 files of about 9 kB (20 GB on disk)
        build/data/finetune_lead1_duplicated/manifests/     lists, y.npy (107 MB), label weights
        build/data/lead_1_left_out.csv                      the records of meta_split.csv that were not built
"""

import argparse
import contextlib
import functools
import sys
from pathlib import Path

from ecg_build.cutting import Job, cut_records, pending_records
from ecg_build.outputs import write_left_out, write_manifests, write_test_set
from ecg_build.records import LeftOut, Records, read_records

from ecg_finetune.batch import chunk_size, run_batch
from ecg_finetune.cli import add_batch, add_lead, add_path, execute, stage_parser
from ecg_finetune.files import refuse_outputs
from ecg_finetune.lineage import Inputs
from ecg_finetune.paths import REPORT, beside, inside
from ecg_finetune.run_folder import run_folder
from ecg_finetune.segments import SEGMENTS

MOST_PER_CHUNK = 500  # records that an interruption may cost, per worker


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of this script."""
    parser = stage_parser(__doc__)
    add_path(parser, "--meta", "meta_split", "which records, and their splits: `save_file,split`")
    add_path(parser, "--preprocessed", "lead", "folder of the 10 s files; their report stands beside it")
    add_path(parser, "--labels", "computed_labels", "folder that holds labels.csv and study_id_mapping.csv")
    add_path(parser, "--test-out", "test", "folder for the test set")
    add_path(parser, "--finetune-out", "finetune_data", "folder for segmented_5s/ and manifests/")
    add_path(parser, "--left-out", "left_out", "list of the records that were not built, with reasons")
    add_lead(parser)
    add_batch(parser, waiting=1)
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="remove both output folders and start over (default: do what is missing)",
    )
    parser.add_argument("--skip-test", action="store_true", help="do not build the test set (default: build it)")
    parser.add_argument(
        "--skip-finetune", action="store_true", help="do not build segments and manifests (default: build them)"
    )
    return parser


def run(args: argparse.Namespace, inputs: Inputs) -> str:
    """Choose the records, build the test set, cut the segments, write the manifests."""
    folders = ([] if args.skip_test else [args.test_out]) + ([] if args.skip_finetune else [args.finetune_out])
    refuse_outputs(files=[args.left_out], folders=folders)
    inputs.add(args.meta, beside(args.preprocessed, REPORT))
    inputs.add(*(inside(args.labels, name) for name in ("labels", "study_id_mapping")))
    records, left_out = read_records(args.meta, args.preprocessed, args.labels)
    print_counts(records, left_out)
    done = []
    if not args.skip_test:
        test = records.of_split("test")
        with run_folder(args.test_out, {"--lead": args.lead}, args.overwrite):
            write_test_set(args.test_out, args.preprocessed, test)
        done.append(f"{len(test.study_id):,} test records in {args.test_out}")
    if not args.skip_finetune:
        segments = inside(args.finetune_out, "segments")
        with run_folder(args.finetune_out, finetune_settings(args, records), args.overwrite) as partial:
            segments.mkdir(parents=True, exist_ok=True)
            cut(args, records, partial, segments)
            write_manifests(inside(args.finetune_out, "manifests"), segments, records)
        done.append(f"{len(records.study_id) * SEGMENTS:,} segments in {args.finetune_out}")
    write_left_out(args.left_out, left_out)
    return "; ".join(done) or "nothing, both parts were skipped"


def finetune_settings(args: argparse.Namespace, records: Records) -> dict:
    """Return what decides the segments: a change of any means another idx or another signal for some file."""
    counts = {f"number of {split} records": number for split, number in records.counts().items()}
    return {"--lead": args.lead, **counts, "records and signals (digest)": records.digest}


def cut(args: argparse.Namespace, records: Records, partial: Path, segments: Path) -> None:
    """Cut the records whose segments are missing, in chunks, on local workers or on the cluster."""
    pending = pending_records(segments, records.study_id)
    print(f"{len(records.study_id):,} records to cut, {len(records.study_id) - len(pending):,} of them done before")
    size = chunk_size(len(pending), args.workers, MOST_PER_CHUNK)
    chunks = (
        [(int(records.study_id[position]), int(position)) for position in pending[start : start + size]]
        for start in range(0, len(pending), size)
    )
    work = functools.partial(cut_records, Job(args.preprocessed.resolve(), segments.resolve(), partial))
    results = run_batch(work, chunks, workers=args.workers, total=len(pending), dask=args.dask)
    with contextlib.closing(results):
        for _ in results:
            pass


def print_counts(records: Records, left_out: LeftOut) -> None:
    """Print how many records are built per split, and how many are left out for which reason."""
    for split, number in records.counts().items():
        print(f"{number:>9,}  {split} records")
        if not number:
            print(f"warning: no {split} record is left", file=sys.stderr)
    for reason, number in left_out.counts().items():
        print(f"{number:>9,}  left out: {reason}")


def main() -> int:
    """Run the command line."""
    return execute(get_parser(), run)


if __name__ == "__main__":
    sys.exit(main())

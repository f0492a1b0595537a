"""Build the test set, and the 5 s segments and manifests that fine-tuning reads.

A record is built when it is usable (preprocess) and one of its labels is known; all others are listed with their
reason. Each 10-second record is cut into two segments, each written once with its final `idx`, the row of y.npy. Rows
stand in the order train, valid, test, within each as in meta_split.csv. Any labels will do: they are the columns of
labels.csv, and an empty cell is an unknown one (NaN in y.npy). The label weights come from the train records alone,
those that know the label. An interrupted run goes on where it stopped.

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

import numpy as np
from ecg_build.cutting import CutJob, checksums, cut_records, pending_records
from ecg_build.datasets import write_excluded, write_manifests, write_test_set
from ecg_build.records import Excluded, Records, read_records

from ecg_finetune.batch import chunk_size, chunked, run_batch
from ecg_finetune.cli import add_batch, add_lead, add_path, execute, stage_parser
from ecg_finetune.files import existing_file, refuse_outputs, write_json
from ecg_finetune.label_set import counts_table, known_counts
from ecg_finetune.lineage import Inputs, lineage, read_lineage, refuse_other_lead
from ecg_finetune.paths import REPORT, RUN, beside, inside
from ecg_finetune.run_folder import refuse_overlap, run_folder
from ecg_finetune.segments import SEGMENTS
from ecg_finetune.studies import label_files

MOST_PER_CHUNK = 500  # records that an interruption may cost, per worker


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of this script."""
    parser = stage_parser(__doc__)
    add_path(parser, "--meta", "meta_split", "which records, and their splits: `save_file,split`")
    add_path(parser, "--preprocessed", "lead", "folder of the 10-second records; their report stands beside it")
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
    report = beside(args.preprocessed, REPORT)
    folders = {"--preprocessed": args.preprocessed, "--test-out": args.test_out, "--finetune-out": args.finetune_out}
    refuse_overlap(folders, {"--meta": args.meta, "--labels": args.labels, "--left-out": args.left_out})
    written = ([] if args.skip_test else [args.test_out]) + ([] if args.skip_finetune else [args.finetune_out])
    refuse_outputs(files=[args.left_out], folders=written)
    existing_file(args.meta, "the split stage")
    inputs.add(args.meta, report, *label_files(args.labels))
    earlier = [
        read_lineage("labels", inside(args.labels, "labels_lineage"), []),
        read_lineage("split", args.meta.with_suffix(".json"), [args.meta]),
        read_lineage("preprocess", beside(args.preprocessed, RUN), []),
    ]
    refuse_other_lead(args.preprocessed, earlier[-1], args.lead)
    records, excluded = read_records(args.meta, args.preprocessed, args.labels)
    needed = ([] if args.skip_test else ["test"]) + ([] if args.skip_finetune else ["train", "valid"])
    print_counts(records, excluded, needed)
    test = records.of_split("test")
    test_settings = {"--lead": args.lead, **described(test)}
    finetune_settings = {"--lead": args.lead, **described(records)}
    done = []
    with contextlib.ExitStack() as owned:  # both folders, before anything is written to either
        test_run = finetune_run = None
        if not args.skip_test:
            test_run = owned.enter_context(run_folder("build", args.test_out, test_settings, args.overwrite))
        if not args.skip_finetune:
            finetune_run = owned.enter_context(
                run_folder("build", args.finetune_out, finetune_settings, args.overwrite)
            )
        if test_run is not None:
            test_run.begin()
            write_test_set(args.test_out, args.preprocessed, test, checksums_of(args, test))
            names = ("test_labels", "test_file_list", "test_checksums", "test_label_def")
            written = [inside(args.test_out, name) for name in names]
            told = lineage("build", test_settings, inputs, written, earlier)
            write_json(inside(args.test_out, "test_lineage"), told)
            done.append(f"{len(test.study_id):,} test records in {args.test_out}")
        if finetune_run is not None:
            partial = finetune_run.begin()
            segments, manifests = inside(args.finetune_out, "segments"), inside(args.finetune_out, "manifests")
            segments.mkdir(parents=True, exist_ok=True)
            cut(args, records, partial, segments)
            written = write_manifests(manifests, segments, records)
            told = lineage("build", finetune_settings, inputs, written, earlier)
            write_json(inside(manifests, "manifests_lineage"), told)
            done.append(f"{len(records.study_id) * SEGMENTS:,} segments in {args.finetune_out}")
        write_excluded(args.left_out, excluded)
    return "; ".join(done) or "nothing, both parts were skipped"


def described(records: Records) -> dict[str, int | str]:
    """Return what decides the files of these records: a change of any means another idx or signal for some file."""
    counts = {f"number of {split} records": number for split, number in records.counts().items()}
    return {**counts, "records and signals (digest)": records.digest}


def checksums_of(args: argparse.Namespace, test: Records) -> np.ndarray:
    """Return the checksums of the signals of the test records, uint32 (records,)."""
    studies = test.study_id.tolist()
    size = chunk_size(len(studies), args.workers, MOST_PER_CHUNK)
    work = functools.partial(checksums, args.preprocessed.resolve())
    results = run_batch(
        work, chunked(studies, size), workers=args.workers, total=len(studies), unit="test records", dask=args.dask
    )
    with contextlib.closing(results):
        return np.array([checksum for chunk in results for checksum in chunk], dtype=np.uint32)


def cut(args: argparse.Namespace, records: Records, partial: Path, segments: Path) -> None:
    """Cut the records whose segments are missing, in chunks, on local workers or on the cluster."""
    pending = pending_records(segments, records.study_id)
    print(f"{len(records.study_id):,} records to cut, {len(records.study_id) - len(pending):,} of them done before")
    size = chunk_size(len(pending), args.workers, MOST_PER_CHUNK)
    chunks = (
        [(int(records.study_id[index]), int(index)) for index in pending[start : start + size]]
        for start in range(0, len(pending), size)
    )
    work = functools.partial(cut_records, CutJob(args.preprocessed.resolve(), segments.resolve(), partial))
    results = run_batch(work, chunks, workers=args.workers, total=len(pending), dask=args.dask)
    with contextlib.closing(results):
        for _ in results:
            pass


def print_counts(records: Records, excluded: Excluded, needed: list[str]) -> None:
    """Print how many records there are per split, how many are excluded for which reason, and what labels are known.

    A split that is `needed` and empty is a warning.
    """
    for split, number in records.counts().items():
        print(f"{number:>9,}  {split} records")
        if not number and split in needed:
            print(f"warning: no {split} record is left", file=sys.stderr)
    for reason, number in excluded.counts().items():
        print(f"{number:>9,}  excluded: {reason}")
    if (known_counts(records.labels) < len(records.labels)).any():
        print("records that know each label, and have it:")
        print(counts_table(records.label_set.names, records.labels))


def main() -> int:
    """Run the command line."""
    return execute(get_parser(), run)


if __name__ == "__main__":
    sys.exit(main())

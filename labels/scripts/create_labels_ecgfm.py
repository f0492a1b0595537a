"""Compute ECG-FM's 17 labels from the machine statements of the reports.

Each report is labelled from its text alone by the patterns of labels/ecg_fm_labeler_config (or of ECG-FM's own
configuration folder). "Possible ..." counts as positive in the 0/1 labels, as it does for ECG-FM; y_soft.npy holds the
probabilities. To see why a statement is labelled: python -m ecg_fm_labeler.explain "Sinus tachycardia".

    python labels/scripts/create_labels_ecgfm.py --machine-measurements /data/mimic-iv-ecg/machine_measurements.csv
    python labels/scripts/create_labels_ecgfm.py --base-dir demo/data \\
        --machine-measurements demo/data/mimic-iv-ecg-demo/machine_measurements.csv    # a small run, after `make demo`

Reads   machine_measurements.csv (800,035 rows, 183 MB); split/data/meta_split.csv where it is there
Writes  labels/computed_labels/
        labels.csv, y.npy, y_soft.npy                    a row per report (34, 54 and 54 MB)
        study_id_mapping.csv                             a row per report (18 to 24 MB)
        label_def_recomputed.csv, label_def_official_17.csv, pos_weight.txt     17 labels
        policy_differences.csv                           a row per report and label that the policies disagree on
        unmatched.csv                                    a row per run of words that no pattern took
        labels.json                                      lineage: settings, what was read and written, by SHA-256
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from ecg_fm_labeler import Labeler
from ecg_fm_labeler.configuration import PROJECT_CONFIG
from ecg_fm_labeler.label_files import policy_differences, prevalence_table, write_outputs
from ecg_fm_labeler.labeler import POLICIES
from ecg_fm_labeler.labelling import label_reports
from ecg_fm_labeler.reports import read_reports
from ecg_fm_labeler.splits import split_of

from ecg_finetune.cli import add_batch, add_path, execute, positive_int, stage_parser
from ecg_finetune.files import UserError, shown
from ecg_finetune.label_set import LABELS
from ecg_finetune.lineage import Inputs
from ecg_finetune.paths import LOCK, beside, locate
from ecg_finetune.run_folder import locked
from ecg_finetune.studies import SPLITS
from ecg_finetune.tables import read_header

MOST_UNREAD = 0.05  # of the reports, before a warning


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of this script."""
    parser = stage_parser(__doc__)
    add_path(parser, "--machine-measurements", "machine_measurements", "the reports: `study_id,report_0,report_1,...`")
    parser.add_argument(
        "--labeler-config",
        type=Path,
        default=None,
        metavar="PATH",
        help="the labeler's knowledge base; ECG-FM's own folder will do "
        "(default: <base-dir>/labels/ecg_fm_labeler_config where that exists, else the one in this repository)",
    )
    add_path(parser, "--meta", "meta_split", "the splits: `save_file,split`; needed only for --split other than all")
    parser.add_argument(
        "--split",
        choices=[*SPLITS, "all"],
        default="all",
        help="label only the reports of this split; all = every report (default: all)",
    )
    parser.add_argument(
        "--max-rows", type=positive_int, default=None, metavar="N", help="read only the first N rows (default: all)"
    )
    add_path(parser, "--out-dir", "computed_labels", "folder for everything written")
    parser.add_argument(
        "--policy",
        choices=POLICIES,
        default="ecg-fm",
        help="ecg-fm = ECG-FM's labels, its defects included; asserted = each statement on its own, its descriptors "
        "always attached, negated findings excluded (default: ecg-fm)",
    )
    add_batch(parser)
    return parser


def run(args: argparse.Namespace, inputs: Inputs) -> str:
    """Read the reports, label the distinct ones, write labels, counts and the words no pattern takes."""
    config = args.labeler_config or configuration_folder(args.base_dir)
    print(f"labeler configuration: {config}")
    inputs.add(args.machine_measurements, args.meta, *sorted(config.glob("*.*")))
    Labeler.from_config(config, args.policy)  # a wrong configuration is reported before the long read
    read_header(args.machine_measurements)  # and a missing table before a folder is made
    for name in ("train.tsv", "test_labels.csv"):
        if (args.out_dir / name).exists():
            raise UserError(f"{args.out_dir}: holds {name} of the build stage; choose another --out-dir")
    with locked(args.out_dir, beside(args.out_dir, LOCK)):
        reports = read_reports(args.machine_measurements, args.max_rows)
        split = split_of(args.meta, reports.study_id, args.split)
        if args.split != "all":
            wanted = split == SPLITS.index(args.split)
            reports, split = reports.only(wanted), split[wanted]
        rows, distinct = len(reports.study_id), len(np.unique(reports.which))
        repeated = rows - len(np.unique(reports.study_id))
        print(f"{rows:,} reports, {distinct:,} distinct; {repeated:,} rows repeat an earlier one")
        labelled = label_reports(reports, config, args.policy, args.workers, args.dask)
        soft = labelled.soft[args.policy]
        settings = {"--policy": args.policy, "--split": args.split, "--max-rows": args.max_rows, "labels": list(LABELS)}
        found = soft, policy_differences(labelled.soft), labelled.unmatched
        write_outputs(args.out_dir, config, reports.study_id, split, *found, settings, inputs)
    print(prevalence_table(soft))
    none = int((soft.max(axis=1) == 0).sum())
    unread = labelled.unread
    if unread > MOST_UNREAD * rows:
        print(
            f"warning: {unread / rows:.0%} of the reports have text of which no pattern took a word, in another "
            f"language or wording; they count as having none of the labels. Their most frequent words: "
            f"{', '.join(shown(word) for word, _ in labelled.unread_words.most_common(10))}",
            file=sys.stderr,
        )
    return (
        f"{rows:,} reports labelled, {none:,} of them with none of the 17 labels"
        f"{f', {unread:,} with no word that the labeler knows' if unread else ''}, in {args.out_dir}"
    )


def configuration_folder(base_dir: Path) -> Path:
    """Return the configuration below the base folder where there is one, else the project's own."""
    below = locate(base_dir, "labeler_config")
    return below if below.is_dir() else PROJECT_CONFIG


def main() -> int:
    """Run the command line."""
    return execute(get_parser(), run)


if __name__ == "__main__":
    sys.exit(main())

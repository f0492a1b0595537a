"""Split the records into train, valid and test, no patient in two of them.

    python split/scripts/create_split.py --record-list record_list.csv --from-split meta_split_mimic_iv_ecg.csv
    python split/scripts/create_split.py --record-list record_list.csv --stratify labels/computed_labels  # a new split
    python split/scripts/create_split.py --base-dir /tmp/try --record-list record_list.csv    # labels not balanced
    python split/scripts/create_split.py --record-list longer_record_list.csv --extend
    python split/scripts/create_split.py --valid-frac 0 --test-frac 1    # all for external validation

For MIMIC-IV-ECG take ECG-FM's own split, the first command: splits/meta_split_mimic_iv_ecg.csv of the ECG-FM
repository. ECG-FM was pretrained on the train patients of that split. In any other split of these records about 80 % of
the test patients were seen in pretraining, and by ECG-FM's fine-tuned checkpoint with their labels, so that test
results say less about new patients than they seem to. A new split is for other data, or for models that start anew.

Reads   record_list.csv: study_id, and subject_id or a path with p######## in it (800,035 rows, 83 MB);
        with --from-split that file (ECG-FM's: 787,677 rows);
        with --stratify labels.csv and study_id_mapping.csv of the labels stage.
Writes  split/data/meta_split.csv: save_file,split in the order of the record list (800,035 rows, 26 MB; from ECG-FM's
        split 787,677 rows);
        with --from-split also meta_split.left_out.csv beside it: the studies that only one of the two files has;
        meta_split.json: lineage, with the digest.

A new split depends on the studies, their patients, the labels, the fractions and the seed, not on the order of rows.
Its digest is the SHA-256 over the lines "study_id,split" sorted by study_id. A different split that is there already is
replaced with --overwrite only. For several splits side by side give each a --base-dir of its own (docs/splits.md).
"""

import argparse
import sys
from pathlib import Path

from ecg_split.assignment import make_split, numbered
from ecg_split.given import read_earlier_split, take_split
from ecg_split.labels import columns_to_balance, read_labels_of
from ecg_split.split_file import note_lineage, write_split
from ecg_split.summary import label_table, print_leaks, print_sizes, split_digest

from ecg_finetune.cli import add_path, execute, fraction, non_negative_int, stage_parser
from ecg_finetune.files import UserError
from ecg_finetune.lineage import Inputs, read_lineage
from ecg_finetune.paths import inside
from ecg_finetune.studies import label_files, read_studies

NEW_SPLIT_NOTE = (
    "note: this is not ECG-FM's own split of MIMIC-IV-ECG. ECG-FM was pretrained on the train patients of its own, so "
    "it has seen about 80 % of the test patients of any other split, and its fine-tuned checkpoint has seen their "
    "labels too. For MIMIC-IV-ECG, give --from-split meta_split_mimic_iv_ecg.csv (in splits/ of the ECG-FM repository)."
)


ALL_TEST = (0, 1)  # the fractions of valid and test of a data set for external validation


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of this script."""
    parser = stage_parser(__doc__)
    add_path(parser, "--record-list", "record_list", "record_list.csv of MIMIC-IV-ECG")
    add_path(parser, "--out", "meta_split", "the split to write")
    parser.add_argument(
        "--from-split",
        type=Path,
        default=None,
        metavar="CSV",
        help="take an existing split for the studies of the record list: for MIMIC-IV-ECG that of ECG-FM, "
        "meta_split_mimic_iv_ecg.csv, whose test patients ECG-FM has not seen (study_id or save_file, split; other "
        "columns are ignored); fractions and seed are not used (default: make a new split)",
    )
    parser.add_argument(
        "--valid-frac", type=fraction, default=0.1, metavar="F", help="share of records for valid (default: 0.1)"
    )
    parser.add_argument(
        "--test-frac", type=fraction, default=0.1, metavar="F", help="share of records for test (default: 0.1)"
    )
    parser.add_argument("--seed", type=non_negative_int, default=42, help="same seed, same split (default: 42)")
    parser.add_argument(
        "--group-by",
        choices=("patient", "study"),
        default="patient",
        help="what stays together; study lets records of one patient into train and test: its test scores say little "
        "about new patients (default: patient)",
    )
    parser.add_argument(
        "--stratify",
        type=Path,
        default=None,
        metavar="LABELS_DIR",
        help="folder of the labels stage: make its labels equally frequent in the splits (default: not balanced)",
    )
    parser.add_argument(
        "--extend",
        action="store_true",
        help="keep every row of the meta_split.csv at --out, and its patients' split, and append the record list's new "
        "records (default: make the whole split)",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a different split at --out; what later stages made with it must be made again (default: refuse)",
    )
    return parser


def run(args: argparse.Namespace, inputs: Inputs) -> str:
    """Read the studies and their patients, take or make the split, say what it is like, write it."""
    check_options(args)
    inputs.add(args.record_list, *([args.from_split] if args.from_split else []))
    if args.stratify:
        inputs.add(*label_files(args.stratify))
    by_patient = args.group_by == "patient"
    studies = read_studies(args.record_list, need_patients=by_patient, otherwise="give --group-by study")
    study_ids = studies["study_id"].to_numpy()
    subject_ids = studies["subject_id"].to_numpy() if "subject_id" in studies else None

    labels = excluded = None
    if args.from_split:
        rows, split, excluded = take_split(args.from_split, study_ids)
    else:
        group = numbered(subject_ids if by_patient else study_ids)
        kept = read_earlier_split(args.out, study_ids, group) if args.extend and args.out.is_file() else None
        if kept is None and (args.valid_frac, args.test_frac) != ALL_TEST:
            print(NEW_SPLIT_NOTE)
        if args.stratify:
            labels = read_labels_of(args.stratify, study_ids)
        balanced = labels and columns_to_balance(*labels[1:])
        rows, split, new_groups = make_split(group, args.valid_frac, args.test_frac, args.seed, balanced, kept)
        if args.extend:
            n_kept, unit = len(kept[0]) if kept else 0, "patients" if by_patient else "studies"
            print(f"{n_kept:,} rows kept, {len(rows) - n_kept:,} added; {new_groups:,} new {unit}")

    subject_ids = None if subject_ids is None else subject_ids[rows]
    print_sizes(split, subject_ids)
    if labels is not None:
        names, positive, known = labels
        print("labels, share and number of the records that know them:")
        print(label_table(split, names, positive[rows], known[rows]))
    print_leaks(split, subject_ids)
    digest = split_digest(study_ids[rows], split)
    print(f"digest: {digest}")
    earlier = [read_lineage("labels", inside(args.stratify, "labels_lineage"), [])] if args.stratify else []
    if args.extend and args.out.is_file():
        earlier.append(read_lineage("split", args.out.with_suffix(".json"), [args.out]))
    written = write_split(args.out, study_ids[rows], split, excluded, replace=args.overwrite or args.extend)
    note_lineage(args.out, settings_of(args, digest), inputs, earlier, written)
    return f"{len(split):,} records in {args.out}{'' if written else ', unchanged'}, digest {digest[:12]}"


def check_options(args: argparse.Namespace) -> None:
    """Refuse fractions and options that do not go together."""
    if args.valid_frac + args.test_frac >= 1 and (args.valid_frac, args.test_frac) != ALL_TEST:
        raise UserError(
            f"--valid-frac {args.valid_frac} and --test-frac {args.test_frac} leave nothing to train on; "
            "their sum must stay below 1 (for external validation: --valid-frac 0 --test-frac 1)"
        )
    if args.from_split and (args.stratify or args.extend):
        raise UserError("--from-split takes a split as it is; omit --stratify and --extend")


def settings_of(args: argparse.Namespace, digest: str) -> dict:
    """Return what decides the split, as its lineage states it."""
    if args.from_split:
        return {"source": "--from-split", "digest": digest}
    options = {"--seed": args.seed, "--valid-frac": args.valid_frac, "--test-frac": args.test_frac}
    options |= {"--group-by": args.group_by, "--stratify": bool(args.stratify), "--extend": args.extend}
    return {"source": "made by create_split.py", **options, "digest": digest}


def main() -> int:
    """Run the command line."""
    return execute(get_parser(), run)


if __name__ == "__main__":
    sys.exit(main())

"""Split the records into train, valid and test, no patient in two of them.

    python split/scripts/create_split.py --record-list record_list.csv --stratify labels/computed_labels
    python split/scripts/create_split.py --base-dir /tmp/try --record-list record_list.csv    # labels not balanced
    python split/scripts/create_split.py --record-list record_list.csv --from-split split_of_ecg_fm.csv
    python split/scripts/create_split.py --record-list longer_record_list.csv --extend

Reads   record_list.csv: study_id, and subject_id or a path with p######## in it (800,035 rows, 83 MB);
        with --stratify labels.csv and study_id_mapping.csv of the labels stage.
Writes  split/data/meta_split.csv: save_file,split in the order of the record list (800,035 rows, 26 MB);
        with --from-split also meta_split.left_out.csv beside it: the studies that only one of the two files has.

The split depends on the studies, their patients, the labels, the fractions and the seed, not on the order of rows. Its
digest is the SHA-256 over the lines "study_id,split" sorted by study_id.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from ecg_split.assignment import TEST, assign_at_random, assign_stratified, wanted_records
from ecg_split.given import read_earlier_split, read_foreign_split
from ecg_split.labels import count_per_group, labels_of
from ecg_split.summary import label_table, on_both_sides, size_table, split_digest

from ecg_finetune.cli import add_path, execute, fraction, non_negative_int, stage_parser
from ecg_finetune.files import UserError, refuse_outputs
from ecg_finetune.lineage import Inputs
from ecg_finetune.paths import inside
from ecg_finetune.studies import SPLITS, find_rows, read_studies, read_study_labels, save_file_name
from ecg_finetune.tables import write_table

UNASSIGNED = -1


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of this script."""
    parser = stage_parser(__doc__)
    add_path(parser, "--record-list", "record_list", "record_list.csv of MIMIC-IV-ECG")
    add_path(parser, "--out", "meta_split", "the split to write")
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
        help="folder of the labels stage: make the 17 labels equally frequent in the splits (default: not balanced)",
    )
    parser.add_argument(
        "--from-split",
        type=Path,
        default=None,
        metavar="CSV",
        help="take an existing split such as ECG-FM's (study_id or save_file, split; other columns are ignored) for "
        "the studies of the record list; fractions and seed are not used (default: make a split)",
    )
    parser.add_argument(
        "--extend",
        action="store_true",
        help="keep every row of the meta_split.csv at --out, and its patients' split, and append the record list's new "
        "records (default: make the whole split)",
    )
    return parser


def run(args: argparse.Namespace, inputs: Inputs) -> str:
    """Read the studies and their patients, take or make the split, say what it is like, write it."""
    check_options(args)
    refuse_outputs(files=[args.out])
    inputs.add(args.record_list)
    if args.from_split:
        inputs.add(args.from_split)
    if args.stratify:
        inputs.add(*(inside(args.stratify, name) for name in ("labels", "study_id_mapping")))
    records = read_studies(
        args.record_list, need_patients=args.group_by == "patient", otherwise="give --group-by study"
    )
    study_ids = records["study_id"].to_numpy()
    patient = None
    if "subject_id" in records:
        patient = np.unique(records["subject_id"], return_inverse=True)[1]

    if args.from_split:
        rows, split = split_from_file(args, study_ids)
        labels = None
    else:
        labels = read_labels(args.stratify, study_ids) if args.stratify else None
        group = patient if args.group_by == "patient" else np.unique(study_ids, return_inverse=True)[1]
        rows, split = make_split(args, study_ids, group, labels)

    if patient is not None:  # numbered anew: the patients of this split only
        patient = np.unique(patient[rows], return_inverse=True)[1]
    print(size_table(split, patient))
    for name, count in zip(SPLITS, np.bincount(split, minlength=3)):
        if not count:
            print(f"warning: {name} is empty; later stages need records in every split", file=sys.stderr)
    if labels is not None:
        print("labels, share and number of the labelled records:")
        print(label_table(split, labels[0][rows], labels[1][rows]))
    report_leakage(args, patient, split)
    digest = split_digest(study_ids[rows], split)
    print(f"digest: {digest}")
    save_files = [save_file_name(study_id) for study_id in study_ids[rows].tolist()]
    write_table(args.out, pd.DataFrame({"save_file": save_files, "split": np.array(SPLITS, dtype=object)[split]}))
    return f"{len(split):,} records in {args.out}, digest {digest[:12]}"


def check_options(args: argparse.Namespace) -> None:
    """Refuse fractions and options that do not go together."""
    if args.valid_frac + args.test_frac >= 1:
        raise UserError(
            f"--valid-frac {args.valid_frac} and --test-frac {args.test_frac} leave nothing to train on; "
            "their sum must stay below 1"
        )
    if args.from_split and (args.stratify or args.extend):
        raise UserError("--from-split takes a split as it is; leave out --stratify and --extend")


def read_labels(folder: Path, study_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return labels, bool (records, 17), and whether the record has any, bool (records,); tell how many have none."""
    labelled_ids, labels = read_study_labels(folder)
    labels, labelled = labels_of(study_ids, labelled_ids, labels.astype(bool))
    if not labelled.any():
        raise UserError(
            f"{folder}: not one study of the record list has labels there; give the labels of these records"
        )
    if not labelled.all():
        n = int((~labelled).sum())
        print(f"{n:,} of {len(study_ids):,} studies are not in {folder}/labels.csv: split as if they had no label")
    return labels, labelled


def make_split(
    args: argparse.Namespace,
    study_ids: np.ndarray,
    group: np.ndarray,
    labels: tuple[np.ndarray, np.ndarray] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Assign groups (patients or studies) to splits.

    Parameters
    ----------
    args : Namespace
        The options.
    study_ids, group : ndarray of int (records,)
        Each record's study, and its group: 0 to the number of groups - 1.
    labels : tuple or None
        What `read_labels` returns; None makes a split that does not balance them.

    Returns
    -------
    rows : ndarray of int (records,)
        Rows of the record list in the order in which they are written.
    split : ndarray of int8 (records,)
        Position in `SPLITS` of the split of each of these rows.
    """
    n_groups = int(group.max()) + 1
    split_of_group = np.full(n_groups, UNASSIGNED, dtype=np.int8)
    kept_rows = np.array([], dtype=int)
    if args.extend and args.out.is_file():
        kept_rows, kept_split = read_earlier_split(args.out, study_ids)
        if args.group_by == "patient" and on_both_sides(group[kept_rows], kept_split)[0]:
            raise UserError(
                f"{args.out} has patients in several splits, so they cannot keep one; extend it with --group-by study"
            )
        split_of_group[group[kept_rows]] = kept_split

    sizes = np.bincount(group, minlength=n_groups)
    old, new = split_of_group != UNASSIGNED, np.flatnonzero(split_of_group == UNASSIGNED)
    already = np.bincount(split_of_group[old], weights=sizes[old], minlength=3).astype(np.int64)
    wanted = wanted_records(len(group), args.valid_frac, args.test_frac, already)
    if len(new) and labels is not None:
        label_counts = count_per_group(group, n_groups, labels[0])
        split_of_group[new] = assign_stratified(sizes[new], label_counts[new], wanted, args.seed)
    elif len(new):
        split_of_group[new] = assign_at_random(sizes[new], wanted, args.seed)

    if args.extend:
        n_added, unit = len(group) - len(kept_rows), {"patient": "patients", "study": "studies"}[args.group_by]
        print(f"{len(kept_rows):,} rows kept, {n_added:,} added; {len(new):,} new {unit}")
    added = np.ones(len(group), dtype=bool)
    added[kept_rows] = False
    rows = np.concatenate([kept_rows, np.flatnonzero(added)])
    return rows, split_of_group[group[rows]]


def split_from_file(args: argparse.Namespace, study_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take the given split; list the studies that only one of the two files has.

    Returns as `make_split`, of the records that both files have.
    """
    given_ids, given_split = read_foreign_split(args.from_split)
    position, found = find_rows(given_ids, study_ids)
    rows = np.flatnonzero(found)
    if not len(rows):
        raise UserError(
            f"{args.from_split} and {args.record_list} have no study in common; give the list it was made for"
        )
    missing = study_ids[~found]
    unknown = np.setdiff1d(given_ids, study_ids)
    left_out = args.out.with_name(f"{args.out.stem}.left_out.csv")
    reasons = ["only in the record list"] * len(missing) + ["only in the given split"] * len(unknown)
    write_table(left_out, pd.DataFrame({"study_id": np.concatenate([missing, unknown]), "reason": reasons}))
    print(
        f"{len(rows):,} studies in both files; left out: {len(missing):,} only in the record list, "
        f"{len(unknown):,} only in the given split, listed in {left_out}"
    )
    return rows, given_split[position[rows]]


def report_leakage(args: argparse.Namespace, patient: np.ndarray | None, split: np.ndarray) -> None:
    """Print how many patients stand on both sides; warn on stderr when any do or when that is unknown.

    `patient` (None: unknown) and `split` as in `summary.presence`.
    """
    if patient is None:
        print(
            f"warning: {args.record_list} does not tell patients, so how many stand on both sides is unknown; test "
            "scores may say little about new patients",
            file=sys.stderr,
        )
        return
    shared, test_records = on_both_sides(patient, split)
    print(f"patients on both sides: {shared:,} of {int(patient.max()) + 1:,}")
    if shared:
        share = test_records / max(int((split == TEST).sum()), 1)
        print(
            f"warning: {shared:,} patients stand in more than one split, and {share:.1%} of the test records "
            "have their patient in train too; test scores say little about new patients",
            file=sys.stderr,
        )


def main() -> int:
    """Run the command line."""
    return execute(get_parser(), run)


if __name__ == "__main__":
    sys.exit(main())

"""Import another data set: its record list, its labels as far as it states them, ages and sexes.

A data set is imported into a base folder of its own, from where split, preprocess, build and eval go on
(docs/your-own-data.md). What it does not say of a recording is unknown: an empty cell, neither positive nor negative.
Codes are read as findings, and labels follow from findings as they do for the reports of MIMIC-IV-ECG.

    python sources/scripts/import_source.py --source ptbxl --root /data/ptb-xl --base-dir /data/ecg-ptbxl
    python sources/scripts/import_source.py --source table --root /data/clinic --table /data/clinic/labels.csv \\
        --base-dir /data/ecg-clinic

    cinc2017        PhysioNet/CinC Challenge 2017: REFERENCE.csv
    ptbxl           PTB-XL: ptbxl_database.csv
    physionet2021   PhysioNet/CinC Challenges 2020 and 2021: the headers
    ludb            LUDB: ludb.csv
    table           your own: a CSV file with a column name or path, and a column per label that holds 0, 1 or nothing;
                    where you have them, columns study_id, subject_id (or patient_id), age and sex

Reads   the data set's table or, of physionet2021, every header (88,253, 85 MB); no signals
Writes  split/data/          a row per recording (of PTB-XL 21,799, 2 MB)
        record_list.csv, subjects.csv                    the recordings that are there; age and sex
        record_list.left_out.csv                         those that are not there or not listed, each with the reason
        labels/computed_labels/
        labels.csv, y.npy, y_soft.npy, study_id_mapping.csv     a row per recording
        label_def_recomputed.csv, pos_weight.txt         the labels
        known.csv                                        how many recordings of each label are known and positive
        unmatched.csv                                    codes that are not in our code table, most frequent first
        labels.json                                      lineage: settings, what was read and written, by SHA-256
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from ecg_sources import cinc2017, ludb, physionet2021, ptbxl, table
from ecg_sources.dataset import INCLUDED, NOT_INCLUDED, DataSet
from ecg_sources.files import Files
from ecg_sources.outputs import label_set_of, numbers_of, refuse_other_data, refuse_renumbering, write_outputs

from ecg_finetune.cli import execute, real_number, stage_parser
from ecg_finetune.files import UserError, refuse_outputs, shown
from ecg_finetune.label_set import LabelSet, counts_table, read_label_set
from ecg_finetune.lineage import Inputs
from ecg_finetune.paths import ARTEFACTS, LOCK, beside, locate
from ecg_finetune.run_folder import locked

SOURCES = ("cinc2017", "ptbxl", "physionet2021", "ludb", "table")
# The options of one source, with their defaults.
OPTIONS = {
    "likelihood": ("ptbxl", 50.0),
    "rate": ("ptbxl", 500),
    "database": ("physionet2021", None),
    "labels": ("table", None),
}


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of this script."""
    parser = stage_parser(__doc__)
    parser.add_argument("--source", choices=SOURCES, required=True, help="the data set (no default)")
    parser.add_argument(
        "--root",
        type=Path,
        required=True,
        metavar="DIR",
        help="the data set's folder; recordings are found anywhere below it (no default)",
    )
    parser.add_argument(
        "--out", type=Path, default=None, metavar="DIR", help="the base folder to write into (default: --base-dir)"
    )
    parser.add_argument(
        "--table",
        type=Path,
        default=None,
        metavar="CSV",
        help="the data set's table (default: found below --root by its usual name; of the source table the one CSV "
        "file directly in --root)",
    )
    parser.add_argument(
        "--likelihood",
        type=percent,
        default=None,
        metavar="P",
        help="ptbxl: from which likelihood, in percent, a diagnostic code counts as present (default: 50)",
    )
    parser.add_argument(
        "--rate",
        type=int,
        choices=tuple(ptbxl.FILE_COLUMN),
        default=None,
        help="ptbxl: which of the two resolutions to take, in Hz (default: 500)",
    )
    parser.add_argument(
        "--database",
        choices=tuple(physionet2021.DATABASES),
        default=None,
        help="physionet2021: the database of recordings whose name and folders do not tell it (default: of these only "
        "the labels are known that all eight databases tell)",
    )
    parser.add_argument(
        "--labels",
        nargs="+",
        default=None,
        metavar="COLUMN",
        help="table: its label columns (default: every column that holds 0, 1 and empty cells only)",
    )
    parser.add_argument(
        "--label-set",
        type=Path,
        default=None,
        metavar="CSV",
        help="label_def.csv of the labels that a network was trained on: write these in their order, unknown where the "
        "data set does not have them (default: the data set's own labels)",
    )
    parser.add_argument(
        "--combine-by-max",
        nargs="+",
        default=None,
        metavar="LABEL",
        help="labels of which a few seconds are enough: of the parts of a recording the highest probability counts, of "
        "all other labels the mean (default: as --label-set says, else ECG-FM's five where they are among the labels)",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the record list and labels of another data set, or of other recordings; later stages that have "
        "run need it too (default: refuse)",
    )
    return parser


def percent(text: str) -> float:
    """Parse a number from 0 to 100 for argparse."""
    value = real_number(text)
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not between 0 and 100")
    return value


def run(args: argparse.Namespace, inputs: Inputs) -> str:
    """Look what is below the root, read the data set, say what is known of it, write it."""
    refuse_options_of_others(args)
    record_list, subjects, labels = (locate(args.out, name) for name in ("record_list", "subjects", "computed_labels"))
    refuse_outputs(files=[record_list, subjects], folders=[labels])
    if not args.overwrite:
        refuse_other_data(record_list, labels, args.source)
    wanted = None
    if args.label_set is not None:
        inputs.add(args.label_set)
        wanted = read_label_set(args.label_set)
    files = Files(args.root)
    print(f"{len(files.paths):,} files below {args.root}, {len(files.records):,} of them WFDB headers")
    found = read(args.source, files, args.table, {name: getattr(args, name) for name in OPTIONS})
    inputs.add(*found.tables)
    if not found.recordings:
        name, reason = found.left_out[0]
        raise UserError(f"{args.root}: no recording of the data set is there; the first, {shown(name)}: {reason}")
    numbers = numbers_of(found)
    if not args.overwrite:
        refuse_renumbering(record_list, found, numbers)
    if wanted is not None:
        found.take_labels(wanted.names, args.label_set.name)
    if np.isnan(np.stack(found.labels)).all():
        codes = f" ({most_common(found)} are not in our table)" if found.unmatched else ""
        raise UserError(f"{args.root}: no label is known of any recording{codes}; is this {args.source}?")
    label_set = wanted or LabelSet.of(found.names)
    if args.combine_by_max is not None:
        label_set = label_set_of(label_set.names, args.combine_by_max)
    tell(found, label_set)
    settings = {
        "--source": args.source,
        "pretraining": found.pretraining,
        "patients": "known" if found.patients else "not known",
        **found.settings,
        "labels": list(label_set.names),
        "combine": list(label_set.combine),
    }
    with locked(labels, beside(labels, LOCK)):
        write_outputs(record_list, subjects, labels, found, numbers, label_set, settings, inputs)
    left_out = f", {len(found.left_out):,} left out" if found.left_out else ""
    return f"{len(found.recordings):,} recordings of {args.source} in {record_list}{left_out}; their labels in {labels}"


def resolve(args: argparse.Namespace) -> None:
    """Fill in the defaults that depend on other options."""
    args.out = args.out or args.base_dir
    for name, (source, default) in OPTIONS.items():
        if source == args.source and getattr(args, name) is None:
            setattr(args, name, default)


def refuse_options_of_others(args: argparse.Namespace) -> None:
    """Refuse an option that is for another source."""
    for name, (source, _) in OPTIONS.items():
        if source != args.source and getattr(args, name) is not None:
            raise UserError(f"--{name} is for --source {source}; leave it out")
    if args.table is not None and args.source == "physionet2021":
        raise UserError("--table: physionet2021 has its codes in the headers; leave it out")


def read(source: str, files: Files, given_table: Path | None, options: dict) -> DataSet:
    """Read a data set."""
    if source == "cinc2017":
        return cinc2017.read(files, given_table)
    if source == "ptbxl":
        return ptbxl.read(files, given_table, options["rate"], options["likelihood"])
    if source == "physionet2021":
        return physionet2021.read(files, options["database"])
    if source == "ludb":
        return ludb.read(files, given_table)
    return table.read(files, given_table, options["labels"])


def tell(found: DataSet, label_set: LabelSet) -> None:
    """Print what is known of each label, of the patients and of ECG-FM's pretraining; warnings go to stderr."""
    for path in found.tables:
        print(f"table: {path}")
    print(counts_table(label_set.names, np.stack(found.labels)))
    for note in found.notes:
        print(note)
    if found.patients:
        print(f"patients: {len({recording.patient for recording in found.recordings}):,}")
    else:
        print(
            "patients: not known, so each recording counts as a patient of its own; leakage between the recordings of "
            "a patient cannot be excluded"
        )
    print(
        {
            INCLUDED: "pretraining: ECG-FM was pretrained on this data set, so that results on it are external for the "
            "fine-tuning only",
            NOT_INCLUDED: "pretraining: ECG-FM was not pretrained on this data set",
        }.get(found.pretraining, "pretraining: whether ECG-FM was pretrained on these recordings is not known")
    )
    if found.unmatched:
        print(
            f"warning: {len(found.unmatched):,} codes are not in our table: {most_common(found)}; a recording "
            "that has one is not known to lack any label. All are in unmatched.csv",
            file=sys.stderr,
        )
    if found.left_out:
        name, reason = found.left_out[0]
        print(
            f"warning: {len(found.left_out):,} recordings are left out, {shown(name)} first ({reason}); all are in "
            f"{ARTEFACTS['record_list_left_out'].location}",
            file=sys.stderr,
        )


def most_common(found: DataSet) -> str:
    """Return the most frequent codes that are not in the code table."""
    return ", ".join(f"{shown(code)} ({count:,})" for code, count in found.unmatched.most_common(10))


def main() -> int:
    """Run the command line."""
    return execute(get_parser(), run, resolve=resolve)


if __name__ == "__main__":
    sys.exit(main())

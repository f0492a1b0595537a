"""What both evaluation scripts share: their options and the run."""

import argparse
import tempfile
import time
from datetime import datetime
from pathlib import Path

import numpy as np

from ecg_evaluation.inputs import (
    Labelled,
    patient_overlap,
    read_patients,
    read_predictions,
    read_test_set,
    read_valid_set,
    write_predictions,
)
from ecg_evaluation.provenance import read_origin, versions, write_origin
from ecg_evaluation.report import Report, write_report
from ecg_evaluation.results import compare, decide, evaluate, grouped_notes, text_table
from ecg_evaluation.thresholds import threshold_rule
from ecg_finetune.checksum import sha256
from ecg_finetune.command_line import (
    MOST_PROCESSES,
    UserError,
    add_lead,
    add_path,
    integer_from,
    non_negative_int,
    positive_int,
    remove_leftovers,
    usable_cores,
)
from ecg_finetune.paths import inside
from ecg_finetune.tables import read_json, write_table


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add every option but --base-dir and --model-path."""
    add_files(parser)
    add_inference(parser)
    add_statistics(parser)


def add_files(parser: argparse.ArgumentParser) -> None:
    """Add what says where to read and write."""
    add_lead(parser)
    add_path(parser, "--test-dir", "test", "folder of the test set")
    add_path(
        parser, "--manifests", "manifests", "folder of the manifests, for the labels and segments of the valid split"
    )
    add_path(parser, "--record-list", "record_list", "record_list.csv, which tells the patient of each record")
    add_path(parser, "--meta", "meta_split", "meta_split.csv, to check that no test patient was trained on")
    add_path(parser, "--signal-report", "report", "report of the preprocess stage, for strips in millivolts")
    add_path(parser, "--out", "eval", "folder to write to")


def add_inference(parser: argparse.ArgumentParser) -> None:
    """Add what only matters while the model runs."""
    parser.add_argument(
        "--batch-size", type=positive_int, default=64, metavar="N", help="records at once (default: %(default)s)"
    )
    parser.add_argument(
        "--num-workers",
        type=integer_from(0, MOST_PROCESSES),
        default=min(4, usable_cores()),
        metavar="N",
        help="processes that read files; 0 = none besides the main one (default: the usable cores, at most 4)",
    )
    parser.add_argument(
        "--max-samples",
        type=positive_int,
        default=None,
        metavar="N",
        help="only the first N records of the test set and of the valid split, for a quick look (default: all)",
    )
    parser.add_argument(
        "--device",
        default="auto",
        help="auto (CUDA if there is one, else Apple's mps, else cpu), cpu, cuda, cuda:N or mps (default: auto)",
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bf16"),
        default="auto",
        help="arithmetic of the network: auto = bf16 on a CUDA GPU that has it, else float32 (default: auto)",
    )
    parser.add_argument(
        "--trust-checkpoint",
        action="store_true",
        help="load a checkpoint that holds unusual Python objects; it can run code, so only from a source you trust "
        "(default: refuse it)",
    )


def add_statistics(parser: argparse.ArgumentParser) -> None:
    """Add what is done with predictions."""
    parser.add_argument(
        "--bootstrap",
        type=non_negative_int,
        default=1000,
        metavar="N",
        help="resamples of the patients for the 95 %% intervals; 0 = no intervals (default: %(default)s)",
    )
    parser.add_argument(
        "--threshold-rule",
        type=threshold_rule,
        default="f1",
        metavar="{f1,youden,0..1}",
        help="how the valid split chooses each label's threshold: highest F1, highest recall + specificity, or one "
        "probability for all labels (default: f1; without a valid split 0.5)",
    )
    parser.add_argument(
        "--predictions",
        type=Path,
        default=None,
        metavar="FILE",
        help="compute from this predictions file; no model is loaded (default: run the model)",
    )
    parser.add_argument(
        "--valid-predictions",
        type=Path,
        default=None,
        metavar="FILE",
        help="predictions for the valid split (default: run the model on it; with --predictions: the file that the "
        "same run wrote beside it, if it is there)",
    )
    parser.add_argument(
        "--compare",
        type=Path,
        default=None,
        metavar="FILE",
        help="predictions file of another model for the same records: AUROC and AUPRC differences with intervals "
        "(default: no comparison)",
    )


def run(args: argparse.Namespace) -> str:
    """Predict, compute every metric from the predictions file, write the tables and the report."""
    test = read_test_set(args.test_dir, args.max_samples)
    # What the user may have got wrong is read before the model runs, which can take hours.
    patients, findings = patients_of(args, test)
    other = None if args.compare is None else read_predictions(args.compare, test.study_id)[1]
    stamp = new_stamp(args.out, test.name)
    test_file, valid_file = given_predictions(args, test) if args.predictions else run_model(args, test, stamp)

    (_, probabilities), origin = read_predictions(test_file, test.study_id), read_origin(test_file)
    valid, valid_probabilities = read_valid(args, valid_file, test)
    findings += doubts_about_valid(test_file, valid_file) + doubts_about_lead(origin, args.lead)

    decisions = decide(valid, valid_probabilities, args.threshold_rule)
    results = evaluate(test, probabilities, decisions, patients, args.bootstrap)
    comparison = None if other is None else compare(results, other)

    metrics_file = inside(args.out, "metrics", set=test.name, time=stamp)
    report_file = inside(args.out, "html_report", set=test.name, time=stamp)
    write_table(metrics_file, results.table)
    if comparison is not None:
        write_table(inside(args.out, "comparison", set=test.name, time=stamp), comparison)
    read = sources(args, test, test_file, valid, valid_file)
    write_report(report_file, Report(results, comparison, findings, read, origin), args)

    print(f"\n{text_table(results.table)}\n")
    for sentence in findings + grouped_notes(results.table):
        print(f"note: {sentence}")
    print(f"metrics: {metrics_file}\nreport: {report_file}")
    return f"{len(test.study_id):,} records evaluated, report {report_file}"


def new_stamp(folder: Path, name: str) -> str:
    """Return the time as YYYYMMDD_HHMMSS; waits while an evaluation of this second is there already."""
    while True:
        stamp = datetime.now().strftime("%Y%m%d_%H%M%S")
        if not inside(folder, "predictions", set=name, time=stamp).exists() and not (
            inside(folder, "metrics", set=name, time=stamp).exists()
        ):
            return stamp
        time.sleep(0.2)


def valid_name(test_name: str) -> str:
    """Return the name of the valid set that belongs to a test set."""
    return "valid" + test_name.removeprefix("test")


def given_predictions(args: argparse.Namespace, test: Labelled) -> tuple[Path, Path | None]:
    """Return the predictions files that the user names: of the test set, and of the valid split (None: there is none).

    A run with a model writes both with the same time in their names, so the second need not be named.
    """
    beside = args.predictions.name.replace(f"_{test.name}_", f"_{valid_name(test.name)}_")
    beside = args.predictions.with_name(beside)
    found = beside if beside != args.predictions and beside.exists() else None
    return args.predictions, args.valid_predictions or found


def run_model(args: argparse.Namespace, test: Labelled, stamp: str) -> tuple[Path, Path | None]:
    """Predict the test set and, where it is there, the valid split; return the files written (None: no valid split)."""
    if args.model_path is None:
        raise UserError("--model-path is missing: give a classifier checkpoint, or --predictions to do without a model")

    # Hours of inference should not end at a folder that cannot be written to.
    args.out.mkdir(parents=True, exist_ok=True)
    remove_leftovers(args.out)  # they would stay: each evaluation writes under names of its own
    tempfile.TemporaryFile(dir=args.out).close()
    # Here and not above: PyTorch takes seconds to import and is not needed with --predictions.
    from ecg_evaluation.inference import RecordDataset, load_model, predict, valid_segments

    records, segments = RecordDataset(args.test_dir, test.study_id), None
    if args.valid_predictions is None and inside(args.manifests, "manifest", split="valid").exists():
        segments = valid_segments(args.manifests, args.max_samples)
    model, made_by = load_model(
        args.model_path, device=args.device, precision=args.precision, trust=args.trust_checkpoint
    )
    print(f"model: {made_by}", flush=True)
    origin = {"checkpoint": str(args.model_path), "checkpoint_sha256": sha256(args.model_path), "model": made_by}
    origin |= {"batch_size": args.batch_size, "made": stamp, "versions": versions()}
    if lead := finetuned_on_lead(args.model_path):
        origin["finetuned_on_lead"] = lead

    def make(name: str, data, batch_size: int, unit: str) -> Path:
        path = inside(args.out, "predictions", set=name, time=stamp)
        write_predictions(path, *predict(model, data, batch_size=batch_size, num_workers=args.num_workers, unit=unit))
        write_origin(path, {**origin, "set": name})
        print(f"predictions: {path}", flush=True)
        return path

    test_file = make(test.name, records, args.batch_size, "records")
    if segments is None:
        return test_file, args.valid_predictions
    return test_file, make(valid_name(test.name), segments, 2 * args.batch_size, "segments")


def read_valid(
    args: argparse.Namespace, path: Path | None, test: Labelled
) -> tuple[Labelled | None, np.ndarray | None]:
    """Read labels and predictions of the valid split; (None, None) where there are none."""
    if path is None:
        return None, None
    study_ids, probabilities = read_predictions(path)
    both = np.intersect1d(study_ids, test.study_id)
    if len(both):
        raise UserError(
            f"{path}: study {both[0]} is in the test set too ({len(both):,} are); thresholds and calibration must not "
            "be learnt from test, give predictions for the valid split"
        )
    return read_valid_set(args.manifests, study_ids, valid_name(test.name)), probabilities


def doubts_about_valid(test_file: Path, valid_file: Path | None) -> list[str]:
    """Return what is wrong or missing with the predictions for the valid split."""
    if valid_file is None:
        return ["no predictions for a valid split: thresholds were not chosen and nothing was calibrated"]
    checkpoints = {read_origin(file).get("checkpoint_sha256") for file in (test_file, valid_file)} - {None}
    if len(checkpoints) > 1:
        return [
            f"{valid_file} was made by another checkpoint than {test_file}: thresholds and calibration are not its own"
        ]
    return []


def finetuned_on_lead(checkpoint: Path) -> str | None:
    """Return the lead of the fine-tuning run that a checkpoint lies in; None where that is not written beside it."""
    settings_file = inside(checkpoint.parent, "finetune_settings")
    settings = read_json(settings_file, dict).get("settings") if settings_file.exists() else None
    return settings.get("lead") if isinstance(settings, dict) else None


def doubts_about_lead(origin: dict, lead: str) -> list[str]:
    """Return a sentence if the predictions are a network's that was fine-tuned on another lead."""
    trained = origin.get("finetuned_on_lead")
    if trained in (None, lead):
        return []
    return [f"the checkpoint was fine-tuned on lead {trained}, the test set is lead {lead}"]


def patients_of(args: argparse.Namespace, test: Labelled) -> tuple[np.ndarray | None, list[str]]:
    """Return the patient of each test record (None: not known), and what is wrong with them or could not be checked."""
    if not args.record_list.exists():
        told = f"{args.record_list} does not exist: patients are not known, so records were resampled"
        return None, [f"{told}; the intervals are too narrow (give --record-list)"]
    patient_of = read_patients(args.record_list)
    patients = patient_of.reindex(test.study_id)
    if patients.isna().any():
        study = test.study_id[int(np.argmax(patients.isna().to_numpy()))]
        raise UserError(f"{args.record_list}: test record {study} is missing; give the record list it came from")
    if not args.meta.exists():
        return patients.to_numpy(), [f"{args.meta} does not exist: not checked whether test patients were trained on"]
    overlap = patient_overlap(args.meta, patient_of, test.study_id)
    findings = []
    if overlap["records"]:
        findings.append(f"{overlap['records']:,} of the evaluated records are not in the test split of {args.meta}")
    if overlap["patients"]:
        findings.append(
            f"{overlap['patients']:,} of the evaluated patients have records in train or valid too: "
            "the results say little about new patients (split with --group-by patient)"
        )
    return patients.to_numpy(), findings


def sources(
    args: argparse.Namespace, test: Labelled, test_file: Path, valid: Labelled | None, valid_file: Path | None
) -> list[tuple[str, str, str]]:
    """Return (what, file, SHA-256) of everything the numbers rest on."""
    files = [("predictions", test_file), ("labels", test.source)]
    if valid is not None:
        files += [("predictions, valid split", valid_file), ("labels, valid split", valid.source)]
    files += [("other predictions", args.compare)] if args.compare is not None else []
    files += [(what, path) for what, path in (("patients", args.record_list), ("split", args.meta)) if path.exists()]
    return [(what, str(path), sha256(path)) for what, path in files]

"""The run of both evaluation scripts."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ecg_evaluation.inputs import (
    Labelled,
    patient_overlap,
    read_patients,
    read_predictions,
    read_test_set,
    read_valid_set,
    valid_studies,
    write_predictions,
)
from ecg_evaluation.leaks import (
    Evaluated,
    LeakCheck,
    check_leaks,
    records_of_checkpoint,
    records_of_predictions,
    records_of_split,
    training_records_file,
)
from ecg_evaluation.misses import read_scale
from ecg_evaluation.options import EvaluationSettings
from ecg_evaluation.provenance import finetuning_of, read_origin, write_origin
from ecg_evaluation.report import Report, write_report
from ecg_evaluation.results import compare, compared, decide, evaluate, grouped_notes, text_table
from ecg_finetune.files import UserError, refuse_outputs, remove_leftovers, sha256
from ecg_finetune.foreign_split import read_foreign_split
from ecg_finetune.lineage import Inputs, lineage, read_lineage, software
from ecg_finetune.paths import inside
from ecg_finetune.run_folder import LockedError, locked
from ecg_finetune.tables import write_table
from ecg_finetune.training_records import TRAINED_ON, TrainingRecords

if TYPE_CHECKING:
    from ecg_finetune.ecg_fm import EcgClassifier


def evaluate_set(settings: EvaluationSettings, inputs: Inputs) -> str:
    """Predict, compute every metric from the predictions file, write the tables and the report."""
    if settings.manifests.exists() and not settings.manifests.is_dir():
        raise UserError(f"{settings.manifests}: not a folder; give the folder that holds valid.tsv and y.npy")
    refuse_outputs(folders=[settings.out])
    note_inputs(settings, inputs)
    records = read_evaluated(settings)
    # What the user may have got wrong is read before the model runs, which can take hours.
    patient_of = read_patients(settings.record_list) if settings.record_list.exists() else None
    patients, findings = patients_of(settings, records, patient_of)
    evaluated = Evaluated(records.study_id, patients)
    other = None if settings.compare is None else read_other(settings.compare, records)
    if settings.set == "test":
        read_valid(settings, settings.valid_predictions, records, None)
    read_scale(settings.signal_report)
    for split in (settings.trained_on, settings.pretraining_split):
        if split is not None:
            read_foreign_split(split)
    if settings.predictions:
        read_predictions(settings.predictions, records.study_id)
        known = records_of_predictions(read_origin(settings.predictions))
    elif settings.model_path is None:
        raise UserError("--model-path is missing: give a classifier checkpoint, or --predictions to do without a model")
    else:
        model, made_by = model_of(settings)
        known = records_of_checkpoint(settings.model_path, model.training_records)
    trained = trained_on(settings, known)
    leaks = leaks_of(settings, evaluated, trained, patient_of)
    with claimed_stamp(settings.out, records.name) as stamp:
        if settings.predictions:
            test_file, valid_file = given_predictions(settings, records)
        else:
            test_file, valid_file = run_model(settings, records, model, made_by, stamp, inputs)
        origin = read_origin(test_file)
        probabilities = read_predictions(test_file, records.study_id)[1]
        if settings.set == "valid":
            valid, valid_probabilities = records, probabilities
            findings.append(CHOSEN_ON_ITSELF)
        else:
            valid, valid_probabilities = read_valid(settings, valid_file, records, trained)
            findings += validation_warnings(test_file, valid_file)
        findings += leaks.findings + lead_warnings(origin, settings.lead)

        decisions = decide(valid, valid_probabilities, settings.threshold_rule)
        results = evaluate(
            records, probabilities, decisions, patients, settings.bootstrap, settings.min_positive_patients
        )
        comparison = None if other is None else compare(results, *other)

        metrics_file = inside(settings.out, "metrics", set=records.name, time=stamp)
        report_file = inside(settings.out, "html_report", set=records.name, time=stamp)
        write_table(metrics_file, with_leaks(results.table, leaks.leaked))
        if comparison is not None:
            write_table(inside(settings.out, "comparison", set=records.name, time=stamp), comparison.table)
        report = Report(
            results=results,
            comparison=comparison,
            alarms=leaks.alarms,
            caveats=findings,
            sources=sources(settings, records, test_file, valid, valid_file),
            origin=origin,
            lead=settings.lead,
            threshold_rule=settings.threshold_rule,
            other=None if settings.compare is None else settings.compare.name,
            test_dir=settings.test_dir if settings.set == "test" else None,
            signal_report=settings.signal_report,
            settings=dataclasses.asdict(settings),
        )
        write_report(report_file, report)

    print(f"\n{text_table(results.table)}\n")
    for sentence in leaks.alarms:
        print(in_red(f"warning: {sentence}"))
    for sentence in findings + grouped_notes(results.table):
        print(f"note: {sentence}")
    if comparison is not None:
        print(f"comparison with {settings.compare.name}: {compared(comparison, results.resampled)}")
    print(f"metrics: {metrics_file}\nreport: {report_file}")
    return f"{len(records.study_id):,} records evaluated, report {report_file}"


CHOSEN_ON_ITSELF = (
    "thresholds and calibration were chosen on these same records, so F1, recall, precision, ... and the calibrated "
    "Brier score are optimistic; AUROC and AUPRC do not depend on them"
)


def note_inputs(settings: EvaluationSettings, inputs: Inputs) -> None:
    """Note every file that this run reads, except predictions, which it may write itself."""
    inputs.add(*(inside(settings.test_dir, name) for name in ("test_labels", "test_file_list", "test_checksums")))
    inputs.add(*(inside(settings.manifests, name) for name in ("manifest_y", "original_idx_order")))
    inputs.add(settings.record_list, settings.meta)
    inputs.add(*(path for path in (settings.trained_on, settings.pretraining_split) if path is not None))


def read_evaluated(settings: EvaluationSettings) -> Labelled:
    """Read the labels of the records to evaluate: of the test set, or of the valid split."""
    if settings.set == "valid":
        name = valid_name(settings.test_dir.resolve().name)
        return read_valid_set(settings.manifests, valid_studies(settings.manifests, settings.max_samples), name)
    read_lineage("build", inside(settings.test_dir, "test_lineage"), [inside(settings.test_dir, "test_labels")])
    return read_test_set(settings.test_dir, settings.max_samples)


def trained_on(settings: EvaluationSettings, known: TrainingRecords | None) -> TrainingRecords | None:
    """Return the records that the checkpoint was trained on: as the user says, else as far as it is known."""
    return known if settings.trained_on is None else records_of_split(settings.trained_on, TRAINED_ON)


def leaks_of(
    settings: EvaluationSettings, evaluated: Evaluated, trained: TrainingRecords | None, patient_of: pd.Series | None
) -> LeakCheck:
    """Look for leaks; the valid split may have been used in validation, but not in training."""
    if settings.set == "valid" and trained is not None:
        trained = trained.of_split("train")
    return check_leaks(
        evaluated, trained, patient_of, pretraining_split=settings.pretraining_split, allow=settings.allow_leak
    )


def with_leaks(table: pd.DataFrame, leaked: np.ndarray | None) -> pd.DataFrame:
    """Return metrics.csv with `n_leaked`: how many evaluated records are of patients trained on; empty: not known."""
    column = "" if leaked is None else int(leaked.sum())
    table = table.copy()
    table.insert(table.columns.get_loc("note"), "n_leaked", column)
    return table


def in_red(text: str) -> str:
    """Return a text as a terminal shows it in red."""
    return f"\033[31m{text}\033[0m" if sys.stdout.isatty() else text


def read_other(path: Path, test: Labelled) -> tuple[np.ndarray, np.ndarray]:
    """Read the predictions of the model to compare with; refuse them if it has predicted none of the test records."""
    study_ids, probabilities = read_predictions(path)
    if not np.isin(study_ids, test.study_id).any():
        raise UserError(
            f"{path}: none of its {len(study_ids):,} records is among the {len(test.study_id):,} evaluated; give "
            f"predictions for {test.name}"
        )
    return study_ids, probabilities


@contextlib.contextmanager
def claimed_stamp(folder: Path, name: str) -> Iterator[str]:
    """Yield the time as YYYYMMDD_HHMMSS, which no other evaluation of this set in this folder has.

    Waits while an evaluation of this second is there already or under way.
    """
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        stamp = datetime.now().strftime("%Y%m%d_%H%M%S")
        names = ("predictions", "metrics", "html_report")
        if not any(inside(folder, artefact, set=name, time=stamp).exists() for artefact in names):
            try:
                with locked(folder, inside(folder, "eval_lock", set=name, time=stamp), patience=0):
                    yield stamp
                    return
            except LockedError:
                pass
        time.sleep(0.2)


def valid_name(test_name: str) -> str:
    """Return the name of the valid set that belongs to a test set."""
    return "valid" + test_name.removeprefix("test")


def given_predictions(settings: EvaluationSettings, test: Labelled) -> tuple[Path, Path | None]:
    """Return the predictions files that the user names: of the test set, and of the valid split (None: there is none).

    A run with a model writes both with the same time in their names, so the second need not be named.
    """
    beside = settings.predictions.name.replace(f"_{test.name}_", f"_{valid_name(test.name)}_")
    beside = settings.predictions.with_name(beside)
    found = beside if beside != settings.predictions and beside.exists() else None
    return settings.predictions, settings.valid_predictions or found


def model_of(settings: EvaluationSettings) -> tuple["EcgClassifier", str]:
    """Load the model; return it and what it is in words."""
    # Here and not above: PyTorch takes seconds to import and is not needed with --predictions.
    from ecg_evaluation.prediction import load_model

    model, made_by = load_model(
        settings.model_path, device=settings.device, precision=settings.precision, trust=settings.trust_checkpoint
    )
    print(f"model: {made_by}", flush=True)
    return model, made_by


def run_model(
    settings: EvaluationSettings, records: Labelled, model: "EcgClassifier", made_by: str, stamp: str, inputs: Inputs
) -> tuple[Path, Path | None]:
    """Predict the evaluated records and, for a test set, the valid split where there is one; return both files."""
    remove_leftovers(settings.out)  # they would stay: each evaluation writes under names of its own
    from ecg_evaluation.prediction import RecordDataset, predict, valid_segments

    origin = {
        **lineage(
            "eval", {"--batch-size": settings.batch_size, "model": made_by}, inputs, earlier=earlier_of(settings)
        ),
        **{"checkpoint": str(settings.model_path), "checkpoint_sha256": sha256(settings.model_path), "model": made_by},
        **{"batch_size": settings.batch_size, "made": stamp, "versions": software()},
        "training_records": training_records_file(settings.model_path, model.training_records),
    }
    if lead := finetuned_on_lead(settings.model_path):
        origin["finetuned_on_lead"] = lead

    def make(name: str, data, batch_size: int, unit: str) -> Path:
        path = inside(settings.out, "predictions", set=name, time=stamp)
        write_predictions(
            path, *predict(model, data, batch_size=batch_size, num_workers=settings.num_workers, unit=unit)
        )
        write_origin(path, {**origin, "set": name})
        print(f"predictions: {path}", flush=True)
        return path

    segments = None
    if settings.set == "valid" or (
        settings.valid_predictions is None and inside(settings.manifests, "manifest", split="valid").exists()
    ):
        segments = valid_segments(settings.manifests, settings.max_samples)
    if settings.set == "valid":
        return make(records.name, segments, 2 * settings.batch_size, "segments"), None
    test_file = make(records.name, RecordDataset(settings.test_dir, records.study_id), settings.batch_size, "records")
    if segments is None:
        return test_file, settings.valid_predictions
    return test_file, make(valid_name(records.name), segments, 2 * settings.batch_size, "segments")


def earlier_of(settings: EvaluationSettings) -> list[dict]:
    """Return the lineages of the checkpoint and of the records that are evaluated."""
    built = ("test_lineage", settings.test_dir) if settings.set == "test" else ("manifests_lineage", settings.manifests)
    return [finetuning_of(settings.model_path), read_lineage("build", inside(built[1], built[0]), [])]


def read_valid(
    settings: EvaluationSettings, path: Path | None, test: Labelled, trained: TrainingRecords | None
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
    fitted = [] if trained is None else np.intersect1d(study_ids, trained.of_split("train").study_id)
    if len(fitted):
        raise UserError(
            f"{path}: the checkpoint was trained on study {fitted[0]} ({len(fitted):,} of the records are in its train "
            "split); thresholds and calibration would be of memorised records, give predictions for its valid split"
        )
    return read_valid_set(settings.manifests, study_ids, valid_name(test.name)), probabilities


def validation_warnings(test_file: Path, valid_file: Path | None) -> list[str]:
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
    settings = finetuning_of(checkpoint).get("settings")
    return settings.get("lead") if isinstance(settings, dict) else None


def lead_warnings(origin: dict, lead: str) -> list[str]:
    """Return a sentence if the predictions are a network's that was fine-tuned on another lead."""
    trained = origin.get("finetuned_on_lead")
    if trained in (None, lead):
        return []
    return [f"the checkpoint was fine-tuned on lead {trained}, the test set is lead {lead}"]


def patients_of(
    settings: EvaluationSettings, records: Labelled, patient_of: pd.Series | None
) -> tuple[np.ndarray | None, list[str]]:
    """Return the patient of each record (None: not known), and what is wrong with the split or could not be checked."""
    if patient_of is None:
        told = f"{settings.record_list} does not exist: patients are not known, so records were resampled"
        return None, [f"{told}; the intervals are too narrow (give --record-list)"]
    patients = patient_of.reindex(records.study_id)
    if patients.isna().any():
        study = records.study_id[int(np.argmax(patients.isna().to_numpy()))]
        raise UserError(
            f"{settings.record_list}: evaluated record {study} is missing; give the record list it came from"
        )
    patients = patients.to_numpy(dtype=np.int64)
    if not settings.meta.exists():
        return patients, [f"{settings.meta} does not exist: not checked in which split the evaluated patients are"]
    overlap = patient_overlap(settings.meta, patient_of, records.study_id, settings.set)
    told = {
        "elsewhere": f"of the evaluated records are not in the {settings.set} split of {settings.meta}",
        "unlisted": f"evaluated records are not in {settings.meta}: not checked in which split they are",
        "patients": "of the evaluated patients have records in another split too: the results say little about new "
        "patients (split with --group-by patient)",
    }
    return patients, [f"{overlap[name]:,} {sentence}" for name, sentence in told.items() if overlap[name]]


def sources(
    settings: EvaluationSettings, test: Labelled, test_file: Path, valid: Labelled | None, valid_file: Path | None
) -> list[tuple[str, str, str]]:
    """Return (what, file, SHA-256) of everything the numbers rest on."""
    files = [("predictions", test_file), ("labels", test.source)]
    if valid_file is not None:
        files += [("predictions, valid split", valid_file), ("labels, valid split", valid.source)]
    files += [("other predictions", settings.compare)] if settings.compare is not None else []
    files += [
        (what, path) for what, path in (("patients", settings.record_list), ("split", settings.meta)) if path.exists()
    ]
    return [(what, str(path), sha256(path)) for what, path in files]

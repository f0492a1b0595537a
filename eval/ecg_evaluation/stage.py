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
    check_leaks,
    check_valid,
    records_of_predictions,
    records_of_split,
)
from ecg_evaluation.misses import read_scale
from ecg_evaluation.options import EvaluationSettings
from ecg_evaluation.provenance import read_origin, stage_settings, write_origin
from ecg_evaluation.report import Report, write_report
from ecg_evaluation.results import compare, compared, decide, evaluate, grouped_notes, text_table
from ecg_finetune.files import UserError, refuse_outputs, remove_leftovers, sha256
from ecg_finetune.lineage import Inputs, finetuning_of, lineage, read_lineage, software
from ecg_finetune.paths import inside
from ecg_finetune.run_folder import LockedError, locked
from ecg_finetune.tables import write_table
from ecg_finetune.training_records import (
    TRAINED_ON,
    UNKNOWN,
    TrainingRecords,
    records_of_checkpoint,
    training_records_file,
)

if TYPE_CHECKING:
    from ecg_finetune.ecg_fm import EcgClassifier


def evaluate_set(settings: EvaluationSettings, inputs: Inputs) -> str:
    """Predict, compute every metric from the predictions file, write the tables and the report."""
    # Whatever the user may have got wrong is told before the model runs, which can take hours.
    if settings.manifests.exists() and not settings.manifests.is_dir():
        raise UserError(f"{settings.manifests}: not a folder; give the folder that holds valid.tsv and y.npy")
    refuse_outputs(folders=[settings.out])
    note_inputs(settings, inputs)
    records = read_evaluated(settings)
    patient_of = read_patients(settings.record_list) if settings.record_list.exists() else None
    patients, alarms, findings = patients_of(settings, records, patient_of)
    other = None if settings.compare is None else read_other(settings.compare, records)
    read_scale(settings.signal_report)
    if settings.predictions is not None:
        read_predictions(settings.predictions, records.study_id)
    valid = read_valid(settings, records)
    told = None if settings.trained_on is None else records_of_split(settings.trained_on, TRAINED_ON)
    pretraining = settings.pretraining_split
    pretrained = None if pretraining is None else records_of_split(pretraining, ("train",))
    model, made_by = None, ""
    if settings.predictions is not None:
        known = records_of_predictions(read_origin(settings.predictions))
    else:
        model, made_by = model_of(settings)
        known = records_of_checkpoint(settings.model_path, model.training_records)
    trained = trained_on(known, told)
    # The valid split may have been used in validation, but not in training.
    looked_for = trained.of_split("train") if settings.set == "valid" and trained is not None else trained
    evaluated = Evaluated(records.study_id, patients)
    leaks = check_leaks(evaluated, looked_for, patient_of, pretrained=pretrained, allow=settings.allow_leak)
    alarms += leaks.alarms
    if settings.set == "test" and valid is not None:
        of_valid = None if patient_of is None else patient_of.reindex(valid.study_id).fillna(UNKNOWN).to_numpy(np.int64)
        alarms += check_valid(Evaluated(valid.study_id, of_valid), trained, patient_of, allow=settings.allow_leak)

    with claimed_stamp(settings.out, records.name) as stamp:
        if model is None:
            test_file, valid_file = settings.predictions, valid_predictions(settings, records)
        else:
            test_file, valid_file = run_model(settings, records, valid, model, made_by, stamp, inputs)
        if settings.set == "valid":
            valid_file = test_file
            findings.append(CHOSEN_ON_ITSELF)
        else:
            findings += validation_warnings(test_file, valid_file)
        origin = read_origin(test_file)
        findings += leaks.findings + lead_warnings(origin, settings.lead)

        probabilities = read_predictions(test_file, records.study_id)[1]
        valid_probabilities = None if valid is None else read_predictions(valid_file, valid.study_id)[1]
        decisions = decide(valid, valid_probabilities, settings.threshold_rule)
        results = evaluate(
            records, probabilities, decisions, patients, settings.bootstrap, settings.min_positive_patients
        )
        comparison = None if other is None else compare(results, *other)

        metrics_file, comparison_file, report_file = (
            inside(settings.out, name, set=records.name, time=stamp)
            for name in ("metrics", "comparison", "html_report")
        )
        write_table(metrics_file, with_leaks(results.table, leaks.leaked))
        if comparison is not None:
            write_table(comparison_file, comparison.table)
        report = Report(
            results=results,
            comparison=comparison,
            alarms=alarms,
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
    for sentence in alarms:
        print(in_red(f"warning: {sentence}"))
    for sentence in findings + grouped_notes(results.table):
        print(f"note: {sentence}")
    if comparison is not None:
        print(f"comparison with {settings.compare.name}: {compared(comparison, results.resampled)}")
    print(f"metrics: {metrics_file}\nreport: {report_file}")
    warned = f", {len(alarms)} warning{'s' if len(alarms) > 1 else ''} above" if alarms else ""
    return f"{len(records.study_id):,} records evaluated{warned}, report {report_file}"


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


def trained_on(known: TrainingRecords | None, told: TrainingRecords | None) -> TrainingRecords | None:
    """Return the records that the checkpoint was trained on, those known and those the user tells; None: not known."""
    if told is None or known is None:
        return known if told is None else told
    return dataclasses.replace(told.united(known), complete=True)


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
        names = ("predictions", "metrics", "html_report", "noise_metrics")
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


def valid_predictions(settings: EvaluationSettings, test: Labelled) -> Path | None:
    """Return the predictions file of the valid split that there is before the model runs; None: there is none.

    A run with a model writes both with the same time in their names, so with --predictions it need not be named.
    """
    if settings.valid_predictions is not None or settings.predictions is None:
        return settings.valid_predictions
    name = settings.predictions.name.replace(f"_{test.name}_", f"_{valid_name(test.name)}_")
    beside = settings.predictions.with_name(name)
    return beside if beside != settings.predictions and beside.exists() else None


def model_of(settings: EvaluationSettings) -> tuple["EcgClassifier", str]:
    """Load the model; return it and what it is in words."""
    if settings.model_path is None:
        raise UserError("--model-path is missing: give a classifier checkpoint, or --predictions to do without a model")
    # Here and not above: PyTorch takes seconds to import and is not needed with --predictions.
    from ecg_evaluation.prediction import load_model

    model, made_by = load_model(
        settings.model_path, device=settings.device, precision=settings.precision, trust=settings.trust_checkpoint
    )
    print(f"model: {made_by}", flush=True)
    return model, made_by


def run_model(
    settings: EvaluationSettings,
    records: Labelled,
    valid: Labelled | None,
    model: "EcgClassifier",
    made_by: str,
    stamp: str,
    inputs: Inputs,
) -> tuple[Path, Path | None]:
    """Predict the evaluated records and, unless its predictions are given, the valid split; return both files."""
    remove_leftovers(settings.out)  # they would stay: each evaluation writes under names of its own
    from ecg_evaluation.prediction import RecordDataset, predict, valid_segments

    finetuning = finetuning_of(settings.model_path)
    origin = {
        **lineage(
            "eval",
            {"--batch-size": settings.batch_size, "model": made_by},
            inputs,
            earlier=[finetuning, lineage_of_records(settings)],
        ),
        **{"checkpoint": str(settings.model_path), "checkpoint_sha256": sha256(settings.model_path), "model": made_by},
        **{"batch_size": settings.batch_size, "made": stamp, "versions": software()},
        "training_records": training_records_file(settings.model_path, model.training_records),
        "finetuned_on_lead": stage_settings(finetuning, "finetune").get("lead"),
    }

    def make(name: str, data, batch_size: int, unit: str) -> Path:
        path = inside(settings.out, "predictions", set=name, time=stamp)
        write_predictions(
            path, *predict(model, data, batch_size=batch_size, num_workers=settings.num_workers, unit=unit)
        )
        write_origin(path, {**origin, "set": name})
        print(f"predictions: {path}", flush=True)
        return path

    def make_valid() -> Path:
        data = valid_segments(settings.manifests, settings.max_samples)
        return make(valid.name, data, 2 * settings.batch_size, "segments")

    if settings.set == "valid":
        return make_valid(), None
    data = RecordDataset(settings.test_dir, records.study_id)
    test_file = make(records.name, data, settings.batch_size, "records")
    made_already = valid is None or settings.valid_predictions is not None
    return test_file, settings.valid_predictions if made_already else make_valid()


def lineage_of_records(settings: EvaluationSettings) -> dict:
    """Return the lineage of the records that are evaluated."""
    if settings.set == "valid":
        return read_lineage("build", inside(settings.manifests, "manifests_lineage"), [])
    return read_lineage("build", inside(settings.test_dir, "test_lineage"), [])


def read_valid(settings: EvaluationSettings, records: Labelled) -> Labelled | None:
    """Read the labels of the valid split, on which thresholds and calibration are chosen; None: there is none.

    Raises
    ------
    UserError
        A record of it is in the test set, or a file cannot be read.
    """
    if settings.set == "valid":
        return records
    path = valid_predictions(settings, records)
    if path is not None:
        study_ids = read_predictions(path)[0]
    else:
        path = inside(settings.manifests, "manifest", split="valid")
        if settings.predictions is not None or not path.exists():
            return None
        study_ids = valid_studies(settings.manifests, settings.max_samples)
    both = np.intersect1d(study_ids, records.study_id)
    if len(both):
        raise UserError(
            f"{path}: study {both[0]} is in the test set too ({len(both):,} are); thresholds and calibration must not "
            "be learnt from test, give predictions for the valid split"
        )
    return read_valid_set(settings.manifests, study_ids, valid_name(records.name))


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


def lead_warnings(origin: dict, lead: str) -> list[str]:
    """Return a sentence if the predictions are not known to be a network's that was fine-tuned on this lead."""
    trained = origin.get("finetuned_on_lead")
    if trained is None:
        return ["not known on which lead the network was fine-tuned"]
    return [] if trained == lead else [f"the checkpoint was fine-tuned on lead {trained}, the test set is lead {lead}"]


def patients_of(
    settings: EvaluationSettings, records: Labelled, patient_of: pd.Series | None
) -> tuple[np.ndarray | None, list[str], list[str]]:
    """Return the patient of each record (None: not known), what is wrong with the split, and what was not checked."""
    if patient_of is None:
        told = f"{settings.record_list} does not exist: patients are not known, so records were resampled"
        return None, [], [f"{told}; the intervals are too narrow (give --record-list)"]
    patients = patient_of.reindex(records.study_id)
    if patients.isna().any():
        study = records.study_id[int(np.argmax(patients.isna().to_numpy()))]
        raise UserError(
            f"{settings.record_list}: evaluated record {study} is missing; give the record list it came from"
        )
    patients = patients.to_numpy(dtype=np.int64)
    if not settings.meta.exists():
        return patients, [], [f"{settings.meta} does not exist: not checked in which split the evaluated patients are"]
    overlap = patient_overlap(settings.meta, patient_of, records.study_id, settings.set)
    wrong = {
        "elsewhere": f"of the evaluated records are not in the {settings.set} split of {settings.meta}",
        "patients": "of the evaluated patients have records in another split too: the results say little about new "
        "patients (split with --group-by patient)",
    }
    unchecked = {"unlisted": f"evaluated records are not in {settings.meta}: not checked in which split they are"}
    return patients, *(
        [f"{overlap[name]:,} {sentence}" for name, sentence in told.items() if overlap[name]]
        for told in (wrong, unchecked)
    )


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

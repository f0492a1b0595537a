"""What an evaluation needs before the model runs: everything read, and everything refused that can be."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ecg_evaluation.background import Background, read_background
from ecg_evaluation.inputs import (
    Labelled,
    Predictions,
    patient_overlap,
    read_patients,
    read_predictions,
    read_test_set,
    read_valid_set,
    refuse_unlabelled,
    valid_studies,
)
from ecg_evaluation.label_definitions import definition_files
from ecg_evaluation.leaks import (
    Elsewhere,
    Evaluated,
    LeakCheck,
    check_leaks,
    check_pretraining,
    check_valid,
    records_of_predictions,
    records_of_split,
    trained_elsewhere,
)
from ecg_evaluation.misses import read_scale
from ecg_evaluation.operating_points import OperatingPoints, metrics_of, read_operating_points
from ecg_evaluation.options import EvaluationSettings
from ecg_evaluation.provenance import (
    earlier_stage,
    labels_not_learnt,
    read_origin,
    refuse_changed_predictions,
    started_anew,
    trained_on_sources,
)
from ecg_finetune.data_sets import Source, source_of
from ecg_finetune.files import UserError, refuse_outputs, shown
from ecg_finetune.label_set import LabelSet, difference
from ecg_finetune.lineage import Inputs, finetuning_of, read_lineage, refuse_other_lead, stage_settings
from ecg_finetune.paths import inside
from ecg_finetune.training_records import TRAINED_ON, UNKNOWN, TrainingRecords, records_of_checkpoint

if TYPE_CHECKING:
    from ecg_finetune.ecg_fm import EcgClassifier


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What is evaluated and by what, read and checked."""

    records: Labelled
    patients: np.ndarray | None  # int64 (records,); None: not known
    valid: Labelled | None  # what thresholds and calibration are chosen on; None: there is none, or they are given
    given: Predictions | None  # of --predictions; else there is a model
    model: "EcgClassifier | None"
    made_by: str  # the model in words
    other: Predictions | None  # of --compare
    points: OperatingPoints | None  # of --operating-points
    background: Background
    lineage: dict[str, Any]  # of the records
    source: Source  # the data set that these are of
    leaked: np.ndarray | None  # bool (records,): of a patient trained on; None: not known
    alarms: list[str]  # what a reader must see first
    findings: list[str]  # what a reader of the whole must know


def prepare(settings: EvaluationSettings, inputs: Inputs) -> Prepared:
    """Read everything but what the model says, and look for leaks.

    Raises
    ------
    UserError
        Whatever the user may have got wrong: the model that runs after this can take hours.
    """
    refuse_options(settings)
    note_inputs(settings, inputs)
    records, findings = read_evaluated(settings), []
    given = read_given(settings, settings.predictions, records)
    if given is not None and given.without is not None:
        records, findings = predicted_alone(records, given)
    refuse_unlabelled(records)
    points = None
    if settings.operating_points is not None:
        points = read_operating_points(settings.operating_points, records.labels.names)
    patient_of = read_patients(settings.record_list) if settings.record_list.exists() else None
    patients, alarms, unchecked = patients_of(settings, records, patient_of)
    findings += unchecked
    lineage = lineage_of_records(settings)
    refuse_other_lead(settings.manifests if settings.set == "valid" else settings.test_dir, lineage, settings.lead)
    source = source_of(lineage)
    if not source.patients:
        findings.append(
            f"the patients of {source.name} are not known, so each recording counts as one: where a patient has "
            "several, intervals are too narrow"
        )
    background = read_background(settings, records, patients, patient_of)
    other = None if settings.compare is None else read_other(settings, records)
    read_scale(settings.signal_report)  # the report of the evaluation shows signals in millivolts
    if given is not None:
        given.of(records.study_id)
    valid = None if points is not None else read_valid(settings, records)
    told = None if settings.trained_on is None else records_of_split(settings.trained_on, TRAINED_ON)
    pretraining = settings.pretraining_split
    pretrained = None if pretraining is None else records_of_split(pretraining, ("train",))
    model, made_by = None, ""
    if given is not None:
        origin = read_origin(settings.predictions)
        finetuning, known = earlier_stage(origin, "finetune"), records_of_predictions(origin)
    else:
        model, made_by = model_of(settings, records.labels)
        finetuning = finetuning_of(settings.model_path)
        known = records_of_checkpoint(settings.model_path, model.training_records)
    findings += not_learnt(records, labels_not_learnt(finetuning))
    elsewhere = trained_elsewhere(trained_on_sources(finetuning), source)
    trained = trained_on(None if elsewhere else known, told)
    evaluated = Evaluated(records.study_id, patients)
    leaks = look_for_leaks(settings, evaluated, valid, trained, elsewhere, patient_of)
    alarms += other_policies(settings, lineage, finetuning, with_valid=valid is not None)
    if other is not None:
        of_other = leaks_of_other(settings, other, evaluated, source, patient_of)
        alarms, findings = alarms + of_other.alarms, findings + of_other.findings
    seen, unseen = check_pretraining(evaluated, pretrained, patient_of, source=source, anew=started_anew(finetuning))
    return Prepared(
        records=records,
        patients=patients,
        valid=valid,
        given=given,
        model=model,
        made_by=made_by,
        other=other,
        points=points,
        background=background,
        lineage=lineage,
        source=source,
        leaked=leaks.leaked,
        alarms=alarms + leaks.alarms + seen,
        findings=findings + leaks.findings + unseen,
    )


def refuse_options(settings: EvaluationSettings) -> None:
    """Refuse options that contradict each other, and folders that are none."""
    if settings.embeddings and settings.predictions is not None:
        raise UserError("--embeddings needs the network, and --predictions does without; give one of them")
    if settings.manifests.exists() and not settings.manifests.is_dir():
        raise UserError(f"{settings.manifests}: not a folder; give the folder that holds valid.tsv and y.npy")
    if settings.labels.exists() and not settings.labels.is_dir():
        raise UserError(f"{settings.labels}: not a folder; give the folder that holds labels.csv and y_soft.npy")
    refuse_outputs(folders=[settings.out, *([] if settings.figures is None else [settings.figures])])


def note_inputs(settings: EvaluationSettings, inputs: Inputs) -> None:
    """Note every file that this run reads, except predictions, which it may write itself."""
    inputs.add(
        *(
            inside(settings.test_dir, name)
            for name in ("test_labels", "test_label_def", "test_file_list", "test_checksums")
        )
    )
    inputs.add(
        *(inside(settings.manifests, name) for name in ("manifest_y", "manifest_label_def", "original_idx_order"))
    )
    inputs.add(settings.record_list, settings.meta)
    inputs.add(*(path for path in (settings.trained_on, settings.pretraining_split) if path is not None))
    if settings.operating_points is not None:
        inputs.add(metrics_of(settings.operating_points))
    inputs.add(*definition_files(settings.labels), *([] if settings.subgroups is None else [settings.subgroups]))


def read_evaluated(settings: EvaluationSettings) -> Labelled:
    """Read the labels of the records to evaluate: of the test set, or of the valid split."""
    if settings.set == "valid":
        name = valid_name(settings.test_dir.resolve().name)
        return read_valid_set(settings.manifests, valid_studies(settings.manifests, settings.max_samples), name)
    files = [inside(settings.test_dir, name) for name in ("test_labels", "test_label_def", "test_checksums")]
    told = inside(settings.test_dir, "test_lineage")
    found = read_lineage("build", told, [file for file in files if file.exists()])
    outputs = found.get("outputs")
    missing = [file for file in files if isinstance(outputs, dict) and file.name in outputs and not file.exists()]
    if missing:
        raise UserError(f"{missing[0]}: no such file, though {told.name} lists it; run the build stage again")
    return read_test_set(settings.test_dir, settings.max_samples)


def read_given(settings: EvaluationSettings, path: Path | None, records: Labelled) -> Predictions | None:
    """Read a predictions file that the user has named, of the labels of these records; None where none is."""
    if path is None:
        return None
    predictions = read_predictions(path, records.labels.names, settings.record_list)
    refuse_changed_predictions(path)
    return predictions


def predicted_alone(records: Labelled, given: Predictions) -> tuple[Labelled, list[str]]:
    """Return the records that predict_ecg.py has predicted, and what is to be said of them.

    Raises
    ------
    UserError
        It has predicted none of them.
    """
    there = np.isin(records.study_id, given.study_id)
    if not there.any():
        raise UserError(f"{given.path}: none of the {len(there):,} evaluated records is predicted in it; give another")
    told = [f"{given.path} is of whole recordings, and holds calibrated probabilities"]
    if not there.all():
        why = ", ".join(f"{count:,} of its recordings are {status}" for status, count in given.without.items())
        told.append(
            f"{(~there).sum():,} of the {len(there):,} records have no prediction in {given.path} and are excluded"
            f"{f' ({why})' if why else ''}, study {records.study_id[~there][0]} for one"
        )
    further = int((~np.isin(given.study_id, records.study_id)).sum())
    if further:
        told.append(f"{further:,} recordings of {given.path} are not in {records.name}: not evaluated")
    return records.rows(there), told


def read_other(settings: EvaluationSettings, test: Labelled) -> Predictions:
    """Read the predictions of the model to compare with; refuse them if it has predicted none of the test records."""
    other = read_given(settings, settings.compare, test)
    if not np.isin(other.study_id, test.study_id).any():
        raise UserError(
            f"{other.path}: none of its {len(other.study_id):,} records is among the {len(test.study_id):,} evaluated; "
            f"give predictions for {test.name}"
        )
    return other


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


def lineage_of_records(settings: EvaluationSettings) -> dict:
    """Return the lineage of the records that are evaluated."""
    if settings.set == "valid":
        return lineage_of_manifests(settings.manifests)
    return read_lineage("build", inside(settings.test_dir, "test_lineage"), [])


def lineage_of_manifests(manifests: Path) -> dict:
    """Return the lineage of manifests; refuse labels that are not those it was written with."""
    files = [inside(manifests, name) for name in ("manifest_y", "manifest_label_def", "original_idx_order")]
    return read_lineage("build", inside(manifests, "manifests_lineage"), [file for file in files if file.exists()])


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
        study_ids = read_given(settings, path, records).study_id
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
    refuse_other_lead(settings.manifests, lineage_of_manifests(settings.manifests), settings.lead)
    valid = read_valid_set(settings.manifests, study_ids, valid_name(records.name))
    if other := difference(valid.labels.names, "the valid split", records.labels.names, "the test set"):
        raise UserError(f"{settings.manifests}: of other labels: {other}; give the --manifests of the same labels")
    return valid


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


def model_of(settings: EvaluationSettings, labels: LabelSet) -> tuple["EcgClassifier", str]:
    """Load the model; return it and what it is in words."""
    if settings.model_path is None:
        raise UserError("--model-path is missing: give a classifier checkpoint, or --predictions to do without a model")
    # Here and not above: PyTorch takes seconds to import and is not needed with --predictions.
    from ecg_evaluation.prediction import load_model

    model, made_by = load_model(
        settings.model_path,
        labels,
        device=settings.device,
        precision=settings.precision,
        trust=settings.trust_checkpoint,
    )
    print(f"model: {made_by}", flush=True)
    return model, made_by


def trained_on(known: TrainingRecords | None, told: TrainingRecords | None) -> TrainingRecords | None:
    """Return the records that the checkpoint was trained on, those known and those the user tells; None: not known."""
    if told is None or known is None:
        return known if told is None else told
    return dataclasses.replace(told.united(known), complete=True)


def look_for_leaks(
    settings: EvaluationSettings,
    evaluated: Evaluated,
    valid: Labelled | None,
    trained: TrainingRecords | None,
    elsewhere: Elsewhere | None,
    patient_of: pd.Series | None,
) -> LeakCheck:
    """Look for the patients of the evaluated records, and of the valid split, among those trained on."""
    allow = settings.allow_leak
    # The valid split may have been used in validation, but not in training.
    looked_for = trained.of_split("train") if settings.set == "valid" and trained is not None else trained
    leaks = check_leaks(evaluated, looked_for, patient_of, allow=allow, elsewhere=elsewhere)
    if settings.set == "valid" or valid is None:
        return leaks
    of_valid = None if patient_of is None else patient_of.reindex(valid.study_id).fillna(UNKNOWN).to_numpy(np.int64)
    alarms = check_valid(Evaluated(valid.study_id, of_valid), trained, patient_of, allow=allow)
    return dataclasses.replace(leaks, alarms=leaks.alarms + alarms)


def leaks_of_other(
    settings: EvaluationSettings,
    other: Predictions,
    evaluated: Evaluated,
    source: Source,
    patient_of: pd.Series | None,
) -> LeakCheck:
    """Look for the evaluated patients among those that the model to compare with was trained on."""
    origin = read_origin(other.path)
    elsewhere = trained_elsewhere(trained_on_sources(earlier_stage(origin, "finetune")), source)
    known = None if elsewhere else records_of_predictions(origin)
    if known is None and elsewhere is None:
        told = f"{other.path}: not known which records its model was trained on, so a leak would not be seen"
        return LeakCheck(None, [], [told])
    compared = np.isin(evaluated.study_id, other.study_id)
    subjects = None if evaluated.subject_id is None else evaluated.subject_id[compared]
    try:
        found = check_leaks(
            Evaluated(evaluated.study_id[compared], subjects),
            known,
            patient_of,
            allow=settings.allow_leak,
            elsewhere=elsewhere,
        )
    except UserError as error:
        raise UserError(f"{other.path}: {error}") from None
    told = ([f"{other.path}: {sentence}" for sentence in some] for some in (found.alarms, found.findings))
    return LeakCheck(found.leaked, *told)


def other_policies(settings: EvaluationSettings, lineage: dict, finetuning: dict, *, with_valid: bool) -> list[str]:
    """Warn where the labels evaluated, those of the valid split and those trained on are not of one policy."""
    lineages = {"evaluated": lineage, "trained on": finetuning}
    if with_valid:
        lineages["of the valid split"] = lineage_of_manifests(settings.manifests)
    policies = {name: stage_settings(one, "labels").get("--policy") for name, one in lineages.items()}
    known = {name: policy for name, policy in policies.items() if isinstance(policy, str)}
    if len(set(known.values())) < 2:
        return []
    told = ", ".join(f"those {name} of {shown(policy)}" for name, policy in known.items())
    return [f"the labels are of two policies: {told}; build and fine-tune again with labels of one"]


def not_learnt(records: Labelled, labels: set[str]) -> list[str]:
    """Say which of the labels that are known here are among those that the network could not learn."""
    known = ~np.isnan(records.truth).all(axis=0)
    names = [name for name, there in zip(records.labels.names, known) if there and name in labels]
    if not names:
        return []
    return [
        "the network had no train record with, or none without, "
        f"{', '.join(names)}: its outputs for them mean nothing, nor do their metrics"
    ]

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

from ecg_evaluation.analyses import analyse
from ecg_evaluation.background import read_background
from ecg_evaluation.baselines import beats_table
from ecg_evaluation.calibration import uncalibrate
from ecg_evaluation.checklist import write_checklist
from ecg_evaluation.figure_files import write_figures
from ecg_evaluation.inputs import (
    Labelled,
    Predictions,
    patient_overlap,
    read_patients,
    read_predictions,
    read_test_set,
    read_valid_set,
    valid_studies,
    write_predictions,
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
from ecg_evaluation.operating_points import CHOICES, OperatingPoints, choices_of, metrics_of, read_operating_points
from ecg_evaluation.options import EvaluationSettings
from ecg_evaluation.provenance import (
    earlier_stage,
    labels_not_learnt,
    read_origin,
    started_anew,
    trained_on_sources,
    write_origin,
)
from ecg_evaluation.report import Report, write_report
from ecg_evaluation.results import Decisions, compare, compared, decide, evaluate, grouped_notes, text_table
from ecg_evaluation.thresholds import MEASURES, Target
from ecg_finetune.data_sets import source_of
from ecg_finetune.files import UserError, refuse_outputs, remove_leftovers, sha256, write_array, write_json
from ecg_finetune.label_set import LabelSet, difference
from ecg_finetune.lineage import Inputs, finetuning_of, lineage, read_lineage, software, stage_settings
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
    if settings.embeddings and settings.predictions is not None:
        raise UserError("--embeddings needs the network, and --predictions does without; give one of them")
    if settings.manifests.exists() and not settings.manifests.is_dir():
        raise UserError(f"{settings.manifests}: not a folder; give the folder that holds valid.tsv and y.npy")
    if settings.labels.exists() and not settings.labels.is_dir():
        raise UserError(f"{settings.labels}: not a folder; give the folder that holds labels.csv and y_soft.npy")
    refuse_outputs(folders=[settings.out, *([] if settings.figures is None else [settings.figures])])
    note_inputs(settings, inputs)
    records, findings = read_evaluated(settings), []
    given = read_given(settings, settings.predictions, records)
    if given is not None and given.without is not None:
        records, findings = predicted_alone(records, given)
    points = None
    if settings.operating_points is not None:
        points = read_operating_points(settings.operating_points, records.labels.names)
    patient_of = read_patients(settings.record_list) if settings.record_list.exists() else None
    patients, alarms, unchecked = patients_of(settings, records, patient_of)
    findings += unchecked
    records_lineage = lineage_of_records(settings)
    source = source_of(records_lineage)
    if not source.patients:
        findings.append(
            f"the patients of {source.name} are not known, so each recording counts as one: where a patient has "
            "several, intervals are too narrow"
        )
    background = read_background(settings, records, patients, patient_of)
    other = None if settings.compare is None else read_other(settings, records)
    read_scale(settings.signal_report)
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
    seen, unseen = check_pretraining(evaluated, pretrained, patient_of, source=source, anew=started_anew(finetuning))
    alarms += leaks.alarms + seen

    with claimed_stamp(settings.out, records.name) as stamp:
        if given is not None:
            test_file, valid_file = settings.predictions, valid_predictions(settings, records)
        else:
            test_file, valid_file = run_model(settings, records, valid, model, made_by, stamp, inputs)
            given = read_predictions(test_file, records.labels.names)
        if points is not None:
            valid_file = None
            findings += frozen_notes(points, test_file)
        elif settings.set == "valid":
            valid_file = test_file
            findings.append(CHOSEN_ON_ITSELF)
        else:
            findings += validation_warnings(test_file, valid_file)
        origin = read_origin(test_file)
        findings += leaks.findings + unseen + lead_warnings(origin, settings.lead)

        decisions = points.decisions if points is not None else chosen_decisions(settings, valid, valid_file, records)
        probabilities = given.of(records.study_id)
        if given.without is not None and decisions.frozen and decisions.calibration is not None:
            probabilities = uncalibrate(probabilities, decisions.calibration)
        results = evaluate(
            records, probabilities, decisions, patients, settings.bootstrap, settings.min_positive_patients
        )
        comparison = None if other is None else compare(results, other.study_id, other.probabilities)
        beats = (
            beats_table(settings.test_dir, records.study_id, max(1, settings.num_workers))
            if settings.baselines
            else None
        )
        tables = analyse(results, background, settings.prevalence, beats)

        def output(name: str) -> Path:
            return inside(settings.out, name, set=records.name, time=stamp)

        metrics_file, report_file = output("metrics"), output("html_report")
        written = {"metrics": with_leaks(results.table, leaks.leaked), **tables}
        if comparison is not None:
            written["comparison"] = comparison.table
        for name, table in written.items():
            write_table(output(name), table)
        choices = choices_of(settings.threshold_rule, valid, source.name) if points is None else points.recorded()
        told = lineage_settings(settings, records, test_file, choices)
        earlier = [origin or records_lineage, *([] if points is None else [points.lineage])]
        write_json(output("metrics_lineage"), lineage("eval", told, inputs, map(output, written), earlier))
        report = Report(
            results=results,
            tables=tables,
            comparison=comparison,
            alarms=alarms,
            caveats=findings,
            sources=sources(settings, records, test_file, valid, valid_file),
            origin=origin,
            records_lineage=records_lineage,
            source=source,
            predictions=test_file.name,
            whole_recordings=given.without is not None,
            lead=settings.lead,
            operating_points=None if points is None else points.told(),
            other=None if settings.compare is None else settings.compare.name,
            test_dir=settings.test_dir if settings.set == "test" else None,
            signal_report=settings.signal_report,
            settings=dataclasses.asdict(settings),
            label_remark=background.label_remark,
            by_time=background.when is not None,
            stamp=stamp,
        )
        drawn = write_report(report_file, report)
        if settings.figures is not None:
            write_figures(settings.figures, drawn)
        write_checklist(output("checklist"), report)

    print(f"\n{text_table(results.table)}\n")
    tell(alarms, findings + grouped_notes(results.table))
    if comparison is not None:
        print(f"comparison with {settings.compare.name}: {compared(comparison, results.resampled)}")
    print(f"metrics: {metrics_file}, and {len(tables)} further tables of the same time\nreport: {report_file}")
    print(f"checklist: {output('checklist')}")
    if settings.figures is not None:
        print(f"figures: {settings.figures}")
    warned = f", {len(alarms)} warning{'s' if len(alarms) > 1 else ''} above" if alarms else ""
    return f"{len(records.study_id):,} records evaluated{warned}, report {report_file}"


def tell(alarms: list[str], notes: list[str]) -> None:
    """Print what a reader of the results must know, leaks and the like in red."""
    for sentence in alarms:
        print(in_red(f"warning: {sentence}"))
    for sentence in notes:
        print(f"note: {sentence}")


CHOSEN_ON_ITSELF = (
    "thresholds and calibration were chosen on these same records, so F1, recall, precision, ... and the calibrated "
    "Brier score are optimistic; AUROC and AUPRC do not depend on them"
)


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
    files = [inside(settings.test_dir, name) for name in ("test_labels", "test_label_def")]
    read_lineage("build", inside(settings.test_dir, "test_lineage"), [file for file in files if file.exists()])
    return read_test_set(settings.test_dir, settings.max_samples)


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


def read_given(settings: EvaluationSettings, path: Path | None, records: Labelled) -> Predictions | None:
    """Read a predictions file that the user has named, of the labels of these records; None where none is."""
    return None if path is None else read_predictions(path, records.labels.names, settings.record_list)


def read_other(settings: EvaluationSettings, test: Labelled) -> Predictions:
    """Read the predictions of the model to compare with; refuse them if it has predicted none of the test records."""
    other = read_given(settings, settings.compare, test)
    if not np.isin(other.study_id, test.study_id).any():
        raise UserError(
            f"{other.path}: none of its {len(other.study_id):,} records is among the {len(test.study_id):,} evaluated; "
            f"give predictions for {test.name}"
        )
    return other


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


def chosen_decisions(
    settings: EvaluationSettings, valid: Labelled | None, valid_file: Path | None, records: Labelled
) -> Decisions:
    """Choose thresholds and calibration on the valid split, where there is one."""
    probabilities = None
    if valid is not None:
        probabilities = read_predictions(valid_file, records.labels.names, settings.record_list).of(valid.study_id)
    targets = [Target(measure, share) for measure in MEASURES for share in getattr(settings, measure)]
    return decide(valid, probabilities, settings.threshold_rule, len(records.labels), targets)


def frozen_notes(points: OperatingPoints, test_file: Path) -> list[str]:
    """Say where frozen operating points come from, and whether they are another network's."""
    earlier = points.lineage.get("earlier")
    theirs = [one.get("checkpoint_sha256") for one in earlier or () if isinstance(one, dict)]
    ours = read_origin(test_file).get("checkpoint_sha256")
    notes = [points.told()]
    if ours is not None and any(theirs) and ours not in theirs:
        notes.append(f"{points.file} is of another checkpoint than {test_file}: its operating points are not its own")
    return notes


def lineage_settings(settings: EvaluationSettings, records: Labelled, test_file: Path, choices: dict) -> dict:
    """Return what decides metrics.csv, as its lineage states it."""
    return {
        "set": records.name,
        "labels": list(records.labels.names),
        "--max-samples": settings.max_samples,
        "--bootstrap": settings.bootstrap,
        "--min-positive-patients": settings.min_positive_patients,
        "--prevalence": list(settings.prevalence),
        "--by": None if settings.subgroups is None else settings.by,
        "--baselines": settings.baselines,
        CHOICES: choices,
        "predictions": {"path": str(test_file), "sha256": sha256(test_file)},
    }


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
    from ecg_evaluation.prediction import RecordDataset, run_network, valid_segments

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
        workers = settings.num_workers
        how = {"batch_size": batch_size, "num_workers": workers, "unit": unit, "embed": settings.embeddings}
        study_id, probabilities, embeddings = run_network(model, data, records.labels, **how)
        write_predictions(path, records.labels.names, study_id, probabilities)
        write_origin(path, {**origin, "set": name})
        if embeddings is not None:
            write_embeddings(settings.out, name, study_id, embeddings, origin)
        print(f"predictions: {path}", flush=True)
        return path

    def make_valid(name: str) -> Path:
        data = valid_segments(settings.manifests, settings.max_samples)
        return make(name, data, 2 * settings.batch_size, "segments")

    if settings.set == "valid":
        return make_valid(records.name), None
    data = RecordDataset(settings.test_dir, records.study_id)
    test_file = make(records.name, data, settings.batch_size, "records")
    made_already = valid is None or settings.valid_predictions is not None
    return test_file, settings.valid_predictions if made_already else make_valid(valid.name)


def write_embeddings(folder: Path, name: str, study_id: np.ndarray, embeddings: np.ndarray, origin: dict) -> None:
    """Write the embeddings of a set, float32 (records, embed dim), their studies (records,) and how they were made."""
    path, studies, told = (
        inside(folder, artefact, set=name) for artefact in ("embeddings", "embeddings_study_id", "embeddings_origin")
    )
    write_array(path, embeddings)
    write_table(studies, pd.DataFrame({"study_id": study_id}))
    write_json(told, {**origin, "set": name, "embeddings_sha256": sha256(path)})
    print(f"embeddings: {path}", flush=True)


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
    valid = read_valid_set(settings.manifests, study_ids, valid_name(records.name))
    if other := difference(valid.labels.names, "the valid split", records.labels.names, "the test set"):
        raise UserError(f"{settings.manifests}: of other labels: {other}; give the --manifests of the same labels")
    return valid


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
    if settings.operating_points is not None:
        files.append(("operating points", metrics_of(settings.operating_points)))
    files += [("other predictions", settings.compare)] if settings.compare is not None else []
    files += [
        (what, path) for what, path in (("patients", settings.record_list), ("split", settings.meta)) if path.exists()
    ]
    return [(what, str(path), sha256(path)) for what, path in files]

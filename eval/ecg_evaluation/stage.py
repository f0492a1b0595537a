"""The run of both evaluation scripts."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ecg_evaluation.analyses import analyse
from ecg_evaluation.baselines import beats_table
from ecg_evaluation.calibration import uncalibrate
from ecg_evaluation.checklist import write_checklist
from ecg_evaluation.figure_files import write_figures
from ecg_evaluation.inputs import Labelled, Predictions, read_predictions, write_predictions
from ecg_evaluation.operating_points import CHOICES, OperatingPoints, choices_of, metrics_of
from ecg_evaluation.options import EvaluationSettings
from ecg_evaluation.preparation import Prepared, prepare, valid_predictions
from ecg_evaluation.provenance import read_origin, write_origin
from ecg_evaluation.report import Report, write_report
from ecg_evaluation.results import (
    Comparison,
    Decisions,
    Evaluation,
    compare,
    compared,
    decide,
    evaluate,
    grouped_notes,
    text_table,
)
from ecg_evaluation.thresholds import MEASURES, Target
from ecg_finetune.files import remove_leftovers, sha256, write_array, write_json
from ecg_finetune.lineage import Inputs, finetuning_of, lineage, software, stage_settings
from ecg_finetune.paths import inside
from ecg_finetune.run_folder import LockedError, locked
from ecg_finetune.tables import write_table
from ecg_finetune.training_records import training_records_file


@dataclasses.dataclass(frozen=True)
class Predicted:
    """The network's outputs, where they are, and what is to be said of them."""

    predictions: Predictions
    valid_file: Path | None  # None: thresholds and calibration are not chosen on predictions
    origin: Mapping[str, Any]  # their lineage, as far as it is known
    findings: list[str]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What an evaluation found."""

    results: Evaluation
    comparison: Comparison | None
    tables: Mapping[str, pd.DataFrame]  # of the further analyses, see `analyse`


def evaluate_set(settings: EvaluationSettings, inputs: Inputs) -> str:
    """Predict, compute every metric from the predictions file, write the tables and the report."""
    prepared = prepare(settings, inputs)
    records = prepared.records
    with claimed_stamp(settings.out, records.name) as stamp:
        predicted = predict(settings, prepared, stamp, inputs)
        outcome = compute(settings, prepared, predicted)
        write_tables(settings, prepared, predicted, outcome, stamp, inputs)
        write_pages(settings, prepared, predicted, outcome, stamp)

    table = outcome.results.table
    print(f"\n{text_table(table)}\n")
    tell(prepared.alarms, prepared.findings + predicted.findings + grouped_notes(table))
    if outcome.comparison is not None:
        print(f"comparison with {settings.compare.name}: {compared(outcome.comparison, outcome.results.resampled)}")
    metrics, report, checklist = (
        inside(settings.out, name, set=records.name, time=stamp) for name in ("metrics", "html_report", "checklist")
    )
    print(f"metrics: {metrics}, and {len(outcome.tables)} further tables of the same time\nreport: {report}")
    print(f"checklist: {checklist}")
    if settings.figures is not None:
        print(f"figures: {settings.figures}")
    alarms = len(prepared.alarms)
    warned = f", {alarms} warning{'s' if alarms > 1 else ''} above" if alarms else ""
    return f"{len(records.study_id):,} records evaluated{warned}, report {report}"


def predict(settings: EvaluationSettings, prepared: Prepared, stamp: str, inputs: Inputs) -> Predicted:
    """Take the predictions that are given, or make them with the model; look at where they come from."""
    records, points, given = prepared.records, prepared.points, prepared.given
    if given is not None:
        valid_file = valid_predictions(settings, records)
    else:
        test_file, valid_file = run_model(settings, prepared, stamp, inputs)
        given = read_predictions(test_file, records.labels.names)
    if points is not None:
        valid_file = None
        findings = frozen_notes(points, given.path)
    elif settings.set == "valid":
        valid_file = given.path
        findings = [CHOSEN_ON_ITSELF]
    else:
        findings = validation_warnings(given.path, valid_file)
    origin = read_origin(given.path)
    return Predicted(given, valid_file, origin, findings + lead_warnings(origin, settings.lead))


def compute(settings: EvaluationSettings, prepared: Prepared, predicted: Predicted) -> Outcome:
    """Compute every metric, the comparison and the further analyses."""
    records, given = prepared.records, predicted.predictions
    if prepared.points is not None:
        decisions = prepared.points.decisions
    else:
        decisions = chosen_decisions(settings, prepared.valid, predicted.valid_file, records)
    probabilities = given.of(records.study_id)
    if given.without is not None and decisions.frozen and decisions.calibration is not None:
        probabilities = uncalibrate(probabilities, decisions.calibration)
    results = evaluate(
        records, probabilities, decisions, prepared.patients, settings.bootstrap, settings.min_positive_patients
    )
    other, comparison, beats = prepared.other, None, None
    if other is not None:
        comparison = compare(results, other.study_id, other.probabilities)
    if settings.baselines:
        beats = beats_table(settings.test_dir, records.study_id, max(1, settings.num_workers))
    return Outcome(results, comparison, analyse(results, prepared.background, settings.prevalence, beats))


def write_tables(
    settings: EvaluationSettings,
    prepared: Prepared,
    predicted: Predicted,
    outcome: Outcome,
    stamp: str,
    inputs: Inputs,
) -> None:
    """Write the metrics, the comparison and the further tables, and the lineage of all."""
    records, points = prepared.records, prepared.points
    written = {"metrics": with_leaks(outcome.results.table, prepared.leaked), **outcome.tables}
    if outcome.comparison is not None:
        written["comparison"] = outcome.comparison.table
    files = {name: inside(settings.out, name, set=records.name, time=stamp) for name in written}
    for name, table in written.items():
        write_table(files[name], table)
    if points is None:
        choices = choices_of(settings.threshold_rule, prepared.valid, prepared.source.name)
    else:
        choices = points.recorded()
    told = lineage_settings(settings, records, predicted.predictions.path, choices)
    earlier = [predicted.origin or prepared.lineage, *([] if points is None else [points.lineage])]
    file = inside(settings.out, "metrics_lineage", set=records.name, time=stamp)
    write_json(file, lineage("eval", told, inputs, files.values(), earlier))


def write_pages(
    settings: EvaluationSettings,
    prepared: Prepared,
    predicted: Predicted,
    outcome: Outcome,
    stamp: str,
) -> None:
    """Write the report, its figures and the checklist."""
    records, points, given = prepared.records, prepared.points, predicted.predictions
    report = Report(
        results=outcome.results,
        tables=outcome.tables,
        comparison=outcome.comparison,
        leaked=prepared.leaked,
        alarms=prepared.alarms,
        caveats=prepared.findings + predicted.findings,
        sources=sources(settings, records, given.path, prepared.valid, predicted.valid_file),
        origin=predicted.origin,
        records_lineage=prepared.lineage,
        source=prepared.source,
        predictions=given.path.name,
        whole_recordings=given.without is not None,
        lead=settings.lead,
        operating_points=None if points is None else points.told(),
        other=None if settings.compare is None else settings.compare.name,
        test_dir=settings.test_dir if settings.set == "test" else None,
        signal_report=settings.signal_report,
        settings=dataclasses.asdict(settings),
        label_remark=prepared.background.label_remark,
        by_time=prepared.background.when is not None,
        stamp=stamp,
    )
    drawn = write_report(inside(settings.out, "html_report", set=records.name, time=stamp), report)
    if settings.figures is not None:
        write_figures(settings.figures, drawn)
    write_checklist(inside(settings.out, "checklist", set=records.name, time=stamp), report)


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


def with_leaks(table: pd.DataFrame, leaked: np.ndarray | None) -> pd.DataFrame:
    """Return metrics.csv with `n_leaked`: how many evaluated records are of patients trained on; empty: not known."""
    column = "" if leaked is None else int(leaked.sum())
    table = table.copy()
    table.insert(table.columns.get_loc("note"), "n_leaked", column)
    return table


def in_red(text: str) -> str:
    """Return a text as a terminal shows it in red."""
    return f"\033[31m{text}\033[0m" if sys.stdout.isatty() else text


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


def run_model(settings: EvaluationSettings, prepared: Prepared, stamp: str, inputs: Inputs) -> tuple[Path, Path | None]:
    """Predict the evaluated records and, unless its predictions are given, the valid split; return both files."""
    records, valid, model = prepared.records, prepared.valid, prepared.model
    remove_leftovers(settings.out)  # they would stay: each evaluation writes under names of its own
    from ecg_evaluation.prediction import RecordDataset, run_network, valid_segments

    finetuning = finetuning_of(settings.model_path)
    origin = {
        **lineage(
            "eval",
            {"--batch-size": settings.batch_size, "model": prepared.made_by},
            inputs,
            earlier=[finetuning, prepared.lineage],
        ),
        "checkpoint": str(settings.model_path),
        "checkpoint_sha256": sha256(settings.model_path),
        "model": prepared.made_by,
        "input": "duplicate" if model.input_channel is None else "zero",
        "batch_size": settings.batch_size,
        "made": stamp,
        "versions": software(),
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

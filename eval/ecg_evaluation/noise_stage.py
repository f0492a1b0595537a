"""The run of eval_noise.py: predictions under each condition, their metrics, and the change against clean records."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ecg_evaluation.bootstrap import replicates
from ecg_evaluation.inputs import Labelled, read_patients, read_test_set, refuse_unlabelled
from ecg_evaluation.intervals import AREAS, Estimates, differences, estimate
from ecg_evaluation.leaks import Evaluated, check_leaks, check_pretraining, records_of_split, trained_elsewhere
from ecg_evaluation.metrics import Scored
from ecg_evaluation.misses import ASSUMED_SD, millivolts, read_scale
from ecg_evaluation.noise_options import NoiseSettings
from ecg_evaluation.noise_report import NoiseReport, macro_table, write_noise_report
from ecg_evaluation.prediction import RecordDataset, load_model, predict
from ecg_evaluation.preparation import lineage_of_records, patients_of, trained_on
from ecg_evaluation.provenance import started_anew, trained_on_sources
from ecg_evaluation.results import counts, few_patients, same_order, with_macro
from ecg_evaluation.stage import claimed_stamp, tell
from ecg_finetune import __version__
from ecg_finetune.data_sets import source_of
from ecg_finetune.ecg_fm import EcgClassifier
from ecg_finetune.files import (
    UserError,
    read_array,
    read_json,
    refuse_outputs,
    remove_leftovers,
    sha256,
    write_array,
    write_json,
)
from ecg_finetune.label_set import ROW_NAMES, LabelSet
from ecg_finetune.lineage import Inputs, finetuning_of, lineage, refuse_other_lead, software, stage_settings
from ecg_finetune.noise import KINDS, NOISES, NoiseSource, disturbed
from ecg_finetune.paths import LOCK, beside, inside
from ecg_finetune.progress_bar import duration
from ecg_finetune.run_folder import locked
from ecg_finetune.tables import write_table
from ecg_finetune.training_records import TRAINED_ON, records_of_checkpoint
from ecg_finetune.waveform import RECORD_SAMPLES, SEGMENT_SAMPLES


@dataclass(frozen=True)
class Condition:
    """A kind of noise at a signal-to-noise ratio (dB), an effect of devices (no ratio), or clean records (no kind)."""

    kind: str = "clean"
    snr: float | None = None

    @property
    def name(self) -> str:
        """As in messages; with underscores for blanks as in file names."""
        return self.kind if self.snr is None else f"{self.kind} {self.snr:g} dB"


CLEAN = Condition()


class NoisyRecords:
    """The records of the test set under a condition: item `i` is (leads float32 (2, 2500), study_id).

    Parameters
    ----------
    records : RecordDataset
        The clean records.
    condition : Condition
        What is done to them.
    source : NoiseSource
        What noise is drawn from.
    seed : int
        With the kind and the study it decides the noise, whatever the signal-to-noise ratio.
    scale : DataFrame or None
        See `misses.read_scale`.
    """

    def __init__(
        self,
        records: RecordDataset,
        condition: Condition,
        source: NoiseSource,
        seed: int,
        scale: pd.DataFrame | None,
    ):
        self.records, self.condition, self.source, self.seed, self.scale = records, condition, source, seed, scale

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        leads, study = self.records[i]
        condition = self.condition
        if condition == CLEAN:
            return leads, study
        mean, one_more = millivolts(np.array([0.0, 1.0]), study, self.scale)
        rng = np.random.default_rng([self.seed, KINDS.index(condition.kind), int(study)])
        lead = leads.reshape(RECORD_SAMPLES)
        noisy = disturbed(lead, condition.kind, condition.snr, self.source, rng, (mean, one_more - mean))
        return noisy.reshape(2, SEGMENT_SAMPLES), study


@dataclass(frozen=True)
class Predictor:
    """A checkpoint, and the folder of its predictions under noise."""

    path: Path
    model: EcgClassifier
    made_by: str
    folder: Path
    decided_by: dict[str, Any]  # all that decides the predictions

    def file(self, condition: Condition) -> Path:
        """Return the file of the probabilities under a condition."""
        return self.folder / f"{condition.name.replace(' ', '_')}.npy"

    @property
    def settings(self) -> Path:
        """The file that says what decided the predictions, and the SHA-256 of each file of them as `outputs`."""
        return self.folder / "settings.json"

    def outputs(self) -> dict[str, str]:
        """Return the SHA-256 of the files of finished predictions, by name, as they were written."""
        found = read_json(self.settings, dict).get("outputs") if self.settings.is_file() else None
        return found if isinstance(found, dict) else {}


def evaluate_under_noise(settings: NoiseSettings, inputs: Inputs) -> str:
    """Predict under each condition, compute every metric, write the table and the page."""
    refuse_outputs(folders=[settings.out])
    inputs.add(*(inside(settings.test_dir, name) for name in ("test_labels", "test_file_list", "test_checksums")))
    inputs.add(settings.record_list, settings.meta, settings.signal_report)
    inputs.add(*(path for path in (settings.trained_on, settings.pretraining_split) if path is not None))
    records = read_test_set(settings.test_dir, settings.max_samples)
    refuse_unlabelled(records)
    refuse_other_lead(settings.test_dir, lineage_of_records(settings), settings.lead)
    patient_of = read_patients(settings.record_list) if settings.record_list.exists() else None
    patients, alarms, findings = patients_of(settings, records, patient_of)
    scale = read_scale(settings.signal_report)
    if scale is None:
        assumed = f"clipping and quantisation are of signals with a deviation of {ASSUMED_SD} mV"
        findings.append(f"{settings.signal_report} with the millivolts does not exist: {assumed}")
    elif unscaled := int((~np.isin(records.study_id, scale.index)).sum()):
        findings.append(
            f"{settings.signal_report} does not have the millivolts of {unscaled:,} of the {len(records.study_id):,} "
            f"records: their clipping and quantisation are of signals with a deviation of {ASSUMED_SD} mV"
        )
    source = NoiseSource.open(settings.noise_root, "test")
    if settings.noise_root is None:
        findings.append("the noise is synthetic, with the spectra of NSTDB (give that as --noise-root)")
    data = RecordDataset(settings.test_dir, records.study_id)
    predictors = [
        predictor_of(path, settings, records, source) for path in (settings.model_path, settings.compare) if path
    ]
    if len({predictor.folder for predictor in predictors}) < len(predictors):
        raise UserError(f"{settings.compare}: the same network as {settings.model_path}; give another to compare with")
    for predictor in predictors:
        seen = look_for_leaks(predictor, settings, Evaluated(records.study_id, patients), patient_of)
        for sentences, more in zip((alarms, findings), seen):
            sentences += [f"{predictor.path}: {sentence}" if settings.compare else sentence for sentence in more]

    conditions = [CLEAN, *conditions_of(settings.kinds, settings.snr)]
    with claimed_stamp(settings.out, records.name) as stamp:
        remove_leftovers(settings.out)
        for predictor in predictors:
            datasets = {c: NoisyRecords(data, c, source, settings.seed, scale) for c in conditions}
            predict_all(predictor, datasets, records.labels, settings)
        unit = np.unique(records.study_id if patients is None else patients, return_inverse=True)[1]
        table = noise_table(records, predictors, conditions, unit, settings)
        table_file, page, told = (
            inside(settings.out, name, set=records.name, time=stamp)
            for name in ("noise_metrics", "noise_report", "noise_lineage")
        )
        write_table(table_file, table)
        origin = lineage(
            "eval_noise",
            recorded(settings, predictors, source),
            inputs,
            outputs=[table_file],
            earlier=[*(finetuning_of(predictor.path) for predictor in predictors), lineage_of_records(settings)],
        )
        write_json(told, {**origin, "made": stamp, "versions": software()})
        report = NoiseReport(
            table=table,
            labels=records.labels,
            name=records.name,
            records=len(records.study_id),
            patients=None if patients is None else len(np.unique(patients)),
            bootstrap=settings.bootstrap,
            lead=settings.lead,
            models=[(predictor.path, predictor.made_by) for predictor in predictors],
            alarms=alarms,
            findings=findings,
            lineage=origin,
        )
        write_noise_report(page, report)

    print(f"\n{macro_table(table)}\n")
    tell(alarms, findings)
    print(f"metrics: {table_file}")
    warned = f", {len(alarms)} warning{'s' if len(alarms) > 1 else ''} above" if alarms else ""
    number = len(conditions) - 1
    told = f"{number} condition{'s' if number > 1 else ''}"
    return f"{len(records.study_id):,} records evaluated under {told}{warned}, page {page}"


def conditions_of(kinds: Sequence[str], ratios: Sequence[float]) -> list[Condition]:
    """Return each kind of noise at each ratio (dB), the weakest noise first, and each effect of devices."""
    return [
        Condition(kind, snr) for kind in kinds for snr in (sorted(ratios, reverse=True) if kind in NOISES else [None])
    ]


def predictor_of(path: Path, settings: NoiseSettings, records: Labelled, source: NoiseSource) -> Predictor:
    """Load a checkpoint, and name the folder of its predictions by all that decides them."""
    model, made_by = load_model(
        path, records.labels, device=settings.device, precision=settings.precision, trust=settings.trust_checkpoint
    )
    print(f"model: {path}, {made_by}", flush=True)
    signals = (settings.signal_report, *(inside(settings.test_dir, name) for name in ("test_checksums", "test_labels")))
    decided_by = {
        "version": __version__,
        "checkpoint_sha256": sha256(path),
        "arithmetic": made_by,
        "noise": source.origin,
        "seed": settings.seed,
        "studies": hashlib.sha256(records.study_id.tobytes()).hexdigest(),
        "signals": {file.name: sha256(file) for file in signals if file.exists()},
    }
    run = hashlib.sha256(json.dumps(decided_by, sort_keys=True).encode()).hexdigest()[:12]
    folder = inside(settings.out, "noise_predictions", set=records.name, run=run)
    return Predictor(path, model, made_by, folder, decided_by)


def look_for_leaks(
    predictor: Predictor, settings: NoiseSettings, evaluated: Evaluated, patient_of: pd.Series | None
) -> tuple[list[str], list[str]]:
    """Look for evaluated patients among those that a checkpoint has seen; return alarms and findings, as in eval."""
    finetuning, source = finetuning_of(predictor.path), source_of(lineage_of_records(settings))
    told, pretrained = (
        None if split is None else records_of_split(split, names)
        for split, names in ((settings.trained_on, TRAINED_ON), (settings.pretraining_split, ("train",)))
    )
    elsewhere = trained_elsewhere(trained_on_sources(finetuning), source)
    known = None if elsewhere else records_of_checkpoint(predictor.path, predictor.model.training_records)
    trained = trained_on(known, told)
    leaks = check_leaks(evaluated, trained, patient_of, allow=settings.allow_leak, elsewhere=elsewhere)
    anew = started_anew(finetuning)
    alarms, findings = check_pretraining(evaluated, pretrained, patient_of, source=source, anew=anew)
    lead = stage_settings(finetuning, "finetune").get("lead")
    if lead not in (None, settings.lead):
        alarms = [*alarms, f"{predictor.path} was fine-tuned on lead {lead}, the test set is lead {settings.lead}"]
    return leaks.alarms + alarms, leaks.findings + findings


def predict_all(
    predictor: Predictor, datasets: dict[Condition, NoisyRecords], labels: LabelSet, settings: NoiseSettings
) -> None:
    """Write the predictions under each condition that the predictor's folder does not have yet."""
    with locked(predictor.folder, beside(predictor.folder, LOCK)):
        predictor.folder.mkdir(parents=True, exist_ok=True)
        outputs = predictor.outputs()
        left = [
            condition
            for condition in datasets
            if predictor.file(condition).name not in outputs or not predictor.file(condition).exists()
        ]
        if len(left) < len(datasets):
            print(f"{predictor.folder}: {len(datasets) - len(left)} of {len(datasets)} conditions are there already")
        began = time.monotonic()
        for number, condition in enumerate(left, start=1):
            _, probabilities = predict(
                predictor.model,
                datasets[condition],
                labels,
                batch_size=settings.batch_size,
                num_workers=settings.num_workers,
                unit=f"records, {condition.name}",
            )
            file = predictor.file(condition)
            write_array(file, probabilities)
            outputs[file.name] = sha256(file)
            write_json(predictor.settings, {**predictor.decided_by, "outputs": outputs})
            remaining = (time.monotonic() - began) / number * (len(left) - number)
            print(f"{condition.name}: predicted, {number} of {len(left)}, {duration(remaining)} left", flush=True)


def noise_table(
    records: Labelled,
    predictors: Sequence[Predictor],
    conditions: Sequence[Condition],
    unit: np.ndarray,
    settings: NoiseSettings,
) -> pd.DataFrame:
    """Return noise_<set>_<time>.csv.

    Columns: `kind`, `snr` (dB; empty without one), `label`, `n_pos`, `n_neg`; for AUROC and AUPRC `<metric>`, its
    `_low` and `_high`, and `<metric>_change` against clean records with its interval; with another model
    `<metric>_other`, `<metric>_other_change`, and `<metric>_difference` (this model minus the other under the same
    condition) with its interval. Intervals of changes and differences are paired: patients meet the same resamples.
    """
    clean: dict[Path, tuple[np.ndarray, Estimates]] = {}
    parts = []
    for number, condition in enumerate(conditions, start=1):
        measured = {}
        for predictor in predictors:
            probabilities = read_predictions_of(predictor, condition, records.truth.shape)
            scored = Scored(records.truth, probabilities, np.full(len(records.labels), 0.5), unit)
            measured[predictor.path] = probabilities, estimate(scored, replicates(scored, settings.bootstrap))
        if condition == CLEAN:
            clean, few = measured, few_patients(scored, settings.min_positive_patients)
            n_pos, n_neg = counts(scored)[:2]
        part = pd.DataFrame({"label": [*records.labels.names, *ROW_NAMES]})
        part.insert(0, "kind", condition.kind)
        part.insert(1, "snr", np.nan if condition.snr is None else condition.snr)
        part["n_pos"], part["n_neg"] = n_pos, n_neg
        values = with_macro(measured[settings.model_path][1], few, logits=True)
        put(part, "", values)
        pairs = {"_change": (measured[settings.model_path], clean[settings.model_path])}
        if settings.compare is not None:
            other = measured[settings.compare]
            put(part, "_other", with_macro(other[1], few, logits=True)[:1])
            pairs |= {"_other_change": (other, clean[settings.compare])}
            pairs |= {"_difference": (measured[settings.model_path], other)}
        for ending, ((ours, mine), (theirs, others)) in pairs.items():
            paired = differences(mine, others, same_order(records.truth, ours, theirs))
            put(part, ending, with_macro(paired, few, logits=False))
        parts.append(part)
        if number % 10 == 0:
            print(f"metrics under {number} of {len(conditions)} conditions", flush=True)
    table = pd.concat(parts, ignore_index=True)
    table["few_patients"] = np.tile(np.insert(few.astype(int), -1, 0), len(parts))
    return table


def put(part: pd.DataFrame, ending: str, values: np.ndarray) -> None:
    """Add columns of values, and of their lower and upper ends where they have them: (1 or 3, rows, metrics)."""
    for number, metric in enumerate(AREAS):
        for end, column in zip(("", "_low", "_high"), values):
            part[f"{metric}{ending}{end}"] = column[:, number]


def read_predictions_of(predictor: Predictor, condition: Condition, shape: tuple[int, int]) -> np.ndarray:
    """Read the probabilities under a condition: float64 (records, labels)."""
    path = predictor.file(condition)
    if path.is_file() and sha256(path) != predictor.outputs().get(path.name):
        raise UserError(f"{path}: changed since it was written; delete it and run the command again")
    found = read_array(path)
    if found.shape != shape or found.dtype != np.float64 or not ((found >= 0) & (found <= 1)).all():
        raise UserError(f"{path}: not {shape[0]:,} x {shape[1]} probabilities from 0 to 1; the network gives others")
    return found


def recorded(settings: NoiseSettings, predictors: Sequence[Predictor], source: NoiseSource) -> dict[str, Any]:
    """Return the settings for the lineage."""
    options = {f"--{name.replace('_', '-')}": value for name, value in dataclasses.asdict(settings).items()}
    for name in ("--base-dir", "--num-workers", "--device", "--set"):
        del options[name]
    plain = {name: str(value) if isinstance(value, (Path, tuple)) else value for name, value in options.items()}
    models = {str(predictor.path): predictor.decided_by["checkpoint_sha256"] for predictor in predictors}
    return {**plain, "checkpoints": models, "arithmetic": predictors[0].made_by, "noise": source.origin}

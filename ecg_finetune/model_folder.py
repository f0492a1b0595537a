"""A model folder, as the export stage writes it: read, checked, and asked about recordings.

    from ecg_finetune import load_model
    model = load_model("export/data/my_model")
    model.predict(signal_mv, rate=512)               # a lead as an array in millivolts
    model.predict_file("ecg_2026-03-14.csv")         # or any file that recordings.py reads

The network runs in onnxruntime, without PyTorch, or in PyTorch, without onnxruntime.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import math
import numbers
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ecg_finetune.files import UserError, read_json, sha256, shown
from ecg_finetune.label_set import HOW, LabelSet, check_names
from ecg_finetune.operating_system import read_regular
from ecg_finetune.paths import inside
from ecg_finetune.probabilities import calibrate, combine, sigmoid
from ecg_finetune.waveform import (
    CHANNELS,
    LEADS,
    RECORD_SECONDS,
    SAMPLE_RATE,
    SEGMENT_SAMPLES,
    RecordError,
    millivolts_per,
)
from ecg_finetune.windows import Window, cut_windows

# pandas and the runtimes are imported where they are used: they take long to import, and none needs all of them.
if TYPE_CHECKING:
    import pandas as pd

FORMAT, FORMAT_VERSION = "ecg-finetune model folder", 1
INPUT, OUTPUT = "lead", "logits"  # of model.onnx
NETWORKS = {"float32": "model_onnx", "int8": "model_int8"}
RUNTIMES = ("auto", "onnx", "torch")
BATCH_SIZE = 32  # segments
MOST_NETWORK_BYTES = 2 << 30
# What the folder says of its input; a network for another one needs another version of this project.
INPUT_FORM = {"sample_rate": SAMPLE_RATE, "window_seconds": RECORD_SECONDS, "segment_samples": SEGMENT_SAMPLES}
# For the model card and for the page of an answer.
ONE_LEAD = (
    "One lead shows rhythm and conduction better than it shows place: infarction, ischaemia, axis and hypertrophy are "
    "read from several leads, and lead {lead} alone is blind to most of them."
)
AGAIN = "export the model again, or fetch the whole folder again"

Network = Callable[[np.ndarray], np.ndarray]  # float32 (segments, 2500) -> float32 (segments, labels): logits


@dataclass(frozen=True)
class ModelConfig:
    """What config.json says.

    Attributes
    ----------
    name : str
        Of the model.
    architecture : mapping
        As `cfg["model"]` of a checkpoint.
    label_set : LabelSet
        The labels in the order of the network's outputs, and how their probabilities combine.
    thresholds : ndarray float64 (labels,)
        A label is found where its combined probability, before calibration, is at least this.
    calibration : ndarray float64 (labels, 2)
        Slope and intercept, see `probabilities.calibrate`; (1, 0) for a label that could not be calibrated.
    threshold_rule : str or float
        How the thresholds were chosen on the valid split.
    lead : str
        Which lead.
    input_channel : int, optional
        The channel of the network that the lead goes into, the others being zero; None: it goes into all. For the
        weights in safetensors; model.onnx takes the lead as it is.
    files : mapping
        SHA-256 of each further file of the folder.
    lineage : mapping
        Where the model comes from.
    notes : mapping
        Label to why its threshold or calibration is not what the valid split chose; without labels where it is.
    """

    name: str
    architecture: Mapping[str, Any]
    label_set: LabelSet
    thresholds: np.ndarray
    calibration: np.ndarray
    threshold_rule: str | float
    lead: str
    input_channel: int | None
    files: Mapping[str, str]
    lineage: Mapping[str, Any]
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the content of config.json."""
        labels = zip(self.label_set.names, self.label_set.combine, self.thresholds.tolist(), self.calibration.tolist())
        keys = ("name", "combine", "threshold", "calibration_slope", "calibration_intercept", "note")
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "architecture": dict(self.architecture),
            "labels": [
                dict(zip(keys, (name, how, None if math.isnan(at) else at, *line, self.notes.get(name, ""))))
                for name, how, at, line in labels
            ],
            "threshold_rule": self.threshold_rule,
            "lead": self.lead,
            "input": "duplicate" if self.input_channel is None else "zero",
            "input_channel": self.input_channel,
            **INPUT_FORM,
            "standardisation": "each window to zero mean and unit standard deviation",
            "files": dict(self.files),
            "lineage": dict(self.lineage),
        }

    def calibrated(self, probabilities: np.ndarray) -> np.ndarray:
        """Return what combined probabilities (n, labels) are after calibration; NaN stays NaN."""
        return calibrate(probabilities, self.calibration)

    @property
    def calibrated_thresholds(self) -> np.ndarray:
        """The thresholds on the scale of calibrated probabilities: float64 (labels,)."""
        return self.calibrated(self.thresholds[None])[0]

    def order(self, found: np.ndarray, probabilities: np.ndarray) -> list[int]:
        """Return the labels in the order to show them: those found, then by how near their threshold they come.

        `found` bool and `probabilities`, calibrated: (labels,). Labels without a threshold come last.
        """
        nearness = np.nan_to_num(probabilities / np.maximum(self.calibrated_thresholds, 1e-9), nan=-1.0)
        return np.lexsort((-nearness, ~found)).tolist()

    def found(self, probabilities: np.ndarray) -> np.ndarray:
        """Return which labels are found by their combined probabilities before calibration: bool, the same shape.

        One without a threshold, as the data it was made with do not know it, never is.
        """
        return probabilities >= self.thresholds


def read_config(folder: Path) -> ModelConfig:
    """Read config.json of a model folder.

    Raises
    ------
    UserError
        The folder or file is missing, or what it says is damaged or of another version.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a model folder, as export/scripts/export_model.py writes it")
    path = inside(folder, "model_config")
    content = read_json(path, dict)
    if content.get("format") != FORMAT or content.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path}: format {shown(content.get('format'))} {shown(content.get('format_version'))}, not {FORMAT} "
            f"{FORMAT_VERSION}; {AGAIN}, with a matching version of ecg-finetune"
        )
    channel = content.get("input_channel")
    known = {name: (value,) for name, value in INPUT_FORM.items()} | {
        "lead": LEADS,
        "input": ("duplicate",) if channel is None else ("zero",),
        "input_channel": (None, *range(CHANNELS)),
    }
    for name, values in known.items():
        if content.get(name) not in values or isinstance(content.get(name), bool):
            raise UserError(f"{path}: {name} is {shown(content.get(name))}, which this version cannot use; {AGAIN}")
    for name, kind in {"name": str, "architecture": dict, "labels": list, "files": dict, "lineage": dict}.items():
        if not isinstance(content.get(name), kind):
            raise UserError(f"{path}: {name} is missing or damaged; {AGAIN}")
    label_set, numbers, notes = _read_labels(path, content["labels"])
    return ModelConfig(
        name=content["name"],
        architecture=content["architecture"],
        label_set=label_set,
        thresholds=numbers[:, 0],
        calibration=numbers[:, 1:],
        threshold_rule=content.get("threshold_rule"),
        lead=content["lead"],
        input_channel=channel,
        files=content["files"],
        lineage=content["lineage"],
        notes=notes,
    )


def _read_labels(path: Path, labels: list) -> tuple[LabelSet, np.ndarray, dict[str, str]]:
    """Return the label set; threshold, slope and intercept of each label, float64 (labels, 3); and the notes."""
    keys = ("threshold", "calibration_slope", "calibration_intercept")
    names, combine, numbers, notes = [], [], [], {}
    for place, label in enumerate(labels, start=1):
        found = [label.get(key) for key in ("name", "combine", *keys)] if isinstance(label, dict) else [None] * 5
        if "threshold" in label and label["threshold"] is None:
            found[2] = math.nan
        are_numbers = all(type(value) in (int, float) for value in found[2:])
        sound = are_numbers and (math.isnan(found[2]) or 0 <= found[2] <= 1)
        if not isinstance(found[0], str) or found[1] not in HOW or not sound:
            raise UserError(f"{path}: label {place} lacks its name, combine, threshold or calibration; {AGAIN}")
        names.append(found[0])
        combine.append(found[1])
        numbers.append(found[2:])
        if note := label.get("note"):  # folders of earlier versions have none
            if not isinstance(note, str):
                raise UserError(f"{path}: the note of label {place} is no text; {AGAIN}")
            notes[found[0]] = note
    check_names(path, names)
    return LabelSet(tuple(names), tuple(combine)), np.array(numbers, dtype=float), notes


def load_model(
    folder: Path | str,
    runtime: str = "auto",
    *,
    precision: str = "float32",
    device: str = "cpu",
    threads: int | None = None,
) -> Model:
    """Load a model folder.

    Parameters
    ----------
    folder : Path or str
        As export/scripts/export_model.py writes it.
    runtime : {"auto", "onnx", "torch"}
        What runs the network; auto: onnxruntime where it is installed, else PyTorch.
    precision : {"float32", "int8"}
        int8 runs the quantised network, where the folder has it; onnxruntime only.
    device : str
        With "torch", where it runs: cpu, cuda, cuda:N, mps or auto.
    threads : int, optional
        With "onnx", how many threads a batch may take (default: as many as onnxruntime likes).

    Raises
    ------
    UserError
        The folder is none, incomplete or changed since it was written, or the runtime is not installed.
    """
    folder = Path(folder)
    config = read_config(folder)
    runtime = choose_runtime(runtime, precision)
    _check_rest(folder, config)
    load = _onnx_network if runtime == "onnx" else _torch_network
    network = load(folder, config, precision=precision, device=device, threads=threads)
    return Model(config, _checked_network(network, folder, len(config.label_set)), runtime)


def choose_runtime(name: str, precision: str = "float32") -> str:
    """Return the runtime to use, "onnx" or "torch".

    Raises
    ------
    UserError
        It is not installed, or cannot run this precision; or there is no such runtime or precision.
    """
    if name not in RUNTIMES or precision not in NETWORKS:
        raise UserError(f"runtime {shown(name)}, precision {shown(precision)}: no such runtime or precision")
    if name == "torch" and precision == "int8":
        raise UserError("int8 runs in onnxruntime alone; use the runtime onnx")
    packages = {"onnx": "onnxruntime", "torch": "torch"}
    wanted = [name] if name != "auto" else ["onnx"] if precision == "int8" else list(packages)
    for runtime in wanted:
        if importlib.util.find_spec(packages[runtime]):
            return runtime
    missing = " nor ".join(packages[runtime] for runtime in wanted)
    extra = "pipeline" if name == "torch" else "onnx"
    raise UserError(f'{missing} is not installed, which runs the network: pip install "ecg-finetune[{extra}]"')


def checked_file(folder: Path, config: ModelConfig, artefact: str) -> tuple[Path, str]:
    """Return the path of a file of a model folder, and the SHA-256 that config.json states of it.

    Raises
    ------
    UserError
        The folder has no such file.
    """
    path = inside(folder, artefact)
    stated = config.files.get(path.name)
    if not isinstance(stated, str) or not re.fullmatch("[0-9a-f]{64}", stated):
        more = " with --precision int8" if artefact == "model_int8" else ""
        raise UserError(f"{folder}: the model was exported without {path.name}; export it again{more}")
    if not path.is_file():
        raise UserError(f"{path}: no such file; {AGAIN}")
    return path, stated


def check_folder(folder: Path, config: ModelConfig, runtime: str, precision: str) -> None:
    """Raise `UserError` unless what `load_model` would load is there and unchanged."""
    _check_rest(folder, config)
    path, stated = checked_file(folder, config, NETWORKS[precision] if runtime == "onnx" else "model_weights")
    _refuse_changed(path, sha256(path), stated)


def _check_rest(folder: Path, config: ModelConfig) -> None:
    """Raise `UserError` unless the calibration keeps the order, and each file but the networks is there, unchanged."""
    for name, (slope, _) in zip(config.label_set.names, config.calibration.tolist()):
        if slope <= 0:
            raise UserError(
                f"{inside(folder, 'model_config')}: calibration_slope {slope:g} of {name}, not above 0; {AGAIN}"
            )
    # Of the networks only the one that is used need be there; the card is there to be edited, and the Hub does.
    passed = {inside(folder, artefact).name for artefact in (*NETWORKS.values(), "model_weights", "model_card")}
    for name, stated in config.files.items():
        path = folder / name
        if path.parent != folder or name == "..":
            raise UserError(
                f"{inside(folder, 'model_config')}: files names {shown(name)}, which is no file of the folder"
            )
        if name in passed:
            continue
        if not path.is_file():
            raise UserError(f"{path}: no such file; {AGAIN}")
        _refuse_changed(path, sha256(path), stated)


def _refuse_changed(path: Path, found: str, stated: str) -> None:
    if found != stated:
        raise UserError(f"{path}: its SHA-256 is not the one that config.json states, so it was changed; {AGAIN}")


def _onnx_network(folder: Path, config: ModelConfig, *, precision: str, threads: int | None, **_) -> Network:
    import onnxruntime

    path, stated = checked_file(folder, config, NETWORKS[precision])
    # From its bytes: what was checked is what runs, and no other file can be drawn in.
    content = read_regular(path, MOST_NETWORK_BYTES)
    _refuse_changed(path, hashlib.sha256(content).hexdigest(), stated)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # Weights in a further file would be unchecked: they are looked for where no file can be.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        ((name, shape),) = [(output.name, output.shape) for output in session.get_outputs()]
        names = [entry.name for entry in session.get_inputs()] + [name]
    except Exception as error:  # onnxruntime's own errors have no common class
        raise UserError(f"{path}: not a network that onnxruntime can run ({_first_line(error)}); {AGAIN}") from None
    if names != [INPUT, OUTPUT]:
        raise UserError(f"{path}: its input and output are {shown(names)}, not {INPUT} and {OUTPUT}; {AGAIN}")
    _refuse_other_width(path, shape[-1], config)
    return lambda lead: session.run([OUTPUT], {INPUT: lead})[0]


def _torch_network(folder: Path, config: ModelConfig, *, device: str, **_) -> Network:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from ecg_finetune.device import choose_device
    from ecg_finetune.ecg_fm import classifier_of

    path, stated = checked_file(folder, config, "model_weights")
    _refuse_changed(path, sha256(path), stated)
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: not readable as safetensors ({_first_line(error)}); {AGAIN}") from None
    model = classifier_of(path, config.architecture, weights)
    if (config.input_channel or 0) >= model.architecture.in_d:
        raise UserError(f"{path}: the network has no channel {config.input_channel}, which config.json names; {AGAIN}")
    model.input_channel = config.input_channel
    _refuse_other_width(path, model.architecture.num_labels, config)
    chosen = choose_device(device)
    model = model.to(chosen)

    def network(lead: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(lead).to(chosen)).cpu().numpy()

    return network


def _checked_network(network: Network, folder: Path, labels: int) -> Network:
    """Return the network, which then raises `UserError` where it fails or gives something else than logits."""

    def checked(lead: np.ndarray) -> np.ndarray:
        try:
            logits = network(lead)
        except Exception as error:  # the runtimes' own errors have no common class
            remedy = f"take smaller batches if memory ran out, else {AGAIN}"
            raise UserError(f"{folder}: its network failed ({_first_line(error)}); {remedy}") from None
        if logits.shape != (len(lead), labels):
            wanted = f"({len(lead)}, {labels})"
            raise UserError(f"{folder}: its network gives logits of shape {logits.shape}, not {wanted}; {AGAIN}")
        if np.isnan(logits).any():
            raise UserError(f"{folder}: its network gives logits that are no numbers (NaN); {AGAIN}")
        return logits

    return checked


def _refuse_other_width(path: Path, outputs: object, config: ModelConfig) -> None:
    if outputs != len(config.label_set):
        raise UserError(
            f"{path}: a network of {shown(outputs)} labels, but config.json names {len(config.label_set)}; {AGAIN}"
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


@dataclass(frozen=True)
class Answer:
    """What a network says of a recording.

    Attributes
    ----------
    windows : list of Window
        All of them, without their segments.
    by_window : ndarray float64 (windows, labels)
        Combined probabilities before calibration; NaN for a window that cannot be used.
    combined : ndarray float64 (labels,)
        Of the recording, before calibration; NaN where no window can be used.
    """

    windows: list[Window]
    by_window: np.ndarray
    combined: np.ndarray

    @property
    def excluded(self) -> int:
        """How many windows could not be used."""
        return sum(window.status != "ok" for window in self.windows)

    def unusable(self) -> RecordError | None:
        """Return why the recording has no result; None: it has one."""
        if self.excluded < len(self.windows):
            return None
        counts = Counter(window.status for window in self.windows)
        if len(self.windows) == 1:
            return RecordError(self.windows[0].status, self.windows[0].detail)
        told = ", ".join(f"{status} {number}" for status, number in counts.items())
        return RecordError(counts.most_common(1)[0][0], f"none of its {len(self.windows)} windows can be used: {told}")


class Model:
    """A model folder whose network is loaded: `load_model` makes it.

    Attributes
    ----------
    config : ModelConfig
        What the folder says of the model: `config.label_set.names`, `config.thresholds`, ...
    network : callable
        Standardised segments, float32 (n, 2500), to logits, float32 (n, labels).
    runtime : str
        "onnx" or "torch".
    """

    def __init__(self, config: ModelConfig, network: Network, runtime: str):
        self.config, self.runtime = config, runtime
        self.network = network

    def __repr__(self) -> str:
        labels = f"{len(self.config.label_set)} labels from lead {self.config.lead}"
        return f"<Model {self.config.name}: {labels}, on {self.runtime}>"

    def probabilities(self, segments: np.ndarray, batch_size: int = BATCH_SIZE) -> np.ndarray:
        """Run the network: float32 (segments, 2500), standardised, to float64 (segments, labels) before calibration."""
        batches = [segments[start : start + batch_size] for start in range(0, len(segments), batch_size)]
        logits = [self.network(np.ascontiguousarray(batch, dtype=np.float32)) for batch in batches]
        return sigmoid(np.concatenate(logits))

    def answers(self, recordings: Iterable[list[Window]], batch_size: int = BATCH_SIZE) -> Iterator[Answer]:
        """Yield the `Answer` to each recording, a list of windows; as many as fill a batch are run together.

        What a recording gets depends on those before and after it in the last digits of float32 alone.
        """
        waiting, segments = [], 0
        for windows in recordings:
            waiting.append(windows)
            segments += sum(len(window.segments) for window in windows if window.segments is not None)
            if segments >= batch_size:
                yield from self._answer_together(waiting, batch_size)
                waiting, segments = [], 0
        yield from self._answer_together(waiting, batch_size)

    def _answer_together(self, recordings: list[list[Window]], batch_size: int) -> Iterator[Answer]:
        parts = [window.segments for windows in recordings for window in windows if window.segments is not None]
        probabilities = self.probabilities(np.concatenate(parts), batch_size) if parts else None
        done = 0
        for windows in recordings:
            by_window = np.full((len(windows), len(self.config.label_set)), np.nan)
            used = []
            for row, window in enumerate(windows):
                if window.segments is not None:
                    used.append(probabilities[done : done + len(window.segments)])
                    by_window[row] = combine(used[-1], self.config.label_set)
                    done += len(window.segments)
            nothing = np.full(len(self.config.label_set), np.nan)
            combined = combine(np.concatenate(used), self.config.label_set) if used else nothing
            yield Answer([dataclasses.replace(window, segments=None) for window in windows], by_window, combined)

    def predict(self, signal_mv: np.ndarray, rate: float) -> Prediction:
        """Answer for a lead.

        Parameters
        ----------
        signal_mv : array (samples,)
            In millivolts, NaN where missing; 5 s or longer.
        rate : float
            Samples a second.

        Returns
        -------
        Prediction
            Prints as its table.

        Raises
        ------
        RecordError
            No part of it can be used; the message says why. It is a `UserError`.
        """
        if not isinstance(rate, numbers.Real):
            raise UserError(f"rate: {shown(rate)}, not a number of samples a second")
        values = np.asarray(signal_mv)
        if values.ndim != 1 or values.dtype.kind not in "fiu":
            raise UserError(f"signal_mv: {values.dtype} of shape {values.shape}, not numbers of shape (samples,)")
        (answer,) = self.answers([list(cut_windows(values.astype(float), rate))])
        if (error := answer.unusable()) is not None:
            raise error
        return Prediction.of(self.config, answer)

    def predict_file(
        self,
        path: Path | str,
        *,
        channel: str | int | None = None,
        rate: float | None = None,
        unit: str | None = None,
        invert: bool = False,
    ) -> Prediction:
        """Answer for a file with a recording: the model's lead in it.

        Parameters
        ----------
        path : Path or str
            A file that `recordings.read_recording` reads.
        channel : str or int, optional
            The channel to take for the lead: its name, or its number counted from 1.
        rate, unit : optional
            Samples a second, and what a sample is in, of a file that does not say.
        invert : bool
            Turn it upside down, for a device worn on the other arm.

        Returns
        -------
        Prediction
            Prints as its table.

        Raises
        ------
        UserError
            The file cannot be read, or as `predict`.
        """
        from ecg_finetune.recordings import read_lead

        if rate is not None and not isinstance(rate, numbers.Real):
            raise UserError(f"rate: {shown(rate)}, not a number of samples a second")
        if unit is not None and (not isinstance(unit, str) or millivolts_per(unit) is None):
            raise UserError(f"unit: {shown(unit)}, none of mV, uV, V and nV")
        channel = None if channel is None else str(channel)
        try:
            signal = read_lead(str(path), lead=self.config.lead, channel=channel, rate=rate, unit=unit)
            return self.predict(signal.values * signal.millivolts_per_unit * (-1 if invert else 1), signal.rate)
        except RecordError as error:
            raise UserError(f"{path}: {error}") from None


@dataclass(frozen=True, repr=False)
class Prediction:
    """What a model says of one recording.

    Attributes
    ----------
    table : DataFrame
        A row per label, under its name: `probability` (calibrated), `threshold` (on the same scale), `found` (the
        decision). Not calibrated are labels of slope 1 and intercept 0, `probabilities.can_calibrate` of
        `model.config.calibration`: of their probabilities only the order among recordings means something.
    windows : DataFrame
        A row per window of 10 s: `start_s`, `status`, `detail`, then the calibrated probability of each label, NaN
        where the window could not be used.
    """

    table: pd.DataFrame
    windows: pd.DataFrame

    @classmethod
    def of(cls, config: ModelConfig, answer: Answer) -> Prediction:
        """Return the tables of an answer."""
        import pandas as pd

        names = list(config.label_set.names)
        columns = {
            "probability": config.calibrated(answer.combined[None])[0],
            "threshold": config.calibrated_thresholds,
            "found": config.found(answer.combined),
        }
        windows = pd.DataFrame(config.calibrated(answer.by_window), columns=names)
        for place, name in enumerate(("start_s", "status", "detail")):
            windows.insert(place, name, [getattr(window, name) for window in answer.windows])
        return cls(pd.DataFrame(columns, index=pd.Index(names, name="label")), windows)

    @property
    def found(self) -> list[str]:
        """The labels whose probability is at or above their threshold."""
        return self.table.index[self.table["found"]].tolist()

    def __repr__(self) -> str:
        return repr(self.table)

    def _repr_html_(self) -> str:
        return self.table._repr_html_()

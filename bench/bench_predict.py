"""Asking a model: ONNX and int8 against PyTorch at ECG-FM's size, and recordings a second of the whole command.

    python -m bench.bench_predict

Random weights; batches of 8 segments of 5 s, then 300 recordings of 30 s through a tiny network. Seconds of CPU on one
thread, as these hardly depend on what else runs. About 1 minute, 4 GB of memory and 0.9 GB of disk in the folder for
temporary files.
"""

import dataclasses
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import wfdb
from ecg_export.folder import write_config, write_networks
from ecg_training.torch_engine import TINY

from ecg_finetune.ecg_fm import Architecture, EcgClassifier, fold_channels
from ecg_finetune.label_set import ECG_FM
from ecg_finetune.model_folder import ModelConfig, load_model
from ecg_finetune.operating_system import usable_cores
from ecg_finetune.segments import expand_lead

BATCH, SAMPLES, ROUNDS, RECORDINGS = 8, 2500, 3, 300
SCRIPT = Path(__file__).resolve().parent.parent / "predict" / "scripts" / "predict_ecg.py"


def model_folder(folder: Path, architecture: Architecture) -> EcgClassifier:
    """Write a model folder of random weights; return its network."""
    torch.manual_seed(0)
    model = EcgClassifier(architecture).eval()
    folder.mkdir()
    write_networks(folder, model, int8=True)
    shape = {**dataclasses.asdict(architecture), "conv_feature_layers": str(list(architecture.conv_feature_layers))}
    calibration = np.tile([1.0, 0.0], (len(ECG_FM), 1))
    thresholds = np.full(len(ECG_FM), 0.5)
    write_config(folder, ModelConfig("random", shape, ECG_FM, thresholds, calibration, "f1", "I", None, {}, {}))
    return model


def runtimes(folder: Path) -> None:
    """Compare what runs the network at ECG-FM's size."""
    model = model_folder(folder / "full", Architecture())
    folded = fold_channels(model)
    lead = torch.randn(BATCH, SAMPLES, generator=torch.Generator().manual_seed(1))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = {
        name: onnxruntime.InferenceSession(folder / "full" / file, options, providers=["CPUExecutionProvider"])
        for name, file in (("onnx float32", "model.onnx"), ("onnx int8", "model_int8.onnx"))
    }

    def torch_run(network, source):
        with torch.inference_mode():
            return network(source).numpy()

    functions = {
        "torch, 12 channels": lambda: torch_run(model, expand_lead(lead)),
        "torch, folded": lambda: torch_run(folded, lead[:, None]),
        **{name: (lambda one=one: one.run(None, {"lead": lead.numpy()})[0]) for name, one in sessions.items()},
    }
    wanted = functions["torch, 12 channels"]()
    seconds = {name: [] for name in functions}
    for _ in range(ROUNDS):
        for name, function in functions.items():
            started = time.process_time()
            function()
            seconds[name].append(time.process_time() - started)
    best = {name: min(values) for name, values in seconds.items()}
    print(f"{BATCH} segments, ECG-FM's size, one thread:")
    for name, value in best.items():
        difference = np.abs(functions[name]() - wanted).max()
        faster = best["torch, 12 channels"] / value
        print(f"  {name:<20} {value:6.2f} s of CPU, {faster:4.2f} times as fast; logits within {difference:.2g}")
    for name in ("model.safetensors", "model.onnx", "model_int8.onnx"):
        print(f"  {name:<20} {(folder / 'full' / name).stat().st_size / 1e6:6.1f} MB")


def write_recordings(folder: Path) -> None:
    """Write recordings of 30 s at 300 Hz, one lead, as CinC 2017 has them."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    t = np.arange(30 * 300) / 300
    for number in range(RECORDINGS):
        phase = (t * rng.uniform(0.8, 1.5)) % 1 - 0.5
        lead = (
            np.exp(-((phase / 0.02) ** 2)) + 0.2 * np.exp(-(((phase - 0.3) / 0.06) ** 2)) + rng.normal(0, 0.02, len(t))
        )
        wfdb.wrsamp(
            f"r{number:04}",
            fs=300,
            units=["mV"],
            sig_name=["ECG"],
            p_signal=lead[:, None],
            fmt=["16"],
            adc_gain=[1000],
            baseline=[0],
            write_dir=str(folder),
        )


def plain_loop(folder: Path, model: Path) -> None:
    """Ask as one writes it first: wfdb, interpolation, the PyTorch network with 12 channels, window by window."""
    network = load_model(model, "torch")
    for header in sorted(folder.glob("*.hea")):
        record = wfdb.rdrecord(str(header.with_suffix("")))
        lead = record.p_signal[:, 0]
        seconds = len(lead) / record.fs
        lead = np.interp(np.arange(int(seconds * 500)) / 500, np.arange(len(lead)) / record.fs, lead)
        for start in range(0, len(lead) - 4999, 5000):
            window = lead[start : start + 5000]
            window = ((window - window.mean()) / window.std()).astype(np.float32)
            network.probabilities(window.reshape(2, 2500))


def command(*arguments) -> tuple[float, float]:
    """Run predict_ecg.py; return the seconds it took and those of the processor."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - started, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print all of it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runtimes(folder)
        model_folder(folder / "tiny", TINY)
        write_recordings(folder / "records")
        one = folder / "records" / "r0000"
        options = ["--model", folder / "tiny", "--overwrite", "--out", folder / "out", "--runtime", "onnx"]
        command(one, *options)  # what is read from disk is in memory then
        wall, processor = command(one, *options)
        print(f"one recording, tiny network, onnxruntime, start included: {processor:.2f} s of CPU, {wall:.2f} s")
        wall, processor = command(folder / "records", *options, "--workers", usable_cores())
        started = time.process_time()
        plain_loop(folder / "records", folder / "tiny")
        plain = time.process_time() - started
        print(f"{RECORDINGS} recordings of 30 s, tiny network, start, tables and page included:")
        print(f"  {RECORDINGS / wall:.0f} a second, {1000 * processor / RECORDINGS:.1f} ms of CPU each")
        print(f"  a plain loop without any of that: {1000 * plain / RECORDINGS:.1f} ms of CPU each")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

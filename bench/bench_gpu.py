"""ECG-FM's network on a GPU: training and inference against a plain stack, memory, parts, and that the numbers agree.

    python -m bench.bench_gpu                    # about 6 minutes on one GPU; a table, and bench_gpu.json
    python -m bench.bench_gpu --tiny             # seconds, on a CPU too: whether all of it runs

Random weights and signals. What is measured comes in the order of its importance, and what does not begin within
--seconds is listed as not measured. Nothing but PyTorch, numpy and this project's network, trainer and data modules is
imported, so a machine without a package index will do. --trace takes the folder with training_trace.npz, a recorded run
of fairseq-signals.
"""

import argparse
import contextlib
import dataclasses
import functools
import gc
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from ecg_training.processes import Processes, leave_processes
from ecg_training.settings import FinetuneSettings
from ecg_training.trainer import Position, Trainer, train_epoch
from ecg_training.training_data import TrainingData
from torch import Tensor, nn

from bench.plain_network import PlainNetwork, copy_weights
from ecg_finetune.checkpoint import load_checkpoint
from ecg_finetune.device import choose_device
from ecg_finetune.ecg_fm import Architecture, EcgClassifier
from ecg_finetune.label_set import ECG_FM

LABELS, SAMPLES = 17, 2500
TRAIN_SEGMENTS, VALID_SEGMENTS = 1_260_000, 160_000  # of MIMIC-IV-ECG
FULL = Architecture(activation_dropout=0.1)
SMALL = Architecture(
    encoder_layers=2,
    encoder_embed_dim=32,
    encoder_ffn_embed_dim=64,
    encoder_attention_heads=4,
    conv_feature_layers=((16, 8, 8), (16, 4, 4), (16, 2, 2)),
    conv_pos=16,
    conv_pos_groups=4,
    activation_dropout=0.1,
)
# Dense bf16 operations a second by the makers' data sheets, by a part of the card's name; the first that fits counts.
PEAKS = {
    **{"B200": 2250e12, "H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": 312e12, "A10": 125e12},
    **{"L40S": 362e12, "L40": 181e12, "L4": 121e12, "RTX 4090": 165e12, "RTX 3090": 71e12},
}


class Bench:
    """What is measured on, and what was measured.

    Parameters
    ----------
    device : torch.device
        Where.
    tiny : bool
        A small network and small batches, to see whether all runs.
    """

    def __init__(self, device: torch.device, tiny: bool):
        self.device, self.tiny, self.cuda = device, tiny, device.type == "cuda"
        self.arch = SMALL if tiny else FULL
        self.batches = (8, 4) if tiny else (256, 64)
        self.seconds = 0.05 if tiny else 1.0  # of each timing
        generator = torch.Generator().manual_seed(0)
        leads = torch.randn(16 * self.batches[0], SAMPLES, generator=generator)
        targets = (torch.rand(len(leads), LABELS, generator=generator) < 0.2).float()
        self.host = TrainingData(leads, targets)
        self.data = TrainingData(leads, targets, device)
        self.rows: list[dict[str, Any]] = []
        self.peak = self.measured_peak = 0.0

    def network(self, kind: type[nn.Module]) -> nn.Module:
        """Return a network at random weights."""
        torch.manual_seed(0)
        with self.device:
            return kind(self.arch)

    def finish(self) -> None:
        """Wait until the device has done all it was given."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def timed(self, step: Callable[[], Any]) -> float:
        """Return the seconds of a step, after it was done twice to warm up."""
        for _ in range(2):
            step()
        self.finish()
        steps, started = 0, time.perf_counter()
        while steps < 3 or time.perf_counter() - started < self.seconds:
            step()
            steps += 1
            if steps % 4 == 0:  # a GPU is given work ahead of time: else too much of it
                self.finish()
        self.finish()
        return (time.perf_counter() - started) / steps

    def some_rows(self, size: int, data: TrainingData | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches of random segments for ever."""
        random = np.random.default_rng(0)
        data = data or self.data
        while True:
            yield data.batch(random.integers(len(data), size=size))


def flops(arch: Architecture) -> dict[str, float]:
    """Return the operations of one segment's way forward: of the convolutions, the positional one, the transformer."""
    samples, channels, convolutions = SAMPLES, 1, 0
    for dim, kernel, stride in arch.conv_feature_layers:
        samples = (samples - kernel) // stride + 1
        convolutions += 2 * samples * dim * kernel * channels
        channels = dim
    dim, hidden = arch.encoder_embed_dim, arch.encoder_ffn_embed_dim
    layer = 2 * samples * (4 * dim * dim + 2 * dim * hidden) + 4 * samples**2 * dim
    return {
        "convolutions": convolutions,
        "positional": 2 * samples * dim * dim // arch.conv_pos_groups * arch.conv_pos,
        "transformer": arch.encoder_layers * layer,
    }


@contextlib.contextmanager
def numbers(kind: str) -> Iterator[None]:
    """Compute float32 products in full ("float32") or as TF32 ("tf32"); other kinds leave them alone."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if kind == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = kind == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def settings_of(**changes: Any) -> FinetuneSettings:
    """Return settings of a run on nothing in particular."""
    return FinetuneSettings(manifests=Path(), output=Path(), pretrained=None, label_set=ECG_FM, **changes)


# What is measured. Each function returns what is added to the results.


def peaks(bench: Bench) -> dict[str, Any]:
    """Return the card's peak by its maker, and what one large bf16 product reaches."""
    size = 128 if bench.tiny else 8192
    a, b = (torch.randn(size, size, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    bench.measured_peak = 2 * size**3 / bench.timed(lambda: a @ b)
    name = torch.cuda.get_device_name(bench.device) if bench.cuda else platform.processor()
    stated = next((peak for part, peak in PEAKS.items() if part in name), None)
    bench.peak = stated or bench.measured_peak
    return {
        "stated bf16 peak, TFLOPS": stated and stated / 1e12,
        "one bf16 product, TFLOPS": bench.measured_peak / 1e12,
    }


def ours(bench: Bench, kind: str, batch: int, *, compiled: bool) -> dict[str, Any]:
    """Measure this project's training and inference: "float32", "tf32" or "bf16"."""
    precision = "bfloat16" if kind == "bf16" else "float32"
    with numbers(kind):
        model = bench.network(EcgClassifier)
        trainer = Trainer(
            model, np.ones(LABELS), settings_of(batch_size=batch, precision=precision, lr=1e-6), bench.device
        )
        began = time.perf_counter()
        if compiled:
            torch._dynamo.reset()
            model.compile()
        batches = bench.some_rows(batch)
        found = measured_training(bench, lambda: trainer.update(batches, [batch]), batch, began)
        model.eval().to(torch.bfloat16 if kind == "bf16" else torch.float32)
        found |= measured_inference(bench, model, lambda: next(batches)[0], batch)
    return found


def plain(bench: Bench, kind: str, batch: int) -> dict[str, Any]:
    """Measure the plain stack, in "float32" or "fp16" autocast, with a look at every loss."""
    autocast = functools.partial(torch.autocast, bench.device.type, torch.float16, enabled=kind == "fp16")
    with numbers("float32"):
        model = bench.network(PlainNetwork)
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-6, betas=(0.9, 0.98))
        scaler = torch.amp.GradScaler(bench.device.type, enabled=kind == "fp16" and bench.cuda)
        batches = bench.some_rows(batch)

        def update() -> None:
            leads, targets = next(batches)
            optimizer.zero_grad()
            with autocast():
                logits = model(twelve(leads))
            loss = F.binary_cross_entropy_with_logits(logits.float(), targets)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            loss.item()

        found = measured_training(bench, update, batch, time.perf_counter())
        with autocast():
            found |= measured_inference(bench, model.eval(), lambda: twelve(next(batches)[0]), batch)
    return found


def twelve(leads: Tensor) -> Tensor:
    """Return (batch, samples) as twelve real channels."""
    return leads[:, None].repeat(1, 12, 1)


def measured_training(bench: Bench, update: Callable[[], Any], batch: int, began: float) -> dict[str, Any]:
    """Time updates."""
    if bench.cuda:
        torch.cuda.reset_peak_memory_stats(bench.device)
    update()
    bench.finish()
    first = time.perf_counter() - began
    rate = batch / bench.timed(update)
    parts = flops(bench.arch)
    each = parts["convolutions"] + 3 * (parts["positional"] + parts["transformer"])  # frozen convolutions: forward only
    return {
        "training, segments/s": rate,
        "share of peak": rate * each / bench.peak,
        "first update, s": first,
        "training, GB": torch.cuda.max_memory_allocated(bench.device) / 1e9 if bench.cuda else None,
        "epoch of MIMIC-IV-ECG, h": TRAIN_SEGMENTS / rate / 3600,
    }


def measured_inference(bench: Bench, model: nn.Module, source: Callable[[], Tensor], batch: int) -> dict[str, Any]:
    """Time the way forward."""
    with torch.inference_mode():
        rate = batch / bench.timed(lambda: model(source()))
    each = sum(flops(bench.arch).values())
    return {
        "inference, segments/s": rate,
        "inference share of peak": rate * each / bench.peak,
        "valid split of MIMIC-IV-ECG, min": VALID_SEGMENTS / rate / 60,
    }


def loader(bench: Bench) -> dict[str, Any]:
    """Measure how many segments a second the packed leads give alone, from the device's memory and from the host's."""
    size, found = bench.batches[0], {}
    copied = TrainingData(bench.host.leads, bench.host.targets)
    copied.device = bench.device  # as where the card has no room for all leads
    for name, data in (("on the device", bench.data), ("gathered here, copied there", copied)):
        batches = bench.some_rows(size, data)
        found[f"{name}, segments/s"] = size / bench.timed(lambda batches=batches: next(batches))
    return found


def parts(bench: Bench) -> dict[str, Any]:
    """Measure the parts of an update in bf16 one by one, forward and backward, and ways to do some of them."""
    batch, arch = bench.batches[0], bench.arch
    model = bench.network(EcgClassifier).train()
    extractor, encoder = model.encoder.feature_extractor, model.encoder
    leads = next(bench.some_rows(batch))[0]
    frames, dim = arch.frames(SAMPLES), arch.encoder_embed_dim
    x = torch.randn(batch, frames, dim, device=bench.device, requires_grad=True)
    channels = x.detach().transpose(1, 2).contiguous().requires_grad_()
    autocast = functools.partial(torch.autocast, bench.device.type, torch.bfloat16)

    def both_ways(function: Callable[[Tensor], Tensor], source: Tensor, low: bool = True) -> float:
        def step() -> None:
            with autocast(enabled=low):
                out = function(source)
            out.backward(torch.ones_like(out))

        return 1e3 * bench.timed(step)

    def forward(function: Callable[[], Any]) -> float:
        def step() -> None:
            with torch.no_grad(), autocast():
                function()

        return 1e3 * bench.timed(step)

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-9, fused=True)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    found = {"optimizer, ms": 1e3 * bench.timed(optimizer.step)}
    del optimizer
    found |= {
        "convolutions (frozen), ms": forward(lambda: extractor(leads)),
        "convolutions of twelve channels, ms": forward(lambda: extractor(twelve(leads))),
        "positional convolution, ms": both_ways(encoder.conv_pos, channels),
        "positional convolution in float32, ms": both_ways(encoder.conv_pos, channels, low=False),
        "positional convolution by FFT, ms": both_ways(
            functools.partial(by_fft, encoder.conv_pos.pos_conv[0]), channels, low=False
        ),
    }
    first = extractor.conv_layers[0][0](twelve(leads)).detach().bfloat16()
    norm = extractor.conv_layers[0][2]
    weight, bias = norm.weight.bfloat16(), norm.bias.bfloat16()
    found["group norm, ms"] = forward(lambda: norm(first))
    found["group norm in bf16, ms"] = 1e3 * bench.timed(lambda: F.group_norm(first, len(weight), weight, bias))
    layer = encoder.encoder.layers[0]
    found["transformer, ms"] = arch.encoder_layers * both_ways(layer, x)
    products = arch.encoder_layers * matrix_products(bench, batch, frames)
    found["its matrix products alone, ms"] = 1e3 * products
    for name, seconds in (("transformer", found["transformer, ms"] / 1e3), ("its matrix products", products)):
        found[f"{name}, share of peak"] = 3 * batch * flops(arch)["transformer"] / seconds / bench.peak
    return found


def matrix_products(bench: Bench, batch: int, frames: int) -> float:
    """Return the seconds of one layer's matrix products in bf16, forward and backward, and of its attention."""
    dim, hidden, heads = (
        bench.arch.encoder_embed_dim,
        bench.arch.encoder_ffn_embed_dim,
        bench.arch.encoder_attention_heads,
    )
    shape = functools.partial(torch.randn, device=bench.device, dtype=torch.bfloat16)
    narrow, wide = shape(batch * frames, dim), shape(batch * frames, hidden)
    square, up = shape(dim, dim), shape(dim, hidden)
    query = shape(batch, heads, frames, dim // heads).requires_grad_()

    def step() -> None:
        for _ in range(4):  # q, k, v and out: the result, the gradient of the input, that of the weight
            _ = narrow @ square, narrow @ square.T, narrow.T @ narrow
        _ = narrow @ up, wide @ up.T, narrow.T @ wide
        _ = wide @ up.T, narrow @ up, wide.T @ narrow
        attended = F.scaled_dot_product_attention(query, query, query)
        attended.backward(attended.detach())

    return bench.timed(step)


def by_fft(convolution: nn.Conv1d, x: Tensor) -> Tensor:
    """Return what the grouped convolution gives for x (batch, dim, frames), by multiplying spectra, then GELU."""
    groups, (batch, dim, frames) = convolution.groups, x.shape
    weight, taps = convolution.weight, convolution.weight.shape[2]
    size = -(-(frames + taps - 1) // 32) * 32
    spectrum = torch.fft.rfft(F.pad(x, (taps // 2, 0)), size).view(batch, groups, dim // groups, -1)
    kernel = torch.fft.rfft(weight, size).conj().view(groups, dim // groups, dim // groups, -1)
    product = torch.einsum("bgif,goif->bgof", spectrum, kernel).reshape(batch, dim, -1)
    return F.gelu(torch.fft.irfft(product, size)[..., :frames] + convolution.bias[:, None])


# Whether the numbers agree. Each function returns figures and raises AssertionError where one is out of its bounds.


def follows_trace(bench: Bench, folder: Path) -> dict[str, Any]:
    """Follow a recorded run of fairseq-signals; return the largest difference of its losses, which have 3 decimals."""
    trace = dict(np.load(folder / "training_trace.npz"))
    config = load_checkpoint(folder / "tiny1_finetuned.pt")["cfg"]["model"]
    start, found = load_checkpoint(folder / "training_trace_init_state.pt"), {}
    data = TrainingData(*(torch.from_numpy(trace[f"train_{part}"]) for part in ("lead", "labels")), bench.device)
    for precision, bound in (("float32", 2e-3), ("bfloat16", 2e-2)):
        model = EcgClassifier(Architecture.from_config(config, activation_dropout=0.0))
        model.load_state_dict(start)
        settings = settings_of(batch_size=16, lr=5e-4, precision=precision)
        trainer = Trainer(model, trace["pos_weight"], settings, bench.device)
        losses = [trainer.update(iter([data.batch(batch)]), [len(batch)])[0].item() for batch in trace["batches"]]
        logged = np.array(losses) / trace["batches"].shape[1] / LABELS / math.log(2)
        found[f"{precision}, largest difference"] = difference = float(np.abs(logged - trace["train_loss"]).max())
        assert difference <= bound, f"{precision}: a loss differs by {difference:.1e} from the recorded run"
    return found


class Silent:
    """Progress that shows nothing."""

    def update(self, *_) -> None:
        """Do nothing."""


def small_run(bench: Bench, device: torch.device, processes: Processes, epochs: int, state: Any = None):
    """Train the small network without dropout for some epochs, from a state where one is given; return trainer, state.

    The data are 40 segments in batches of 16, so that the last is smaller.
    """
    torch.manual_seed(0)
    model = EcgClassifier(dataclasses.replace(SMALL, activation_dropout=0.0))
    trainer = Trainer(model, np.ones(LABELS), settings_of(batch_size=16, lr=1e-3), device, processes)
    position = Position() if state is None else trainer.restore(state)
    data = TrainingData(bench.host.leads[:40], bench.host.targets[:40], device)
    for _ in range(epochs):
        train_epoch(trainer, data, position, lambda: None, Silent())
        position.epoch, position.batch = position.epoch + 1, 0
    return trainer, position


def largest_difference(weights: dict[str, Tensor], others: dict[str, Tensor]) -> float:
    """Return the largest difference between the weights of two networks."""
    return max(float((value.cpu() - others[name].cpu()).abs().max()) for name, value in weights.items())


def resumes(bench: Bench) -> dict[str, Any]:
    """Stop a run and go on from its saved state; return how far the weights are from those of a run in one piece."""
    whole, _ = small_run(bench, bench.device, Processes(), 2)
    trainer, position = small_run(bench, bench.device, Processes(), 1)
    with tempfile.TemporaryFile() as file:
        torch.save(trainer.state(dataclasses.replace(position, epoch=0)), file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
    trainer, position = small_run(bench, bench.device, Processes(), 0, state)
    position.epoch = 1
    data = TrainingData(bench.host.leads[:40], bench.host.targets[:40], bench.device)
    train_epoch(trainer, data, position, lambda: None, Silent())
    difference = largest_difference(whole.model.state_dict(), trainer.model.state_dict())
    assert difference <= 1e-5, f"after going on, a weight differs by {difference:.1e}"
    return {"largest difference of a weight": difference}


def one_of_two(rank: int, device: str, tiny: bool, folder: str) -> None:
    """Train as one of two processes on one device."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    bench = Bench(torch.device(device), tiny)
    weights = small_run(bench, bench.device, Processes(rank, 2), 2)[0].model.state_dict()
    if rank == 0:
        torch.save(weights, f"{folder}/weights.pt")
    leave_processes()  # when no trainer keeps the group


def two_processes(bench: Bench) -> dict[str, Any]:
    """Train with two processes on the one device (gloo); return how far the weights are from those of one process."""
    one, _ = small_run(bench, bench.device, Processes(), 2)
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(one_of_two, (str(bench.device), bench.tiny, folder), nprocs=2)
        two = torch.load(f"{folder}/weights.pt", weights_only=True)
    difference = largest_difference(one.model.state_dict(), two)
    assert difference <= 1e-4, f"with two processes, a weight differs by {difference:.1e}"
    return {"largest difference of a weight": difference}


def jobs(bench: Bench, trace: Path | None) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Yield what is to be measured, and its name."""
    large, small = bench.batches
    yield "peak", functools.partial(peaks, bench)
    if trace is not None:
        yield "the recorded run", functools.partial(follows_trace, bench, trace)
    yield "going on with a stopped run", functools.partial(resumes, bench)
    for batch in (large, small):
        yield f"ours, bf16, batch {batch}", functools.partial(ours, bench, "bf16", batch, compiled=False)
        for kind in ("float32", "fp16"):
            yield f"plain, {kind}, batch {batch}", functools.partial(plain, bench, kind, batch)
    yield "loader alone", functools.partial(loader, bench)
    yield f"parts, bf16, batch {large}", functools.partial(parts, bench)
    compiled = [] if bench.tiny else [(True, "bf16", large)]
    eager = [(False, kind, batch) for batch in (large, small) for kind in ("tf32", "float32")]
    later = [] if bench.tiny else [(True, "bf16", small), (True, "tf32", large), (True, "float32", large)]
    for how, kind, batch in (*compiled, *eager):
        name = f"ours, {kind}{', compiled' if how else ''}, batch {batch}"
        yield name, functools.partial(ours, bench, kind, batch, compiled=how)
    yield "two processes on one device", functools.partial(two_processes, bench)
    for how, kind, batch in later:
        yield f"ours, {kind}, compiled, batch {batch}", functools.partial(ours, bench, kind, batch, compiled=how)


def agrees(bench: Bench) -> dict[str, Any]:
    """Return the largest difference between logits of ours and of the plain stack on the same weights."""
    mine, theirs = (bench.network(kind).eval() for kind in (EcgClassifier, PlainNetwork))
    copy_weights(mine, theirs)
    leads = next(bench.some_rows(4))[0]
    with numbers("float32"), torch.inference_mode():
        difference = float((mine(leads) - theirs(twelve(leads))).abs().max())
        place, x = mine.encoder.conv_pos, torch.randn(2, bench.arch.encoder_embed_dim, 99, device=bench.device)
        of_fft = float((place(x) - by_fft(place.pos_conv[0], x)).abs().max())
    assert difference < 1e-3, f"a logit of the plain stack differs by {difference:.1e}"
    assert of_fft < 1e-3, f"the positional convolution by FFT differs by {of_fft:.1e}"
    return {"largest difference of a logit": difference, "of the positional convolution by FFT": of_fft}


def measure(job: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do one measurement; return its figures, or what went wrong: a benchmark goes on with the others."""
    try:
        return job()
    except torch.OutOfMemoryError:
        return {"failed": "out of memory"}
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def show(name: str, found: dict[str, Any]) -> None:
    """Print a measurement."""
    figures = (f"{what} {figure(value)}" for what, value in found.items() if value is not None)
    print(f"{name}: {found.get('failed') or ', '.join(figures)}", flush=True)


def figure(value: float | None) -> str:
    """Write a number with three digits or all of those before the point."""
    return "-" if value is None else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def print_table(results: dict[str, dict[str, Any]]) -> None:
    """Print what was measured of whole networks, a row each."""
    rows = {name: found for name, found in results.items() if "inference, segments/s" in found}
    columns = {
        "training/s": "training, segments/s",
        "of peak": "share of peak",
        "GB": "training, GB",
        "first, s": "first update, s",
        "epoch, h": "epoch of MIMIC-IV-ECG, h",
        "inference/s": "inference, segments/s",
        "of its peak": "inference share of peak",
    }
    print(f"{'segments a second':<34}{''.join(f'{name:>13}' for name in columns)}")
    for name, found in rows.items():
        print(f"{name:<34}{''.join(f'{figure(found[column]):>13}' for column in columns.values())}")


def compare(results: dict[str, dict[str, Any]], large: int) -> dict[str, float]:
    """Return the ratios that the goals are about."""

    def training(name: str) -> float:
        return results.get(f"{name}, batch {large}", {}).get("training, segments/s") or math.nan

    best = max((training(f"ours, bf16{how}") for how in ("", ", compiled")), key=lambda x: -1 if math.isnan(x) else x)
    from_device = results.get("loader alone", {}).get("on the device, segments/s") or math.nan
    products = results.get(f"parts, bf16, batch {large}", {}).get("its matrix products, share of peak") or math.nan
    return {
        "training, ours against plain float32 (goal 3)": best / training("plain, float32"),
        "training, ours against plain fp16 (goal 1.5)": best / training("plain, fp16"),
        "loader against training (goal above 1)": from_device / best,
        "matrix products of the transformer, share of peak (goal 0.4)": products,
    }


def get_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument(
        "--tiny", action="store_true", help="a small network, to see whether all runs (default: ECG-FM)"
    )
    parser.add_argument("--out", type=Path, default=Path("bench_gpu.json"), help="(default: bench_gpu.json)")
    parser.add_argument(
        "--seconds", type=float, default=330, help="begin nothing after so many seconds (default: %(default)s)"
    )
    data = os.environ.get("ECG_FINETUNE_TEST_DATA")
    parser.add_argument(
        "--trace",
        type=Path,
        default=Path(data, "checkpoints") if data else None,
        help="folder with training_trace.npz, training_trace_init_state.pt and tiny1_finetuned.pt (default: "
        "$ECG_FINETUNE_TEST_DATA/checkpoints, else that part is left out)",
    )
    return parser


def main() -> int:
    """Measure, print and write; return 1 if something failed."""
    args = get_parser().parse_args()
    started = time.monotonic()
    device = choose_device(args.device)
    if device.type == "cpu" and not args.tiny:
        print("no GPU here, so nothing is measured; --tiny shows whether all of it runs")
        return 0
    if args.tiny:
        torch.set_num_threads(1)
    bench, results, left_out = Bench(device, args.tiny), {}, []
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "python": platform.python_version()}
    card = torch.cuda.get_device_name(device) if bench.cuda else f"CPU, {torch.get_num_threads()} threads"
    print(f"{card}; PyTorch {torch.__version__}, CUDA {torch.version.cuda}; network {'small' if args.tiny else 'full'}")
    for name, job in (*jobs(bench, args.trace), ("ours and plain", functools.partial(agrees, bench))):
        if time.monotonic() - started > args.seconds:
            left_out.append(name)
            continue
        results[name] = measure(job)
        show(name, results[name])
        told = {"device": card, "versions": versions, "tiny": args.tiny, "results": results}
        args.out.write_text(json.dumps(told, indent=1) + "\n")
    ratios = compare(results, bench.batches[0])
    args.out.write_text(json.dumps({**told, "ratios": ratios, "not measured": left_out}, indent=1) + "\n")
    print_table(results)
    for name, value in ratios.items():
        print(f"{value:8.2f}  {name}")
    failed = [name for name, found in results.items() if "failed" in found]
    for what, names in (("not measured, as the time was up", left_out), ("failed", failed)):
        print(f"{what}: {', '.join(names) or 'nothing'}")
    print(f"done in {time.monotonic() - started:.0f} s: {len(results)} measurements, {args.out}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())

"""ECG-FM's network at full size on this CPU: against a plain module stack, in bfloat16, and against the loader.

    python -m bench.bench_network

Random weights and signals; batches of 8 segments of 5 s. About 1 minute on 2 quiet cores, and 3 GB of memory.
The metrics of bf16 are a hard case: the logits of random weights lie closer together than those of a trained network.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import nn

from bench.plain_network import PlainNetwork, copy_weights
from ecg_finetune.ecg_fm import Architecture, EcgClassifier
from ecg_finetune.label_set import LABELS
from ecg_finetune.matfile import write_mat
from ecg_finetune.operating_system import usable_cores
from ecg_finetune.segments import SegmentDataset, expand_lead, read_manifest

BATCH, SAMPLES, ROUNDS = 8, 2500, 3
SCORED = 6 * BATCH


def side_by_side(functions: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the best seconds of each function, taken in turns so that a busy machine hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(ROUNDS):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - started)
    return {name: min(values) for name, values in seconds.items()}


def metrics(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the metrics whose change bfloat16 makes is shown."""
    called = probabilities >= 0.5
    pairs = [(labels[:, k], probabilities[:, k]) for k in range(labels.shape[1])]
    return {
        "AUROC micro": roc_auc_score(labels.ravel(), probabilities.ravel()),
        "AUROC macro": float(np.mean([roc_auc_score(*pair) for pair in pairs])),
        "AUPRC micro": average_precision_score(labels.ravel(), probabilities.ravel()),
        "AUPRC macro": float(np.mean([average_precision_score(*pair) for pair in pairs])),
        "accuracy": float((called == labels).mean()),
        "precision micro": float(labels[called].mean()),
        "recall micro": float(called[labels].mean()),
        "specificity micro": float((~called)[~labels].mean()),
        "F1 micro": float(2 * (called & labels).sum() / (called.sum() + labels.sum())),
        "Brier score": float(np.square(probabilities - labels).mean()),
    }


def metrics_of(models: dict[str, nn.Module]) -> dict[str, dict[str, float]]:
    """Return the metrics of each model on the same signals.

    The weights are random, so the labels are made to fit: drawn from the first model's own standardised logits, which
    gives the scores of a good classifier, and leaves its ranks as open to rounding as real ones.
    """
    random = torch.Generator().manual_seed(1)
    time_axis = torch.arange(SAMPLES) / 500
    rates, depths = 0.5 + 3 * torch.rand(SCORED, 1, generator=random), torch.rand(SCORED, 1, generator=random)
    leads = torch.sin(6.28 * rates * time_axis) ** 9 * 4 + depths * torch.randn(SCORED, SAMPLES, generator=random)
    logits = {name: torch.cat([model(part) for part in leads.split(BATCH)]) for name, model in models.items()}
    first = next(iter(logits.values()))
    centre, spread = first.mean(0), first.std(0)
    scores = {name: torch.sigmoid(4 * (values - centre) / spread - 2) for name, values in logits.items()}
    labels = torch.bernoulli(next(iter(scores.values())), generator=random).numpy().astype(bool)
    return {name: metrics(values.numpy(), labels) for name, values in scores.items()}


def loader_rate(folder: Path, leads: np.ndarray) -> float:
    """Return the segments per second and core that reading, decoding and checking segment files gives."""
    lines = [str(folder)]
    for number, lead in enumerate(leads):
        content = {"feats": np.tile(lead, (12, 1)), "curr_sample_rate": 500, "idx": number, "original_idx": number}
        write_mat(folder / f"{number}.mat", content)
        lines.append(f"{number}.mat\t{SAMPLES}")
    (folder / "train.tsv").write_text("\n".join(lines) + "\n")
    labels, studies = np.zeros((len(leads), len(LABELS)), np.float32), np.arange(len(leads))
    dataset = SegmentDataset(read_manifest(folder / "train.tsv"), labels, studies)
    rates = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for number in range(len(dataset)):
            dataset[number]
        rates.append(len(dataset) / (time.perf_counter() - started))
    return statistics.median(rates)


@torch.inference_mode()
def main() -> None:
    """Print the table."""
    torch.manual_seed(0)
    torch.set_num_threads(usable_cores())
    print(f"{Architecture().encoder_layers} layers, batch {BATCH}, {torch.get_num_threads()} threads")
    with torch.inference_mode(False):
        ours = EcgClassifier(Architecture()).eval()
        plain = PlainNetwork(Architecture()).eval()
        copy_weights(ours, plain)
        half = EcgClassifier(Architecture()).eval()
        half.load_state_dict(ours.state_dict())
        half.to(torch.bfloat16)
    source = torch.randn(BATCH, SAMPLES)
    difference = (ours(source) - plain(expand_lead(source))).abs().max()
    print(f"largest difference of a logit from the plain stack: {difference:.1e}")
    seconds = side_by_side(
        {
            "plain module stack, float32": lambda: plain(expand_lead(source)),
            "ours, float32": lambda: ours(source),
            "ours, bf16": lambda: half(source),
        }
    )
    baseline = seconds["plain module stack, float32"]
    for name, value in seconds.items():
        print(f"{name:30}{BATCH / value:8.1f} segments/s {baseline / value:6.2f} x")
    print(f"bf16 against float32: {seconds['ours, float32'] / seconds['ours, bf16']:.2f} x")
    results = metrics_of({"float32": ours, "bf16": half})
    for name, value in results["float32"].items():
        print(
            f"  {name:20} float32 {value:.4f}  bf16 {results['bf16'][name]:.4f}  {results['bf16'][name] - value:+.4f}"
        )
    with tempfile.TemporaryDirectory() as folder:
        rate = loader_rate(Path(folder), np.random.default_rng(0).standard_normal((400, SAMPLES)).astype(np.float32))
    fastest = BATCH / min(seconds.values())
    print(f"loader, one core: {rate:.0f} segments/s, {rate / fastest:.0f} x the fastest network above")


if __name__ == "__main__":
    main()

"""What `--augment wearable` and `--input` give on genuine handheld recordings, clean and under noise.

    python -m bench.bench_wearable

The tiny network learns atrial fibrillation against normal and other rhythms from PhysioNet/CinC 2017 (AliveCor, one
lead, 300 Hz), which is taken from $ECG_FINETUNE_TEST_DATA: with and without augmentation, with either input, three
seeds each. Held-out recordings are evaluated as they are, under each noise of eval_noise.py, and behind devices.
Noise for training is the first half of NSTDB's excerpts, for evaluation the second. 20 minutes on 2 quiet cores;
--seeds 1 --epochs 3 is a quick look.
Printed: the AUROC, mean over the seeds; and the difference that augmentation, or the other input, makes, with the 95 %
interval from resampling recordings (paired: all networks meet the same recordings and the same noise).
"""

import argparse
import copy
import dataclasses
import itertools
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
import wfdb
from ecg_evaluation.bootstrap import draw
from ecg_evaluation.metrics import Ranking
from ecg_evaluation.noise_report import TITLES
from ecg_evaluation.noise_stage import CLEAN, Condition, conditions_of
from ecg_training.augmentation import AugmentedData, Augmenter
from ecg_training.progress import Progress
from ecg_training.settings import Augmentation, FinetuneSettings
from ecg_training.torch_engine import TINY
from ecg_training.trainer import Trainer, length_of, train
from ecg_training.training_data import TrainingData

from bench.stages import working_folder
from ecg_finetune.batch import loader_workers
from ecg_finetune.ecg_fm import EcgClassifier
from ecg_finetune.label_set import LabelSet
from ecg_finetune.noise import EFFECTS, KINDS, NOISES, NoiseSource, disturbed, standardised
from ecg_finetune.waveform import RECORD_SAMPLES, SAMPLE_RATE, SEGMENT_SAMPLES

MOST_WINDOWS = 3  # of 10 s, of a train recording
RATIOS = (24, 12, 6, 0, -6)  # dB
RESAMPLES = 1000
CONFIGURATIONS = tuple(itertools.product(("duplicate", "zero"), (False, True)))  # input, augmented


@dataclasses.dataclass(frozen=True)
class Recordings:
    """Windows of 10 s, standardised: `leads` float32 (windows, 5000); mean and deviation (mV), label, recording."""

    leads: np.ndarray
    millivolts: np.ndarray  # (windows, 2)
    fibrillation: np.ndarray  # bool (windows,)
    recording: np.ndarray  # int (windows,)

    def rows(self, chosen: np.ndarray) -> "Recordings":
        """Return some of the windows."""
        return Recordings(*(getattr(self, field.name)[chosen] for field in dataclasses.fields(self)))

    def segments(self, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
        """Return the two segments of each window and their targets: (2 windows, 2500) and (2 windows, 1)."""
        targets = np.repeat(self.fibrillation, 2)[:, None].astype(np.float32)
        leads = torch.from_numpy(self.leads.reshape(-1, SEGMENT_SAMPLES))
        return leads.to(device), torch.from_numpy(targets).to(device)


def read_recordings(root: Path) -> Recordings:
    """Read the recordings with a rhythm (N, A, O) that have 10 s, brought to 500 Hz as preprocess does."""
    windows, millivolts, labels, numbers = [], [], [], []
    rows = [line.split(",") for line in (root / "REFERENCE.csv").read_text().split()]
    for number, (name, rhythm) in enumerate(row for row in rows if row[1] in "NAO"):
        record = wfdb.rdrecord(str(root / "records" / name))
        signal = record.p_signal[:, 0]
        size = int(len(signal) * SAMPLE_RATE / record.fs)
        signal = np.interp(np.arange(size) * ((len(signal) - 1) / (size - 1)), np.arange(len(signal)), signal)
        for start in range(0, min(size // RECORD_SAMPLES, MOST_WINDOWS) * RECORD_SAMPLES, RECORD_SAMPLES):
            window = signal[start : start + RECORD_SAMPLES]
            windows.append(standardised(window))
            millivolts.append((window.mean(), window.std()))
            labels.append(rhythm == "A")
            numbers.append(number)
    return Recordings(np.stack(windows), np.array(millivolts), np.array(labels), np.array(numbers))


def split(recordings: Recordings) -> tuple[Recordings, Recordings, Recordings]:
    """Return train (60 %), valid (10 %) and test (30 %) recordings; of valid and test the first 10 s of each."""
    first = np.flatnonzero(np.diff(recordings.recording, prepend=-1))
    rng = np.random.default_rng(0)
    part = np.empty(recordings.recording.max() + 1, dtype=int)
    for kind in (False, True):
        of_kind = recordings.recording[first][recordings.fibrillation[first] == kind]
        places = rng.permutation(len(of_kind)) / len(of_kind)
        part[of_kind] = np.digitize(places, (0.6, 0.7))
    of_window = part[recordings.recording]
    is_first = np.isin(np.arange(len(of_window)), first)
    train_part, *others = (recordings.rows((of_window == n) & ((n == 0) | is_first)) for n in range(3))
    return train_part, *others


def trained(
    parts: tuple[Recordings, ...], noise: NoiseSource, augmented: bool, settings: FinetuneSettings
) -> EcgClassifier:
    """Return the network with the lowest valid loss of a run; parts as `split` returns them."""
    torch.manual_seed(settings.seed)
    model = EcgClassifier(dataclasses.replace(TINY, num_labels=1))
    model.input_channel = settings.input_channel
    leads, targets = parts[0].segments()
    share = targets.mean().item()
    data = TrainingData(leads, targets)
    if augmented:
        data = AugmentedData(leads, targets, "cpu", Augmenter(Augmentation(), noise), seed=settings.seed, workers=1)
    trainer = Trainer(model, np.array([(1 - share) / share]), settings, torch.device("cpu"))
    best = {}

    def keep(_position) -> None:
        best.update(copy.deepcopy(model.state_dict()))

    settings.output.mkdir()
    progress = Progress(settings.output, len(leads), length_of(settings, len(leads))[1])
    valid = TrainingData(*parts[1].segments())
    with loader_workers():
        train(trainer, data, valid, last=settings.output / "last.pt", resume=False, save_best=keep, progress=progress)
    progress.close()
    model.load_state_dict(best)
    return model.eval()


@torch.inference_mode()
def probabilities(model: EcgClassifier, leads: np.ndarray) -> np.ndarray:
    """Return the probability of atrial fibrillation of windows (n, 5000): the mean of both segments, (n,)."""
    logits = torch.cat([model(part) for part in torch.from_numpy(leads.reshape(-1, SEGMENT_SAMPLES)).split(128)])
    return torch.sigmoid(logits.double()).reshape(-1, 2).mean(dim=1).numpy()


def under(condition: Condition, test: Recordings, noise: NoiseSource) -> np.ndarray:
    """Return the test windows under a condition."""
    if condition == CLEAN:
        return test.leads
    number = KINDS.index(condition.kind)
    return np.stack(
        [
            disturbed(lead, condition.kind, condition.snr, noise, np.random.default_rng([7, number, recording]), scale)
            for lead, recording, scale in zip(test.leads, test.recording, test.millivolts)
        ]
    )


def areas(truth: np.ndarray, scores: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
    """Return the AUROC of the recordings as they are and of resamples: mean over seeds; scores (seeds, recordings)."""
    unit = np.arange(len(truth))
    rankings = [Ranking.of(truth, of_seed, unit) for of_seed in scores]
    return np.array([np.mean([ranking.areas(weight)[0] for ranking in rankings]) for weight in weights])


def told(first: np.ndarray, second: np.ndarray) -> str:
    """Return a difference with its 95 % interval, from the values of the recordings and of their resamples."""
    point, drawn = first[0] - second[0], (first - second)[1:]
    half = 1.96 * drawn.std()
    mark = "**" if abs(point) > half else ""
    return f"{mark}{point:+.3f}{mark} ({point - half:+.3f} to {point + half:+.3f})"


def main(argv: list[str] | None = None) -> int:
    """Train, evaluate and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind (default: 3)")
    parser.add_argument("--epochs", type=int, default=12, help="passes over the train recordings (default: 12)")
    args = parser.parse_args(argv)
    if "ECG_FINETUNE_TEST_DATA" not in os.environ:
        print("skipped: ECG_FINETUNE_TEST_DATA is not set, and the recordings are genuine ones")
        return 0
    root = Path(os.environ["ECG_FINETUNE_TEST_DATA"])
    torch.set_num_threads(1)  # the network is too small to share
    parts = split(read_recordings(root / "cinc2017"))
    sizes = [len(part.leads) for part in parts]
    print(f"windows of 10 s: {sizes[0]:,} train, {sizes[1]} valid, {sizes[2]} test ({parts[2].fibrillation.sum()} AF)")
    networks: dict[tuple[str, bool], list[EcgClassifier]] = {}
    source = NoiseSource.open(root / "noise", "train")
    with working_folder() as folder:
        for configuration in CONFIGURATIONS:
            for seed in range(1, args.seeds + 1):
                began = time.monotonic()
                channels, augmented = configuration
                settings = FinetuneSettings(
                    manifests=folder,
                    output=folder / f"{channels}_{augmented}_{seed}",
                    pretrained=None,
                    label_set=LabelSet.of(["Atrial fibrillation"]),
                    input=channels,
                    epochs=args.epochs,
                    batch_size=32,
                    lr=1e-3,
                    seed=seed,
                    save_every=0,
                )
                network = trained(parts, source, augmented, settings)
                networks.setdefault(configuration, []).append(network)
                print(f"== {configuration}, seed {seed}: {time.monotonic() - began:.0f} s", flush=True)

    test, source = parts[2], NoiseSource.open(root / "noise", "test")
    weights = [np.ones(len(test.leads), np.int32), *(draw(len(test.leads), number) for number in range(RESAMPLES))]
    plain, augmented, zero, both = CONFIGURATIONS
    heads = ("", "plain", "augmented", "difference", "zero", "difference", "zero, augmented", "difference to zero")
    rows = []
    groups: dict[str, list[dict]] = {}
    for condition in [CLEAN, *conditions_of(NOISES, RATIOS), *conditions_of(tuple(EFFECTS), ())]:
        leads = under(condition, test, source)
        found = {
            configuration: areas(test.fibrillation, np.stack([probabilities(one, leads) for one in of_kind]), weights)
            for configuration, of_kind in networks.items()
        }
        name = TITLES[condition.kind] + ("" if condition.snr is None else f", {condition.snr:g} dB")
        rows.append((name, found))
        if condition.snr is not None:
            groups.setdefault(f"Mean of the noises, {condition.snr:g} dB", []).append(found)
    for name, of_group in groups.items():
        rows.append((name, {key: np.mean([found[key] for found in of_group], axis=0) for key in CONFIGURATIONS}))
    print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name, found in rows:
        cells = [f"{found[plain][0]:.3f}", f"{found[augmented][0]:.3f}", told(found[augmented], found[plain])]
        cells += [f"{found[zero][0]:.3f}", told(found[zero], found[plain])]
        cells += [f"{found[both][0]:.3f}", told(found[both], found[zero])]
        print(f"| {name} | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())

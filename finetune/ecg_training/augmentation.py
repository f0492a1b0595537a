"""Train segments as a wearable might have recorded them: noise and effects of devices, drawn anew in every epoch.

What happens to a segment depends on (seed, epoch, segment) alone, so it is the same for any number of workers and of
GPUs, and after any interruption. Worker processes do it while the network trains.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ecg_finetune.batch import loaded_batches
from ecg_finetune.noise import EFFECTS, NOISES, NoiseSource, contact_loss, qrs_amplitude, scaled, standardised
from ecg_training.settings import Augmentation
from ecg_training.training_data import TrainingData

# A device has one sampling rate.
RATES = ("resample_512", "resample_300", "resample_250")
OTHERS = ("contact_loss", "inversion", "band_pass", "clipping", "quantisation")
MOST_NOISES = 3  # at once
# Segments are standardised: the amplitude of their QRS complexes in mV, which clipping and quantisation depend on, is
# drawn from what Lead I has.
QRS_MV = (0.2, 2.0)


class Augmenter:
    """Draws what happens to a segment.

    Parameters
    ----------
    augmentation : Augmentation
        With which probability, and how strongly.
    source : NoiseSource
        What noise is drawn from.
    """

    def __init__(self, augmentation: Augmentation, source: NoiseSource):
        self.augmentation, self.source = augmentation, source

    def __call__(self, lead: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return a segment, float32 (samples,), as it might have been recorded, with its mean and deviation kept."""
        chosen = self.augmentation
        count = int(rng.integers(1, MOST_NOISES + 1)) if rng.random() < chosen.noise else 0
        effects = [name for name in OTHERS if rng.random() < chosen.effects]
        if rng.random() < chosen.effects:  # the order is that between skin and file
            effects.insert(-1 if "quantisation" in effects else len(effects), str(rng.choice(RATES)))
        if not count and not effects:
            return lead
        amplitude = qrs_amplitude(lead)
        if not amplitude > 0:
            return lead
        changed = lead.astype(float)
        for kind in rng.choice(NOISES, count, replace=False):
            snr = rng.uniform(*chosen.snr)
            changed += scaled(self.source.draw(kind, len(lead), rng), amplitude, snr)
        if effects:
            changed *= math.exp(rng.uniform(*np.log(QRS_MV))) / amplitude
        for name in effects:
            effect = EFFECTS[name]
            if name == "contact_loss":
                effect = functools.partial(contact_loss, seconds=rng.uniform(0.2, 1.5))
            changed = effect(changed, rng)
        return standardised(changed, float(lead.mean()), float(lead.std()))


class AugmentedSegments:
    """The segments of an epoch for a `DataLoader`: item `i` is (lead, target), float32 (samples,) and (labels,).

    Arguments as for `AugmentedData`.
    """

    def __init__(
        self, leads: Tensor, targets: Tensor, augmenter: Augmenter, seed: int, epoch: int, file: Path | None = None
    ):
        self.leads, self.targets, self.augmenter = leads.numpy(), targets.numpy(), augmenter
        self.seed, self.epoch, self.file = seed, epoch, file

    def __getstate__(self) -> dict[str, Any]:
        # Workers that are not forked get all this through a pipe: they map the leads anew, which can be gigabytes.
        return self.__dict__ | ({} if self.file is None else {"leads": len(self.leads)})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.file is not None:
            self.leads = np.load(self.file, mmap_mode="r", allow_pickle=False)[: self.leads]

    def __len__(self) -> int:
        return len(self.leads)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([self.seed, self.epoch, i])
        return self.augmenter(self.leads[i], rng), self.targets[i]


class AugmentedData(TrainingData):
    """The train split, augmented by worker processes; its leads stay in the machine's memory.

    Parameters
    ----------
    leads, targets, device
        As for `TrainingData`.
    augmenter : Augmenter
        What happens to the segments.
    seed : int
        Of the run.
    workers : int
        Processes that augment; 0: this one does.
    file : Path, optional
        The NPY file that the leads are mapped from, its first rows.
    """

    def __init__(
        self,
        leads: Tensor,
        targets: Tensor,
        device: torch.device | str,
        augmenter: Augmenter,
        seed: int,
        workers: int,
        file: Path | None = None,
    ):
        super().__init__(leads, targets)
        self.file = file
        self.device = torch.device(device)
        self.augmenter, self.seed, self.workers = augmenter, seed, workers

    def batches(self, rows: Sequence[np.ndarray], epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch; to be looped over within `batch.loader_workers`."""
        segments = AugmentedSegments(self.leads, self.targets, self.augmenter, self.seed, epoch, self.file)
        loaded = loaded_batches(
            segments,
            batch_sampler=rows,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # nothing is drawn from PyTorch's global random state
        )
        for batch in loaded:
            yield tuple(part.to(self.device, non_blocking=True) for part in batch)


def recorded(augmentation: Augmentation | None) -> dict[str, Any] | None:
    """Return what decides an augmentation, as JSON values: its settings, and the noise by its SHA-256."""
    if augmentation is None:
        return None
    settings = dataclasses.asdict(augmentation) | {"snr": list(augmentation.snr)}
    del settings["noise_root"]
    return {**settings, "source": NoiseSource.open(augmentation.noise_root, "train").origin}

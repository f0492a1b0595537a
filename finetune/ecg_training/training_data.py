"""The segments of a split where training takes them from: memory that a file is mapped into, or a GPU's own."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

# A GPU keeps the leads where they take at most this share of its free memory: the rest is for training.
SHARE_FOR_LEADS = 0.25


class TrainingData:
    """Leads and targets of a split, and their batches on a device.

    Parameters
    ----------
    leads : Tensor float32 (segments, samples)
        May be mapped from a file.
    targets : Tensor float32 (segments, labels)
    device : torch.device
        Where batches are wanted. A CUDA GPU with room gets all leads at once and gathers batches itself; else each
        batch is gathered here and copied while the GPU works on the one before.
    """

    def __init__(self, leads: Tensor, targets: Tensor, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self.targets = targets
        self.leads = leads
        size = leads.numel() * leads.element_size()
        if self.device.type == "cuda" and size <= SHARE_FOR_LEADS * torch.cuda.mem_get_info(self.device)[0]:
            self.leads, self.targets = _on_device(leads, self.device), targets.to(self.device)

    def __len__(self) -> int:
        return len(self.leads)

    def batches(self, rows: Sequence[np.ndarray], epoch: int) -> Iterator[tuple[Tensor, Tensor]]:  # noqa: ARG002
        """Yield the batches of an epoch, as `batch` returns them."""
        return map(self.batch, rows)

    def batch(self, rows: np.ndarray | Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return leads (rows, samples) and targets (rows, labels) of some segments, on the device."""
        index = torch.as_tensor(rows, device=self.leads.device)
        found = self.leads.index_select(0, index), self.targets.index_select(0, index)
        if self.device.type == "cuda" and not self.leads.is_cuda:
            found = tuple(part.pin_memory() for part in found)
        return tuple(part.to(self.device, non_blocking=True) for part in found)


def _on_device(leads: Tensor, device: torch.device) -> Tensor:
    """Copy leads to a device piece by piece: in one piece they would take as much of the machine's own memory."""
    there = torch.empty(leads.shape, dtype=leads.dtype, device=device)
    for start in range(0, len(leads), 10_000):
        there[start : start + 10_000] = leads[start : start + 10_000]
    return there

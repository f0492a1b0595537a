"""One process, or several that `torchrun` started, which share each batch."""

import dataclasses
import os
from typing import Any

import torch
import torch.distributed


@dataclasses.dataclass(frozen=True)
class Processes:
    """Which process this is (`rank`) of how many (`world`)."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that prints and writes files."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Return the value of every process, in the order of their ranks."""
        if self.world == 1:
            return [value]
        values = [None] * self.world
        torch.distributed.all_gather_object(values, value)
        return values


def join_processes(device: torch.device) -> tuple[Processes, torch.device]:
    """Join the processes of `torchrun`, if it started this one; return them and this process's own device."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Processes(), device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Processes(torch.distributed.get_rank(), world), device


def leave_processes() -> None:
    """Leave the group of processes, if one was joined."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()

"""One process, or several that `torchrun` started, which share each batch."""

import dataclasses
import os
from typing import Any

import torch
import torch.distributed

from ecg_finetune.files import UserError


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
    """Join the processes of `torchrun`, if it started this one; return them and this process's own device.

    Raises
    ------
    UserError
        The environment is not that of `torchrun`, or several processes cannot share work on such a device.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return Processes(), device
    try:
        world, local, _, _ = (int(os.environ[name]) for name in ("WORLD_SIZE", "LOCAL_RANK", "RANK", "MASTER_PORT"))
    except (KeyError, ValueError):
        world, local = 0, 0
    if world < 1 or "MASTER_ADDR" not in os.environ:
        raise UserError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']!r}, but the variables that torchrun sets with it are missing or "
            "wrong; start several processes with torchrun, or unset WORLD_SIZE"
        )
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"several processes cannot share {device.type}; use one process, or --device cpu or cuda")
    if device.type == "cuda":
        if local >= torch.cuda.device_count():
            raise UserError(
                f"process {local + 1} here has no GPU; start at most {torch.cuda.device_count()} per machine"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Processes(torch.distributed.get_rank(), world), device


def leave_processes() -> None:
    """Leave the group of processes, if one was joined."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()

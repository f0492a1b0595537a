"""One process, or several that `torchrun` started, which share each batch."""

import dataclasses
import os
import re
from typing import Any

import torch
import torch.distributed

# Imported before a group is joined: its functions' default arguments keep the group that exists when they are defined,
# DistributedDataParallel imports it later, and a group that lives on has threads that can abort the exit of Python.
import torch.distributed.nn.functional  # noqa: F401

from ecg_finetune.files import UserError, short_repr


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

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Return the sum of a tensor of every process, which is on the device where the process trains."""
        if self.world == 1:
            return value
        total = value.clone()
        torch.distributed.all_reduce(total)
        return total


def join_processes(device: torch.device) -> tuple[Processes, torch.device]:
    """Join the processes of `torchrun`, if it started this one; return them and this process's own device.

    Raises
    ------
    UserError
        The environment is not that of `torchrun`, a process has no GPU, several processes cannot share the
        device, or they do not find each other.
    """
    if "WORLD_SIZE" not in os.environ and "RANK" not in os.environ:
        return Processes(), device
    world = _number("WORLD_SIZE", 1, 99_999)
    rank = _number("RANK", 0, world - 1)
    if world == 1:
        return Processes(), device
    place = f"{os.environ.get('MASTER_ADDR', '')}:{_number('MASTER_PORT', 1, 65_535)}"
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"several processes cannot share {device.type}; use one process, or --device cpu or cuda")
    if device.type == "cuda":
        device = torch.device("cuda", _number("LOCAL_RANK", 0, torch.cuda.device_count() - 1))
        torch.cuda.set_device(device)
    try:
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"process {rank} of {world} finds no other at MASTER_ADDR:MASTER_PORT {place} ({reason}); start several "
            "processes with torchrun"
        ) from None
    return Processes(rank, world), device


def _number(name: str, least: int, most: int) -> int:
    """Return one of the numbers that `torchrun` gives its processes."""
    text = os.environ.get(name)
    if text is not None and re.fullmatch("[0-9]{1,5}", text) and least <= int(text) <= most:
        return int(text)
    told = "not set" if text is None else short_repr(text)
    raise UserError(
        f"the environment variable {name} is {told}, where torchrun sets a number from {least} to {most}; start "
        "several processes with torchrun, at most one per GPU, or unset WORLD_SIZE and RANK"
    )


def leave_processes() -> None:
    """Leave the group of processes, if one was joined."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()

"""Where the network runs, and in which precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ecg_finetune.files import UserError, shown

# PyTorch is imported where it is used: the import takes seconds, and `--help` needs only the names.
if TYPE_CHECKING:
    import torch

PRECISIONS = ("auto", "float32", "bf16")


def choose_device(name: str) -> torch.device:
    """Return the device of `--device`: `auto` is a CUDA GPU where there is one, else Apple's GPU (mps), else the CPU.

    Raises
    ------
    UserError
        PyTorch knows no such device, or this machine has none.
    """
    import torch

    mps = torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, ValueError):
        raise UserError(f"--device {shown(name)}: no such device; use auto, cpu, cuda, cuda:<number> or mps") from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"--device {name}: only cpu, cuda and mps are supported")
    if device.type == "mps" and (not mps or device.index):
        raise UserError(
            f"--device {name}: PyTorch {torch.__version__} sees {int(mps)} GPUs of Apple here; use --device cpu, or a "
            "Mac with its own chip and macOS 14 or newer"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"--device {name}: PyTorch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices here; "
            "use --device cpu, or install a CUDA build of PyTorch and the driver"
        )
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of `--precision`: `auto` is bf16 on a CUDA GPU that has it, else float32."""
    import torch

    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    return {"float32": torch.float32, "bf16": torch.bfloat16}[name]


def random_state(device: torch.device) -> torch.Tensor | None:
    """Return the state of the device's own random numbers, which dropout draws from; None for the CPU."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.mps.get_rng_state() if device.type == "mps" else None


def set_random_state(device: torch.device, state: torch.Tensor | None) -> None:
    """Go on with the device's own random numbers where `random_state` was taken, on a device of the same kind."""
    import torch

    own = random_state(device)
    if own is None or state is None or own.shape != state.shape:
        return
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.mps.set_rng_state(state)

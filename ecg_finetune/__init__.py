"""What at least two stages of the ECG-FM Lead-I pipeline need.

from ecg_finetune import load_model    # of `model_folder`
"""

from typing import TYPE_CHECKING

__version__ = "0.2.0"

if TYPE_CHECKING:
    from ecg_finetune.model_folder import load_model as load_model


def __getattr__(name: str):
    """Import `load_model` when it is asked for: nothing else here needs numpy."""
    if name == "load_model":
        from ecg_finetune.model_folder import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

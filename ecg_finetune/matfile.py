"""MATLAB-5 files, as `scipy.io.loadmat` (and so fairseq-signals) reads them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import scipy.io

from ecg_finetune.command_line import UserError, replacing


def write_mat(path: Path, variables: Mapping[str, np.ndarray | int | float]) -> None:
    """Write the variables as one compressed MATLAB-5 file, under a temporary name first.

    Arrays keep shape and dtype; a scalar becomes (1, 1).
    """
    with replacing(path) as temporary:
        scipy.io.savemat(temporary, dict(variables), do_compression=True)


def read_mat(path: Path) -> dict[str, np.ndarray]:
    """Read all variables of a MATLAB-5 file: arrays of at least two dimensions, as stored.

    Raises
    ------
    UserError
        The file is missing or no MATLAB-5 file.
    """
    try:
        return scipy.io.loadmat(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the stage that makes it again") from None
    except Exception as error:  # scipy raises anything from TypeError to zlib.error on a damaged file
        raise UserError(f"{path}: not a readable MATLAB-5 file ({error}); delete it and run its stage again") from None

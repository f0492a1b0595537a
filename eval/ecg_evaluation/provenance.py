"""Where the numbers come from: which checkpoint made the predictions, which versions of the software."""

import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path

from ecg_finetune import __version__
from ecg_finetune.files import UserError, read_json, replacing, sha256

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("numpy", "pandas", "scipy", "torch")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide the numbers, and the commit of this repository."""
    found = {"python": platform.python_version(), "ecg-finetune": __version__}
    found |= {package: importlib.metadata.version(package) for package in PACKAGES}
    try:
        command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=12"]
        found["commit"] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        pass  # no git, or installed from elsewhere: the version must do
    return found


def origin_file(predictions: Path) -> Path:
    """Return where it is written which checkpoint made a predictions file."""
    return Path(predictions).with_suffix(".json")


def write_origin(predictions: Path, origin: dict) -> None:
    """Write beside a predictions file how it was made, with the file's own checksum."""
    with replacing(origin_file(predictions)) as temporary:
        temporary.write_text(json.dumps({**origin, "predictions_sha256": sha256(predictions)}, indent=1) + "\n")


def read_origin(predictions: Path) -> dict:
    """Return how a predictions file was made; empty when that is not written, or written of another content.

    Raises
    ------
    UserError
        It is written in a file that cannot be read.
    """
    path = origin_file(predictions)
    origin = read_json(path, dict) if path.exists() else {}
    checksums = [origin.get(name, "") for name in ("predictions_sha256", "checkpoint_sha256")]
    if not all(isinstance(checksum, str) for checksum in checksums):
        raise UserError(f"{path}: a checksum in it is no text; delete the file")
    return origin if origin and checksums[0] == sha256(predictions) else {}

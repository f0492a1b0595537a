"""A model folder of a small network at random weights, made as a user makes one."""

import subprocess
import sys
from pathlib import Path

from evaluation_world import make_world

from ecg_finetune.paths import locate

REPOSITORY = Path(__file__).resolve().parent.parent


def run(script: str, *arguments) -> str:
    """Run a script; return what it printed."""
    command = [sys.executable, str(REPOSITORY / script), *map(str, arguments)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def make_model_folder(base: Path, *options, **world) -> Path:
    """Evaluate the checkpoint of a made-up world below `base` and export it as `small`; return the model folder."""
    make_world(base, **world)
    run("eval/scripts/eval_finetuned.py", "--base-dir", base, "--bootstrap", 0, "--num-workers", 0)
    run(
        "export/scripts/export_model.py",
        "--base-dir",
        base,
        "--metrics",
        metrics_file(base),
        "--name",
        "small",
        *options,
    )
    return locate(base, "model_folder", model="small")


def metrics_file(base: Path) -> Path:
    """Return the metrics of the one evaluation below `base`."""
    (path,) = locate(base, "eval").glob("metrics_test_*.csv")
    return path

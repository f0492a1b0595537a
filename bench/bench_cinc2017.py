"""Atrial fibrillation on handheld recordings: every stage on PhysioNet/CinC 2017, from a random start.

    python -m bench.bench_cinc2017

The recordings are taken from $ECG_FINETUNE_TEST_DATA. The tiny network learns the labels that the data set knows from
60 % of them, thresholds and calibration come from 10 %, and 30 % are evaluated: their first 10 s as the pipeline does,
and whole, as predict answers them. 2 minutes on 2 cores. Printed: AUROC and AUPRC of atrial fibrillation with their
intervals; 0.90 is what the whole recordings should reach.
"""

import os
import sys
from pathlib import Path

import pandas as pd

from bench.stages import BUILD, PREPROCESS, timed, working_folder
from ecg_finetune.paths import locate

LABEL = "Atrial fibrillation"


def metrics_in(folder: Path) -> Path:
    """Return the metrics of the one evaluation in a folder."""
    (path,) = folder.glob("metrics_test_*.csv")
    return path


def told(what: str, metrics: Path) -> None:
    """Print the results of the label."""
    row = pd.read_csv(metrics).set_index("label").loc[LABEL]
    numbers = "; ".join(
        f"{name.upper()} {row[name]:.3f} ({row[f'{name}_low']:.3f} to {row[f'{name}_high']:.3f})"
        for name in ("auroc", "auprc")
    )
    print(f"{what:<20}{numbers}; {row['n_pos']:.0f} with it, {row['n_neg']:.0f} without", flush=True)


def main() -> int:
    """Run the stages; print what the evaluations say of atrial fibrillation."""
    if "ECG_FINETUNE_TEST_DATA" not in os.environ:
        print("skipped: ECG_FINETUNE_TEST_DATA is not set, and the recordings are genuine ones")
        return 0
    root = Path(os.environ["ECG_FINETUNE_TEST_DATA"], "cinc2017").resolve()
    with working_folder() as base:
        at = ("--base-dir", base)
        timed("sources/scripts/import_source.py", "--source", "cinc2017", "--root", root, *at)
        labels = locate(base, "computed_labels")
        fractions = ("--valid-frac", 0.1, "--test-frac", 0.3)
        timed("split/scripts/create_split.py", *fractions, "--stratify", labels, *at)
        timed(PREPROCESS, "--raw-root", root, *at)
        timed(BUILD, *at)
        network = ("--engine", "torch", "--pretrained", "none", "--tiny")
        seconds, _ = timed(
            "finetune/scripts/finetune_ecgfm.py", *network, "--epochs", 12, "--lr", 1e-3, "--batch-size", 64, *at
        )
        print(f"fine-tuned in {seconds:.0f} s")
        timed("eval/scripts/eval_finetuned.py", *at)
        metrics = metrics_in(locate(base, "eval"))
        told("first 10 s", metrics)

        timed("export/scripts/export_model.py", "--metrics", metrics, "--name", "cinc2017", *at)
        model = locate(base, "model_folder", model="cinc2017")
        records, test = pd.read_csv(locate(base, "record_list")), pd.read_csv(locate(base, "test_labels"))["idx"]
        listed = base / "test_records.csv"
        records[records["study_id"].isin(test)].to_csv(listed, index=False)
        answers = ("--record-list", listed, "--raw-root", root, "--out", base / "answers")
        timed("predict/scripts/predict_ecg.py", "--model", model, *answers)
        whole = (
            "--predictions",
            base / "answers/predictions.csv",
            "--operating-points",
            model,
            "--out",
            base / "whole",
        )
        timed("eval/scripts/eval_ecgfm.py", *whole, *at)
        told("whole recordings", metrics_in(base / "whole"))
    return 0


if __name__ == "__main__":
    sys.exit(main())

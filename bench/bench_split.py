"""The split of 800,035 records, with and without balanced labels, against what scikit-learn offers.

The genuine record list is taken from $ECG_FINETUNE_TEST_DATA where that is set, else one of the same size is made up.
The labels are made up: as frequent as ECG-FM's, and recurring in a patient's records. The baseline reads the same
files, splits with GroupShuffleSplit, or StratifiedGroupKFold on one label (it takes no more), and writes the same file.
"""

import argparse
import lzma
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from bench.stages import timed, working_folder
from ecg_finetune.label_set import LABELS
from ecg_finetune.studies import SPLITS, save_file_name

SCRIPT = "split/scripts/create_split.py"
# Records of 800,035 that carry each label.
PUBLISHED = (29065, 647611, 52061, 168179, 735, 33408, 81425, 14415, 104148, 95894, 63264, 58941, 24289, 65924, 29693)
PUBLISHED += (179649, 31880)


def make_record_list(path: Path) -> None:
    """Write the genuine record list, or one like it."""
    if folder := os.environ.get("ECG_FINETUNE_TEST_DATA"):
        path.write_bytes(lzma.decompress((Path(folder) / "mimic_iv_ecg/record_list.csv.xz").read_bytes()))
        return
    rng = np.random.default_rng(0)
    sizes = np.minimum(np.ceil(rng.lognormal(np.log(1.9), 1.2, 400_000)).astype(int), 260)
    subject = np.repeat(10_000_000 + np.arange(len(sizes)), sizes)[:800_035]
    study = 40_000_000 + rng.permutation(len(subject))
    pd.DataFrame({"subject_id": subject, "study_id": study}).to_csv(path, index=False)


def make_labels(record_list: Path, folder: Path) -> None:
    """Write labels.csv and study_id_mapping.csv for a record list."""
    records = pd.read_csv(record_list, usecols=["subject_id", "study_id"])
    rng = np.random.default_rng(0)
    patient = np.unique(records["subject_id"], return_inverse=True)[1]
    share = np.array(PUBLISHED) / 800_035
    disposition = rng.beta(0.5 * share + 0.001, 0.5 * (1 - share), (patient.max() + 1, len(LABELS)))
    labels = (rng.random((len(records), len(LABELS)), dtype=np.float32) < disposition[patient]).astype(np.int8)
    folder.mkdir()
    index = np.arange(len(records))
    pd.DataFrame(labels, columns=LABELS).assign(idx=index)[["idx", *LABELS]].to_csv(folder / "labels.csv", index=False)
    mapping = pd.DataFrame({"idx": index, "study_id": records["study_id"], "split": ""})
    mapping.to_csv(folder / "study_id_mapping.csv", index=False)


def usual_way(record_list: Path, labels: Path | None, out: Path) -> None:
    """Split with scikit-learn and write meta_split.csv: the baseline."""
    from sklearn.model_selection import GroupShuffleSplit, StratifiedGroupKFold

    records = pd.read_csv(record_list)
    split = np.full(len(records), "train", dtype=object)
    if labels is None:
        rest, test = next(
            GroupShuffleSplit(1, test_size=0.1, random_state=42).split(records, groups=records.subject_id)
        )
        inner = GroupShuffleSplit(1, test_size=1 / 9, random_state=42)
        valid = rest[next(inner.split(rest, groups=records.subject_id.iloc[rest]))[1]]
    else:
        label = pd.read_csv(labels / "labels.csv")["Atrial fibrillation"]
        folds = StratifiedGroupKFold(10, shuffle=True, random_state=42).split(records, label, records.subject_id)
        test, valid = next(folds)[1], next(folds)[1]
    split[test], split[valid] = "test", "valid"
    save_file = [save_file_name(study_id) for study_id in records.study_id]
    pd.DataFrame({"save_file": save_file, "split": split}).to_csv(out, index=False)


def quality(out: Path, labels: Path) -> str:
    """Return how far valid and test are from a tenth of the records, and from the labels' prevalence."""
    split = pd.read_csv(out)["split"]
    table = pd.read_csv(labels / "labels.csv")[list(LABELS)].to_numpy()
    share = max(abs((split == name).mean() / 0.1 - 1) for name in SPLITS[1:])
    prevalence = np.mean([abs(table[split == name].mean(axis=0) / table.mean(axis=0) - 1) for name in SPLITS[1:]])
    return f"{share:>8.3%} {prevalence:>11.2%}"


def main(argv: list[str] | None = None) -> None:
    """Print the table; with --usual-way do the baseline's work."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--usual-way", nargs=3, metavar=("LIST", "LABELS", "OUT"), help=argparse.SUPPRESS)
    parser.add_argument("--skip-slow", action="store_true", help="leave out StratifiedGroupKFold (two minutes)")
    args = parser.parse_args(argv)
    if args.usual_way:
        record_list, labels, out = args.usual_way
        usual_way(Path(record_list), Path(labels) if labels != "none" else None, Path(out))
        return
    with working_folder() as folder:
        record_list, labels, out = folder / "record_list.csv", folder / "labels", folder / "meta_split.csv"
        make_record_list(record_list)
        make_labels(record_list, labels)
        print("800,035 records                         seconds    ratio   records off  labels off (mean)")
        for name, chosen, stratify in (("by patient", "none", ()), ("17 labels", labels, ("--stratify", labels))):
            ours = min(timed(SCRIPT, "--record-list", record_list, "--out", out, *stratify)[0] for _ in range(3))
            print(f"{'create_split.py, ' + name:<36} {ours:>9.1f} s {'':>9}{quality(out, labels)}", flush=True)
            if chosen != "none" and args.skip_slow:
                continue
            plain = timed("-m", "bench.bench_split", "--usual-way", record_list, chosen, out)[0]
            what = "GroupShuffleSplit" if chosen == "none" else "StratifiedGroupKFold, 1 label"
            print(f"{what:<36} {plain:>9.1f} s {plain / ours:>7.1f}x {quality(out, labels)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

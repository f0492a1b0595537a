"""The split of 800,035 records, with and without balanced labels, against what scikit-learn offers.

The genuine record list is taken from $ECG_FINETUNE_TEST_DATA where that is set, else one of the same size is made up.
The labels are made up: as frequent as ECG-FM's, and recurring in a patient's records. The baseline reads the same
files, splits with GroupShuffleSplit, or StratifiedGroupKFold on one label (it takes no more), and writes the same file.

Printed of each split: how far valid and test are from a tenth of the records, and from the prevalence of the labels
(relative, mean of the 17); the least and the most that test has of the records of any tenth of the subject_ids; and of
ours the share of the test patients that another seed puts into test, too.
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


def simulated_labels(subject_id: pd.Series) -> np.ndarray:
    """Return labels as frequent as ECG-FM's, bool (records, 17): each patient has a disposition of his own to each."""
    rng = np.random.default_rng(0)
    patient = np.unique(subject_id, return_inverse=True)[1]
    share = np.array(PUBLISHED) / 800_035
    disposition = rng.beta(2 * share, 2 * (1 - share), (patient.max() + 1, len(LABELS)))
    return rng.random((len(patient), len(LABELS)), dtype=np.float32) < disposition[patient]


def make_labels(record_list: Path, folder: Path) -> None:
    """Write labels.csv and study_id_mapping.csv for a record list."""
    records = pd.read_csv(record_list, usecols=["subject_id", "study_id"])
    labels = simulated_labels(records["subject_id"]).astype(np.int8)
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
        outer = GroupShuffleSplit(1, test_size=0.1, random_state=42)
        rest, test = next(outer.split(records, groups=records.subject_id))
        inner = GroupShuffleSplit(1, test_size=1 / 9, random_state=42)
        valid = rest[next(inner.split(rest, groups=records.subject_id.iloc[rest]))[1]]
    else:
        label = pd.read_csv(labels / "labels.csv")["Atrial fibrillation"]
        folds = StratifiedGroupKFold(10, shuffle=True, random_state=42).split(records, label, records.subject_id)
        test, valid = next(folds)[1], next(folds)[1]
    split[test], split[valid] = "test", "valid"
    save_file = [save_file_name(study_id) for study_id in records.study_id]
    pd.DataFrame({"save_file": save_file, "split": split}).to_csv(out, index=False)


def quality(out: Path, subject_id: pd.Series, labels: np.ndarray) -> str:
    """Return how far valid and test are from what they should be."""
    split = pd.read_csv(out)["split"]
    share = max(abs((split == name).mean() / 0.1 - 1) for name in SPLITS[1:])
    prevalence = np.mean([abs(labels[split == name].mean(axis=0) / labels.mean(axis=0) - 1) for name in SPLITS[1:]])
    of_tenth = (split == "test").groupby(pd.qcut(subject_id, 10, labels=False)).mean()
    return f"{share:>12.3%} {prevalence:>11.2%} {of_tenth.min():>10.2%} to {of_tenth.max():.2%}"


def common_test_patients(outs: list[Path], subject_id: pd.Series) -> float:
    """Return the share of the first split's test patients that are in the second's test split, too."""
    one, other = (subject_id[pd.read_csv(out)["split"] == "test"].unique() for out in outs)
    return np.isin(one, other).mean()


def main(argv: list[str] | None = None) -> None:
    """Print the table; with --usual-way do the baseline's work."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--usual-way", nargs=3, metavar=("LIST", "LABELS", "OUT"), help=argparse.SUPPRESS)
    parser.add_argument("--skip-slow", action="store_true", help="omit StratifiedGroupKFold (several minutes)")
    args = parser.parse_args(argv)
    if args.usual_way:
        record_list, labels, out = args.usual_way
        usual_way(Path(record_list), Path(labels) if labels != "none" else None, Path(out))
        return
    with working_folder() as folder:
        record_list, labels_folder = folder / "record_list.csv", folder / "labels"
        make_record_list(record_list)
        make_labels(record_list, labels_folder)
        subject_id = pd.read_csv(record_list, usecols=["subject_id"])["subject_id"]
        labels = simulated_labels(subject_id)
        outs = [folder / "seed42.csv", folder / "seed43.csv"]
        print(
            "800,035 records                         seconds    ratio  records off  labels off  test, of each tenth  "
            "two seeds share"
        )
        for name, chosen, stratify in (
            ("by patient", "none", ()),
            ("17 labels", labels_folder, ("--stratify", labels_folder)),
        ):
            options = ("--overwrite", "--record-list", record_list, *stratify)
            ours = min(timed(SCRIPT, *options, "--seed", seed, "--out", out)[0] for seed, out in zip((42, 43), outs))
            figures = f"{quality(outs[0], subject_id, labels)} {common_test_patients(outs, subject_id):>16.1%}"
            print(f"{'create_split.py, ' + name:<36} {ours:>9.1f} s {'':>8}{figures}", flush=True)
            if stratify and args.skip_slow:
                continue
            plain = timed("-m", "bench.bench_split", "--usual-way", record_list, chosen, outs[0])[0]
            what = "StratifiedGroupKFold, 1 label" if stratify else "GroupShuffleSplit"
            figures = quality(outs[0], subject_id, labels)
            print(f"{what:<36} {plain:>9.1f} s {plain / ours:>6.1f}x {figures}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

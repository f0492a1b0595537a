"""A base folder as the stages before the evaluation leave it, small and made up, for the tests of the evaluation."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ecg_finetune.ecg_fm import CLASSIFIER_NAME, Architecture, EcgClassifier
from ecg_finetune.label_set import ECG_FM, LABELS, LabelSet, write_label_definition
from ecg_finetune.matfile import write_mat
from ecg_finetune.paths import locate
from ecg_finetune.studies import save_file_name

NEVER, RARE = LABELS.index("Ventricular tachycardia"), LABELS.index("Atrial flutter")


def write_checkpoint(path: Path, seed: int = 0, num_labels: int = 17, labels: LabelSet | None = None) -> None:
    """Write a classifier of a few thousand parameters at random weights; with `labels` it is of these and says so."""
    torch.manual_seed(seed)
    architecture = Architecture(
        encoder_layers=1,
        encoder_embed_dim=16,
        encoder_ffn_embed_dim=32,
        encoder_attention_heads=2,
        conv_feature_layers=((8, 10, 10), (8, 5, 5)),
        conv_pos=8,
        conv_pos_groups=2,
        num_labels=len(labels or range(num_labels)),
    )
    config = {"_name": CLASSIFIER_NAME, **asdict(architecture)}
    config["conv_feature_layers"] = str(list(architecture.conv_feature_layers))
    model = EcgClassifier(architecture)
    with torch.no_grad():
        model.proj.weight.mul_(3)
    path.parent.mkdir(parents=True, exist_ok=True)
    stated = {"extra_state": {"labels": list(labels.names), "combine": list(labels.combine)}} if labels else {}
    torch.save({"cfg": {"model": config}, "model": model.state_dict(), **stated}, path)


def make_world(
    base: Path,
    test_records: int = 60,
    valid_records: int = 40,
    seed: int = 0,
    labels: LabelSet = ECG_FM,
    unknown: float = 0.0,
) -> Path:
    """Write everything that an evaluation reads below `base`; two records a patient. Return `base`.

    `unknown` is the share of the labels that are not known, and where it is not 0 nobody knows the last label. Without
    valid records there are no manifests.
    """
    rng = np.random.default_rng(seed)
    count = test_records + valid_records
    studies = 40_000_000 + rng.permutation(count * 3)[:count]
    patients = np.concatenate((np.arange(test_records) // 2, 1000 + np.arange(valid_records) // 2)) + 10_000_000
    split = np.repeat(["test", "valid"], [test_records, valid_records])
    truth = rng.random((count, len(labels))) < np.linspace(0.15, 0.85, len(labels))
    if labels is ECG_FM:
        truth[:, NEVER] = False
        truth[:, RARE] = np.arange(count) == 0  # in the test set alone
    heart_rates = np.where(truth[:, labels.names.index("Tachycardia")], 130, 70)
    leads = np.stack([ecg_like(rate, rng) for rate in heart_rates])

    if unknown:
        truth = np.where(rng.random(truth.shape) < unknown, np.nan, truth)
        truth[:, -1] = np.nan
    table(locate(base, "record_list"), subject_id=patients, study_id=studies, path=[f"s{s}" for s in studies])
    table(locate(base, "meta_split"), save_file=[save_file_name(s) for s in studies], split=split)
    table(locate(base, "report"), study_id=studies, mean_mv=np.full(count, 0.1), std_mv=np.full(count, 0.25))
    write_test_set(base, studies[:test_records], truth[:test_records], leads[:test_records], labels)
    if valid_records:
        write_valid_split(base, studies[test_records:], truth[test_records:], leads[test_records:], labels)
    write_checkpoint(locate(base, "checkpoint_best"), seed, labels=None if labels is ECG_FM else labels)
    return base


def ecg_like(rate: float, rng: np.random.Generator) -> np.ndarray:
    """Return 10 s of narrow beats at a rate per minute with noise, standardised: float32 (5000,)."""
    t = np.arange(5000) / 500
    phase = (t * rate / 60 + rng.random()) % 1 - 0.5
    lead = np.exp(-((phase * 60 / rate / 0.015) ** 2)) + 0.2 * np.exp(-(((phase - 0.3) / 0.08) ** 2))
    lead = lead + 0.03 * rng.normal(size=5000)
    return ((lead - lead.mean()) / lead.std()).astype(np.float32)


def table(file: Path, /, **columns) -> None:
    """Write a CSV file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(columns).to_csv(file, index=False)


def write_test_set(
    base: Path, studies: np.ndarray, truth: np.ndarray, leads: np.ndarray, labels: LabelSet = ECG_FM
) -> None:
    """Write the folder of the test set."""
    files = [save_file_name(study) for study in studies]
    for name, study, lead in zip(files, studies, leads):
        mat = {"feats": np.tile(lead, (12, 1)), "curr_sample_rate": 500, "idx": int(study)}
        write_mat(locate(base, "test_mats") / name, mat)
    table(locate(base, "test_file_list"), idx=np.arange(len(studies)), study_id=studies, save_file=files)
    columns = (pd.array(column, dtype="Int64") for column in truth.T.astype(float))
    table(locate(base, "test_labels"), idx=studies, **dict(zip(labels.names, columns)))
    write_label_definition(locate(base, "test_label_def"), labels, truth)


def write_valid_split(
    base: Path, studies: np.ndarray, truth: np.ndarray, leads: np.ndarray, labels: LabelSet = ECG_FM
) -> None:
    """Write the segments and manifests of the valid split, the segments of a record apart from each other.

    As the build stage writes them, the label array holds the train split's rows first.
    """
    train = np.repeat([1, 2, 3], 2)
    folder, manifests = locate(base, "segments"), locate(base, "manifests")
    lines = []
    for half in (0, 1):
        for row, (study, lead) in enumerate(zip(studies, leads)):
            name = f"mimic_iv_ecg_{study}_{half}.mat"
            feats = np.tile(lead[half * 2500 : half * 2500 + 2500], (12, 1))
            ids = {"idx": len(train) + half * len(studies) + row, "original_idx": int(study)}
            write_mat(folder / name, {"feats": feats, "curr_sample_rate": 500, **ids})
            lines.append(f"{name}\t2500")
    manifests.mkdir(parents=True)
    (manifests / "valid.tsv").write_text("\n".join([str(folder.resolve()), *lines]) + "\n")
    rows = np.concatenate((np.ones((len(train), len(labels))), np.tile(truth, (2, 1))))
    np.save(manifests / "y.npy", rows.astype(np.float32))
    write_label_definition(manifests / "label_def.csv", labels, rows[: len(train)])
    np.save(manifests / "original_idx_order.npy", np.concatenate((train, np.tile(studies, 2))))

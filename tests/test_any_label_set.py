"""Labels of the user's own, some of them unknown, from labels.csv to a fine-tuned network, and from there to others."""

import functools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from ecg_training.torch_engine import told_of_labels
from finetune_world import SCRIPT as FINETUNE
from finetune_world import some_settings
from sklearn.metrics import average_precision_score, roc_auc_score
from synthetic_records import digital_ecg, record_path, write_record

from ecg_finetune.checkpoint import load_checkpoint
from ecg_finetune.ecg_fm import label_set_of, load_classifier
from ecg_finetune.files import UserError
from ecg_finetune.label_set import ECG_FM, LABELS, LabelSet, read_label_set, write_label_definition, write_label_table
from ecg_finetune.paths import locate
from ecg_finetune.segments import SegmentDataset, read_label_rows, read_manifest
from ecg_finetune.studies import study_of_save_file
from ecg_finetune.tables import write_rows
from ecg_finetune.training_records import TrainingRecords

SPLIT, PREPROCESS = "split/scripts/create_split.py", "preprocess/scripts/preprocess_ecgfm.py"
BUILD = "build/scripts/build_test_and_finetune_data.py"
LABELS_STAGE = "labels/scripts/create_labels_ecgfm.py"
OWN = LabelSet(("Ectopy, any", "Paced", "Noisy"), ("max", "mean", "max"))
SCP = LabelSet.of([f"SCP {k}" for k in range(71)])
RECORDS = 40


def make_source(base: Path, label_set: LabelSet, unknown: float, seed: int = 0) -> pd.DataFrame:
    """Write records, their list and their labels, label 0 showing as a higher rate; return the labels by study."""
    random = np.random.default_rng(seed)
    studies = 1000 * seed + 1 + random.permutation(RECORDS)
    labels = (random.random((RECORDS, len(label_set))) < 0.4).astype(np.float32)
    for study, row in zip(studies.tolist(), labels):
        signal = digital_ecg(study)
        write_record(base / "raw", record_path(study), signal[::2].repeat(2, axis=0) if row[0] else signal)
    labels[random.random(labels.shape) < unknown] = np.nan
    if unknown:
        labels[7] = np.nan  # nothing is known of this record
    listed = [(study, study, record_path(study)) for study in studies.tolist()]  # each of another patient
    write_rows(locate(base, "record_list"), ["subject_id", "study_id", "path"], listed)
    write_label_table(locate(base, "labels"), label_set.names, range(RECORDS), labels)
    mapping = ((idx, study, "") for idx, study in enumerate(studies.tolist()))
    write_rows(locate(base, "study_id_mapping"), ["idx", "study_id", "split"], mapping)
    write_label_definition(locate(base, "label_def_recomputed"), label_set, labels)
    return pd.DataFrame(labels, index=studies, columns=label_set.names)


def prepare(run, base: Path, label_set: LabelSet, unknown: float, seed: int = 0):
    """Make a source and take it through the stages before fine-tuning; return its labels and what build printed."""
    table = make_source(base, label_set, unknown, seed)
    fractions = ("--valid-frac", 0.3, "--test-frac", 0.2)
    run(SPLIT, "--base-dir", base, "--stratify", locate(base, "computed_labels"), *fractions)
    run(PREPROCESS, "--base-dir", base, "--raw-root", base / "raw", "--workers", 1)
    return table, run(BUILD, "--base-dir", base, "--workers", 1)


def finetune(run, base: Path, *more, epochs: int = 2, **options):
    """Fine-tune the tiny network of a base folder."""
    start = () if "--pretrained" in more else ("--pretrained", "none", "--tiny")
    settings = ("--engine", "torch", "--device", "cpu", "--workers", 1, "--batch-size", 8, "--epochs", epochs)
    return run(FINETUNE, "--base-dir", base, *start, *settings, *more, **options)


def studies_of(base: Path, split: str) -> list[int]:
    """Return the studies of a split in the order of meta_split.csv."""
    table = pd.read_csv(locate(base, "meta_split"))
    return [study_of_save_file(name) for name in table.loc[table["split"] == split, "save_file"]]


@pytest.mark.parametrize(("label_set", "unknown"), [(OWN, 0.3), (SCP, 0.1), (OWN, 0.0)])
def test_labels_of_the_user_s_own_reach_the_network(tmp_path, call_script, label_set, unknown):
    table, printed = prepare(call_script, tmp_path, label_set, unknown)
    names = list(label_set.names)
    without = table.index[table.isna().all(axis=1)]
    assert bool(len(without)) == (unknown > 0)
    left_out = pd.read_csv(locate(tmp_path, "left_out"))
    assert set(left_out["study_id"]) == set(without) and set(left_out["reason"]) <= {"no_labels"}
    table = table.drop(without)
    assert ("records that know each label" in printed.out) == (unknown > 0)
    if unknown:
        line = next(line for line in printed.out.splitlines() if line.startswith(names[0]))
        counts = [table[names[0]].notna().sum(), (table[names[0]] == 1).sum(), table[names[0]].isna().sum()]
        assert list(map(int, line.split()[-3:])) == counts

    y, studies = np.load(locate(tmp_path, "manifest_y")), np.load(locate(tmp_path, "original_idx_order"))
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, table.loc[studies].to_numpy())
    train, test = (table.loc[table.index.intersection(studies_of(tmp_path, split))] for split in ("train", "test"))
    written = pd.read_csv(locate(tmp_path, "test_labels"), index_col="idx").astype("float32")
    pd.testing.assert_frame_equal(written.sort_index(), test.sort_index(), check_names=False)
    share = train.mean()  # of the known ones, as pandas has it
    expected = ((1 - share) / share).replace(np.inf, 0).fillna(0)
    weights = np.array(locate(tmp_path, "manifest_pos_weight").read_text().split(), dtype=float)
    np.testing.assert_allclose(weights, expected, atol=1e-7)
    for name in ("test_label_def", "manifest_label_def"):
        assert read_label_set(locate(tmp_path, name)) == label_set

    output = finetune(call_script, tmp_path).out
    assert ("labels known: " in output) == (unknown > 0)
    best = locate(tmp_path, "checkpoint_best")
    assert label_set_of(best) == read_label_set(locate(tmp_path, "finetune_label_def")) == label_set
    recorded = json.loads(locate(tmp_path, "finetune_settings").read_text())
    assert recorded["settings"]["labels"] == names
    assert_scores_are_of_the_known_labels(tmp_path, recorded["best"], weights)


def assert_scores_are_of_the_known_labels(base: Path, row: dict[str, float], weights: np.ndarray) -> None:
    """Compare the log of the best epoch with PyTorch's loss and scikit-learn's scores of the known labels."""
    manifests = locate(base, "manifests")
    dataset = SegmentDataset(read_manifest(manifests / "valid.tsv"), *read_label_rows(manifests))
    leads, targets = (torch.from_numpy(np.stack(items)) for items in zip(*dataset))
    with torch.inference_mode():
        logits = load_classifier(locate(base, "checkpoint_best"))(leads)
    loss = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(weights), reduction="none")(logits, targets)
    known = ~targets.isnan()
    assert row["valid_loss"] == pytest.approx(loss[known].mean().item() / np.log(2), abs=1e-5)
    assert row["auroc"] == pytest.approx(roc_auc_score(targets[known], logits[known]), abs=1e-6)
    assert row["auprc"] == pytest.approx(average_precision_score(targets[known], logits[known]), abs=1e-6)
    of_labels = [(target[target == target], logit[target == target]) for target, logit in zip(targets.T, logits.T)]
    both = [roc_auc_score(target, logit) for target, logit in of_labels if 0 < target.sum() < len(target)]
    assert row["auroc_macro"] == pytest.approx(np.mean(both), abs=1e-6)


@pytest.fixture
def demo(tmp_path, call_script) -> Path:
    """Return the base folder of a network that is fine-tuned on a little of the demo data."""
    base, raw = tmp_path / "demo", tmp_path / "demo" / "mimic-iv-ecg-demo"
    listed = ("--record-list", raw / "record_list.csv")
    call_script("demo/make_demo_data.py", "--base-dir", base, "--records", 60, "--workers", 1)
    call_script(LABELS_STAGE, "--base-dir", base, "--machine-measurements", raw / "machine_measurements.csv")
    call_script(SPLIT, "--base-dir", base, *listed, "--valid-frac", 0.3)
    call_script(PREPROCESS, "--base-dir", base, *listed, "--raw-root", raw, "--workers", 1)
    call_script(BUILD, "--base-dir", base, "--workers", 1)
    finetune(call_script, base)
    return base


def test_transfer_to_another_source(tmp_path, call_script, demo):
    """From the demo's labels to a source that knows two thirds of the same, and to one with labels of its own."""
    same, other, start = tmp_path / "same", tmp_path / "other", locate(demo, "checkpoint_best")
    prepare(call_script, same, ECG_FM, 0.3, seed=1)
    prepare(call_script, other, OWN, 0.3, seed=2)
    short = functools.partial(finetune, call_script, epochs=1)
    heads = {}
    for base, name, more in [(same, "kept", ("--keep-head",)), (same, "new", ()), (other, "new", ())]:
        out = base / name
        output = short(base, "--pretrained", start, "--lr", "1e-12", "--output-dir", out, *more).out
        assert ("its head is kept\n" if more else "its head is replaced by a new one") in output
        trained_on = len(pd.read_csv(locate(demo, "training_records")))
        assert f"the {trained_on} records that {start} was trained on count" in output
        heads[base, name] = load_checkpoint(out / "checkpoint_best.pt")["model"]["proj.weight"]
        assert label_set_of(out / "checkpoint_best.pt") == (ECG_FM if base == same else OWN)
    old = load_checkpoint(start)["model"]["proj.weight"]
    torch.testing.assert_close(heads[same, "kept"], old, rtol=0, atol=1e-7)
    assert not torch.allclose(heads[same, "new"], old, atol=1e-3) and heads[other, "new"].shape == (3, 64)
    refused = short(other, "--pretrained", start, "--keep-head", "--output-dir", other / "kept", exit_code=1).err
    assert "its head is for other labels: Poor data quality, Sinus rhythm, " in refused
    assert "only in the checkpoint, Ectopy, any, Paced, Noisy only in the manifests; run without --keep-head" in refused
    assert not (other / "kept").exists()


@pytest.mark.parametrize("more", [("--keep-head",), ()])
def test_transfer_to_cinc_2017(tmp_path, call_script, test_data, demo, more):
    """Eighty genuine recordings of a handheld, of which most of ECG-FM's labels are not known."""
    genuine, root, base = test_data / "cinc2017", tmp_path / "root", tmp_path / "cinc"
    root.mkdir()
    lines = (genuine / "REFERENCE.csv").read_text().splitlines()[:80]
    (root / "REFERENCE.csv").write_text("\n".join(lines) + "\n")
    for line in lines:
        for file in (genuine / "records").glob(f"{line.partition(',')[0]}.*"):
            shutil.copy(file, root)
    call_script("sources/scripts/import_source.py", "--source", "cinc2017", "--root", root, "--base-dir", base)
    call_script(SPLIT, "--base-dir", base, "--stratify", locate(base, "computed_labels"), "--valid-frac", 0.3)
    call_script(PREPROCESS, "--base-dir", base, "--raw-root", root, "--workers", 1)
    call_script(BUILD, "--base-dir", base, "--workers", 1)
    y = np.load(locate(base, "manifest_y"))
    assert np.isnan(y[:, ECG_FM.names.index("Infarction")]).all() and 0.5 < np.isnan(y).mean() < 0.9
    output = finetune(call_script, base, "--pretrained", locate(demo, "checkpoint_best"), "--lr", 1e-3, *more).out
    assert re.search(
        "note: no train segment knows whether it has .*Infarction, .*: these outputs learn nothing", output
    )
    recorded = json.loads(locate(base, "finetune_settings").read_text())
    weights = np.array(locate(base, "manifest_pos_weight").read_text().split(), dtype=float)
    assert_scores_are_of_the_known_labels(base, recorded["best"], weights)
    assert recorded["labels_not_learnt"] == [name for name, weight in zip(LABELS, weights) if weight == 0]
    start, end = (load_checkpoint(locate(of, "checkpoint_best"))["model"]["proj.bias"] for of in (demo, base))
    unlearnt = ECG_FM.names.index("Infarction")
    assert end[unlearnt] == (start[unlearnt] if more else 0)  # of a new head


def test_outputs_that_cannot_learn_are_told():
    label_set = LabelSet.of(["Both", "Never known", "Never there", "Always there"])
    nan = np.nan
    labels = np.array([[0, nan, 0, 1], [1, nan, 0, nan], [1, 1, 1, 0], [0, 0, 1, 0]], dtype=np.float32)
    studies, split = np.array([5, 6, 7, 8]), np.array([0, 0, 1, 1], dtype=np.int8)
    settings = some_settings(label_set=label_set)
    told = told_of_labels(settings, labels, studies, TrainingRecords(studies, studies, split))
    assert told == [
        "labels known: 62.5% of train, 100.0% of valid",
        "note: no train segment knows whether it has Never known: these outputs learn nothing here",
        "note: no train segment has Never there (weight 0.0): these outputs only learn to be low",
        "note: all that know Always there have it (weight 0.0): these outputs learn nothing here",
    ]
    labels[2:] = nan
    with pytest.raises(UserError, match=r"y.npy: no label of a valid segment is known"):
        told_of_labels(settings, labels, studies, TrainingRecords(studies, studies, split))

"""finetune_ecgfm.py with the torch engine: runs that stop and go on, and what is refused."""

import dataclasses
import functools
import json
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from ecg_training import torch_engine
from ecg_training.checkpoint_folder import claim_folder, record_run
from ecg_training.torch_engine import TINY, build_model
from ecg_training.trainer import Trainer
from finetune_world import (
    REPOSITORY,
    SCRIPT,
    datasets,
    make_manifests,
    some_settings,
    tiny_run,
    write_pretrained,
)

from ecg_finetune import run_folder
from ecg_finetune.checkpoint import describe, load_checkpoint
from ecg_finetune.documents import load_parser
from ecg_finetune.ecg_fm import Architecture, label_set_of, load_classifier
from ecg_finetune.files import UserError, sha256
from ecg_finetune.label_set import ECG_FM, LABELS, LabelSet, read_pos_weight, write_label_definition
from ecg_finetune.training_records import read_training_records


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    return make_manifests(tmp_path_factory.mktemp("build"))


@pytest.fixture
def main(call_script):
    return functools.partial(call_script, SCRIPT)


@pytest.fixture(scope="module")
def uninterrupted(manifests, tmp_path_factory, run_script):
    """Run 4 epochs as a user does; return the folder and the process."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run_script(SCRIPT, *tiny_run(manifests, folder, "--epochs", 4, "--save-every", 1))


def assert_same_run(folder, other):
    """Assert that two runs came out bit for bit equal."""
    for name in ("checkpoint_best.pt", "checkpoint_last.pt"):
        mine, theirs = (load_checkpoint(place / name) for place in (folder, other))
        assert list(mine["model"]) == list(theirs["model"])
        assert all(torch.equal(mine["model"][key], theirs["model"][key]) for key in mine["model"]), name
    assert mine["position"]["updates"] == theirs["position"]["updates"]
    for key, state in mine["optimizer"]["state"].items():
        assert torch.equal(state["exp_avg_sq"], theirs["optimizer"]["state"][key]["exp_avg_sq"])
    columns = ["epoch", "updates", "train_loss", "valid_loss", "auroc", "auprc", "auroc_macro", "best"]
    logs = [pd.read_csv(place / "training_log.csv")[columns] for place in (folder, other)]
    pd.testing.assert_frame_equal(*logs, check_exact=True)


def test_a_run_leaves_checkpoint_log_curves_and_settings(uninterrupted, manifests):
    folder, process = uninterrupted
    assert {path.name for path in folder.iterdir()} == {
        "checkpoint_best.pt",
        "checkpoint_last.pt",
        "training_log.csv",
        "training_records.csv",
        "training_curves.png",
        "settings.json",
        "label_def.csv",
    }
    assert (folder / "label_def.csv").read_bytes() == (manifests / "label_def.csv").read_bytes()
    records = pd.read_csv(folder / "training_records.csv")
    assert list(records) == ["study_id", "subject_id", "split"] and set(records["split"]) == {"train", "valid"}
    labelled = np.load(manifests / "original_idx_order.npy")
    assert set(records["study_id"]) <= set(labelled.tolist()) and records["study_id"].is_unique
    stated = load_checkpoint(folder / "checkpoint_best.pt")["extra_state"]["training_records_sha256"]
    assert stated == sha256(folder / "training_records.csv")
    assert load_classifier(folder / "checkpoint_best.pt").training_records == stated
    log = pd.read_csv(folder / "training_log.csv")
    assert list(log["epoch"]) == [1, 2, 3, 4] and list(log["updates"]) == [5, 10, 15, 20]
    assert log["train_loss"].iloc[-1] < log["train_loss"].iloc[0]  # the convolutions of a random start are trained too
    told = re.findall(
        r"epoch (\d)/4: loss train ([\d.]+) valid ([\d.]+), AUROC micro .* segments/s, \S+ left", process.stdout
    )
    assert [(int(a), float(b), float(c)) for a, b, c in told] == [
        (row.epoch, pytest.approx(row.train_loss, abs=6e-4), pytest.approx(row.valid_loss, abs=6e-4))
        for row in log.itertuples()
    ]
    best = log.loc[log["best"] == 1].iloc[-1]
    assert best["valid_loss"] == pytest.approx(log["valid_loss"].min(), abs=6e-4)
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["finished"] and settings["best"]["epoch"] == best["epoch"]
    assert settings["settings"]["labels"] == list(LABELS)
    assert label_set_of(folder / "checkpoint_best.pt") == ECG_FM
    assert f"labels: {', '.join(LABELS)}" in describe(load_checkpoint(folder / "checkpoint_best.pt"))
    assert settings["checkpoint_sha256"] == sha256(folder / "checkpoint_best.pt")
    assert (folder / "training_curves.png").read_bytes().startswith(b"\x89PNG")
    # The checkpoint is the network whose valid loss the log tells.
    model = load_classifier(folder / "checkpoint_best.pt")
    trainer = Trainer(
        model, read_pos_weight(manifests / "pos_weight.txt", 17), some_settings(batch_size=5), torch.device("cpu")
    )
    assert trainer.validate(datasets(manifests)[1])["valid_loss"] == pytest.approx(best["valid_loss"], abs=1e-6)


def test_a_killed_run_goes_on_bit_for_bit(uninterrupted, manifests, tmp_path, run_script):
    command = [sys.executable, SCRIPT, *map(str, tiny_run(manifests, tmp_path, "--epochs", 4, "--save-every", 1))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=REPOSITORY)
    last = tmp_path / "checkpoint_last.pt"
    while not (last.exists() and load_checkpoint(last)["position"]["updates"] >= 7):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    stopped_at = load_checkpoint(last)["position"]
    assert 7 <= stopped_at["updates"] < 20
    resumed = run_script(SCRIPT, *tiny_run(manifests, tmp_path, "--epochs", 4, "--save-every", 1, "--resume"))
    assert "resumed after epoch" in resumed.stdout
    assert_same_run(tmp_path, uninterrupted[0])


def test_a_run_killed_before_its_last_log_row_writes_it_when_resumed(uninterrupted, manifests, tmp_path, main):
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted[0], folder)
    whole = pd.read_csv(folder / "training_log.csv")
    whole.iloc[:-1].to_csv(folder / "training_log.csv", index=False)
    (folder / "training_curves.png").unlink()
    main(*tiny_run(manifests, folder, "--epochs", 4, "--resume"))
    pd.testing.assert_frame_equal(pd.read_csv(folder / "training_log.csv"), whole)
    assert (folder / "training_curves.png").read_bytes() == (uninterrupted[0] / "training_curves.png").read_bytes()


@pytest.mark.parametrize("name", ["checkpoint_last.pt", "checkpoint_best.pt"])
def test_a_run_without_its_checkpoints_is_not_started_over(uninterrupted, manifests, tmp_path, main, name):
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted[0], folder)
    (folder / name).unlink()
    left = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert (
        f"{name} of its run is missing"
        in main(*tiny_run(manifests, folder, "--epochs", 4, "--resume"), exit_code=1).err
    )
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == left


def test_a_second_run_into_the_same_folder_is_refused(manifests, tmp_path, main, monkeypatch):
    monkeypatch.setattr(run_folder, "LOCK_PATIENCE", 0.1)
    with run_folder.locked(tmp_path, tmp_path / "run.lock"):
        assert "another run" in main(*tiny_run(manifests, tmp_path), exit_code=1).err
    assert list(tmp_path.iterdir()) == []


def frozen_parts(model) -> set[str]:
    """Return the parts of the encoder of which a parameter is not trained."""
    return {name.split(".")[1] for name, weight in model.named_parameters() if not weight.requires_grad}


def test_convolutions_are_frozen_in_a_pretrained_network_and_trained_in_a_random_one(test_data, monkeypatch):
    pretrained = build_model(some_settings(pretrained=test_data / "checkpoints" / "tiny1_pretrained.pt"))
    small = functools.partial(Architecture, encoder_layers=1, encoder_embed_dim=32, encoder_ffn_embed_dim=32)
    monkeypatch.setattr(torch_engine, "Architecture", functools.partial(small, encoder_attention_heads=2))
    random = build_model(some_settings(pretrained=None))
    assert frozen_parts(pretrained) == {"feature_extractor"} and frozen_parts(random) == set()
    for network in (pretrained.architecture, random.architecture):
        assert network.activation_dropout == 0.1
        assert network.dropout == network.attention_dropout == network.dropout_input == network.final_dropout == 0


def test_settings_are_shown_as_they_are_used(uninterrupted):
    shown = dict(re.findall(r"^  --(\S+) (.*)$", uninterrupted[1].stdout, re.MULTILINE))
    expected = {"seed": "1", "epochs": "4", "lr": "0.001", "batch-size": "5", "max-update": "0", "patience": "0"}
    assert {name: shown[name] for name in expected} == expected
    unused = {"augment-effects", "augment-noise", "augment-snr", "fairseq-root", "noise-root"}
    assert {name for name, value in shown.items() if value == "None"} == unused


def test_help_imports_no_heavy_package():
    heavy = ("torch", "sklearn", "scipy", "pandas", "matplotlib")
    program = "import sys, runpy; sys.argv = sys.argv[1:]\ntry: runpy.run_path(sys.argv[0], run_name='__main__')\n"
    program += f"except SystemExit: print([name for name in {heavy} if name in sys.modules])"
    command = [sys.executable, "-c", program, SCRIPT, "--help"]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY).stdout
    assert "--max-update" in output and output.endswith("[]\n")


# When a run stops


def updates_and_epochs(folder) -> list[tuple[int, int]]:
    """Return (epoch, updates) of every row of the log."""
    return list(pd.read_csv(folder / "training_log.csv")[["epoch", "updates"]].itertuples(index=False, name=None))


def test_max_update_stops_within_an_epoch_and_is_on_record(manifests, tmp_path, main):
    output = main(*tiny_run(manifests, tmp_path, "--epochs", 4, "--max-update", 7))
    assert updates_and_epochs(tmp_path) == [(1, 5), (2, 7)]
    assert "epoch 2/2: " in output.out and "2 epochs, 7 updates" in output.out
    config = load_checkpoint(tmp_path / "checkpoint_best.pt")["cfg"]["optimization"]
    assert (config["max_update"], config["max_epoch"]) == (7, 4)
    recorded = json.loads((tmp_path / "settings.json").read_text())
    assert recorded["settings"]["max_update"] == 7 and recorded["finished"]
    assert (
        "max_update 7, this run has max_update 9"
        in main(*tiny_run(manifests, tmp_path, "--epochs", 4, "--max-update", 9, "--resume"), exit_code=1).err
    )
    # There is nothing left to do, whatever the number of epochs.
    main(*tiny_run(manifests, tmp_path, "--epochs", 6, "--max-update", 7, "--resume"))
    assert updates_and_epochs(tmp_path) == [(1, 5), (2, 7)]


def test_patience_does_not_take_a_tie_for_progress(manifests, tmp_path, main):
    """At this learning rate every loss is the same to 3 decimals: fairseq-signals stops after 3 of the 6 epochs."""
    main(*tiny_run(manifests, tmp_path, "--lr", "1e-9", "--epochs", 6, "--patience", 2))
    log = pd.read_csv(tmp_path / "training_log.csv")
    assert log["valid_loss"].round(3).nunique() == 1
    assert list(log["epoch"]) == [1, 2, 3] and list(log["best"]) == [1, 1, 1]


@pytest.mark.parametrize(("more", "told"), [([], "same command to go on"), (["--overwrite"], "without --overwrite to")])
def test_ctrl_c_says_how_to_go_on(manifests, tmp_path, call_script, monkeypatch, more, told):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch_engine, "train", stop)
    assert told in call_script(SCRIPT, *tiny_run(manifests, tmp_path, *more), exit_code=130).err


# The head of a fine-tuned checkpoint


@pytest.fixture
def fine_tuned(tmp_path):
    """Return a fine-tuned checkpoint of 17 labels whose names are not known."""
    return write_pretrained(tmp_path / "elsewhere" / "checkpoint_best.pt", fine_tuned=True)


def name_labels(checkpoint, labels):
    """Write settings.json beside a checkpoint, as a run leaves it."""
    record_run(checkpoint.parent, {"settings": {"labels": list(labels)}}, {})


def head_of(path):
    """Return the weights of a checkpoint's head."""
    return load_checkpoint(path)["model"]["proj.weight"]


def head_options(manifests, pretrained, folder, *more):
    """Return the options of a short run from a checkpoint that leaves the head nearly as it was."""
    options = ["--engine", "torch", "--pretrained", pretrained, "--manifests", manifests, "--output-dir", folder]
    return [*options, "--device", "cpu", "--epochs", 1, "--lr", "1e-12", *more]


def test_a_new_head_is_drawn_and_the_labels_of_the_old_one_are_named(manifests, tmp_path, fine_tuned, main):
    name_labels(fine_tuned, [f"Finding {k}" for k in range(17)])
    output = main(*head_options(manifests, fine_tuned, tmp_path / "out")).out
    assert "fine-tuned network of 17 labels (Finding 0, Finding 1, " in output
    assert "replaced by a new one\n" in output
    assert not torch.allclose(head_of(tmp_path / "out" / "checkpoint_best.pt"), head_of(fine_tuned), atol=1e-3)


@pytest.mark.parametrize("named", [True, False])
def test_the_head_is_kept_where_the_labels_are_the_same(manifests, tmp_path, fine_tuned, main, named):
    if named:
        name_labels(fine_tuned, LABELS)
    output = main(*head_options(manifests, fine_tuned, tmp_path / "out", "--keep-head")).out
    assert "its head is kept" in output and ("assumption" in output) != named
    torch.testing.assert_close(head_of(tmp_path / "out" / "checkpoint_best.pt"), head_of(fine_tuned), atol=1e-7, rtol=0)
    assert json.loads((tmp_path / "out" / "settings.json").read_text())["settings"]["keep_head"]


def test_what_the_start_was_trained_on_counts_as_trained_on(uninterrupted, tmp_path, main):
    """Else the patients of the first run would pass the leak check of the second one's checkpoint."""
    first, other = uninterrupted[0], make_manifests(tmp_path / "other", first_study=2000)
    output = main(*head_options(other, first / "checkpoint_best.pt", tmp_path / "second")).out
    assert "the 32 records that" in output and "count as trained on" in output
    before, after = (read_training_records(folder / "training_records.csv") for folder in (first, tmp_path / "second"))
    assert len(after.study_id) == 64 and set(before.study_id) < set(after.study_id) and after.complete
    recorded = json.loads((tmp_path / "second" / "settings.json").read_text())
    assert recorded["earlier"][1] == json.loads((first / "settings.json").read_text())

    shutil.copy(first / "checkpoint_best.pt", tmp_path / "alone.pt")
    output = main(*head_options(other, tmp_path / "alone.pt", tmp_path / "third")).out
    assert "not known which records" in output
    after = read_training_records(tmp_path / "third" / "training_records.csv")
    assert set(after.study_id) == set(range(2000, 2032)) and not after.complete


def test_a_start_that_was_trained_on_the_valid_records_is_told(uninterrupted, tmp_path, main):
    """Of the same records, but 12 train and 20 valid instead of 22 and 10."""
    other = make_manifests(tmp_path / "other", 12, 20)
    output = main(*head_options(other, uninterrupted[0] / "checkpoint_best.pt", tmp_path / "second")).out
    assert "was trained on patients of 10 of the 20 valid records" in output


def test_a_head_of_other_labels_is_not_kept(manifests, tmp_path, fine_tuned, main):
    name_labels(fine_tuned, [*LABELS[:2], LABELS[3], LABELS[2], *LABELS[4:]])
    options = head_options(manifests, fine_tuned, tmp_path / "out", "--keep-head")
    told = f"its head is for other labels: the same in another order: {LABELS[3]} in the checkpoint where {LABELS[2]} "
    assert told in main(*options, exit_code=1).err and not (tmp_path / "out").exists()
    name_labels(fine_tuned, [*LABELS[:-2], "Gout", "Shoe size"])
    told = f"Gout, Shoe size only in the checkpoint, {', '.join(LABELS[-2:])} only in the manifests; run without --keep"
    assert told in main(*options, exit_code=1).err


def test_a_head_of_another_width_is_not_kept(manifests, tmp_path, main):
    path = write_pretrained(tmp_path / "f.pt", dataclasses.replace(TINY, num_labels=5), fine_tuned=True)
    options = head_options(manifests, path, tmp_path / "out", "--keep-head")
    assert "its head is for other labels: 5 in the checkpoint, 17 in the manif" in main(*options, exit_code=1).err


def test_settings_beside_another_checkpoint_name_no_labels(manifests, tmp_path, fine_tuned, main):
    """The default folder of runs is also where ECG-FM's checkpoint is put."""
    name_labels(fine_tuned, ["Gout"])
    other = fine_tuned.rename(fine_tuned.with_name("ecg_fm_finetuned.pt"))
    assert "assumption" in main(*head_options(manifests, other, tmp_path / "out", "--keep-head")).out


def test_the_labels_of_a_checkpoint_are_found_in_it_or_beside_it(uninterrupted, tmp_path, fine_tuned):
    alone = shutil.copy(uninterrupted[0] / "checkpoint_best.pt", tmp_path / "alone.pt")
    assert label_set_of(alone) == load_classifier(alone).label_set == ECG_FM

    mine = LabelSet(tuple(f"Finding {k}" for k in range(17)), ("max", "mean") * 8 + ("max",))
    assert label_set_of(fine_tuned) is None  # one of fairseq-signals states none
    write_label_definition(fine_tuned.parent / "label_def.csv", mine, np.zeros((1, 17)))
    assert label_set_of(fine_tuned) == load_classifier(fine_tuned).label_set == mine
    record_run(fine_tuned.parent, {"settings": LabelSet.of(mine.names).stated()}, {})
    assert label_set_of(fine_tuned) == LabelSet.of(mine.names)
    other = write_pretrained(fine_tuned.with_name("other.pt"), fine_tuned=True, seed=2)
    assert label_set_of(other) is None  # what lies beside it is of another run
    narrow = write_pretrained(tmp_path / "narrow" / "f.pt", dataclasses.replace(TINY, num_labels=2), fine_tuned=True)
    shutil.copy(fine_tuned.parent / "label_def.csv", narrow.parent)
    assert label_set_of(narrow) is None


def test_what_a_run_is_resumed_from_is_no_network(uninterrupted):
    with pytest.raises(UserError, match="what a run is resumed from, not a network; give the checkpoint_best.pt"):
        load_classifier(uninterrupted[0] / "checkpoint_last.pt")


def test_a_head_that_is_not_there_is_not_kept(manifests, tmp_path, main):
    path = write_pretrained(tmp_path / "p.pt")
    for pretrained, told in ((path, "not fine-tuned, so it has no head"), ("none", "--pretrained none has no head")):
        assert told in main(*head_options(manifests, pretrained, tmp_path / "out", "--keep-head"), exit_code=1).err


# What may be used again


SETTINGS = {"lr": 1e-3, "epochs": 3, "patience": 0, "pretrained": {"sha256": "1" * 64}}


def claim(folder, resume=False, overwrite=False, resumable=True, **changes):
    """Claim a folder for a run with changed settings."""
    return claim_folder(folder, SETTINGS | changes, resume=resume, overwrite=overwrite, resumable=resumable)


def leave_run(folder, *names, finished=False):
    """Leave what a run with these settings leaves."""
    for name in names:
        (folder / name).touch()
    record_run(folder, {"settings": SETTINGS}, {}, finished=finished)


def test_an_interrupted_run_is_resumed_by_the_same_command_only(tmp_path):
    assert claim(tmp_path) is False  # nothing there
    leave_run(tmp_path, "checkpoint_last.pt")
    assert claim(tmp_path) is True
    with pytest.raises(UserError, match="filled with epochs 3, this run has epochs 4; --resume goes on with other epo"):
        claim(tmp_path, epochs=4)
    assert claim(tmp_path, epochs=4, patience=2, resume=True) is True
    leave_run(tmp_path, "checkpoint_best.pt", finished=True)
    with pytest.raises(UserError, match="holds a finished run with these settings; go on with --resume and more --ep"):
        claim(tmp_path)
    assert claim(tmp_path, resume=True) is True


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_with_another_run_is_refused_in_a_short_line(tmp_path, resume):
    leave_run(tmp_path, "checkpoint_best.pt", "checkpoint_last.pt")
    with pytest.raises(UserError, match=r"filled with lr 0.001, this run has lr 0.01; .*start over with --overwrite"):
        claim(tmp_path, lr=1e-2, resume=resume)
    with pytest.raises(UserError, match="filled with pretrained sha256 1{64}, this run has pretrained sha256 2{64}; "):
        claim(tmp_path, pretrained={"sha256": "2" * 64}, resume=resume)
    with pytest.raises(UserError, match="filled with overrides None, this run has overrides") as caught:
        claim(tmp_path, overrides=["a=1"] * 1000, resume=resume)
    assert len(str(caught.value)) < len(str(tmp_path)) + 500


@pytest.mark.parametrize("finished", [False, True])
def test_a_run_that_cannot_be_resumed_is_not_and_resuming_is_not_suggested(tmp_path, finished):
    leave_run(tmp_path, "checkpoint_best.pt", finished=finished)
    for changes, told in (({}, "cannot be resumed"), ({"epochs": 4}, "this run has epochs 4")):
        with pytest.raises(UserError, match=told) as caught:
            claim(tmp_path, resumable=False, **changes)
        assert "--overwrite" in str(caught.value) and "--resume" not in str(caught.value)


def test_a_start_that_came_to_nothing_does_not_block_the_folder(tmp_path):
    leave_run(tmp_path, "command.sh", "checkpoint_best.pt.tmp")
    assert claim(tmp_path, lr=1e-2) is False
    assert list(tmp_path.iterdir()) == []


def test_overwrite_removes_all_of_a_run_and_nothing_else(tmp_path):
    leave_run(tmp_path, "checkpoint_best.pt", "checkpoint.best_loss_0.61.pt", "training_log.csv", "training_curves.png")
    for name in ("checkpoint_last.pt", "command.sh", "README.md", "mimic_iv_ecg_physionet_pretrained.pt"):
        (tmp_path / name).touch()
    assert claim(tmp_path, overwrite=True) is False
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "mimic_iv_ecg_physionet_pretrained.pt"}


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"settings": 5}'])
def test_a_checkpoint_without_readable_settings_is_left_alone(tmp_path, content):
    (tmp_path / "checkpoint.best_loss_0.61.pt").touch()
    if content is not None:
        (tmp_path / "settings.json").write_text(content)
    with pytest.raises(UserError, match="checkpoint.best_loss_0.61.pt, but settings.json, .* is missing or damaged"):
        claim(tmp_path)


def test_a_run_does_not_replace_the_checkpoint_it_starts_from(manifests, tmp_path, main):
    path = write_pretrained(tmp_path / "checkpoint_best.pt", fine_tuned=True)
    before = path.read_bytes()
    assert "this run would replace it" in main(*head_options(manifests, path, tmp_path, "--overwrite"), exit_code=1).err
    assert path.read_bytes() == before


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_the_folder_of_another_stage_is_left_alone(manifests, main, more):
    before = {path: path.read_bytes() for path in manifests.iterdir() if path.suffix in (".csv", ".npy", ".txt")}
    told = main(*tiny_run(manifests, manifests, "--epochs", 1, *more), exit_code=1).err
    assert f"error: {manifests}: holds y.npy of another stage" in told
    assert all(path.read_bytes() == content for path, content in before.items())


def test_the_script_refuses_a_folder_with_a_run(uninterrupted, manifests, main):
    before = (uninterrupted[0] / "checkpoint_best.pt").read_bytes()
    told = main(*tiny_run(manifests, uninterrupted[0], "--epochs", 4), exit_code=1).err
    assert "--resume" in told and "--overwrite" in told
    assert (uninterrupted[0] / "checkpoint_best.pt").read_bytes() == before


def test_a_missing_manifest_names_the_stage_that_makes_it(manifests, tmp_path, main):
    told = main(*tiny_run(tmp_path, tmp_path / "out"), exit_code=1).err
    assert "label_def.csv" in told and "build" in told
    shutil.copy(manifests / "label_def.csv", tmp_path)
    told = main(*tiny_run(tmp_path, tmp_path / "out"), exit_code=1).err
    assert "train.tsv" in told and "build" in told
    assert not (tmp_path / "out").exists()


def test_a_bad_segment_leaves_an_older_run_alone(tmp_path, main):
    manifests = make_manifests(tmp_path / "build", 4, 2)
    (manifests.parent / "segmented_5s" / "5_0.mat").unlink()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "checkpoint_best.pt").write_text("of an older run")
    assert "5_0.mat" in main(*tiny_run(manifests, tmp_path / "out", "--overwrite"), exit_code=1).err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["checkpoint_best.pt"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--engine", "torch", "--print-command"], "--print-command"),
        (["--engine", "fairseq", "--pretrained", "none"], "--pretrained none is for --engine torch"),
        (["--tiny"], "give --pretrained none"),
        (["--resume", "--overwrite"], "give one of them"),
        (["--print-command", "--batch-size", "20"], "multiple of 8"),
        (["--engine", "torch", "--batch-size", "2", "--accumulate", "3"], "--accumulate 3 is more"),
        (["--engine", "torch", "--", "common.fp16=true"], "the engine is torch"),
        (["--pretrained", "~no_such_user/ecg_fm.pt"], "~no_such_user/ecg_fm.pt: there is no such user"),
        (["--engine", "torch", "--pretrained", "/none.pt"], "/none.pt: no such file"),
        (["--pretrained", "none", "--device", "cuda:99"], "--device cuda:99"),
        (["--pretrained", "none", "--device", "abacus"], "--device abacus"),
    ],
)
def test_options_that_do_not_go_together_are_told(options, told, tmp_path, main):
    assert told in main("--base-dir", tmp_path, *options, exit_code=1).err


@pytest.mark.parametrize("option", ["--seed=-1", "--seed=4294967296", "--patience=-1", "--save-every=-1", "--lr=0"])
def test_numbers_out_of_range_are_wrong_usage(option, capsys):
    with pytest.raises(SystemExit) as stopped:
        load_parser(SCRIPT).parse_args([option])
    assert stopped.value.code == 2 and f"argument {option.partition('=')[0]}: " in capsys.readouterr().err

"""leads.npy: what it holds, that it is made once, when it is made anew, and what is left when its making is stopped."""

import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from ecg_training import packed_leads as module
from ecg_training.packed_leads import packed_leads
from ecg_training.training_data import TrainingData
from finetune_world import REPOSITORY, SAMPLES, SCRIPT, make_manifests, tiny_run
from scipy.io import loadmat, savemat

from ecg_finetune.files import UserError
from ecg_finetune.segments import read_label_rows, read_manifest

FILES = {"leads.npy", "leads_idx.npy", "leads.npy.run.json"}


@pytest.fixture
def manifests(tmp_path):
    return make_manifests(tmp_path / "build")


def pack(manifests, path=None, **options):
    """Pack the train and valid segments of manifests."""
    listed = [read_manifest(manifests / f"{split}.tsv") for split in ("train", "valid")]
    return packed_leads(path or manifests / "leads.npy", listed, read_label_rows(manifests)[1], **options)


def files_of(manifests):
    """Return the segment files in the order of the manifests."""
    return [file for split in ("train", "valid") for file in read_manifest(manifests / f"{split}.tsv").files]


def assert_packed(packed, manifests):
    """Assert that leads and rows are those that scipy reads from every file."""
    content = [loadmat(file) for file in files_of(manifests)]
    np.testing.assert_array_equal(packed.leads, [one["feats"][3] for one in content])
    np.testing.assert_array_equal(packed.idx, [one["idx"].item() for one in content])


@pytest.fixture
def read(monkeypatch):
    """Return the list of the files that are read, in order."""
    seen = []

    def note(file, *others):
        seen.append(file)
        return unpatched(file, *others)

    unpatched = module.read_segment
    monkeypatch.setattr(module, "read_segment", note)
    return seen


def test_every_segment_is_read_once_for_all_runs(manifests, read, capsys):
    assert_packed(pack(manifests), manifests)
    assert read == files_of(manifests)
    assert "packing the leads of 32 segments into " in capsys.readouterr().out
    stored = np.load(manifests / "leads.npy")
    assert stored.shape == (32, SAMPLES) and stored.dtype == np.float32
    assert {path.name for path in manifests.glob("leads*")} == FILES
    read.clear()
    again = pack(manifests)
    assert_packed(again, manifests)
    assert isinstance(again.leads, np.memmap) and capsys.readouterr().out == ""
    assert len(read) <= module.COMPARED


def test_segments_are_read_by_several_processes(tmp_path, monkeypatch):
    manifests = make_manifests(tmp_path / "build", 60, 20)
    monkeypatch.setattr(module, "CHUNK", 7)
    monkeypatch.setattr(module, "WORTH_PROCESSES", 10)
    assert_packed(pack(manifests, workers=2), manifests)


def overwrite(file, **changes):
    """Write other content into a segment file, without a trace in its folder."""
    content = {name: value for name, value in loadmat(file).items() if not name.startswith("__")}
    savemat(file, content | changes)


CHANGES = {
    "fewer train segments": lambda m: (m / "train.tsv").write_text((m / "train.tsv").read_text().rpartition("15_0")[0]),
    "another order": lambda m: (m / "valid.tsv").write_text(swapped((m / "valid.tsv").read_text())),
    "a segment replaced": lambda m: replacement(m).replace(files_of(m)[3]),
    "a segment overwritten": lambda m: overwrite(files_of(m)[3], feats=np.ones((12, SAMPLES), np.float32)),
    "the rows of y.npy in another order": lambda m: reorder_rows(m),
    "leads.npy cut": lambda m: os.truncate(m / "leads.npy", 9000),
    "leads.npy of another kind": lambda m: np.save(m / "leads.npy", np.zeros((32, SAMPLES))),
    "leads.npy no array": lambda m: (m / "leads.npy").write_text("leads"),
    "leads.npy removed": lambda m: (m / "leads.npy").unlink(),
    "leads_idx.npy removed": lambda m: (m / "leads_idx.npy").unlink(),
    "leads_idx.npy out of range": lambda m: np.save(m / "leads_idx.npy", np.full(32, 32)),
    "the note removed": lambda m: (m / "leads.npy.run.json").unlink(),
    "the note damaged": lambda m: (m / "leads.npy.run.json").write_text("{"),
}


def swapped(text):
    """Return the text of a manifest with its first two segments swapped."""
    root, first, second, *rest = text.splitlines()
    return "\n".join([root, second, first, *rest]) + "\n"


def replacement(manifests):
    """Write another signal beside a segment; return that file."""
    file = files_of(manifests)[3]
    other = file.with_name("other.mat")
    other.write_bytes(file.read_bytes())
    overwrite(other, feats=np.ones((12, SAMPLES), np.float32))
    return other


def reorder_rows(manifests):
    """Let two segments change places in y.npy."""
    studies = np.load(manifests / "original_idx_order.npy")
    studies[[0, 1]] = studies[[1, 0]]
    np.save(manifests / "original_idx_order.npy", studies)
    files = files_of(manifests)
    overwrite(files[0], idx=1)
    overwrite(files[1], idx=0)


def test_a_file_that_is_not_its_own_is_not_replaced(manifests):
    before = (manifests / "y.npy").read_bytes()
    with pytest.raises(UserError, match="y.npy: not made by an earlier run"):
        pack(manifests, manifests / "y.npy")
    assert (manifests / "y.npy").read_bytes() == before and not list(manifests.glob("y*.lock"))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_leads_of_other_segments_are_never_used(manifests, change, read):
    pack(manifests)
    change(manifests)
    read.clear()
    assert_packed(pack(manifests), manifests)
    assert set(read) == set(files_of(manifests))
    assert {path.name for path in manifests.glob("leads*")} == FILES


@pytest.mark.parametrize("stop_at", [1, 13, 16, 31])
def test_packing_goes_on_where_it_was_stopped(manifests, monkeypatch, read, stop_at):
    monkeypatch.setattr(module, "CHUNK", 4)
    monkeypatch.setattr(module, "NOTED", 8)

    def stop(file, *others):
        if file == files_of(manifests)[stop_at]:
            raise KeyboardInterrupt
        return reading(file, *others)

    reading = module.read_segment
    with monkeypatch.context() as patch:
        patch.setattr(module, "read_segment", stop)
        with pytest.raises(KeyboardInterrupt):
            pack(manifests)
    assert not (manifests / "leads.npy").exists()
    read.clear()
    assert_packed(pack(manifests), manifests)
    assert read == files_of(manifests)[stop_at // 8 * 8 :]


def test_what_was_packed_before_the_segments_changed_is_not_gone_on_with(manifests, monkeypatch, read):
    monkeypatch.setattr(module, "CHUNK", 4)
    monkeypatch.setattr(module, "NOTED", 4)
    (file := files_of(manifests)[20]).rename(file.with_suffix(".away"))
    with pytest.raises(UserError, match="20_0.mat: no such file"):
        pack(manifests)
    assert json.loads((manifests / "leads.npy.run.json").read_text())["packed"] == 20
    file.with_suffix(".away").rename(file)
    read.clear()
    assert_packed(pack(manifests), manifests)
    assert read == files_of(manifests)


def test_a_partial_file_that_lost_its_end_is_not_gone_on_with(manifests):
    pack(manifests)
    (manifests / "leads.npy").rename(manifests / "leads.npy.partial")
    os.truncate(manifests / "leads.npy.partial", 9000)
    assert_packed(pack(manifests), manifests)


def test_what_changed_while_it_was_packed_is_packed_again(manifests, monkeypatch, read):
    def touch(file, *others):
        os.utime(file.parent, ns=(1, 1))
        return reading(file, *others)

    reading = module.read_segment
    with monkeypatch.context() as patch:
        patch.setattr(module, "read_segment", touch)
        pack(manifests)
    read.clear()
    assert_packed(pack(manifests), manifests)
    assert read == files_of(manifests)


def test_a_full_disk_is_told_before_anything_is_written(manifests, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(UserError, match=r"leads of 32 segments need 39 kB, and 10 kB are free there; .*--leads"):
        pack(manifests)
    assert not list(manifests.glob("leads*"))


class Usage:
    """A disk with 10 kB free."""

    free = 10_000


def test_two_runs_at_once_make_it_once(manifests):
    """In processes of their own, as two runs are; the second waits for the first."""
    program = (
        "import sys, time; from pathlib import Path; import test_packed_leads as t\n"
        "reading = t.module.read_segment\n"
        "t.module.read_segment = lambda *given: (time.sleep(0.05), reading(*given))[1]\n"
        "t.assert_packed(t.pack(Path(sys.argv[1])), Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", program, manifests]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY / "tests") for _ in range(2)]
    told = sorted(run.communicate(timeout=100)[0] for run in runs)
    assert [run.returncode for run in runs] == [0, 0]
    assert sum(text.count("packing the leads") for text in told) == 1
    assert {path.name for path in manifests.glob("leads*")} == FILES


def test_the_processes_of_one_run_wait_for_the_first(manifests):
    found = []
    waiting = threading.Thread(target=lambda: found.append(pack(manifests, first=False)), daemon=True)
    waiting.start()
    time.sleep(0.2)
    assert not found and not list(manifests.glob("leads*"))
    pack(manifests)
    waiting.join(timeout=20)
    assert_packed(found[0], manifests)


def test_a_run_makes_it_elsewhere_where_told(manifests, tmp_path, run_script):
    manifests.chmod(0o555)
    try:
        elsewhere = tmp_path / "fast disk" / "leads.npy"
        told = run_script(SCRIPT, *tiny_run(manifests, tmp_path / "run", "--epochs", 1, "--leads", elsewhere)).stdout
    finally:
        manifests.chmod(0o755)
    assert f"into {elsewhere}" in told and not list(manifests.glob("leads*"))
    np.testing.assert_array_equal(np.load(elsewhere), pack(manifests).leads)


def test_a_run_that_is_refused_packs_nothing(manifests, tmp_path, call_script):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "checkpoint_best.pt").write_text("of another run")
    assert "settings.json" in call_script(SCRIPT, *tiny_run(manifests, folder), exit_code=1).err
    assert not list(manifests.glob("leads*"))


def test_batches_are_rows_of_leads_and_targets():
    leads, targets = torch.randn(9, SAMPLES), torch.rand(9, 17)
    data = TrainingData(leads, targets)
    found = data.batch([3, 1, 3])
    assert len(data) == 9
    for values, rows in zip(found, (leads, targets), strict=True):
        assert torch.equal(values, torch.stack([rows[3], rows[1], rows[3]]))

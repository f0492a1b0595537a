"""The lineage that every stage leaves: what it says, and that files of two runs are refused."""

import json
import shutil
import subprocess

import pytest

from ecg_finetune import __version__
from ecg_finetune import lineage as module
from ecg_finetune.files import UserError, sha256
from ecg_finetune.lineage import Inputs, finetuning_of, lineage, read_lineage
from ecg_finetune.paths import LOCK, beside, locate
from ecg_finetune.run_folder import locked
from ecg_finetune.studies import read_study_labels
from ecg_finetune.tables import write_rows

LABELS_SCRIPT = "labels/scripts/create_labels_ecgfm.py"


def test_a_lineage_names_settings_files_and_the_stages_before(tmp_path):
    table, written = tmp_path / "in.csv", tmp_path / "out.csv"
    table.write_text("a\n")
    written.write_text("b\n")
    inputs = Inputs()
    inputs.add(table, tmp_path / "not there")
    told = lineage("build", {"--lead": "I"}, inputs, [written], [{"stage": "split"}])
    assert told["inputs"] == {str(table): sha256(table)} and told["outputs"] == {"out.csv": sha256(written)}
    assert (told["stage"], told["version"], told["settings"]) == ("build", __version__, {"--lead": "I"})
    assert told["earlier"] == [{"stage": "split"}] and json.loads(json.dumps(told)) == told


def test_an_input_that_changes_during_the_run_is_refused(tmp_path):
    table = tmp_path / "in.csv"
    table.write_text("a\n")
    inputs = Inputs()
    inputs.add(table)
    inputs.refuse_changed()
    table.write_text("longer\n")
    with pytest.raises(UserError, match="in.csv: the file changed during this run"):
        inputs.refuse_changed()


def test_the_settings_of_another_run_are_never_taken_for_a_checkpoints_own(tmp_path):
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(b"weights")
    assert finetuning_of(checkpoint)["note"] == "not recorded"
    settings = {"stage": "finetune", "settings": {"lead": "II"}, "checkpoint_sha256": sha256(checkpoint)}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    assert finetuning_of(checkpoint) == settings
    checkpoint.write_bytes(b"downloaded into the folder of that run")
    assert finetuning_of(checkpoint) == {"stage": "finetune", "note": "not recorded"}


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_is_that_of_the_projects_own_repository(tmp_path, monkeypatch):
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    inner = tmp_path / "site-packages"
    inner.mkdir()
    (tmp_path / "file").write_text("x")
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    for words in (["init", "-q"], ["add", "file"], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    monkeypatch.setattr(module, "REPOSITORY", tmp_path)
    assert len(module.commit()) == 12
    (tmp_path / "file").write_text("y")
    assert module.commit().endswith("-dirty")
    monkeypatch.setattr(module, "REPOSITORY", inner)  # an installation below somebody else's repository
    assert module.commit() is None


def labelled(base, run_script, statement):
    """Run the labels stage on three reports of one statement; return its folder."""
    table = locate(base, "machine_measurements")
    write_rows(table, ["study_id", "report_0"], [(study, statement) for study in (1, 2, 3)])
    run_script(LABELS_SCRIPT, "--base-dir", base, "--workers", 1)
    return locate(base, "computed_labels")


def test_labels_of_two_runs_are_not_mixed(tmp_path, run_script):
    one = labelled(tmp_path / "one", run_script, "Sinus rhythm")
    other = labelled(tmp_path / "other", run_script, "Atrial fibrillation")
    recorded = json.loads((one / "labels.json").read_text())
    assert recorded["stage"] == "labels" and recorded["settings"]["--policy"] == "ecg-fm"
    assert recorded["inputs"]["labels/label_inputs/machine_measurements.csv"]
    assert any(path.endswith("entity_pat.json") for path in recorded["inputs"])
    read_study_labels(one)
    shutil.copy(other / "labels.csv", one / "labels.csv")
    with pytest.raises(UserError, match=r"labels\.csv: not the file that the labels stage wrote"):
        read_study_labels(one)


def test_labels_without_a_lineage_are_read(tmp_path, run_script):
    folder = labelled(tmp_path, run_script, "Sinus rhythm")
    (folder / "labels.json").unlink()
    assert read_study_labels(folder)[0].tolist() == [1, 2, 3]
    assert read_lineage("labels", folder / "labels.json", [])["note"] == "not recorded"


def test_two_runs_of_the_labels_stage_do_not_write_into_one_folder(tmp_path, run_script):
    folder = labelled(tmp_path, run_script, "Sinus rhythm")
    before = (folder / "labels.csv").read_bytes()
    with locked(folder, beside(folder, LOCK)):
        process = run_script(LABELS_SCRIPT, "--base-dir", tmp_path, "--workers", 1, exit_code=1)
    assert "another run" in process.stderr and (folder / "labels.csv").read_bytes() == before

"""A file where a folder is needed, and a folder for a file, in every path option: one line, and nothing has changed."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
from evaluation_world import write_checkpoint

from ecg_finetune.documents import REPOSITORY, SCRIPTS
from ecg_finetune.files import UserError, refuse_outputs, replacing
from ecg_finetune.paths import ARTEFACTS, locate

PIPELINE = [script for script in SCRIPTS if not script.endswith("eval_finetuned.py")]  # its options are eval_ecgfm's
RAW = "mimic-iv-ecg-demo"
# What brings a script to all of its paths, beside --base-dir.
ARGUMENTS = {
    "make_demo_data": ["--records", "4", "--overwrite", "--workers", "1"],
    "import_source": ["--source", "table", "--root", RAW, "--overwrite"],
    "create_labels_ecgfm": ["--machine-measurements", f"{RAW}/machine_measurements.csv", "--split", "train"],
    "create_split": ["--record-list", f"{RAW}/record_list.csv"],
    "preprocess_ecgfm": ["--record-list", f"{RAW}/record_list.csv", "--raw-root", RAW, "--workers", "1"],
    "build_test_and_finetune_data": ["--workers", "1"],
    "finetune_ecgfm": [
        *("--engine", "torch", "--device", "cpu", "--overwrite", "--pretrained", "start.pt", "--augment", "wearable"),
    ],
    "eval_ecgfm": ["--record-list", f"{RAW}/record_list.csv", "--device", "cpu", "--bootstrap", "0"],
    "eval_noise": ["--record-list", f"{RAW}/record_list.csv", "--device", "cpu", "--bootstrap", "0"],
    "export_model": ["--metrics", "metrics.csv", "--name", "another"],
    "predict_ecg": ["--record-list", f"{RAW}/record_list.csv", "--raw-root", RAW, "--model", "export/data/model"],
}
BELOW_BASE = (RAW, "start.pt", "metrics.csv", "export/")
OF_ONE_ENGINE = {"--fairseq-root"}  # not read by the torch engine


def load(script: str):
    """Return the module of a script."""
    spec = importlib.util.spec_from_file_location(Path(script).stem, REPOSITORY / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MODULES = {Path(script).stem: load(script) for script in PIPELINE}
OPTIONS = [
    (name, action.option_strings[0], parser.get_default("artefact_of").get(action.dest), action.metavar)
    for name, module in MODULES.items()
    for parser in [module.get_parser()]
    for action in parser._actions
    if action.type is Path and action.option_strings and action.option_strings[0] not in OF_ONE_ENGINE
]


def arguments(name: str, base: Path) -> list[str]:
    """Return the arguments that a script runs with in a base folder."""
    given = [str(base / text) if text.startswith(BELOW_BASE) else text for text in ARGUMENTS[name]]
    return ["--base-dir", str(base), *given]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Return a base folder after the build stage, with a checkpoint, its evaluation and its model folder."""
    folder = tmp_path_factory.mktemp("base")
    later = pytest.MonkeyPatch()
    for name, more in {
        "make_demo_data": ["--records", "24"],
        "create_labels_ecgfm": ["--split", "all", "--workers", "1"],
        "create_split": [],
        "preprocess_ecgfm": [],
        "build_test_and_finetune_data": [],
    }.items():
        later.setattr(sys, "argv", [name, *arguments(name, folder), *more])
        assert MODULES[name].main() == 0
    write_checkpoint(locate(folder, "checkpoint_best"))
    write_checkpoint(folder / "start.pt")
    model = ["--model-path", str(locate(folder, "checkpoint_best"))]
    later.setattr(sys, "argv", ["eval_ecgfm", *arguments("eval_ecgfm", folder), *model])
    assert MODULES["eval_ecgfm"].main() == 0
    for file in locate(folder, "eval").glob("metrics_*"):
        file.rename(folder / f"metrics{file.suffix}")
    later.setattr(sys, "argv", ["export_model", *arguments("export_model", folder), *model, "--name", "model"])
    assert MODULES["export_model"].main() == 0
    later.undo()
    return folder


def contents(folder: Path) -> dict[str, tuple]:
    """Return what stands below a folder: size and time of every file, by its path."""
    entries = {path: path.lstat() for path in folder.rglob("*")}
    return {
        str(path.relative_to(folder)): (path.is_dir(), not path.is_dir() and (entry.st_size, entry.st_mtime_ns))
        for path, entry in entries.items()
    }


@pytest.mark.parametrize(("name", "flag", "artefact", "metavar"), OPTIONS)
def test_the_wrong_kind_of_path(base, tmp_path, monkeypatch, capsys, name, flag, artefact, metavar):
    holds_a_file = Path(ARTEFACTS[artefact].location).suffix if artefact else metavar not in ("DIR", "LABELS_DIR")
    wrong = tmp_path / "wrong"
    if holds_a_file and flag != "--labeler-config":
        wrong.mkdir()
    else:
        wrong.write_text("hello\n")
    before, beside = contents(base), contents(tmp_path)
    monkeypatch.chdir(tmp_path)
    for path in [str(wrong), "."] if wrong.is_dir() else [str(wrong)]:  # the current folder has no name
        monkeypatch.setattr(sys, "argv", [name, *arguments(name, base), flag, path])
        assert MODULES[name].main() == 1
        told = capsys.readouterr().err
        assert told.startswith("error: ") and told.count("\n") == 1 and path in told
        assert contents(base) == before and contents(tmp_path) == beside


# What must not be written to


def pipe(path: Path) -> None:
    os.mkfifo(path)


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize("make", [Path.mkdir, pipe, link_to_itself, lambda path: path.symlink_to("/dev/null")])
def test_only_a_regular_file_is_replaced(tmp_path, make):
    make(tmp_path / "a")
    before = (tmp_path / "a").lstat()
    told = "a: (exists and is not a regular file|a link that leads to itself)"
    with pytest.raises(UserError, match=told), replacing(tmp_path / "a") as temporary:
        temporary.write_text("1")
    assert (tmp_path / "a").lstat().st_ino == before.st_ino and len(list(tmp_path.iterdir())) == 1


def test_what_stands_in_the_way_of_outputs_is_told(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    refuse_outputs(files=[tmp_path / "file", tmp_path / "new" / "a", tmp_path / "dangling"])
    refuse_outputs(folders=[tmp_path, tmp_path / "new" / "a", tmp_path / "x" / ".." / "y"])
    with pytest.raises(UserError, match="file: exists and is not a folder"):
        refuse_outputs(folders=[tmp_path / "x" / ".." / "file"])
    with pytest.raises(UserError, match="file: not a folder, so .*file/a/b cannot be written"):
        refuse_outputs(files=[tmp_path / "file" / "a" / "b"])


def test_a_folder_without_permission(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != tmp_path)  # root may write everywhere
    with pytest.raises(UserError, match="no permission to write"):
        refuse_outputs(files=[tmp_path / "new" / "a"])

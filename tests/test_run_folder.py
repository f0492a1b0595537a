"""Owning a folder: settings, lock, unfinished files."""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from ecg_finetune import operating_system
from ecg_finetune import run_folder as module
from ecg_finetune.files import UserError
from ecg_finetune.paths import beside
from ecg_finetune.run_folder import FileGroup, finished_files, refuse_overlap, run_folder


@contextlib.contextmanager
def begun(folder, settings, overwrite=False, **options):
    """Own a folder and begin; yield the folder for unfinished files."""
    with run_folder("build", folder, settings, overwrite, **options) as run:
        yield run.begin()


def fill(folder, settings, names, overwrite=False):
    with begun(folder, settings, overwrite) as partial, FileGroup(partial, folder) as group:
        for name in names:
            group.write(name, b"x" * 10)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".partial")


@pytest.fixture(params=["one call", "one call each"])
def on_the_disk(request, monkeypatch):
    """Both ways to bring a group of files to the disk."""
    if request.param == "one call each":
        monkeypatch.setattr(operating_system, "_syncfs", None)


def open_files():
    return len(list(Path("/dev/fd").iterdir()))


@pytest.mark.usefixtures("on_the_disk")
def test_files_appear_when_finished_and_nothing_else_stays(tmp_path):
    folder, before = tmp_path / "a" / "out", open_files()
    with begun(folder, {"--lead": "I"}) as partial:
        with FileGroup(partial, folder) as group:
            group.write("1.mat", b"one")
            assert len(names_in(partial)) == 1  # the group's own folder
            assert names_in(folder) == []
            group.show()
            assert names_in(folder) == ["1.mat"]
            group.write("2.mat", b"two")
            assert names_in(folder) == ["1.mat"]
        assert names_in(partial) == []
        with FileGroup(partial, folder) as group:
            group.write("1.mat", b"one again")
        with pytest.raises(ZeroDivisionError), FileGroup(partial, folder) as group:
            group.write("3.mat", b"three")
            _ = 1 / 0
        assert names_in(partial) == []
    assert not partial.exists()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"1.mat": b"one again", "2.mat": b"two"}
    assert names_in(folder.parent) == ["out", "out.run.json"]
    assert open_files() == before


@pytest.mark.usefixtures("on_the_disk")
def test_a_group_of_any_number_of_files_needs_few_open_files(tmp_path):
    names = [f"{number:04}.mat" for number in range(2 * module.MOST_IN_GROUP + 1)]
    fill(tmp_path / "out", {}, names)
    assert names_in(tmp_path / "out") == names


def test_what_is_shown_is_on_the_disk(tmp_path, monkeypatch):
    """Without syncfs every file, and the folder that names it, is brought there before the first is renamed."""
    calls = []
    monkeypatch.setattr(operating_system, "_syncfs", None)
    monkeypatch.setattr(os, "fsync", lambda descriptor: calls.append(os.fstat(descriptor).st_ino))
    replace = os.replace
    with begun(tmp_path / "out", {}) as partial, FileGroup(partial, tmp_path / "out") as group:
        group.write("1.mat", b"one")
        group.write("2.mat", b"two")
        own = Path(group.unfinished)
        expected = {path.stat().st_ino for path in (own, *own.iterdir())}
        calls.clear()
        monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("rename"), replace(*paths)))
    assert set(calls[:3]) == expected and calls[3:] == ["rename", "rename"]


def test_a_group_that_cannot_be_brought_to_the_disk_is_not_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(operating_system, "_syncfs", lambda _: -1)
    with pytest.raises(OSError):
        fill(tmp_path / "out", {}, ["1.mat"])
    assert names_in(tmp_path / "out") == []


def test_the_same_settings_go_on_others_are_refused_by_name(tmp_path):
    folder = tmp_path / "out"
    fill(folder, {"--lead": "I", "--raw-root": "/a"}, ["1.mat"])
    fill(folder, {"--lead": "I", "--raw-root": "/a"}, ["2.mat"])
    with pytest.raises(UserError, match=r"out: was filled with --lead I, this run has --lead II.*--overwrite"):
        fill(folder, {"--lead": "II", "--raw-root": "/a"}, ["3.mat"])
    assert names_in(folder) == ["1.mat", "2.mat"]
    fill(folder, {"--lead": "II", "--raw-root": "/a"}, ["3.mat"], overwrite=True)
    assert names_in(folder) == ["3.mat"]
    with pytest.raises(UserError, match="--lead"):
        fill(folder, {"--lead": "I", "--raw-root": "/a"}, ["1.mat"])


@pytest.mark.parametrize("overwrite", [False, True])
def test_files_of_unknown_settings_are_refused_and_not_even_overwritten(tmp_path, overwrite):
    """The folder may be anything, a home folder given by mistake too."""
    folder = tmp_path / "out"
    fill(folder, {"--lead": "I"}, ["1.mat"])
    beside(folder, ".run.json").unlink()
    with pytest.raises(UserError, match=r"run\.json.*remove them yourself"):
        fill(folder, {"--lead": "I"}, ["2.mat"], overwrite)
    assert names_in(folder) == ["1.mat"]


def test_settings_that_cannot_be_read_are_refused_and_overwritten_on_demand(tmp_path):
    folder = tmp_path / "out"
    fill(folder, {"--lead": "I"}, ["1.mat"])
    beside(folder, ".run.json").write_text("{")
    with pytest.raises(UserError, match="not readable"):
        fill(folder, {"--lead": "I"}, ["2.mat"])
    fill(folder, {"--lead": "I"}, ["2.mat"], overwrite=True)
    assert names_in(folder) == ["2.mat"]


def test_a_folder_that_the_user_has_removed_or_emptied_gets_new_settings(tmp_path):
    folder = tmp_path / "out"
    fill(folder, {"--lead": "I"}, ["1.mat"])
    shutil.rmtree(folder)
    fill(folder, {"--lead": "II"}, ["2.mat"])
    (folder / "2.mat").unlink()
    fill(folder, {"--lead": "III"}, ["3.mat"])
    assert json.loads(beside(folder, ".run.json").read_text())["settings"] == {"--lead": "III"}


def test_what_describes_the_files_goes_with_them_and_not_before(tmp_path):
    folder = tmp_path / "out"
    fill(folder, {"--lead": "I"}, ["1.mat"])
    report, other = beside(folder, ".report.csv"), beside(folder, ".quality.html")
    for path in (report, other):
        path.touch()

    def again(lead, overwrite):
        with begun(folder, {"--lead": lead}, overwrite, described_by=[".report.csv", ".journal.csv"]):
            return report.exists()

    assert again("I", overwrite=False)
    with pytest.raises(UserError, match="--lead"):
        again("II", overwrite=False)
    assert report.exists()
    assert not again("II", overwrite=True)
    report.touch()  # and no folder that it could describe
    assert not again("I", overwrite=False)
    assert other.exists()


def test_an_interrupted_overwrite_is_gone_on_with_or_repeated(tmp_path, monkeypatch):
    """Until everything is removed, what is left is of the settings on record."""
    folder = tmp_path / "out"
    (tmp_path / "linked").mkdir()
    fill(folder, {"--lead": "I"}, ["1.mat", "2.mat"])
    (folder / "inner").mkdir()
    (folder / "inner/3.mat").touch()
    (folder / "inner/link").symlink_to(tmp_path / "linked")
    removed, unlink = [], Path.unlink

    def stop_at_second(path, **options):
        if folder in path.parents and path.suffix == ".mat":
            if removed:
                raise KeyboardInterrupt
            removed.append(path)
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        fill(folder, {"--lead": "II"}, ["4.mat"], overwrite=True)
    monkeypatch.undo()
    assert names_in(folder) == ["1.mat", "2.mat", "inner"]
    with pytest.raises(UserError, match="--lead I, this run has --lead II"):
        fill(folder, {"--lead": "II"}, ["4.mat"])
    fill(folder, {"--lead": "I"}, ["1.mat"])
    fill(folder, {"--lead": "II"}, ["4.mat"], overwrite=True)
    assert names_in(folder) == ["4.mat"] and (tmp_path / "linked").is_dir()


def test_an_error_leaves_what_was_finished(tmp_path):
    folder = tmp_path / "out"
    with (
        pytest.raises(ZeroDivisionError),
        begun(folder, {}) as partial,
        FileGroup(partial, folder) as group,
    ):
        group.write("1.mat", b"one")
        group.show()
        group.write("2.mat", b"two")
        _ = 1 / 0
    assert names_in(folder) == ["1.mat"]
    assert names_in(tmp_path) == ["out", "out.run.json"]


def test_a_refused_run_has_changed_nothing(tmp_path):
    """A run with two folders owns both before it begins with either."""
    one, other = tmp_path / "one", tmp_path / "other"
    fill(one, {"digest": "a"}, ["1.mat"])
    fill(other, {"digest": "a"}, ["1.mat"])
    (tmp_path / "other.run.json").write_text('{"stage": "build", "settings": {"digest": "c"}}')
    before = (tmp_path / "one.run.json").read_bytes()
    with (
        pytest.raises(UserError, match="digest c, this run has digest b"),
        run_folder("build", one, {"digest": "b"}, True),
        run_folder("build", other, {"digest": "b"}, False) as run,
    ):
        run.begin()
    assert names_in(one) == ["1.mat"] and (tmp_path / "one.run.json").read_bytes() == before


def test_the_folder_of_another_stage_is_not_even_overwritten(tmp_path):
    fill(tmp_path / "out", {}, ["1.mat"])
    with (
        pytest.raises(UserError, match="filled by the build stage"),
        run_folder("preprocess", tmp_path / "out", {}, True),
    ):
        pass
    assert names_in(tmp_path / "out") == ["1.mat"]


@pytest.mark.parametrize(
    ("folders", "inputs"),
    [
        ({"--test-out": "a", "--finetune-out": "a"}, {}),
        ({"--test-out": "a", "--finetune-out": "a/b"}, {}),
        ({"--test-out": "a/b", "--finetune-out": "a/../a"}, {}),
        ({"--out": "a"}, {"--meta": "a/meta_split.csv"}),
        ({"--out": "a"}, {"--raw-root": "link"}),
    ],
)
def test_folders_within_each_other_are_refused(tmp_path, folders, inputs):
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(UserError, match="lies within"):
        refuse_overlap(*({option: tmp_path / path for option, path in paths.items()} for paths in (folders, inputs)))
    refuse_overlap({"--out": tmp_path / "a/b", "--other": tmp_path / "a/bb"}, {"--raw-root": tmp_path / "a"})


HOLDER = """
    import sys, time
    from pathlib import Path
    from ecg_finetune.run_folder import run_folder
    with run_folder("build", Path(sys.argv[1]), {}, False) as run:
        (run.begin() / "rest").touch()
        print("holding", flush=True)
        time.sleep(60)
"""


def test_a_second_run_says_so_and_a_killed_one_is_no_obstacle(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOCK_PATIENCE", 0.2)
    folder = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(HOLDER), folder], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"holding\n"
    with pytest.raises(UserError, match=rf"another run \(process {process.pid} on "):
        fill(folder, {}, ["1.mat"])
    process.kill()
    process.wait()
    process.stdout.close()
    fill(folder, {}, ["1.mat"])
    assert names_in(tmp_path) == ["out", "out.run.json"]


def test_a_lock_file_removed_between_opening_and_locking_is_not_taken(tmp_path, monkeypatch):
    path = tmp_path / "out.lock"
    lock = fcntl.flock

    def remove_first(file, operation):
        path.unlink()
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    assert module._try_lock(path) is None
    monkeypatch.setattr(fcntl, "flock", lock)
    with module._try_lock(path) as file:
        assert os.fstat(file.fileno()).st_ino == path.stat().st_ino


def test_without_locks_a_run_warns_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(operating_system, "fcntl", None)
    fill(tmp_path / "out", {}, ["1.mat"])
    assert "no file locks; start no second run here" in capsys.readouterr().err
    assert names_in(tmp_path) == ["out", "out.run.json"]


def test_a_folder_that_is_a_mount_point_will_do(tmp_path):
    """A mount of a user's own, where the system allows one: what `docker run --volume` makes of the folder."""
    (tmp_path / "out").mkdir()
    (tmp_path / "fast").mkdir()
    program = f"""
from pathlib import Path
from test_run_folder import fill
fill(Path({str(tmp_path / "out")!r}), {{}}, ["1.mat"])
"""
    mount = f"mount --bind {tmp_path}/fast {tmp_path}/out"
    command = ["unshare", "-rm", "sh", "-c", f'{mount} || exit 77; "$0" -c "$1"', sys.executable, program]
    run = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    if run.returncode == 77 or run.stderr.startswith("unshare:"):
        pytest.skip(f"no mounts for tests here: {run.stderr.strip()}")
    assert run.returncode == 0, run.stderr
    assert names_in(tmp_path / "fast") == ["1.mat"]


def test_a_link_to_a_folder_will_do(tmp_path):
    (tmp_path / "big").mkdir()
    (tmp_path / "out").symlink_to("big")
    fill(tmp_path / "out", {"--lead": "I"}, ["1.mat"])
    fill(tmp_path / "out", {"--lead": "I"}, ["2.mat"])
    assert names_in(tmp_path / "big") == ["1.mat", "2.mat"]


def test_finished_files_are_listed_by_number(tmp_path):
    for number in (10, 9, 100):
        (tmp_path / f"{number}.mat").write_bytes(b"x" * number)
    (tmp_path / "other").touch()
    numbers, sizes = finished_files(tmp_path, lambda name: int(name[:-4]) if name.endswith(".mat") else None)
    assert numbers.tolist() == sizes.tolist() == [9, 10, 100] and numbers.dtype == np.int64

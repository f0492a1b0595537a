"""Outputs that appear whole or not at all."""

import os
import subprocess
import sys

import pytest

from ecg_finetune.files import replacing


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.csv"
    with replacing(path) as temporary:
        temporary.write_text("1")
        assert not path.exists() and temporary.suffix == ".csv"
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text("2")
        raise ZeroDivisionError
    assert path.read_text() == "1" and list(path.parent.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    leftover = tmp_path / f".tmp-{dead.pid}-a.csv"
    others = [tmp_path / f".tmp-{os.getppid()}-a.csv", tmp_path / f".tmp-{dead.pid}-b.csv", tmp_path / "a.csv.old"]
    for file in (leftover, *others):
        file.touch()
    with replacing(tmp_path / "a.csv") as temporary:
        temporary.write_text("1")
    assert sorted(tmp_path.iterdir()) == sorted([*others, tmp_path / "a.csv"])

"""Tables, JSON and arrays made to do harm: one line that names the file, in little memory and time."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from ecg_evaluation.inputs import read_predictions, read_test_set
from ecg_fm_labeler.reports import read_reports
from ecg_split.given import read_foreign_split
from limits import little_memory

from ecg_finetune.cli import MOST_MESSAGE
from ecg_finetune.files import UserError, existing_file, read_array, read_json, shown, write_array
from ecg_finetune.label_set import ECG_FM, LABELS, write_label_definition
from ecg_finetune.paths import beside
from ecg_finetune.studies import read_splits, read_studies, read_study_labels
from ecg_finetune.tables import LONGEST_LINE, finite_number, read_table, write_table

READERS = {
    "record_list.csv": lambda path: read_studies(path, need_patients=True, otherwise=""),
    "meta_split.csv": read_splits,
    "labels.csv": lambda path: read_study_labels(path.parent),
    "study_id_mapping.csv": lambda path: read_study_labels(path.parent),
    "machine_measurements.csv": read_reports,
    "split_of_another.csv": read_foreign_split,
    "test_labels.csv": lambda path: read_test_set(path.parent, None),
    "predictions.csv": lambda path: read_predictions(path, LABELS),
}
TABLES = {
    "one line": lambda: b"a" * (2 * LONGEST_LINE),
    "only commas": lambda: b"," * (20 * LONGEST_LINE),
    "many short cells": lambda: b"ab," * (5 * LONGEST_LINE),
    "many columns": lambda: ",".join(f"column{number}" for number in range(50_000)).encode() + b"\n1\n",
    "long cell": lambda: b"study_id,subject_id,path,save_file,split\n" + b"1" * 200_000 + b"\n",
    "escape sequences": lambda: b"\x1b[2J,\x1b[31m\n1,2\n",
    "half a character": lambda: b"\xed\xa0\x80,study_id\n1,2\n",
    "UTF-16": lambda: "study_id,subject_id\n1,2\n".encode("utf-16"),
    "compressed": lambda: b"\x1f\x8b\x08" + bytes(100),
    "zeros": lambda: bytes(10**6),
}


@pytest.mark.parametrize("content", TABLES)
@pytest.mark.parametrize("name", READERS)
def test_a_hostile_table(tmp_path, name, content):
    (tmp_path / "labels.csv").write_text("idx\n")
    write_label_definition(tmp_path / "label_def.csv", ECG_FM, np.zeros((1, 17)))
    (tmp_path / name).write_bytes(TABLES[content]())
    with little_memory(600 << 20), pytest.raises(UserError) as caught:
        READERS[name](tmp_path / name)
    assert str(tmp_path) in str(caught.value) and "emory" not in str(caught.value)
    assert len(str(caught.value)) < max(MOST_MESSAGE, 250_000)


JSON = {
    "deep list": "[" * 10**6,
    "deep object": '{"a":' * 10**5 + "1" + "}" * 10**5,
    "long number": '{"a": ' + "9" * 10**6 + "}",
    "number of 400 digits": '{"a": ' + "9" * 400 + "}",
    "infinite number": '{"a": 1e999}',
    "no number": '{"a": NaN}',
    "key at the start twice": "{" + ",".join(f'"{number}": 1' for number in (0, *range(50_000))) + "}",
    "key at the end twice": "{" + ",".join(f'"{number}": 1' for number in (*range(50_000), 49_999)) + "}",
    "long key twice": "{" + f'"{"a" * 10**6}": 1,' * 2 + '"b": 1}',
    "half a character": '{"a": "\\ud800"}',
    "a list": "[1]",
    "nothing": "",
    "zeros": "\0" * 1000,
}


@pytest.mark.parametrize("content", JSON)
def test_hostile_json(tmp_path, content):
    (tmp_path / "a.json").write_text(JSON[content])
    with little_memory(), pytest.raises(UserError, match="a.json: ") as caught:
        read_json(tmp_path / "a.json", dict)
    assert len(str(caught.value)) < 1000


def test_json_is_read_as_python_reads_it(tmp_path):
    content = {"a": [1, -2.5, 1e-300, 2**63, True, None, "é"], "b": {"c": {}}, "d": float(np.float32(0.1))}
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert read_json(tmp_path / "a.json", dict) == content


def array_file(description: str, shape, content: bytes = b"") -> bytes:
    """Return an .npy file whose header claims any shape."""
    header = repr({"descr": description, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content


ARRAYS = {
    "4 TB": lambda: array_file("<f4", (10**12,)),
    "68 GB": lambda: array_file("<f4", (10**9, 17)),
    "too large for any machine": lambda: array_file("<f4", (10**30,)),
    "one value of 2 GB": lambda: array_file("|V2000000000", (1,)),
    "negative": lambda: array_file("<f4", (-1,), bytes(400)),
    "objects": lambda: array_file("|O", (1,), b"\x80\x02N."),
    "one byte less": lambda: array_file("<f4", (10,), bytes(39)),
    "deep header": lambda: b"\x93NUMPY\x01\x00" + (9000).to_bytes(2, "little") + b"(" * 9000,
    "an archive": lambda: b"PK\x05\x06" + bytes(18),
    "a pickle": lambda: b"\x80\x02N.",
    "nothing": lambda: b"",
}


@pytest.mark.parametrize("content", ARRAYS)
def test_a_hostile_array(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(ARRAYS[content]())
    with little_memory(), pytest.raises(UserError, match="a.npy: ") as caught:
        read_array(tmp_path / "a.npy")
    assert "allocate" not in str(caught.value), "it tried to take what the file claims"


@pytest.mark.parametrize(
    "array",
    [
        np.arange(34, dtype=np.float32).reshape(2, 17),
        np.asfortranarray(np.arange(34.0).reshape(2, 17)),
        np.arange(3, dtype=">i8"),
        np.zeros((0, 17), dtype=np.float32),
        np.zeros(0),
        np.float64(1.5),
        np.array(["a", "bc"]),
    ],
)
def test_an_array_is_read_into_memory_as_numpy_reads_it(tmp_path, array):
    write_array(tmp_path / "a.npy", array)
    found, expected = read_array(tmp_path / "a.npy"), np.load(tmp_path / "a.npy")
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype and type(found) is np.ndarray and found.flags.owndata and found.flags.writeable
    (tmp_path / "a.npy").write_bytes(b"")  # what was read does not change with the file
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (Path.mkdir, "not a regular file but a folder"),
        (os.mkfifo, "not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
        (lambda path: path.symlink_to(path), "no such file"),
        (lambda path: path.symlink_to("nowhere"), "no such file"),
        (Path.exists, "no such file"),
    ],
)
def test_what_is_no_file_is_not_opened(tmp_path, make, told):
    make(tmp_path / "a")
    with pytest.raises(UserError, match=f"a: {told}"):
        existing_file(tmp_path / "a")


def test_a_table_is_written_under_any_name(tmp_path):
    """pandas compresses by the name, and takes a ~ for the home folder."""
    table = read_table_of(tmp_path, "a,b\n1,é\n")
    for name in ("t.csv.gz", "~", "s3:", "t"):
        write_table(tmp_path / name, table)
        assert (tmp_path / name).read_bytes() == "a,b\n1,é\n".encode()


def read_table_of(folder: Path, text: str):
    """Return the table that a text is."""
    (folder / "source.csv").write_text(text, encoding="utf-8")
    return read_table(folder / "source.csv", {"a": "int64", "b": "str"})


def test_numbers_in_files_and_options():
    assert [finite_number(text) for text in ("1", "-2.5", "1e3")] == [1, -2.5, 1000]
    assert all(
        np.isnan(finite_number(text)) for text in ("", "nan", "inf", "1e999", "1_0", "\u0661", "0x1", "1,5", "\0")
    )


def test_values_in_messages_are_short_and_printable():
    assert shown("a name") == "a name" and shown(5) == "5"
    for value in ("a" * 10**6, "\x1b[2J", "two\nlines", "\ud800", ["a" * 10**4] * 10**4, {"a": "\0" * 500}):
        assert shown(value).isprintable() and len(shown(value)) < 2000


def test_what_lies_beside_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "lead").mkdir()
    monkeypatch.chdir(tmp_path / "lead")
    assert beside(Path(), ".report.csv") == tmp_path / "lead.report.csv"
    assert beside(Path("..") / "lead" / "..", ".lock") == Path(f"{tmp_path}.lock")
    assert beside(Path("a/lead"), ".lock") == Path("a/lead.lock")

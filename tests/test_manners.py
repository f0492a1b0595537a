"""What scripts do when their surroundings are odd: nobody reads the output, no docstrings, no UTF-8, absurd options."""

import csv
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_records import make_base, record_path

from ecg_finetune.documents import load_parser
from ecg_finetune.files import UserError, read_array, read_json, remove_leftovers, replacing
from ecg_finetune.label_set import read_pos_weight
from ecg_finetune.matfile import read_mat
from ecg_finetune.paths import locate
from ecg_finetune.segments import read_manifest
from ecg_finetune.tables import read_header

REPOSITORY = Path(__file__).resolve().parent.parent
LABELS, SPLIT = "labels/scripts/create_labels_ecgfm.py", "split/scripts/create_split.py"
PREPROCESS = "preprocess/scripts/preprocess_ecgfm.py"


def command(script: str, *arguments, flags=()) -> list[str]:
    return [sys.executable, *flags, str(REPOSITORY / script), *map(str, arguments)]


def record_list(folder: Path, studies: int = 40) -> Path:
    path = folder / "record_list.csv"
    rows = [f"{study % 9 + 1},{study},files/p{study % 9 + 1:08}/s{study}/{study}" for study in range(1, studies + 1)]
    path.write_text("\n".join(["subject_id,study_id,path", *rows]) + "\n", encoding="utf-8")
    return path


def measurements(folder: Path) -> Path:
    path = folder / "machine_measurements.csv"
    path.write_text("study_id,report_0\n1,Sinus rhythm\n2,Atrial fibrillation\n", encoding="utf-8")
    return path


def shell(line: str, **variables) -> subprocess.CompletedProcess:
    """Run a line of bash; `$PIPESTATUS` and the like are its own business."""
    environment = {**os.environ, "PYTHON": sys.executable, **{key: str(value) for key, value in variables.items()}}
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(params=[LABELS, SPLIT])
def stage(request, tmp_path) -> list[str]:
    """A small stage that can be run again and again, as a command."""
    if request.param == LABELS:
        return command(LABELS, "--base-dir", tmp_path, "--machine-measurements", measurements(tmp_path))
    return command(SPLIT, "--base-dir", tmp_path, "--record-list", record_list(tmp_path))


def outputs(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# Output that nobody reads


@pytest.mark.parametrize(("more", "code"), [("", "141"), ("--help", "0")])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_early_is_no_error(tmp_path, more, code, unbuffered):
    """`head` has ended before the script prints, so that every print fails."""
    words = command(SPLIT, "--base-dir", tmp_path, "--record-list", record_list(tmp_path), *more.split())
    line = f"{{ sleep 0.2; {shlex.join(words)}; echo $? >{tmp_path}/status; }} | head -c 0"
    process = shell(line, PYTHONUNBUFFERED=unbuffered)
    assert process.stderr == "" and (tmp_path / "status").read_text() in (f"{code}\n", "141\n")
    assert not outputs(tmp_path / "split")


@pytest.mark.parametrize("module", [("explain", "Sinus rhythm"), ("validate", "labels/ecg_fm_labeler_config")])
def test_the_reader_of_a_module_may_leave_early_too(tmp_path, module):
    words = [sys.executable, "-m", f"ecg_fm_labeler.{module[0]}", module[1]]
    line = f"cd '{REPOSITORY}'; {{ sleep 0.2; {shlex.join(words)}; echo $? >{tmp_path}/status; }} | head -c 0"
    process = shell(line)
    assert process.stderr == "" and (tmp_path / "status").read_text() == "141\n"


def test_a_reader_of_errors_that_leaves_early_is_no_error(tmp_path):
    words = command(SPLIT, "--base-dir", tmp_path, "--record-list", tmp_path / "none.csv")
    process = shell(f"{{ sleep 0.2; {shlex.join(words)} 2>&1; echo $? >{tmp_path}/status; }} | head -c 0")
    assert process.stderr == "" and (tmp_path / "status").read_text() == "141\n"


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_closed_streams_do_no_harm(stage, tmp_path, closed):
    process = shell(f"{shlex.join(stage)} {closed}; echo status $?")
    assert process.stdout.splitlines()[-1] == "status 0" and process.stderr == ""
    files = outputs(tmp_path)
    assert len(files) > 1
    for file in files:  # nothing that was printed is in an output
        assert b"--base-dir" not in (tmp_path / file).read_bytes()


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_a_refusal_with_closed_streams_has_its_exit_code(tmp_path, closed):
    words = command(SPLIT, "--base-dir", tmp_path, "--record-list", tmp_path / "none.csv")
    process = shell(f"{shlex.join(words)} {closed}; echo status $?")
    assert process.stdout.splitlines()[-1] == "status 1" and "Traceback" not in process.stderr


def test_a_full_disk_under_the_output_is_told_in_one_line(stage):
    with Path("/dev/full").open("w") as full:
        process = subprocess.run(stage, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert process.returncode == 1
    assert process.stderr.startswith("error: the disk is full") and process.stderr.count("\n") == 1


# Python's own options and the locale


def test_scripts_run_without_docstrings(tmp_path):
    base, raw = make_base(tmp_path, 4)
    for words in (
        command(SPLIT, "--base-dir", tmp_path, "--record-list", record_list(tmp_path), flags=["-OO"]),
        command(PREPROCESS, "--base-dir", base, "--raw-root", raw, flags=["-OO"]),
    ):
        process = subprocess.run(words, capture_output=True, text=True, check=False)
        assert process.returncode == 0 and process.stderr == "", process.stderr


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def run_in_ascii(words: list[str], folder: Path | None = None) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONIOENCODING", "LANG")}
    return subprocess.run(words, capture_output=True, env={**environment, **ASCII}, cwd=folder, check=False)


@pytest.mark.parametrize("relative", [False, True])
def test_a_path_that_the_locale_cannot_express_is_refused_in_one_line(tmp_path, relative):
    folder = tmp_path / "Elektrokardiogramm-für-Übung"
    folder.mkdir()
    records = record_list(tmp_path)
    words = command(SPLIT, "--record-list", records, *([] if relative else ["--base-dir", folder]))
    process = run_in_ascii(words, folder if relative else None)
    assert process.returncode == 1
    error = process.stderr.decode("ascii")
    assert error.startswith("error: --base-dir ") and error.count("\n") == 1 and "PYTHONUTF8=1" in error
    assert not outputs(folder)


def test_records_that_the_locale_cannot_express_are_listed(tmp_path):
    base, raw = make_base(tmp_path, 2)
    listed = locate(base, "record_list")
    listed.write_text(listed.read_text().replace(record_path(40_000_002), "files/Übung"), encoding="utf-8")
    process = run_in_ascii(
        command(PREPROCESS, "--base-dir", base, "--raw-root", raw, "--max-failed-fraction", 1, "--workers", 1)
    )
    assert process.returncode == 0, process.stderr
    with locate(base, "report").open(encoding="utf-8", newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["ok", "unreadable"]


def test_a_path_that_is_no_text_in_any_locale_is_refused(tmp_path):
    folder = os.fsencode(tmp_path) + b"/\xff"
    words = command(SPLIT, "--record-list", record_list(tmp_path))
    process = subprocess.run([*words, b"--base-dir", folder], capture_output=True, text=True, check=False)
    assert process.returncode == 1 and process.stderr.startswith("error: --base-dir '"), process.stderr
    assert process.stderr.count("\n") == 1


# Options


@pytest.mark.parametrize(
    ("script", "option", "value"),
    [
        *((SPLIT, "--seed", value) for value in (str(10**30), "-1", "1_000", "٣", "1.0", "1e3", " 1", "", "0x10")),
        *((LABELS, "--workers", value) for value in ("0", "-1", "1025", "1" * 5000)),
        *((LABELS, "--max-rows", value) for value in ("0", "4294967296")),
        *((SPLIT, "--valid-frac", value) for value in ("nan", "-0.1", "1.1", "0_1", "٠", "1e999", "inf", "", ".")),
    ],
)
def test_absurd_numbers_are_wrong_usage(capsys, script, option, value):
    with pytest.raises(SystemExit) as stopped:
        load_parser(script).parse_args([f"{option}={value}"])
    captured = capsys.readouterr()
    assert stopped.value.code == 2 and captured.out == ""
    last = captured.err.splitlines()[-1]
    assert f"error: argument {option}: " in last and len(last) < 200


def test_wrong_usage_ends_with_2(run_script):
    process = run_script(SPLIT, "--seed", 10**30, exit_code=2)
    assert "Traceback" not in process.stderr and "is not an integer from 0" in process.stderr


def test_the_greatest_seed_will_do(tmp_path, run_script):
    run_script(SPLIT, "--base-dir", tmp_path, "--record-list", record_list(tmp_path), "--seed", 2**32 - 1)


# Files that are none


@pytest.mark.parametrize("kind", ["pipe", "endless", "folder"])
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("a.csv", read_header),
        ("a.json", lambda path: read_json(path, dict)),
        ("a.npy", read_array),
        ("a.tsv", read_manifest),
        ("a.txt", lambda path: read_pos_weight(path, 17)),
        ("a.mat", read_mat),
    ],
)
def test_a_pipe_a_device_or_a_folder_is_no_input(tmp_path, name, read, kind):
    path = tmp_path / name
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "endless":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
    with pytest.raises(UserError, match=rf"{name}: not a regular file"):
        read(path)


def test_a_pipe_in_the_place_of_a_record_list_is_not_waited_for(tmp_path, run_script):
    os.mkfifo(tmp_path / "record_list.csv")
    process = run_script(
        SPLIT, "--base-dir", tmp_path, "--record-list", tmp_path / "record_list.csv", exit_code=1, timeout=60
    )
    assert "not a regular file" in process.stderr


# Temporary files


def test_stray_temporary_files_do_no_harm(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / f".tmp-{ended.pid}-a.csv").touch()
    kept = [".tmp-abc", ".tmp-", ".tmp--a.csv", ".tmp-x-a.csv", ".tmp-0-a.csv", ".tmp-+1-a.csv", f".tmp-{10**30}-a.csv"]
    kept += [f".tmp-{os.getpid()}-b.csv", f".tmp-{ended.pid}"]
    for name in kept:
        (tmp_path / name).touch()
    (tmp_path / f".tmp-{ended.pid}-c.csv").mkdir()
    with replacing(tmp_path / "a.csv") as temporary:
        temporary.write_text("1")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, f".tmp-{ended.pid}-c.csv", "a.csv"])


def test_settings_are_readable_whatever_the_names_of_folders(tmp_path, run_script):
    """A folder whose name is not UTF-8 text: what is written of it must be, or the next run could not read it."""
    base, raw = make_base(tmp_path, 2)
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/raw-\xff"))
    raw.rename(odd)
    (tmp_path / "link").symlink_to(odd)
    for _ in range(2):
        run_script(PREPROCESS, "--base-dir", base, "--raw-root", tmp_path / "link")
    settings = locate(base, "lead").with_name("lead_1_duplicated.run.json")
    assert json.loads(settings.read_text())["settings"]["--raw-root"].endswith("raw-\\xff")

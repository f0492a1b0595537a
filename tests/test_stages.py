"""The command `ecg-finetune` and its table of stages."""

import os
import re
import subprocess
import sys

import pytest

import ecg_finetune
from ecg_finetune.__main__ import main
from ecg_finetune.documents import REPOSITORY, load_parser
from ecg_finetune.stages import STAGES, purpose, script_of

SCRIPT_OF_WORKERS = """
import multiprocessing

def square(number):
    return number**2

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(square, [3]))
"""


def python(*arguments, cwd=None) -> subprocess.CompletedProcess:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_every_script_of_the_repository_is_a_stage():
    scripts = [*REPOSITORY.glob("*/scripts/*.py"), REPOSITORY / "demo" / "make_demo_data.py"]
    assert sorted(STAGES.values()) == sorted(str(script.relative_to(REPOSITORY)) for script in scripts)
    assert [script_of(stage) for stage in STAGES] == [REPOSITORY / script for script in STAGES.values()]


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_without_a_stage_lists_the_stages(arguments, capsys):
    assert main(arguments) == 0
    listed = dict(re.findall(r"^  (\S+) +(\S.*)$", capsys.readouterr().out, re.MULTILINE))
    assert listed == {stage: purpose(stage) for stage in STAGES}


def test_purpose_is_the_first_line_of_the_docstring():
    assert purpose("labels") == "Compute ECG-FM's 17 labels from the machine statements of the reports."


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ecg-finetune {ecg_finetune.__version__}\n"


def test_list_ends_quietly_where_nobody_reads_it():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "ecg_finetune"]
    process = subprocess.run(command, cwd=REPOSITORY, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (process.returncode, process.stderr) == (0, "")


@pytest.mark.parametrize(
    "typed, remedy",
    [
        ("lables", 'did you mean "labels"?'),
        ("--versoin", "the stages are demo-data, "),
        ("zzz", "the stages are demo-"),
    ],
)
def test_mistyped_stage_is_refused_in_one_line(typed, remedy, capsys):
    assert main([typed, "--workers", "1"]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1
    assert output.err.startswith(f'error: there is no stage "{typed}"; {remedy}')


def test_list_imports_no_library():
    program = (
        "import sys; before = set(sys.modules); from ecg_finetune.__main__ import main; main([]);"
        "new = {name.split('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names; print(new)"
    )
    assert python("-c", program).stdout.splitlines()[-1] == "{'ecg_finetune'}"


@pytest.mark.parametrize("stage", STAGES)
def test_help_is_the_help_of_the_script(stage, monkeypatch, capsys):
    expected = load_parser(STAGES[stage])
    expected.prog = f"ecg-finetune {stage}"
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # the command replaces both
    monkeypatch.setattr(sys, "argv", [])
    with pytest.raises(SystemExit) as stopped:
        main([stage, "--help"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == expected.format_help()


def test_a_stage_ends_as_its_script_does(run_script, tmp_path):
    options = ["--base-dir", tmp_path, "--machine-measurements", tmp_path / "none.csv"]
    by_script = run_script(STAGES["labels"], *options, exit_code=1)
    by_command = python("-m", "ecg_finetune", "labels", *options, cwd=REPOSITORY)
    assert by_command.returncode == 1
    assert by_command.stderr == by_script.stderr
    assert by_command.stdout == by_script.stdout.replace("create_labels_ecgfm.py:", "ecg-finetune labels:")
    assert python("-m", "ecg_finetune", "labels", "--no-such-option", cwd=REPOSITORY).returncode == 2


def test_workers_that_import_the_script_anew_find_its_functions(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT_OF_WORKERS)
    call = f"run_script(Path({str(script)!r}), 'script', [])"
    process = python("-c", f"from pathlib import Path; from ecg_finetune.__main__ import run_script; {call}")
    assert process.stdout == "[9]\n", process.stderr

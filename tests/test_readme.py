"""The commands of the documents run, and what they show as printed is printed.

A newcomer's session: the steps of the demo, then every block of every document in order. The rules are the tables
below; a block that they do not cover fails.
"""

import ast
import importlib.util
import io
import os
import re
import runpy
import shlex
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from ecg_fm_labeler import Labeler
from ecg_preprocess.convert import STATUSES
from evaluation_world import write_checkpoint
from test_finetune import make_manifests

from ecg_finetune.diagnoses import LABELS
from ecg_finetune.documents import REPOSITORY, SCRIPTS, load_parser

DOCUMENTS = ("README.md", "CONTRIBUTING.md", "demo/README.md", "docs/splits.md")

# What stands in the place of the user's files.
STANDS_FOR = {
    "/data/ecg": "ecg",
    "/data/ecg-seed43": "ecg-seed43",
    "/data/ECG-FM": "ECG-FM",
    "/data/new": "new",
    "/data/mimic-iv-ecg": "demo/data/mimic-iv-ecg-demo",
    "/data/mimic_iv_ecg_physionet_pretrained.pt": "pretrained.pt",
    "/tmp/try": "try",
}
# What is added to a command so that it takes a second, and so that no metric of the untrained network is undefined.
ADDED = {
    "finetune/scripts/finetune_ecgfm.py": "--manifests few/manifests --epochs 1 --overwrite",
    "eval/scripts/eval_finetuned.py": "--bootstrap 20 --threshold-rule 0",
}
# What is not run, by words in it, and why. The options of our own scripts are checked all the same.
NOT_RUN = {
    "make ": "minutes, and this test is part of it; `make demo` is run without make",
    "-m venv": "installs",
    "pip install": "installs",
    "git clone": "downloads",
    "torchrun": "two processes train together in test_finetune.py",
    "finetune_ecgfm.py --base-dir /data/ecg-seed43": "minutes; the README's command with another base folder",
    "eval_finetuned.py --base-dir /data/ecg-seed43": "the same",
    "--engine fairseq": "needs fairseq-signals and a GPU; the command it gets is checked in test_finetune.py",
    "--dask": "test_batch.py runs on a cluster of its own",
    "cluster.py": "needs SLURM",
}
# Text that is not printed by what runs here, by words in it, and why.
NOT_PRINTED = {
    "machine_measurements.csv -> labels": "a diagram",
    "patients in more than one split: 0 of 161,352": "printed for the genuine record list, in test_split.py",
}


def read(document: str) -> str:
    return (REPOSITORY / document).read_text(encoding="utf-8")


def blocks(document: str) -> list[tuple[str, str, str]]:
    """Return (place, language, content) of every fenced block of a document."""
    text = read(document)
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(f"{document}, line {text.count(chr(10), 0, block.start()) + 1}", block[1], block[2]) for block in found]


def continued(shell: str) -> str:
    """Return a piece of shell with its continued lines joined."""
    return shell.replace("\\\n", " ")


def commands(shell: str) -> list[str]:
    """Return the commands in a piece of shell, without blank lines and lines of comment."""
    lines = (line.strip() for line in continued(shell).splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def listed(text: str, table: dict[str, str]) -> bool:
    return any(words in text for words in table)


def check_options(command: str) -> None:
    """Fail if a script of ours would refuse its options, or make its target."""
    words = shlex.split(command, comments=True)
    for script in set(words) & set(SCRIPTS):
        load_parser(script).parse_args(words[words.index(script) + 1 :])
    if words[0] == "make":
        assert re.search(f"^{words[1]}:", read("Makefile"), re.MULTILINE), command


def here(text: str) -> str:
    """Return a text with `STANDS_FOR`."""
    for there, local in STANDS_FOR.items():
        text = re.sub(rf"{there}(?![\w.-])", local, text)
    return text


def masked(text: str, numbers: bool) -> str:
    """Return a text without times, and without any number where `numbers` is set."""
    text = re.sub(r"in [\d.]+ s|\d{8}_\d{6}", "#", text)
    return re.sub(" +", " ", re.sub(r"\d[\d.,:]*", "#", text)) if numbers else text


def is_printed(shown: str, printed: str) -> bool:
    """Whether the lines stand below each other in what was printed; "..." stands for any lines."""
    numbers = "AUROC" in shown  # a shorter training than the one shown, and on another machine
    lines = masked(shown, numbers).splitlines()
    pattern = "".join("(?:.*\n)*?" if line == "..." else re.escape(line) + "\n" for line in lines)
    return re.search("^" + pattern, masked(printed, numbers), re.MULTILINE) is not None


class Session:
    """A newcomer's terminal: runs commands of the project's scripts and modules, and remembers what was printed.

    They run in this process: a process each would spend most of its time on importing PyTorch.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder, self.monkeypatch, self.printed = folder, monkeypatch, ""
        write_checkpoint(folder / "pretrained.pt")
        make_manifests(folder / "few")

    def run(self, command: str) -> None:
        words = [os.path.expandvars(word) for word in shlex.split(here(command), comments=True)]
        if words[0] == "export":
            self.monkeypatch.setenv(*words[1].split("=", 1))
            return
        assert words[0] == "python", f"no rule says how to run: {command}"
        words += shlex.split(ADDED.get(words[1], ""))
        output = io.StringIO()
        with self.monkeypatch.context() as patch, redirect_stdout(output), redirect_stderr(output):
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", words[2:] if words[1] == "-m" else words[1:])
            try:
                if words[1] == "-m":
                    runpy.run_module(words[2], run_name="__main__", alter_sys=True)
                else:
                    runpy.run_path(str(REPOSITORY / words[1]), run_name="__main__")
            except SystemExit as stopped:
                assert not stopped.code, f"{command}\n{output.getvalue()}"
        self.printed += output.getvalue()

    def execute(self, program: str) -> None:
        with self.monkeypatch.context() as patch:
            patch.chdir(self.folder)
            exec(here(program), {})


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """The session of a newcomer who has run the demo."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        session = Session(tmp_path_factory.mktemp("newcomer"), monkeypatch)
        steps = re.findall(r"^(?:step )?((?:python|export) .*)|^(MIMIC=.*)", continued(read("demo/run_demo.sh")), re.M)
        for command, variable in steps:
            session.run(command or f"export {variable}")
        stand_in = session.folder / "ECG-FM/splits/meta_split_mimic_iv_ecg.csv"
        stand_in.parent.mkdir(parents=True)
        shutil.copy(session.folder / "demo/data/split/data/meta_split.csv", stand_in)
        yield session


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")  # what `python -m` runs has been imported before
@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_run_and_print_what_is_shown(document, session):
    for place, language, content in blocks(document):
        if language == "bash":
            for command in commands(content):
                check_options(command)
                if not listed(command, NOT_RUN):
                    session.run(command)
        elif language == "python":
            ast.parse(content)
            if not listed(content, NOT_RUN):
                session.execute(content)
        elif language == "text":
            if content.startswith("$ "):
                command, content = content[2:].split("\n", 1)
                session.run(command)
            assert listed(content, NOT_PRINTED) or is_printed(content, session.printed), f"{place}: never printed"
        else:
            pytest.fail(f"{place}: no rule for a block of {language or 'no language'}")


def test_every_rule_is_needed():
    text = "".join(content for document in DOCUMENTS for _, _, content in blocks(document)) + read("demo/run_demo.sh")
    for words in (*STANDS_FOR, *ADDED, *NOT_RUN, *NOT_PRINTED):
        assert words in text, f"{words!r} stands in no block: take the rule out"


@pytest.mark.parametrize("script", SCRIPTS)
def test_commands_in_docstrings_are_understood(script):
    shown = re.findall(r"^    ((?:python|torchrun) .*)", continued(load_parser(script).description), re.MULTILINE)
    assert shown
    for command in shown:
        assert set(shlex.split(command, comments=True)) & set(SCRIPTS), command
        check_options(command)


def rows(head: str) -> list[list[str]]:
    """Return the cells of the README's table with this head."""
    table = read("README.md").split(head)[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table]


def test_table_of_policies_is_what_the_labeler_says():
    table = rows("| report of one statement | `--policy ecg-fm` | `--policy asserted` |")
    for column, policy in ((1, "ecg-fm"), (2, "asserted")):
        _, soft = Labeler.from_config(policy=policy).label([[row[0]] for row in table])
        for row, probabilities in zip(table, soft):
            found = [name + (f" {p:.2g}" if p < 1 else "") for name, p in zip(LABELS, probabilities) if p]
            assert row[column] == (", ".join(found) or "none")


def test_table_of_statuses_has_every_status():
    named = [status for row in rows("| status | when |") for status in row[0].split(", ")]
    assert sorted(named) == sorted(set(STATUSES) - {"ok"})


def test_options_modules_and_files_that_are_named_exist():
    known = {flag for script in SCRIPTS for action in load_parser(script)._actions for flag in action.option_strings}
    for document in DOCUMENTS:
        prose = re.sub(r"^```.*?^```$", "", read(document), flags=re.MULTILINE | re.DOTALL)
        for code in re.findall(r"`([^`]+)`", prose):
            assert set(re.findall(r"(?<!\S)--[a-z][\w-]*", code)) <= known, f"{document}: {code}"
            if re.fullmatch(r"[\w.-]+/[\w./-]+\.(py|sh|json|md)", code):
                assert (REPOSITORY / code).is_file(), f"{document}: {code}"
            for module in re.findall(r"python -m (\S+)", code):
                assert importlib.util.find_spec(module), f"{document}: {code}"
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", prose):
            assert (REPOSITORY / document).parent.joinpath(link).exists(), f"{document}: {link}"

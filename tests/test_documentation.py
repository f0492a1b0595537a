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
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from ecg_fm_labeler import Labeler
from ecg_preprocess.preprocess_report import STATUSES
from finetune_world import write_pretrained
from nbclient import NotebookClient
from test_sources_import import challenge_tree

from ecg_finetune.documents import DOCUMENTS as GENERATED
from ecg_finetune.documents import REPOSITORY, SCRIPTS, load_parser
from ecg_finetune.label_set import LABELS

DOCUMENTS = (
    "README.md",
    *sorted(f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md")),
    "CONTRIBUTING.md",
    "demo/README.md",
)

# What stands in the place of the user's files. Where the walk puts its files and finds those of others, paths have a
# space in them.
STANDS_FOR = {
    "/data/ecg": "with space/ecg",
    "/data/mimic-iv-ecg": "with space/mimic iv ecg",
    "/data/mimic_iv_ecg_physionet_pretrained.pt": "with space/pretrained.pt",
    "/data/ECG-FM": "with space/ECG-FM",
    "/data/ecg-seed43": "ecg-seed43",
    "/data/new": "new",
    "/tmp/try": "try",
    **{f"/data/{name}": name for name in ("cinc2017", "ptb-xl", "challenge-2021", "ludb", "clinic")},
    **{f"/data/ecg-{name}": f"ecg-{name}" for name in ("cinc2017", "ptbxl", "challenge2021", "ludb", "clinic")},
}
OTHER_DATA_SETS = "docs/your-own-data.md"  # needs genuine samples of them
# What is added to a command so that it takes a second, and so that no metric of the untrained network is undefined.
ADDED = {
    "finetune/scripts/finetune_ecgfm.py": "--max-update 4 --overwrite",
    "eval/scripts/eval_finetuned.py": "--bootstrap 20 --threshold-rule 0",
    "eval/scripts/eval_ecgfm.py": "--bootstrap 20",
    "eval/scripts/eval_noise.py": "--bootstrap 0 --max-samples 20 --kinds muscle,inversion --snr 6",
}
# What is not run, by words in it, and why. The options of our own scripts are checked all the same.
NOT_RUN = {
    "make ": "minutes, and this test is part of it; `make demo` is run without make",
    "-m venv": "installs",
    "pip install": "installs",
    "hf upload": "uploads",
    "/data/cinc2017-answers": "test_predict.py asks about folders",
    "--max-failed-fraction 0.1": "test_predict.py asks about the recordings of a list",
    "git clone": "downloads",
    "torchrun": "two processes train together in test_finetune_trainer.py",
    "--engine fairseq": "needs fairseq-signals and a GPU; the command it gets is checked in test_finetune_fairseq.py",
    "eval_finetuned.py --base-dir /data/ecg-seed43": "the README's command with another base folder",
    "finetune_ecgfm.py --base-dir /data/ecg-seed43": "the same",
    "--base-dir /data/ecg-external": "needs another data set; test_external_validation.py has one",
    "--subgroups": "needs a table of people; test_eval_paper.py runs it",
    "--dask": "test_batch.py runs on a cluster of its own",
    "cluster.py": "needs SLURM",
    "/data/code-15": "recordings of the user's own; test_recordings.py runs preprocess on every format",
}
# Text that is not printed by what runs here, by words in it, and why.
NOT_PRINTED = {
    "lead I at 512 Hz": "a network that is trained for a second finds something else; test_predict.py has this table",
    "161,352": "test_split.py looks for what it prints for the genuine record list",
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


def unquoted(command: str) -> str:
    """Return a command without what is in quotes, and without its comment."""
    return re.sub(r'"[^"]*"|\'[^\']*\'|\s#.*', "", command)


def expanded(command: str, folder: Path) -> list[str]:
    """Return the words of a command as a shell in `folder` makes them of quotes, spaces and variables."""
    assert not re.search("[&|;<>]", unquoted(command)), f"more than one command: {command}"
    shell = ["bash", "-uc", f"printf '%s\\0' {command}"]
    return subprocess.run(shell, cwd=folder, capture_output=True, text=True, check=True).stdout.split("\0")[:-1]


def check_options(command: str) -> None:
    """Fail if a script of ours would refuse its options, if make has no such target, or a variable is not quoted."""
    assert "$" not in unquoted(command), f"quote the variables, as paths may have spaces: {command}"
    words = shlex.split(command, comments=True)
    for script in set(words) & set(SCRIPTS):
        load_parser(script).parse_args(words[words.index(script) + 1 :])
    if "make" in words:
        target = words[words.index("make") + 1]
        assert re.search(f"^{target}:", read("Makefile"), re.MULTILINE), command


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
    """A newcomer's terminal: runs commands of the project's scripts and modules once, and remembers what was printed.

    They run in this process: a process each would spend most of its time on importing PyTorch.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder, self.monkeypatch, self.printed = folder, monkeypatch, ""
        self.ran: set[tuple[str, ...]] = set()
        (folder / "labels").mkdir()
        (folder / "labels/ecg_fm_labeler_config").symlink_to(REPOSITORY / "labels/ecg_fm_labeler_config")

    def make_files_of_others(self) -> None:
        """Make what the walk downloads; its records are those of the demo."""
        records, checkpoint, clone = (
            self.folder / STANDS_FOR[path]
            for path in ("/data/mimic-iv-ecg", "/data/mimic_iv_ecg_physionet_pretrained.pt", "/data/ECG-FM")
        )
        write_pretrained(checkpoint)
        records.symlink_to(self.folder / "demo/data/mimic-iv-ecg-demo")
        (clone / "splits").mkdir(parents=True)
        split = pd.read_csv(self.folder / "demo/data/split/data/meta_split.csv").assign(source="elsewhere")
        split.to_csv(clone / "splits/meta_split_mimic_iv_ecg.csv", index=False)

    def make_other_data_sets(self, test_data: Path) -> None:
        """Lay out genuine samples as their data sets are: all but CinC 2017's, of which some are enough here."""
        for name, folder in (("ptb-xl", "ptbxl"), ("ludb", "ludb")):
            (self.folder / STANDS_FOR[f"/data/{name}"]).symlink_to(test_data / folder)
        challenge_tree(self.folder / STANDS_FOR["/data/challenge-2021"], test_data)
        rows = (test_data / "cinc2017/REFERENCE.csv").read_text().splitlines()[:60]
        for name in ("cinc2017", "clinic"):
            (self.folder / name).mkdir()
            (self.folder / name / "records").symlink_to(test_data / "cinc2017/records")
        (self.folder / "cinc2017/REFERENCE.csv").write_text("\n".join(rows))
        table = [
            f"{name},anna,61,F,{int(code == 'A')},{'' if code == 'O' else int(code == 'N')}"
            for name, code in (row.split(",") for row in rows)
        ]
        head = "name,patient_id,age,sex,Atrial fibrillation,Sinus rhythm"
        (self.folder / "clinic/labels.csv").write_text("\n".join([head, *table]))

    def run(self, command: str) -> None:
        words = expanded(here(command), self.folder)
        if words[0] == "export":
            self.monkeypatch.setenv(*words[1].split("=", 1))
            return
        assert words[0] == "python", f"no rule says how to run: {command}"
        if (os.environ["ECG_FINETUNE_BASE"], *words) in self.ran:
            return
        self.ran.add((os.environ["ECG_FINETUNE_BASE"], *words))
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
        session.make_files_of_others()
        yield session


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")  # what `python -m` runs has been imported before
@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_run_and_print_what_is_shown(document, session, request):
    if document == OTHER_DATA_SETS:
        session.make_other_data_sets(request.getfixturevalue("test_data"))
    # The other documents go on with what the README's walk leaves; none of its commands is run twice.
    for place, language, content in [*blocks("README.md"), *(blocks(document) if document != "README.md" else [])]:
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


def test_the_notebook_runs(session):
    """With the model and the recording of the demo, as if it were opened in docs/."""
    notebook = nbformat.read(REPOSITORY / "docs/quickstart.ipynb", as_version=4)
    (session.folder / "docs").mkdir()
    paths = os.pathsep.join(path for path in sys.path if path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", paths)
        NotebookClient(notebook, timeout=240, resources={"metadata": {"path": session.folder / "docs"}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert any("Atrial fibrillation" in output.get("data", {}).get("text/html", "") for output in outputs)


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


def rows(document: str, head: str) -> list[list[str]]:
    """Return the cells of a document's table with this head."""
    table = read(document).split(head)[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip(" |").split("|")] for row in table]


def test_table_of_policies_is_what_the_labeler_says():
    table = rows("docs/labels.md", "| report of one statement | `--policy ecg-fm` | `--policy asserted` |")
    for column, policy in ((1, "ecg-fm"), (2, "asserted")):
        _, soft = Labeler.from_config(policy=policy).label([[row[0]] for row in table])
        for row, probabilities in zip(table, soft):
            found = [name + (f" {p:.2g}" if p < 1 else "") for name, p in zip(LABELS, probabilities) if p]
            assert row[column] == (", ".join(found) or "none")


def test_table_of_statuses_has_every_status():
    table = rows("docs/preprocess-and-build.md", "| status | when |")
    named = [status for row in table for status in row[0].split(", ")]
    assert sorted(named) == sorted(set(STATUSES) - {"ok"})


def prose(document: str) -> str:
    """Return a document without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", read(document), flags=re.MULTILINE | re.DOTALL)


def test_options_modules_and_files_that_are_named_exist():
    known = {flag for script in SCRIPTS for action in load_parser(script)._actions for flag in action.option_strings}
    for document in DOCUMENTS:
        for code in re.findall(r"`([^`]+)`", prose(document)):
            assert set(re.findall(r"(?<!\S)--[a-z][\w-]*", code)) <= known, f"{document}: {code}"
            if re.fullmatch(r"[\w.-]+/[\w./-]+\.(py|sh|json|md)", code):
                assert (REPOSITORY / code).is_file(), f"{document}: {code}"
            for module in re.findall(r"python -m (\S+)", code):
                assert importlib.util.find_spec(module), f"{document}: {code}"


def anchors(document: Path) -> set[str]:
    """Return what `#...` can name in a document, by GitHub's rule: lower case, hyphens, no other punctuation."""
    heads = re.findall(r"^#+ (.*)", prose(str(document.relative_to(REPOSITORY))), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


LINKING = [
    str(path.relative_to(REPOSITORY))
    for pattern in ("*.md", "[!.]*/*.md", "[!.]*/*/*.md")
    for path in sorted(REPOSITORY.glob(pattern))
]


@pytest.mark.parametrize("document", LINKING)
def test_links_lead_somewhere(document):
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", prose(document)):
        path, _, anchor = link.partition("#")
        target = (REPOSITORY / document).parent.joinpath(path).resolve() if path else REPOSITORY / document
        assert target.exists(), f"{document}: {link}"
        assert not anchor or anchor in anchors(target), f"{document}: {link}"


def test_readme_is_short_and_leads_to_every_document():
    readme = read("README.md")
    assert len(readme.splitlines()) <= 200
    for document in (*DOCUMENTS[1:], *GENERATED):
        assert f"]({document})" in readme, f"README.md has no link to {document}"


def test_contributing_has_every_module_of_the_ground_floor():
    named = [name for row in rows("CONTRIBUTING.md", "| module | what is in it |") for name in row[0].split(", ")]
    modules = [path.name for path in (REPOSITORY / "ecg_finetune").glob("[!_]*.py")]
    assert sorted(name.strip("`") for name in named) == sorted(modules)

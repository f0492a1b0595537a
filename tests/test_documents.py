"""The documents cannot drift from the code."""

import re

import pytest

from ecg_finetune.documents import DOCUMENTS, REPOSITORY, SCRIPTS, load_parser, options
from ecg_finetune.paths import ARTEFACTS


@pytest.mark.parametrize("name", DOCUMENTS)
def test_document_is_what_make_docs_would_write(name):
    assert (REPOSITORY / name).read_text(encoding="utf-8") == DOCUMENTS[name](), f"{name} has drifted: run `make docs`"


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_option_stands_in_scripts_md_with_its_default(script):
    section = (REPOSITORY / "SCRIPTS.md").read_text(encoding="utf-8").split(f"## {script}\n")[1].split("\n## ")[0]
    for name, meaning in options(load_parser(script)):
        assert f"`{name}`" in section
        assert "default" in meaning, f"{script} {name}: the help does not state the default"


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_tells_its_purpose_and_commands(script):
    description = load_parser(script).description
    assert f"python {script}" in description, "the docstring shows the exact command"
    assert re.search(r"\b(reads|Reads)\b", description) and re.search(r"\b(writes|Writes)\b", description)


def test_every_artefact_stands_in_file_locations():
    text = (REPOSITORY / "FILE_LOCATIONS.md").read_text(encoding="utf-8")
    for artefact in ARTEFACTS.values():
        assert f"`{artefact.location}`" in text


def test_every_data_folder_explains_itself():
    for pattern in ("*/data", "labels/computed_labels", "labels/label_inputs"):
        for folder in REPOSITORY.glob(pattern):
            if folder.parent.name != "demo":
                assert len((folder / "README.md").read_text(encoding="utf-8")) > 100, folder

"""LUDB: 200 12-lead recordings of 200 patients, described by a few phrases each in ludb.csv."""

import re
from pathlib import Path

from ecg_fm_labeler import Labeler

from ecg_finetune.label_set import LABELS
from ecg_finetune.tables import iterate_rows, read_header
from ecg_sources.codes import QUALITY, CodeTable
from ecg_sources.dataset import NOT_INCLUDED, DataSet, Recording, age_of, sex_of
from ecg_sources.files import Files, Finder

TABLE = "ludb.csv"
KNOWN = frozenset(LABELS) - {QUALITY}


def read(files: Files, table: Path | None) -> DataSet:
    """Read the descriptions and find the recordings.

    Parameters
    ----------
    files : Files
        What is below the root.
    table : Path, optional
        ludb.csv, if it is not found by that name.

    Raises
    ------
    UserError
        The table is missing or damaged.
    """
    table = files.table(table, [TABLE], "the descriptions of LUDB")
    codes = CodeTable(Path(__file__).with_suffix(".csv"), Labeler.from_config())
    described = [name for name in read_header(table) if name not in ("ID", "Sex", "Age")]
    found = DataSet(LABELS, NOT_INCLUDED, True, [table], ("codes",))
    finder, folder = Finder(files.records), files.below(table)
    for number, (_, (name, sex, age, *cells)) in enumerate(iterate_rows(table, ["ID", "Sex", "Age", *described]), 1):
        name = name.strip()
        path = finder.find(f"{folder}data/{name}", f"data/{name}", name)
        if path is None:
            found.left_out.append((name, f"listed in {table.name}, but no header of it below the root"))
            continue
        phrases = [phrase for cell in cells for phrase in map(str.strip, cell.splitlines()) if phrase]
        present = {code_of(phrase, codes) or phrase for phrase in phrases}
        found.unmatched.update(present - codes.codes.keys())
        labels = codes.row(present, KNOWN if phrases else frozenset())
        found.add(Recording(name, path, number, name, age_of(age), sex_of(sex), ("; ".join(phrases),)), labels)
    found.note_several(finder.several)
    return found


def code_of(phrase: str, codes: CodeTable) -> str | None:
    """Return the code that a phrase is: the whole of it, else what stands before its first colon or comma."""
    words = re.sub(r"[\s-]+", " ", phrase).strip(" .").lower()
    return next((part for part in (words, re.split("[:,]", words)[0]) if part in codes.codes), None)

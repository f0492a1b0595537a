"""PhysioNet/CinC Challenge 2017: handheld recordings of one lead, each with one of four classes in REFERENCE.csv."""

import csv
import io
import re
from pathlib import Path, PurePosixPath

from ecg_fm_labeler import Labeler

from ecg_finetune.files import UserError, read_text, shown
from ecg_finetune.label_set import LABELS
from ecg_sources.codes import CodeTable
from ecg_sources.dataset import NOT_INCLUDED, DataSet, Recording
from ecg_sources.files import Files, Finder

# The later versions of the labels come first.
TABLES = ("REFERENCE-v3.csv", "REFERENCE-v2.csv", "REFERENCE-v1.csv", "REFERENCE.csv", "REFERENCE-v0.csv")


def read(files: Files, table: Path | None) -> DataSet:
    """Read the classes and find the recordings.

    Parameters
    ----------
    files : Files
        What is below the root.
    table : Path, optional
        The table of classes, if not one of `TABLES`: `name,class` with or without a header.

    Raises
    ------
    UserError
        The table is missing, has no rows or is no such table.
    """
    table = files.table(table, TABLES, "the classes of CinC 2017")
    codes = CodeTable(Path(__file__).with_suffix(".csv"), Labeler.from_config())
    found = DataSet(LABELS, NOT_INCLUDED, False, [table], ("class",))
    finder, folder = Finder(files.records), files.below(table)
    rows = _rows(table)
    if rows[0][1] not in codes.codes and not finder.candidates(rows[0][0]):  # a header
        del rows[0]
    for number, (name, code) in enumerate(rows, start=1):
        path = finder.find(folder + name, f"{folder}{name[:3]}/{name}", name)
        if path is None:
            found.left_out.append((name, f"listed in {table.name}, but no header of it below the root"))
            continue
        if code not in codes.codes:
            found.unmatched[code] += 1
        labels = codes.row([code], frozenset())
        found.add(Recording(name, path, number, further=(code,)), labels)
    listed = {name for name, _ in rows}
    for path in finder.not_asked_for():
        if PurePosixPath(path).name not in listed:
            found.left_out.append((path, f"not listed in {table.name}"))
    found.note_several(finder.several)
    return found


def _rows(path: Path) -> list[tuple[str, str]]:
    """Return (name, class) of every row, of a header too."""
    text = read_text(path).removeprefix("\ufeff")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    named = []
    try:
        for row in reader:
            name, code, *_ = (cell.strip() for cell in [*row, "", ""])
            if name and code:
                named.append((re.sub(r"\.(mat|hea)$", "", name), code.upper()))
            elif name or code:
                raise UserError(f"{path}: line {reader.line_num} is no name,class ({shown(','.join(row))}); correct it")
    except csv.Error as error:
        raise UserError(f"{path}: not CSV ({error}); make the file again") from None
    if not named:
        raise UserError(f"{path}: no rows with a name and a class; give the REFERENCE.csv of CinC 2017")
    return named

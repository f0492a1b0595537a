"""Any data set: the user's own table, a row per recording and a column per label."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from ecg_finetune.files import UserError, shown
from ecg_finetune.label_set import KEY_COLUMNS, check_names
from ecg_finetune.tables import integer, iterate_rows, listed, read_header
from ecg_sources.dataset import NOT_KNOWN, PATIENT_NAME, RECORD_COLUMNS, DataSet, Recording, age_of, sex_of
from ecg_sources.files import SIGNALS, Files, Finder

# What a column of the table may be called, capitals aside.
NAME = ("name", "recording", "record", "file_name", "filename", "file")
PATH = ("path",)
PATIENT = ("subject_id", "patient_id", "patient", "subject")
AGE, SEX, STUDY = ("age",), ("sex", "gender"), ("study_id",)
# Columns that are no labels even where they hold nothing but 0 and 1.
HOW_TO_READ = ("channel", "rate", "unit")
NO_LABELS = ("", *NAME, *PATH, *PATIENT, *AGE, *SEX, *KEY_COLUMNS, "fold", "strat_fold", *HOW_TO_READ)
# Columns that the record list has anyway; pandas writes its index without a name.
OURS = ("", *RECORD_COLUMNS, PATIENT_NAME)
VALUES = {"": np.nan, "0": 0.0, "0.0": 0.0, "1": 1.0, "1.0": 1.0}


def read(files: Files, table: Path | None, labels: Sequence[str] | None) -> DataSet:
    """Read the table and find the recordings, of any format.

    Parameters
    ----------
    files : Files
        What is below the root.
    table : Path, optional
        The table; without it, the one CSV file directly in the root.
    labels : sequence of str, optional
        Its label columns; without it, all others that hold 0, 1 and empty cells only.

    Raises
    ------
    UserError
        The table is missing or damaged, or it is not clear what its columns are.
    """
    table = table or _only_table(files)
    header = read_header(table)
    rows = list(iterate_rows(table, header))
    header = [name.strip() for name in header]
    if not rows:
        raise UserError(f"{table}: no rows below the header; give a row per recording")
    name, path, patient, age, sex, study = (_place(header, names) for names in (NAME, PATH, PATIENT, AGE, SEX, STUDY))
    if name is None and path is None:
        if len(header) == 1 and re.search("[;\t]", header[0]):
            raise UserError(f"{table}: its columns are not separated by commas; save it as CSV with commas")
        raise UserError(f"{table}: no column is called path or name, so no recording is named; it has {listed(header)}")
    places = _label_places(table, header, rows, labels)
    taken = (name, path, patient, age, sex, study, *places)
    further = [n for n, column in enumerate(header) if n not in taken and column not in OURS]
    names = [header[place] for place in places]
    found = DataSet(names, NOT_KNOWN, patient is not None, [table], [header[place] for place in further])
    if further:
        found.notes.append(f"columns that are no labels: {listed(found.further)}")
    if unused := [name for name in found.further if name.lower() in HOW_TO_READ]:
        found.notes.append(
            f"not used: {listed(unused)}; preprocess takes --channel, --rate and --unit for all recordings, so import "
            "those that differ on their own"
        )
    finder = Finder(_recordings(files))
    for number, (line, row) in enumerate(rows, start=1):
        cells = [cell.strip() for cell in row]

        def cell(place: int | None, cells: Sequence[str] = cells) -> str:
            return "" if place is None else cells[place]

        wanted = cell(path) or cell(name)
        if not wanted:
            raise UserError(f"{table}: line {line} names no recording; fill its path or name, or remove the row")
        there = _candidates(finder, files.root, wanted)
        if len(there) != 1:
            reason = f"which {len(there)} recordings are called: give the path" if there else "but no such recording"
            found.left_out.append((wanted, f"line {line} of {table.name}, {reason} below the root"))
            continue
        recording = Recording(
            cell(name) or PurePosixPath(wanted).name,
            there[0],
            number if study is None else integer(table, line, "study_id", cells[study]),
            cell(patient),
            age_of(cell(age)),
            sex_of(cell(sex)),
            tuple(row[n] for n in further),
        )
        found.add(recording, np.array([VALUES[cells[n]] for n in places], dtype=np.float32))
    return found


def _candidates(finder: Finder, root: Path, wanted: str) -> list[str]:
    """Return the recordings that a cell may mean: a path from the root, or a name or the end of a path anywhere."""
    path = PurePosixPath(wanted)
    if path.is_absolute():
        path = next((path.relative_to(one) for one in (root, root.resolve()) if path.is_relative_to(one)), path)
    return finder.candidates(str(path), str(path.with_suffix("") if path.suffix in SIGNALS else path))


def _place(header: Sequence[str], names: Sequence[str]) -> int | None:
    return next((place for place, name in enumerate(header) if name.lower() in names), None)


def _only_table(files: Files) -> Path:
    tables = [path for path in files.paths if "/" not in path and path.lower().endswith(".csv")]
    if len(tables) != 1:
        raise UserError(
            f"{files.root}: {len(tables)} CSV files in it, not one; say which is the table with --table FILE"
        )
    return files.root / tables[0]


def _label_places(
    table: Path, header: Sequence[str], rows: Sequence[tuple[int, list[str]]], labels: Sequence[str] | None
) -> list[int]:
    """Return the positions of the label columns."""
    if labels is not None:
        if missing := [name for name in labels if name not in header]:
            raise UserError(f"{table}: no column is called {shown(missing[0])}; it has {listed(header)}")
        candidates = [header.index(name) for name in labels]
    else:
        candidates = [n for n, name in enumerate(header) if name.lower() not in NO_LABELS]
    places = []
    for place in candidates:
        wrong = next((item for item in rows if item[1][place].strip() not in VALUES), None)
        values = {row[place].strip() for _, row in rows} & VALUES.keys() - {""}
        if wrong is not None and (values or labels is not None):
            line, row = wrong
            raise UserError(
                f"{table}: line {line} has {shown(header[place])} {shown(row[place])}, and a label is 0, 1 or empty; "
                "correct it, or name the label columns with --labels"
            )
        if values or labels is not None:
            places.append(place)
    if not places:
        raise UserError(
            f"{table}: no column holds 0, 1 and empty cells only, so there is no label; it has {listed(header)}"
        )
    check_names(table, [header[place] for place in places])
    return places


def _recordings(files: Files) -> list[str]:
    """Return what may be a recording: WFDB records without an ending, all other files with theirs."""
    records = set(files.records)
    others = [path for path in files.paths if not path.endswith(SIGNALS) or path[: path.rindex(".")] not in records]
    return sorted([*records, *others])

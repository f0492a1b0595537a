"""PTB-XL: 12-lead recordings with SCP-ECG codes in ptbxl_database.csv. Its reports are not used: most are in German."""

import re
from pathlib import Path

from ecg_fm_labeler import Labeler

from ecg_finetune.files import UserError, shown
from ecg_finetune.label_set import LABELS
from ecg_finetune.tables import iterate_rows, read_header
from ecg_sources.codes import CodeTable
from ecg_sources.dataset import INCLUDED, DataSet, Recording, age_of, sex_of
from ecg_sources.files import Files, Finder

TABLE = "ptbxl_database.csv"
FILE_COLUMN = {500: "filename_hr", 100: "filename_lr"}
SUFFIX = {500: "_hr", 100: "_lr"}
GROUPS = ("site", "device", "strat_fold")
SEX = {"0": "M", "0.0": "M", "1": "F", "1.0": "F"}
# {'NORM': 100.0, 'SR': 0.0}: read by its form, never evaluated.
_STATEMENT = r"""(?:'([^'\\]{1,40})'|"([^"\\]{1,40})")\s*:\s*((?:0|[1-9][0-9]{0,3})(?:\.[0-9]{1,20})?)"""
_CODES = re.compile(rf"\{{\s*(?:{_STATEMENT}\s*(?:,\s*{_STATEMENT}\s*){{0,200}},?\s*)?\}}")
_EACH = re.compile(_STATEMENT)


def read(files: Files, table: Path | None, rate: int, likelihood: float) -> DataSet:
    """Read the codes and find the recordings.

    Parameters
    ----------
    files : Files
        What is below the root.
    table : Path, optional
        ptbxl_database.csv, if it is not found by that name.
    rate : {500, 100}
        Which of the two resolutions to take, Hz.
    likelihood : float
        From which likelihood (percent) a diagnostic code counts as present. One that is stated without a likelihood (0)
        leaves its labels unknown; codes of rhythm and form have none and count.

    Raises
    ------
    UserError
        The table is missing or damaged.
    """
    table = files.table(table, [TABLE], "the codes of PTB-XL")
    codes = CodeTable(Path(__file__).with_suffix(".csv"), Labeler.from_config())
    known = codes.told_by(codes.codes)
    header = read_header(table)
    groups = tuple(name for name in GROUPS if name in header)
    found = DataSet(LABELS, INCLUDED, True, [table], ("codes", *groups), groups)
    found.settings = {"--likelihood": likelihood, "--rate": rate}
    finder, folder = Finder(files.records), files.below(table)
    columns = ["ecg_id", "patient_id", "age", "sex", "scp_codes", FILE_COLUMN[rate], *groups]
    for number, (line, cells) in enumerate(iterate_rows(table, columns), start=1):
        ecg_id, patient, age, sex, text, listed, *further = cells
        listed = re.sub(r"\.(hea|dat)$", "", listed.replace("\\", "/"))
        name = Path(listed).name
        path = finder.find(folder + listed, listed, name) if name else None
        if path is None:
            found.left_out.append(
                (name or f"ecg_id {ecg_id}", f"line {line} of {table.name}, but no header of it below the root")
            )
            continue
        stated = statements(table, line, text)
        found.unmatched.update(stated.keys() - codes.codes.keys())
        present, doubtful = set(), set()
        for code, value in stated.items():
            if code not in codes.codes or codes.codes[code].kind != "diagnostic" or value >= likelihood:
                present.add(code)
            elif not value:
                doubtful.add(code)
        labels = codes.row(present, known if stated else frozenset(), doubtful)
        further = (" ".join(f"{code}:{value:g}" for code, value in stated.items()), *further)
        patient = re.sub(r"\.0+$", "", patient)
        recording = Recording(name, path, number, patient, age_of(age), SEX.get(sex) or sex_of(sex), further)
        found.add(recording, labels)
    other = next(one for one in FILE_COLUMN if one != rate)
    there = {rate for rate, suffix in SUFFIX.items() if any(path.endswith(suffix) for path in files.records)}
    if not found.recordings and there == {other}:
        raise UserError(f"{files.root}: holds no recording of {table.name} at {rate} Hz; give --rate {other}")
    found.note_several(finder.several)
    return found


def statements(path: Path, line: int, text: str) -> dict[str, float]:
    """Return code to likelihood of a cell of scp_codes.

    Raises
    ------
    UserError
        The cell is anything but such a table.
    """
    if not text.strip():
        return {}
    if len(text) > 10_000 or not _CODES.fullmatch(text.strip()):
        raise UserError(f"{path}: line {line} has scp_codes {shown(text)}, not {{'SR': 0.0, ...}}; correct the row")
    return {single or double: float(value) for single, double, value in _EACH.findall(text)}

"""PhysioNet/CinC Challenges 2020 and 2021: 12-lead recordings of eight databases, SNOMED CT codes in their headers."""

import hashlib
import re
from collections import Counter, defaultdict
from pathlib import Path

from ecg_fm_labeler import Labeler

from ecg_finetune.files import UserError
from ecg_finetune.label_set import LABELS
from ecg_finetune.operating_system import read_regular
from ecg_finetune.progress_bar import progress_bar
from ecg_sources.codes import CodeTable
from ecg_sources.dataset import INCLUDED, NOT_GIVEN, DataSet, Recording, age_of, sex_of
from ecg_sources.files import HEADER, Files

# The databases as the Challenge's tables call them, and their records and folders.
DATABASES = {
    "CPSC": (r"A\d{4}", "cpsc_2018"),
    "CPSC_Extra": (r"Q\d{4}", "cpsc_2018_extra"),
    "StPetersburg": (r"I\d{4}", "st_petersburg_incart"),
    "PTB": (r"S\d{4}", "ptb"),
    "PTB_XL": (r"HR\d{5}", "ptb-xl"),
    "Georgia": (r"E\d{5}", "georgia"),
    "Chapman_Shaoxing": (r"JS0\d{4}|JS10[0-5]\d\d|JS106[0-3]\d|JS1064[0-6]", "chapman_shaoxing"),
    "Ningbo": (r"JS\d{5}", "ningbo"),
}
_NAMED = [(re.compile(pattern), name) for name, (pattern, _) in DATABASES.items()]
_FOLDER = {folder: name for name, (_, folder) in DATABASES.items()}
# Codes may go on in the next lines.
_COMMENT = re.compile(
    rb"^#[ \t]*(age|sex|dx)[ \t]*:([^\r\n]*(?:\r?\n#[ \t]*[0-9][^\r\n]*)*)", re.IGNORECASE | re.MULTILINE
)
MOST_BYTES = 100_000  # of a header


def read(files: Files, database: str | None) -> DataSet:
    """Read the headers.

    Parameters
    ----------
    files : Files
        What is below the root.
    database : str, optional
        The database of recordings whose name and folders do not tell it: one of `DATABASES`. Without it, of such a
        recording is known what all of them can tell.

    Raises
    ------
    UserError
        No header has codes.
    """
    codes = CodeTable(Path(__file__).with_suffix(".csv"), Labeler.from_config())
    known = {
        name: codes.told_by([c for c, code in codes.codes.items() if name in code.databases]) for name in DATABASES
    }
    known[""] = frozenset.intersection(*known.values())
    found = DataSet(LABELS, INCLUDED, False, [], ("codes", "database"), ("database",))
    digest, databases, uncoded = hashlib.sha256(), Counter(), 0
    seen: dict[tuple, str] = {}
    with progress_bar(len(files.records), "headers") as advance:
        for number, path in enumerate(files.records, start=1):
            advance(1)
            name = path.rpartition("/")[2]
            try:
                header = read_regular(files.root / (path + HEADER), MOST_BYTES)
            except OSError as error:
                found.left_out.append((path, f"its header cannot be read ({error.strerror})"))
                continue
            where = database_of(path) or database or ""
            # A name is unique in the Challenge; in a database that is not recognised, a copy has the same header.
            first = seen.setdefault((name, where) if where else (name, hashlib.sha256(header).digest()), path)
            if first != path:
                found.left_out.append((path, f"the recording {first} again"))
                continue
            comments = defaultdict(list)
            for key, text in _COMMENT.findall(header):
                comments[key.lower()].append(text.decode("utf-8", "replace").strip())
            stated = [c for c in re.split(r"[,;#\s]+", " ".join(comments[b"dx"])) if c.lower() not in NOT_GIVEN]
            uncoded += not stated
            digest.update(header)
            databases[where] += 1
            found.unmatched.update(set(stated) - codes.codes.keys())
            labels = codes.row(stated, known[where] if stated else frozenset())
            age, sex = (read("".join(comments[key][:1])) for key, read in ((b"age", age_of), (b"sex", sex_of)))
            found.add(Recording(name, path, number, "", age, sex, (" ".join(stated), where)), labels)
    if uncoded == len(found.recordings):
        raise UserError(
            f"{files.root}: none of the {uncoded:,} headers below it has codes in a line '#Dx: ...'; give a folder "
            "of the Challenge's recordings"
        )
    found.settings = {"--database": database, "headers_sha256": digest.hexdigest()}
    if uncoded:
        found.notes.append(f"{uncoded:,} recordings have no codes in their headers: all their labels are unknown")
    counts = ", ".join(f"{name or 'not recognised'} {count:,}" for name, count in databases.most_common())
    found.notes.append(f"databases, by the recordings' names: {counts}")
    if databases[""]:
        found.notes.append(
            "of recordings whose database is not recognised only the labels are known that all eight databases tell; "
            "--database NAME says which it is"
        )
    return found


def database_of(path: str) -> str:
    """Return the database of a recording by its name, else by its folders; empty where neither tells.

    >>> [database_of(path) for path in ("g1/JS10646", "g1/JS10647", "HR00001", "georgia/g1/x", "x")]
    ['Chapman_Shaoxing', 'Ningbo', 'PTB_XL', 'Georgia', '']
    """
    *folders, name = path.split("/")
    for pattern, database in _NAMED:
        if pattern.fullmatch(name):
            return database
    return next((_FOLDER[folder.lower()] for folder in reversed(folders) if folder.lower() in _FOLDER), "")

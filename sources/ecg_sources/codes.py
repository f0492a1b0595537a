"""What the codes of a data set say: from a table of findings to labels, some of them unknown.

A code table is a CSV file beside the module of its source, with a row per code:

* `code`, and `meaning` where the code does not tell it;
* `findings`: entities of the labeler's knowledge base, "Infarction [Inferior, Old]; Q wave"; empty where it has none;
* `open`: labels that the code leaves open: neither positive nor negative, unless another code says so;
* `absent`: labels that the code denies;
* `kind`: `rhythm` where the code names the heart's rhythm (in PTB-XL also `diagnostic` and `form`);
* `databases`: which of the databases of a collection use the code.

Labels are never in the table: they follow from the findings by the labeler's inference.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from ecg_fm_labeler import Labeler

from ecg_finetune.files import UserError
from ecg_finetune.label_set import LABELS
from ecg_finetune.tables import iterate_rows, read_header

# Only CinC 2017 judges the signal. Elsewhere reversed leads, say, are stated where they were seen, but noise is not.
QUALITY = "Poor data quality"
# What is left unsaid where nothing is wrong with the rhythm.
UNSAID = "Sinus rhythm"
RHYTHM = "rhythm"
_FINDING = re.compile(r"([^\[\]]+?)(?: \[([^\[\]]+)\])?")
_COLUMNS = ("findings", "open", "absent", "kind", "databases")

Finding = tuple[str, frozenset[str]]


@dataclass(frozen=True)
class Code:
    """A row of a code table; `implied` are the labels that follow from its findings alone."""

    findings: tuple[Finding, ...]
    implied: frozenset[str]
    open: frozenset[str]
    absent: frozenset[str]
    kind: str
    databases: frozenset[str]


class CodeTable:
    """The codes of a source, and the labels that sets of them give.

    Parameters
    ----------
    path : Path
        The code table.
    labeler : Labeler
        Whose inference is used.

    Raises
    ------
    UserError
        The table is damaged, or names a finding or label that there is not.
    """

    def __init__(self, path: Path, labeler: Labeler):
        self.labeler = labeler
        self.codes: dict[str, Code] = {}
        present = [name for name in _COLUMNS if name in read_header(path)]
        for line, (code, *cells) in iterate_rows(path, ["code", *present]):
            row = dict.fromkeys(_COLUMNS, "") | dict(zip(present, cells))
            try:
                findings = tuple(map(_finding, _listed(row["findings"])))
                implied = self._positive(findings)
            except UserError as error:
                raise UserError(f"{path}: line {line}: {error}") from None
            opened, absent = (frozenset(_listed(row[name])) for name in ("open", "absent"))
            if wrong := (opened | absent) - set(LABELS):
                raise UserError(f"{path}: line {line}: {min(wrong)!r} is none of the labels; correct it")
            databases = frozenset(row["databases"].split())
            self.codes[code] = Code(findings, implied, opened, absent, row["kind"], databases)
        self._states_rhythm = any(code.kind == RHYTHM for code in self.codes.values())
        self._remembered = lru_cache(maxsize=None)(self._row)

    def told_by(self, codes: Iterable[str]) -> frozenset[str]:
        """Return the labels that a source with these codes knows of each of its recordings."""
        findings = [finding for code in codes for finding in self.codes[code].findings]
        return self.labeler.labels_told_by(findings) - {QUALITY}

    def row(self, codes: Iterable[str], known: frozenset[str], doubtful: Iterable[str] = ()) -> np.ndarray:
        """Return the labels of a recording.

        Parameters
        ----------
        codes, doubtful : iterable of str
            The codes that the recording has, and those of which it is not known whether it has them. One that is not
            in the table may mean any label, so that none is known to be absent.
        known : frozenset of str
            The labels that would be stated if they were there.

        Returns
        -------
        ndarray of float32 (17,)
            Probabilities, NaN where the label is unknown. What a code implies by itself is known; what follows from
            several codes together is where the label is.
        """
        codes, in_table = frozenset(codes), frozenset(self.codes)
        return self._remembered(codes & in_table, known if codes <= in_table else frozenset(), frozenset(doubtful))

    def _positive(self, findings: Iterable[Finding]) -> frozenset[str]:
        soft = self.labeler.label_findings([findings]).soft[0]
        return frozenset(name for name, probability in zip(LABELS, soft) if probability > 0)

    def _row(self, codes: frozenset[str], known: frozenset[str], doubtful: frozenset[str]) -> np.ndarray:
        has = [self.codes[code] for code in sorted(codes)]
        findings = [finding for code in has for finding in code.findings]
        more = [finding for code in sorted(doubtful) for finding in self.codes[code].findings]
        soft = dict(zip(LABELS, self.labeler.label_findings([findings]).soft[0].tolist()))
        implied, opened, absent = (
            frozenset().union(*(getattr(code, name) for code in has)) for name in ("implied", "open", "absent")
        )
        opened |= self._positive([*findings, *more])
        if self._states_rhythm and not any(code.kind == RHYTHM for code in has):
            opened |= {UNSAID}
        row = []
        for label in LABELS:
            if label in implied or (label in known and soft[label] > 0):
                row.append(soft[label])
            else:
                row.append(0.0 if label in (known | absent) - opened else np.nan)
        return np.array(row, dtype=np.float32)


def _listed(cell: str) -> list[str]:
    return [part.strip() for part in cell.split(";") if part.strip()]


def _finding(text: str) -> Finding:
    match = _FINDING.fullmatch(text)
    if match is None:
        raise UserError(f"{text!r} is no finding such as 'Infarction [Inferior, Old]'; correct it")
    return match[1], frozenset(match[2].split(", ") if match[2] else ())

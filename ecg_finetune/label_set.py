"""The label set: names and their order, how segments combine, and the counts and weights files hold about labels.

A label of a record is 1 (positive), 0 (negative) or unknown: its source does not say. Unknown is an empty cell in a
table and NaN in an array; it is neither positive nor negative anywhere.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ecg_finetune.files import UserError, read_text, replacing, shown
from ecg_finetune.lineage import finetuning_of
from ecg_finetune.paths import inside
from ecg_finetune.tables import iterate_rows, listed, number, read_header, write_rows

# ECG-FM's 17 labels in its order: the default label set, and the one that the labels stage writes.
LABELS = (
    "Poor data quality",
    "Sinus rhythm",
    "Premature ventricular contraction",
    "Tachycardia",
    "Ventricular tachycardia",
    "Supraventricular tachycardia with aberrancy",
    "Atrial fibrillation",
    "Atrial flutter",
    "Bradycardia",
    "Accessory pathway conduction",
    "Atrioventricular block",
    "1st degree atrioventricular block",
    "Bifascicular block",
    "Right bundle branch block",
    "Left bundle branch block",
    "Infarction",
    "Electronic pacemaker",
)

# A few abnormal seconds make the label, so the segment that shows them decides; all other labels take the mean.
COMBINED_BY_MAX = (
    "Poor data quality",
    "Premature ventricular contraction",
    "Ventricular tachycardia",
    "Supraventricular tachycardia with aberrancy",
    "Electronic pacemaker",
)


HOW = MAX, MEAN = "max", "mean"  # the probabilities of segments combine
CELLS = ("0", "1", "")  # of a table: negative, positive, unknown
ROW_NAMES = ("__macro__", "__micro__")  # of the averages in metrics.csv, which no label may have
# Of the tables that have a column per label: those of the stages up to eval, and predict's two.
KEY_COLUMNS = ("idx", "study_id", "save_file", "split")
RECORDING_COLUMNS = ("recording", "lead", "rate", "seconds", "windows", "excluded_windows", "status", "detail", "found")
WINDOW_COLUMNS = ("recording", "start_s", "status", "detail")
RESERVED = {*ROW_NAMES, *KEY_COLUMNS, *RECORDING_COLUMNS, *WINDOW_COLUMNS}


@dataclass(frozen=True)
class LabelSet:
    """The labels in their order, which is that of columns and of network outputs.

    Attributes
    ----------
    names : tuple of str
        Each once.
    combine : tuple of str
        Of each label, how the probabilities of the parts of a record combine: "max" or "mean".
    """

    names: tuple[str, ...]
    combine: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def stated(self) -> dict[str, list[str]]:
        """Return what `stated_label_set` reads, for JSON and checkpoints."""
        return {"labels": list(self.names), "combine": list(self.combine)}

    @classmethod
    def of(cls, names: Sequence[str]) -> LabelSet:
        """Return the labels of these names, combined as ECG-FM does: its five by maximum, all others by mean."""
        return cls(tuple(names), tuple(MAX if name in COMBINED_BY_MAX else MEAN for name in names))


ECG_FM = LabelSet.of(LABELS)


def check_names(path: Path, names: Sequence[str]) -> None:
    """Raise `UserError`, naming the file `path`, unless these can be the names of a label set."""
    if not names:
        raise UserError(f"{path}: names no label; give it a column or row per label")
    earlier = set()
    for place, name in enumerate(names, start=1):
        if not name.strip() or name != name.strip() or not name.isprintable():
            raise UserError(f"{path}: label {place} is called {shown(name)}; give it a name without outer blanks")
        if name in RESERVED:
            raise UserError(f"{path}: no label can be called {name}, which has a meaning of its own; rename it")
        if name in earlier:
            raise UserError(f"{path}: two labels are called {shown(name)}; rename one")
        earlier.add(name)


def read_label_names(path: Path) -> tuple[str, ...]:
    """Return the labels of labels.csv: the names of its columns after `idx`.

    Raises
    ------
    UserError
        The file is missing or damaged, has no `idx`, or its other columns cannot be labels.
    """
    first, *names = read_header(path)
    if first != "idx":
        raise UserError(f"{path}: its first column is {shown(first)}, not idx; run the labels stage again")
    check_names(path, names)
    return tuple(names)


def read_label_set(path: Path) -> LabelSet:
    """Read label_def.csv: a row per label with its `name` and, where there is such a column, `combine`.

    Raises
    ------
    UserError
        The file is missing or damaged, or a name or a way to combine is none.
    """
    with_combine = "combine" in read_header(path)
    names, combine = [], []
    for line, (name, *how) in iterate_rows(path, ["name", "combine"] if with_combine else ["name"]):
        if how and how[0] not in HOW:
            raise UserError(f"{path}: line {line} combines by {shown(how[0])}; give {MAX} or {MEAN}")
        names.append(name)
        combine += how
    check_names(path, names)
    return LabelSet(tuple(names), tuple(combine)) if with_combine else LabelSet.of(names)


def stated_label_set(statement: Mapping[str, Any]) -> LabelSet | None:
    """Return the label set that a checkpoint or settings.json states as `labels` and `combine`; None: it does not."""
    names, combine = statement.get("labels"), statement.get("combine")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    if combine is None:  # in the settings of older runs
        combine = list(LabelSet.of(names).combine)
    if not isinstance(combine, list) or len(combine) != len(names):
        return None
    if not all(isinstance(how, str) and how in HOW for how in combine):
        return None
    try:
        check_names(Path(), names)
    except UserError:
        return None
    return LabelSet(tuple(names), tuple(combine))


def label_set_beside(checkpoint: Path) -> LabelSet | None:
    """Return the label set of a checkpoint that does not state it, from the files beside it; None: not known.

    It is in the settings.json of the run that made it; else in label_def.csv, unless the folder is another run's.

    Raises
    ------
    UserError
        One of the files is damaged.
    """
    checkpoint = Path(checkpoint)
    run = finetuning_of(checkpoint)
    if isinstance(run.get("settings"), Mapping):
        return stated_label_set(run["settings"])
    definition = inside(checkpoint.parent, "finetune_label_def")
    of_other_run = inside(checkpoint.parent, "finetune_settings").exists()
    return read_label_set(definition) if definition.is_file() and not of_other_run else None


def difference(one: Sequence[str], one_name: str, other: Sequence[str], other_name: str) -> str | None:
    """Describe how two lists of labels differ; None where they do not.

    >>> difference(["A", "B"], "the checkpoint", ["B", "C"], "the test set")
    'A only in the checkpoint, C only in the test set'
    >>> difference(["A", "B"], "the checkpoint", ["B", "A"], "the test set")
    'the same in another order: A in the checkpoint where B is in the test set'
    """
    only = [
        f"{listed([label for label in mine if label not in theirs])} only in {name}"
        for mine, theirs, name in ((one, other, one_name), (other, one, other_name))
        if set(mine) - set(theirs)
    ]
    if only:
        return ", ".join(only)
    swapped = next(((a, b) for a, b in zip(one, other) if a != b), None)
    return swapped and f"the same in another order: {swapped[0]} in {one_name} where {swapped[1]} is in {other_name}"


def label_counts(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count the labels of an array (rows, labels) of 1, 0 and NaN (unknown); a probability above 0 counts as 1.

    Returns
    -------
    count, pos_percent, pos_weight : ndarray (labels,)
        How many rows have the label; the fraction p of the rows where it is known (as ECG-FM calls it); (1 - p) / p.
        0.0 where a label never occurs.
    """
    labels = np.asarray(labels)
    count, known = (labels > 0).sum(axis=0), known_counts(labels)
    share = count / np.maximum(known, 1)
    weight = np.divide(1 - share, share, out=np.zeros_like(share), where=count > 0)
    return count, share, weight


def known_counts(labels: np.ndarray) -> np.ndarray:
    """Return in how many rows of an array (rows, labels) each label is known, int (labels,)."""
    return (labels == labels).sum(axis=0)  # NaN alone is not equal to itself, also where the array holds integers


def counts_table(names: Sequence[str], labels: np.ndarray) -> str:
    """Return a text table of how many rows of `labels` (rows, labels) know each label, have it, and do not know it."""
    width = max(len("label"), *map(len, names))
    lines = [f"{'label':<{width}} {'known':>9} {'positive':>9} {'unknown':>9}"]
    for name, known, positive in zip(names, known_counts(labels).tolist(), label_counts(labels)[0].tolist()):
        lines.append(f"{name:<{width}} {known:>9,} {positive:>9,} {len(labels) - known:>9,}")
    return "\n".join(lines)


def write_label_table(path: Path, names: Sequence[str], idx: Sequence[int], labels: np.ndarray) -> None:
    """Write `idx` and a column per label: 0, 1, and an empty cell for NaN. `labels` is (rows, labels)."""
    codes = np.nan_to_num(labels, nan=CELLS.index("")).astype(np.uint8).tobytes()
    starts = range(0, len(codes), len(names))
    spelled: dict[bytes, str] = {}  # few combinations of labels occur, so each is spelled once

    def lines() -> Iterator[str]:
        for of_row, start in zip(idx, starts, strict=True):
            row = codes[start : start + len(names)]
            cells = spelled.get(row) or spelled.setdefault(row, ",".join(CELLS[code] for code in row))
            yield f"{of_row},{cells}\n"

    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerow(["idx", *names])
        file.writelines(lines())


def write_label_definition(path: Path, label_set: LabelSet, labels: np.ndarray, *, combine: bool = True) -> None:
    """Write `name,count,pos_percent,pos_weight`, the numbers as `label_counts` of `labels`, and with `combine` that."""
    columns = {"name": label_set.names}
    columns |= zip(("count", "pos_percent", "pos_weight"), (values.tolist() for values in label_counts(labels)))
    if combine:
        columns["combine"] = label_set.combine
    write_rows(path, columns, zip(*columns.values(), strict=True))


def read_pos_weight(path: Path, labels: int) -> np.ndarray:
    """Read `pos_weight.txt`: a number of at least 0 per label on one line, as float64 (labels,).

    Raises
    ------
    UserError
        The file is missing or damaged, or holds another number of weights than `labels`.
    """
    path = Path(path)
    weights = np.array([number(path, 1, "weight", text) for text in read_text(path, "the build stage").split()])
    if weights.shape != (labels,) or not (weights >= 0).all():
        raise UserError(f"{path}: must hold {labels} numbers of at least 0; run the build stage again")
    return weights


def write_pos_weight(path: Path, weights: np.ndarray) -> None:
    """Write the weights with 8 decimals on one line, as fairseq-hydra-train's command reads them."""
    with replacing(path) as temporary:
        temporary.write_text(" ".join(f"{weight:.8f}" for weight in weights) + "\n")

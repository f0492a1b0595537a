"""The data set that recordings and labels are of, as their lineage says."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecg_finetune.lineage import latest

# What the names of import_source.py stand for.
SOURCES = {
    "cinc2017": "PhysioNet/CinC 2017",
    "physionet2021": "PhysioNet/CinC 2021",
    "ptbxl": "PTB-XL",
    "ludb": "LUDB",
}
TABLE = "table"
MACHINE_STATEMENTS = "machine statements"


@dataclass(frozen=True)
class Source:
    """The data set that records and labels are of, as their lineage says.

    Attributes
    ----------
    key : str or None
        What import_source.py calls it (of a table of one's own with the digest of its labels), or `MACHINE_STATEMENTS`
        where the labels stage has read a table of reports; None: not known.
    name : str or None
        The name of an imported data set; None for any other.
    pretraining : str or None
        Whether ECG-FM's pretraining had it: "included", "not included", "not known"; None: nothing is said.
    patients : bool
        Whether it tells patients; where it does not, each recording counts as a patient.
    """

    key: str | None = None
    name: str | None = None
    pretraining: str | None = None
    patients: bool = True


def source_of(lineage: Mapping[str, Any]) -> Source:
    """Return the data set at the beginning of a lineage."""
    imported = latest(lineage, "sources")
    settings = imported.get("settings", {})
    key, pretraining = settings.get("--source"), settings.get("pretraining")
    if not isinstance(key, str):
        return Source(MACHINE_STATEMENTS) if latest(lineage, "labels") else Source()
    name = SOURCES.get(key, key)
    if key == TABLE:
        outputs, inputs = (imported.get(what) for what in ("outputs", "inputs"))
        key = f"{TABLE} {outputs.get('labels.csv') if isinstance(outputs, Mapping) else None}"
        name = Path(next(iter(inputs), TABLE)).name if isinstance(inputs, Mapping) else TABLE
    pretraining = pretraining if isinstance(pretraining, str) else "not known"
    return Source(key, name, pretraining, patients=settings.get("patients") != "not known")

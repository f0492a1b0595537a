"""The files of the labels stage, and its prevalence table."""

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ecg_finetune.files import replacing, write_json
from ecg_finetune.label_files import CHECKED, write_label_files
from ecg_finetune.label_set import ECG_FM, LABELS, label_counts
from ecg_finetune.lineage import Inputs, lineage
from ecg_finetune.paths import inside
from ecg_finetune.tables import iterate_rows, write_rows
from ecg_fm_labeler.configuration import PROJECT_CONFIG
from ecg_fm_labeler.labeler import POLICIES

LABEL_DEFINITION = "label_def.csv"
# The reports of MIMIC-IV-ECG v1.0; the counts of label_def.csv's `all_reports` are over them.
ALL_REPORTS = 800_035
MARK_ABOVE = 0.1  # relative difference of the prevalence


def write_outputs(
    folder: Path,
    config: Path,
    study_id: np.ndarray,
    split: np.ndarray,
    soft: np.ndarray,
    differences: Iterable[tuple[int, str, float, float]],
    unmatched: Counter,
    settings: Mapping[str, Any],
    inputs: Inputs,
) -> None:
    """Write every file of the labels stage, the lineage last.

    Parameters
    ----------
    folder, config : Path
        Where to; the labeler's configuration.
    study_id, split : ndarray (rows,)
        int64; the position in `SPLITS`, one beyond where there is none.
    soft : ndarray of float32 (rows, 17)
        Probabilities.
    differences : iterable of tuples
        As `policy_differences` gives them.
    unmatched : Counter
        Runs of words that no pattern took.
    settings, inputs
        Of this run, for its lineage.
    """
    write_label_files(folder, ECG_FM, study_id, split, soft, unmatched, combine=False)
    write_rows(inside(folder, "policy_differences"), ["idx", "label", *POLICIES], differences)
    with replacing(inside(folder, "label_def_official")) as temporary:
        own = Path(config) / LABEL_DEFINITION
        shutil.copyfile(own if own.is_file() else PROJECT_CONFIG / LABEL_DEFINITION, temporary)
    written = [inside(folder, name) for name in (*CHECKED, "policy_differences")]
    write_json(inside(folder, "labels_lineage"), lineage("labels", settings, inputs, written))


def policy_differences(soft: Mapping[str, np.ndarray]) -> Iterator[tuple[int, str, float, float]]:
    """Yield the cells in which the policies disagree: row, label, and the probability that each of `POLICIES` gives.

    With them the labels of one policy can be made from those of the other; `soft` holds both, (rows, 17).
    """
    one, other = (soft[policy] for policy in POLICIES)
    for row, label in zip(*(place.tolist() for place in np.nonzero(one != other))):
        # With the digits that give the same float32 again, not those of the float64 that it becomes.
        yield row, LABELS[label], *(np.format_float_positional(both[row, label], trim="-") for both in (one, other))


def published_shares() -> np.ndarray:
    """Return the published prevalence of the labels in all reports of MIMIC-IV-ECG, float64 (17,), NaN if unknown."""
    rows = iterate_rows(PROJECT_CONFIG / LABEL_DEFINITION, ["name", "all_reports"])
    counts = {name: int(count) for _, (name, count) in rows}
    return np.array([counts.get(name, np.nan) for name in LABELS]) / ALL_REPORTS


def prevalence_table(soft: np.ndarray) -> str:
    """Return a table of the labels' prevalence beside the published one; large differences are marked.

    `soft` (rows, 17) holds probabilities; a label counts where its own is above 0.
    """
    count, share, _ = label_counts(soft)
    lines = [f"{'label':<44}{'reports':>9}{'share':>9}{'published':>11}"]
    for name, number, ours, theirs in zip(LABELS, count, share, published_shares()):
        mark = "  differs by more than a tenth" if abs(ours - theirs) > MARK_ABOVE * theirs else ""
        published = "" if np.isnan(theirs) else f"{theirs:>11.2%}"
        lines.append(f"{name:<44}{number:>9,}{ours:>9.2%}{published}{mark}")
    return "\n".join(lines)

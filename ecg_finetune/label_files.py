"""The files that hand labels over, as the labels stage and the import of other data sets write them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from ecg_finetune.files import write_array
from ecg_finetune.label_set import (
    LabelSet,
    label_counts,
    write_label_definition,
    write_label_table,
    write_pos_weight,
)
from ecg_finetune.paths import inside
from ecg_finetune.studies import SPLITS
from ecg_finetune.tables import write_rows

NO_SPLIT = len(SPLITS)
# What the lineage vouches for.
CHECKED = ("labels", "study_id_mapping", "y", "y_soft")


def write_label_files(
    folder: Path,
    label_set: LabelSet,
    study_id: np.ndarray,
    split: np.ndarray,
    soft: np.ndarray,
    unmatched: Counter,
    *,
    combine: bool,
) -> None:
    """Write what both stages do: labels.csv, y.npy, y_soft.npy, study_id_mapping.csv and the counts.

    The counts are label_def_recomputed.csv, pos_weight.txt and unmatched.csv.

    Parameters
    ----------
    folder : Path
        Where to.
    label_set : LabelSet
    study_id, split : ndarray (rows,)
        int64; the position in `SPLITS`, `NO_SPLIT` where there is none.
    soft : ndarray of float32 (rows, labels)
        Probabilities, NaN where a label is unknown; above 0 is positive.
    unmatched : Counter
        What no pattern or code table knows.
    combine : bool
        Whether label_def_recomputed.csv says how the parts of a record combine.
    """
    hard = np.where(np.isnan(soft), np.nan, soft > 0).astype(np.float32)
    names = [*SPLITS, ""]
    write_array(inside(folder, "y_soft"), soft)
    write_array(inside(folder, "y"), hard)
    write_label_table(inside(folder, "labels"), label_set.names, range(len(hard)), hard)
    mapping = ((idx, study, names[code]) for idx, (study, code) in enumerate(zip(study_id.tolist(), split.tolist())))
    write_rows(inside(folder, "study_id_mapping"), ["idx", "study_id", "split"], mapping)
    write_label_definition(inside(folder, "label_def_recomputed"), label_set, hard, combine=combine)
    write_pos_weight(inside(folder, "pos_weight"), label_counts(hard)[2])
    ordered = sorted(unmatched.items(), key=lambda item: (-item[1], item[0]))
    write_rows(inside(folder, "unmatched"), ["words", "count"], ordered)

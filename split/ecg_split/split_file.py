"""Writing meta_split.csv and the list of excluded studies beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ecg_finetune.files import UserError, replacing, write_json
from ecg_finetune.lineage import Inputs, lineage, read_lineage
from ecg_finetune.studies import SPLITS, save_file_name


def write_split(
    path: Path, study_ids: np.ndarray, split: np.ndarray, excluded: pd.DataFrame | None = None, *, replace: bool
) -> bool:
    """Write a split, and beside it `<stem>.left_out.csv` where studies are excluded; print what else changes.

    The two belong together: a list that belongs to an earlier split is removed. A file that would be written again as
    it is stays untouched.

    Parameters
    ----------
    path : Path
        meta_split.csv.
    study_ids : ndarray of int64 (records,)
        The studies in the order of the rows.
    split : ndarray of int (records,)
        Position in `SPLITS` of each one's split.
    excluded : DataFrame, optional
        `study_id,reason`: the studies that are not in the split.
    replace : bool
        Whether another split may be replaced.

    Returns
    -------
    bool
        Whether the split was written; False if it stood there already.

    Raises
    ------
    UserError
        `path` holds another split and `replace` is not set; nothing was changed.
    """
    save_file = [save_file_name(study_id) for study_id in study_ids.tolist()]
    content = _csv(pd.DataFrame({"save_file": save_file, "split": np.array(SPLITS, dtype=object)[split]}))
    is_new = not path.exists() or path.read_bytes() != content
    if is_new and path.exists() and not replace:
        raise UserError(
            f"{path}: holds a different split, which later stages may have used; give --overwrite to replace it, or "
            "another --base-dir to have both"
        )
    list_path = path.with_name(f"{path.stem}.left_out.csv")
    list_content = _csv(excluded) if excluded is not None and len(excluded) else None
    if list_path.exists() and (is_new or list_path.read_bytes() != list_content):
        list_path.unlink()  # first, so that no interruption leaves it beside a split that it does not belong to
        if list_content is None:
            print(f"removed {list_path}, the list of an earlier split")
    if is_new:
        _write(path, content)
    if list_content is not None:
        print(f"excluded studies: {list_path}")
        if not list_path.exists():
            _write(list_path, list_content)
    return is_new


def note_lineage(
    path: Path, settings: Mapping[str, Any], inputs: Inputs, earlier: Sequence[Mapping[str, Any]], written: bool
) -> None:
    """Write the lineage of a split beside it, unless it stood there already with one that vouches for it.

    `path` is meta_split.csv, `written` what `write_split` returned; the rest as `lineage.lineage` takes it.
    """
    own = path.with_suffix(".json")
    if not written and own.exists():
        try:
            read_lineage("split", own, [path])
            return
        except UserError:  # the run that wrote the split was stopped before this
            pass
    write_json(own, lineage("split", settings, inputs, [path], earlier))


def _csv(table: pd.DataFrame) -> bytes:
    return table.to_csv(index=False, lineterminator="\n").encode()


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)

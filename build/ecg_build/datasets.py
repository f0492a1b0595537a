"""The small files of the test set and of the manifests."""

import os
from pathlib import Path

import numpy as np

from ecg_build.records import Excluded, Records
from ecg_finetune.files import replacing, write_array
from ecg_finetune.label_set import label_counts, write_label_definition, write_label_table, write_pos_weight
from ecg_finetune.paths import inside
from ecg_finetune.segments import SEGMENTS, segment_name
from ecg_finetune.studies import SPLITS, save_file_name
from ecg_finetune.tables import write_rows
from ecg_finetune.waveform import SEGMENT_SAMPLES


def write_test_set(folder: Path, preprocessed: Path, test: Records, checksums: np.ndarray) -> None:
    """Write the test set: links to the 10-second records, its lists and labels; `idx` is the study_id throughout.

    `checksums` uint32 (records,) are those of the signals, by which eval sees that a record has changed since.
    """
    studies = test.study_id.tolist()
    link_files(inside(folder, "test_mats"), preprocessed, [save_file_name(study) for study in studies])
    write_rows(
        inside(folder, "test_file_list"),
        ["idx", "study_id", "save_file"],
        ((study, study, save_file_name(study)) for study in studies),
    )
    write_label_table(inside(folder, "test_labels"), test.label_set.names, studies, test.labels)
    write_rows(
        inside(folder, "test_study_id_mapping"),
        ["idx", "study_id", "split"],
        ((study, study, "test") for study in studies),
    )
    write_rows(inside(folder, "test_checksums"), ["study_id", "crc32"], zip(studies, checksums.tolist(), strict=True))
    write_label_definition(inside(folder, "test_label_def"), test.label_set, test.labels)


def link_files(folder: Path, target_folder: Path, names: list[str]) -> None:
    """Make `folder` hold exactly one link per name to the file in `target_folder`.

    The links are relative, so they stay valid when the whole base folder is moved.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = os.path.relpath(Path(os.path.abspath(target_folder)), folder.resolve())  # noqa: PTH100
    present = {entry.name: entry.is_symlink() and os.readlink(entry.path) for entry in os.scandir(folder)}  # noqa: PTH115
    for name in present.keys() - set(names):
        (folder / name).unlink()
    for name in names:
        link = f"{target}/{name}"
        if present.get(name) != link:
            if name in present:
                (folder / name).unlink()
            os.symlink(link, f"{folder}/{name}")  # noqa: PTH211


def write_manifests(folder: Path, segments: Path, records: Records) -> list[Path]:
    """Write what fairseq-signals reads: lists, labels and weights, in the order of `records`.

    Returns the files that a lineage can vouch for. The lists cannot be: their first line changes when the
    base folder is moved.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        with (
            replacing(inside(folder, "manifest", split=split)) as temporary,
            temporary.open("w", encoding="utf-8") as file,
        ):
            file.write(f"{os.path.abspath(segments)}\n")  # noqa: PTH100
            for study in records.of_split(split).study_id.tolist():
                file.writelines(f"{segment_name(study, part)}\t{SEGMENT_SAMPLES}\n" for part in range(SEGMENTS))
    write_array(
        inside(folder, "manifest_y"), np.repeat(records.labels, SEGMENTS, axis=0).astype(np.float32, copy=False)
    )
    write_array(inside(folder, "original_idx_order"), np.repeat(records.study_id, SEGMENTS))
    train = records.of_split("train").labels
    write_label_definition(inside(folder, "manifest_label_def"), records.label_set, train)
    write_pos_weight(inside(folder, "manifest_pos_weight"), label_counts(train)[2])
    names = ("manifest_y", "original_idx_order", "manifest_label_def", "manifest_pos_weight")
    return [inside(folder, name) for name in names]


def write_excluded(path: Path, excluded: Excluded) -> None:
    """List the records that were not built, with the reason."""
    write_rows(path, ["save_file", "study_id", "split", "reason"], excluded.rows())

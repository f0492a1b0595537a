"""The 5 s segments that the build stage writes: manifests, their labels, and a data set for training and inference."""

import collections
import dataclasses
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ecg_finetune.files import UserError, read_array, read_text
from ecg_finetune.label_set import read_label_set
from ecg_finetune.matfile import read_mat
from ecg_finetune.paths import inside
from ecg_finetune.studies import save_file_name, study_of_save_file
from ecg_finetune.waveform import SAMPLE_RATE

SEGMENTS = 2  # per record
SEGMENT_FILE = re.compile(r"(.*)_([01])(\.mat)")


def segment_name(study_id: int, part: int) -> str:
    """Return the file name of a record's segment: `<base>_<part>.mat`.

    >>> segment_name(7, 1)
    'mimic_iv_ecg_7_1.mat'
    """
    return f"{save_file_name(study_id).removesuffix('.mat')}_{part}.mat"


def segment_of_file(name: str) -> tuple[int, int] | None:
    """Return the study_id and the part in the name of a segment; None for any other name.

    >>> segment_of_file("mimic_iv_ecg_7_1.mat"), segment_of_file("mimic_iv_ecg_7.mat")
    ((7, 1), None)
    """
    match = SEGMENT_FILE.fullmatch(name)
    study_id = study_of_save_file(match[1] + match[3]) if match else None
    return None if study_id is None else (study_id, int(match[2]))


@dataclasses.dataclass(frozen=True)
class Manifest:
    """One `{split}.tsv`: the segment files in its order, and how many samples each has (the same for all)."""

    path: Path
    files: list[Path]
    samples: int


def read_manifest(path: Path) -> Manifest:
    """Read a manifest: a line with the root folder, then `relative/path.mat<TAB>samples` per segment.

    Raises
    ------
    UserError
        The file is missing, lists nothing, a line has another form, or segments differ in length or are duplicates.
    """
    path = Path(path)
    # Only a line feed ends a line for fairseq-signals; splitlines knows ten more characters.
    root, *lines = read_text(path, "the build stage").removesuffix("\n").split("\n")
    if not lines:
        raise UserError(f"{path}: lists no segment; check the split in meta_split.csv and run the build stage again")
    names, lengths = [], set()
    for place, line in enumerate(lines, start=2):
        name, _, samples = line.partition("\t")
        if not re.fullmatch("[1-9][0-9]{0,8}", samples) or not name.isprintable() or not name:
            raise UserError(f"{path}: line {place} is {line[:80]!r}, not path<TAB>samples; run the build stage again")
        names.append(name)
        lengths.add(int(samples))
    if len(lengths) > 1:
        raise UserError(f"{path}: segments of {min(lengths)} and of {max(lengths)} samples; they must be equally long")
    if len(set(names)) < len(names):
        twice = collections.Counter(names).most_common(1)[0][0]
        raise UserError(f"{path}: duplicate segment {twice}; run the build stage again")
    if not root or not Path(root).is_dir():
        raise UserError(f"{path}: its root folder {root!r} (first line) does not exist; correct it or build again")
    return Manifest(path, [Path(root, name) for name in names], lengths.pop())


def read_lead(path: Path, samples: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Read a 10-second record or a segment.

    Parameters
    ----------
    path : Path
        The `.mat` file.
    samples : int
        How many samples it must have.

    Returns
    -------
    lead : ndarray float32 (samples,)
        The lead, which stands in all rows of `feats`.
    content : dict
        All variables of the file.

    Raises
    ------
    UserError
        The file cannot be read, lacks a variable, or its signal is not that of one lead at 500 Hz without NaN.
    """
    content = read_mat(path)
    feats = content.get("feats")
    if not isinstance(feats, np.ndarray) or feats.dtype.kind not in "fiu":
        raise UserError(f"{path}: no usable feats; delete it and run its stage again")
    rate = _number(path, content, "curr_sample_rate")
    if feats.ndim != 2 or feats.shape[0] < 1 or feats.shape[1] != samples:
        raise UserError(f"{path}: feats of shape {feats.shape}, not (leads, {samples}); run preprocess and build again")
    if rate != SAMPLE_RATE:
        raise UserError(f"{path}: sampled at {rate} Hz, not {SAMPLE_RATE} Hz; run preprocess and build again")
    with np.errstate(over="ignore"):
        lead = np.ascontiguousarray(feats[0], dtype=np.float32)
    if not np.isfinite(lead).all():
        raise UserError(f"{path}: feats holds NaN or infinite samples; run preprocess and build again")
    if not (feats == feats[0]).all():
        raise UserError(f"{path}: the rows of feats differ, but one lead in all of them is expected")
    return lead, content


def _number(path: Path, content: dict[str, np.ndarray], name: str) -> int | float:
    """Return the value of a variable that is one finite number."""
    array = content.get(name)
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu" or array.size != 1 or not np.isfinite(array):
        raise UserError(f"{path}: no usable {name}; delete it and run its stage again")
    return array.item()


def read_record(path: Path, samples: int, study_id: int) -> np.ndarray:
    """Read the 10-second record of a study: the lead, float32 (samples,).

    Raises
    ------
    UserError
        As `read_lead`; also if the file is another study's.
    """
    lead, content = read_lead(path, samples)
    idx = _number(path, content, "idx")
    if idx != study_id:
        raise UserError(f"{path}: holds study {idx}, not {study_id}; run preprocess and build again")
    return lead


def signal_checksum(lead: np.ndarray) -> int:
    """Return the CRC-32 of the samples of a lead, float32 (samples,)."""
    return zlib.crc32(lead.astype("<f4").tobytes())


def read_segment(path: Path, samples: int, rows: int) -> tuple[np.ndarray, int, int]:
    """Read one segment of a manifest.

    Parameters
    ----------
    path, samples
        As `read_lead`.
    rows : int
        Rows of the label array; the segment's `idx` must be one of them.

    Returns
    -------
    lead : ndarray float32 (samples,)
        The lead.
    idx : int
        Its row in the label array.
    study_id : int
        Its record, `original_idx` in the file.

    Raises
    ------
    UserError
        As `read_lead`; also an `idx` that is not a row, or no `original_idx`.
    """
    lead, content = read_lead(path, samples)
    idx = _number(path, content, "idx")
    if not 0 <= idx < rows or idx % 1:
        raise UserError(f"{path}: its idx {idx} is not a row of y.npy, which has {rows}; run the build stage again")
    study_id = _number(path, content, "original_idx")
    if study_id % 1:
        raise UserError(f"{path}: its original_idx {study_id} is not a study; run the build stage again")
    return lead, int(idx), int(study_id)


def read_study_of_segment(path: Path) -> int:
    """Return the record that a segment is of, its `original_idx`.

    Raises
    ------
    UserError
        The file cannot be read or does not say.
    """
    study_id = _number(path, read_mat(path), "original_idx")
    if study_id % 1:
        raise UserError(f"{path}: its original_idx {study_id} is not a study; run the build stage again")
    return int(study_id)


def read_label_rows(manifests: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the labels of all segments, and whose they are.

    Returns
    -------
    labels : ndarray float32 (segments, labels)
        y.npy, see `read_labels`.
    studies : ndarray int64 (segments,)
        original_idx_order.npy, see `read_segment_studies`.

    Raises
    ------
    UserError
        As these two; also if the arrays differ in length.
    """
    path = inside(manifests, "manifest_y")
    labels, studies = read_labels(manifests), read_segment_studies(manifests)
    if len(labels) != len(studies):
        raise UserError(
            f"{path}: {len(labels):,} rows, but original_idx_order.npy beside it has {len(studies):,}; "
            "run the build stage again"
        )
    return labels, studies


def read_segment_studies(manifests: Path) -> np.ndarray:
    """Return the study_id of each row of the manifests' y.npy: int64 (segments,).

    Raises
    ------
    UserError
        original_idx_order.npy is missing or holds something else.
    """
    path = inside(manifests, "original_idx_order")
    studies = read_array(path)
    if studies.ndim != 1 or studies.dtype.kind not in "iu":
        raise UserError(f"{path}: {studies.dtype} of shape {studies.shape}, not study ids; run the build stage again")
    return studies.astype(np.int64)


def read_labels(manifests: Path) -> np.ndarray:
    """Read y.npy of the manifests: a column for each label of label_def.csv beside it.

    Returns
    -------
    ndarray float32 (segments, labels)
        0 or 1, and NaN where the label is unknown; other shares between 0 and 1 are allowed (soft labels).

    Raises
    ------
    UserError
        A file is missing or damaged, y.npy is of another shape, or a value is outside 0 to 1.
    """
    path, definition = inside(manifests, "manifest_y"), inside(manifests, "manifest_label_def")
    labels, names = read_array(path), read_label_set(definition).names
    if labels.ndim != 2 or labels.shape[1] != len(names) or labels.dtype.kind not in "fiub":
        raise UserError(
            f"{path}: {labels.dtype} of shape {labels.shape}, not numbers of shape (rows, {len(names)}), a column for "
            f"each label of {definition.name}; run the build stage again"
        )
    wrong = ((labels < 0) | (labels > 1)).any(axis=1)  # NaN is neither
    if wrong.any():
        raise UserError(f"{path}: row {int(np.argmax(wrong))} holds a label outside 0 to 1; run the build stage again")
    return labels.astype(np.float32, copy=False)


class SegmentDataset:
    """The segments of a manifest with their labels, each read from its file when it is asked for.

    Item `i` is `(lead, target)`: float32 (samples,) and float32 (labels,). All twelve channels of the network's input
    are this lead.

    Parameters
    ----------
    manifest : Manifest
        The segments.
    labels : ndarray (rows, labels)
        See `read_labels`; a segment's `idx` says which row is its.
    studies : ndarray (rows,)
        The study_id of each row, int64. A segment must be of the study its row is of, which no damaged or mixed-up
        file survives.
    """

    def __init__(self, manifest: Manifest, labels: np.ndarray, studies: np.ndarray):
        self.manifest = manifest
        self.labels = labels
        self.studies = studies

    def __len__(self) -> int:
        return len(self.manifest.files)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        file = self.manifest.files[i]
        lead, row, study = read_segment(file, self.manifest.samples, len(self.labels))
        refuse_other_study([file], np.array([row]), np.array([study]), self.studies)
        return lead, self.labels[row]


def refuse_other_study(files: Sequence[Path], rows: np.ndarray, found: np.ndarray, studies: np.ndarray) -> None:
    """Raise `UserError` if a file is of another study (`found`, files) than its row (`rows`, files) of y.npy is.

    `studies` int64 (rows of y.npy,) says of which study each row is.
    """
    wrong = studies[rows] != found
    if wrong.any():
        first = int(np.argmax(wrong))
        raise UserError(
            f"{files[first]}: of study {found[first]}, but its idx {rows[first]} is the row of study "
            f"{studies[rows[first]]} in y.npy; run the build stage again"
        )


def expand_lead(lead, channels: int = 12, place: int | None = None):
    """Give the network its channels: Tensor (batch, samples) to (batch, channels, samples).

    The lead is in every channel (a view, which takes no memory), or in that at `place` alone, with zeros in the others.
    """
    if place is None:
        return lead[:, None, :].expand(-1, channels, -1)
    source = lead.new_zeros(len(lead), channels, lead.shape[1])
    source[:, place] = lead
    return source

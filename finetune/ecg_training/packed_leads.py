"""leads.npy: the leads of all train and valid segments in one file, beside the manifests that list them.

Training reads segments in a new order every epoch. From this file, mapped into memory, that takes a few microseconds a
segment; opening, decompressing and checking 1.4 million small files takes hundreds. Each is so read once, not once an
epoch. The file is made at the first run, and again when the segments are others; whoever deletes it loses nothing else.
"""

import contextlib
import functools
import hashlib
import io
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib import format as npy_format

from ecg_finetune.batch import chunked, run_batch
from ecg_finetune.files import UserError, read_array, read_json, refuse_outputs, sha256, write_array, write_json
from ecg_finetune.operating_system import sync_file
from ecg_finetune.paths import LOCK, PARTIAL, RUN, beside
from ecg_finetune.run_folder import LockedError, locked
from ecg_finetune.segments import Manifest, read_segment, refuse_other_study

# Not float16: with it logits of the demo's network change by up to 3e-3 (1.5e-2 on genuine leads), and AUROC and AUPRC
# of some labels in their fourth decimal.
DTYPE = np.dtype("<f4")
CHUNK = 500  # segments that a worker reads at a time
NOTED = 20_000  # segments after which they are brought to the disk, so that a killed run can go on there
WORTH_PROCESSES = 20_000  # segments: processes cost more than they save on a few thousand files of 0.3 ms
COMPARED = 100  # segments that are compared with their files before leads.npy is trusted


@dataclass(frozen=True)
class PackedLeads:
    """Segments in the order of their manifests: `leads` float32 (segments, samples), mapped into memory; `idx` int64
    (segments,), each one's row of y.npy."""

    leads: np.ndarray
    idx: np.ndarray


@dataclass(frozen=True)
class Listed:
    """The segments to pack: those of all manifests, one after the other; `studies` as `packed_leads` takes them."""

    manifests: Sequence[Manifest]
    studies: np.ndarray

    @property
    def files(self) -> list[Path]:
        """The segments' files."""
        return [file for manifest in self.manifests for file in manifest.files]

    @property
    def samples(self) -> int:
        """Samples of each segment."""
        return self.manifests[0].samples

    def description(self) -> dict[str, object]:
        """Return what leads.npy is of; the digest is another when manifests change or files come into their folders.

        (A segment that is written anew gets there by a rename, which the folder's time of change tells.)
        """
        digest = hashlib.sha256(self.studies.tobytes())
        folders = sorted(set(map(os.path.dirname, self.files)))
        changes = (Path(folder).stat().st_mtime_ns for folder in folders)
        for told in (*(sha256(manifest.path) for manifest in self.manifests), *changes):
            digest.update(f"{told}\n".encode())
        return {"segments": len(self.files), "samples": self.samples, "digest": digest.hexdigest()}


def packed_leads(
    path: Path, manifests: Sequence[Manifest], studies: np.ndarray, *, workers: int = 1, first: bool = True
) -> PackedLeads:
    """Return the leads of all segments, from leads.npy; make it where it is missing or of other segments.

    Parameters
    ----------
    path : Path
        leads.npy.
    manifests : sequence of Manifest
        What is wanted: all segments of the first, then all of the second, and so on; equally long.
    studies : ndarray int64 (rows,)
        The study_id of each row of y.npy, see `segments.read_segment_studies`.
    workers : int
        Processes that read segments.
    first : bool
        Whether this is the process, of those that share a run, that makes the file; the others wait for it.

    Raises
    ------
    UserError
        A segment cannot be used, as `segments.read_segment` and `segments.refuse_other_study`; or the file cannot be
        written, is one that was not made here, or has no room on its disk.
    """
    listed = Listed(manifests, studies)
    wanted = listed.description()
    while not first and not _is_finished(path, wanted):
        time.sleep(1)
    found = _usable(path, listed, wanted)
    if found is not None:
        return found
    refuse_outputs(files=[path])
    if path.exists() and not (beside(path, RUN).exists() or _idx_file(path).exists()):
        raise UserError(f"{path}: not made by an earlier run, and would be replaced; give another file as --leads")
    with _lock(path):
        # Another run may have made it while this one waited.
        return _usable(path, listed, wanted) or _pack(path, listed, wanted, workers)


def _noted(path: Path, wanted: dict[str, object]) -> int:
    """Return how many of the wanted segments are packed, as the file beside leads.npy says."""
    try:
        note = read_json(beside(path, RUN), dict)
    except UserError:
        return 0
    packed = note.pop("packed", 0)
    return packed if note == wanted and type(packed) is int and 0 <= packed <= wanted["segments"] else 0


def _is_finished(path: Path, wanted: dict[str, object]) -> bool:
    return path.is_file() and _noted(path, wanted) == wanted["segments"]


def _idx_file(path: Path) -> Path:
    """Return where the `idx` of the segments in leads.npy are: leads_idx.npy beside it."""
    return path.with_name(f"{path.stem}_idx.npy")


def _read_idx(path: Path, count: int, listed: Listed) -> np.ndarray | None:
    """Return the first `count` elements of leads_idx.npy; None where it is not what it must be."""
    try:
        idx = read_array(_idx_file(path))[:count]
    except UserError:
        return None
    fits = idx.shape == (count,) and idx.dtype == np.int64 and ((idx >= 0) & (idx < len(listed.studies))).all()
    return idx if fits else None


def _usable(path: Path, listed: Listed, wanted: dict[str, object]) -> PackedLeads | None:
    """Return the packed leads if they are whole and those of the segments, else None.

    Some are compared with their files, which can be overwritten without a trace in their folder.
    """
    if not _is_finished(path, wanted):
        return None
    idx = _read_idx(path, wanted["segments"], listed)
    try:
        # Copy on write, as PyTorch warns of arrays that cannot be written.
        leads = np.load(path, mmap_mode="c", allow_pickle=False)
    except Exception:  # numpy reads the header with Python's own parser, which raises anything
        return None
    if idx is None or leads.dtype != DTYPE or leads.shape != (wanted["segments"], wanted["samples"]):
        return None
    files, places = listed.files, np.unique(np.linspace(0, len(idx) - 1, COMPARED, dtype=int))
    there, rows = read_segments([files[place] for place in places], listed.samples, listed.studies)
    same = np.array_equal(there, leads[places]) and np.array_equal(rows, idx[places])
    return PackedLeads(leads, idx) if same else None


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the lock of leads.npy, be it after another run has made the file."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(path, beside(path, LOCK)))
        except LockedError:
            print(f"waiting for another run, which makes {path}", flush=True)
            held.enter_context(locked(path, beside(path, LOCK), patience=float("inf")))
        yield


def _pack(path: Path, listed: Listed, wanted: dict[str, object], workers: int) -> PackedLeads:
    """Make leads.npy, or go on where a run that was stopped has left off."""
    partial, files = beside(path, PARTIAL), listed.files
    header = io.BytesIO()
    shape = (len(files), listed.samples)
    npy_format.write_array_header_1_0(header, {"descr": DTYPE.str, "fortran_order": False, "shape": shape})
    row_bytes = DTYPE.itemsize * listed.samples
    size = header.tell() + len(files) * row_bytes

    packed, there = _noted(path, wanted), partial.stat().st_size if partial.is_file() else 0
    before = _read_idx(path, packed, listed)
    if before is None or there < header.tell() + packed * row_bytes:
        packed, before = 0, []
    free = shutil.disk_usage(path.parent).free + there
    if not packed:
        free += path.stat().st_size if path.is_file() else 0
    if free < size:
        raise UserError(
            f"{path}: the leads of {len(files):,} segments need {in_words(size)}, and {in_words(free)} are free there; "
            "free some, or give a file on another disk as --leads"
        )
    print(
        f"packing the leads of {len(files):,} segments into {path} ({in_words(size)}), so that no epoch opens their "
        f"files{f'; {packed:,} of them are there' if packed else ''}; it may be deleted when no run uses it",
        flush=True,
    )
    idx = np.full(len(files), -1, dtype=np.int64)
    idx[:packed] = before

    def note() -> None:
        out.flush()
        sync_file(out.fileno())
        write_array(_idx_file(path), idx)
        write_json(beside(path, RUN), {**wanted, "packed": packed})

    if not packed:
        for old in (path, beside(path, RUN)):
            old.unlink(missing_ok=True)
    jobs = workers if len(files) - packed > WORTH_PROCESSES else 1
    read = functools.partial(read_segments, samples=listed.samples, studies=listed.studies)
    results = run_batch(
        read, chunked(files[packed:], CHUNK), workers=jobs, total=len(files) - packed, unit="segments packed"
    )
    with partial.open("r+b" if there else "wb") as out, contextlib.closing(results):
        out.write(header.getvalue())
        out.seek(packed * row_bytes, os.SEEK_CUR)
        out.truncate()
        for leads, rows in results:
            out.write(leads.data)
            idx[packed : packed + len(rows)] = rows
            packed += len(rows)
            if packed % NOTED < len(rows):
                note()
        note()
    partial.replace(path)
    return PackedLeads(np.load(path, mmap_mode="c", allow_pickle=False), idx)


def in_words(size: int) -> str:
    """Write a number of bytes.

    >>> in_words(14_180_000_128), in_words(390_000), in_words(0)
    ('14 GB', '390 kB', '0 kB')
    """
    unit, name = next((each for each in ((1e9, "GB"), (1e6, "MB")) if size >= each[0]), (1e3, "kB"))
    return f"{size / unit:.0f} {name}"


def read_segments(files: Sequence[Path], samples: int, studies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Read segments from their files: float32 (files, samples) and int64 (files,), as in `PackedLeads`."""
    leads = np.empty((len(files), samples), dtype=DTYPE)
    rows, found = np.empty((2, len(files)), dtype=np.int64)
    for place, file in enumerate(files):
        leads[place], rows[place], found[place] = read_segment(file, samples, len(studies))
    refuse_other_study(files, rows, found, studies)
    return leads, rows

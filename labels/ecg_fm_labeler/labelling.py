"""Labelling the distinct reports of a table in chunks, on worker processes."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ecg_finetune.batch import chunk_size, run_batch
from ecg_finetune.label_set import LABELS
from ecg_fm_labeler.labeler import POLICIES, Labeler
from ecg_fm_labeler.reports import Reports

MOST_PER_CHUNK = 20_000

Chunk = list[tuple[list[str], int]]


class LabelledReports(NamedTuple):
    """The labels of all rows, and what the patterns did not take.

    Attributes
    ----------
    soft : dict of str to ndarray of float32 (rows, 17)
        Probabilities under each policy, of which the chosen one comes first; 0 where a label is absent.
    unmatched : Counter
        How often each run of words that no pattern takes is in the statements of all rows.
    unread : int
        The rows with text of which no pattern took a word: in another language or wording, say.
    unread_words : Counter
        How often each word is in those.
    """

    soft: dict[str, np.ndarray]
    unmatched: Counter
    unread: int
    unread_words: Counter


def label_reports(
    reports: Reports, folder: Path, policy: str, workers: int, dask: str | None = None
) -> LabelledReports:
    """Label every row; the labels depend on the text alone, so each distinct report is labelled once.

    Under both policies: how much of a result is due to the policy is asked of every evaluation.
    """
    policies = sorted(POLICIES, key=policy.__ne__)
    used, times = np.unique(reports.which, return_counts=True)
    size = chunk_size(len(used), workers, MOST_PER_CHUNK)
    soft = np.zeros((len(policies), len(reports.distinct), len(LABELS)), dtype=np.float32)
    unmatched, unread, unread_words = Counter(), 0, Counter()
    work = partial(_label_chunk, Path(folder).resolve(), policies)
    results = run_batch(
        work, _chunks(reports, used, times, size), workers=workers, total=len(used), unit="distinct reports", dask=dask
    )
    with closing(results):
        for start, (rows, runs, rows_unread, words) in zip(range(0, len(used), size), results, strict=True):
            soft[:, used[start : start + size]] = rows
            unmatched.update(runs)
            unread += rows_unread
            unread_words.update(words)
    of_rows = {policy: values[reports.which] for policy, values in zip(policies, soft)}
    return LabelledReports(of_rows, unmatched, unread, unread_words)


def _chunks(reports: Reports, used: np.ndarray, times: np.ndarray, size: int) -> Iterator[Chunk]:
    for start in range(0, len(used), size):
        piece = slice(start, start + size)
        yield [
            ([reports.statements[number] for number in reports.distinct[which]], count)
            for which, count in zip(used[piece].tolist(), times[piece].tolist())
        ]


@cache
def _labeler(folder: Path, policy: str) -> Labeler:
    return Labeler.from_config(folder, policy)


def _label_chunk(folder: Path, policies: list[str], chunk: Chunk) -> tuple[np.ndarray, Counter, int, Counter]:
    labelers = [_labeler(folder, policy) for policy in policies]
    labeler = labelers[0]
    unmatched, unread, unread_words = Counter(), 0, Counter()
    soft = np.empty((len(policies), len(chunk), len(LABELS)), dtype=np.float32)
    for row, (statements, count) in enumerate(chunk):
        soft[:, row] = [one.inference.label_row(one.text_entities(statements)) for one in labelers]
        for words in labeler.unmatched(statements):
            unmatched[words] += count
        if runs := labeler.unread(statements):
            unread += count
            for word in " ".join(runs).split():
                unread_words[word] += count
    return soft, unmatched, unread, unread_words

"""predictions.csv and windows.csv, written as the results come."""

import contextlib
import csv
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ecg_finetune.files import replacing
from ecg_finetune.label_set import RECORDING_COLUMNS, WINDOW_COLUMNS
from ecg_finetune.model_folder import ModelConfig
from ecg_finetune.paths import inside
from ecg_prediction.answering import Result


@contextlib.contextmanager
def tables(folder: Path, config: ModelConfig, lead: str) -> Iterator[Callable[[Sequence[Result]], None]]:
    """Yield the function that writes the rows of results; the files are there, whole, when the block has ended."""
    with contextlib.ExitStack() as stack:
        writers = []
        for name, columns in (("recording_predictions", RECORDING_COLUMNS), ("window_predictions", WINDOW_COLUMNS)):
            temporary = stack.enter_context(replacing(inside(folder, name)))
            file = stack.enter_context(temporary.open("w", newline="", encoding="utf-8"))
            writers.append(csv.writer(file, lineterminator="\n"))
            writers[-1].writerow([*columns, *config.label_set.names])

        def write(results: Sequence[Result]) -> None:
            for result in results:
                writers[0].writerow(recording_row(config, lead, result))
                writers[1].writerows(window_rows(config, result))

        yield write


def recording_row(config: ModelConfig, lead: str, result: Result) -> list:
    """Return the row of a recording; its probabilities are empty where it has none."""
    answer, nothing = result.answer, [""] * len(config.label_set)
    windows = (0, 0) if answer is None else (len(answer.windows), answer.excluded)
    cells = [
        result.recording,
        lead,
        number(result.rate),
        number(result.seconds),
        *windows,
        result.status,
        result.detail,
    ]
    if result.status != "ok":
        return [*cells, "", *nothing]
    return [*cells, "; ".join(found_labels(config, result)), *numbers(config.calibrated(answer.combined[None])[0])]


def window_rows(config: ModelConfig, result: Result) -> Iterator[list]:
    """Yield the row of each window of a recording."""
    if result.answer is None:
        return
    probabilities = config.calibrated(result.answer.by_window)
    for window, row in zip(result.answer.windows, probabilities):
        yield [result.recording, number(window.start_s), window.status, window.detail, *numbers(row)]


def found_labels(config: ModelConfig, result: Result) -> list[str]:
    """Return the labels whose probability is at or above their threshold."""
    found = config.found(result.answer.combined)
    return [name for name, there in zip(config.label_set.names, found.tolist()) if there]


def number(value: float | None) -> str:
    """Return a number with six digits; nothing for None."""
    return "" if value is None else f"{value:.6g}"


def duration(seconds: float) -> str:
    """Return a duration for people.

    >>> duration(30.04), duration(86_400)
    ('30.04 s', '86,400 s')
    """
    return f"{seconds:,.0f} s" if seconds >= 1000 else f"{seconds:.4g} s"


def with_threshold(probability: float, threshold: float, *, found: bool) -> tuple[str, str]:
    """Return a probability and its threshold for people: with three decimals, or as many as show that it is below.

    >>> with_threshold(0.27604, 0.27641, found=False), with_threshold(0.5, math.nan, found=False)
    (('0.2760', '0.2764'), ('0.500', 'none'))
    """
    if math.isnan(threshold):
        return f"{probability:.3f}", "none"
    for digits in range(3, 10):
        texts = f"{probability:.{digits}f}", f"{threshold:.{digits}f}"
        if found or texts[0] != texts[1]:
            break
    return texts


def numbers(values: np.ndarray) -> list[str]:
    """Return numbers with six digits; nothing for NaN."""
    return ["" if value != value else f"{value:.6g}" for value in values.tolist()]

"""predictions.csv and windows.csv, written as the results come."""

import contextlib
import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ecg_finetune.files import replacing
from ecg_finetune.model_folder import ModelConfig
from ecg_finetune.paths import inside
from ecg_prediction.answering import Result

COLUMNS = ("recording", "lead", "rate", "seconds", "windows", "excluded_windows", "status", "detail", "found")
WINDOW_COLUMNS = ("recording", "start_s", "status", "detail")


@contextlib.contextmanager
def tables(folder: Path, config: ModelConfig, lead: str) -> Iterator[Callable[[Sequence[Result]], None]]:
    """Yield the function that writes the rows of results; the files are there, whole, when the block has ended."""
    with contextlib.ExitStack() as stack:
        writers = []
        for name, columns in (("recording_predictions", COLUMNS), ("window_predictions", WINDOW_COLUMNS)):
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


def numbers(values: np.ndarray) -> list[str]:
    """Return numbers with six digits; nothing for NaN."""
    return ["" if value != value else f"{value:.6g}" for value in values.tolist()]

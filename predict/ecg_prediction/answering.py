"""One chunk of recordings: read, cut into windows, answered."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ecg_finetune.files import UserError, printable
from ecg_finetune.model_folder import Answer, Model, load_model
from ecg_finetune.recordings import read_lead
from ecg_finetune.waveform import LeadSignal, RecordError
from ecg_finetune.windows import Window, cut_windows
from ecg_prediction.inversion import is_inverted
from ecg_prediction.sources import Source

# Recordings that are read and answered together, whatever the number of workers, so that their answers do not depend on
# it in any digit.
CHUNK = 16
INVERTED = "looks upside down (a watch on the other arm?); with --invert it is turned round"
INVERTED_BY_US = "looks upside down now that --invert has turned it; leave --invert out"


@dataclass(frozen=True)
class Job:
    """What every chunk needs to know: the model and how it runs, the lead and how it is read."""

    model: Path
    runtime: str
    precision: str
    device: str
    batch_size: int
    threads: int
    lead: str
    channel: str | None
    rate: float | None
    unit: str | None
    invert: bool


@dataclass(frozen=True)
class Result:
    """What became of one recording.

    Attributes
    ----------
    recording : str
        Its name.
    status, detail : str
        "ok", or why there is no answer; more about it in words.
    rate, seconds : float, optional
        Of the recording, where it could be read.
    answer : Answer, optional
        Where it has a window.
    inverted : bool
        Whether it is clearly upside down.
    """

    recording: str
    status: str
    detail: str
    rate: float | None = None
    seconds: float | None = None
    answer: Answer | None = None
    inverted: bool = False


def answer_chunk(job: Job, sources: Sequence[Source]) -> list[Result]:
    """Return the result of each recording; a damaged one costs its own alone."""
    read: list[Result] = []

    def windows() -> Iterator[list[Window]]:
        for source in sources:
            result, cut = prepare(job, source)
            read.append(result)
            yield cut

    model = loaded(job)
    answers = list(model.answers(windows(), job.batch_size))
    return [finished(result, answer, invert=job.invert) for result, answer in zip(read, answers, strict=True)]


@functools.lru_cache(maxsize=1)
def loaded(job: Job) -> Model:
    """Return the model of this process."""
    if job.runtime == "torch":
        import torch

        torch.set_num_threads(job.threads)
    return load_model(job.model, job.runtime, precision=job.precision, device=job.device, threads=job.threads)


def read_signal(job: Job, path: str) -> LeadSignal:
    """Read the lead of a recording, in millivolts, turned round where that is asked for.

    Raises
    ------
    RecordError, UserError
        As `recordings.read_lead`.
    """
    signal = read_lead(path, lead=job.lead, channel=job.channel, rate=job.rate, unit=job.unit)
    scale = signal.millivolts_per_unit * (-1 if job.invert else 1)
    return LeadSignal(signal.values * scale, "mV", signal.rate, signal.samples)


def prepare(job: Job, source: Source) -> tuple[Result, list[Window]]:
    """Read a recording and cut it into windows; of one that cannot be used there are none, and the result says why."""
    signal = None
    try:
        signal = read_signal(job, source.path)
        windows = list(cut_windows(signal.values, signal.rate))
    except UserError as error:
        known = isinstance(error, RecordError)
        status, detail = (error.status, error.detail) if known else ("unreadable", printable(str(error)))
        seconds = None if signal is None else len(signal.values) / signal.rate
        return Result(source.name, status, detail, None if signal is None else signal.rate, seconds), []
    inverted = job.lead == "I" and is_inverted(windows)
    return (
        Result(source.name, "ok", "", signal.rate, len(signal.values) / signal.rate, inverted=inverted),
        windows,
    )


def finished(result: Result, answer: Answer, *, invert: bool) -> Result:
    """Return a result with its answer, and what the windows and the waveform say about it."""
    if result.status != "ok":
        return result
    whole = {name: getattr(result, name) for name in ("recording", "rate", "seconds", "inverted")}
    if (error := answer.unusable()) is not None:
        return Result(status=error.status, detail=error.detail, answer=answer, **whole)
    told = [window.detail for window in answer.windows if window.status == "ok" and window.detail]
    if answer.excluded:
        told.append(f"{answer.excluded} of {len(answer.windows)} windows excluded")
    if result.inverted:
        told.append(INVERTED_BY_US if invert else INVERTED)
    return Result(status="ok", detail="; ".join(told), answer=answer, **whole)

"""Ask a model about recordings: a watch's, a handheld's, a cart's, one or ten million.

A recording is read whole, in any format of docs/recordings.md, and cut into windows of 10 s (from 5 s on one window);
each passes the checks of preprocess on its own. What the model says of the windows is combined, calibrated, and
compared with the thresholds. A recording that looks upside down is told.

    python predict/scripts/predict_ecg.py ecg_2026-03-14.csv --model export/data/my_model
    python predict/scripts/predict_ecg.py cinc2017/records --model export/data/my_model --out predict/data/cinc2017
    python predict/scripts/predict_ecg.py --record-list record_list.csv --raw-root raw --model export/data/my_model

Reads the model folder and the recordings. Writes into predict/data/<time>/, or --out:
    predictions.csv    a row per recording: what was found, and a calibrated probability per label (300 bytes)
    windows.csv        the same for every window of 10 s
    report.html        strips on ECG paper, probabilities with thresholds and in words (0.1 MB a recording shown)
    predictions.json   settings, and the lineage of the model
"""

import argparse
import contextlib
import functools
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from ecg_finetune.batch import run_batch
from ecg_finetune.cli import add_batch, add_reading, execute, fraction, positive_int, stage_parser
from ecg_finetune.files import UserError, existing_file, printable, refuse_outputs, sha256, write_json
from ecg_finetune.lineage import Inputs, lineage
from ecg_finetune.operating_system import usable_cores
from ecg_finetune.paths import LOCK, beside, inside, locate
from ecg_finetune.run_folder import locked
from ecg_finetune.waveform import LEADS

MOST_TOLD = 20  # recordings that get a line on the terminal

OUTPUTS = ("recording_predictions", "window_predictions", "prediction_report", "prediction_lineage")


def get_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = stage_parser(__doc__)
    parser.add_argument(
        "recordings",
        type=Path,
        nargs="*",
        metavar="RECORDING",
        help="a file, a WFDB record, or a folder: its WFDB records, or all its files if it has none (no default; "
        "needed unless --record-list is given)",
    )
    parser.add_argument(
        "--model", type=Path, required=True, metavar="FOLDER", help="the model folder that export wrote (no default)"
    )
    parser.add_argument(
        "--record-list",
        type=Path,
        default=None,
        metavar="CSV",
        help="a table with the `path` of each recording, instead of RECORDING (default: none)",
    )
    parser.add_argument(
        "--raw-root",
        type=Path,
        default=None,
        metavar="DIR",
        help="the folder that the paths of the record list start from (default: the folder of the list)",
    )
    parser.add_argument(
        "--out", type=Path, default=None, metavar="DIR", help="where to write (default: <base-dir>/predict/data/<time>)"
    )
    parser.add_argument(
        "--lead", choices=LEADS, default=None, help="the lead to take (default: the one that the model is for)"
    )
    add_reading(parser)
    parser.add_argument(
        "--invert",
        action="store_true",
        help="turn every recording upside down, for a device on the other arm (default: as they are; those that look "
        "upside down are told)",
    )
    parser.add_argument(
        "--runtime",
        choices=("auto", "onnx", "torch"),
        default="auto",
        help="what runs the network; auto: onnxruntime where it is installed, else PyTorch (default: auto)",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "int8"),
        default="float32",
        help="int8: the smaller and faster network of the folder, if it has one (default: float32)",
    )
    parser.add_argument(
        "--device",
        default="cpu",
        help="with --runtime torch: auto, cpu, cuda, cuda:N or mps; on a GPU with --workers 1 (default: cpu)",
    )
    parser.add_argument(
        "--batch-size", type=positive_int, default=32, metavar="N", help="5 s segments at once (default: %(default)s)"
    )
    add_batch(parser)
    parser.add_argument(
        "--max-failed-fraction",
        type=fraction,
        default=0.05,
        metavar="SHARE",
        help="exit with an error if a greater share of the recordings has no answer; what was written stays; 1 = never "
        "(default: 0.05)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace what an earlier run wrote into --out (default: refuse)"
    )
    return parser


def run(args: argparse.Namespace, inputs: Inputs) -> str:
    """Ask the model about every recording, write the tables as the answers come, then the page."""
    from ecg_prediction.answering import CHUNK, Job, read_signal
    from ecg_prediction.report import Summary, shown_places, write_report
    from ecg_prediction.tables import tables

    from ecg_finetune.model_folder import check_folder, choose_runtime, read_config

    config = read_config(args.model)
    runtime = choose_runtime(args.runtime, args.precision)
    check_folder(args.model, config, runtime, args.precision)
    inputs.add(inside(args.model, "model_config"))
    sources = named_sources(args.recordings, args.record_list, args.raw_root)
    inputs.add(*([] if args.record_list is None else [args.record_list]))
    lead = args.lead or config.lead
    if lead != config.lead:
        print(f"warning: the model was made for lead {config.lead}, not {lead}", file=sys.stderr)
    if sources.left_out:
        print(left_out_line(sources.left_out, sources.first_left_out))
    job = Job(
        model=args.model.resolve(),
        runtime=runtime,
        precision=args.precision,
        device=args.device,
        batch_size=args.batch_size,
        # One thread in each of many processes; a few recordings are done in one, which may use all cores.
        threads=1 if sources.count > CHUNK else usable_cores(),
        lead=lead,
        channel=args.channel,
        rate=args.rate,
        unit=args.unit,
        invert=args.invert,
    )
    summary = Summary(config, shown_places(sources.count))
    with claimed_folder(args.base_dir, args.out, args.overwrite) as folder:
        with tables(folder, config, lead) as write:
            for results in answered(job, sources, args.workers, args.dask):
                write(results)
                summary.add(results)
        paths = shown_paths(sources, summary.shown)
        write_report(
            folder,
            args.model,
            summary,
            lambda result: read_signal(job, paths[result.recording]),
            lead=lead,
            invert=args.invert,
        )
        write_json(inside(folder, "prediction_lineage"), origin(args, config, job, inputs, folder))
    failed = summary.total - summary.answered
    too_many = failed > args.max_failed_fraction * summary.total
    if too_many and summary.total == 1:
        raise UserError(f"{summary.kept[0].recording}: {summary.kept[0].detail} ({summary.kept[0].status})")
    print_answers(summary, lead)
    if too_many:
        raise UserError(
            f"{inside(folder, 'recording_predictions')}: {failed:,} of {summary.total:,} recordings have no answer, "
            f"more than --max-failed-fraction {args.max_failed_fraction:g}; what was written stays: status and detail "
            "say why"
        )
    without = f", {failed:,} of them without an answer" if failed else ""
    recordings = "1 recording" if summary.total == 1 else f"{summary.total:,} recordings"
    return f"{recordings}{without}, {printable(str(inside(folder, 'prediction_report')))}"


def left_out_line(count: int, first: Sequence[str]) -> str:
    """Say which files of folders of WFDB records get no answer."""
    files = "1 file is" if count == 1 else f"{count:,} files are"
    more = f" and {count - len(first):,} more" if count > len(first) else ""
    named = printable(", ".join(first)) + more
    remedy = "to have recordings among them answered, give the files themselves"
    return f"{files} left out, no part of a WFDB record: {named}; {remedy}"


def named_sources(recordings: list[Path], record_list: Path | None, raw_root: Path | None):
    """Return the recordings to ask about, those named or those listed."""
    from ecg_prediction.sources import Given, Listed

    if record_list is not None:
        if recordings:
            raise UserError(f"{recordings[0]}: recordings are named and listed; give either, or --record-list")
        existing_file(record_list, "the stage that makes it")
        return Listed(record_list, raw_root or record_list.parent)
    if not recordings:
        raise UserError("no recording: name files or folders, or give a table of them as --record-list")
    return Given(recordings)


@contextlib.contextmanager
def claimed_folder(base_dir: Path, out: Path | None, overwrite: bool) -> Iterator[Path]:
    """Yield the folder to write into, of this run alone; one that was made for nothing is gone afterwards."""
    folder = out or locate(base_dir, "prediction", time=datetime.now().strftime("%Y%m%d_%H%M%S"))
    refuse_outputs(folders=[folder])
    while out is None and folder.exists():
        time.sleep(0.2)
        folder = locate(base_dir, "prediction", time=datetime.now().strftime("%Y%m%d_%H%M%S"))
    if inside(folder, "model_config").exists():
        raise UserError(f"{folder}: holds a config.json, as a model folder does; choose another --out")
    with locked(folder, beside(folder, LOCK)):
        there = [path for path in (inside(folder, name) for name in OUTPUTS) if path.exists()]
        if there and not overwrite:
            raise UserError(f"{folder}: holds a {there[0].name}; choose another --out, or replace it with --overwrite")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            yield folder
        except KeyboardInterrupt:
            again = "answers are written at the end, so the same command starts from the beginning"
            raise KeyboardInterrupt(f"stopped by Ctrl-C; {again}") from None
        finally:
            with contextlib.suppress(OSError):
                folder.rmdir()  # only if it is empty


def answered(job, sources, workers: int, dask: str | None) -> Iterator[list]:
    """Yield the results of the recordings, in their order and in chunks."""
    from ecg_prediction.answering import CHUNK, answer_chunk

    rows = iter(sources)
    chunks = iter(lambda: list(itertools.islice(rows, CHUNK)), [])
    workers = min(workers, -(-sources.count // CHUNK))
    work = functools.partial(answer_chunk, job)
    results = run_batch(work, chunks, workers=workers, total=sources.count, unit="recordings", dask=dask)
    with contextlib.closing(results):
        yield from results


def shown_paths(sources, places: list[int]) -> dict[str, str]:
    """Return where the recordings at these places are, by their names."""
    wanted = set(places)
    return {source.name: source.path for place, source in enumerate(sources) if place in wanted}


def origin(args: argparse.Namespace, config, job, inputs: Inputs, folder: Path) -> dict:
    """Return the lineage of predictions.csv, in the form that eval reads beside predictions."""
    from ecg_finetune.lineage import lineages

    settings = {f"--{name.replace('_', '-')}": getattr(args, name) for name in ("channel", "rate", "unit", "invert")}
    settings |= {"model": config.name, "lead": job.lead, "runtime": job.runtime, "precision": job.precision}
    predictions = inside(folder, "recording_predictions")
    stated = (one.get("checkpoint_sha256") for one in lineages(config.lineage))
    outputs = [predictions, inside(folder, "window_predictions")]
    return {
        **lineage("predict", settings, inputs, outputs, earlier=[config.lineage]),
        "predictions_sha256": sha256(predictions),
        "checkpoint_sha256": next(filter(None, stated), ""),
        "finetuned_on_lead": config.lead,
    }


def print_answers(summary, lead: str) -> None:
    """Print what was found: every label of one recording, a line for each of a few, counts of many."""
    from ecg_prediction.tables import found_labels

    config = summary.config
    if summary.total == 1 and summary.answered:
        print_labels(summary.kept[0], config, lead)
    elif summary.total <= MOST_TOLD:
        for result in summary.kept:
            name = printable(result.recording)
            if result.status == "ok":
                told = "; ".join(found_labels(config, result)) or "nothing found"
                print(f"{name}: {told}" + (f" (note: {result.detail})" if result.detail else ""))
            else:
                print(f"{name}: no answer, {result.detail} ({result.status})")
    else:
        print(f"{'recordings':>10}  status")
        for status, number in sorted(summary.statuses.items(), key=lambda pair: -pair[1]):
            print(f"{number:>10,}  {status}")
        print(f"{'found in':>10}  label")
        for name in config.label_set.names:
            print(f"{summary.found.get(name, 0):>10,}  {name}")
        if summary.inverted:
            print(f"note: {summary.inverted:,} recordings look upside down, see detail in predictions.csv")


def print_labels(result, config, lead: str) -> None:
    """Print all labels of a recording: those found first, then by how near their thresholds they come."""
    from ecg_prediction.tables import duration, with_threshold

    from ecg_finetune.probabilities import can_calibrate

    used, name = len(result.answer.windows) - result.answer.excluded, printable(result.recording)
    print(f"{name}: {duration(result.seconds)} of lead {lead} at {result.rate:.6g} Hz, {used:,} windows used")
    names, thresholds = config.label_set.names, config.calibrated_thresholds
    probabilities = config.calibrated(result.answer.combined[None])[0]
    found = config.found(result.answer.combined)
    calibrated = can_calibrate(config.calibration)
    width = max(map(len, names))
    print(f"{'label':<{width}}  probability   threshold  found")
    for k in config.order(found, probabilities):
        probability, threshold = with_threshold(probabilities[k], thresholds[k], found=found[k])
        mark, verdict = " " if calibrated[k] else "*", "yes" if found[k] else ""
        print(f"{names[k]:<{width}}  {probability:>11}{mark}  {threshold:>9}  {verdict}".rstrip())
    if not calibrated.all():
        print("* not calibrated: only its order among recordings means something")
    if result.detail:
        print(f"note: {result.detail}")


def main() -> int:
    """Run the command line."""
    return execute(get_parser(), run)


if __name__ == "__main__":
    sys.exit(main())

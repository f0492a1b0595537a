"""The options of eval_noise.py; `--help` shall not wait for what only an evaluation needs."""

import argparse
import dataclasses
from pathlib import Path

from ecg_evaluation.options import add_inference, add_intervals, add_leaks
from ecg_finetune.cli import add_lead, add_path, between_commas, non_negative_int, real_number
from ecg_finetune.files import short_repr

# As `noise.KINDS`, which takes the time that numpy takes to import; a test compares them.
NOISES = ("baseline_wander", "electrode_motion", "muscle", "mains_50", "mains_60", "white")
EFFECTS = (
    *("band_pass", "resample_512", "resample_300", "resample_250", "inversion", "clipping", "quantisation"),
    "contact_loss",
)
SNRS = (24.0, 18.0, 12.0, 6.0, 0.0, -6.0)  # dB


def add_noise_options(parser: argparse.ArgumentParser) -> None:
    """Add every option but --base-dir."""
    add_path(parser, "--model-path", "checkpoint_best", "the checkpoint")
    parser.add_argument(
        "--compare",
        type=Path,
        default=None,
        metavar="CHECKPOINT",
        help="another checkpoint, to be run on the same noisy records: the difference under each condition with its "
        "interval (default: none)",
    )
    parser.add_argument(
        "--noise-root",
        type=Path,
        default=None,
        metavar="DIR",
        help="the MIT-BIH Noise Stress Test Database (records bw, em and ma), whose second half is used (default: "
        "synthetic noise of the same spectra)",
    )
    parser.add_argument(
        "--kinds",
        type=between_commas(kind_of_noise),
        default=",".join((*NOISES, *EFFECTS)),
        metavar="KIND,...",
        help="kinds of noise, and effects of devices (default: %(default)s)",
    )
    parser.add_argument(
        "--snr",
        type=between_commas(decibels),
        default=",".join(f"{snr:g}" for snr in SNRS),
        metavar="DB,...",
        help="signal-to-noise ratios of each kind of noise in dB, as PhysioNet's nst defines them; where the first is "
        "negative, write --snr=-6,0 (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=non_negative_int, default=42, help="of the noise; with the study it decides it (default: 42)"
    )
    add_lead(parser)
    add_path(parser, "--test-dir", "test", "folder of the test set")
    add_path(parser, "--record-list", "record_list", "record_list.csv, which tells the patient of each record")
    add_path(parser, "--meta", "meta_split", "meta_split.csv, to check in which split the evaluated patients are")
    add_path(parser, "--signal-report", "report", "report of the preprocess stage, which tells the millivolts")
    add_path(parser, "--out", "eval", "folder to write to")
    add_inference(parser)
    add_intervals(parser)
    add_leaks(parser)


def kind_of_noise(text: str) -> str:
    """Parse one of `--kinds` for argparse."""
    if text not in (*NOISES, *EFFECTS):
        raise argparse.ArgumentTypeError(f"{short_repr(text)} is none of {', '.join((*NOISES, *EFFECTS))}")
    return text


def decibels(text: str) -> float:
    """Parse a signal-to-noise ratio for argparse."""
    value = real_number(text)
    if not -60 <= value <= 60:
        raise argparse.ArgumentTypeError(f"{short_repr(text)} is not from -60 to 60 dB")
    return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoiseSettings:
    """The options of eval_noise.py, by name; their help says what each means."""

    base_dir: Path
    model_path: Path
    compare: Path | None
    noise_root: Path | None
    kinds: tuple[str, ...]
    snr: tuple[float, ...]
    seed: int
    lead: str
    test_dir: Path
    record_list: Path
    meta: Path
    signal_report: Path
    out: Path
    batch_size: int
    num_workers: int
    max_samples: int | None
    device: str
    precision: str
    trust_checkpoint: bool
    bootstrap: int
    min_positive_patients: int
    trained_on: Path | None
    pretraining_split: Path | None
    allow_leak: bool
    set: str = "test"  # the valid split has segments, and noise is added to 10 s

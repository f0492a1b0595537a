"""The options of both evaluation scripts; `--help` shall not wait for what only an evaluation needs."""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path

from ecg_finetune.cli import MOST_PROCESSES, add_device, add_lead, add_path, integer_from, positive_int
from ecg_finetune.files import short_repr
from ecg_finetune.operating_system import usable_cores
from ecg_finetune.tables import finite_number

RULES = ("f1", "youden")
MIN_PATIENTS = 10  # with and without a label; from here on the intervals cover what they promise


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add every option but --base-dir and --model-path."""
    add_files(parser)
    add_inference(parser)
    add_embeddings(parser)
    add_intervals(parser)
    add_statistics(parser)
    add_leaks(parser)
    add_comparison(parser)
    add_analyses(parser)


def add_files(parser: argparse.ArgumentParser) -> None:
    """Add what says where to read and write."""
    add_lead(parser)
    parser.add_argument(
        "--set",
        choices=("test", "valid"),
        default="test",
        help="the records to evaluate: test, or the valid split, to choose among runs without touching test "
        "(default: test)",
    )
    add_path(parser, "--test-dir", "test", "folder of the test set")
    add_path(
        parser, "--manifests", "manifests", "folder of the manifests, for the labels and segments of the valid split"
    )
    add_path(parser, "--record-list", "record_list", "record_list.csv, which tells the patient of each record")
    add_path(parser, "--meta", "meta_split", "meta_split.csv, to check in which split the evaluated patients are")
    add_path(
        parser,
        "--labels",
        "computed_labels",
        "folder of the labels stage, for other definitions of the labels and the labels of excluded records",
    )
    add_path(parser, "--signal-report", "report", "report of the preprocess stage, for strips in millivolts")
    add_path(parser, "--out", "eval", "folder to write to")


def add_inference(parser: argparse.ArgumentParser) -> None:
    """Add what only matters while the model runs."""
    parser.add_argument(
        "--batch-size", type=positive_int, default=64, metavar="N", help="records at once (default: %(default)s)"
    )
    parser.add_argument(
        "--num-workers",
        type=integer_from(0, MOST_PROCESSES),
        default=min(4, usable_cores()),
        metavar="N",
        help="processes that read files; 0 = none besides the main one (default: the usable cores, at most 4)",
    )
    parser.add_argument(
        "--max-samples",
        type=positive_int,
        default=None,
        metavar="N",
        help="only the first N records of the test set and of the valid split, for a quick look (default: all)",
    )
    add_device(parser)


def add_embeddings(parser: argparse.ArgumentParser) -> None:
    """Add what else the network writes."""
    parser.add_argument(
        "--embeddings",
        action="store_true",
        help="write what the head classifies, too: embeddings_<set>.npy, float32 (records, embed dim), the mean over "
        "the frames of a record, with the studies in embeddings_<set>.csv; those of an earlier run are replaced "
        "(default: only predictions)",
    )


def add_intervals(parser: argparse.ArgumentParser) -> None:
    """Add what decides the intervals and the macro averages."""
    parser.add_argument(
        "--bootstrap",
        type=resamples,
        default=1000,
        metavar="N",
        help="resamples of the patients for the 95 %% intervals; 0 = no intervals (default: %(default)s)",
    )
    parser.add_argument(
        "--min-positive-patients",
        type=positive_int,
        default=MIN_PATIENTS,
        metavar="N",
        help="a label with fewer patients with a positive record, or with a negative one, is marked and excluded from "
        "the macro averages (default: %(default)s)",
    )


def add_statistics(parser: argparse.ArgumentParser) -> None:
    """Add what is done with predictions."""
    operating_points = parser.add_mutually_exclusive_group()
    operating_points.add_argument(
        "--threshold-rule",
        type=threshold_rule,
        default="f1",
        metavar="{f1,youden,0..1}",
        help="how the valid split chooses each label's threshold: highest F1, highest recall + specificity, or one "
        "probability for all labels (default: f1; without a valid split 0.5)",
    )
    operating_points.add_argument(
        "--operating-points",
        type=Path,
        default=None,
        metavar="PATH",
        help="for external validation: the metrics CSV of the development's evaluation, or a model folder, whose "
        "thresholds and calibration are taken as they are; no valid split is read (default: choose them on the valid "
        "split)",
    )
    parser.add_argument(
        "--predictions",
        type=Path,
        default=None,
        metavar="FILE",
        help="compute from this predictions file; no model is loaded (default: run the model)",
    )
    parser.add_argument(
        "--valid-predictions",
        type=Path,
        default=None,
        metavar="FILE",
        help="predictions for the valid split (default: run the model on it; with --predictions: the file that the "
        "same run wrote beside it, if it is there); not with --set valid",
    )


def add_leaks(parser: argparse.ArgumentParser) -> None:
    """Add what is known of the records that a checkpoint has seen."""
    parser.add_argument(
        "--trained-on",
        type=Path,
        default=None,
        metavar="SPLIT_CSV",
        help="the split a checkpoint from elsewhere was trained with (study_id or save_file, and split): evaluated "
        "patients in its train or valid are a leak (default: what the checkpoint's own run lists, else not known)",
    )
    parser.add_argument(
        "--pretraining-split",
        type=Path,
        default=None,
        metavar="SPLIT_CSV",
        help="the split whose train patients the foundation model was pretrained on; for ECG-FM "
        "splits/meta_split_mimic_iv_ecg.csv of its repository (default: not known)",
    )
    parser.add_argument(
        "--allow-leak",
        action="store_true",
        help="evaluate patients that the checkpoint was trained on, with a red warning in the report (default: refuse)",
    )


def add_comparison(parser: argparse.ArgumentParser) -> None:
    """Add the other model."""
    parser.add_argument(
        "--compare",
        type=Path,
        default=None,
        metavar="FILE",
        help="predictions file of another model: differences of AUROC and AUPRC with intervals, on the records that "
        "both have predicted (default: no comparison)",
    )


def add_analyses(parser: argparse.ArgumentParser) -> None:
    """Add what is told of the predictions beyond their metrics."""
    parser.add_argument(
        "--sensitivity",
        type=shares,
        default=(0.9, 0.95),
        metavar="S,S",
        help="further operating points: the highest thresholds with these sensitivities on the valid split; "
        "not with --operating-points, which has them (default: 0.9,0.95)",
    )
    parser.add_argument(
        "--specificity",
        type=shares,
        default=(0.95, 0.99),
        metavar="S,S",
        help="further operating points: the lowest thresholds with these specificities on the valid split; "
        "not with --operating-points, which has them (default: 0.95,0.99)",
    )
    parser.add_argument(
        "--prevalence",
        type=shares,
        default=(),
        metavar="P,P",
        help="PPV and NPV at these prevalences too, such as 0.02 where few are ill "
        "(default: only as in the evaluated records)",
    )
    parser.add_argument(
        "--subgroups",
        type=Path,
        default=None,
        metavar="CSV",
        help="study_id or subject_id, and columns that group the records: performance in each group against all others "
        "(default: none)",
    )
    parser.add_argument(
        "--by",
        default="sex,age",
        metavar="COLUMN,COLUMN",
        help="the columns of --subgroups; age is put into bands (default: %(default)s)",
    )
    parser.add_argument(
        "--baselines",
        action="store_true",
        help="compare with rules on Lead I: heart rate for tachycardia and bradycardia, RR irregularity for atrial "
        "fibrillation; reads every record of the test set (default: no)",
    )
    parser.add_argument(
        "--figures",
        type=Path,
        default=None,
        metavar="DIR",
        help="write every figure of the report there as SVG, with its numbers as CSV (default: only in the report)",
    )


def refuse_contradictions(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], None]:
    """Return the check of the options that argparse cannot make; for `execute`."""

    def check(args: argparse.Namespace) -> None:
        if args.operating_points is not None and args.valid_predictions is not None:
            parser.error("argument --valid-predictions: not allowed with argument --operating-points")
        if args.operating_points is not None:
            for name in ("sensitivity", "specificity"):  # a default is the same object, a value that was given is not
                if getattr(args, name) is not parser.get_default(name):
                    parser.error(f"argument --{name}: not allowed with argument --operating-points")
        if args.valid_predictions is not None and args.set == "valid":
            parser.error("argument --valid-predictions: not allowed with --set valid, whose own predictions choose")
        if args.baselines and args.set == "valid":
            parser.error("argument --baselines: not allowed with --set valid, of which there are no 10 s records")

    return check


def threshold_rule(text: str) -> str | float:
    """Parse `--threshold-rule` for argparse: a rule's name, or one probability for all labels."""
    if text in RULES:
        return text
    value = finite_number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(
            f"{short_repr(text)} is neither {' nor '.join(RULES)} nor a probability from 0 to 1"
        )
    return value


def shares(text: str) -> tuple[float, ...]:
    """Parse numbers between 0 and 1, separated by commas, for argparse."""
    values = tuple(finite_number(part) for part in text.split(","))
    if not all(0 < value < 1 for value in values) or len(set(values)) < len(values):
        raise argparse.ArgumentTypeError(
            f"{short_repr(text)}: give different numbers between 0 and 1, separated by commas"
        )
    return values


def resamples(text: str) -> int:
    """Parse `--bootstrap` for argparse: 0, or enough resamples to have a standard deviation."""
    value = integer_from(0, 100_000)(text)
    if value == 1:
        raise argparse.ArgumentTypeError("one resample gives no interval: 0, or at least 2")
    return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """The options of the evaluation scripts, by name; their help says what each means."""

    base_dir: Path
    lead: str
    set: str
    test_dir: Path
    manifests: Path
    record_list: Path
    meta: Path
    labels: Path
    signal_report: Path
    out: Path
    model_path: Path | None
    batch_size: int
    num_workers: int
    max_samples: int | None
    device: str
    precision: str
    trust_checkpoint: bool
    embeddings: bool
    bootstrap: int
    min_positive_patients: int
    threshold_rule: str | float
    operating_points: Path | None
    predictions: Path | None
    valid_predictions: Path | None
    trained_on: Path | None
    pretraining_split: Path | None
    allow_leak: bool
    compare: Path | None
    sensitivity: tuple[float, ...]
    specificity: tuple[float, ...]
    prevalence: tuple[float, ...]
    subgroups: Path | None
    by: str
    baselines: bool
    figures: Path | None

"""Make a model folder of a checkpoint and its evaluation: to use on recordings, to give away, to put on the Hub.

The folder holds the weights without pickles, the network for onnxruntime, the thresholds and calibration that the valid
split chose, and a model card with the metrics of the test set. What is written is compared with the checkpoint on real
segments of the test set, and nothing is kept if it answers differently.

    python export/scripts/export_model.py --name my_model \\
        --metrics eval/data/metrics_test_lead1_duplicated_20260131_120000.csv
    python export/scripts/export_model.py --name my_model --precision int8 --max-samples 500 \\
        --metrics eval/data/metrics_test_lead1_duplicated_20260131_120000.csv    # with a network of a third the size

Reads the checkpoint (362 MB of weights for ECG-FM's network), the metrics of its evaluation with the .json beside them,
and the test set. Writes export/data/<name>/:
    model.safetensors    the weights (362 MB)
    model.onnx           the network that takes one lead (362 MB)
    model_int8.onnx      with --precision int8: its weights in 8 bits (107 MB)
    config.json          architecture, labels, thresholds, calibration, lineage (20 kB)
    README.md            the model card
    metrics.csv          the metrics of the test set, a row per label
    checks.json          how far these files answer like the checkpoint
"""

import argparse
import contextlib
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ecg_finetune.cli import add_lead, add_path, add_trust, execute, positive_int, stage_parser
from ecg_finetune.files import UserError, existing_file, refuse_outputs, short_repr
from ecg_finetune.lineage import Inputs, lineage
from ecg_finetune.paths import LOCK, beside, inside, locate
from ecg_finetune.run_folder import locked


def get_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = stage_parser(__doc__)
    add_path(parser, "--model-path", "checkpoint_best", "the checkpoint")
    parser.add_argument(
        "--metrics",
        type=Path,
        required=True,
        metavar="CSV",
        help="metrics_<set>_<time>.csv of the checkpoint's evaluation on the test set: thresholds and calibration come "
        "from it (no default)",
    )
    parser.add_argument(
        "--name",
        type=model_name,
        required=True,
        metavar="NAME",
        help="of the model and its folder: letters, digits, - _ . (no default)",
    )
    parser.add_argument(
        "--out", type=Path, default=None, metavar="DIR", help="the folder (default: <base-dir>/export/data/<name>)"
    )
    add_path(
        parser, "--test-dir", "test", "folder of the test set, on which the files are compared with the checkpoint"
    )
    add_lead(parser)
    parser.add_argument(
        "--precision",
        choices=("float32", "int8"),
        default="float32",
        help="int8: besides the network in float32 one with weights in 8 bits, and how its metrics differ on the test "
        "set (default: float32)",
    )
    parser.add_argument(
        "--max-samples",
        type=positive_int,
        default=None,
        metavar="N",
        help="with --precision int8: compare the metrics on N records of the test set, evenly spread (default: all)",
    )
    parser.add_argument(
        "--data",
        type=short_text,
        default=None,
        metavar="TEXT",
        help="for the card: what the model was fine-tuned and evaluated on (default: the data set that its lineage "
        "names; MIMIC-IV-ECG 1.0 where the labels are of machine statements)",
    )
    for flag, kind in (
        ("--noise", "under noise (noise_<set>_<time>.csv)"),
        ("--subgroups", "in groups of patients (subgroups_<set>_<time>.csv)"),
    ):
        parser.add_argument(
            flag,
            type=Path,
            default=None,
            metavar="CSV",
            help=f"for the card: a table of the model's metrics {kind}, as eval wrote it (default: the card has none)",
        )
    parser.add_argument(
        "--license",
        type=short_text,
        default="other",
        metavar="ID",
        help="for the card: the licence, as the Hugging Face Hub calls it (default: other)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a model folder of this name (default: refuse)"
    )
    add_trust(parser)
    return parser


def model_name(text: str) -> str:
    """Parse `--name` for argparse: what is a folder's name everywhere, and a repository's on the Hub."""
    if (
        not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,94}[A-Za-z0-9]|[A-Za-z0-9]", text)
        or ".." in text
        or "--" in text
    ):
        raise argparse.ArgumentTypeError(f"{text[:100]!r} is no name of letters, digits and single - . or _ between")
    return text


def short_text(text: str) -> str:
    """Parse a line of text for argparse."""
    if not text.strip() or not text.isprintable() or len(text) > 200:
        raise argparse.ArgumentTypeError(f"{short_repr(text)} is no line of at most 200 characters")
    return text.strip()


def run(args: argparse.Namespace, inputs: Inputs) -> str:
    """Check what goes together, write the files into a folder of their own, compare them, and give it its name."""
    out = args.out
    refuse_folder(out, args.overwrite)
    existing_file(args.model_path, "the finetune stage")
    existing_file(args.metrics, "the eval stage")
    inputs.add(args.model_path, args.metrics, args.metrics.with_suffix(".json"))
    inputs.add(*(path for path in (args.noise, args.subgroups) if path is not None))
    # Here and not above: PyTorch takes seconds to import.
    from ecg_export.checks import read_test_records
    from ecg_export.evaluation import evaluated_labels, read_evaluation, read_extra
    from ecg_export.folder import compare, configuration, write_config, write_networks, write_papers

    from ecg_finetune.ecg_fm import load_classifier

    evaluation = read_evaluation(args.metrics, args.model_path)
    tables = {("In groups of patients", "group"): args.subgroups, ("Under noise", "kind"): args.noise}
    extras = [read_extra(path, *told, evaluation) for told, path in tables.items() if path is not None]
    if evaluation.trained_on_lead not in (None, args.lead):
        raise UserError(f"{args.model_path}: fine-tuned on lead {evaluation.trained_on_lead}; give that as --lead")
    model = load_classifier(args.model_path, trust=args.trust_checkpoint)
    definition = inside(args.test_dir, "test_label_def")
    label_set = evaluated_labels(evaluation, model.label_set, definition, model.architecture.num_labels)
    records = read_test_records(args.test_dir, label_set)
    settings = {"--name": args.name, "--precision": args.precision, "--data": args.data}
    origin = lineage("export", settings, inputs, earlier=[evaluation.lineage])
    config = configuration(args.name, model, label_set, evaluation, args.lead, origin)
    int8 = args.precision == "int8"
    with locked(out, beside(out, LOCK)), unseen_folder(out) as folder:
        print("writing the networks", flush=True)
        write_networks(folder, model, int8=int8)
        config = write_config(folder, config)
        print("comparing them with the checkpoint", flush=True)
        checks = compare(folder, model, records, int8=int8, most_records=args.max_samples)
        write_papers(folder, config, evaluation, checks, data=args.data, licence=args.license, extras=extras)
        write_config(folder, config)
        refuse_folder(out, args.overwrite)
        if out.exists():
            shutil.rmtree(out)
        folder.rename(out)
    for name, difference in checks["largest_logit_difference"].items():
        size = (out / name).stat().st_size
        print(f"{name}: {size / 1e6:,.1f} MB, logits within {difference:.2g} of the checkpoint's")
    if int8:
        print_changes(checks["int8"])
    for note in evaluation.told:
        print(f"note: {note}")
    return f"{len(label_set)} labels from lead {config.lead}, model folder {out}"


@contextlib.contextmanager
def unseen_folder(out: Path) -> Iterator[Path]:
    """Yield a folder beside `out` for what is not finished; it is gone after the block unless it has been renamed."""
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    folder.chmod(0o755)  # mkdtemp makes it for nobody else
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def print_changes(int8: dict) -> None:
    """Print how the metrics of the network in 8 bits differ from those in float32."""
    print(
        f"int8 on {int8['records']:,} records of the test set, change of the means over all labels that have a metric:"
    )
    for metric, (before, after, change, labels) in int8["means"].items():
        if labels:
            print(f"  {metric:<16} {before:.4f} to {after:.4f} ({change:+.4f}), {labels} labels")


def refuse_folder(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that is there, unless it is a model folder that may be replaced."""
    refuse_outputs(folders=[folder])
    for above in folder.resolve().parents:
        if all(inside(above, name).is_file() for name in ("model_config", "model_weights")):
            raise UserError(f"{folder}: lies in the model folder {above}; choose another --out")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not inside(folder, "model_config").is_file():
        raise UserError(f"{folder}: holds files, but no model; choose another --name or --out")
    if not overwrite:
        raise UserError(f"{folder}: there is a model of this name; choose another --name, or run with --overwrite")


def resolve(args: argparse.Namespace) -> None:
    """Fill in where the model folder goes, which depends on its name."""
    args.out = args.out or locate(args.base_dir, "model_folder", model=args.name)


def main() -> int:
    """Run the command line."""
    return execute(get_parser(), run, resolve=resolve)


if __name__ == "__main__":
    sys.exit(main())

"""Evaluate the network that was fine-tuned here on the test set.

    python eval/scripts/eval_finetuned.py

A quick look at the first 500 records, without intervals:

    python eval/scripts/eval_finetuned.py --max-samples 500 --bootstrap 0

Against another model, on the records that both have predicted:

    python eval/scripts/eval_finetuned.py --compare eval/data/predictions_test_lead1_duplicated_20260131_120000.csv

Reads and writes what eval_ecgfm.py does; only the default of --model-path differs: the best checkpoint of the finetune
stage.
"""

import argparse
import sys

from ecg_evaluation.options import EvaluationSettings, add_options, refuse_contradictions

from ecg_finetune.cli import add_path, execute, stage_parser
from ecg_finetune.lineage import Inputs


def get_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = stage_parser(__doc__)
    add_path(parser, "--model-path", "checkpoint_best", "the checkpoint; not read when --predictions is given")
    add_options(parser)
    return parser


def run(args: argparse.Namespace, inputs: Inputs) -> str:
    """Predict, compute every metric from the predictions file, write the tables and the report."""
    from ecg_evaluation.stage import evaluate_set

    return evaluate_set(EvaluationSettings(**vars(args)), inputs)


def main() -> int:
    """Run the command line."""
    parser = get_parser()
    return execute(parser, run, resolve=refuse_contradictions(parser))


if __name__ == "__main__":
    sys.exit(main())

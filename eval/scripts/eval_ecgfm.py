"""Evaluate any ECG-FM classifier on the test set.

    python eval/scripts/eval_ecgfm.py --model-path mimic_iv_ecg_finetuned.pt

A quick look at the first 500 records, without intervals:

    python eval/scripts/eval_ecgfm.py --model-path mimic_iv_ecg_finetuned.pt --max-samples 500 --bootstrap 0

The same numbers again, or with other thresholds, without a model:

    python eval/scripts/eval_ecgfm.py --predictions eval/data/predictions_test_lead1_duplicated_20260131_120000.csv

On another data set, at the thresholds and with the calibration of the development (docs/evaluation.md):

    python eval/scripts/eval_ecgfm.py --base-dir /data/ecg-external --model-path finetune/data/checkpoint_best.pt \\
        --operating-points eval/data/metrics_test_lead1_duplicated_20260131_120000.csv

For a paper, with subgroups, predictive values where few are ill, rules on Lead I, and the figures as files:

    python eval/scripts/eval_ecgfm.py --predictions eval/data/predictions_test_lead1_duplicated_20260131_120000.csv \\
        --subgroups split/data/subjects.csv --by sex,age --prevalence 0.02 --baselines --figures figures

Reads the test set (build stage; 78,370 records on ECG-FM's split), the segments of the valid split (for thresholds and
calibration), the checkpoint, record_list.csv (the patients), meta_split.csv and the labels of all studies (for other
definitions of the labels, and the flow of records). The checkpoint may come from fairseq-signals or from
finetune_ecgfm.py.
Writes below eval/data, <set> = test_lead1_duplicated, <time> = YYYYMMDD_HHMMSS:
    predictions_<set>_<time>.csv   study_id and a probability per label, a row per record (28 MB); the same for the
                                   valid split, <set> = valid_lead1_duplicated; beside each a .json that says what
                                   made it
    metrics_<set>_<time>.csv       a row per label, __macro__ and __micro__ (14 kB); beside it its lineage, a .json
    calibration_, reliability_, decision_curves_, operating_points_, prevalence_, estimands_, label_groups_,
    definitions_, subgroups_, published_, beats_, baselines_, co_occurrence_, flow_ ... .csv
                                   the numbers of the report's sections (eval/data/README.md; 1 to 70 kB each)
    tripod_ai_<set>_<time>.md      the TRIPOD+AI checklist: what this run knows, and gaps
    report_<set>_<time>.html       the report (about 1 MB)
    comparison_<set>_<time>.csv    with --compare: the same rows
"""

import argparse
import sys
from pathlib import Path

from ecg_evaluation.options import EvaluationSettings, add_options, refuse_contradictions

from ecg_finetune.cli import execute, stage_parser
from ecg_finetune.lineage import Inputs


def get_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = stage_parser(__doc__)
    parser.add_argument(
        "--model-path",
        type=Path,
        default=None,
        metavar="PATH",
        help="a classifier checkpoint of the test set's labels (no default; needed unless --predictions is given)",
    )
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

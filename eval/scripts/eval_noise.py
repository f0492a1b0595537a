"""Evaluate a network on the test set under the noise of wearable recorders, and behind their electronics.

    python eval/scripts/eval_noise.py --noise-root /data/mit-bih-noise-stress-test-database

A quick look at 500 records, two kinds of noise at two strengths, without intervals:

    python eval/scripts/eval_noise.py --max-samples 500 --kinds muscle,electrode_motion --snr 12,0 --bootstrap 0

Another network on the same noisy records:

    python eval/scripts/eval_noise.py --compare /data/ecg/other_run/checkpoint_best.pt

Each kind of noise is added at each signal-to-noise ratio, each effect of a device is applied alone, and the records are
standardised again as preprocess would. The seed and the study decide the noise: every network meets the same.
Reads the test set (build stage), the checkpoint, NSTDB if --noise-root is given, record_list.csv (the patients),
meta_split.csv and the report of preprocess (the millivolts).
Writes below eval/data, <set> = test_lead1_duplicated, <time> = YYYYMMDD_HHMMSS:
    noise_<set>_<time>.csv     a row per condition and label, with __macro__ and __micro__: 45 x 19 by default
    noise_<set>_<time>.html    the page: AUROC and AUPRC against the signal-to-noise ratio
    noise_<set>_<time>.json    the lineage
    noise_<set>_<run>/         the probabilities under each condition (11 MB each for 78,370 records); a run that was
                               stopped goes on from them, one with more --kinds or --snr runs only what is new, and they
                               may be deleted
It takes as long as one evaluation for each of the 45 conditions; --max-samples and --precision bf16 shorten it.
"""

import argparse
import sys

from ecg_evaluation.noise_options import NoiseSettings, add_noise_options

from ecg_finetune.cli import execute, stage_parser
from ecg_finetune.lineage import Inputs


def get_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = stage_parser(__doc__)
    add_noise_options(parser)
    return parser


def run(args: argparse.Namespace, inputs: Inputs) -> str:
    """Predict under each condition, compute every metric, write the table and the page."""
    from ecg_evaluation.noise_stage import evaluate_under_noise

    return evaluate_under_noise(NoiseSettings(**vars(args)), inputs)


def main() -> int:
    """Run the command line."""
    return execute(get_parser(), run)


if __name__ == "__main__":
    sys.exit(main())

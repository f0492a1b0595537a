"""Check a configuration folder of the labeler: unknown names, cycles, duplicate patterns, missing or unreadable files.

    python -m ecg_fm_labeler.validate labels/ecg_fm_labeler_config

Prints every problem with its file and entry; exit code 1 if there is any.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ecg_finetune.cli import orderly_output
from ecg_finetune.files import UserError
from ecg_finetune.label_set import LABELS
from ecg_fm_labeler.configuration import Knowledge, Reader
from ecg_fm_labeler.normalization import Normalizer


def problems_of(folder: Path) -> tuple[Knowledge, list[str]]:
    """Read a configuration folder; return what was read and everything that is wrong with it."""
    reader = Reader(folder)
    knowledge = reader.read()
    if knowledge.entities:
        reader.check_label_definition(knowledge.entities)
    problems = list(reader.problems)
    problems += [f"{folder}: no entity for the label {label!r}" for label in LABELS if label not in knowledge.entities]
    try:
        Normalizer(folder)
    except UserError as error:
        problems.append(str(error))
    return knowledge, problems


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        prog="python -m ecg_fm_labeler.validate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="the configuration folder, ours or ECG-FM's")
    return parser


@orderly_output
def main(argv: Sequence[str] | None = None) -> int:
    """Run as a command; return the exit code."""
    folder = get_parser().parse_args(argv).folder
    knowledge, problems = problems_of(folder)
    for problem in problems:
        print(problem)
    if problems:
        print(f"error: {folder}: {len(problems)} problems; correct the entries listed above", file=sys.stderr)
        return 1
    print(
        f"{folder}: no problems; {len(knowledge.entities)} entities, {len(knowledge.created)} descriptors, "
        f"{len(knowledge.patterns)} patterns, {len(knowledge.compounds)} compounds"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Say how a report gets its labels: its normalised text, the patterns found, the entities, the chain to each label.

    python -m ecg_fm_labeler.explain "Sinus tachycardia" "Left bundle branch block"

Every argument is one statement of the same report.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ecg_finetune.cli import orderly_output
from ecg_finetune.files import UserError
from ecg_finetune.label_set import LABELS
from ecg_fm_labeler.configuration import PROJECT_CONFIG, Pattern
from ecg_fm_labeler.labeler import POLICIES, Labeler

KINDS = {"entity": "finding", "before": "of the next", "after": "of the previous", "connective": "connective"}


def explain(labeler: Labeler, report: Sequence[str]) -> str:
    """Return the explanation of one report as text."""
    return "\n".join(_lines(labeler, report))


def _lines(labeler: Labeler, report: Sequence[str]) -> Iterator[str]:
    matches = labeler.read(report)
    hits = [hit for match in matches for hit in match.hits]
    yield "normalised text"
    yield from (f"  {match.text}" for match in matches)
    yield "patterns found, in order"
    yield from (f"  {hit.text:<44} {_meaning(hit)}" for hit in hits)
    if unmatched := labeler.unmatched(report):
        yield f"words no pattern took: {', '.join(unmatched)}"
    found = labeler.named(matches)
    yield "entities"
    for entity in found:
        descriptors = f" [{', '.join(sorted(entity.descriptors))}]" if entity.descriptors else ""
        yield f"  {labeler.inference.probability(entity.descriptors):<6.4g} {entity.entity}{descriptors}"
    if labeler.policy == "ecg-fm" and not any(hit.kind == "connective" for hit in hits):
        yield "  (no connective in the report, so ECG-FM's labeler attaches no descriptor)"
    yield "labels"
    rows = labeler.inference.report_rows(found)
    labelled = False
    for label in LABELS:
        named = [row for row in rows if row.entity == label]
        if named:
            labelled = True
            best = min(named, key=lambda row: (-row.probability, len(row.path)))
            yield f"  {best.probability:<6.4g} {label:<44} {' > '.join(best.path)}"
    if not labelled:
        yield "  none of the 17"


def _meaning(hit: Pattern) -> str:
    if hit.kind == "entity":
        names = [f"{name} [{', '.join(sorted(preset))}]" if preset else name for name, preset in hit.entities]
        return f"{KINDS[hit.kind]}: {', '.join(names) or 'none'}"
    if hit.kind == "connective":
        sides = [
            f"{', '.join(given)} to the {side}" for side, given in (("left", hit.left), ("right", hit.right)) if given
        ]
        return KINDS[hit.kind] + (f": {'; '.join(sides)}" if sides else "")
    return f"{KINDS[hit.kind]}: {', '.join(hit.left or hit.right)}"


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        prog="python -m ecg_fm_labeler.explain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("statements", nargs="+", metavar="STATEMENT", help="the statements of one report, in order")
    parser.add_argument(
        "--labeler-config",
        type=Path,
        default=PROJECT_CONFIG,
        metavar="PATH",
        help="the labeler's knowledge base (default: the one of this repository)",
    )
    parser.add_argument("--policy", choices=POLICIES, default="ecg-fm", help="how to read (default: ecg-fm)")
    return parser


@orderly_output
def main(argv: Sequence[str] | None = None) -> int:
    """Run as a command; return the exit code."""
    args = get_parser().parse_args(argv)
    try:
        print(explain(Labeler.from_config(args.labeler_config, args.policy), args.statements))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

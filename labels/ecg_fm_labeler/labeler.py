"""The labeler: reports in, the 17 labels out.

A report is one run of text: normalised, searched and inferred as a whole. Most statements cannot touch their
neighbours, though, so each is normalised and searched once and remembered, together with its `Edges`; only statements
that a rule could join across their boundary are taken as one text. The outcome is that of the plain way
(`Labeler.plain`).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ecg_finetune.files import UserError
from ecg_finetune.label_set import LABELS
from ecg_fm_labeler.configuration import PROJECT_CONFIG, Knowledge, Pattern
from ecg_fm_labeler.inference import Inference, TextEntity, attach, without_negated
from ecg_fm_labeler.matching import Match, Matcher
from ecg_fm_labeler.normalization import Edges, Normalizer, Place, clean

POLICIES = ("ecg-fm", "asserted")
# Texts remembered at most; MIMIC-IV-ECG has 3,862 distinct statements.
MEMORY = 200_000


class Labels(NamedTuple):
    """The labels of n reports: `hard` float32 (n, 17) of 0 and 1, `soft` float32 (n, 17) probabilities."""

    hard: np.ndarray
    soft: np.ndarray


class Block(NamedTuple):
    """A text that is searched on its own: a statement, or statements that rules may join."""

    hits: tuple[Pattern, ...]
    unmatched: tuple[str, ...]
    edges: Edges
    connective: bool
    found: tuple[TextEntity, ...]  # its entities when nothing is attached


class Labeler:
    """ECG-FM's pattern labeler over one knowledge base.

    Parameters
    ----------
    knowledge : Knowledge
        Entities, patterns and templates.
    normalizer : Normalizer
        The text normalisation.
    policy : {"ecg-fm", "asserted"}
        "ecg-fm" gives ECG-FM's labels, its defects included. "asserted" reads each statement on its own, attaches
        descriptors always, and leaves negated findings out.
    """

    def __init__(self, knowledge: Knowledge, normalizer: Normalizer, policy: str = "ecg-fm"):
        if policy not in POLICIES:
            raise UserError(f"unknown policy {policy!r}; one of {', '.join(POLICIES)}")
        self.policy = policy
        self.knowledge = knowledge
        self.normalizer = normalizer
        self.matcher = Matcher(knowledge, negations=policy == "asserted")
        self.inference = Inference(knowledge)
        self._cuts: dict[str, tuple[str, bool, Edges]] = {}
        # By text, or by text and place where the place in the report matters.
        self._blocks: dict[str | tuple[str, bool, bool], Block] = {}

    @classmethod
    def from_config(cls, folder: Path | str = PROJECT_CONFIG, policy: str = "ecg-fm") -> "Labeler":
        """Make a labeler from a configuration folder (ECG-FM's own will do).

        Raises
        ------
        UserError
            The folder's files are missing or wrong.
        """
        folder = Path(folder)
        return cls(Knowledge.from_folder(folder), Normalizer(folder), policy)

    def label(self, reports: Iterable[Sequence[str]]) -> Labels:
        """Label reports.

        Parameters
        ----------
        reports : iterable of sequences of str
            The statements of each report, in order; empty ones are skipped.

        Returns
        -------
        Labels
            `hard` and `soft`, float32 (n, 17), columns in the order of `ecg_finetune.label_set.LABELS`. A report
            without any of the 17 is a row of zeros.

        Examples
        --------
        >>> hard, soft = Labeler.from_config().label([["Sinus rhythm with PVC(s)"], ["Normal ECG"]])
        >>> hard[:, :3]
        array([[0., 1., 1.],
               [0., 0., 0.]], dtype=float32)
        """
        rows = [self.inference.label_row(self.text_entities(report)) for report in reports]
        soft = np.array(rows, dtype=np.float32).reshape(-1, len(LABELS))
        return Labels((soft > 0).astype(np.float32), soft)

    def labels_flat(self, reports: Iterable[Sequence[str]]) -> list[dict[str, float]]:
        """Return for each report every entity and "Entity - Descriptor" with its probability."""
        return [self.inference.flat(self.inference.report_rows(self.text_entities(report))) for report in reports]

    def text_entities(self, report: Sequence[str]) -> Sequence[TextEntity]:
        """Return the entities the text of a report names, with their descriptors."""
        return self.named(self.read(report))

    def named(self, blocks: Sequence[Block]) -> Sequence[TextEntity]:
        """Return the entities that the blocks of one report name."""
        if self.policy == "asserted":
            return [found for block in blocks for found in without_negated(block.hits)]
        if any(block.connective for block in blocks):
            return attach([hit for block in blocks for hit in block.hits])
        return [found for block in blocks for found in block.found]

    def plain(self, report: Sequence[str]) -> tuple[str, Match]:
        """Return the normalised text and the hits of a report taken as one text, nothing remembered."""
        text = self.normalizer(" ".join(_stripped(report)))
        return text, self.matcher.match(text)

    def normalized(self, report: Sequence[str]) -> list[str]:
        """Return the normalised text of a report: one run of text, or one a statement for the policy "asserted"."""
        if self.policy == "ecg-fm":
            return [self.plain(report)[0]]
        return [self.normalizer.normalize(part).strip() for part in self._cut(_stripped(report))]

    def read(self, report: Sequence[str]) -> list[Block]:
        """Return the blocks of a report in order."""
        parts = self._cut(_stripped(report))
        if self.policy == "asserted":
            return [self._block(part, True, True) for part in parts]
        while True:
            last = len(parts) - 1
            blocks = [self._block(part, n == 0, n == last) for n, part in enumerate(parts)]
            joined = self._join(parts, blocks)
            if len(joined) == len(parts):
                return blocks
            parts = joined

    def _cut(self, parts: list[str]) -> list[str]:
        """Drop everything from the first cut-off phrase of a report on."""
        cuts = []
        for part in parts:
            cut = self._cuts.get(part)
            if cut is None:
                edges = Edges()
                cut = (*self.normalizer.cut(clean(part), edges), edges)
                _remember(self._cuts, part, cut)
            cuts.append(cut)
        # The phrase may stand across a boundary; for "asserted" statements stay apart.
        if self.policy == "ecg-fm" and any(not a[2].end.isdisjoint(b[2].start) for a, b in zip(cuts, cuts[1:])):
            text = self.normalizer.cut(clean(" ".join(parts)))[0]
            return [text] if text else []
        kept = []
        for text, found, _ in cuts:
            if text:
                kept.append(text)
            if found:
                break
        return kept

    def _block(self, text: str, first: bool, last: bool) -> Block:
        block = self._blocks.get(text) or self._blocks.get((text, first, last))
        if block is None:
            edges = Edges()
            normal = self.normalizer.normalize(text, Place(first, last, edges))
            if normal != normal.strip():
                edges.placed = True
                normal = normal.lstrip() if first else normal
                normal = normal.rstrip() if last else normal
            match = self.matcher.match(normal, edges)
            hits = tuple(self.matcher.patterns[number] for number in match.hits)
            found = tuple(TextEntity(*entity) for hit in hits for entity in hit.entities)
            connective = any(hit.kind == "connective" for hit in hits)
            block = Block(hits, match.unmatched, edges, connective, found)
            _remember(self._blocks, (text, first, last) if edges.placed else text, block)
        return block

    @staticmethod
    def _join(parts: list[str], blocks: list[Block]) -> list[str]:
        """Join neighbours that a rule may join; all, where two hold lists of leads of the same kind."""
        carriers = [block.edges.carriers for block in blocks if block.edges.carriers]
        if len(carriers) > 1 and sum(map(len, carriers)) > len(set.union(*carriers)):
            return [" ".join(parts)]
        joined = parts[:1]
        for number in range(1, len(parts)):
            if blocks[number - 1].edges.end.isdisjoint(blocks[number].edges.start):
                joined.append(parts[number])
            else:
                joined[-1] += " " + parts[number]
        return joined


def _stripped(report: Sequence[str]) -> list[str]:
    if isinstance(report, str):
        raise TypeError(f"a report is a sequence of statements, not a text: [{report!r}]")
    return [part for part in map(str.strip, report) if part]


def _remember(memory: dict, key, value) -> None:
    if len(memory) >= MEMORY:
        memory.clear()
    memory[key] = value

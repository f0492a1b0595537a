"""The labeler: reports in, the 17 labels out."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ecg_finetune.files import UserError
from ecg_finetune.label_set import LABELS
from ecg_fm_labeler.configuration import PROJECT_CONFIG, Knowledge
from ecg_fm_labeler.inference import Inference, TextEntity, attach, without_negated
from ecg_fm_labeler.matching import Match, Matcher
from ecg_fm_labeler.normalization import Normalizer

POLICIES = ("ecg-fm", "asserted")
# Texts remembered at most; MIMIC-IV-ECG has 3,862 distinct statements.
MEMORY = 10_000


class Labels(NamedTuple):
    """The labels of n reports: `hard` float32 (n, 17) of 0 and 1, `soft` float32 (n, 17) probabilities."""

    hard: np.ndarray
    soft: np.ndarray


class Labeler:
    """ECG-FM's pattern labeler over one knowledge base.

    Parameters
    ----------
    knowledge : Knowledge
        Entities, patterns and templates.
    normalizer : Normalizer
        The text normalisation.
    policy : {"ecg-fm", "asserted"}
        "ecg-fm" gives ECG-FM's labels, its defects included: the statements of a report are one run of text.
        "asserted" reads each statement on its own, attaches descriptors always, and excludes negated findings.
    """

    def __init__(self, knowledge: Knowledge, normalizer: Normalizer, policy: str = "ecg-fm"):
        if policy not in POLICIES:
            raise UserError(f"unknown policy {policy!r}; one of {', '.join(POLICIES)}")
        self.policy = policy
        self.knowledge = knowledge
        self.normalizer = normalizer
        self.matcher = Matcher(knowledge, asserted=policy == "asserted")
        self.inference = Inference(knowledge)
        self._match = lru_cache(maxsize=MEMORY)(lambda text: self.matcher.match(normalizer(text)))

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
        return _labels(rows)

    def label_findings(self, records: Iterable[Iterable[tuple[str, Iterable[str]]]]) -> Labels:
        """Label records whose findings are known by name, as from the codes of another data set.

        Parameters
        ----------
        records : iterable of iterables of (str, iterable of str)
            The findings of each record: an entity of the knowledge base and its descriptors.

        Returns
        -------
        Labels
            As `label`: ancestors, compounds and attachments follow as they do for a report.

        Raises
        ------
        UserError
            The knowledge base has no such entity or descriptor.

        Examples
        --------
        >>> hard, _ = Labeler.from_config().label_findings([[("Atrial fibrillation", ()), ("Sinus arrhythmia", ())]])
        >>> [name for name, value in zip(LABELS, hard[0]) if value]
        ['Sinus rhythm', 'Tachycardia', 'Atrial fibrillation', 'Accessory pathway conduction']
        """
        rows = [self.inference.label_row([self._finding(*finding) for finding in record]) for record in records]
        return _labels(rows)

    def labels_told_by(self, findings: Iterable[tuple[str, Iterable[str]]]) -> frozenset[str]:
        """Return which of the 17 labels a source can tell whose vocabulary has just these findings.

        A label is told if one of the findings implies it, or if all of its compounds are: those whose parts, the
        excluded ones too, are each implied by a finding.

        Parameters
        ----------
        findings : iterable of (str, iterable of str)
            As in `label_findings`.

        Examples
        --------
        >>> sorted(Labeler.from_config().labels_told_by([("Right bundle branch block", ()), ("Fascicular block", ())]))
        ['Bifascicular block', 'Right bundle branch block']
        """
        return self.inference.told_by([self._finding(*finding) for finding in findings])

    def _finding(self, entity: str, descriptors: Iterable[str]) -> TextEntity:
        descriptors = frozenset(descriptors)
        for name, known in (
            (entity, self.knowledge.entities),
            *((name, self.knowledge.created) for name in descriptors),
        ):
            if name not in known:
                raise UserError(f"the labeler has no entity or descriptor {name!r}; see entity_tem.json, desc_tem.json")
        return TextEntity(entity, descriptors)

    def labels_flat(self, reports: Iterable[Sequence[str]]) -> list[dict[str, float]]:
        """Return for each report every entity and "Entity - Descriptor" with its probability."""
        return [self.inference.flat(self.inference.report_rows(self.text_entities(report))) for report in reports]

    def text_entities(self, report: Sequence[str]) -> list[TextEntity]:
        """Return the entities the text of a report names, with their descriptors."""
        return self.named(self.read(report))

    def named(self, matches: Sequence[Match]) -> list[TextEntity]:
        """Return the entities that the texts of one report name."""
        attached = without_negated if self.policy == "asserted" else attach
        return [found for match in matches for found in attached(match.hits)]

    def read(self, report: Sequence[str]) -> list[Match]:
        """Return what is found in a report: in its one run of text, or in each statement ("asserted")."""
        statements = _stripped(report)
        return self._matches(statements if self.policy == "asserted" else [" ".join(statements)])

    def unmatched(self, report: Sequence[str]) -> list[str]:
        """Return the runs of words that no pattern takes in the statements of a report, each read on its own."""
        return [words for match in self._matches(_stripped(report)) for words in match.unmatched]

    def unread(self, report: Sequence[str]) -> list[str]:
        """Return the runs of words of a report of which no pattern took a word; an empty list for any other report."""
        matches = self._matches(_stripped(report))
        return [] if any(match.hits for match in matches) else [run for match in matches for run in match.unmatched]

    def _matches(self, texts: Iterable[str]) -> list[Match]:
        """Read texts of one report up to the first cut-off phrase."""
        matches = []
        for text in texts:
            kept, cut_off = self.normalizer.cut(text)
            if kept:
                matches.append(self._match(kept))
            if cut_off:
                break
        return matches


def _labels(rows: list[list[float]]) -> Labels:
    soft = np.array(rows, dtype=np.float32).reshape(-1, len(LABELS))
    return Labels((soft > 0).astype(np.float32), soft)


def _stripped(report: Sequence[str]) -> list[str]:
    if isinstance(report, str):
        raise TypeError(f"a report is a sequence of statements, not a text: [{report!r}]")
    return [part for part in map(str.strip, report) if part]

"""From hits to entities, their probabilities and everything that follows from them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from ecg_finetune.label_set import LABELS
from ecg_fm_labeler.configuration import ABSENCE, Knowledge, Pattern

# Each step from an entity to its parent takes away this share of the doubt.
STEP = 0.3
CERTAIN_WHEN_CREATED = "Needs clinical correlation"
_LABEL_NUMBER = {name: number for number, name in enumerate(LABELS)}


class TextEntity(NamedTuple):
    """An entity the text names, with the descriptors the words around it give."""

    entity: str
    descriptors: frozenset[str]


class Row(NamedTuple):
    """An entity of a report: named by the text or inferred. `path` says from what, the entity itself last."""

    entity: str
    descriptors: frozenset[str]
    probability: float
    path: tuple[str, ...]


def attach(hits: Sequence[Pattern], always: bool = False) -> list[TextEntity]:
    """Give the descriptors of a report to its findings.

    A descriptor belongs to the nearest entity hit on its side, across any text. As in ECG-FM's labeler nothing is
    attached in a report without a connective, unless `always`.
    """
    attaching = always or any(hit.kind == "connective" for hit in hits)
    targets: list[tuple[Pattern, set[str]]] = []
    waiting: set[str] = set()
    for hit in hits:
        if hit.kind == "entity":
            targets.append((hit, waiting))
            waiting = set()
        elif attaching:
            waiting.update(hit.right)
            if targets:
                targets[-1][1].update(hit.left)
    return [TextEntity(name, preset | given) for hit, given in targets for name, preset in hit.entities]


def without_negated(hits: Sequence[Pattern]) -> list[TextEntity]:
    """Attach as a reader would, for the policy "asserted", and drop the negated findings."""
    negated = _negated(hits)
    kept = [replace(hit, entities=()) if number in negated else hit for number, hit in enumerate(hits)]
    return [found for found in attach(kept, always=True) if ABSENCE not in found.descriptors]


def _negated(hits: Sequence[Pattern]) -> set[int]:
    """Return the positions of the findings that negations before them cover.

    A negation covers the next finding, and a list that goes on from there to an "or" or a slash and one more finding:
    "no ischemia, injury or infarct". Other descriptors may stand before each; anything else ends the list.
    """
    negated: set[int] = set()
    listed: list[int] | None = None  # the findings of a list, since the last "or" in it; None outside one
    negation = alternative = False  # what stands before the next finding
    previous = None
    for number, hit in enumerate(hits):
        if hit.kind == "entity":
            if negation and listed is None:
                listed = []
            if listed is not None:
                listed.append(number)
                if alternative:
                    negated.update(listed)
                    listed = []
                elif negation:
                    negated.add(number)
            negation = alternative = False
        elif hit.kind == "before":
            negation |= ABSENCE in hit.right
        elif hit.kind == "connective" and hit.text in ("or", "and/or", "/") and previous == "entity":
            alternative = True
        elif hit.text == "/":  # between descriptors: "inferior/lateral"
            continue
        else:
            listed, negation, alternative = None, False, False
        previous = hit.kind
    return negated


class Inference:
    """Derives rows and labels; results of single text entities are remembered."""

    def __init__(self, knowledge: Knowledge):
        self.knowledge = knowledge
        self.parts = list(dict.fromkeys(part for c in knowledge.compounds for part in (*c.including, *c.excluding)))
        bit = {part: 1 << number for number, part in enumerate(self.parts)}
        self._masks = [
            (sum({bit[part] for part in c.including}), sum({bit[part] for part in c.excluding}), c.entity)
            for c in knowledge.compounds
        ]
        self.ancestors = lru_cache(maxsize=None)(self._ancestors)
        self.rows = lru_cache(maxsize=None)(self._rows)
        self.summary = lru_cache(maxsize=None)(self._summary)
        self.compound_rows = lru_cache(maxsize=None)(self._compound_rows)
        self._numbered = lru_cache(maxsize=None)(lambda rows: _numbered(self.flat(rows)))

    def _ancestors(self, entity: str) -> frozenset[str]:
        parents = self.knowledge.entities[entity].parents
        return frozenset(parents).union(*(self.ancestors(parent) for parent in parents))

    def probability(self, descriptors: frozenset[str]) -> float:
        """Return the probability of a finding with these descriptors: the least certain one decides."""
        uncertainty = self.knowledge.uncertainty
        return min((uncertainty[name] for name in descriptors if name in uncertainty), default=1.0)

    def _rows(self, found: TextEntity) -> tuple[Row, ...]:
        """Return the text entity and all that follows from it alone."""
        p = self.probability(found.descriptors)
        rows = [Row(found.entity, found.descriptors - {ABSENCE}, p, (found.entity,))]
        for descriptor in sorted(found.descriptors):
            for name in self.knowledge.created[descriptor]:
                certain = 1.0 if name == CERTAIN_WHEN_CREATED else p
                rows.append(Row(name, frozenset(), certain, (f"{found.entity} - {descriptor}", name)))
        rows += [higher for row in rows for higher in self._climb(row)]
        rows = self._travel(rows)
        attached = [
            Row(result, frozenset(), row.probability, (*row.path[:-1], f"{row.entity} - {descriptor}", result))
            for entity, descriptor, result in self.knowledge.attached
            for row in rows
            if row.entity == entity and descriptor in row.descriptors
        ]
        rows += attached
        rows += [higher for row in attached for higher in self._climb(row)]
        return tuple(rows)

    def _climb(self, row: Row) -> Iterator[Row]:
        """Yield every ancestor of a row, once per path, with its raised probability."""
        for parent in self.knowledge.entities[row.entity].parents:
            p = row.probability + STEP * (1 - row.probability)
            higher = Row(parent, frozenset(), p, (*row.path, parent))
            yield higher
            yield from self._climb(higher)

    def _travel(self, rows: list[Row]) -> list[Row]:
        """Copy the descriptors that travel from a row to its ancestors among the rows."""
        gained: list[set[str]] = [set() for _ in rows]
        for top, names in self.knowledge.traveling:
            family = [n for n, row in enumerate(rows) if row.entity == top or top in self.ancestors(row.entity)]
            for source in family:
                moving = rows[source].descriptors & names
                for target in family if moving else ():
                    if rows[target].entity in self.ancestors(rows[source].entity):
                        gained[target] |= moving
        return [row._replace(descriptors=row.descriptors | more) for row, more in zip(rows, gained)]

    def mask(self, rows: Sequence[Row]) -> int:
        """Return which parts of compounds the rows hold, as bits."""
        return sum(
            1 << number
            for number, (entity, descriptors) in enumerate(self.parts)
            if any(row.entity == entity and descriptors <= row.descriptors for row in rows)
        )

    def _compound_rows(self, mask: int) -> tuple[Row, ...]:
        """Return the rows of the compounds that a report with these parts has."""
        rows = []
        for including, excluding, entity in self._masks:
            if mask & including == including and not mask & excluding:
                row = Row(entity, frozenset(), 1.0, (self._spelled(including, excluding), entity))
                rows += [row, *self._climb(row)]
        return tuple(rows)

    def _spelled(self, including: int, excluding: int) -> str:
        names = [[e for n, (e, _) in enumerate(self.parts) if mask >> n & 1] for mask in (including, excluding)]
        return " and ".join(names[0]) + (f" without {' or '.join(names[1])}" if names[1] else "")

    def report_rows(self, found: Sequence[TextEntity]) -> list[Row]:
        """Return all rows of a report."""
        rows = [row for entity in found for row in self.rows(entity)]
        return rows + list(self.compound_rows(self.mask(rows)))

    def flat(self, rows: Sequence[Row]) -> dict[str, float]:
        """Return "Entity" and "Entity - Descriptor" with their probability."""
        labels: dict[str, float] = {}
        for row in rows:
            if not self.knowledge.entities[row.entity].require_descriptors:
                labels[row.entity] = max(row.probability, labels.get(row.entity, 0.0))
            for descriptor in row.descriptors:
                labels[f"{row.entity} - {descriptor}"] = 1.0
        return labels

    def _summary(self, found: TextEntity) -> tuple[int, tuple[tuple[int, float], ...]]:
        rows = self.rows(found)
        return self.mask(rows), self._numbered(rows)

    def label_row(self, found: Sequence[TextEntity]) -> list[float]:
        """Return the probabilities of the 17 labels."""
        row = [0.0] * len(LABELS)
        mask = 0
        for entity in found:
            bits, labels = self.summary(entity)
            mask |= bits
            for number, p in labels:
                if p > row[number]:
                    row[number] = p
        for number, p in self._numbered(self.compound_rows(mask)):
            row[number] = max(p, row[number])
        return row

    def told_by(self, findings: Sequence[TextEntity]) -> frozenset[str]:
        """Return the labels that one of the findings implies, and those whose compounds have all parts implied."""
        rows = [row for finding in findings for row in self.rows(finding)]
        implied = self.mask(rows)
        needed: dict[str, int] = {}
        for including, excluding, entity in self._masks:
            needed[entity] = needed.get(entity, 0) | including | excluding
        compounds = {entity for entity, mask in needed.items() if mask & implied == mask}
        return frozenset(LABELS) & (self.flat(rows).keys() | compounds)


def _numbered(labels: dict[str, float]) -> tuple[tuple[int, float], ...]:
    """Return the 17 labels among `labels` by number."""
    return tuple((_LABEL_NUMBER[name], p) for name, p in labels.items() if name in _LABEL_NUMBER)

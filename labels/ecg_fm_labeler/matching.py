"""From normalised text to hits: which patterns occur, in text order."""

import re
from typing import NamedTuple

from ecg_fm_labeler.configuration import Knowledge, Pattern
from ecg_fm_labeler.normalization import TOKEN, Edges, Phrases, bordered, token, token_number

_TOKEN_OR_WORDS = re.compile(f"[{chr(TOKEN)}-\U0010ffff]|[^{chr(TOKEN)}-\U0010ffff]+")
_WORD = re.compile(r"[\w<>?'+/().-]*\w[\w<>?'+/().-]*")


class Match(NamedTuple):
    """The hits of a text in order (numbers of `Matcher.patterns`), and the runs of words no pattern took."""

    hits: tuple[int, ...]
    unmatched: tuple[str, ...]


class Matcher:
    """Finds the patterns of a knowledge base in normalised text.

    Patterns are tried in batches: descriptors that ask for it, entities, other descriptors, connectives. Within a batch
    the longest pattern comes first, over the whole text, and a matched span is never matched again. So an entity
    pattern beats any descriptor or connective inside it, and the leftmost pattern has no precedence.
    """

    def __init__(self, knowledge: Knowledge, negations: bool = False):
        self.patterns: list[Pattern] = [*knowledge.patterns, *(knowledge.negations if negations else ())]
        order = sorted(range(len(self.patterns)), key=lambda n: (_batch(self.patterns[n]), -len(self.patterns[n].text)))
        self._order = [(self.patterns[n].text, bordered(self.patterns[n].text), token(n)) for n in order]
        self._phrases = Phrases(-1, (pattern.text for pattern in self.patterns))

    def match(self, text: str, edges: Edges | None = None) -> Match:
        """Return the hits of a normalised text; add to `edges` how patterns could reach over its ends."""
        if edges:
            self._phrases.mark(text, edges)
        for phrase, pattern, character in self._order:
            if phrase in text:
                text = pattern.sub(character, text)
        hits, unmatched = [], []
        for piece in _TOKEN_OR_WORDS.findall(text):
            number = token_number(piece[0])
            if number is not None:
                hits.append(number)
            elif words := _WORD.findall(piece):
                unmatched.append(" ".join(word.rstrip(".") for word in words))
        return Match(tuple(hits), tuple(unmatched))


def _batch(pattern: Pattern) -> int:
    if pattern.first:
        return 0
    return {"entity": 1, "before": 2, "after": 2, "connective": 3}[pattern.kind]

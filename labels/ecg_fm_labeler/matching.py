"""From normalised text to hits: which patterns occur, in text order."""

import re
from typing import NamedTuple

from ecg_fm_labeler.configuration import Knowledge, Pattern
from ecg_fm_labeler.phrases import TOKEN, PhraseIndex, bordered, token, token_number

_TOKEN_OR_WORDS = re.compile(f"[{chr(TOKEN)}-\U0010ffff]|[^{chr(TOKEN)}-\U0010ffff]+")
_WORDLIKE = re.compile(r"[\w<>?'+/().-]+")
_LETTER_OR_DIGIT = re.compile(r"\w")

# Stands between two hits that nothing but a slash separates: "PAC/PVC".
SLASH = Pattern("/", "connective")


class Match(NamedTuple):
    """A normalised text, its hits in order, and the runs of words no pattern took."""

    text: str
    hits: tuple[Pattern, ...]
    unmatched: tuple[str, ...]


class Matcher:
    """Finds the patterns of a knowledge base in normalised text.

    Patterns are tried in batches: descriptors that ask for it, entities, other descriptors, connectives. Within a batch
    the longest pattern comes first, over the whole text, and a matched span is never matched again. So an entity
    pattern beats any descriptor or connective inside it, and the leftmost pattern has no precedence.

    For the policy "asserted" (`asserted`) the words of negation and the slash between two hits count too.
    """

    def __init__(self, knowledge: Knowledge, asserted: bool = False):
        patterns = [*knowledge.patterns, *(knowledge.negations if asserted else ())]
        self._asserted = asserted
        self.patterns = sorted(patterns, key=lambda pattern: (_batch(pattern), -len(pattern.text)))
        self._searches = [bordered(pattern.text) for pattern in self.patterns]
        self._index = PhraseIndex(pattern.text for pattern in self.patterns)

    def match(self, text: str) -> Match:
        """Search a normalised text."""
        rest = text
        for number in self._index.found_in(text):
            rest = self._searches[number].sub(token(number), rest)
        hits, unmatched = [], []
        for piece in _TOKEN_OR_WORDS.findall(rest):
            if piece[0] >= chr(TOKEN):
                hits.append(self.patterns[token_number(piece)])
            elif piece == "/" and self._asserted:
                hits.append(SLASH)
            elif words := [word.rstrip(".") for word in _WORDLIKE.findall(piece) if _LETTER_OR_DIGIT.search(word)]:
                unmatched.append(" ".join(words))
        return Match(text, tuple(hits), tuple(unmatched))


def _batch(pattern: Pattern) -> int:
    if pattern.first:
        return 0
    return {"entity": 1, "before": 2, "after": 2, "connective": 3}[pattern.kind]

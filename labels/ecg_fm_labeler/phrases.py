"""Literal phrases: where a text holds one, which of many it may hold, and the tokens that stand for those found."""

import re
from collections.abc import Iterable
from functools import cache, lru_cache

# Stands for a matched span; neither a letter nor a digit, so word borders hold beside it.
TOKEN = 0xF0000
TOKENS = re.compile("[\U000f0000-\U0010ffff]")

_WORD = re.compile(r"\w+")


def token(number: int) -> str:
    """Return the character that stands for the span or hit of this number."""
    return chr(TOKEN + number)


def token_number(character: str) -> int:
    """Return the number of a token."""
    return ord(character) - TOKEN


def clean(text: str) -> str:
    """Replace the characters that serve as tokens (none of them is text)."""
    return TOKENS.sub("\N{REPLACEMENT CHARACTER}", text)


@cache
def bordered(phrase: str) -> re.Pattern:
    """Compile a literal phrase that may not continue a word where it starts or ends with a letter or digit."""
    literal = re.escape(phrase)
    # What precedes the phrase is looked at behind it: the search for a pattern that starts with a literal is fast.
    start = rf"(?<!\w{literal})" if _WORD.match(phrase[:1]) else ""
    end = r"(?!\w)" if _WORD.match(phrase[-1:]) else ""
    return re.compile(literal + start + end)


class PhraseIndex:
    """Finds which of many bordered phrases a text holds, without looking for each of them.

    A text holds a bordered phrase only if every word of the phrase is a word of the text, so a phrase is looked for
    only where its first word is one. Every text has the empty word, the key of phrases without any.
    """

    def __init__(self, phrases: Iterable[str]):
        self.phrases = tuple(phrases)
        self._by_word: dict[str, list[tuple[int, str]]] = {}
        for number, phrase in enumerate(self.phrases):
            first = _WORD.search(phrase)
            self._by_word.setdefault(first[0] if first else "", []).append((number, phrase))
        self._first_words = frozenset(self._by_word)

    def found_in(self, text: str) -> list[int]:
        """Return the numbers of the phrases that a text holds, borders aside, in ascending order."""
        words = self._first_words & _words(text)
        return sorted([number for word in words for number, phrase in self._by_word[word] if phrase in text])


@lru_cache(maxsize=1)  # a text passes through several steps unchanged
def _words(text: str) -> frozenset[str]:
    return frozenset(["", *_WORD.findall(text)])

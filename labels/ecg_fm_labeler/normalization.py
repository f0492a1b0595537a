"""Text normalisation: from the wording of a report to the one wording the patterns are written in.

The order of the steps is `Normalizer.steps`. What the steps replace stands in two data files of the configuration
folder, `text_normalization.json` (tables) and `text_templates.json` (families of phrases); the labeler falls back on
the project's own where a folder has none.

Exactness over statement boundaries. A report is one run of text, so a rule may match across the boundary of two
statements ("Atrial fibrillation" + "Flutter ..."). Normalising a statement on its own is right only if no rule does.
`Edges` collects, for every state a statement's text passes through, how a rule could reach over its ends: a rule with
the phrase "a b c" leaves the mark (rule, 2) at the end of a text ending in "a b" and at the start of one starting
with "c". If the end marks of one statement and the start marks of the next have nothing in common, no rule can match
across their boundary; word borders are ignored here, which can only add marks, never lose one.
"""

import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from ecg_finetune.files import UserError, read_json
from ecg_fm_labeler.configuration import PROJECT_CONFIG

TABLES_FILE = "text_normalization.json"
TEMPLATES_FILE = "text_templates.json"

# Stands for a matched span; neither a letter nor a digit, so word borders hold beside it.
TOKEN = 0xF0000
_TOKENS = re.compile("[\U000f0000-\U0010ffff]")
# Marks that meet every mark of the other side: the seam itself would be changed.
_OPEN_END, _OPEN_START = (-1, 0), (-1, 1)


def token(number: int) -> str:
    """Return the character that stands for the span or hit of this number."""
    return chr(TOKEN + number)


def token_number(character: str) -> int | None:
    """Return the number of a token, None for any other character."""
    number = ord(character) - TOKEN
    return number if number >= 0 else None


@cache
def bordered(phrase: str, flags: int = 0) -> re.Pattern:
    """Compile a literal phrase that may not continue a word where it starts or ends with a letter or digit."""
    start = r"(?<!\w)" if phrase[:1].isalnum() else ""
    end = r"(?!\w)" if phrase[-1:].isalnum() else ""
    return re.compile(start + re.escape(phrase) + end, flags)


class Phrases:
    """Where the phrases of one step may reach over the ends of a text (see the module's docstring).

    A phrase is cut at each of its spaces: a text that ends in the left piece, or that starts with the right one, gets
    the mark of the cut. So does a text that is the whole of the piece's near side, as "b" is for "a b | c": it may
    stand in the middle of the phrase.
    """

    def __init__(self, step: int, phrases: Iterable[str]):
        self.ends: dict[str, list[tuple]] = {}
        self.starts: dict[str, list[tuple]] = {}
        self.middles: tuple[dict, dict] = ({}, {})
        for number, phrase in enumerate(phrases):
            for position, character in enumerate(phrase):
                if character == " ":
                    left, right, mark = phrase[:position], phrase[position + 1 :], (step, number, position)
                    self.ends.setdefault(left, []).append(mark)
                    self.starts.setdefault(right, []).append(mark)
                    for space in [n for n, letter in enumerate(left) if letter == " "]:
                        self.middles[0].setdefault(left[space + 1 :], []).append(mark)
                    for space in [n for n, letter in enumerate(right) if letter == " "]:
                        self.middles[1].setdefault(right[:space], []).append(mark)
        self.all_ends, self.all_starts = tuple(self.ends), tuple(self.starts)

    def mark(self, text: str, edges: "Edges") -> None:
        """Add the marks of `text`."""
        edges.end.update(self.middles[0].get(text, ()))
        edges.start.update(self.middles[1].get(text, ()))
        if text.endswith(self.all_ends):
            for piece, marks in self.ends.items():
                if text.endswith(piece):
                    edges.end.update(marks)
        if text.startswith(self.all_starts):
            for piece, marks in self.starts.items():
                if text.startswith(piece):
                    edges.start.update(marks)


@dataclass
class Edges:
    """How rules could reach over the two ends of a text, and which lead-list carriers it holds.

    `placed` says that the outcome depends on whether the text stands first or last in its report.
    """

    start: set = field(default_factory=lambda: {_OPEN_END})
    end: set = field(default_factory=lambda: {_OPEN_START})
    carriers: set = field(default_factory=set)
    placed: bool = False


@dataclass(frozen=True)
class Place:
    """Where a piece of text stands in its report, and whether it is followed to learn its `edges`."""

    first: bool = True
    last: bool = True
    edges: Edges | None = None


Step = Callable[[str, Place], str]


class Normalizer:
    """The text normalisation of one configuration folder.

    Raises
    ------
    UserError
        A normalisation file is not readable or lacks a table.
    """

    def __init__(self, folder: Path):
        tables = read_tables(folder, TABLES_FILE)
        templates = read_tables(folder, TEMPLATES_FILE)
        self._count = itertools.count()
        self.cut_off = [phrase.lower() for phrase in sorted(tables["cut_off"], key=len, reverse=True)]
        self.ending = re.compile(rf" (?:{'|'.join(map(re.escape, tables['ending']['words']))})$")
        self.ending_word = tables["ending"]["append"]
        self.steps: list[Step] = [
            self._abbreviations(tables["abbreviations"], tables["possessives"]),
            self._table(tables["phrases"], border=False, ignore_case=True),
            lambda text, _: text.lower(),
            self._append_to_ending,
            _dashes_and_slashes,
            self._table({"&": " and "}, border=False),
            _collapse,
            self._table(tables["before_stems"]),
            self._table(_longest_first(tables["stems"]), border=False),
            self._table(tables["words"]),
            _question_marks,
            self._table(tables["after_words"]),
            self._lead_lists(tables["lead_lists"], tables["leads"]),
            self._table(tables["joined"]),
            lambda text, _: text.replace("*", " "),
            _prefixes_and_bundles,
            *(self._family(family) for family in templates["passes"]),
        ]
        self._cut_edges = Phrases(next(self._count), self.cut_off)

    def cut(self, text: str, edges: Edges | None = None) -> tuple[str, bool]:
        """Drop everything from the first cut-off phrase on; return the text and whether there was one."""
        lower = _same_length_lower(text)
        if edges:
            self._cut_edges.mark(lower, edges)
        found = False
        for phrase in self.cut_off:
            position = lower.find(phrase)
            if position >= 0:
                text, lower, found = text[:position], lower[:position], True
        return (text.rstrip() if found else text), found

    def normalize(self, text: str, place: Place | None = None) -> str:
        """Normalise a text whose cut-off is done (`cut`); blanks at its ends are kept."""
        place = place or Place()
        for step in self.steps:
            text = step(text, place)
        return text

    def __call__(self, text: str) -> str:
        """Normalise a whole report."""
        return self.normalize(self.cut(clean(text))[0].strip()).strip()

    # The kinds of steps.

    def _table(self, table: dict[str, str], border: bool = True, ignore_case: bool = False) -> Step:
        """Return a step that applies literal substitutions one by one, each over the whole text."""
        phrases = Phrases(next(self._count), (key.lower() if ignore_case else key for key in table))
        flags = re.IGNORECASE if ignore_case else 0
        rules = [
            (key.lower() if ignore_case else key, bordered(key, flags) if border else re.compile(re.escape(key), flags),
             value.replace("\\", r"\\"))
            for key, value in table.items()
        ]  # fmt: skip

        def step(text: str, place: Place) -> str:
            searched = text.lower() if ignore_case else text
            if place.edges:
                phrases.mark(searched, place.edges)
            for key, pattern, value in rules:
                if key in searched:
                    changed = pattern.sub(value, text)
                    if changed != text:
                        text = changed
                        searched = text.lower() if ignore_case else text
                        if place.edges:
                            phrases.mark(searched, place.edges)
            return text

        return step

    def _abbreviations(self, table: dict[str, str], possessives: list[str]) -> Step:
        """Return the case-sensitive step: capital abbreviations, and "PAC's" for "PACs"."""
        replace = self._table(table)
        possessive = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, possessives))})'s(?!\w)")
        return lambda text, place: possessive.sub(r"\1s", replace(text, place))

    def _append_to_ending(self, text: str, place: Place) -> str:
        if not self.ending.search(" " + text):
            return text
        if place.edges:
            place.edges.placed = True
        if place.last and self.ending.search(text if place.first else " " + text):
            return f"{text} {self.ending_word}"
        return text

    def _family(self, family: dict) -> Step:
        """Return a step that replaces a family of phrases at once: longest first, no span twice."""
        phrases = _longest_first(expand(family))
        edges = Phrases(next(self._count), phrases)

        def step(text: str, place: Place) -> str:
            if place.edges:
                edges.mark(text, place.edges)
            found = []
            for phrase in [phrase for phrase in phrases if phrase in text]:
                text, times = bordered(phrase).subn(token(len(found)), text)
                if times:
                    found.append(phrases[phrase])
            return _TOKENS.sub(lambda match: found[token_number(match.group())], text) if found else text

        return step

    def _lead_lists(self, carriers: list[dict], leads: list[str]) -> Step:
        """Return the step that spells lead lists out, one phrase per lead."""
        lead = "|".join(map(re.escape, sorted(leads, key=len, reverse=True)))
        rules = []
        for carrier in carriers:
            # Where words follow the list, they and the blank before them belong to the match.
            tail = rf"\s+{re.escape(carrier['after'])}(?!\w)" if carrier["after"] else ""
            rules.append(
                (
                    carrier["before"],
                    re.compile(
                        rf"(?<!\w){re.escape(carrier['before'])}\s*((?:{lead})(?:[\s,]+(?:{lead}))*)(?!\w){tail}"
                    ),
                    carrier["each"],
                )
            )
        single = re.compile(lead)
        literals = Phrases(next(self._count), (before for before, _, _ in rules))
        # A list may go on, or its last words may stand, in the next statement.
        words = {word for carrier in carriers for word in carrier["after"].split()}
        continued = re.compile(rf"\s*(?:,|(?:{lead}|{'|'.join(map(re.escape, words))})(?!\w))")

        def step(text: str, place: Place) -> str:
            if place.edges:
                literals.mark(text, place.edges)
                if continued.match(text):
                    place.edges.start.add((literals, "list"))
            for number, (before, pattern, each) in enumerate(rules):
                if before not in text:
                    continue
                if place.edges:
                    place.edges.end.add((literals, "list"))
                    place.edges.carriers.add(number)
                named = [name for run in pattern.findall(text) for name in single.findall(run)]
                text = pattern.sub("; ".join(each.format(lead=name) for name in named), text)
            return text

        return step


# Steps of plain regular expressions. Each first notes where its expression could reach over an end of the text.


def _dashes_and_slashes(text: str, place: Place) -> str:
    """Backtick to space, no white space around "/", "t - wave" to "t wave", "twave" to "t wave"."""
    text = text.replace("`", " ")
    if place.edges:
        _mark(place.edges, text, r"/\s*$", None, "slash")
        _mark(place.edges, text, None, r"\s*/", "slash")
        _mark(place.edges, text, r"((?<!\w)[a-z]|^)[ -]*$", r"[ -]*(wave|$)", "wave")
    text = re.sub(r"\s*/\s*", "/", text)
    text = re.sub(r"(?<!\w)([a-z]) ?-? ?(waves?)(?!\w)", r"\1 \2", text)
    return re.sub(r"([a-z])(?=wave)", r"\1 ", text)


def _collapse(text: str, place: Place) -> str:
    """White space to single spaces."""
    if place.edges:
        _mark(place.edges, text, r"(^|\s)$", None, "space")
        _mark(place.edges, text, None, r"\s|$", "space")
    return re.sub(r"\s+", " ", text)


def _question_marks(text: str, place: Place) -> str:
    """Question marks become words; a space after every comma."""
    if place.edges:
        _mark(place.edges, text, r"[-?] ?$", r" ?-? ?(\?|age)", "question")
    text = re.sub(r" ?-? ?\? ?(?=age(?!\w))", " ? ", text)
    if text.startswith("?"):
        if place.edges:
            place.edges.placed = True
        if place.first:
            text = "<before?> " + text[1:]
    text = re.sub(r"--?\?", " <after?> ", text)
    return _collapse(text.replace(",", ", "), place)


def _prefixes_and_bundles(text: str, place: Place) -> str:
    """ "v-paced" to "ventricular paced", "bundle" to "bundle branch", "-sensing" and "-pacing" apart."""
    if place.edges:
        _mark(place.edges, text, r"bundle$", r"branch", "bundle")
    text = re.sub(r"(?<!\w)v-(?=\w\w)", "ventricular ", text)
    text = re.sub(r"(?<!\w)a-(?=\w\w)", "atrial ", text)
    text = re.sub(r"(?<!\w)bundle(?!\w)(?! branch)", "bundle branch", text)
    return text.replace("-sensing", " sensing").replace("-pacing", " pacing")


def _mark(edges: Edges, text: str, end: str | None, start: str | None, name: str) -> None:
    """Mark a text that ends like `end` or starts like `start`; None stands for anything."""
    if end and re.search(end, text):
        edges.end.add(name if start else _OPEN_END)
    if start and re.match(start, text):
        edges.start.add(name if end else _OPEN_START)


def clean(text: str) -> str:
    """Replace the characters that the labeler uses as tokens (none of them is text)."""
    return _TOKENS.sub("\N{REPLACEMENT CHARACTER}", text)


def _same_length_lower(text: str) -> str:
    """Lower-case without changing positions (some letters lower to two characters)."""
    lower = text.lower()
    return lower if len(lower) == len(text) else "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


def _longest_first(table: dict[str, str]) -> dict[str, str]:
    return dict(sorted(table.items(), key=lambda item: len(item[0]), reverse=True))


def expand(family: dict) -> dict[str, str]:
    """Return the phrases of a template family and what each becomes.

    A family has `groups` (name to a list of words, or to an object that says what each word becomes) and `templates`,
    pairs of texts with group names in braces: `["{chamber} {noun}", "{chamber} pacing"]`. Of two templates that make
    the same phrase the first wins.
    """
    phrases: dict[str, str] = {}
    for phrase, result in family["templates"]:
        names = [name for name in family["groups"] if "{" + name + "}" in phrase]
        choices = [family["groups"][name] for name in names]
        choices = [list(c.items()) if isinstance(c, dict) else [(word, word) for word in c] for c in choices]
        for words in itertools.product(*choices):
            matched = phrase.format(**{name: word for name, (word, _) in zip(names, words)})
            becomes = result.format(**{name: value for name, (_, value) in zip(names, words)})
            phrases.setdefault(matched, becomes)
    return phrases


def read_tables(folder: Path, file: str) -> dict:
    """Read a normalisation file of the folder, else the project's own.

    Raises
    ------
    UserError
        The file is not readable, lists a phrase twice, or an entry has not the form of the project's own.
    """
    path = Path(folder) / file
    path = path if path.is_file() else PROJECT_CONFIG / file
    tables, form = read_json(path, dict), FORMS[file]
    if other := set(tables) ^ set(form):
        name = min(other)
        raise UserError(f"{path}: {'lacks' if name in form else 'has an unknown entry'} {name!r}; it has {list(form)}")
    for name, fits in form.items():
        if not fits(tables[name]):
            raise UserError(f"{path}: {name!r} has not the form it has in {PROJECT_CONFIG / file}; compare them")
    return tables


def _is_phrase(value) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _are_phrases(value) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_phrase, value))


def _is_table(value) -> bool:
    """Tell whether it says what phrases become; a phrase may become nothing."""
    return isinstance(value, dict) and all(map(_is_phrase, value)) and _are_texts(list(value.values()))


def _are_texts(value) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _is_object(value, *keys: str) -> bool:
    return isinstance(value, dict) and set(value) == set(keys)


def _is_ending(value) -> bool:
    return _is_object(value, "words", "append") and _are_phrases(value["words"]) and _is_phrase(value["append"])


def _is_lead_list(value) -> bool:
    fits = _is_object(value, "before", "after", "each") and _are_texts(list(value.values()))
    return fits and _is_phrase(value["before"]) and _placeholders(value["each"]) == {"lead"}


def _is_family(value) -> bool:
    if not _is_object(value, "name", "groups", "templates") or not isinstance(value["groups"], dict):
        return False
    # The words of a group are a list, or a dict that says what each becomes.
    groups = [[*group, *group.values()] if isinstance(group, dict) else group for group in value["groups"].values()]
    return (
        all(map(_are_texts, groups))
        and isinstance(value["templates"], list)
        and all(_is_template(template, set(value["groups"])) for template in value["templates"])
        and all(map(_is_phrase, expand(value)))
    )


def _is_template(value, groups: set[str]) -> bool:
    if not _are_phrases(value) or len(value) != 2:
        return False
    left, right = map(_placeholders, value)
    return left is not None and right is not None and right <= left <= groups


def _placeholders(text: str) -> set[str] | None:
    """Return the names in braces; None where braces hold anything but a name."""
    names = re.findall(r"\{(\w+)\}", text)
    return set(names) if "{" not in (rest := re.sub(r"\{\w+\}", "", text)) and "}" not in rest else None


# What each entry of a file must look like.
FORMS: dict[str, dict[str, Callable[[object], bool]]] = {
    TABLES_FILE: {
        **dict.fromkeys(("cut_off", "possessives", "leads"), _are_phrases),
        **dict.fromkeys(
            ("abbreviations", "phrases", "before_stems", "stems", "words", "after_words", "joined"), _is_table
        ),
        "ending": _is_ending,
        "lead_lists": lambda value: isinstance(value, list) and all(map(_is_lead_list, value)),
    },
    TEMPLATES_FILE: {"passes": lambda value: isinstance(value, list) and all(map(_is_family, value))},
}

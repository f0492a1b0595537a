"""Text normalisation: from the wording of a report to the one wording the patterns are written in.

The order of the steps is `Normalizer.steps`; each takes a text and returns it changed. What the steps replace stands in
two data files of the configuration folder, `text_normalization.json` (tables) and `text_templates.json` (families of
phrases); the labeler falls back on the project's own where a folder has none.
"""

import itertools
import re
from collections.abc import Callable
from pathlib import Path

from ecg_finetune.files import UserError, read_json
from ecg_fm_labeler.configuration import PROJECT_CONFIG
from ecg_fm_labeler.phrases import TOKENS, PhraseIndex, bordered, clean, token, token_number

TABLES_FILE = "text_normalization.json"
TEMPLATES_FILE = "text_templates.json"

Step = Callable[[str], str]


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
        self.cut_off = [phrase.lower() for phrase in sorted(tables["cut_off"], key=len, reverse=True)]
        # "PAC's" becomes "PACs".
        possessive = rf"(?<!\w)({'|'.join(map(re.escape, tables['possessives']))})'s(?!\w)"
        # All white space but a single blank becomes one: \s+ would replace every blank of the text.
        collapse = ("", r"\s(?:(?<! )|\s)\s*", " ")
        self.steps: list[Step] = [
            _rewrite(
                *((key, bordered(key), _literal(value)) for key, value in tables["abbreviations"].items()),
                ("'s", possessive, r"\1s"),
            ),
            _replace_ignoring_case(tables["phrases"]),
            str.lower,
            _append_to_ending(**tables["ending"]),
            _rewrite(
                ("`", "`", " "),
                ("/", r"/\s+", "/"),
                # Not from the midst of a run of white space: from each of its characters anew it takes quadratic time.
                ("/", r"(?<!\s)\s+/", "/"),
                ("wave", r"(?<!\w)([a-z]) ?-? ?(waves?)(?!\w)", r"\1 \2"),
                ("wave", r"([a-z])(?=wave)", r"\1 "),
                ("&", "&", " and "),
                collapse,
            ),
            _replace_words(tables["before_stems"]),
            _replace(_longest_first(tables["stems"])),
            _replace_words(tables["words"]),
            _rewrite(
                ("?", r" ?-? ?\? ?(?=age(?!\w))", " ? "),
                ("?", r"\A\?", "<before?> "),
                ("?", r"--?\?", " <after?> "),
                (",", ",", ", "),
                collapse,
            ),
            _replace_words(tables["after_words"]),
            _spell_out_lead_lists(tables["lead_lists"], tables["leads"]),
            _replace_words(tables["joined"]),
            _rewrite(
                ("*", r"\*", " "),
                ("v-", r"(?<!\w)v-(?=\w\w)", "ventricular "),
                ("a-", r"(?<!\w)a-(?=\w\w)", "atrial "),
                ("bundle", r"(?<!\w)bundle(?!\w)(?! branch)", "bundle branch"),
                ("-", "-(?=sensing|pacing)", " "),
            ),
            *(_replace_family(family) for family in templates["passes"]),
        ]

    def cut(self, text: str) -> tuple[str, bool]:
        """Drop everything from the first cut-off phrase on; return the text and whether there was one."""
        lower = _same_length_lower(text)
        found = False
        for phrase in self.cut_off:
            position = lower.find(phrase)
            if position >= 0:
                text, lower, found = text[:position], lower[:position], True
        return (text.rstrip() if found else text), found

    def __call__(self, text: str) -> str:
        """Normalise a text from which `cut` has dropped what no label depends on."""
        text = clean(text).strip()
        for step in self.steps:
            text = step(text)
        return text.strip()


# The kinds of steps.


def _rewrite(*rules: tuple[str, str | re.Pattern, str]) -> Step:
    """Return a step of substitutions: what the text must hold for a match, the expression and the template."""
    compiled = [(needed, re.compile(pattern), template) for needed, pattern, template in rules]

    def step(text: str) -> str:
        for needed, pattern, template in compiled:
            if needed in text:
                text = pattern.sub(template, text)
        return text

    return step


def _replace(table: dict[str, str]) -> Step:
    """Return a step that replaces texts one by one, also within words."""

    def step(text: str) -> str:
        for key, value in table.items():
            text = text.replace(key, value)
        return text

    return step


def _replace_ignoring_case(table: dict[str, str]) -> Step:
    """Return a step that replaces texts one by one, also within words, in upper or lower case."""
    rules = [(key.lower(), re.compile(re.escape(key), re.IGNORECASE), _literal(value)) for key, value in table.items()]

    def step(text: str) -> str:
        lower = text.lower()
        for key, pattern, value in rules:
            if key in lower:
                text = pattern.sub(value, text)
                lower = text.lower()
        return text

    return step


def _replace_words(table: dict[str, str]) -> Step:
    """Return a step that replaces bordered phrases one by one; later rules see what earlier ones made."""
    rules = [(bordered(key), _literal(value)) for key, value in table.items()]
    index = PhraseIndex(table)

    def step(text: str) -> str:
        waiting = index.found_in(text)
        while waiting:
            number, *waiting = waiting
            pattern, value = rules[number]
            changed = pattern.sub(value, text)
            if changed != text:
                text = changed
                waiting = [later for later in index.found_in(text) if later > number]
        return text

    return step


def _replace_family(family: dict) -> Step:
    """Return a step that replaces a family of phrases at once: longest first, no span twice."""
    phrases = _longest_first(expand(family))
    rules = [(bordered(phrase), result) for phrase, result in phrases.items()]
    index = PhraseIndex(phrases)

    def step(text: str) -> str:
        numbers = index.found_in(text)
        for number in numbers:
            text = rules[number][0].sub(token(number), text)
        return TOKENS.sub(lambda match: rules[token_number(match[0])][1], text) if numbers else text

    return step


def _append_to_ending(words: list[str], append: str) -> Step:
    """Return the step that appends a word to a text that ends in one of `words`, but not to that word alone."""
    endings = tuple(f" {word}" for word in words)
    return lambda text: f"{text} {append}" if text.endswith(endings) else text


def _spell_out_lead_lists(carriers: list[dict], leads: list[str]) -> Step:
    """Return the step that spells lead lists out, one phrase per lead.

    As in ECG-FM's labeler every list of a kind becomes the leads of all lists of that kind in the text. Of a lead that
    is repeated therein only the first and last mention and one between count: more would change no label, and many
    lists of many leads would make a text of quadratic length.
    """
    lead = "|".join(map(re.escape, sorted(leads, key=len, reverse=True)))
    rules = []
    for carrier in carriers:
        # Where words follow the list, they and the blank before them belong to the match.
        tail = rf"\s+{re.escape(carrier['after'])}(?!\w)" if carrier["after"] else ""
        before = re.escape(carrier["before"])
        pattern = re.compile(rf"(?<!\w){before}\s*((?:{lead})(?:[\s,]+(?:{lead}))*)(?!\w){tail}")
        rules.append((carrier["before"], pattern, carrier["each"]))
    single = re.compile(lead)

    def step(text: str) -> str:
        for before, pattern, each in rules:
            if before in text:
                named = [name for run in pattern.findall(text) for name in single.findall(run)]
                named = [*named[:1], *dict.fromkeys(named[1:-1]), *named[1:][-1:]]
                text = pattern.sub(_literal("; ".join(each.format(lead=name) for name in named)), text)
        return text

    return step


def _literal(value: str) -> str:
    """Return the template with which `re.sub` puts just this text."""
    return value.replace("\\", r"\\")


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
        The file is not readable, lists a phrase twice, or an entry does not have the form of the project's own.
    """
    path = Path(folder) / file
    path = path if path.is_file() else PROJECT_CONFIG / file
    tables, form = read_json(path, dict), FORMS[file]
    if other := set(tables) ^ set(form):
        name = min(other)
        raise UserError(f"{path}: {'lacks' if name in form else 'has an unknown entry'} {name!r}; it has {list(form)}")
    for name, fits in form.items():
        if not fits(tables[name]):
            raise UserError(f"{path}: {name!r} does not have the form of the one in {PROJECT_CONFIG / file}")
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

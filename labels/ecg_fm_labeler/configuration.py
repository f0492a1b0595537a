"""Reading and checking the labeler's knowledge base: entities, descriptors, patterns and the templates of inference.

The format is ECG-FM's own, so its configuration folder can be used unchanged. Every file is a JSON list, but
`uncertainty_map.json`, which is an object. Files a folder may lack: `split_desc_tem.json`, `uncertainty_map.json`,
`label_def.csv` and what is the project's own addition: `asserted_desc_pat.json` and the text normalisation tables
(see `normalization`).
"""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ecg_finetune.files import UserError, read_json
from ecg_finetune.tables import iterate_rows

PROJECT_CONFIG = Path(__file__).resolve().parent.parent / "ecg_fm_labeler_config"

# A finding that carries this descriptor was negated.
ABSENCE = "Absence"
# Descriptor patterns that only the policy "asserted" knows; a folder without them gets the project's.
NEGATIONS = "asserted_desc_pat"
REQUIRED = (
    "entity_tem",
    "entity_pat",
    "desc_tem",
    "desc_pat",
    "connective",
    "compound_tem",
    "attached_desc_tem",
    "traveling_desc_tem",
)
# What an entry of each file may hold, documentation included.
_DESC_PAT = ("pattern", "descriptors", "before_after", "parse_before_entities")
KEYS = {
    "entity_tem": ("name", "sup", "require_descriptors", "aka", "tags", "feature", "hallmark"),
    "entity_pat": ("pattern", "entities"),
    "desc_tem": ("name", "category", "tags", "create_entities", "attribute_to"),
    "split_desc_tem": ("name", "descriptors"),
    "desc_pat": _DESC_PAT,
    NEGATIONS: _DESC_PAT,
    "connective": ("pattern", "descriptors", "tags"),
    "compound_tem": ("entity", "including", "excluding"),
    "attached_desc_tem": ("entity", "descriptor", "resulting_entity"),
    "traveling_desc_tem": ("entity", "descriptors"),
}
PART_KEYS = ("tem", "descriptors")  # of an object within an entry that names something


@dataclass(frozen=True)
class Entity:
    """A finding: its parents in the ontology, and whether its bare name may become a label."""

    parents: tuple[str, ...] = ()
    require_descriptors: bool = False


@dataclass(frozen=True)
class Pattern:
    """Words that stand for something.

    `kind` is "entity", "before" (a descriptor of the next finding), "after" (of the previous one) or "connective".
    `entities` holds (entity, preset descriptors) of an entity pattern; `left` and `right` the descriptors that the
    pattern gives to the finding on that side.
    """

    text: str
    kind: str
    entities: tuple[tuple[str, frozenset[str]], ...] = ()
    left: tuple[str, ...] = ()
    right: tuple[str, ...] = ()
    first: bool = False


@dataclass(frozen=True)
class Compound:
    """An entity that is present when all of `including` and none of `excluding` are: (entity, its descriptors)."""

    entity: str
    including: tuple[tuple[str, frozenset[str]], ...]
    excluding: tuple[tuple[str, frozenset[str]], ...]


@dataclass
class Knowledge:
    """The knowledge base of a folder, names checked."""

    entities: dict[str, Entity] = field(default_factory=dict)
    created: dict[str, tuple[str, ...]] = field(default_factory=dict)  # descriptor -> entities it creates
    patterns: list[Pattern] = field(default_factory=list)
    negations: list[Pattern] = field(default_factory=list)  # only for the policy "asserted"
    compounds: list[Compound] = field(default_factory=list)
    attached: list[tuple[str, str, str]] = field(default_factory=list)  # entity, descriptor, resulting entity
    traveling: list[tuple[str, frozenset[str]]] = field(default_factory=list)
    uncertainty: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_folder(cls, folder: Path) -> "Knowledge":
        """Read a configuration folder.

        Raises
        ------
        UserError
            A file is missing or not JSON, or an entry is wrong; the message names the file and the entry.
        """
        reader = Reader(folder)
        knowledge = reader.read()
        if reader.problems:
            more = len(reader.problems) - 1
            rest = f" (and {more} more: python -m ecg_fm_labeler.validate {folder})" if more else ""
            raise UserError(reader.problems[0] + rest)
        return knowledge


class Reader:
    """Reads one configuration folder and collects everything that is wrong with it in `problems`."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.problems: list[str] = []
        self.where = ""  # the entry being read, for messages
        self.split: dict[str, tuple[str, ...]] = {}  # a descriptor that stands for several -> those

    def read(self) -> Knowledge:
        """Return the knowledge base; what is wrong with it is in `problems`."""
        knowledge = Knowledge()
        if not self.folder.is_dir():
            self.problems.append(f"{self.folder}: no such folder; give the folder of the labeler's configuration")
            return knowledge
        self._entities(knowledge)
        self._descriptors(knowledge)
        self._patterns(knowledge)
        self._templates(knowledge)
        self._cycles(knowledge.entities)
        return knowledge

    def _entities(self, knowledge: Knowledge) -> None:
        for entry in self._entries("entity_tem"):
            name = self._text(entry, "name")
            if name in knowledge.entities:
                self._problem(f"duplicate entity {name!r}")
            parents = tuple(self._names(entry, "sup"))
            knowledge.entities[name] = Entity(parents, self._flag(entry, "require_descriptors"))
        for name, entity in knowledge.entities.items():
            self.where = f"entity_tem.json: {name!r}"
            self._known(entity.parents, knowledge.entities, "entity")

    def _descriptors(self, knowledge: Knowledge) -> None:
        for entry in self._entries("desc_tem"):
            name = self._text(entry, "name")
            if name in knowledge.created:
                self._problem(f"duplicate descriptor {name!r}")
            knowledge.created[name] = tuple(self._names(entry, "create_entities"))
            self._known(knowledge.created[name], knowledge.entities, "entity")
        for entry in self._entries("split_desc_tem"):
            name = self._text(entry, "name")
            if name in self.split:
                self._problem(f"duplicate descriptor {name!r}")
            self.split[name] = tuple(self._names(entry, "descriptors", needed=True))
            self._known(self.split[name], knowledge.created, "descriptor")
        path = self.folder / "uncertainty_map.json"
        for name, probability in (self._json(path, dict) or {}).items() if path.is_file() else ():
            self.where = f"uncertainty_map.json: {name!r}"
            self._known([name], knowledge.created, "descriptor")
            if type(probability) in (int, float) and 0 < probability <= 1:
                knowledge.uncertainty[name] = float(probability)
            else:
                self._problem(f"the probability {probability!r} is not a number above 0 and at most 1")

    def _patterns(self, knowledge: Knowledge) -> None:
        seen: dict[str, str] = {}
        for entry in self._entries("entity_pat"):
            text = self._pattern(entry, seen)
            entities = []
            for part in self._list(entry, "entities", needed=True):
                name = self._name(part)
                preset = self._names(part, "descriptors") if isinstance(part, dict) else []
                self._known([name], knowledge.entities, "entity")
                entities.append((name, frozenset(self._descriptor_names(preset, knowledge))))
            knowledge.patterns.append(Pattern(text, "entity", entities=tuple(entities)))
        for entry in self._entries("desc_pat"):
            knowledge.patterns += self._descriptor_pattern(entry, seen, knowledge)
        for entry in self._entries("connective"):
            text = self._pattern(entry, seen)
            sides = self._list(entry, "descriptors") or [[], []]
            if len(sides) != 2 or not all(isinstance(side, list) for side in sides):
                self._problem("descriptors must be two lists: for the finding on the left and on the right")
                continue
            left, right = (tuple(self._descriptor_names(map(self._name, side), knowledge)) for side in sides)
            knowledge.patterns.append(Pattern(text, "connective", left=left, right=right))
        if (self.folder / f"{NEGATIONS}.json").is_file():
            for entry in self._entries(NEGATIONS):
                knowledge.negations += self._descriptor_pattern(entry, seen, knowledge)
        elif ABSENCE in knowledge.created and self.folder != PROJECT_CONFIG:
            own = Knowledge.from_folder(PROJECT_CONFIG).negations
            knowledge.negations += [negation for negation in own if negation.text not in seen]

    def _descriptor_pattern(self, entry: dict, seen: dict[str, str], knowledge: Knowledge) -> list[Pattern]:
        """Return the pattern of an entry; none if it is wrong."""
        text = self._pattern(entry, seen)
        names = tuple(self._descriptor_names(self._names(entry, "descriptors", needed=True), knowledge))
        side = entry.get("before_after", "b")
        first = self._flag(entry, "parse_before_entities")
        if side == "b":
            return [Pattern(text, "before", right=names, first=first)]
        if side == "a":
            return [Pattern(text, "after", left=names, first=first)]
        self._problem(f'before_after is {side!r}; it must be "b" (next finding) or "a" (previous one)')
        return []

    def _templates(self, knowledge: Knowledge) -> None:
        for entry in self._entries("compound_tem"):
            parts = [tuple(self._compound_parts(entry, side, knowledge)) for side in ("including", "excluding")]
            name = self._name(entry.get("entity"))
            self._known([name], knowledge.entities, "entity")
            if not parts[0]:
                self._problem("a compound needs at least one entity in including")
            knowledge.compounds.append(Compound(name, *parts))
        for entry in self._entries("attached_desc_tem"):
            row = tuple(self._name(entry.get(key)) for key in ("entity", "descriptor", "resulting_entity"))
            self._known([row[0], row[2]], knowledge.entities, "entity")
            self._known([row[1]], knowledge.created, "descriptor")
            knowledge.attached.append(row)
        for entry in self._entries("traveling_desc_tem"):
            name, descriptors = self._name(entry.get("entity")), self._names(entry, "descriptors", needed=True)
            self._known([name], knowledge.entities, "entity")
            knowledge.traveling.append((name, frozenset(self._descriptor_names(descriptors, knowledge))))

    def _compound_parts(self, entry: dict, side: str, knowledge: Knowledge) -> Iterator[tuple[str, frozenset[str]]]:
        for part in self._list(entry, side):
            name = self._name(part)
            descriptors = self._names(part, "descriptors") if isinstance(part, dict) else []
            self._known([name], knowledge.entities, "entity")
            yield name, frozenset(self._descriptor_names(descriptors, knowledge))

    def _cycles(self, entities: dict[str, Entity]) -> None:
        done: set[str] = set()

        def visit(name: str, path: tuple[str, ...]) -> None:
            if name in path:
                circle = " > ".join([*path[path.index(name) :], name])
                self.problems.append(f"{self.folder / 'entity_tem.json'}: {name!r} is its own ancestor: {circle}")
            elif name in entities and name not in done:
                for parent in entities[name].parents:
                    visit(parent, (*path, name))
                done.add(name)

        for name in entities:
            visit(name, ())

    def check_label_definition(self, entities: dict[str, Entity]) -> None:
        """Check label_def.csv, where there is one, against the entities; labelling does not need it."""
        path = self.folder / "label_def.csv"
        if not path.is_file():
            return
        try:
            for line, (name,) in iterate_rows(path, ["name"]):
                if name not in entities:
                    self.problems.append(f"{path}: line {line}: the entity {name!r} is not in entity_tem.json")
        except UserError as error:
            self.problems.append(str(error))

    # What the methods above read entries with.

    def _entries(self, file: str) -> Iterator[dict]:
        path = self.folder / f"{file}.json"
        if not path.is_file() and file not in REQUIRED:
            return
        for number, entry in enumerate(self._json(path, list) or [], start=1):
            self.where = f"{file}.json: entry {number}"
            if isinstance(entry, dict):
                self._refuse_misspelt(entry, KEYS[file])
                yield entry
            else:
                self._problem(f"{entry!r} is not an object")

    def _refuse_misspelt(self, entry: dict, keys: tuple[str, ...]) -> None:
        """Refuse a key that looks like a known one; other keys are free for documentation."""
        for key in entry.keys() - set(keys):
            if meant := difflib.get_close_matches(key, keys, n=1):
                self._problem(f"unknown key {key!r}; did you mean {meant[0]!r}?")

    def _json(self, path: Path, kind: type):
        if not path.is_file():
            self.problems.append(f"{path}: no such file; a labeler configuration needs it")
            return None
        try:
            return read_json(path, kind)
        except UserError as error:
            self.problems.append(str(error))
            return None

    def _pattern(self, entry: dict, seen: dict[str, str]) -> str:
        text = self._text(entry, "pattern")
        self.where += f" ({text!r})"
        if text in seen:
            self._problem(f"duplicate pattern; the first is {seen[text]}")
        elif not text.strip():
            self._problem("a pattern must not be empty")
        seen.setdefault(text, self.where)
        return text

    def _text(self, entry: dict, key: str) -> str:
        value = entry.get(key)
        if not isinstance(value, str) or not value:
            self._problem(f"{key} is {value!r}; it must be a non-empty string")
            return ""
        return value

    def _flag(self, entry: dict, key: str) -> bool:
        value = entry.get(key, False)
        if not isinstance(value, bool):
            self._problem(f"{key} is {value!r}; it must be true or false")
        return value is True

    def _list(self, entry: dict, key: str, needed: bool = False) -> list:
        value = entry.get(key)
        if value is None and not needed:
            return []
        if not isinstance(value, list):
            self._problem(f"{key} is {value!r}; it must be a list")
            return []
        return value

    def _names(self, entry: dict, key: str, needed: bool = False) -> list[str]:
        return [self._name(part) for part in self._list(entry, key, needed)]

    def _name(self, part) -> str:
        """Return the name an entry refers to: a text, or an object with `tem` (descriptors nested in it are unused)."""
        if isinstance(part, dict):
            self._refuse_misspelt(part, PART_KEYS)
        name = part.get("tem") if isinstance(part, dict) else part
        if not isinstance(name, str):
            self._problem(f"{part!r} is not a name, nor an object with a name as tem")
            return ""
        return name

    def _descriptor_names(self, names, knowledge: Knowledge) -> list[str]:
        names = list(names)
        self._known([name for name in names if name not in self.split], knowledge.created, "descriptor")
        return [single for name in names for single in self.split.get(name, (name,))]

    def _known(self, names, table, kind: str) -> None:
        file = "entity_tem.json" if kind == "entity" else "desc_tem.json"
        for name in names:
            if name not in table:
                self._problem(f"the {kind} {name!r} is not in {file}")

    def _problem(self, text: str) -> None:
        self.problems.append(f"{self.folder}/{self.where}: {text}")

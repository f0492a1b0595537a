"""A small labeler configuration in ECG-FM's format."""

# Three entities are enough for a configuration in ECG-FM's format, without our own additions to it.
SMALL = {
    "entity_tem": [
        {"name": "Infarction", "sup": None, "aka": ["MI"], "tags": ["x"], "feature": [], "hallmark": []},
        {"name": "Inferior infarction", "sup": ["Infarction"], "require_descriptors": False},
        {"name": "Both", "sup": []},
        {"name": "Sinus rhythm", "require_descriptors": True},
    ],
    "entity_pat": [
        {"pattern": "infarct", "entities": [{"tem": "Infarction", "descriptors": []}]},
        {"pattern": "sinus rhythm", "entities": [{"tem": "Sinus rhythm", "descriptors": ["Old"]}]},
        {"pattern": "two", "entities": [{"tem": "Infarction"}, {"tem": "Sinus rhythm"}]},
        {"pattern": "nothing", "entities": []},
    ],
    "desc_tem": [
        {"name": "Inferior", "category": "location", "tags": [], "create_entities": []},
        {"name": "Old", "category": None},
        {"name": "Possible", "category": "uncertainty"},
        {"name": "Anywhere", "create_entities": ["Both"]},
    ],
    "desc_pat": [
        {"pattern": "inferior", "descriptors": [{"tem": "Inferior", "descriptors": ["Possible"]}]},
        {"pattern": "possible", "descriptors": [{"tem": "Possible"}], "before_after": "b"},
        {"pattern": ", old", "descriptors": [{"tem": "Old"}], "before_after": "a"},
        {"pattern": "oldest", "descriptors": [{"tem": "Oldest"}]},
        {"pattern": "anywhere infarct", "descriptors": [{"tem": "Anywhere"}], "parse_before_entities": True},
    ],
    "split_desc_tem": [{"name": "Oldest", "descriptors": ["Old", "Possible"]}],
    "connective": [{"pattern": "with", "descriptors": [[], []], "tags": []}],
    "compound_tem": [{"entity": "Both", "including": [{"tem": "Infarction", "descriptors": ["Old"]}], "excluding": []}],
    "attached_desc_tem": [
        {"resulting_entity": "Inferior infarction", "entity": "Infarction", "descriptor": "Inferior"}
    ],
    "traveling_desc_tem": [{"entity": "Infarction", "descriptors": ["Old"]}],
    "uncertainty_map": {"Possible": 0.5},
}

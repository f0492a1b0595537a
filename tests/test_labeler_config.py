"""The labeler's configuration: ours is sound, ECG-FM's format is read, errors name file and entry."""

import json
import shutil

import pytest
from ecg_fm_labeler import Labeler
from ecg_fm_labeler import explain as explain_module
from ecg_fm_labeler import validate as validate_module
from ecg_fm_labeler.configuration import PROJECT_CONFIG, Knowledge
from ecg_fm_labeler.normalization import TABLES_FILE, TEMPLATES_FILE, expand, read_tables
from ecg_fm_labeler.validate import problems_of
from small_configuration import SMALL

from ecg_finetune.files import UserError
from ecg_finetune.label_set import LABELS
from ecg_finetune.tables import iterate_rows

TABLES = read_tables(PROJECT_CONFIG, TABLES_FILE)


@pytest.fixture
def small(tmp_path):
    """Return a function that writes the small configuration, with changes, and returns its folder."""

    def write(**changes):
        for name, content in {**SMALL, **changes}.items():
            if content is not None:
                (tmp_path / f"{name}.json").write_text(json.dumps(content))
        return tmp_path

    return write


def test_our_configuration_has_no_problem():
    knowledge, problems = problems_of(PROJECT_CONFIG)
    assert problems == []
    assert set(LABELS) <= set(knowledge.entities)


def test_label_definition_holds_the_published_counts():
    rows = [row for _, row in iterate_rows(PROJECT_CONFIG / "label_def.csv", ["name", "count", "all_reports"])]
    assert tuple(name for name, _, _ in rows) == LABELS
    assert {"Sinus rhythm": "639304", "Ventricular tachycardia": "716"}.items() <= {n: c for n, c, _ in rows}.items()
    assert dict((name, total) for name, _, total in rows)["Infarction"] == "179649"


def test_every_phrase_of_a_family_is_lower_case_and_settles():
    for family in read_tables(PROJECT_CONFIG, TEMPLATES_FILE)["passes"]:
        for phrase, result in expand(family).items():
            assert phrase == phrase.lower() and "{" not in phrase + result, phrase


def test_tables_leave_good_words_alone():
    normalizer = Labeler.from_config().normalizer
    for text in ("partial missing lead", "anterior", "bilateral", "septal", "arterial", "contrast", "minimal"):
        assert normalizer(text) == text


def test_no_pattern_takes_the_last_word_of_a_finding():
    labeler = Labeler.from_config()
    findings = [pattern.text for pattern in labeler.knowledge.patterns if pattern.kind == "entity"]
    hard = labeler.label([[finding] for finding in findings]).hard
    joined = [
        (finding, " ".join(words[:-size] + other.split()), labels)
        for finding, labels in zip(findings, hard)
        if labels.any()
        for words in [finding.split()]
        for other in findings
        for size in range(1, min(len(words), len(other.split())))
        if words[-size:] == other.split()[:size]
    ]
    kept = labeler.label([[text] for _, text, _ in joined]).hard
    assert len(joined) > 100
    assert [text for (_, text, labels), row in zip(joined, kept) if (row < labels).any()] == []


def test_ecg_fm_format_is_read(small):
    folder = small()
    labeler = Labeler.from_config(folder)  # text normalisation comes from the project
    hard, soft = labeler.label([["Inferior MI"], ["Possible inferior MI, old with sinus rhythm"], ["nothing"]])
    assert soft[:, LABELS.index("Infarction")] == pytest.approx([1, 0.65, 0])
    assert soft[:, LABELS.index("Sinus rhythm")].tolist() == [0, 0, 0]  # its bare name is no label
    flat = labeler.labels_flat([["Possible inferior MI, old with sinus rhythm"], ["two"], ["oldest two with"]])
    assert flat[0] == pytest.approx(
        {
            "Infarction": 0.65,
            "Infarction - Inferior": 1,
            "Infarction - Old": 1,
            "Infarction - Possible": 1,
            "Inferior infarction": 0.5,
            "Both": 1,
            "Sinus rhythm - Old": 1,
        }
    )
    assert flat[1] == {"Infarction": 1}
    assert flat[2]["Sinus rhythm - Possible"] == flat[2]["Infarction - Old"] == 1


def test_negations_come_with_the_project(small):
    absent = [*SMALL["desc_tem"], {"name": "Absence"}]
    labeler = Labeler.from_config(small(desc_tem=absent), policy="asserted")
    assert labeler.labels_flat([["MI is no longer present"]]) == [{}]


def test_descriptors_parsed_first_beat_entities(small):
    labeler = Labeler.from_config(small())
    assert labeler.labels_flat([["anywhere infarct sinus rhythm with"]])[0]["Both"] == 1


@pytest.mark.parametrize("reverse", [False, True])
def test_a_blank_that_ends_a_statement_counts_only_within_a_report(small, reverse):
    """The normalised "infarct, " loses its blank at the end of a report: what is remembered must not tell otherwise."""
    patterns = [{"pattern": "infarct, ", "entities": ["Infarction"]}, {"pattern": "sinus rhythm", "entities": []}]
    labeler = Labeler.from_config(small(entity_pat=patterns))
    wanted = [(["Infarct,"], {}), (["Infarct,", "Sinus rhythm"], {"Infarction": 1.0})]
    for report, labels in reversed(wanted) if reverse else wanted:
        assert labeler.labels_flat([report]) == [labels]


def test_without_uncertainty_map_everything_is_certain(small):
    labeler = Labeler.from_config(small(uncertainty_map=None))
    assert labeler.labels_flat([["Possible MI with"]])[0]["Infarction"] == 1


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"entity_tem": None}, "entity_tem.json: no such file"),
        ({"entity_tem": {}}, "entity_tem.json: it must hold a JSON list"),
        ({"entity_tem": [*SMALL["entity_tem"], {"name": "Both"}]}, "entry 5: duplicate entity 'Both'"),
        ({"entity_tem": [*SMALL["entity_tem"], {"name": "A", "sup": ["B"]}]}, "'A': the entity 'B' is not in"),
        (
            {"entity_tem": [*SMALL["entity_tem"], {"name": "A", "sup": ["B"]}, {"name": "B", "sup": ["A"]}]},
            "'A' is its own ancestor: A > B > A",
        ),
        ({"entity_pat": [{"pattern": "x", "entities": [{"tem": "Y"}]}]}, "entry 1 ('x'): the entity 'Y' is not in"),
        (
            {"entity_pat": [{"pattern": "x", "entities": [{"tem": "Both", "descriptors": ["Z"]}]}]},
            "entity_pat.json: entry 1 ('x'): the descriptor 'Z' is not in desc_tem.json",
        ),
        ({"entity_pat": ["x"]}, "entity_pat.json: entry 1: 'x' is not an object"),
        ({"entity_pat": [{"pattern": 3}]}, "entity_pat.json: entry 1: pattern is 3"),
        ({"entity_pat": [{"pattern": " "}]}, "a pattern must not be empty"),
        (
            {"connective": [{"pattern": "infarct", "descriptors": [[], []]}]},
            "duplicate pattern; the first is entity_pat.json",
        ),
        ({"connective": [{"pattern": "with", "descriptors": [[]]}]}, "connective.json: entry 1 ('with'): descriptors"),
        ({"desc_pat": [{"pattern": "x", "descriptors": [{"tem": "Q"}]}]}, "the descriptor 'Q' is not in"),
        ({"desc_pat": [{"pattern": "x", "descriptors": [], "before_after": "c"}]}, "before_after is 'c'"),
        ({"desc_tem": [{"name": "Old", "create_entities": ["N"]}]}, "desc_tem.json: entry 1: the entity 'N'"),
        ({"compound_tem": [{"entity": "Both", "including": []}]}, "compound_tem.json: entry 1: a compound needs"),
        ({"attached_desc_tem": [{"entity": "Both"}]}, "attached_desc_tem.json: entry 1: None is not a name"),
        ({"traveling_desc_tem": [{"entity": "Both", "descriptors": ["Q"]}]}, "traveling_desc_tem.json: entry 1"),
        ({"uncertainty_map": {"Possible": 0}}, "uncertainty_map.json: 'Possible': the probability 0"),
        ({"text_normalization": {}}, "text_normalization.json"),
        (
            {"entity_tem": [{"name": "A", "supp": []}]},
            "entity_tem.json: entry 1: unknown key 'supp'; did you mean 'sup'?",
        ),
        ({"entity_tem": [{"name": "A", "require_descriptors": "false"}]}, "require_descriptors is 'false'; it must be"),
        ({"entity_tem": [{"name": ""}]}, "entry 1: name is ''; it must be a non-empty string"),
        ({"entity_pat": [{"pattern": "x"}]}, "entity_pat.json: entry 1 ('x'): entities is None"),
        ({"desc_pat": [{"pattern": "x"}]}, "desc_pat.json: entry 1 ('x'): descriptors is None"),
        ({"uncertainty_map": {"Possible": True}}, "uncertainty_map.json: 'Possible': the probability True"),
        *(
            (
                {"text_normalization": TABLES | change},
                f"text_normalization.json: {next(iter(change))!r} does not have the form",
            )
            for change in (
                {"cut_off": [""]},
                {"words": {"": "x"}},
                {"stems": {"x": None}},
                {"ending": {"words": ["x"]}},
                {"leads": []},
                {"lead_lists": [{"before": "x", "after": "", "each": "{0}"}]},
            )
        ),
        *(
            (
                {"text_templates": {"passes": [{"name": "x", "groups": {"a": ["b"]}, "templates": [template]}]}},
                "'passes' does not have",
            )
            for template in (["{c}", "x"], ["x", "{a}"], ["{a", "x"], ["{a}"], "ab", ["", "x"])
        ),
    ],
)
def test_error_names_file_and_entry(small, capsys, changes, problem):
    folder = small(**changes)
    if changes == {"entity_tem": None}:
        (folder / "entity_tem.json").unlink(missing_ok=True)
    assert any(problem in line for line in problems_of(folder)[1]), problems_of(folder)[1]
    with pytest.raises(UserError):
        Labeler.from_config(folder)
    assert validate_module.main([str(folder)]) == 1
    streams = capsys.readouterr()
    assert problem in streams.out and streams.err.startswith("error: ") and streams.err.count("\n") == 1


def test_label_definition_of_unknown_entities(small):
    folder = small()
    (folder / "label_def.csv").write_text("name,count\nInfarction,1\nNobody,2\n")
    problems = [line.split(": ", 1)[1] for line in problems_of(folder)[1]]
    assert problems[0] == "line 3: the entity 'Nobody' is not in entity_tem.json"
    assert (
        "no entity for the label 'Bradycardia'" in problems and "no entity for the label 'Infarction'" not in problems
    )
    Labeler.from_config(folder)  # labelling does not need it


def test_duplicate_phrase_in_a_text_table(small):
    folder = small()
    shutil.copy(PROJECT_CONFIG / TABLES_FILE, folder)
    path = folder / TABLES_FILE
    path.write_text(path.read_text(encoding="utf-8").replace('"words": {', '"words": {"ekg": "x",', 1))
    with pytest.raises(UserError, match="'ekg' is listed twice"):
        Labeler.from_config(folder)


def test_invalid_json_and_missing_folder(small, tmp_path):
    (small() / "desc_pat.json").write_text("[")
    with pytest.raises(UserError, match=r"desc_pat\.json: not readable as JSON"):
        Knowledge.from_folder(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        Knowledge.from_folder(tmp_path / "nowhere")


def test_validate_accepts_ours(capsys):
    assert validate_module.main([str(PROJECT_CONFIG)]) == 0
    assert "no problems" in capsys.readouterr().out


def test_explain_command(capsys, tmp_path):
    assert explain_module.main(["Atrial fibrillation", "--policy", "asserted"]) == 0
    assert "Atrial fibrillation > Reentry > Accessory pathway conduction" in capsys.readouterr().out
    assert explain_module.main(["x", "--labeler-config", str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err.startswith("error: ")

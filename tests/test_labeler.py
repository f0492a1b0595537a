"""The labeler: worked examples, genuine reports with the reference's labels, and properties of any report."""

import json
import random
import re
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from ecg_fm_labeler import Labeler
from ecg_fm_labeler.configuration import ABSENCE, PROJECT_CONFIG, Pattern
from ecg_fm_labeler.explain import explain
from ecg_fm_labeler.inference import without_negated
from ecg_fm_labeler.matching import SLASH
from ecg_fm_labeler.normalization import TABLES_FILE, TEMPLATES_FILE, expand, read_tables
from ecg_fm_labeler.phrases import PhraseIndex
from hypothesis import given, settings
from hypothesis import strategies as st

from ecg_finetune.label_set import LABELS

EXAMPLES = json.loads((Path(__file__).parent / "labeler_examples.json").read_text(encoding="utf-8"))
NAMES = "PoorQ SR PVC Tachy VT SVTab AF AFL Brady AccPath AVB AVB1 Bifasc RBBB LBBB MI Pacer"
SHORT = dict(zip(NAMES.split(" "), LABELS, strict=True))
KINDS = {"entity": "e", "before": "b", "after": "a", "connective": "c"}
LABELER = Labeler.from_config()
ASSERTED = Labeler.from_config(policy="asserted")
TABLES, TEMPLATES = (read_tables(PROJECT_CONFIG, file) for file in (TABLES_FILE, TEMPLATES_FILE))


def named(row: np.ndarray) -> dict[str, float]:
    return {name: float(value) for name, value in zip(LABELS, row) if value > 0}


def label(*statements: str, labeler: Labeler = LABELER) -> dict[str, float]:
    return named(labeler.label([statements]).soft[0])


def hits_of(report: list[str], labeler: Labeler = LABELER) -> list[Pattern]:
    return [hit for match in labeler.read(report) for hit in match.hits]


# The worked examples.


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["report"][:40])
def test_worked_example(example):
    report = [example["report"]]
    text_entities = LABELER.text_entities(report)
    rows = LABELER.inference.report_rows(text_entities)
    assert [[hit.text, KINDS[hit.kind]] for hit in hits_of(report)] == example["hits"]
    # A negation is attached and then has no effect: the examples do not list it.
    assert [
        [e.entity, LABELER.inference.probability(e.descriptors), sorted(e.descriptors - {"Absence"})]
        for e in text_entities
    ] == example["entities"]
    for entity, how in example["added"]:
        paths = [row.path for row in rows if row.entity == entity and row.path[-1] == entity]
        start = {"compound": " and ", "attached": " - ", "descriptor": " - "}[how]
        assert any(start in path[-2] for path in paths if len(path) > 1), (entity, paths)
    assert label(*report) == pytest.approx({SHORT[name]: value for name, value in example["labels"].items()}, abs=5e-4)


# Genuine statements and reports.


def test_every_genuine_statement(test_data):
    lines = (test_data / "mimic_reports" / "statements.tsv").read_text(encoding="utf-8").splitlines()[1:]
    statements, _, labels = zip(*(line.split("\t") for line in lines if line), strict=True)
    hard, soft = LABELER.label([[statement] for statement in statements])
    wrong = {
        statement: sorted(set(named(row)) ^ set(filter(None, wanted.split("; "))))
        for statement, wanted, row in zip(statements, labels, soft)
        if set(named(row)) != set(filter(None, wanted.split("; ")))
    }
    assert len(statements) > 1000 and wrong == {}
    assert np.array_equal(hard, soft > 0)


def test_every_genuine_report(test_data):
    lines = (test_data / "mimic_reports" / "reports.jsonl").read_text(encoding="utf-8").splitlines()
    reports = [json.loads(line) for line in lines]
    wanted = np.array([[report["labels"].get(name, 0.0) for name in LABELS] for report in reports])
    soft = LABELER.label([report["statements"] for report in reports]).soft
    assert len(reports) > 3000
    assert np.array_equal(soft > 0, wanted > 0)
    assert np.abs(soft - wanted).max() < 1e-6


# Single rules that neither the examples nor the genuine data reach.


@pytest.mark.parametrize(
    ("statements", "labels"),
    [
        (["Sinus rhythm", "also confirmed by Dr. X", "Left bundle branch block"], "SR"),
        (["Unconfirmed by anyone"], ""),
        (["Sinus rhythm", "No significant change when", "compared to the previous ECG", "LBBB"], "SR"),
        (["Atrial fibrillation", "Tachycardia"], "Tachy AF AccPath"),
        (["PVC's"], "PVC"),
        (["AT 2:1 block"], "Tachy AVB"),
        (["At 2:1 block"], "AVB"),
        (["Atrial-sensed ventricular-paced rhythm"], "Pacer"),
        (["Baseline wander in lead(s) V1,V2", "Artifact in lead(s) aVR"], "PoorQ"),
        (["Partial missing lead(s): V2"], "PoorQ"),
        (["Partial inferior infarction"], "MI"),
        (["2nd degree (Mobitz I) SA block"], ""),
        (["failure to capture"], "Pacer"),
        (["CHB"], "Brady AVB"),
        (["IRBB"], "RBBB"),
        (["Multiple premature complexes, vent & supraven"], "PVC"),
        # A pattern must not steal the last word of the statement before.
        (["Sinus rhythm", "Indeterminate axis"], "SR"),
        (["Multiple premature complexes, vent & supraven", "Ectopic atrial rhythm"], "PVC"),
        (["Failure to sense and/or capture"], "Pacer"),
        ([], ""),
        (["", "  "], ""),
    ],
)
def test_rule(statements, labels):
    assert sorted(label(*statements)) == sorted(SHORT[name] for name in labels.split())


@pytest.mark.parametrize(
    ("statements", "labels"),
    [
        # Fewer steps to the label than a finding of its own would have.
        (["Possible WPW pattern type A", "Sinus rhythm with PVC(s)"], {"AccPath": 0.755}),
        (["Possible Wolff-Parkinson-White pattern type A", "Sinus rhythm with PVC(s)"], {"AccPath": 0.8285}),
        (["Possible pacemaker spikes", "Sinus rhythm with PVC(s)"], {"Pacer": 0.5}),
        (["Possible biventricular pacing", "Sinus rhythm with PVC(s)"], {"Pacer": 0.65}),
        (["Possible high lateral infarct", "Sinus rhythm with PVC(s)"], {"MI": 0.65}),
    ],
)
def test_certainty(statements, labels):
    wanted = {SHORT[name]: value for name, value in {"SR": 1, "PVC": 1, **labels}.items()}
    assert label(*statements) == pytest.approx(wanted)


def test_text_at_the_very_end_becomes_an_ecg():
    assert LABELER.normalizer("Summary: normal") == "summary: normal ecg"
    assert LABELER.normalizer("Normal") == "normal"
    assert [match.text for match in LABELER.read(["Sinus rhythm", "Normal"])] == ["sinus rhythm normal ecg"]


def test_lists_of_leads_of_one_report_are_pooled():
    assert [hit.text for hit in hits_of(["Missing lead(s): V1", "Sinus rhythm", "Missing lead(s): V2"])] == [
        *("missing lead v1", "missing lead v2", "sinus rhythm", "missing lead v1", "missing lead v2")
    ]


@given(*[st.lists(st.sampled_from(["V1", "V2", "aVR", "III"]), min_size=1, max_size=5)] * 2)
def test_repeated_leads_of_pooled_lists_count_as_often_as_labels_can_tell(first, second):
    """Spelled out by hand with every repetition, the lists give the same probabilities."""
    lists = f"Possible missing lead(s): {', '.join(first)} or missing lead(s): {' '.join(second)}, possibly old with"
    spelled = "; ".join(f"missing lead {lead}" for lead in [*first, *second])
    by_hand = f"Possible {spelled} or {spelled}, possibly old with"
    assert LABELER.labels_flat([[lists]]) == LABELER.labels_flat([[by_hand]])
    assert label(lists, labeler=ASSERTED) == label(by_hand, labeler=ASSERTED)


def test_unmatched_words_stand_by_statement():
    report = ["Sinus rhythm foo (bar).", "..", "baz with qux...", "Compared to the previous ECG, quux"]
    for labeler in (LABELER, ASSERTED):
        assert labeler.unmatched(report) == ["foo (bar)", "baz", "qux"]


def test_labels_flat_names_entities_and_descriptors():
    (flat,) = LABELER.labels_flat([["Sinus rhythm with PVC(s)", "Possible inferior infarct - age undetermined"]])
    assert flat["Infarction"] == 0.65 and flat["Inferior infarction"] == 0.5
    assert flat["Infarction - Possible"] == 1 and flat["Premature ventricular contraction - Multiple"] == 1


def test_a_string_is_not_a_report():
    with pytest.raises(TypeError, match="sequence of statements"):
        LABELER.label(["Sinus rhythm"])


# The policy "asserted".


@pytest.mark.parametrize(
    ("statements", "labels"),
    [
        (["Sinus rhythm", "No acute infarct"], {"SR": 1}),
        (["Sinus rhythm without PVCs"], {"SR": 1}),
        (["Atrial fibrillation is no longer present", "Sinus rhythm"], {"SR": 1}),
        (["Sinus rhythm has replaced atrial fibrillation"], {"SR": 1}),
        (["No ischemia, infarct or LBBB", "RBBB"], {"RBBB": 1}),
        (["No ischemia", "RBBB or LBBB"], {"RBBB": 0.7, "LBBB": 0.7}),
        (["No infarct or LBBB", "RBBB"], {"RBBB": 1}),
        (["Infarction cannot be excluded"], {"MI": 1}),
        (["Possible inferior infarct - age undetermined"], {"MI": 0.65}),
        (["Poor R wave progression - probable normal variant", "Sinus rhythm with PVC(s)"], {"SR": 1, "PVC": 1}),
        (["Atrial fibrillation", "Tachycardia"], {"AF": 1, "Tachy": 1, "AccPath": 1}),
        (["Sinus tachycardia", "Left bundle branch block"], {"SR": 1, "Tachy": 1, "SVTab": 1, "LBBB": 1}),
        (["Sinus rhythm", "Compared to the previous ECG", "Atrial fibrillation"], {"SR": 1}),
    ],
)
def test_asserted(statements, labels):
    assert label(*statements, labeler=ASSERTED) == pytest.approx({SHORT[k]: v for k, v in labels.items()})


# n: negation, d: another descriptor of the next finding, f: finding, o: "or", s: a slash, x: another connective.
HITS = {
    "n": Pattern("no", "before", right=(ABSENCE,)),
    "d": Pattern("acute", "before", right=("Acute",)),
    "f": Pattern("infarct", "entity", entities=(("Infarction", frozenset()),)),
    "o": Pattern("or", "connective"),
    "s": SLASH,
    "x": Pattern("with", "connective"),
}


@settings(max_examples=500)
@given(st.text("ndfosx", max_size=12))
def test_negations_cover_lists_that_end_in_or(drawn):
    """A regular expression, slow on long reports, says the same; a slash behind a finding is an "or"."""
    letters = re.sub("(?<=f)s", "o", drawn).replace("s", "")
    left = re.sub("n[nd]*f(?:(?:[nd]*f)*o[nd]*f)*", lambda match: "-" * len(match[0]), letters)
    # Any other finding is kept, unless a negation is attached to it from further away.
    kept = [n for n, letter in enumerate(left) if letter == "f" and "n" not in letters[:n].rpartition("f")[2]]
    assert len(without_negated([HITS[letter] for letter in drawn])) == len(kept)


# Properties of any report.

PHRASES = [
    *(example["report"] for example in EXAMPLES),
    *(pattern.text for pattern in LABELER.knowledge.patterns),
    *(phrase for table in ("phrases", "words", "after_words", "joined") for phrase in TABLES[table]),
    *(f"{carrier['before']} V1, V2 {carrier['after']}" for carrier in TABLES["lead_lists"]),
    *TABLES["cut_off"],
    *random.Random(0).sample([phrase for family in TEMPLATES["passes"] for phrase in expand(family)], 400),
    *("?", "-?", "age", "/", "Q", "-", "waves", "***", "---", "&", ",", "bundle", "branch", "V2", "normal", "but", "x"),
]


@st.composite
def reports(draw, phrases=tuple(PHRASES)):
    """Draw a report of phrases the labeler knows, cut into statements also within a phrase."""
    text = "\n".join(draw(st.lists(st.sampled_from(phrases), max_size=6)))
    spaces = [number for number, letter in enumerate(text) if letter == " "]
    cuts = set(draw(st.lists(st.sampled_from(spaces), max_size=5))) if spaces else set()
    return "".join("\n" if number in cuts else letter for number, letter in enumerate(text)).split("\n")


@settings(max_examples=200, deadline=None)
@given(reports())
def test_the_index_of_phrases_hides_none(report):
    """Looking for every phrase in every text gives the same."""

    def look_for_each(index, text):
        return [number for number, phrase in enumerate(index.phrases) if phrase in text]

    text = " ".join(report)
    plain = mock.patch.object(PhraseIndex, "found_in", look_for_each)
    for labeler in (LABELER, ASSERTED):
        normalised = labeler.normalizer(text)
        match = labeler.matcher.match(normalised)
        with plain:
            assert labeler.normalizer(text) == normalised
            assert labeler.matcher.match(normalised) == match


@settings(max_examples=60, deadline=None)
@given(st.lists(reports(), min_size=1, max_size=6), st.randoms())
def test_labels_do_not_depend_on_order_or_batch(batch, shuffler):
    soft = LABELER.label(batch).soft
    order = list(range(len(batch)))
    shuffler.shuffle(order)
    fresh = Labeler(LABELER.knowledge, LABELER.normalizer)
    assert np.array_equal(fresh.label([batch[number] for number in order]).soft, soft[order])
    assert np.array_equal(np.concatenate([LABELER.label([report]).soft for report in batch]), soft)


@settings(max_examples=200, deadline=None)
@given(reports(), st.data())
def test_an_unknown_word_between_statements_changes_nothing(report, data):
    statements = [part for part in report if part.strip()]
    alone = [hit for statement in statements for hit in hits_of([statement])]
    if not statements or hits_of(statements) != alone:  # cut off, or a rule joins neighbours: the word would part them
        return
    position = data.draw(st.integers(0, len(statements) - 1))
    longer = [*statements[:position], "zyxxyz", *statements[position:]]
    if position == 0 and statements[0].startswith("?"):  # "?" means "possible" only where a report starts with it
        return
    assert named(LABELER.label([longer]).soft[0]) == named(LABELER.label([statements]).soft[0])


@settings(max_examples=100, deadline=None)
@given(reports())
def test_ancestors_come_with_every_entity(report):
    entities = LABELER.knowledge.entities
    rows = LABELER.inference.report_rows(LABELER.text_entities(report))
    best = {}
    for row in rows:
        best[row.entity] = max(row.probability, best.get(row.entity, 0))
    for name, probability in best.items():
        for parent in entities[name].parents:
            assert best[parent] >= probability + 0.3 * (1 - probability) - 1e-12, (name, parent)
    soft = named(LABELER.label([report]).soft[0])
    assert soft == pytest.approx({name: p for name, p in best.items() if name in LABELS})


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=40), max_size=5))
def test_any_text_is_labelled(report):
    hard, soft = LABELER.label([report])
    assert hard.shape == soft.shape == (1, 17) and hard.dtype == soft.dtype == np.float32
    assert ((soft >= 0) & (soft <= 1)).all()


def test_explanation_shows_text_hits_entities_and_chains():
    text = explain(LABELER, ["Sinus tachycardia", "LBBB", "nonsense"])
    assert "sinus tachycardia left bundle branch block nonsense" in text
    assert "Sinus tachycardia > Tachycardia" in text
    assert "Bundle branch block and Tachycardia without Ventricular tachycardia" in text
    assert "words no pattern took: nonsense" in text
    assert "none of the 17" in explain(LABELER, ["nonsense"])

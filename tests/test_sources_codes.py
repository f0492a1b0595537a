"""The code tables of the sources: what each code says, against what a cardiologist would say, and the public tables."""

import csv
from pathlib import Path

import numpy as np
import pytest
from ecg_fm_labeler import Labeler
from ecg_sources import cinc2017, ludb, physionet2021, ptbxl
from ecg_sources.codes import CodeTable
from ecg_sources.physionet2021 import DATABASES, database_of
from hypothesis import given, settings
from hypothesis import strategies as st

from ecg_finetune.files import UserError
from ecg_finetune.label_set import LABELS

NAMES = "PoorQ SR PVC Tachy VT SVTab AF AFL Brady Acc AVB AVB1 Bifasc RBBB LBBB MI Pacer"
SHORT = dict(zip(NAMES.split(" "), LABELS, strict=True))
INFARCTIONS = "IMI ASMI ILMI AMI ALMI LMI IPLMI IPMI PMI INJAS INJAL INJIN INJLA INJIL"
LABELER = Labeler.from_config()
TABLES = {
    m.__name__: CodeTable(Path(m.__file__).with_suffix(".csv"), LABELER) for m in (cinc2017, ludb, physionet2021, ptbxl)
}
CINC2017, LUDB, SNOMED, SCP = TABLES.values()

# Of every code the labels it states; codes that are not here state none. Written from what the codes mean, and from the
# ontology that MIMIC-IV-ECG's labels have: atrial fibrillation and flutter are tachycardias and reentries there.
SCP_SAYS = {
    "SR": "SR", "SARRH": "SR", "STACH": "SR Tachy", "SBRAD": "SR Brady", "AFIB": "AF Tachy Acc",
    "AFLT": "AFL Tachy Acc", "SVTAC": "Tachy", "PSVT": "Tachy",
    "PACE": "Pacer", "PVC": "PVC", "WPW": "Acc", "1AVB": "AVB AVB1", "2AVB": "AVB",
    "3AVB": "AVB Brady", "IRBBB": "RBBB", "CRBBB": "RBBB", "ILBBB": "LBBB", "CLBBB": "LBBB",
    **dict.fromkeys(INFARCTIONS.split(" "), "MI"),
}  # fmt: skip
SNOMED_SAYS = {
    # Rhythms.
    "426783006": "SR", "427393009": "SR", "426177001": "SR Brady", "427084000": "SR Tachy",
    **dict.fromkeys(["164889003", "426749004", "282825002", "314208002"], "AF Tachy Acc"),
    "164890007": "AFL Tachy Acc", "195080001": "AF AFL Tachy Acc", "426627000": "Brady",
    **dict.fromkeys(["426761007", "67198005", "713422000", "251166008", "233896004", "426648003"], "Tachy"),
    "233897008": "Tachy Acc", **dict.fromkeys(["164895002", "425856008", "111288001"], "Tachy VT"),
    **dict.fromkeys(["49260003", "81898007"], "Brady"),
    # Ectopic beats.
    **dict.fromkeys(["427172004", "17338001", "164884008", "11157007", "251180001", "251182009"], "PVC"),
    # Conduction.
    "270492004": "AVB AVB1", "27885002": "AVB Brady",
    **dict.fromkeys(["195042002", "426183003", "54016002", "233917008", "204384007"], "AVB"),
    **dict.fromkeys(["59118001", "713427006", "713426002"], "RBBB"),
    **dict.fromkeys(["164909002", "733534002", "251120003"], "LBBB"),
    **dict.fromkeys(["74390002", "195060002"], "Acc"),
    # Infarction, pacing, quality.
    **dict.fromkeys(["164865005", "57054005", "54329005", "164867002"], "MI"),
    **dict.fromkeys(["10370003", "251268003", "251266004"], "Pacer"), "251139008": "PoorQ",
}  # fmt: skip
LUDB_SAYS = {
    "Sinus rhythm": "SR", "Irregular sinus rhythm": "SR", "Sinus arrhythmia": "SR", "Sinus bradycardia": "SR Brady",
    "Sinus tachycardia": "SR Tachy", "Atrial fibrillation": "AF Tachy Acc", "Atrial flutter, typical": "AFL Tachy Acc",
    "I degree av block": "AVB AVB1", "Iii degree av-block": "AVB Brady", "III degree AV-block": "AVB Brady",
    "Incomplete right bundle branch block": "RBBB", "Complete right bundle branch block": "RBBB",
    "Incomplete left bundle branch block": "LBBB", "Complete left bundle branch block": "LBBB",
    **dict.fromkeys(["Ventricular extrasystole, type: single pvc", "Ventricular extrasystole, morphology: polymorphic",
                     "Ventricular extrasystole, localisation: lv, undefined"], "PVC"),
    **dict.fromkeys(["Pacemaker presence, undefined", "UNIpolar atrial pacing", "Unipolar ventricular pacing",
                     "Bipolar ventricular pacing", "Biventricular pacing", "P-synchrony"], "Pacer"),
    **dict.fromkeys(["STEMI: anterior wall", "Stemi: septal", "Scar formation: apical"], "MI"),
}  # fmt: skip


def named(short: str) -> frozenset[str]:
    return frozenset(SHORT[word] for word in short.split())


def cells(row: np.ndarray) -> dict[str, str]:
    """Return short name to "1", "0" or "" of every label."""
    return {word: "" if np.isnan(value) else "1" if value > 0 else "0" for word, value in zip(SHORT, row)}


@pytest.mark.parametrize("table, says", [(SCP, SCP_SAYS), (SNOMED, SNOMED_SAYS)], ids=["SCP", "SNOMED"])
def test_every_code_states_what_it_means(table, says):
    assert says.keys() <= table.codes.keys()
    for code, row in table.codes.items():
        assert row.implied == named(says.get(code, "")), code


def test_every_phrase_of_ludb_states_what_it_means(test_data):
    for phrase, short in LUDB_SAYS.items():
        assert LUDB.codes[ludb.code_of(phrase, LUDB)].implied == named(short), phrase
    with (test_data / "ludb/ludb.csv").open(encoding="utf-8", newline="") as file:
        texts = [text for row in csv.DictReader(file) for key, text in row.items() if key not in ("ID", "Sex", "Age")]
    phrases = {phrase.strip() for text in texts for phrase in text.split("\n")} - {""}
    assert len(phrases) > 60 and all(ludb.code_of(phrase, LUDB) for phrase in phrases)
    labelled = {ludb.code_of(phrase, LUDB) for phrase in LUDB_SAYS}
    others = {ludb.code_of(phrase, LUDB) for phrase in phrases} - labelled
    assert not any(LUDB.codes[code].implied for code in others)


def test_tables_hold_the_public_code_lists(test_data):
    with (test_data / "ptbxl/scp_statements.csv").open(encoding="utf-8", newline="") as file:
        public = {row[""]: row for row in csv.DictReader(file)}
    assert SCP.codes.keys() == public.keys() and len(public) == 71
    for code, row in public.items():
        kinds = {kind for kind in ("diagnostic", "form", "rhythm") if row[kind]}
        assert SCP.codes[code].kind in kinds and (SCP.codes[code].kind != "diagnostic" or len(kinds) == 1)
        assert (SHORT["MI"] in SCP.codes[code].implied) == (row["diagnostic_class"] == "MI")
    for counts in challenge_counts(test_data):
        databases = {name for name in DATABASES if int(counts[name])}
        assert SNOMED.codes[counts["SNOMEDCTCode"]].databases == databases


def challenge_counts(test_data) -> list[dict[str, str]]:
    counts = []
    for name in ("scored", "unscored"):
        with (test_data / f"codes/physionet2021_dx_mapping_{name}.csv").open(encoding="utf-8", newline="") as file:
            counts += csv.DictReader(file)
    assert len(counts) == 133
    return counts


def test_what_a_source_knows_is_what_its_codes_cover(test_data):
    assert SCP.told_by(SCP.codes) == frozenset(LABELS) - named("PoorQ VT SVTab")
    counts = challenge_counts(test_data)
    for database in DATABASES:
        used = [row["SNOMEDCTCode"] for row in counts if int(row[database])]
        told = set().union(*(SNOMED_SAYS.get(code, "").split() for code in used))
        fascicular = {"445118002", "445211001"} & set(used)
        bundles = told & {"RBBB", "LBBB"} or "6374002" in used
        supraventricular = {"426761007", "67198005", "713422000", "164890007", "251166008", "233897008"} & set(used)
        told |= {"Bifasc"} if "RBBB" in told and fascicular else set()
        told |= {"SVTab"} if bundles and supraventricular and {"Tachy", "VT"} <= told else set()
        assert SNOMED.told_by(used) == named(" ".join(told - {"PoorQ"})), database
    assert SNOMED.told_by([]) == frozenset()


@pytest.mark.parametrize(
    "path, database",
    [
        ("training/cpsc_2018/g1/A0001", "CPSC"),
        ("cpsc_2018_extra/g4/Q3581", "CPSC_Extra"),
        ("st_petersburg_incart/g1/I0074", "StPetersburg"),
        ("ptb/g1/S0549", "PTB"),
        ("ptb-xl/g22/HR21837", "PTB_XL"),
        ("georgia/g11/E10344", "Georgia"),
        ("chapman_shaoxing/g1/JS00001", "Chapman_Shaoxing"),
        ("JS10646", "Chapman_Shaoxing"),
        ("JS10647", "Ningbo"),
        ("ningbo/g35/JS45551", "Ningbo"),
        ("Georgia/g1/renamed", "Georgia"),
        ("georgia/HR00001", "PTB_XL"),
        ("elsewhere/40000001", ""),
    ],
)
def test_database_of_a_recording(path, database):
    assert database_of(path) == database


# Single recordings, all labels.

UNKNOWN = dict.fromkeys(SHORT, "")


@pytest.mark.parametrize(
    "code, says",
    [
        ("N", {"SR": "1", **dict.fromkeys(["PoorQ", "Tachy", "VT", "SVTab", "AF", "AFL", "Brady"], "0")}),
        ("A", {"AF": "1", "Tachy": "1", "Acc": "1", "SR": "0", "PoorQ": "0"}),
        ("O", {"AF": "0", "PoorQ": "0"}),
        ("~", {"PoorQ": "1"}),
        ("X", {}),
    ],
)
def test_classes_of_cinc_2017(code, says):
    assert cells(CINC2017.row([code], frozenset())) == UNKNOWN | says


def scp(codes: str, doubtful: str = "") -> dict[str, str]:
    return cells(SCP.row(codes.split(), SCP.told_by(SCP.codes), doubtful.split()))


def test_ptbxl_recordings():
    healthy = scp("NORM SR")
    assert healthy == dict.fromkeys(SHORT, "0") | {"SR": "1", "PoorQ": "", "VT": "", "SVTab": ""}
    # Two codes make a bifascicular block; tachycardia with bundle branch block says nothing where VT has no code.
    assert scp("SR CRBBB LAFB") == healthy | {"RBBB": "1", "Bifasc": "1"}
    assert scp("AFIB CLBBB") == healthy | {"SR": "0", "AF": "1", "Tachy": "1", "Acc": "1", "LBBB": "1"}
    # A rhythm that is not stated may be a sinus rhythm.
    assert scp("NORM") == healthy | {"SR": ""}
    # Ectopic beats of unknown origin may be ventricular; a code that says so decides.
    assert scp("SR BIGU")["PVC"] == "" and scp("SR PRC(S)")["PVC"] == "" and scp("SR BIGU PVC")["PVC"] == "1"
    # Of atrial fibrillation and the like PTB-XL has codes: an arrhythmia without one is another.
    assert scp("SVARR") == healthy | {"SR": ""}
    # A diagnosis without a likelihood may be there or not, and so may be what follows from it and another.
    assert scp("SR", "IMI")["MI"] == "" and scp("SR AMI", "IMI")["MI"] == "1"
    assert scp("SR LAFB", "CRBBB") == healthy | {"RBBB": "", "Bifasc": ""}


def snomed(codes: str, database: str) -> dict[str, str]:
    known = SNOMED.told_by([code for code, row in SNOMED.codes.items() if database in row.databases])
    return cells(SNOMED.row(codes.split(), known))


def test_challenge_recordings():
    # A bundle branch block of unknown side is neither, a block of unknown degree may be of the first.
    row = snomed("6374002 426783006", "Ningbo")
    assert (row["RBBB"], row["LBBB"], row["SR"], row["AVB"]) == ("", "", "1", "0")
    assert snomed("6374002 164909002 426783006", "Ningbo")["LBBB"] == "1"
    assert snomed("233917008", "Georgia")["AVB1"] == "" and snomed("195042002", "Georgia")["AVB1"] == "0"
    assert snomed("698247007 164865005", "PTB")["AF"] == "" and snomed("426783006", "PTB")["AF"] == "0"
    # Ningbo has no code of atrial fibrillation and Georgia none of ventricular tachycardia; what is stated is known.
    assert snomed("426783006", "Ningbo")["AF"] == "" and snomed("164889003", "Ningbo")["AF"] == "1"
    assert snomed("426783006", "Georgia")["VT"] == "" and snomed("164895002", "Georgia")["VT"] == "1"
    # The compound of tachycardia and bundle branch block, unless it is a ventricular one.
    assert snomed("427084000 164909002", "Ningbo")["SVTab"] == "1" and snomed("427084000", "Ningbo")["SVTab"] == "0"
    assert snomed("427084000 164909002 164895002", "Ningbo")["SVTab"] == "0"
    assert snomed("427084000 164909002", "Georgia")["SVTab"] == ""
    # Reversed leads are stated where they are seen; nobody says that a signal is good.
    assert snomed("251139008", "Georgia")["PoorQ"] == "1" and snomed("426783006", "Georgia")["PoorQ"] == ""
    # Sinus rhythm goes without saying.
    assert snomed("164873001", "Georgia")["SR"] == "" and snomed("164889003", "Georgia")["SR"] == "0"


@settings(max_examples=200, deadline=None)
@given(st.sets(st.sampled_from(sorted(SNOMED.codes)), max_size=6), st.sampled_from(sorted(DATABASES)))
def test_more_codes_take_no_positive_away_but_by_an_exclusion(codes, database):
    known = SNOMED.told_by([code for code, row in SNOMED.codes.items() if database in row.databases])
    row = dict(zip(LABELS, SNOMED.row(codes, known)))
    stated = set().union(*(SNOMED.codes[code].implied for code in codes))
    assert all(row[label] == 1 for label in stated)
    assert all(np.isnan(row[label]) for label in set(LABELS) - stated - known)
    for code in codes:
        fewer = dict(zip(LABELS, SNOMED.row(codes - {code}, known)))
        lost = {label for label in LABELS if fewer[label] > 0 and not row[label] > 0}
        assert lost <= named("SVTab") and (not lost or SHORT["VT"] in SNOMED.codes[code].implied)


@pytest.mark.parametrize(
    "row, message",
    [
        ("X,No such finding,", "line 2: the labeler has no entity or descriptor 'No such finding'"),
        ("X,Infarction [Nowhere],", "line 2: the labeler has no entity or descriptor 'Nowhere'"),
        ("X,Infarction [Old,", "line 2: 'Infarction [Old' is no finding"),
        ("X,,No such label", "line 2: 'No such label' is none of the labels"),
    ],
)
def test_wrong_code_table_is_refused(tmp_path, row, message):
    path = tmp_path / "codes.csv"
    path.write_text(f"code,findings,open\n{row}\n")
    with pytest.raises(UserError) as error:
        CodeTable(path, LABELER)
    assert message in str(error.value)

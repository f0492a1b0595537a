"""The labeler's language: wordings of dictation and of devices, and what looks like them but is none."""

import pytest
from ecg_fm_labeler import Labeler
from ecg_fm_labeler.configuration import PROJECT_CONFIG
from ecg_fm_labeler.normalization import TABLES_FILE, read_tables

from ecg_finetune.label_set import LABELS

NAMES = "PoorQ SR PVC Tachy VT SVTab AF AFL Brady AccPath AVB AVB1 Bifasc RBBB LBBB MI Pacer"
SHORT = dict(zip(LABELS, NAMES.split(" "), strict=True))
LABELER = Labeler.from_config()
ASSERTED = Labeler.from_config(policy="asserted")
TABLES = read_tables(PROJECT_CONFIG, TABLES_FILE)
FLUTTER = "Tachy AFL AccPath"
BOTH = "Tachy AF AFL AccPath"


def label(statement: str, labeler: Labeler = LABELER) -> str:
    (row,) = labeler.label([[statement]]).hard
    return " ".join(SHORT[name] for name, value in zip(LABELS, row) if value)


def check(wanted: dict[str, str], labeler: Labeler = LABELER) -> None:
    assert {text: label(text, labeler) for text in wanted} == wanted


def test_an_abbreviation_is_read_as_the_words_it_stands_for():
    """No rule is undone or overtaken by an earlier one ("tach" before "v tach")."""
    words = {
        key: value
        for table in ("before_stems", "words", "after_words", "joined")
        for key, value in TABLES[table].items()
    }
    read = {text: " ".join(LABELER.normalizer(f"x {text} y").split()) for text in {*words, *words.values()}}
    assert {key: read[key] for key, value in words.items() if read[key] != read[value]} == {}


@pytest.mark.parametrize(
    ("texts", "labels"),
    [
        ("AF/AFL, afib/flut, AFib / Flutter, A-fib/flutter", BOTH),
        ("a.fib/a.flutter, A. fib / A. flutter, atrial fib/flut", BOTH),
        ("AFL/AF, flut/afib, flutter/fib, Fib-flutter, A-flutter/fib, atrial flut/fibr", BOTH),
        ("AF/RVR, afib w/RVR, a. fib.", "Tachy AF AccPath"),
        ("PAC/PVC, PVC / PAC, PVCs/PACs, PAC's/PVC's, PVC(s)/PAC(s), w/PVCs, freq VPDs, occ PVBs", "PVC"),
        ("RBBB/LAFB, LAFB / RBBB, RBBB/LAHB, LPFB/RBBB, RBBB+LAFB", "Bifasc RBBB"),
        ("VT/VF, V tach/V fib, v.tach, V-tach, WCT/VT", "Tachy VT"),
        ("SVT, PSVT, AVNRT, AVRT, NCT, WCT", "Tachy"),
        ("S tach, S. tach, s.tach, sinus tach", "SR Tachy"),
        ("S brady, S. brady, sinus brady", "SR Brady"),
        ("Sinus tach/brady", "SR Tachy Brady"),
        ("IVR, junc brady", "Brady"),
        ("1st AVB, 1° AVB, 1º AV block, 1˚AVB, 1AVB, IAVB, 1st deg AVB", "AVB AVB1"),
        ("2° AVB, 2nd AV block, 3° AVB", "AVB"),
        ("CAVB, compl AVB, CHB", "Brady AVB"),
        ("R BBB, R-BBB, Rt BBB, i-RBBB, incomp RBBB, CRBBB", "RBBB"),
        ("L BBB, L-BBB, Lt bundle branch block, i-LBBB, CLBBB", "LBBB"),
        ("IMI, old IWMI, ASMI, cons AWMI, s/p MI, r/o MI, poss inf MI, cons w/ old ant MI, d/t inf/lat MI", "MI"),
        ("s/p PPM, DDD PPM, PPM rhythm, w/ PPM, PPM spikes, AV seq pacing", "Pacer"),
        ("sinus arrhyth, sinus arr", "SR"),
        ("NSTT changes, NSIVCD, LVH, abn ECG, nl ECG, w/out ischemia", ""),
    ],
)
def test_dictation(texts, labels):
    check(dict.fromkeys(texts.split(", "), labels))


def test_ratios_are_of_conduction():
    check(
        {
            "Second-degree (2:1) sino-atrial block": "AVB",
            "Sinus rhythm with 2nd degree (2:1) SA block": "SR AVB",
            "2:1 conduction": "AVB",
            "3:1 AV block": "AVB",
            "4:1 AV conduction": "AVB",
            "AV conduction ratio of 3:1": "AVB",
            "Atrial flutter with 2:1 conduction": f"{FLUTTER} AVB",
            "AFL 4 to 1": f"{FLUTTER} AVB",
            "A-flutter, 2:1/3:1 block": f"{FLUTTER} AVB",
            # Not these.
            "SA block": "",
            "Sinus rhythm with 2nd degree (Mobitz I) SA block": "SR",
            "R/S ratio 2:1 in V1": "",
            "R/S ratio of 3:1": "",
            "12:1": "",
            "2:15 pm": "",
            "2:10": "",
            "Conduction": "",
        }
    )


@pytest.mark.parametrize(
    "text",
    [
        "Analysis error",
        "*** ANALYSIS ERROR ***",
        "ECG analysis failed",
        "Analysis could not be performed",
        "Unable to analyse",
        "Cannot analyze",
        "ECG could not be analysed",
        "No analysis possible",
        "UNINTERPRETABLE ECG",
        "Unable to interpret tracing",
        "Artifact precludes interpretation",
        "Analysis suspended due to artifact",
        "Insufficient data for interpretation",
        "ECG unsuitable for analysis",
        "Poor signal quality",
        "Technically limited tracing",
        "Leads off",
        "Electrode disconnected",
        "Suspect electrode reversal",
    ],
)
def test_devices_that_cannot_read_a_recording(text):
    check({text: "PoorQ"})


def test_messages_of_devices_that_say_nothing_about_the_recording():
    check(
        {
            "Analysis suspended": "",  # like "no further analysis"
            "Pacemaker rhythm - analysis suspended": "Pacer",
            "Pacer detection suspended due to external noise - review advised": "Pacer",
            "--- Possible measurement error ---": "",
            "Possible sequence error": "",
            "Interpretation error": "",
            "Error": "",
            "Artifact": "",
            "Lead(s) unsuitable for analysis:": "",
            "ST segment uninterpretable due to LBBB": "LBBB",
            "Cannot interpret ST segments due to pacing": "Pacer",
            "Serial comparison not possible": "",
            "Lead offset": "",
        }
    )


def test_what_looks_like_an_abbreviation():
    check(
        {
            "Heart rate 72 ppm": "",
            "QRS axis 31°": "",
            "ST changes 2° to LVH": "",
            "Patient's tach": "Tachy",
            "Bundle branch block": "AVB",  # of neither side: the labeler's bare "block"
            "Ventricular fibrillation/flutter": FLUTTER,  # its bare "flutter"
            "V fib / flutter": FLUTTER,
            "Fibrillation or flutter": FLUTTER,
            "Intraatrial conduction delay": "",
        }
    )
    assert LABELER.normalizer("Intraatrial conduction delay") == "intraatrial delay"


def test_negation_covers_both_sides_of_a_slash():
    texts = [
        "No afib/flut",
        "No AF/AFL",
        "No atrial fibrillation or flutter",
        "No PAC/PVC",
        "No inferior/lateral MI/LBBB",
    ]
    texts += ["No 2:1 block", "No analysis error"]
    check(dict.fromkeys(texts, ""), ASSERTED)
    check({"RBBB/LAFB, no PVC/PAC": "Bifasc RBBB", "No AF/AFL, RBBB": "RBBB", "Inferior/lateral MI": "MI"}, ASSERTED)
    # ECG-FM's labeler knows no negation, and a slash attaches no descriptors there.
    check({"No afib/flut": BOTH, "No PAC/PVC": "PVC"})
    (soft,) = LABELER.label([["Possible PAC/PVC"]]).soft
    assert soft.max() == 1

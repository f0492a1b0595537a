"""The machine's report of an ECG: statements in the wording of MIMIC-IV-ECG."""

import numpy as np

from ecg_simulation.conditions import Condition

INFARCT_STATEMENTS = {
    "lateral": (
        "Lateral infarct - age undetermined",
        "Possible lateral infarct - age undetermined",
        "Old lateral infarct",
    ),
    "anterolateral": ("Anterolateral infarct - age undetermined",),
    "inferior": (
        "Inferior infarct - age undetermined",
        "Possible inferior infarct - age undetermined",
        "Inferior infarct, old",
    ),
    "anteroseptal": (
        "Anteroseptal infarct - age undetermined",
        "Possible septal infarct - age undetermined",
        "Anteroseptal infarct, old",
    ),
}
ACUTE_STATEMENTS = {
    "lateral": ("Lateral infarct, acute", "Lateral ST elevation, CONSIDER ACUTE INFARCT"),
    "anterolateral": ("Anterolateral infarct, acute", "*** CONSIDER ACUTE ST ELEVATION MI ***"),
    "inferior": ("Inferior ST elevation, CONSIDER ACUTE INFARCT", "Inferior infarct - probably acute"),
    "anteroseptal": ("Anteroseptal infarct, acute", "Septal ST elevation, CONSIDER ACUTE INFARCT"),
}
CONDUCTION_STATEMENTS = {
    "right bundle branch block": ("Right bundle branch block",),
    "right bundle branch block, left anterior fascicular block": (
        "RBBB with left anterior fascicular block",
        "RBBB and LAFB",
    ),
    "right bundle branch block, left posterior fascicular block": (
        "RBBB with left posterior fascicular block",
        "RBBB and LPFB",
    ),
    "left bundle branch block": ("Left bundle branch block",),
    "left anterior fascicular block": ("Left axis deviation - anterior fascicular block",),
}
QUALITY_STATEMENTS = {
    "noisy": ("--- Warning: Data quality may affect interpretation ---",),
    "arm leads reversed": ("--- Suspect arm lead reversal",),
    "V2 faulty": ("Possible faulty V2 - omitted from analysis",),
}
VENTRICULAR_ECTOPY = ("PVC", "frequent PVCs", "bigeminal PVCs")
EARLY_BEATS = {
    "PVC": "PVC(s)",
    "frequent PVCs": "frequent PVCs",
    "bigeminal PVCs": "bigeminal PVCs",
    "PAC": "PAC(s)",
}
SLOW, FAST = 58, 100  # beats per minute
LONG_PR = 0.2  # s
PREEXCITATION = ("Ventricular preexcitation(WPW)", "Wolff-Parkinson-White pattern type B")


def report_statements(condition: Condition, rng: np.random.Generator) -> list[str]:
    """Return the statements of an ECG, the warning about its quality first and the summary last."""

    def one_of(statements: tuple[str, ...]) -> str:
        return statements[int(rng.integers(len(statements)))]

    conducted = condition.rhythm not in ("ventricular tachycardia", "3rd degree AV block", "paced")
    statements = _rhythm_statements(condition)
    if condition.preexcited:
        statements.append(one_of(PREEXCITATION))
    if conducted and condition.conduction != "normal":
        statements.append(one_of(CONDUCTION_STATEMENTS[condition.conduction]))
    if conducted and condition.infarct != "none" and condition.conduction != "left bundle branch block":
        statements.append(one_of((ACUTE_STATEMENTS if condition.acute else INFARCT_STATEMENTS)[condition.infarct]))
    normal = len(statements) == 1 and statements[0] == "Sinus rhythm" and condition.quality == "good"
    if condition.quality != "good":
        statements.insert(0, one_of(QUALITY_STATEMENTS[condition.quality]))
    if normal:
        return [*statements, "Normal ECG"]
    summary = "Borderline ECG" if len(statements) == 1 and statements[0].startswith("Sinus") else "Abnormal ECG"
    return [*statements, summary]


def _rhythm_statements(condition: Condition) -> list[str]:
    """Return what is said of rhythm, rate, early beats and AV conduction."""
    rhythm = condition.rhythm
    if rhythm == "sinus":
        return _sinus_statements(condition)
    if rhythm == "atrial fibrillation":
        response = " with rapid ventricular response" if condition.rate > FAST else ""
        response = " with slow ventricular response" if condition.rate < SLOW else response
        early = {"PVC": " with PVC(s)", "frequent PVCs": " with PVCs" if response else " with frequent PVCs"}
        return [f"Atrial fibrillation{response}{early.get(condition.ectopy, '')}"]
    if rhythm == "atrial flutter":
        return ["Atrial flutter/fibrillation"]
    if rhythm == "supraventricular tachycardia":
        return ["Supraventricular tachycardia"]
    if rhythm == "ventricular tachycardia":
        return ["WIDE COMPLEX TACHYCARDIA - POSSIBLE VENTRICULAR TACHYCARDIA"]
    if rhythm == "2nd degree AV block":
        if condition.mobitz:
            return ["Sinus rhythm with 2nd degree A-V block, Mobitz II"]
        return ["Sinus bradycardia with 2:1 A-V block" if condition.rate < 50 else "Sinus rhythm with 2:1 A-V block"]
    if rhythm == "3rd degree AV block":
        if condition.atrial_fibrillation:
            return ["Probable atrial fibrillation with slow ventricular response with complete A-V block"]
        return ["Complete AV block with wide QRS complex"]
    if rhythm == "paced":
        return [
            "AFib/flutter and ventricular-paced rhythm"
            if condition.atrial_fibrillation
            else "Pacemaker rhythm - no further analysis"
        ]
    return ["Accelerated junctional rhythm"]


def _sinus_statements(condition: Condition) -> list[str]:
    rhythm = "Sinus rhythm"
    if condition.rate < SLOW:
        rhythm = "Sinus bradycardia"
    elif condition.rate > FAST:
        rhythm = "Sinus tachycardia"
    if condition.sinus_arrhythmia:
        rhythm = "Sinus arrhythmia" if rhythm == "Sinus rhythm" else f"{rhythm} with sinus arrhythmia"
    statements = [rhythm]
    if condition.ectopy == "ventricular run":
        statements.append("- non-sustained ventricular tachycardia")
    elif rhythm == "Sinus bradycardia" and condition.ectopy in VENTRICULAR_ECTOPY:
        statements.append("Ventricular premature complex")
    elif condition.ectopy == "bigeminal PVCs" and rhythm != "Sinus rhythm":
        statements = [f"{rhythm} with frequent PVCs"]
    elif condition.ectopy != "none":
        statements = [f"{rhythm} with {EARLY_BEATS[condition.ectopy]}"]
    if condition.pr <= LONG_PR or condition.preexcited:
        return statements
    borderline = condition.pr < 0.235
    if statements in (["Sinus rhythm"], ["Sinus bradycardia"]):
        return [f"{rhythm} with {'borderline ' if borderline else ''}1st degree A-V block"]
    return [*statements, "Borderline first degree A-V block" if borderline else "First degree A-V block"]

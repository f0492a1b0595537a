"""Patients and what each of their ECGs shows.

Findings are far more frequent than in MIMIC-IV-ECG, so that a thousand records hold enough of each of the 17 labels.
"""

from dataclasses import dataclass, field

import numpy as np

# What a patient tends to: weight, and the share of each rhythm among the patient's ECGs (the rest is sinus rhythm).
TENDENCIES: dict[str, tuple[float, dict[str, float]]] = {
    "sinus rhythm": (0.40, {}),
    "atrial fibrillation": (0.12, {"atrial fibrillation": 0.75}),
    "atrial flutter": (0.11, {"atrial flutter": 0.85}),
    "pacemaker": (0.09, {"paced": 0.92}),
    "pre-excitation": (0.06, {"supraventricular tachycardia": 0.12}),
    "AV block": (0.07, {"2nd degree AV block": 0.42, "3rd degree AV block": 0.48}),
    "ventricular tachycardia": (0.09, {"ventricular tachycardia": 0.65}),
    "supraventricular tachycardia": (0.04, {"supraventricular tachycardia": 0.75}),
    "junctional rhythm": (0.02, {"junctional": 0.7}),
}
CONDUCTION = {
    "normal": 0.66,
    "right bundle branch block": 0.09,
    "right bundle branch block, left anterior fascicular block": 0.09,
    "right bundle branch block, left posterior fascicular block": 0.02,
    "left bundle branch block": 0.10,
    "left anterior fascicular block": 0.04,
}
INFARCTS = {
    "none": 0.76,
    "lateral": 0.07,
    "anterolateral": 0.08,
    "inferior": 0.05,
    "anteroseptal": 0.04,
}
QUALITY = {"good": 0.90, "noisy": 0.065, "arm leads reversed": 0.02, "V2 faulty": 0.015}


@dataclass(frozen=True)
class Patient:
    """The traits that all ECGs of a patient share."""

    subject_id: int
    tendency: str
    conduction: str
    infarct: str
    ectopic: str  # "none", "ventricular" or "atrial": what comes early in some of the ECGs
    pr: float  # s
    sinus_rate: float  # beats per minute at rest
    axis: float  # degrees, of the QRS complex in the frontal plane
    voltage: float  # 1 = average
    ventricular_focus: np.ndarray = field(repr=False)  # direction (left, down, back) of ectopic ventricular beats
    flutter_rate: float = 300.0  # atrial waves per minute


@dataclass(frozen=True)
class Condition:
    """What one ECG shows, besides the rhythm only what is not normal; the signal and the report both follow it."""

    rhythm: str  # "sinus", or one that a tendency brings
    rate: float  # ventricular rate, beats per minute
    pr: float = 0.16  # s
    conduction: str = "normal"
    infarct: str = "none"
    acute: bool = False  # the infarct is fresh: ST elevation
    ectopy: str = "none"  # or "PVC", "frequent PVCs", "bigeminal PVCs", "PAC", "ventricular run"
    sinus_arrhythmia: bool = False
    preexcited: bool = False
    atrial_fibrillation: bool = False  # of a paced or completely blocked rhythm: no P waves, fibrillating atria
    flutter_ratio: int = 4  # flutter waves per beat; 0 = varying
    mobitz: bool = False  # of a 2nd degree block: every third P wave is blocked (Mobitz II), not every second (2:1)
    quality: str = "good"


def choose(rng: np.random.Generator, weights: dict[str, float]) -> str:
    """Draw a key with a probability proportional to its weight."""
    cumulated = np.cumsum(list(weights.values()))
    return list(weights)[int(np.searchsorted(cumulated, rng.random() * cumulated[-1], side="right"))]


def draw_patient(rng: np.random.Generator, subject_id: int) -> Patient:
    """Draw a patient's lasting traits."""
    tendency = choose(rng, {name: weight for name, (weight, _) in TENDENCIES.items()})
    leftward = rng.random() < 0.7  # most ectopic foci here sit in the right ventricle: the vector points left
    focus = np.array(
        [rng.uniform(0.75, 1.0) * (1 if leftward else -1), rng.uniform(-0.7, 0.7), 0.5 if leftward else -0.6]
    )
    preexcitation = tendency == "pre-excitation"
    return Patient(
        subject_id=subject_id,
        tendency=tendency,
        conduction="normal" if preexcitation else choose(rng, CONDUCTION),
        infarct="none" if preexcitation else choose(rng, INFARCTS),
        ectopic=choose(rng, {"none": 0.58, "ventricular": 0.32, "atrial": 0.10}),
        pr=float(
            rng.uniform(0.215, 0.34)
            if rng.random() < 0.20 and not preexcitation
            else np.clip(rng.normal(0.15, 0.015), 0.12, 0.185)
        ),
        sinus_rate=float(choose_rate(rng)),
        axis=float(np.clip(rng.normal(25, 18), -20, 70)),
        voltage=float(np.clip(rng.normal(1, 0.18), 0.6, 1.5)),
        ventricular_focus=focus,
        flutter_rate=float(rng.uniform(260, 320)),
    )


def choose_rate(rng: np.random.Generator) -> float:
    """Draw a resting sinus rate: slow, normal or fast."""
    low, high = {"slow": (40, 56), "normal": (62, 96), "fast": (104, 140)}[
        choose(rng, {"slow": 0.22, "normal": 0.56, "fast": 0.22})
    ]
    return rng.uniform(low, high)


def draw_condition(rng: np.random.Generator, patient: Patient) -> Condition:
    """Draw what one ECG of a patient shows."""
    shares = TENDENCIES[patient.tendency][1]
    rhythm = choose(rng, {**shares, "sinus": 1 - sum(shares.values())})
    own_rate = patient.sinus_rate if rng.random() < 0.75 else choose_rate(rng)
    flutter_ratio = int(rng.choice((2, 3, 4, 0)))
    rate = {
        "sinus": np.clip(own_rate * rng.normal(1, 0.03), 38, 150),
        "atrial fibrillation": rng.uniform(*[(112, 150), (64, 98), (42, 54)][rng.choice(3, p=(0.45, 0.45, 0.1))]),
        "atrial flutter": patient.flutter_rate / (flutter_ratio or 3),
        "supraventricular tachycardia": rng.uniform(155, 205),
        "ventricular tachycardia": rng.uniform(145, 195),
        "2nd degree AV block": rng.uniform(38, 56),
        "3rd degree AV block": rng.uniform(28, 42),
        "paced": rng.uniform(60, 90),
        "junctional": rng.uniform(60, 85),
    }[rhythm]
    ectopy = "none"
    if patient.ectopic == "ventricular" and rng.random() < 0.7 and rhythm in ("sinus", "atrial fibrillation"):
        ectopy = choose(rng, {"PVC": 0.4, "frequent PVCs": 0.4, "bigeminal PVCs": 0.2 if rhythm == "sinus" else 0})
    if patient.ectopic == "atrial" and rng.random() < 0.7 and rhythm == "sinus":
        ectopy = "PAC"
    if patient.tendency == "ventricular tachycardia" and rhythm == "sinus" and rng.random() < 0.6:
        ectopy = "ventricular run"
    return Condition(
        rhythm=rhythm,
        rate=float(rate),
        pr=patient.pr,
        conduction=patient.conduction,
        infarct=patient.infarct,
        acute=bool(rng.random() < 0.3),
        ectopy=ectopy,
        sinus_arrhythmia=bool(rhythm == "sinus" and ectopy == "none" and rng.random() < 0.15),
        preexcited=patient.tendency == "pre-excitation" and rhythm == "sinus",
        atrial_fibrillation=bool(rng.random() < 0.2),
        flutter_ratio=flutter_ratio,
        mobitz=flutter_ratio == 0,
        quality=choose(rng, QUALITY),
    )

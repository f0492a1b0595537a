"""From what an ECG shows to its 12 leads, by way of one dipole in the chest.

The heart is a current dipole whose three components (left, down, back) change over a beat as a sum of bell-shaped
waves. Electrodes see the dipole from their places; the 12 leads are differences of electrode potentials. So Einthoven's
and Goldberger's laws hold by construction, and a change of the axis or a bundle branch block looks different in every
lead, as it does in patients. What points down and back hardly shows in Lead I: that is why an inferior or a septal
infarct is hard to see there.
"""

import numpy as np

from ecg_simulation.conditions import Condition, Patient

FREQUENCY = 500  # Hz
SAMPLES = 5000
LEADS = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")  # MIMIC-IV-ECG's order
ELECTRODES = ("RA", "LA", "LL", "V1", "V2", "V3", "V4", "V5", "V6")
MARGIN = 600  # samples kept on both sides while waves are laid down, so that none has to be clipped

# What leads I, II and V1 to V6 see of a dipole (left, down, back), after Dower's torso measurements.
DOWER = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)


def _electrode_field() -> np.ndarray:
    """Return what each electrode sees of a dipole (9, 3), with the mean of the three limb electrodes as zero."""
    lead_1, lead_2 = DOWER[0], DOWER[1]
    right_arm = -(lead_1 + lead_2) / 3
    return np.vstack([right_arm, right_arm + lead_1, right_arm + lead_2, DOWER[2:]])


def _lead_matrix() -> np.ndarray:
    """Return the 12 leads as differences of the 9 electrode potentials (12, 9), in the order of `LEADS`."""
    right_arm, left_arm, left_leg = np.eye(9)[:3]
    limb = {
        "I": left_arm - right_arm,
        "II": left_leg - right_arm,
        "III": left_leg - left_arm,
        "aVR": right_arm - (left_arm + left_leg) / 2,
        "aVL": left_arm - (right_arm + left_leg) / 2,
        "aVF": left_leg - (right_arm + left_arm) / 2,
    }
    central_terminal = (right_arm + left_arm + left_leg) / 3
    chest = {name: np.eye(9)[3 + k] - central_terminal for k, name in enumerate(ELECTRODES[3:])}
    return np.array([{**limb, **chest}[lead] for lead in LEADS])


ELECTRODE_FIELD = _electrode_field().astype(np.float32)
LEAD_MATRIX = _lead_matrix().astype(np.float32)
# Slow drift: cosines of 0.05 to 0.5 Hz over the 10 s.
DRIFT = np.cos(np.pi * np.outer(np.arange(1, 11), np.arange(SAMPLES) + 0.5) / SAMPLES).astype(np.float32)

# A wave: centre (ms after the start of its template), widths before and after the centre (ms, standard deviations), and
# the dipole at its peak (mV: left, down, back).
Wave = tuple[float, float, float, tuple[float, float, float]]


def simulate(condition: Condition, patient: Patient, rng: np.random.Generator) -> np.ndarray:
    """Return one ECG.

    Returns
    -------
    ndarray (12, 5000)
        float32, mV, leads in the order of `LEADS`, 500 Hz.
    """
    dipole = np.zeros((3, SAMPLES + 2 * MARGIN), dtype=np.float32)
    size = patient.voltage * rng.uniform(0.93, 1.07)  # breathing and electrode places change from day to day
    for kind, times in beat_times(condition, patient, rng).items():
        _lay_down(dipole, beat_template(kind, condition, patient, size), times)
    dipole = dipole[:, MARGIN : MARGIN + SAMPLES]
    dipole += atrial_waves(condition, patient, rng)
    potentials = ELECTRODE_FIELD @ dipole
    potentials += disturbance(condition.quality, rng)
    if condition.quality == "arm leads reversed":
        potentials[[0, 1]] = potentials[[1, 0]]
    return LEAD_MATRIX @ potentials


def _lay_down(dipole: np.ndarray, template: np.ndarray, times: np.ndarray) -> None:
    """Add a template (3, n) to the dipole at each time (s, relative to the first sample)."""
    starts = np.rint(np.asarray(times) * FREQUENCY).astype(int) + MARGIN
    length = template.shape[1]
    for start in starts[(starts >= 0) & (starts + length <= dipole.shape[1])]:
        dipole[:, start : start + length] += template


def draw_waves(waves: list[Wave], length_ms: float) -> np.ndarray:
    """Return the sum of bell-shaped waves, float32 (3, samples)."""
    centre, before, after = (np.array([wave[k] for wave in waves])[:, None] for k in range(3))
    distance = np.arange(0, length_ms, 1000 / FREQUENCY)[None] - centre
    bells = np.exp(-0.5 * (distance / np.where(distance < 0, before, after)) ** 2)
    return (np.array([wave[3] for wave in waves]).T @ bells).astype(np.float32)


# ---------------------------------------------------------------------------------------------------- beats


def beat_template(kind: str, condition: Condition, patient: Patient, size: float) -> np.ndarray:
    """Return the dipole of one kind of event from its onset, float32 (3, samples)."""
    if kind == "P":
        return draw_waves(_p_wave(size), 140)
    if kind == "early P":  # from another place in the atria
        return draw_waves([(45, 16, 16, (0.05, -0.13, -0.05))], 110)
    if kind == "retrograde P":
        return draw_waves([(40, 13, 13, (0.04, -0.16, 0))], 90)
    if kind == "QRS":
        return draw_waves(_qrs(condition, patient, size) + _repolarisation(condition, size), 700)
    if kind == "ventricular beat":
        return draw_waves(_wide_beat(patient.ventricular_focus, 1.5 * size), 600)
    if kind == "escape beat":
        return draw_waves(_wide_beat(np.array([0.75, 0.35, -0.45]), 1.25 * size), 600)
    if kind == "paced beat":
        return draw_waves(_wide_beat(np.array([0.95, -0.75, 0.45]), 1.3 * size), 600)
    return _spike(size)


def _p_wave(size: float) -> list[Wave]:
    return [(38, 16, 16, (0.13 * size, 0.10 * size, -0.05)), (68, 16, 17, (0.15 * size, 0.06 * size, 0.03))]


def _qrs(condition: Condition, patient: Patient, size: float) -> list[Wave]:
    """Return the waves of the conducted QRS complex; its onset is at 0 ms."""
    block = condition.conduction
    if block == "left bundle branch block":
        # No septal q wave; the left ventricle is reached late and slowly: broad, notched, to the left and back.
        return [
            (28, 11, 11, (0.35 * size, 0.10, 0.10)),
            (60, 15, 15, (0.95 * size, 0.20, 0.80 * size)),
            (100, 16, 15, (1.05 * size, -0.10, 0.75 * size)),
        ]
    axis = np.deg2rad(patient.axis)
    septal, base = (-0.16, -0.05, -0.28), (-0.22, -0.12, 0.32)
    if "left anterior" in block:  # first down and right, then up and left
        axis, septal = np.deg2rad(-52), (-0.20, 0.32, -0.22)
    elif "left posterior" in block:  # first up and left, then down and right
        axis, septal = np.deg2rad(122), (0.35, -0.20, -0.22)
    main = (1.35 * size * np.cos(axis), 1.35 * size * np.sin(axis), 0.5 * size)
    waves: list[Wave] = [(14, 5, 5, septal), (40, 9.5, 9, main), (64, 7, 9, base)]
    if "right bundle" in block:  # the right ventricle comes last: slowly, to the right and front
        waves[2] = (98, 17, 21, (-0.72 * size, 0.05, -0.80 * size))
    if condition.preexcited:  # the accessory pathway starts slowly, before the septum: a delta wave, no q wave
        waves[0] = (10, 24, 20, (0.50 * size, 0.10, -0.15))
    return [_delayed(wave, 52 if condition.preexcited else 0) for wave in waves + _infarct_q(condition, size)]


def _delayed(wave: Wave, by_ms: float) -> Wave:
    return (wave[0] + by_ms, *wave[1:])


# The early QRS vector points away from the dead muscle (its peak, mV: left, down, back).
INFARCT_Q = {
    "lateral": (-1.05, 0.10, 0.05),
    "anterolateral": (-0.95, 0.05, 0.55),
    "inferior": (0.05, -0.85, 0.0),
    "anteroseptal": (0.12, 0.0, 0.85),
}


def _infarct_q(condition: Condition, size: float) -> list[Wave]:
    if condition.infarct == "none" or condition.conduction == "left bundle branch block":
        return []  # a left bundle branch block hides the Q waves
    left, down, back = INFARCT_Q[condition.infarct]
    return [(24, 10, 10, (left * size, down * size, back * size))]


def _repolarisation(condition: Condition, size: float) -> list[Wave]:
    """Return the ST segment and the T wave, whose time shortens with the rate."""
    wide = "bundle" in condition.conduction
    qt_scale = np.sqrt(60 / np.clip(condition.rate, 45, 130))
    peak = 175 + 130 * qt_scale + (35 if wide else 0)
    before, after = 52 * qt_scale + 4, 33 * qt_scale + 4
    t_wave = np.array([0.36, 0.16, -0.18]) * size
    st = np.zeros(3)
    if condition.conduction == "left bundle branch block":
        t_wave, st = np.array([-0.38, 0.0, -0.35]) * size, np.array([-0.10, 0.0, -0.10]) * size
    elif "right bundle" in condition.conduction:
        t_wave = np.array([0.33, 0.10, 0.20]) * size
    if condition.preexcited:
        t_wave = np.array([-0.10, 0.10, 0.05]) * size
    if condition.infarct != "none" and condition.conduction != "left bundle branch block":
        injury = -np.array(INFARCT_Q[condition.infarct])
        if condition.acute:  # ST elevation over the infarct, depression opposite to it
            st, t_wave = st + 0.30 * injury * size, t_wave + 0.15 * injury * size
        else:  # the T wave turns away from it
            t_wave = t_wave - 0.48 * injury * size
    if condition.rhythm == "supraventricular tachycardia":
        st = st - np.array([0.13, 0.08, -0.05]) * size
    start = 150 if wide else 110
    return [
        (peak, before, after, tuple(t_wave)),
        ((start + peak) / 2, max((peak - start) / 3, 20), max((peak - start) / 3, 20), tuple(st)),
    ]


def _wide_beat(direction: np.ndarray, size: float) -> list[Wave]:
    """Return a beat that starts in a ventricle: broad QRS complex, T wave opposite to it."""
    left, down, back = direction * size
    return [
        (45, 20, 18, (left * 0.75, down * 0.75, back * 0.75)),
        (82, 20, 22, (left * 0.65, down * 0.55, back * 0.70)),
        (290, 55, 38, (-left * 0.42, -down * 0.42, -back * 0.42)),
    ]


def _spike(size: float) -> np.ndarray:
    """Return a stimulus artefact: 4 ms wide, from the apex of the right ventricle to the pulse generator."""
    spike = np.zeros((3, 5), dtype=np.float32)
    spike[:, 1:3] = np.array([[1.1], [-0.9], [0.3]]) * size * np.array([1.0, 0.75])
    spike[:, 3:] = -np.array([[1.1], [-0.9], [0.3]]) * size * np.array([0.12, 0.05])
    return spike


# ---------------------------------------------------------------------------------------------------- rhythm


def beat_times(condition: Condition, patient: Patient, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return the onset of every event (s; from before the first to after the last sample), by kind of event."""
    cycle = 60 / condition.rate
    if condition.rhythm == "sinus":
        return _sinus_beats(condition, cycle, rng)
    if condition.rhythm == "atrial fibrillation":
        return _fibrillation_beats(condition, cycle, rng)
    if condition.rhythm == "atrial flutter":
        return {"QRS": _flutter_beats(condition, patient, rng)}
    if condition.rhythm == "2nd degree AV block":
        return _second_degree_block(condition, cycle, rng)
    beats = _regular(cycle, 0.015 if condition.rhythm == "junctional" else 0.006, rng)
    if condition.rhythm == "supraventricular tachycardia":
        return {"QRS": beats, "retrograde P": beats + 0.10}
    if condition.rhythm == "junctional":
        return {"QRS": beats}
    free_atria = {} if condition.atrial_fibrillation else {"P": _regular(60 / rng.uniform(70, 95), 0.02, rng)}
    if condition.rhythm == "ventricular tachycardia":
        return {"ventricular beat": beats, **free_atria}
    if condition.rhythm == "3rd degree AV block":
        return {"escape beat": beats, **free_atria}
    tracked = {} if condition.atrial_fibrillation else {"P": beats - 0.16}
    return {"paced beat": beats, "spike": beats - 0.004, **tracked}


def _regular(cycle: float, jitter: float, rng: np.random.Generator) -> np.ndarray:
    """Return onsets `cycle` seconds apart, each interval varying by the fraction `jitter`."""
    intervals = cycle * (1 + jitter * rng.standard_normal(int(12.5 / cycle) + 2))
    return np.cumsum(intervals) - 1 - cycle * rng.random()


def _sinus_beats(condition: Condition, cycle: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    sinus = _regular(cycle, 0.012, rng)
    if condition.sinus_arrhythmia:  # the rate follows the breath
        sinus = sinus + 0.16 * cycle / 0.9 * np.sin(2 * np.pi * rng.uniform(0.2, 0.28) * sinus + rng.uniform(0, 6))
    pr = _pr_interval(condition, cycle)
    if condition.ectopy == "ventricular run":
        start = rng.uniform(1.0, 5.5)
        run = start + 60 / rng.uniform(150, 190) * np.arange(rng.integers(5, 11))
        conducted = (sinus + pr < start - 0.35) | (sinus > run[-1] + 0.45)
        return {"P": sinus, "QRS": sinus[conducted] + pr, "ventricular beat": run}
    early = early_index(condition.ectopy, len(sinus), cycle, rng)
    undisturbed = np.ones(len(sinus), dtype=bool)
    undisturbed[early] = False
    if condition.ectopy == "PAC":  # the early P wave resets the sinus node: the pause is not fully compensatory
        sinus = sinus - 0.2 * cycle * np.cumsum(~undisturbed)
        early_p = sinus[early - 1] + 0.62 * cycle
        beats = np.concatenate([sinus[undisturbed] + pr, early_p + max(pr, 0.14)])
        return {"P": sinus[undisturbed], "early P": early_p, "QRS": beats}
    # The sinus node goes on below an early ventricular beat: the pause after it is compensatory.
    ventricular = sinus[early - 1] + pr + cycle * rng.uniform(0.58, 0.66)
    return {"P": sinus[undisturbed], "QRS": sinus[undisturbed] + pr, "ventricular beat": ventricular}


def _pr_interval(condition: Condition, cycle: float) -> float:
    """Return the PR interval (s), which shortens at fast rates."""
    if condition.preexcited:
        return 0.075
    if condition.pr > 0.2:
        return min(condition.pr, 0.62 * cycle)
    return condition.pr - 0.03 * (cycle < 0.55)


def early_index(ectopy: str, n_beats: int, cycle: float, rng: np.random.Generator) -> np.ndarray:
    """Return which sinus beats are replaced by an early one."""
    first = int(1 / cycle) + 2  # so that the first one lies in the recorded 10 s
    if ectopy == "bigeminal PVCs":
        return np.arange(1 + int(rng.integers(2)), n_beats, 2)
    gap = {"PVC": 5, "PAC": 5, "frequent PVCs": 3}.get(ectopy)
    return np.arange(first + int(rng.integers(2)), n_beats, gap) if gap else np.array([], dtype=int)


def _fibrillation_beats(condition: Condition, cycle: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return beats at random intervals: no shorter than the AV node allows, and no two alike."""
    intervals = np.maximum(cycle * rng.gamma(18, 1 / 18, int(14 / cycle) + 6), 0.30)
    beats = np.cumsum(intervals) - 1.5
    if condition.ectopy == "none":
        return {"QRS": beats}
    step = 6 if condition.ectopy == "PVC" else 4
    ventricular = np.zeros(len(beats), dtype=bool)
    ventricular[int(rng.integers(3, step + 1)) :: step] = True
    return {"QRS": beats[~ventricular], "ventricular beat": beats[ventricular]}


def _flutter_beats(condition: Condition, patient: Patient, rng: np.random.Generator) -> np.ndarray:
    """Return beats that follow every second, third or fourth flutter wave, or a varying number of them."""
    wave = 60 / patient.flutter_rate
    ratios = (
        rng.choice((2, 3, 4), size=60, p=(0.3, 0.2, 0.5))
        if condition.flutter_ratio == 0
        else np.full(60, condition.flutter_ratio)
    )
    return np.cumsum(ratios) * wave - 1.5


def _second_degree_block(condition: Condition, cycle: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return P waves of which every second is blocked (2:1), or every third (Mobitz II)."""
    atrial = _regular(cycle / 2, 0.01, rng)
    number = np.arange(len(atrial))
    dropped = number % 3 == 2 if condition.mobitz else number % 2 == 1
    return {"P": atrial, "QRS": atrial[~dropped] + min(condition.pr, 0.22)}


def atrial_waves(condition: Condition, patient: Patient, rng: np.random.Generator) -> np.ndarray:
    """Return what fibrillating or fluttering atria add all the time: float32 (3, 5000) or 0."""
    time = np.arange(SAMPLES) / FREQUENCY
    if condition.rhythm == "atrial flutter":
        phase = (patient.flutter_rate / 60 * (time + 1.5)) % 1
        sawtooth = np.where(phase < 0.72, phase / 0.72, (1 - phase) / 0.28) - 0.5
        direction = np.array([0.26, -0.34, -0.12])
        return np.outer(direction * rng.uniform(0.85, 1.2), sawtooth).astype(np.float32)
    fibrillates = condition.rhythm == "atrial fibrillation" or (
        condition.atrial_fibrillation and condition.rhythm in ("paced", "3rd degree AV block")
    )
    if not fibrillates:
        return np.float32(0)
    waves = np.zeros((3, SAMPLES), dtype=np.float32)
    for frequency in rng.uniform(4.5, 8.5, 4):
        wander = rng.uniform(0.5, 1.5) * np.sin(2 * np.pi * rng.uniform(0.15, 0.6) * time + rng.uniform(0, 6))
        wave = np.sin(2 * np.pi * frequency * time + wander + rng.uniform(0, 6))
        waves += np.outer(rng.normal(0, 1, 3) * (0.035, 0.03, 0.04), wave).astype(np.float32)
    return waves


# ---------------------------------------------------------------------------------------------------- disturbance


def disturbance(quality: str, rng: np.random.Generator) -> np.ndarray:
    """Return muscle noise, drift and artefacts of the 9 electrodes, float32 (9, 5000), mV."""
    noisy = np.full((9, 1), quality == "noisy")
    if quality == "V2 faulty":
        noisy[ELECTRODES.index("V2")] = True
    muscle = rng.standard_normal((9, SAMPLES), dtype=np.float32)
    muscle[:, 1:] += muscle[:, :-1]  # as the cart's low-pass filter leaves it
    level = np.where(noisy, rng.uniform(0.04, 0.10), rng.uniform(0.003, 0.010))
    drift_size = np.where(noisy, rng.uniform(0.15, 0.45), rng.uniform(0.005, 0.04))
    result = muscle * level.astype(np.float32)
    drift = rng.standard_normal((9, len(DRIFT))) * drift_size / np.arange(1, len(DRIFT) + 1) ** 0.5
    result += drift.astype(np.float32) @ DRIFT
    for electrode in np.flatnonzero(noisy):  # loose contacts: sudden steps that decay
        for start in rng.integers(0, SAMPLES, 3):
            length = min(SAMPLES - start, 600)
            result[electrode, start : start + length] += rng.normal(0, 0.7) * np.exp(-np.arange(length) / 120)
    return result

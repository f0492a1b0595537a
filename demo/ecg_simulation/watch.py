"""A recording as an Apple Watch exports it: 30 s of Lead I at 512 Hz."""

from pathlib import Path

import numpy as np

from ecg_finetune.files import replacing
from ecg_simulation.conditions import Condition, draw_patient
from ecg_simulation.signals import FREQUENCY, simulate

RATE, STRIPS = 512, 3
HEADER = """Name,Synthetic Person
Date of Birth,"Jan 1, 1970"
Recorded Date,2026-03-14 09:15:00 +0100
Classification,Inconclusive
Symptoms,
Software Version,1.90
Device,"Watch6,7"
Sample Rate,512 hertz


Lead,Lead I
Unit,\u00b5V


"""


def write_watch_recording(path: Path, seed: int) -> None:
    """Write a recording of a person in atrial fibrillation at about 85 beats a minute; nobody's data."""
    rng = np.random.default_rng([seed, 1])
    condition = Condition("atrial fibrillation", rate=85.0)
    patient = draw_patient(rng, 1)
    lead = np.concatenate([simulate(condition, patient, rng)[0] for _ in range(STRIPS)])
    times = np.arange(len(lead) * RATE // FREQUENCY) / RATE
    microvolts = 1000 * np.interp(times, np.arange(len(lead)) / FREQUENCY, lead)
    with replacing(path) as temporary:
        temporary.write_text(HEADER + "".join(f"{value:.3f}\n" for value in microvolts), encoding="utf-8")

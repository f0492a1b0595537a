"""ECG files as the Health app exports them, in the forms that are known from languages and versions."""

from collections.abc import Sequence

import numpy as np

NAME, BIRTH = "Test Person", "Jan 15, 1990"
ENGLISH = ("Name", "Date of Birth", "Recorded Date", "Classification", "Symptoms", "Software Version", "Device")
ENGLISH += ("Sample Rate", "Lead", "Unit")
GERMAN = ("Name", "Geburtstag", "Aufzeichnungsdatum", "Klassifizierung", "Symptome", "Softwareversion", "Gerät")
GERMAN += ("Messrate", "Ableitung", "Einheit")


def apple_csv(
    microvolts: Sequence[float],
    keys: Sequence[str] = ENGLISH,
    rate: str = "512 hertz",
    lead: str = "Lead I",
    unit: str = "µV",
    number: str = "{:.3f}",
    decimal: str = ".",
    name: str | None = NAME,
    birth: str = f'"{BIRTH}"',
    device: str = '"Watch6,7"',
    end: str = "\n",
    blank: bool = False,
) -> str:
    """Return the text of an export; `name` None: a bare `Name` line; `blank`: empty lines within the header."""
    values = (name, birth, "2026-03-14 09:15:00 -0400", "Sinus Rhythm", "", "1.90", device, rate, lead, unit)
    lines = [key if value is None else f"{key},{value}" for key, value in zip(keys, values)]
    lines[8:8] = ["", ""]
    if blank:
        lines = [line for pair in zip(lines, len(lines) * [""]) for line in pair]
    numbers = [number.format(value).replace(".", decimal) for value in microvolts]
    return end.join([*lines, "", "", *numbers, ""])


def watch_signal(seed: int = 0, samples: int = 15_360, rate: float = 512) -> np.ndarray:
    """Return microvolts: beats and noise, with three decimals."""
    time = np.arange(samples) / rate
    beats = 900 * np.exp(-(((time % 0.8) - 0.4) ** 2) / 2e-4) + 40 * np.sin(2 * np.pi * time / 3)
    return np.round(beats + np.random.default_rng(seed).normal(0, 8, samples), 3)

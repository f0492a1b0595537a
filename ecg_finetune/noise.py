"""Noise of wearable recorders, and what their electronics do to a signal: to evaluate under it, and to train with it.

Recorded noise is that of the MIT-BIH Noise Stress Test Database (NSTDB); where it is not at hand, noise of the same
spectrum is made up. Its first half is for training and its second half for evaluation, so that no network is evaluated
under noise that it has seen. A signal-to-noise ratio (SNR) is that of PhysioNet's `nst`: the power of the signal is the
squared peak-to-peak amplitude of its QRS complexes over 8, that of the noise its squared amplitude, the mean over
seconds of the deviation within a second.
"""

import functools
import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np

from ecg_finetune.files import UserError, sha256
from ecg_finetune.matfile import read_mat
from ecg_finetune.recordings import read_recording
from ecg_finetune.waveform import RECORD_SECONDS, SAMPLE_RATE, RecordError, centre

RECORDED = {"baseline_wander": "bw", "electrode_motion": "em", "muscle": "ma"}  # kind -> record of NSTDB
MAINS = {"mains_50": 50, "mains_60": 60}  # Hz
NOISES = (*RECORDED, *MAINS, "white")
PARTS = ("train", "test")

NSTDB_RATE = 360  # Hz
# Power densities at octaves from 0.1 to 102.4 Hz (dB against that at 1.6 Hz) that give noise the spectra of NSTDB.
OCTAVES = 0.1 * 2.0 ** np.arange(11)
SPECTRA = {
    "baseline_wander": (39, 33, 20, 11, 0, -8, -12, -13, -15, -14, -23),
    "electrode_motion": (16, 14, -1, 1, 0, -9, -11, -18, -28, -32, -41),
    "muscle": (32, 19, 18, 6, 0, -6, -8, -1, 3, -4, -24),
}
SYNTHETIC_SECONDS = 600

QRS_SECONDS, BEAT_SECONDS = 0.1, 1.5  # nst looks 50 ms to both sides of a beat; at 40 beats a minute one is in 1.5 s


class NoiseSource:
    """Noise of every kind in `NOISES`, from which pieces are drawn.

    Parameters
    ----------
    records : mapping
        Of each kind in `RECORDED` an array (channels, samples) at 500 Hz.
    origin : mapping
        Where it comes from, for the lineage: the SHA-256 of each file read, or that it is synthetic.
    """

    def __init__(self, records: Mapping[str, np.ndarray], origin: Mapping[str, str]):
        self.records, self.origin = dict(records), dict(origin)

    @classmethod
    def open(cls, root: Path | None, part: str) -> "NoiseSource":
        """Read the half of NSTDB that is for `part` (train or test), or make noise of its spectra up.

        Parameters
        ----------
        root : Path or None
            The folder of NSTDB: records bw, em and ma in WFDB form, or excerpts BW.mat, EM.mat and MA.mat, whose
            columns are the sample's number and two channels at 360 Hz. None: synthetic noise.
        part : {"train", "test"}

        Raises
        ------
        UserError
            A record is missing or damaged, or has less than 10 s for each part.
        """
        half = PARTS.index(part)
        if root is None:
            records = {kind: synthetic(kind, half) for kind in RECORDED}
            return cls(records, {"noise": "synthetic, with the spectra of NSTDB"})
        records, origin = {}, {}
        for kind, name in RECORDED.items():
            signals, files = _read_record(Path(root), name)
            length = signals.shape[1] // 2
            records[kind] = np.ascontiguousarray(signals[:, half * length : (half + 1) * length])
            origin |= {file.name: sha256(file) for file in files}
        return cls(records, origin)

    def draw(self, kind: str, samples: int, rng: np.random.Generator) -> np.ndarray:
        """Return a piece of noise at 500 Hz, float64 (samples,), of no particular amplitude."""
        if kind in MAINS:
            return np.sin(2 * np.pi * (MAINS[kind] / SAMPLE_RATE * np.arange(samples) + rng.random()))
        if kind == "white":
            return rng.standard_normal(samples)
        channels = self.records[kind]
        sign = 1 - 2 * int(rng.integers(2))
        start = int(rng.integers(channels.shape[1] - samples + 1))
        return sign * channels[rng.integers(len(channels)), start : start + samples].astype(float)


def synthetic(kind: str, seed: int) -> np.ndarray:
    """Return 10 minutes of Gaussian noise with the spectrum of a kind in `RECORDED`: float32 (1, samples) at 500 Hz."""
    samples = SYNTHETIC_SECONDS * SAMPLE_RATE
    rng = np.random.default_rng([seed, list(RECORDED).index(kind)])
    frequency = np.fft.rfftfreq(samples, 1 / SAMPLE_RATE)
    # Straight lines in the doubly logarithmic plot; NSTDB has nothing below 0.05 Hz and little above 150 Hz.
    decibels = np.interp(np.log(np.maximum(frequency, 1e-9)), np.log(OCTAVES), SPECTRA[kind])
    decibels -= 18 * np.log2(np.maximum(frequency / OCTAVES[-1], 1))
    spectrum = np.fft.rfft(rng.standard_normal(samples)) * 10 ** (decibels / 20) * (frequency >= 0.05)
    return np.fft.irfft(spectrum, samples)[None].astype(np.float32)


def _read_record(root: Path, name: str) -> tuple[np.ndarray, list[Path]]:
    """Return the channels of a record of NSTDB, float32 (channels, samples) at 500 Hz, and the files they came from."""
    if not root.is_dir():
        raise UserError(f"--noise-root {root}: no such folder; give that of NSTDB, or omit it for synthetic noise")
    header = root / f"{name}.hea"
    excerpts = [path for path in (root / f"{name.upper()}.mat", root / f"{name}.mat") if path.exists()]
    if header.exists():
        try:
            record = read_recording(header)
        except RecordError as error:
            raise UserError(f"{header}: {error}; download the record again") from None
        signals, rate = np.array(list(record.leads.values())), record.rate
        files = [path for path in (header, header.with_suffix(".dat")) if path.exists()]
    elif excerpts:
        path, files = excerpts[0], excerpts[:1]
        tables = [table for table in read_mat(path).values() if table.ndim == 2 and 2 <= table.shape[1] <= 16]
        if len(tables) != 1:
            raise UserError(f"{path}: not one table of sample numbers and channels; give the excerpt as PhysioNet does")
        signals, rate = tables[0][:, 1:].T.astype(float), NSTDB_RATE
    else:
        raise UserError(
            f"--noise-root {root}: neither {name}.hea nor {name.upper()}.mat is there; give the folder of NSTDB, or "
            "omit it for synthetic noise"
        )
    if signals.shape[1] < 2 * RECORD_SECONDS * rate:
        raise UserError(f"{files[0]}: {signals.shape[1] / rate:.3g} s of noise, {2 * RECORD_SECONDS} s are needed")
    if not np.isfinite(signals).all() or not (signals.std(axis=1) > 0).all():
        raise UserError(f"{files[0]}: a channel is constant or has missing samples; download the record again")
    from scipy.signal import resample_poly

    step = Fraction(SAMPLE_RATE / rate).limit_denominator(1000)
    signals = signals - signals.mean(axis=1, keepdims=True)
    return resample_poly(signals, step.numerator, step.denominator, axis=1).astype(np.float32), files


def qrs_amplitude(lead: np.ndarray) -> float:
    """Return the peak-to-peak amplitude of the QRS complexes of a lead (samples,) at 500 Hz, in its unit.

    No beat is looked for: of every 1.5 s the largest peak-to-peak amplitude within 0.1 s is that of a beat, and the
    median of these is robust to pauses, ectopic beats and spikes.
    """
    step = int(0.02 * SAMPLE_RATE)
    bins = lead[: len(lead) // step * step].reshape(-1, step)
    width = min(int(QRS_SECONDS * SAMPLE_RATE) // step, len(bins))
    high, low = (np.lib.stride_tricks.sliding_window_view(ends, width) for ends in (bins.max(axis=1), bins.min(axis=1)))
    ranges = high.max(axis=1) - low.min(axis=1)
    beats = max(1, round(len(lead) / SAMPLE_RATE / BEAT_SECONDS))
    size = -(-len(ranges) // beats)
    return float(np.median(np.maximum.reduceat(ranges, np.arange(0, len(ranges), size))))


def noise_amplitude(noise: np.ndarray) -> float:
    """Return the amplitude of a piece of noise (samples,) at 500 Hz as `nst` measures it.

    The root mean square about the mean of each second, averaged without the largest and the smallest twentieth.
    """
    size = min(SAMPLE_RATE, len(noise))
    seconds = np.sort(noise[: len(noise) // size * size].reshape(-1, size).std(axis=1))
    trimmed = len(seconds) // 20
    return float(seconds[trimmed : len(seconds) - trimmed].mean())


def scaled(noise: np.ndarray, amplitude: float, snr: float) -> np.ndarray:
    """Return noise (samples,) such that QRS complexes of a peak-to-peak `amplitude` have an SNR (dB) in it."""
    return noise * (amplitude / math.sqrt(8) / 10 ** (snr / 20) / noise_amplitude(noise))


# What devices do to a signal: functions of millivolts (samples,) at 500 Hz and a generator of random numbers.


def band_pass(lead: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    """Pass 0.5 to 40 Hz, with a Butterworth filter of second order at each end that runs as in a device, forwards."""
    from scipy.signal import sosfilt

    return sosfilt(_band(), lead - lead[0])


@functools.cache
def _band() -> np.ndarray:
    from scipy.signal import butter

    return butter(2, (0.5, 40), "bandpass", fs=SAMPLE_RATE, output="sos")


def resampled(lead: np.ndarray, _rng: np.random.Generator, rate: int) -> np.ndarray:
    """Sample at `rate` (Hz) as a device does, behind an anti-aliasing filter, and go to 500 Hz as preprocess does."""
    from scipy.signal import resample_poly

    step = Fraction(rate, SAMPLE_RATE)
    taken = resample_poly(lead, step.numerator, step.denominator, window=_anti_aliasing(step), padtype="line")
    return np.interp(np.arange(len(lead)) * rate / SAMPLE_RATE, np.arange(len(taken)), taken)


@functools.cache
def _anti_aliasing(step: Fraction) -> np.ndarray:
    from scipy.signal import firwin

    most = max(step.numerator, step.denominator)
    return firwin(20 * most + 1, 1 / most, window=("kaiser", 5.0))


def inversion(lead: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    """Turn the lead upside down, as electrodes that were mixed up do."""
    return -lead


FULL_SCALE_MV = 5.0


def clipping(lead: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    """Cut off what is beyond 5 mV."""
    return np.clip(lead, -FULL_SCALE_MV, FULL_SCALE_MV)


def quantisation(lead: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    """Round to the 1,024 steps that 10 bits give from -5 to 5 mV."""
    step = 2 * FULL_SCALE_MV / 2**10
    return np.clip(np.round(lead / step), -(2**9), 2**9 - 1) * step


def contact_loss(lead: np.ndarray, rng: np.random.Generator, seconds: float = 1.0) -> np.ndarray:
    """Lose the contact to the skin for a time: the signal stays at its mean."""
    size = min(int(seconds * SAMPLE_RATE), len(lead) // 2)
    start = int(rng.integers(len(lead) - size + 1))
    lost = lead.copy()
    lost[start : start + size] = lead.mean()
    return lost


EFFECTS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "band_pass": band_pass,
    "resample_512": functools.partial(resampled, rate=512),
    "resample_300": functools.partial(resampled, rate=300),
    "resample_250": functools.partial(resampled, rate=250),
    "inversion": inversion,
    "clipping": clipping,
    "quantisation": quantisation,
    "contact_loss": contact_loss,
}
KINDS = (*NOISES, *EFFECTS)


def disturbed(
    lead: np.ndarray,
    kind: str,
    snr: float | None,
    source: NoiseSource,
    rng: np.random.Generator,
    millivolts: tuple[float, float],
) -> np.ndarray:
    """Return a standardised lead as preprocess would have made it of the signal with noise or behind a device.

    Parameters
    ----------
    lead : ndarray float32 (samples,)
        At 500 Hz, with zero mean and unit deviation.
    kind : str
        One of `KINDS`.
    snr : float or None
        The SNR in dB, for a kind of noise; None for an effect of devices.
    source : NoiseSource
        What noise is drawn from.
    rng : Generator
        Random numbers. The same ones give the same noise, whatever the SNR.
    millivolts : (float, float)
        Mean and deviation of the lead before it was standardised, for the effects of devices.

    Returns
    -------
    ndarray float32 (samples,)
        With zero mean and unit deviation.
    """
    if kind in NOISES:
        changed = lead + scaled(source.draw(kind, len(lead), rng), qrs_amplitude(lead), snr)
    else:
        mean, deviation = millivolts
        changed = EFFECTS[kind](lead * deviation + mean, rng)
    return standardised(changed)


def standardised(signal: np.ndarray, mean: float = 0.0, deviation: float = 1.0) -> np.ndarray:
    """Return a signal (samples,) with this mean and standard deviation, float32; one that is constant as zeros."""
    values, _, spread = centre(signal)
    return (values * (deviation / spread if spread > 0 else 0.0) + mean).astype(np.float32)

"""Leads and their names; gaps, resampling, cutting and standardising of one lead."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import interp1d

from ecg_finetune.waveform import (
    LEADS,
    SECONDS_READ,
    LeadSignal,
    RecordError,
    fill_gaps,
    find_lead,
    lead_parts,
    longest_run,
    measure,
    millivolts_per,
    resampling,
    standard_lead,
    standardise,
)


def signal_of(values, rate=500.0, unit="mV"):
    values = np.asarray(values, dtype=np.float64)
    return LeadSignal(values, unit, rate, len(values))


def waves(samples: int, rate: float) -> np.ndarray:
    time = np.arange(samples) / rate
    return np.sin(2 * np.pi * time) + 0.3 * np.sin(17 * time) + 0.2


def prepared(signal):
    return standardise(signal, *measure(signal))


def test_a_500_hz_record_is_only_standardised():
    values = waves(5000, 500)
    found = prepared(signal_of(values))
    assert found.dtype == np.float32 and found.shape == (5000,)
    assert np.abs(found - (values - values.mean()) / values.std()).max() < 1e-6


@pytest.mark.parametrize(("rate", "samples"), [(1000, 38400), (250, 2500), (360, 3600), (257, 2581)])
def test_resampling_is_linear_between_first_and_last_sample_as_in_ecg_fm(rate, samples):
    values = waves(samples, rate)
    size = int(samples * 500 / rate)
    whole = interp1d(np.linspace(0, size - 1, samples), values)(np.arange(size))
    expected = whole[:5000]
    expected = (expected - expected.mean()) / expected.std()
    assert np.abs(prepared(signal_of(values, rate)) - expected).max() < 1e-5


@settings(max_examples=60, deadline=None)
@given(rate=st.integers(250, 2000) | st.floats(250, 2000), more=st.integers(0, 5000), seed=st.integers(0, 99))
def test_resampling_of_any_rate_and_length_is_scipy_s(rate, more, seed):
    samples = math.ceil(10.01 * rate) + more
    values = np.random.default_rng(seed).normal(size=samples)
    size = int(samples * 500 / rate)
    expected = interp1d(np.linspace(0, size - 1, samples), values)(np.arange(5000))
    expected = (expected - expected.mean()) / expected.std()
    # As `read_record_lead` gives it: little more than 10 s of the record.
    signal = LeadSignal(values[: math.ceil(SECONDS_READ * rate)], "mV", rate, samples)
    assert np.abs(prepared(signal) - expected).max() < 1e-5


@pytest.mark.parametrize("rate", [50, 100, 128, 125, 200, 240.5, 249.99])
def test_below_250_hz_resampling_is_band_limited(rate):
    """The wave that was sampled comes out, up to what the rate can hold, where straight lines would cut its peaks."""

    def wave(time):
        return 1 + sum(np.sin(2 * np.pi * rate * part * time + part) for part in (0.03, 0.2, 0.33))

    recorded = signal_of(wave(np.arange(math.ceil(12 * rate)) / rate), rate)
    signal = LeadSignal(recorded.values[: math.ceil(SECONDS_READ * rate)], "mV", rate, recorded.samples)
    expected = wave(np.arange(5000) / 500)
    expected = (expected - expected.mean()) / expected.std()
    found = prepared(signal)
    inner = slice(500, 4500)  # at the ends the filter sees nothing beyond
    assert np.abs(found - expected)[inner].max() < 0.02 and np.corrcoef(found, expected)[0, 1] > 0.998
    straight = np.interp(np.arange(5000) / 500, np.arange(len(signal.values)) / rate, signal.values)
    straight = (straight - straight.mean()) / straight.std()
    assert np.abs(straight - expected)[inner].max() > 0.2


def test_a_gap_just_behind_the_10_s_spoils_nothing():
    for rate in (128, 360, 1000):
        values = waves(math.ceil(12 * rate), rate)
        signal = signal_of(np.where(np.arange(len(values)) >= 10 * rate, np.nan, values), rate)
        assert np.abs(prepared(signal) - prepared(signal_of(values, rate)))[:4990].max() < 1e-2


@settings(max_examples=60, deadline=None)
@given(rate=st.floats(50, 1000), seconds=st.floats(5, 9.9), seed=st.integers(0, 99))
def test_a_shorter_window_is_prepared_as_a_record_is(rate, seconds, seed):
    values = np.random.default_rng(seed).normal(size=math.ceil(seconds * rate) + 1)
    samples = int(len(values) * 500 / rate)
    found = standardise(signal_of(values, rate), *measure(signal_of(values, rate)), samples=samples).astype(float)
    assert len(found) == samples and abs(found.mean()) < 1e-5 and abs(found.std() - 1) < 1e-5
    with pytest.raises(RecordError, match="too_short"):
        prepared(signal_of(values, rate))


def test_how_a_rate_is_resampled():
    assert [resampling(rate) for rate in (500, 500.0, 499.9, 250, 249.9, 128)] == [
        *("none", "none", "linear", "linear", "band-limited", "band-limited")
    ]


@pytest.mark.parametrize("name", ["I", "i", " I ", "MLI", "D1", "DI", "LEAD I", "Lead I", "ECG I", "ECG Lead I"])
def test_other_names_of_lead_1(name):
    assert standard_lead(name) == "I" and find_lead(["II", name], "I") == 1


@pytest.mark.parametrize("lead", LEADS)
def test_names_of_all_leads(lead):
    for name in (lead, lead.upper(), lead.lower(), f"Lead {lead}", f"ECG {lead}", f"MDC_ECG_LEAD_{lead.upper()}"):
        assert standard_lead(name) == lead
        assert find_lead(["X", name], lead) == 1
    assert standard_lead(f"-{lead}") is None and standard_lead(f"{lead}x") is None


def test_a_single_channel_is_the_lead_unless_its_name_says_another():
    for name in ("ECG", "", "channel 1", "V", "aVRx"):
        assert find_lead([name], "I") == 0 and find_lead([name], "V2") == 0
    for name in ("II", "MLII", "v1", "LEAD III"):
        assert find_lead([name], "I") is None
        with pytest.raises(RecordError, match="no lead I among"):
            lead_parts([name], "I")
    assert find_lead(["ECG", "ECG2"], "I") is None


def test_the_name_as_written_comes_first():
    assert find_lead(["II", "I"], "I") == 1
    assert find_lead(["i", "avf"], "aVF") == 1
    assert find_lead(["i", "I"], "I") == 1


def test_a_channel_is_picked_by_hand():
    names = ["MLII", "V5", "2"]
    assert lead_parts(names, "I", "V5") == {1: 1.0}
    assert lead_parts(names, "I", "v5") == {1: 1.0}
    assert lead_parts(names, "I", "1") == {0: 1.0}
    assert lead_parts(names, "I", "2") == {2: 1.0}  # a name comes before a number
    for channel in ("0", "4", "-1", "aVL", "1.0", "1" * 5000, "\u0661"):
        with pytest.raises(RecordError) as error:
            find_lead(names, "I", channel)
        assert error.value.status == "no_lead"


def test_limb_leads_follow_from_i_and_ii():
    generator = np.random.default_rng(0)
    right, left, foot = generator.normal(size=(3, 50))  # potentials
    leads = {"x": foot, "II": foot - right, "i": left - right}
    expected = {
        "III": foot - left,
        "aVR": right - (left + foot) / 2,
        "aVL": left - (right + foot) / 2,
        "aVF": foot - (left + right) / 2,
    }
    for lead, values in expected.items():
        parts = lead_parts(list(leads), lead)
        assert np.allclose(sum(weight * list(leads.values())[k] for k, weight in parts.items()), values)
        assert lead_parts([*leads, lead], lead) == {3: 1.0}
    for names, lead in ((["I", "III"], "aVL"), (["I", "II"], "V1")):
        with pytest.raises(RecordError, match="no_lead"):
            lead_parts(names, lead)


def test_units():
    units = {"mV": 1, "mv": 1, "MV": 1, "uV": 1e-3, "uv": 1e-3, "\u00b5V": 1e-3, "\u03bcV": 1e-3, "V": 1e3, "nV": 1e-6}
    assert {unit: millivolts_per(unit) for unit in units} == units
    assert [millivolts_per(unit) for unit in ("", "mmHg", "NU", "V/s")] == 4 * [None]


def test_the_unit_does_not_matter_but_for_the_statistics():
    values = waves(5000, 500)
    microvolts = signal_of(values * 1000, unit="uV")
    assert np.allclose(prepared(microvolts), prepared(signal_of(values)), atol=1e-6)
    assert measure(microvolts)[0].std_mv == pytest.approx(values.std())


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda v: v[:4999], "too_short"),
        (lambda v: np.where(np.arange(5000) < 101, np.nan, v), "nan"),
        (lambda v: np.where(np.arange(5000) % 9 == 0, np.nan, v), "nan"),
        (lambda _: np.full(5000, np.nan), "nan"),
        (lambda _: np.zeros(5000), "flat"),
        (lambda v: np.where(np.arange(5000) < 2500, 0.1, v), "flat"),
        (lambda v: np.where(np.arange(5000) == 77, 20.01, v), "amplitude"),
        (lambda v: np.where(np.arange(5000) == 77, -20.01, v), "amplitude"),
    ],
)
def test_unusable_signals_are_excluded_with_their_reason(change, status):
    with pytest.raises(RecordError) as error:
        prepared(signal_of(change(waves(5000, 500))))
    assert error.value.status == status


@pytest.mark.parametrize(
    "change",
    [
        lambda v: np.where((np.arange(5000) >= 10) & (np.arange(5000) < 110), np.nan, v),  # 0.2 s
        lambda v: np.where(np.arange(5000) < 100, np.nan, v),
        lambda v: np.where(np.arange(5000) % 10 == 0, np.nan, v),
        lambda v: np.where(np.arange(5000) < 2499, 0.1, v),
        lambda v: np.where(np.arange(5000) == 77, 20.0, v),
    ],
)
def test_usable_signals_are_finite_with_zero_mean_and_unit_deviation(change):
    found = prepared(signal_of(change(waves(5000, 500)))).astype(np.float64)
    assert np.isfinite(found).all()
    assert abs(found.mean()) < 1e-6 and abs(found.std() - 1) < 1e-6


def test_a_gap_is_a_straight_line():
    values = np.array([0.0, 1.0, np.nan, np.nan, 4.0, np.nan])
    assert np.array_equal(fill_gaps(np.concatenate([values, np.zeros(100)]), 500)[:5], [0, 1, 2, 3, 4])
    assert np.array_equal(fill_gaps(np.concatenate([[np.nan], values[1:2], np.zeros(99)]), 500)[:2], [1, 1])


def test_only_the_first_10_s_are_judged():
    values = np.concatenate([waves(5000, 500), np.full(5000, np.nan)])
    signal = signal_of(values)
    assert measure(signal)[0].nan_count == 0
    assert np.array_equal(prepared(signal), prepared(signal_of(values[:5000])))


def test_the_statistics():
    values = np.concatenate([[np.nan, np.nan], np.full(50, 2.0), np.arange(4948)])
    statistics, centred = measure(signal_of(values))
    assert (statistics.rate, statistics.samples) == (500, 5000)
    assert statistics.nan_count == 2 and statistics.longest_flat_s == 0.1
    assert statistics.mean_mv == pytest.approx(np.nanmean(values))
    assert statistics.std_mv == pytest.approx(np.nanstd(values))
    assert np.allclose(centred.values, values[2:] - np.nanmean(values))


def test_the_statistics_of_a_signal_that_is_not_there():
    statistics, _ = measure(signal_of(np.full(5000, np.nan)))
    assert statistics.nan_count == 5000 and math.isnan(statistics.mean_mv) and math.isnan(statistics.std_mv)


@given(st.lists(st.sampled_from([0.0, 1.0, np.nan]), min_size=1, max_size=30))
def test_longest_run(values):
    longest = run = 0
    previous = None
    for value in values:
        run = run + 1 if value == previous else 1
        longest, previous = max(longest, run), value
    assert longest_run(np.array(values)) == longest

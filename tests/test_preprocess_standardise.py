"""Gaps, resampling, cutting and standardising of one lead."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import interp1d

from ecg_finetune.waveform import (
    SECONDS_READ,
    LeadSignal,
    RecordError,
    fill_gaps,
    longest_run,
    measure,
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


@pytest.mark.parametrize(("rate", "samples"), [(100, 1000), (1000, 38400), (250, 2500), (360, 3600), (257, 2581)])
def test_resampling_is_linear_between_first_and_last_sample_as_in_ecg_fm(rate, samples):
    values = waves(samples, rate)
    size = int(samples * 500 / rate)
    whole = interp1d(np.linspace(0, size - 1, samples), values)(np.arange(size))
    expected = whole[:5000]
    expected = (expected - expected.mean()) / expected.std()
    assert np.abs(prepared(signal_of(values, rate)) - expected).max() < 1e-5


@settings(max_examples=60, deadline=None)
@given(rate=st.integers(50, 2000) | st.floats(50, 2000), more=st.integers(0, 5000), seed=st.integers(0, 99))
def test_resampling_of_any_rate_and_length_is_scipy_s(rate, more, seed):
    samples = math.ceil(10.01 * rate) + more
    values = np.random.default_rng(seed).normal(size=samples)
    size = int(samples * 500 / rate)
    expected = interp1d(np.linspace(0, size - 1, samples), values)(np.arange(5000))
    expected = (expected - expected.mean()) / expected.std()
    # As `read_record_lead` gives it: little more than 10 s of the record.
    signal = LeadSignal(values[: math.ceil(SECONDS_READ * rate)], "mV", rate, samples)
    assert np.abs(prepared(signal) - expected).max() < 1e-5


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

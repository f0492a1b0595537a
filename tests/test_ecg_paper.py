"""The strip on ECG paper: scale, gaps, cut-off."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from ecg_finetune.ecg_paper import strip_svg


def parse(svg):
    root = ElementTree.fromstring(svg)
    paths = [element.get("d") for element in root if element.tag.endswith("path")]
    texts = [element.text or "" for element in root if element.tag.endswith("text")]
    return root, dict(zip(("fine", "coarse", "gaps", "pulse", "trace", "cut"), paths, strict=True)), texts


def points(path):
    """Return the absolute points of the first run of a trace."""
    start, steps = re.match(r"M(\d+ -?\d+)l([^M]*)", path).groups()
    numbers = [int(number) for number in re.findall(r"-?\d+", steps)]
    return np.cumsum([[int(number) for number in start.split()], *np.reshape(numbers, (-1, 2)).tolist()], axis=0)


@pytest.mark.parametrize("rate", [100, 500, 360.5])
def test_a_second_is_25_mm_and_a_millivolt_10_mm(rate):
    time = np.arange(int(10 * rate)) / rate
    signal = np.sin(time)
    root, paths, _ = parse(strip_svg(signal, rate))
    found = points(paths["trace"])
    assert np.abs((found[:, 0] - found[0, 0]) / 2500 - time).max() < 0.001
    assert np.abs((found[0, 1] - found[:, 1]) / 1000 - (signal - signal[0])).max() < 0.0021
    assert root.get("viewBox").split()[2] == str(100 * int(root.get("width").removesuffix("mm")))
    assert found[:, 0].max() <= int(root.get("viewBox").split()[2])


def test_gaps_offset_and_cut_off_are_stated():
    signal = np.full(5000, 3.0)
    signal[1000:1100] = np.nan
    signal[2000] = 25
    _, paths, texts = parse(strip_svg(signal, 500, "<study & lead>"))
    assert paths["trace"].count("M") == 2 and paths["gaps"].count("M") == 1 and paths["cut"].count("M") == 1
    assert texts[0] == "<study & lead>"
    assert "offset of +3.00 mV" in texts[1] and "25.0 mV" in texts[1] and "2.0% missing" in texts[1]


@pytest.mark.parametrize("signal", [np.empty(0), np.full(10, np.nan), np.zeros(1)])
def test_degenerate_signals_are_drawn(signal):
    parse(strip_svg(signal, 500))


def test_it_is_small():
    assert len(strip_svg(np.random.default_rng(0).normal(0, 0.2, 5000), 500)) < 50_000

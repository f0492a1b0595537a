"""The report: complete, self-contained, small, and its figures true to the numbers."""

import re

import numpy as np
import pandas as pd
import pytest
from ecg_evaluation import figures
from ecg_evaluation.calibration_quality import calibration_tables
from ecg_evaluation.inputs import Labelled, read_predictions, write_predictions
from ecg_evaluation.misses import ASSUMED_SD, millivolts, rank_misses
from ecg_evaluation.results import decide, evaluate
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import trapezoid
from test_html_page import Reader

from ecg_finetune.label_set import ECG_FM, LABELS


def drawn_points(svg: str, css: str) -> np.ndarray:
    """Return the points of the path of a class in units of the panel, y upwards: float (points, 2)."""
    (path,) = re.findall(rf'class="{css}" d="([^"]*)"', svg)
    x = y = None
    points = []
    for command, rest in re.findall(r"([MLHV])([^MLHV]*)", path):
        numbers = [float(number) for number in rest.split()]
        if command in "ML":
            x, y = numbers
        elif command == "H":
            (x,) = numbers
        else:
            (y,) = numbers
        points.append((x / figures.SIDE, 1 - y / figures.SIDE))
    return np.array(points)


@pytest.fixture
def scored():
    rng = np.random.default_rng(0)
    truth = rng.random(20000) < 0.1
    return truth, 1 / (1 + np.exp(-(rng.normal(size=20000) + 2 * truth - 2)))


def test_roc_is_drawn_where_it_is_and_thinned(scored):
    from sklearn.metrics import roc_auc_score

    svg = figures.roc_panel(figures.roc_curve(*scored, 0.5), "ROC")
    points = drawn_points(svg, "curve")
    assert trapezoid(points[:, 1], points[:, 0]) == pytest.approx(roc_auc_score(*scored), abs=0.005)
    assert len(svg) < 12_000
    x, y = (float(value) for value in re.search(r'class="point" cx="([\d.]+)" cy="([\d.]+)"', svg).groups())
    decided = scored[1] >= 0.5
    assert x / 100 == pytest.approx(decided[~scored[0]].mean(), abs=0.001)
    assert 1 - y / 100 == pytest.approx(decided[scored[0]].mean(), abs=0.001)


def test_precision_recall_is_drawn_where_it_is(scored):
    from sklearn.metrics import average_precision_score

    svg = figures.precision_recall_panel(figures.precision_recall_curve(*scored, 0.5), scored[0].mean(), "")
    points = drawn_points(svg, "curve")
    area = np.sum(np.diff(points[:, 0]) * points[1:, 1])
    assert area == pytest.approx(average_precision_score(*scored), abs=0.01)
    assert len(svg) < 25_000


def test_mistakes_are_ranked_and_spread():
    truth = np.array([[1, 0], [1, 0], [0, 0], [0, 1]], bool)
    probabilities = np.array([[0.1, 0.9], [0.2, 0.1], [0.7, 0.8], [0.4, 0.45]])
    predicted = probabilities >= 0.5
    # Record 0 is wrong in both labels, by 0.9 each, and shown once; then the mistakes of other kinds.
    assert rank_misses(truth, predicted, probabilities, 9) == [(0, 0), (2, 1), (3, 1)]
    assert rank_misses(truth, predicted, probabilities, 1) == [(0, 0)]
    assert rank_misses(truth, truth, probabilities, 9) == []


def test_strips_are_in_millivolts_where_the_scale_is_known():
    lead = np.array([-1.0, 0.0, 2.0])
    scale = pd.DataFrame({"mean_mv": [0.1], "std_mv": [0.25]}, index=[7])
    np.testing.assert_allclose(millivolts(lead, 7, scale), [-0.15, 0.1, 0.6])
    for unknown in (millivolts(lead, 8, scale), millivolts(lead, 7, None)):
        np.testing.assert_allclose(unknown, lead * ASSUMED_SD)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=17, max_size=17))
def test_predictions_file_keeps_every_bit(tmp_path_factory, row):
    path = tmp_path_factory.mktemp("predictions") / "p.csv"
    values = np.array([row, row[::-1]])
    write_predictions(path, LABELS, np.array([5, 3]), values)
    again = read_predictions(path, LABELS)
    assert again.study_id.tolist() == [5, 3] and again.without is None
    np.testing.assert_array_equal(again.probabilities, values)
    np.testing.assert_array_equal(again.of(np.array([3, 5])), values[::-1])


HALVES = {"valid": slice(1000), "test": slice(1000, None)}


def test_calibration_lowers_the_brier_score_and_leaves_ranking_alone():
    rng = np.random.default_rng(0)
    honest = 1 / (1 + np.exp(-rng.normal(-2, 1.5, size=(4000, 17))))
    truth = rng.random(honest.shape) < honest
    shifted = honest * 8 / (1 + honest * 7)  # odds times 8, as training with pos_weight gives
    valid = Labelled("valid", np.arange(2000), truth[:2000], ECG_FM, None)
    test = Labelled("test", np.arange(2000), truth[2000:], ECG_FM, None)
    result = evaluate(test, shifted[2000:], decide(valid, shifted[:2000], "f1", 17), None, 0)
    assert (result.table["brier_calibrated"] < result.table["brier"] - 0.02).all()
    assert result.calibrated.mean() == pytest.approx(truth.mean(), abs=0.01)
    order = np.argsort(shifted[2000:, 0])
    assert (np.diff(result.calibrated[order, 0]) >= 0).all()


def test_scores_that_rank_the_wrong_way_are_not_calibrated():
    rng = np.random.default_rng(1)
    honest = rng.uniform(0.05, 0.95, size=(2000, 17))
    truth = rng.random(honest.shape) < honest
    scores = honest.copy()
    scores[:, 3] = 1 - honest[:, 3]
    sets = [Labelled(name, np.arange(1000), truth[rows], ECG_FM, None) for name, rows in HALVES.items()]
    decisions = decide(sets[0], scores[:1000], "f1", 17)
    result = evaluate(sets[1], scores[1000:], decisions, None, 0)
    row = result.table.loc[3]
    assert row["calibration_slope"] < 0 and row["brier_calibrated"] == row["brier"]
    assert row["note"] == "not calibrated, slope not positive (on the valid split the scores rank the wrong way)"
    np.testing.assert_array_equal(result.calibrated[:, 3], scores[1000:, 3])
    table, _ = calibration_tables(result)
    both = table[table["label"] == LABELS[3]].drop(columns=["label", "probabilities"])
    np.testing.assert_array_equal(both.iloc[0], both.iloc[1])


def test_report_of_a_run(tmp_path):
    from evaluation_world import RARE, make_world
    from test_eval_scripts import run

    from ecg_finetune.cli import execute
    from ecg_finetune.documents import load_parser
    from ecg_finetune.paths import locate

    base = make_world(tmp_path)
    arguments = ["--base-dir", str(base), "--bootstrap", "5", "--num-workers", "0"]
    assert execute(load_parser("eval/scripts/eval_finetuned.py"), run, arguments) == 0
    (report,) = locate(base, "eval").glob("report_*.html")
    page = report.read_text(encoding="utf-8")
    reader = Reader(page)
    assert all(address.startswith("#section-") for address in reader.addresses)
    assert "@import" not in page and "url(" not in page
    assert all(label in reader.cells or f"{label} *" in reader.cells for label in LABELS)
    # Few patients are marked in tables, forest plot and text; the positives that a threshold rests on stand beside it.
    assert f"{LABELS[RARE]} *" in reader.cells and LABELS[-2] in reader.cells
    assert f">{LABELS[RARE]} *</text>" in page and "fewer than 10 positive or negative patients" in page
    assert "fewer than 10 positive patients, intervals unreliable and not in the macro averages" in page
    assert "Positive in valid" in page and "rest on fewer than 10 positive records of the valid split" in page
    assert "over the labels with at least 10 positive and 10 negative patients" in page
    assert page.count('class="four"') == 17  # 16 labels, for one never occurs, and the micro average
    assert page.count('aria-label="Study 4') == 12
    assert "The preprocess stage" in page and "nan" not in " ".join(reader.cells).lower()
    assert len(page) < 2_000_000
    for section in ("Results per label", "Curves", "Labels that occur together", "Worst misses", "Provenance"):
        assert re.search(f'<h2 id="section-[0-9]+">{section}</h2>', page)

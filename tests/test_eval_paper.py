"""What the evaluation scripts write for a paper: tables, checklist, figures, and a page of what is in the tables."""

import json
import re
import shutil
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest
import torch
from ecg_evaluation.checklist import ITEMS
from ecg_evaluation.figure_files import COLOURS, Album, standalone, write_figures
from ecg_evaluation.number_text import plain_interval, signed, signed_interval
from evaluation_world import make_world
from hypothesis import given
from hypothesis import strategies as st
from test_eval_scripts import ANY, FINETUNED, evaluate, outputs, run
from test_html_page import Reader

from ecg_finetune.cli import execute
from ecg_finetune.documents import load_parser
from ecg_finetune.files import sha256
from ecg_finetune.html_page import STYLE
from ecg_finetune.paths import locate

ALWAYS = (
    *("calibration", "co_occurrence", "decision_curves", "estimands", "flow", "label_groups", "operating_points"),
    *("published", "reliability"),
)


@pytest.fixture(scope="module")
def paper(tmp_path_factory, run_script):
    """Return a base folder with an evaluation that all options were given to, its process and the folder of figures."""
    base, figures = make_world(tmp_path_factory.mktemp("paper"), 160, 60), tmp_path_factory.mktemp("figures")
    patients = pd.read_csv(locate(base, "record_list"))["subject_id"].unique()
    people = {
        "subject_id": patients,
        "sex": np.resize(["F", "M"], len(patients)),
        "age": np.resize([30, 50], len(patients)),
    }
    pd.DataFrame(people).to_csv(base / "subjects.csv", index=False)
    options = ["--subgroups", base / "subjects.csv", "--prevalence", "0.02,0.5", "--baselines", "--figures", figures]
    return base, run_script(FINETUNED, "--base-dir", base, "--bootstrap", 40, "--num-workers", 0, *options), figures


def test_every_table_is_there_and_vouched_for(paper):
    base, process, _ = paper
    folder = locate(base, "eval")
    names = (*ALWAYS, "subgroups", "prevalence", "baselines", "beats")
    written = json.loads(outputs(folder, "metrics", ".json")[0].read_text())["outputs"]
    for name in names:
        (path,) = outputs(folder, name)
        assert len(pd.read_csv(path)) > 0 and path.name in written
    assert f"{len(names)} further tables" in process.stdout and "checklist: " in process.stdout


def test_no_number_of_a_table_in_the_report_is_from_elsewhere(paper):
    """Every interval that the page shows is, rounded, one of the CSV files."""
    base, _, _ = paper
    folder, known = locate(base, "eval"), set()
    for path in folder.glob("*_test_lead1_duplicated_*.csv"):
        table = pd.read_csv(path)
        for column in (name for name in table if f"{name}_low" in table):
            for row in table[[column, f"{column}_low", f"{column}_high"]].to_numpy():
                for digits in (3, 4, 5, 6, 7):
                    known.add(plain_interval(*row, digits))
                    if not np.isnan(row[0]):
                        known.add((signed(row[0], digits), f"{signed(row[1], digits)} to {signed(row[2], digits)}"))
    page = outputs(folder, "report", ".html")[0].read_text()
    shown = re.findall(r"<td class=n>(?:<b>)?([-+\d.]+)(?:</b>)? <small>([^<]*)</small>", page)
    assert len(shown) > 800
    for value, interval in shown:
        assert (value, interval.replace("\u2013", " to ")) in known, (value, interval)


def test_page_has_contents_alternatives_with_numbers_and_sorts_by_number(paper):
    base, _, _ = paper
    page = outputs(locate(base, "eval"), "report", ".html")[0].read_text()
    reader = Reader(page)
    targets = set(re.findall('id="(section-[0-9]+)"', page))
    assert {address.removeprefix("#") for address in reader.addresses} == targets and len(targets) >= 13
    for text in re.findall('aria-label="([^"]*)"', page):
        assert re.search("[0-9]", text) or text == "Contents", text
    assert "prefers-color-scheme: dark" in page and "@top-left" in page
    # A difference is a number although it is bold: the head of its column sorts by number.
    subgroups = page.split(">Subgroups</h2>")[1].split("<h2")[0]
    assert "<th tabindex=0 class=n>AUROC, difference" in subgroups
    assert "-0.000" not in "".join(reader.cells) and "nan" not in "".join(reader.cells)
    title = re.search("<title>(.*)</title>", page)[1]
    assert re.fullmatch(r"checkpoint_best.pt \(\w{8}\) on Lead I of test_lead1_duplicated, \d{4}-\d\d-\d\d", title)


def test_checklist_has_every_item_and_its_gaps(paper):
    base, _, _ = paper
    text = outputs(locate(base, "eval"), "tripod_ai", ".md")[0].read_text()
    rows = [line for line in text.splitlines() if re.match(r"\| \d", line)]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == [item for item, _, _ in ITEMS]
    assert len(ITEMS) == 52 and all(row.count("|") - row.count(r"\|") == 5 for row in rows)
    assert "| 18a | Open science | funding | **Gap: only the authors can say.** |" in rows
    by_item = {row.split(" | ")[0].removeprefix("| "): row for row in rows}
    assert "160 records of 80 patients" in by_item["21"] and "40 bootstrap resamples of patients" in by_item["12e"]
    assert "Performance by sex,age in subgroups.csv" in by_item["14"] and "AUROC macro 0." in by_item["23a"]


def checklist_of(folder) -> dict[str, str]:
    """Return the last column of the latest checklist in a folder, by item."""
    text = sorted(folder.glob("tripod_ai_*.md"))[-1].read_text()
    cells = [re.split(r"(?<!\\)\|", line) for line in text.splitlines() if re.match(r"\| \d", line)]
    return {row[1].strip(): row[4].strip() for row in cells}


def held_fixed(folder) -> str:
    """Return the paragraph of the latest report in a folder that says what is held fixed."""
    return sorted(folder.glob("report_*.html"))[-1].read_text().split("What is held fixed.")[1].split("<b>")[0]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Return a base folder whose network has the lead in one channel, and its predictions."""
    base = make_world(tmp_path_factory.mktemp("small"), 24, 16)
    model = locate(base, "checkpoint_best")
    content = torch.load(model, weights_only=True)
    content["cfg"]["task"] = {"leads_to_load": "[0]", "enable_padding_leads": True}
    torch.save(content, model)
    told = {"settings": {"lead": "I", "lr": 1e-5}, "checkpoint_sha256": sha256(model)}
    (model.parent / "settings.json").write_text(json.dumps(told))
    leak = {"study_id": pd.read_csv(locate(base, "test_labels"))["idx"], "split": "train"}
    pd.DataFrame(leak).to_csv(base / "leak.csv", index=False)
    options = ["--base-dir", str(base), "--bootstrap", "0", "--num-workers", "0"]
    assert execute(load_parser(FINETUNED), run, options) == 0
    return base, outputs(locate(base, "eval"), "predictions")[0]


def test_what_is_not_known_is_a_gap_and_not_a_claim(small, capsys, tmp_path):
    base, predictions = small
    mine = shutil.copy(predictions, tmp_path / "mine.csv")
    arguments = ["--base-dir", base, "--predictions", mine, "--out", tmp_path, "--bootstrap", 0]
    evaluate(capsys, ANY, *arguments, "--meta", tmp_path / "none.csv")
    items = checklist_of(tmp_path)
    for item in ("7", "20a"):
        assert "Gap: only the authors can say.** What earlier stages excluded" in items[item]
    assert "No record of the evaluated split" not in items["7"] + items["20a"]
    assert "SHA-256" not in items["22"] and "Which checkpoint made mine.csv" in items["22"]
    assert "PyTorch" not in items["12g"] and "Gap" in items["12g"]
    assert "without intervals" in items["12e"] and "Gap: only the authors can say.** Intervals" in items["23a"]
    assert "channels" not in items["9b"] and "chose" not in items["12a"] and "Train fits" not in items["12a"]
    for item in ("12a", "16"):
        assert "Whether evaluated patients were trained on was not checked" in items[item]
    assert "chose" not in held_fixed(tmp_path)


def test_what_is_known_of_the_network_is_said(small, capsys, tmp_path):
    base, predictions = small
    items = checklist_of(locate(base, "eval"))
    assert "in the input channel of Lead I with zeros in the other 11" in items["9b"]
    page = outputs(locate(base, "eval"), "report", ".html")[0].read_text()
    assert "standardised, in the input channel of Lead I with zeros in the other 11. " in page
    assert sha256(locate(base, "checkpoint_best")) in items["22"] and f"torch {torch.__version__}" in items["12g"]
    chose = (
        "The valid split of the fine-tuning chose the epoch; the valid split chose the thresholds and the calibration."
    )
    assert chose in items["12a"] and chose in held_fixed(locate(base, "eval"))
    assert "No record of the evaluated split was excluded" in items["7"]

    told = json.loads(predictions.with_suffix(".json").read_text())
    del told["input"]  # as files of earlier versions
    told["earlier"][0]["settings"]["input"] = "duplicate"
    shutil.copy(predictions, tmp_path / "earlier.csv")
    (tmp_path / "earlier.json").write_text(json.dumps(told))
    arguments = ["--base-dir", base, "--predictions", tmp_path / "earlier.csv", "--out", tmp_path, "--bootstrap", 0]
    evaluate(capsys, ANY, *arguments)
    assert "in all 12 input channels" in checklist_of(tmp_path)["9b"]


def test_leaks_and_operating_points_are_told_as_they_are(small, capsys, tmp_path):
    base, predictions = small
    (metrics,) = outputs(locate(base, "eval"), "metrics")
    arguments = ["--base-dir", base, "--predictions", predictions, "--bootstrap", 0]
    leak = ["--trained-on", base / "leak.csv", "--allow-leak", "--threshold-rule", 0.5]
    evaluate(capsys, ANY, *arguments, "--out", tmp_path / "leak", *leak)
    items = checklist_of(tmp_path / "leak")
    for item in ("12a", "16"):
        assert "24 of the 24 evaluated records are of patients trained on" in items[item]
    assert "the valid split chose the calibration." in items["12a"] and "is only evaluated" not in items["12a"]
    assert "the valid split chose the calibration." in held_fixed(tmp_path / "leak")

    (tmp_path / "others.csv").write_text("study_id,split\n7,train\n")
    frozen = ["--operating-points", metrics, "--trained-on", tmp_path / "others.csv"]
    evaluate(capsys, ANY, *arguments, "--out", tmp_path / "frozen", *frozen)
    items = checklist_of(tmp_path / "frozen")
    assert "fitted on the development's valid split" in items["12f"]
    chose = "the development's valid split chose the thresholds and the calibration."
    assert chose in items["12a"].replace("&#39;", "'") and chose in held_fixed(tmp_path / "frozen")
    assert "None of the evaluated patients was found among those trained on" in items["16"]

    options = ["--base-dir", base, "--set", "valid", "--bootstrap", 0, "--out", tmp_path / "valid"]
    evaluate(capsys, FINETUNED, *options)
    page = next((tmp_path / "valid").glob("report_*.html")).read_text()
    assert "<span>Valid split</span><b>16</b>" in page and "<span>Test set</span>" not in page


def test_figures_are_files_that_stand_alone(paper):
    _, _, folder = paper
    drawn = {path.stem for path in folder.glob("*.svg")}
    assert drawn == {path.stem for path in folder.glob("*.csv")} and len(drawn) > 70
    assert {"forest_auroc", "flow", "roc_sinus_rhythm", "decision_infarction", "together_true", "miss_1"} <= drawn
    for path in folder.glob("*.svg"):
        text = path.read_text()
        assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg" and "var(" not in text
        assert len(pd.read_csv(path.with_suffix(".csv"))) > 0
    forest = pd.read_csv(folder / "forest_auroc.csv")
    assert list(forest.columns) == ["label", "auroc", "auroc_low", "auroc_high", "published"]


def test_colours_of_files_are_those_of_the_page_in_daylight():
    assert dict(re.findall(r"--(\w+): (#\w+);", STYLE.split("@media")[0])).items() >= COLOURS.items()


def test_a_name_becomes_one_of_a_file(tmp_path):
    album = Album()
    names = (
        "ST/T",
        "ST-T",
        "ST/T 2",
        "\u00e9lev\u00e9",
        "e\u0301leve\u0301",
        "\u623f\u98a4",
        "\u65e9\u640f",
        "x" * 300,
        "x" * 301,
    )
    for name in names:
        album.add(f"roc {name}", '<svg class="figure" viewBox="0 0 1 1"></svg>', pd.DataFrame({"number": [1]}))
    written = [
        f"roc_{name}"
        for name in (
            "st_t",
            "st_t_2",
            "st_t_2_2",
            "\u00e9lev\u00e9",
            "\u00e9lev\u00e9_2",
            "\u623f\u98a4",
            "\u65e9\u640f",
        )
    ]
    assert list(album.figures) == [*written, f"roc_{'x' * 46}", f"roc_{'x' * 46}_2"]
    write_figures(tmp_path, album)
    assert len(list(tmp_path.iterdir())) == 18
    assert (
        standalone('<svg xmlns="http://www.w3.org/2000/svg"></svg>') == '<svg xmlns="http://www.w3.org/2000/svg"></svg>'
    )


@given(st.floats(-1, 1), st.floats(0, 1), st.floats(0, 1))
def test_an_interval_that_excludes_0_never_reads_0(value, below, above):
    low, high = max(value - below, -1), min(value + above, 1)
    text, interval = signed_interval(value, low, high)
    ends = [float(end) for end in interval.split(" to ")]
    if max(low, -high) > 1e-9:
        assert 0 not in ends and (ends[0] > 0 or ends[1] < 0)
    assert not re.search(r"[-+]0\.0+$", text) and not re.search(r"[-+]0\.0+( |$)", interval)
    assert plain_interval(-0.0001, -0.0002, 0.4) == ("0.000", "0.000 to 0.400")


def test_frozen_operating_points_keep_the_further_ones(paper, capsys, tmp_path):
    base, _, _ = paper
    (metrics,), (points,) = (outputs(locate(base, "eval"), name) for name in ("metrics", "operating_points"))
    (predictions,) = outputs(locate(base, "eval"), "predictions")
    arguments = ["--base-dir", base, "--predictions", predictions, "--bootstrap", 0, "--out", tmp_path]
    evaluate(capsys, ANY, *arguments, "--operating-points", metrics)
    again, first = pd.read_csv(outputs(tmp_path, "operating_points")[0]), pd.read_csv(points)
    assert list(again["rule"].unique()) == list(first["rule"].unique())
    np.testing.assert_array_equal(again["threshold"], first["threshold"])
    points.write_text(points.read_text().replace("sensitivity 0.9,", "sensitivity 0.8,", 1))
    assert "not the file that the eval stage wrote" in evaluate(
        capsys, ANY, *arguments, "--operating-points", metrics, exit_code=1
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--subgroups", "nowhere.csv"], "nowhere.csv: no such file"),
        (["--subgroups", "{base}/subjects.csv", "--by", "sex,ward"], "column 'ward' is missing"),
        (["--figures", "{base}/subjects.csv"], "not a folder"),
    ],
)
def test_what_cannot_be_read_or_written_is_refused_before_the_first_write(paper, capsys, tmp_path, options, message):
    base, _, _ = paper
    options = [option.format(base=base) for option in options]
    arguments = ["--base-dir", base, "--out", tmp_path / "out", "--num-workers", 0, *options]
    assert message in evaluate(capsys, ANY, "--model-path", locate(base, "checkpoint_best"), *arguments, exit_code=1)
    assert not (tmp_path / "out").exists()

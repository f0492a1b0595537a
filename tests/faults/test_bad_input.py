"""Damaged input files: the right answer or one line that names the file, never a traceback, a hang or a wrong value."""

import csv
import io
import json
import re
import shutil

import numpy as np
import pytest
import scipy.io
import torch
import wfdb
from damage import damaged, no_hang
from hypothesis import HealthCheck, Phase, given, settings

from ecg_finetune import tables
from ecg_finetune.command_line import UserError
from ecg_finetune.diagnoses import LABELS
from ecg_finetune.matfile import read_mat
from ecg_finetune.paths import locate, save_file_name
from ecg_finetune.segments import read_labels, read_manifest, read_segment
from ecg_finetune.study_labels import read_study_labels


@pytest.fixture
def campaign(request, tmp_path):
    """Return a function that reads many damaged copies of a file and checks every outcome.

    `campaign(valid, name, read, check)`: `read(path)` must return or raise a `UserError` that names the file;
    `check(content, result)` judges what was returned.
    """
    examples = request.config.getoption("--bad-inputs")

    def run(valid: bytes, name: str, read, check):
        path = tmp_path / name
        answered = refused = 0

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        )
        @given(damaged(valid))
        def attempt(content):
            nonlocal answered, refused
            path.write_bytes(content)
            try:
                with no_hang():
                    result = read(path)
            except UserError as error:
                assert name in str(error), f"{error} does not name the file"
                refused += 1
            else:
                answered += 1
                check(content, result)

        path.write_bytes(valid)
        check(valid, read(path))  # the undamaged file is read
        attempt()
        print(f"\n{name}: {answered + refused} damaged copies, {answered} read right, {refused} refused")

    return run


def rows_of(content: bytes) -> list[dict[str, str]]:
    """Return the rows of a CSV file as Python's own reader gives them."""
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))


def test_record_list(campaign, undisturbed):
    valid = b"".join((undisturbed.raw / "record_list.csv").read_bytes().splitlines(keepends=True)[:20])

    def check(content, table):
        expected = [(int(row["study_id"]), row["path"]) for row in rows_of(content)]
        assert list(zip(table["study_id"], table["path"], strict=True)) == expected

    campaign(valid, "record_list.csv", tables.read_record_list, check)


def test_record_paths(campaign, undisturbed):
    valid = b"".join((undisturbed.raw / "record_list.csv").read_bytes().splitlines(keepends=True)[:20])
    wanted = np.array([int(row["study_id"]) for row in rows_of(valid)])

    def check(content, paths):
        listed = {int(row["study_id"]): row["path"] for row in rows_of(content)}
        assert paths == [listed.get(study, "") for study in wanted.tolist()]

    campaign(valid, "record_list.csv", lambda path: tables.read_paths(path, wanted), check)


def test_meta_split(campaign, undisturbed):
    valid = b"".join(locate(undisturbed.base, "meta_split").read_bytes().splitlines(keepends=True)[:20])

    def check(content, columns):
        expected = [(row["save_file"], row["split"]) for row in rows_of(content)]
        found = zip(*(column.tolist() for column in columns), strict=True)
        assert [(save_file_name(study), tables.SPLITS[split]) for study, split in found] == expected

    campaign(valid, "meta_split.csv", tables.read_splits, check)


def test_labels(campaign, undisturbed, tmp_path):
    mapping = locate(undisturbed.base, "study_id_mapping")
    shutil.copy(mapping, tmp_path / mapping.name)
    study_of = {row["idx"]: int(row["study_id"]) for row in rows_of(mapping.read_bytes())}
    valid = b"".join(locate(undisturbed.base, "labels").read_bytes().splitlines(keepends=True)[:20])

    def check(content, result):
        studies, labels = result
        rows = rows_of(content)
        assert studies.tolist() == [study_of[row["idx"]] for row in rows]
        assert labels.tolist() == [[float(row[name]) for name in LABELS] for row in rows]

    campaign(valid, "labels.csv", lambda path: read_study_labels(path.parent), check)


def test_measurements(campaign, undisturbed):
    from ecg_fm_labeler.reports import read_reports

    valid = b"".join((undisturbed.raw / "machine_measurements.csv").read_bytes().splitlines(keepends=True)[:12])

    def check(content, reports):
        found = [[reports.statements[number] for number in reports.distinct[which]] for which in reports.which]
        rows = rows_of(content)
        columns = sorted(
            (name for name in rows[0] if name and re.fullmatch(r"report_\d+", name)), key=lambda name: int(name[7:])
        )
        assert reports.study_id.tolist() == [int(row["study_id"]) for row in rows]
        assert found == [[row[name].strip() for name in columns if row[name].strip()] for row in rows]

    campaign(valid, "machine_measurements.csv", read_reports, check)


def test_manifest(campaign, undisturbed):
    valid = b"".join(locate(undisturbed.base, "manifest", split="valid").read_bytes().splitlines(keepends=True)[:20])

    def check(content, manifest):
        lines = content.decode().splitlines()
        assert [f"{file}\t{manifest.samples}" for file in manifest.files] == [
            "/".join([lines[0].rstrip("/"), line]) for line in lines[1:]
        ]

    campaign(valid, "valid.tsv", read_manifest, check)


def test_label_array(campaign, undisturbed):
    valid = io.BytesIO()
    np.save(valid, np.load(locate(undisturbed.base, "manifest_y"))[:10])

    def check(content, labels):
        assert labels.dtype == np.float32 and labels.shape[1] == 17
        np.testing.assert_array_equal(labels, np.load(io.BytesIO(content)))

    campaign(valid.getvalue(), "y.npy", read_labels, check)


def test_mat_against_scipy(campaign, undisturbed):
    valid = next(locate(undisturbed.base, "segments").glob("*.mat")).read_bytes()

    def check(content, variables):
        expected = scipy.io.loadmat(io.BytesIO(content))
        for name, value in variables.items():
            if not name.startswith("__"):
                np.testing.assert_array_equal(value, expected[name])

    campaign(valid, "segment.mat", read_mat, check)


def test_segment(campaign, undisturbed):
    file = next(locate(undisturbed.base, "segments").glob("*.mat"))
    expected = scipy.io.loadmat(file)["feats"][0]

    def check(_, result):
        np.testing.assert_array_equal(result[0], expected)

    campaign(file.read_bytes(), "segment.mat", lambda path: read_segment(path, 2500, 10**6), check)


def read_or_refuse(stem):
    """Read Lead I as preprocess does; its refusal of a record as a `UserError` that names the header."""
    from ecg_preprocess.record import RecordError, read_lead

    try:
        return read_lead(str(stem), "I", 10)
    except RecordError as error:
        assert error.status
        raise UserError(f"{stem}.hea {stem}.dat: {error.status}: {error.detail}") from None


def test_header_against_wfdb(campaign, undisturbed, tmp_path):
    record = next((undisturbed.raw / "files").rglob("*.hea"))
    shutil.copy(record.with_suffix(".dat"), tmp_path)

    def check(_, signal):
        names = [name.lower() for name in wfdb.rdheader(str(tmp_path / record.stem)).sig_name]
        with np.errstate(all="ignore"):
            reference = wfdb.rdrecord(str(tmp_path / record.stem), channels=[names.index("i")])
        np.testing.assert_array_equal(signal.values, reference.p_signal[: len(signal.values), 0])
        assert (signal.rate, signal.samples) == (reference.fs, reference.sig_len)

    campaign(record.read_bytes(), record.name, lambda path: read_or_refuse(path.with_suffix("")), check)


def test_signal_file_against_wfdb(campaign, undisturbed, tmp_path):
    record = next((undisturbed.raw / "files").rglob("*.hea"))
    shutil.copy(record, tmp_path)

    def check(_, signal):
        reference = wfdb.rdrecord(str(tmp_path / record.stem), channel_names=["I"])
        np.testing.assert_array_equal(signal.values, reference.p_signal[: len(signal.values), 0])

    data = record.with_suffix(".dat")
    campaign(data.read_bytes(), data.name, lambda path: read_or_refuse(path.with_suffix("")), check)


def test_checkpoint(campaign, test_data):
    from ecg_finetune.ecg_fm import load_classifier

    file = test_data / "checkpoints" / "tiny1_finetuned.pt"
    source = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 12, 2500), dtype=np.float32))
    with torch.inference_mode():
        expected = load_classifier(file)(source)

    def check(_, model):
        with torch.inference_mode():
            assert torch.equal(model(source), expected)

    campaign(file.read_bytes(), "checkpoint.pt", load_classifier, check)


@pytest.mark.parametrize("name", ["entity_pat.json", "entity_tem.json", "desc_pat.json", "connective.json"])
def test_configuration(campaign, tmp_path, name):
    from ecg_fm_labeler import Labeler
    from ecg_fm_labeler.configuration import PROJECT_CONFIG

    folder = tmp_path / "config"
    shutil.copytree(PROJECT_CONFIG, folder)

    def read(path):
        shutil.copy(path, folder / name)
        return Labeler.from_config(folder)

    def check(content, labeler):
        json.loads(content)
        assert labeler.label([["Sinus rhythm"]]).hard.shape == (1, 17)

    campaign((folder / name).read_bytes(), name, read, check)

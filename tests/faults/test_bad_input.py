"""Damaged input files: the right answer or one line that names the file, never a traceback, a hang or a wrong value.

What a reader answers is compared with what an independent reader finds in the same damaged file: a CSV parser of the
test's own, `json`, numpy, scipy, wfdb, PyTorch.
"""

import csv
import hashlib
import io
import json
import re
import shutil

import numpy as np
import pytest
import scipy.io
import torch
import wfdb
from damage import damaged, no_hang, values_damaged
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from small_configuration import SMALL

from ecg_finetune import studies
from ecg_finetune.files import UserError
from ecg_finetune.label_set import ECG_FM, LABELS, read_label_set, read_pos_weight, write_label_definition
from ecg_finetune.matfile import read_mat
from ecg_finetune.matfile_halves import encode_packed
from ecg_finetune.paths import locate
from ecg_finetune.segments import read_label_rows, read_manifest, read_record, read_segment
from ecg_finetune.studies import read_study_labels


@pytest.fixture
def campaign(request, tmp_path):
    """Return a function that reads many damaged copies of a file and checks every outcome.

    `campaign(valid, name, read, check)`: `read(path)` must return or raise a `UserError` that names the file or its
    folder; `check(content, result)` judges what was returned. `copies` is a strategy of its own for the copies;
    `share`: how many campaigns share the number of inputs, because they are of one reader.
    """
    examples = request.config.getoption("--bad-inputs")
    number = request.config.getoption("--bad-input-seed")

    def run(valid: bytes, name: str, read, check, copies=None, share=1):
        path = tmp_path / name
        answered = refused = 0

        @seed(number)
        @settings(
            max_examples=-(-examples // share),
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
            verbosity=Verbosity.quiet,  # the damaged copy is left in tmp_path
        )
        @given(damaged(name, valid) if copies is None else copies)
        def attempt(content):
            nonlocal answered, refused
            path.write_bytes(content)
            try:
                with no_hang():
                    result = read(path)
            except UserError as error:
                assert name in str(error) or str(tmp_path) in str(error), f"{error} does not name the file"
                refused += 1
            else:
                answered += 1
                check(content, result)

        path.write_bytes(valid)
        check(valid, read(path))  # the undamaged file is read
        attempt()
        print(f"\n{name}: {answered + refused:,} damaged copies, {answered:,} read right, {refused:,} refused")

    return run


def first_rows(path, count: int = 20) -> bytes:
    """Return the header and the first rows of a CSV file."""
    return b"".join(path.read_bytes().splitlines(keepends=True)[:count])


def cells_of(content: bytes) -> list[list[str]]:
    """Return the cells of a CSV file as RFC 4180 reads it; empty lines are skipped.

    Raises
    ------
    ValueError
        It is not UTF-8, or a quoted cell does not end where a cell ends.
    """
    text = content.decode("utf-8-sig")
    assert "\0" not in text
    cell = re.compile(r'"((?:[^"]|"")*)"(?=[,\r\n]|\Z)|([^",\r\n][^,\r\n]*|(?=[,\r\n]|\Z))')
    rows, row, position = [], [], 0
    while position < len(text):
        match = cell.match(text, position)
        if match is None:
            raise ValueError(f"no cell at {text[position : position + 20]!r}")
        row.append(match[2] if match[1] is None else match[1].replace('""', '"'))
        position = match.end()
        if text[position : position + 1] == ",":
            position += 1
            if position < len(text):
                continue
            row.append("")
        position += 2 if text[position : position + 2] == "\r\n" else 1
        rows, row = (rows if row == [""] else [*rows, row]), []
    return rows


def columns_of(content: bytes, *names: str) -> list[tuple[str, ...]]:
    """Return the cells of some columns of a CSV file, which must have a cell for each column in each row."""
    header, *rows = cells_of(content)
    assert all(header.count(name) == 1 for name in names), "a column is missing or a duplicate"
    assert {len(row) for row in rows} <= {len(header)}, "a row has too few or too many cells"
    assert rows, "no rows"
    return [tuple(row[header.index(name)] for name in names) for row in rows]


def whole(text: str) -> int:
    """Return a whole number as a CSV file writes it."""
    assert re.fullmatch("[0-9]{1,18}", text), f"{text!r} is not an integer"
    return int(text)


def real(text: str) -> float:
    """Return a number as a CSV file writes it."""
    assert re.fullmatch(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*", text), f"{text!r} is no number"
    return float(text)


def all_different(values) -> list:
    """Return the values, none of which may be a duplicate."""
    assert len(set(values)) == len(values), "one is a duplicate"
    return list(values)


# Tables of the user and of the stages


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: "\ufeff" + text,
        lambda text: text.rstrip("\n"),
        lambda text: text.replace("\n", "\n\n"),
        lambda text: re.sub(r"[^,\n]+", r'"\g<0>"', text),
        lambda text: re.sub(r"(?m)$", r',"one, ""two"""', text).removesuffix(',"one, ""two"""'),
        lambda text: re.sub(r"(?m)^(\w+),(\w+),", r"\2,\1,", text),
    ],
    ids=["CRLF", "CR", "BOM", "no last line end", "empty lines", "all quoted", "further column", "other order"],
)
def test_what_is_no_damage_is_read(undisturbed, tmp_path, change):
    valid = first_rows(undisturbed.raw / "record_list.csv")
    (tmp_path / "list.csv").write_bytes(change(valid.decode()).encode())
    table = studies.read_studies(tmp_path / "list.csv", need_patients=True, otherwise="")
    paths = studies.read_paths(tmp_path / "list.csv", table["study_id"].to_numpy())
    rows = list(zip(table["subject_id"].astype(str), table["study_id"].astype(str), paths, strict=True))
    assert rows == columns_of(valid, "subject_id", "study_id", "path")


def test_record_paths(campaign, undisturbed):
    valid = first_rows(undisturbed.raw / "record_list.csv")
    wanted = np.array([whole(study) for (study,) in columns_of(valid, "study_id")])

    def check(content, paths):
        listed = {whole(study): path for study, path in columns_of(content, "study_id", "path")}
        assert paths == [listed.get(study, "") for study in wanted.tolist()]

    campaign(valid, "record_list.csv", lambda path: studies.read_paths(path, wanted), check)


@pytest.mark.parametrize("patients", ["subject_id", "path"])
def test_record_list(campaign, undisturbed, patients):
    valid = first_rows(undisturbed.raw / "record_list.csv")
    if patients == "path":
        lines = valid.decode().splitlines()
        valid = "".join(f"{line.partition(',')[2]}\n" for line in lines).encode()  # without subject_id

    def read(path):
        return studies.read_studies(path, need_patients=True, otherwise="")

    def check(content, table):
        header = cells_of(content)[0]
        ids = "subject_id" if "subject_id" in header else "path"
        rows = columns_of(content, "study_id", ids)
        assert table["study_id"].tolist() == all_different([whole(study) for study, _ in rows])
        patients = [re.search(r"(?:^|/)p([0-9]{8})(?:/|$)", place)[1] if ids == "path" else place for _, place in rows]
        assert table["subject_id"].tolist() == [whole(patient) for patient in patients]
        if "path" in header:
            for subject, study, (place,) in zip(table["subject_id"], table["study_id"], columns_of(content, "path")):
                named = re.search(r"(?:^|/)p([0-9]{8})/s([0-9]{8})(?:/|$)", place)
                assert named is None or [int(named[1]), int(named[2])] == [subject, study]

    campaign(valid, "record_list.csv", read, check)


def test_meta_split(campaign, undisturbed):
    def check(content, result):
        rows = [
            (f"mimic_iv_ecg_{study}.mat", studies.SPLITS[code]) for study, code in zip(*map(np.ndarray.tolist, result))
        ]
        assert rows == columns_of(content, "save_file", "split")
        all_different([file for file, _ in rows])

    campaign(first_rows(locate(undisturbed.base, "meta_split")), "meta_split.csv", studies.read_splits, check)


@pytest.mark.parametrize("column", ["study_id", "save_file"])
def test_foreign_split(campaign, undisturbed, column):
    from ecg_finetune.foreign_split import read_foreign_split

    rows = columns_of(first_rows(locate(undisturbed.base, "meta_split")), "save_file", "split")
    names = {"train": "Training", "valid": "dev", "test": "test"}
    ids = [re.sub(r"\D", "", file) if column == "study_id" else file for file, _ in rows]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [("fold", column, "split"), *((1, one, names[split]) for one, (_, split) in zip(ids, rows))]
    )

    def check(content, result):
        used = "study_id" if "study_id" in cells_of(content)[0] else "save_file"
        rows = columns_of(content, used, "split")
        ids = [re.fullmatch(r"(?:.*[/\\])?(?:mimic_iv_ecg_)?([0-9]+)(?:\.mat)?", one)[1] for one, _ in rows]
        splits = [
            {"tr": "train", "va": "valid", "de": "valid", "te": "test", "ts": "test"}[split.strip().lower()[:2]]
            for _, split in rows
        ]
        found = list(dict.fromkeys(zip(map(whole, ids), splits)))  # a row that says the same again counts once
        assert result[0].tolist() == all_different([study for study, _ in found])
        assert [studies.SPLITS[split] for split in result[1]] == [split for _, split in found]

    campaign(text.getvalue().encode(), "given.csv", read_foreign_split, check)


@pytest.mark.parametrize("name", ["labels.csv", "study_id_mapping.csv"])
def test_study_labels(campaign, undisturbed, tmp_path, name):
    valid = {}
    for artefact in ("labels", "study_id_mapping"):
        path = locate(undisturbed.base, artefact)
        valid[path.name] = first_rows(path)
        (tmp_path / path.name).write_bytes(valid[path.name])

    def check(content, result):
        contents = valid | {name: content}
        mapping = columns_of(contents["study_id_mapping.csv"], "idx", "study_id")
        names = cells_of(contents["labels.csv"])[0][1:]
        assert result[2].names == tuple(all_different(names))
        labels = columns_of(contents["labels.csv"], "idx", *names)
        all_different([whole(idx) for idx, _ in mapping])
        all_different([whole(idx) for idx, *_ in labels])
        study_of = {whole(idx): whole(study) for idx, study in mapping}
        rows = [(study_of[whole(idx)], tuple(value and real(value) for value in values)) for idx, *values in labels]
        found = (tuple("" if value != value else value for value in row) for row in result[1].tolist())
        assert set(zip(result[0].tolist(), found)) == set(rows)
        all_different(result[0].tolist())

    campaign(valid[name], name, lambda path: read_study_labels(path.parent), check)


def test_measurements(campaign, undisturbed):
    from ecg_fm_labeler.reports import read_reports

    def check(content, reports):
        found = [[reports.statements[number] for number in reports.distinct[which]] for which in reports.which]
        names = [name for name in cells_of(content)[0] if re.fullmatch(r"report_[0-9]+", name)]
        rows = columns_of(content, "study_id", *sorted(names, key=lambda name: int(name[7:])))
        assert reports.study_id.tolist() == [whole(study) for study, *_ in rows]
        assert found == [[cell.strip() for cell in cells if cell.strip()] for _, *cells in rows]

    valid = first_rows(undisturbed.raw / "machine_measurements.csv", 12)
    campaign(valid, "machine_measurements.csv", read_reports, check)


def test_preprocess_report_in_build(campaign, undisturbed):
    from ecg_build.records import NOT_PREPROCESSED, read_report

    valid = first_rows(locate(undisturbed.base, "report"))
    wanted = np.array([whole(study) for (study,) in columns_of(valid, "study_id")] + [7])

    def check(content, result):
        rows = columns_of(content, "study_id", "status")
        all_different([whole(study) for study, _ in rows])
        status_of = {whole(study): status for study, status in rows}
        assert result[0] == [status_of.get(study, NOT_PREPROCESSED) for study in wanted.tolist()]

    campaign(valid, "report.csv", lambda path: read_report(path, wanted), check)


def test_preprocess_report_in_eval(campaign, undisturbed):
    from ecg_evaluation.misses import MOST_SD, read_scale

    def check(content, table):
        rows = columns_of(content, "study_id", "mean_mv", "std_mv")
        all_different([whole(study) for study, _, _ in rows])
        numbers = [(whole(study), *(real(text) if text else np.nan for text in row)) for study, *row in rows]
        known = [row for row in numbers if np.isfinite(row[1]) and 0 < row[2] <= MOST_SD]
        assert table.index.tolist() == [study for study, _, _ in known]
        np.testing.assert_array_equal(table[["mean_mv", "std_mv"]].to_numpy().tolist(), [row[1:] for row in known])

    campaign(first_rows(locate(undisturbed.base, "report")), "report.csv", read_scale, check)


def test_preprocess_journal(campaign, undisturbed, tmp_path):
    from ecg_preprocess.preprocess_report import PreprocessReport, parse_row

    valid = first_rows(locate(undisturbed.base, "report"))
    studies = [whole(study) for (study,) in columns_of(valid, "study_id")]
    folder, sizes = tmp_path / "lead", {}
    folder.mkdir()
    for study in studies:
        file = locate(undisturbed.base, "lead") / f"mimic_iv_ecg_{study}.mat"
        if file.exists():
            shutil.copy(file, folder)
            sizes[study] = file.stat().st_size

    def check(content, rows):
        found = [parse_row(line) for line in content.decode(errors="replace").split("\n")]
        for study, row in zip(studies, rows, strict=True):
            if row is not None:
                assert row in found and all(map(np.isfinite, row.signal))
                assert (row.study_id, row.status, row.detail, row.mat_bytes) == (study, "ok", "", sizes[study])
        if content == valid:
            assert {study for study, row in zip(studies, rows) if row} == sizes.keys()

    campaign(valid, "lead.journal.csv", lambda _: PreprocessReport(folder, np.array(studies)).rows, check)


# What eval reads


def test_test_labels(campaign, undisturbed, tmp_path):
    from ecg_evaluation.inputs import read_test_set

    def check(content, test):
        rows = columns_of(content, "idx", *LABELS)
        assert test.study_id.tolist() == all_different([whole(idx) for idx, *_ in rows])
        expected = [[real(text) if text else np.nan for text in values] for _, *values in rows]
        np.testing.assert_array_equal(test.truth, expected)

    shutil.copy(locate(undisturbed.base, "test_label_def"), tmp_path)
    valid = first_rows(locate(undisturbed.base, "test") / "test_labels.csv")
    campaign(valid, "test_labels.csv", lambda path: read_test_set(path.parent, None), check)


def test_test_file_list(campaign, undisturbed):
    from ecg_evaluation.inputs import test_files

    valid = first_rows(locate(undisturbed.base, "test") / "test_file_list.csv")
    studies = np.array([whole(study) for (study,) in columns_of(valid, "study_id")])

    def check(content, files):
        rows = columns_of(content, "study_id", "save_file")
        all_different([whole(study) for study, _ in rows])
        file_of = {whole(study): file for study, file in rows}
        assert [str(file.name) for file in files] == [file_of[study].rpartition("/")[2] for study in studies.tolist()]

    campaign(valid, "test_file_list.csv", lambda path: test_files(path.parent, studies), check)


@pytest.mark.parametrize("wanted", [None, range(12, 0, -1)])
def test_predictions(campaign, wanted):
    from ecg_evaluation.inputs import read_predictions

    wanted = None if wanted is None else np.array(wanted)
    text = io.StringIO()
    values = np.random.default_rng(0).random((12, len(LABELS))).tolist()
    csv.writer(text, lineterminator="\n").writerows(
        [("study_id", *LABELS), *((study, *row) for study, row in enumerate(values, start=1))]
    )

    def check(content, result):
        rows = {whole(study): [real(text) for text in row] for study, *row in columns_of(content, "study_id", *LABELS)}
        all_different([study for study, *_ in columns_of(content, "study_id")])
        found = result.study_id if wanted is None else wanted
        assert sorted(found.tolist()) == sorted(rows)
        assert result.of(found).tolist() == [rows[study] for study in found.tolist()]
        assert result.probabilities.min() >= 0 and result.probabilities.max() <= 1

    def read(path):
        result = read_predictions(path, LABELS)
        if wanted is not None:
            result.of(wanted)
        return result

    campaign(text.getvalue().encode(), "predictions.csv", read, check, share=2)


def test_origin_of_predictions(campaign, tmp_path):
    from ecg_evaluation.provenance import read_origin, write_origin

    predictions = tmp_path / "predictions.csv"
    predictions.write_text("study_id\n")
    write_origin(
        predictions, {"checkpoint": "x.pt", "checkpoint_sha256": "abc", "batch_size": 64, "versions": {"a": "1"}}
    )
    digest = hashlib.sha256(predictions.read_bytes()).hexdigest()

    def check(content, origin):
        found = json.loads(content)
        assert origin == (found if found.get("predictions_sha256") == digest else {})

    valid = (tmp_path / "predictions.json").read_bytes()
    campaign(valid, "predictions.json", lambda _: read_origin(predictions), check)


# Manifests and what belongs to them


def test_manifest(campaign, undisturbed):
    valid = first_rows(locate(undisturbed.base, "manifest", split="valid"))

    def check(content, manifest):
        text = re.sub("\r\n?", "\n", content.decode())
        root, *lines = text.removesuffix("\n").split("\n")
        assert root and lines == [f"{file.relative_to(root)}\t{manifest.samples}" for file in manifest.files]
        all_different(lines)

    campaign(valid, "valid.tsv", read_manifest, check)


@pytest.mark.parametrize("name", ["y.npy", "original_idx_order.npy"])
def test_label_arrays(campaign, tmp_path, name):
    arrays = {"y.npy": np.eye(10, 17, dtype=np.float32), "original_idx_order.npy": np.repeat(np.arange(5) + 40000, 2)}
    for file, array in arrays.items():
        np.save(tmp_path / file, array)
    write_label_definition(tmp_path / "label_def.csv", ECG_FM, arrays["y.npy"])

    def check(content, result):
        found = np.load(io.BytesIO(content))
        assert found.shape[0] == 10
        np.testing.assert_array_equal(result[list(arrays).index(name)], found)
        assert result[0].dtype == np.float32 and result[0].shape == (10, 17) and result[1].shape == (10,)
        assert (np.isnan(result[0]) | ((result[0] >= 0) & (result[0] <= 1))).all()

    campaign((tmp_path / name).read_bytes(), name, lambda path: read_label_rows(path.parent), check)


def test_label_set(campaign, tmp_path):
    write_label_definition(tmp_path / "label_def.csv", ECG_FM, np.eye(17))

    def check(content, result):
        with_combine = "combine" in cells_of(content)[0]
        rows = columns_of(content, "name", "combine") if with_combine else columns_of(content, "name")
        assert list(result.names) == all_different([name for name, *_ in rows]) and all(map(str.strip, result.names))
        assert set(result.combine) <= {"max", "mean"} and len(result.combine) == len(result.names)
        assert not with_combine or list(result.combine) == [how for _, how in rows]

    campaign((tmp_path / "label_def.csv").read_bytes(), "label_def.csv", read_label_set, check)


def test_pos_weight(campaign):
    def check(content, weights):
        assert weights.tolist() == [real(text) for text in content.decode().split()]
        assert weights.shape == (17,) and weights.min() >= 0

    campaign(
        b" ".join(b"%.8f" % (k / 7) for k in range(17)) + b"\n",
        "pos_weight.txt",
        lambda path: read_pos_weight(path, 17),
        check,
    )


# .mat files


def mat_copies(content: bytes):
    """Return a strategy of .mat files with other variables, as scipy writes them."""
    variables = {name: value for name, value in scipy.io.loadmat(io.BytesIO(content)).items() if name[0] != "_"}
    feats = variables["feats"]
    other_row, complex_row = feats.copy(), feats.astype(np.complex64)
    other_row[3, 5] += 1
    complex_row[:, 5] += 1j
    odd = [
        *(0, -1, 0.5, 500, 500.0, 2500, np.nan, np.inf, 2**62, 1e300, 1j, True, "x", "500", [], {"a": 1}, [1, 2], b"x"),
        *(
            feats[:, :-1],
            feats[:0],
            feats[:1],
            feats.astype(np.float64),
            feats * np.nan,
            np.full_like(feats, np.inf),
            feats.T,
            other_row,
        ),
        *(complex_row, feats.astype(str), feats.astype(object)[:2, :3], np.zeros((0, 0)), feats[None], feats > 0),
        *(scipy.sparse.csc_matrix(feats[:, :9]), feats.astype(np.int16), np.float32(500), np.uint8(3)),
    ]

    def written(variables) -> bytes:
        file = io.BytesIO()
        # What scipy cannot write is no input; then the undamaged file stands in.
        try:
            scipy.io.savemat(file, variables, do_compression=True)
        except Exception:
            return content
        return file.getvalue()

    return values_damaged(variables, tuple(odd)).map(written)


def load_with_scipy(content: bytes, names) -> dict:
    """Read variables of a .mat file. scipy looks at the text at its start, which says nothing; others can crash it."""
    return scipy.io.loadmat(io.BytesIO(b"MATLAB".ljust(124) + content[124:]), variable_names=list(names))


def read_halves_of(study: int):
    """Return the build stage's reader of a 10 s file."""
    from ecg_build.cutting import read_halves

    def read(path):
        files = [encode_packed("feats", [half], {}) for half in read_halves(str(path), study)]
        return np.concatenate([scipy.io.loadmat(io.BytesIO(file))["feats"] for file in files], axis=1)

    return read


@pytest.mark.parametrize("damage", ["bytes", "variables"])
@pytest.mark.parametrize("reader", ["all variables", "segment", "10 s file"])
def test_mat_file(campaign, undisturbed, damage, reader):
    segment = next(locate(undisturbed.base, "segments").glob("*.mat"))
    record = next(locate(undisturbed.base, "lead").glob("*.mat"))
    study = int(re.sub(r"\D", "", record.name))
    file, read = {
        "all variables": (segment, read_mat),
        "segment": (segment, lambda path: read_segment(path, 2500, 10**6)),
        "10 s file": (record, lambda path: read_record(path, 5000, study)),
    }[reader]

    def check(content, result):
        names = {"all variables": result, "segment": ("idx", "original_idx"), "10 s file": ("idx",)}[reader]
        expected = load_with_scipy(content, ["feats", "curr_sample_rate", *names])
        if reader == "all variables":
            for name, value in result.items():
                assert value.dtype.kind in "fiu"
                np.testing.assert_array_equal(value, expected[name])
            return
        feats = expected["feats"]
        lead = result if reader == "10 s file" else result[0]
        assert lead.dtype == np.float32 and np.isfinite(lead).all() and np.isrealobj(feats)
        np.testing.assert_array_equal(np.broadcast_to(lead, feats.shape), feats.astype(np.float32))
        assert expected["curr_sample_rate"].item() == 500
        numbers = (study,) if reader == "10 s file" else result[1:]
        assert numbers == tuple(expected[name].item() for name in names)

    valid = file.read_bytes()
    campaign(valid, "file.mat", read, check, mat_copies(valid) if damage == "variables" else None, share=2)


@pytest.mark.parametrize("damage", ["bytes", "variables"])
def test_10_s_file_in_build(campaign, undisturbed, damage):
    file = next(locate(undisturbed.base, "lead").glob("*.mat"))
    study = int(re.sub(r"\D", "", file.name))

    def check(content, feats):
        expected = load_with_scipy(content, ["feats", "idx"])
        assert expected["idx"].item() == study
        np.testing.assert_array_equal(feats, expected["feats"].astype(np.float32))

    valid = file.read_bytes()
    campaign(
        valid, "file.mat", read_halves_of(study), check, mat_copies(valid) if damage == "variables" else None, share=2
    )


# WFDB records


def read_or_refuse(stem):
    """Read Lead I as preprocess does; its refusal of a record as a `UserError` that names the header."""
    from ecg_finetune.waveform import RecordError
    from ecg_finetune.wfdb_records import read_record_lead

    try:
        return read_record_lead(str(stem), "I", 10)
    except RecordError as error:
        assert error.status
        raise UserError(f"{stem}.hea {stem}.dat {stem}.mat: {error.status}: {error.detail}") from None


@pytest.mark.parametrize("damage", ["header", "signal"])
@pytest.mark.parametrize("kind", ["synthetic", "format 16+24", "1000 Hz", "100 Hz"])
def test_record_against_wfdb(campaign, request, tmp_path, kind, damage):
    if kind == "synthetic":
        header = next((request.getfixturevalue("undisturbed").raw / "files").rglob("*.hea"))
    else:
        folder = request.getfixturevalue("test_data")
        header = {
            "format 16+24": sorted((folder / "wfdb50/raw").rglob("*40000001.hea"))[0],
            "1000 Hz": folder / "wfdb_odd/s0010_re.hea",
            "100 Hz": folder / "wfdb_odd/00001_lr.hea",
        }[kind]
    signal = next(file for file in header.parent.glob(f"{header.stem}.*") if file.suffix != ".hea")
    for file in (header, signal):
        shutil.copy(file, tmp_path)

    def check(_, lead):
        names = [(name or "").lower() for name in wfdb.rdheader(str(tmp_path / header.stem)).sig_name]
        with np.errstate(all="ignore"):
            reference = wfdb.rdrecord(str(tmp_path / header.stem), channels=[names.index("i")])
        np.testing.assert_array_equal(lead.values, reference.p_signal[: len(lead.values), 0])
        assert (lead.rate, lead.samples) == (reference.fs, reference.sig_len)
        assert len(lead.values) >= min(10 * lead.rate, lead.samples)

    file = header if damage == "header" else signal
    campaign(file.read_bytes(), file.name, lambda path: read_or_refuse(path.with_suffix("")), check, share=4)


# Checkpoints


def checkpoint_copies(content: dict):
    """Return a strategy of checkpoints with other entries and weights."""
    odd = [
        *(
            None,
            True,
            -1,
            0,
            1,
            2,
            10**9,
            10**30,
            0.5,
            float("nan"),
            "",
            "x",
            [],
            {},
            "[(8, 3, 2)]",
            "[(8, 3, 0)]",
            "(",
        ),
        *(torch.zeros(3), torch.zeros(0), torch.full((2, 2), torch.nan), torch.ones(4, dtype=torch.complex64)),
        *(torch.tensor(5), np.zeros((2, 2)), torch.zeros(3, dtype=torch.int32)),
    ]

    def written(content) -> bytes:
        file = io.BytesIO()
        torch.save(content, file)
        return file.getvalue()

    return values_damaged(content, tuple(odd)).map(written)


@pytest.mark.parametrize("damage", ["bytes", "entries"])
@pytest.mark.parametrize("name", ["tiny1_finetuned.pt", "tiny1_pretrained.pt"])
def test_checkpoint(campaign, test_data, name, damage):
    from ecg_finetune.ecg_fm import load_classifier, load_pretrained

    file = test_data / "checkpoints" / name
    pretrained = "pretrained" in name
    source = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 12, 2500), dtype=np.float32))

    def read(path):
        return load_pretrained(path, 17).eval() if pretrained else load_classifier(path)

    def weights_of(model) -> dict:
        return {key: value for key, value in model.state_dict().items() if not (pretrained and key.startswith("proj."))}

    expected = weights_of(read(file))

    def check(content, model):
        if damage == "bytes":  # a checkpoint has a checksum for each tensor
            assert all(torch.equal(value, expected[key]) for key, value in weights_of(model).items())
        else:
            stored = torch.load(io.BytesIO(content), weights_only=False)["model"]
            for key, value in weights_of(model).items():
                key = key.removeprefix("encoder.") if pretrained else key  # its file holds the encoder alone
                assert key not in stored or torch.equal(value, stored[key].float())
            assert all(value.isfinite().all() for value in model.state_dict().values())
        with torch.inference_mode():
            assert model(source).shape[0] == 1

    copies = None
    if damage == "entries":
        content = torch.load(file, weights_only=False)
        copies = checkpoint_copies({"cfg": {"model": dict(content["cfg"]["model"])}, "model": dict(content["model"])})
    campaign(file.read_bytes(), "checkpoint.pt", read, check, copies, share=2)


@pytest.mark.parametrize("damage", ["bytes", "entries"])
def test_state_of_an_interrupted_training(campaign, tmp_path, damage):
    from ecg_training.settings import FinetuneSettings
    from ecg_training.torch_engine import TINY
    from ecg_training.trainer import HISTORY, Position, Trainer, resume_from

    from ecg_finetune.checkpoint import save_checkpoint
    from ecg_finetune.ecg_fm import EcgClassifier

    def trainer():
        torch.manual_seed(1)
        settings = FinetuneSettings(
            manifests=tmp_path, label_set=ECG_FM, output=tmp_path, pretrained=None, batch_size=2
        )
        return Trainer(EcgClassifier(TINY), np.ones(17), settings, torch.device("cpu"))

    first = trainer()
    first.update(iter([(torch.randn(2, 2500), torch.zeros(2, 17))]), [2])
    row = dict.fromkeys(HISTORY, 0.5) | {"epoch": 1, "best": 1}
    position = Position(epoch=1, updates=1, best_loss=0.5, best_epoch=1, history=[row])
    save_checkpoint(tmp_path / "state.pt", first.state(position))
    state = torch.load(tmp_path / "state.pt", weights_only=False)

    def read(path):
        second = trainer()
        return second, resume_from(second, path)

    def check(content, result):
        second, resumed = result
        stored = torch.load(io.BytesIO(content), weights_only=False)
        assert resumed == Position(**stored["position"])
        assert all(torch.equal(value, stored["model"][key]) for key, value in second.model.state_dict().items())
        if damage == "bytes":
            assert resumed == position
        second.update(iter([(torch.randn(2, 2500), torch.zeros(2, 17))]), [2])

    valid = (tmp_path / "state.pt").read_bytes()
    campaign(valid, "state.pt", read, check, checkpoint_copies(state) if damage == "entries" else None, share=2)


# Settings that a folder remembers


def test_settings_of_a_folder(campaign, tmp_path):
    from ecg_finetune.run_folder import run_folder

    settings_ = {"--lead": "I", "--raw-root": "/data/x", "--verify-checksums": False, "number of test records": 5}
    (tmp_path / "out").mkdir()
    (tmp_path / "out/1.mat").touch()  # an empty folder would only get new settings

    def read(_):
        with run_folder("build", tmp_path / "out", settings_, overwrite=False):
            return True

    def check(content, _):
        found = json.loads(content)
        found = found.get("settings", found)
        assert all(found[key] == value for key, value in settings_.items())

    content = json.dumps({"stage": "build", "settings": settings_}, indent=1).encode()
    campaign(content, "out.run.json", read, check)


def test_settings_of_a_training(campaign, tmp_path):
    from ecg_training.checkpoint_folder import claim_folder, record_run

    settings_ = {"engine": "torch", "lead": "I", "lr": 1e-3, "epochs": 3, "labels": ["a", "b"], "manifests": {"y": "1"}}
    for name in ("checkpoint_last.pt", "checkpoint_best.pt"):
        (tmp_path / name).touch()
    record_run(tmp_path, {"settings": settings_}, {}, finished=False)

    def check(content, resumed):
        found = json.loads(content)["settings"]
        assert resumed and {**found, "epochs": 0} == {**settings_, "epochs": 0}

    def read(_):
        return claim_folder(tmp_path, settings_, resume=True, overwrite=False, resumable=True)

    campaign((tmp_path / "settings.json").read_bytes(), "settings.json", read, check)


# The labeler's configuration


def plain_names(parts) -> list[str]:
    """Return the names that a list of an entry refers to."""
    return [part["tem"] if isinstance(part, dict) else part for part in parts or []]


def plain_parts(parts) -> list[tuple[str, frozenset]]:
    """Return the entities that a list of an entry refers to, with their descriptors."""
    return [
        (name, frozenset(plain_names(part.get("descriptors") if isinstance(part, dict) else [])))
        for name, part in zip(plain_names(parts), parts)
    ]


def spelled_out(names, split: dict) -> list[str]:
    """Return descriptor names with those that stand for several replaced by these."""
    return [single for name in names for single in split.get(name, [name])]


def knowledge_of(files: dict) -> dict:
    """Return what the files of a configuration say, read without any check."""
    split = {entry["name"]: plain_names(entry["descriptors"]) for entry in files["split_desc_tem"]}

    def out(names):
        return tuple(spelled_out(names, split))

    def parts(entry, key):
        return tuple((name, frozenset(out(found))) for name, found in plain_parts(entry.get(key) or []))

    return {
        "entities": {
            entry["name"]: (tuple(plain_names(entry.get("sup"))), entry.get("require_descriptors", False))
            for entry in files["entity_tem"]
        },
        "created": {entry["name"]: tuple(plain_names(entry.get("create_entities"))) for entry in files["desc_tem"]},
        "entity patterns": [(entry["pattern"], parts(entry, "entities")) for entry in files["entity_pat"]],
        "descriptor patterns": [
            (
                entry["pattern"],
                {"b": "before", "a": "after"}[entry.get("before_after", "b")],
                out(plain_names(entry["descriptors"])),
                entry.get("parse_before_entities", False),
            )
            for entry in files["desc_pat"]
        ],
        "connectives": [
            (entry["pattern"], *(out(plain_names(side)) for side in entry.get("descriptors") or [[], []]))
            for entry in files["connective"]
        ],
        "compounds": [
            (*plain_names([entry["entity"]]), parts(entry, "including"), parts(entry, "excluding"))
            for entry in files["compound_tem"]
        ],
        "attached": [
            tuple(plain_names([entry["entity"], entry["descriptor"], entry["resulting_entity"]]))
            for entry in files["attached_desc_tem"]
        ],
        "traveling": [
            (*plain_names([entry["entity"]]), frozenset(out(plain_names(entry["descriptors"]))))
            for entry in files["traveling_desc_tem"]
        ],
        "uncertainty": files["uncertainty_map"],
    }


def told_by(knowledge) -> dict:
    """Return a `Knowledge` in the form of `knowledge_of`."""
    entity, descriptor, connective = (
        [pattern for pattern in knowledge.patterns if pattern.kind in kinds]
        for kinds in (["entity"], ["before", "after"], ["connective"])
    )
    return {
        "entities": {name: (entity.parents, entity.require_descriptors) for name, entity in knowledge.entities.items()},
        "created": knowledge.created,
        "entity patterns": [(pattern.text, pattern.entities) for pattern in entity],
        "descriptor patterns": [
            (pattern.text, pattern.kind, pattern.left or pattern.right, pattern.first) for pattern in descriptor
        ],
        "connectives": [(pattern.text, pattern.left, pattern.right) for pattern in connective],
        "compounds": [(compound.entity, compound.including, compound.excluding) for compound in knowledge.compounds],
        "attached": knowledge.attached,
        "traveling": knowledge.traveling,
        "uncertainty": knowledge.uncertainty,
    }


@pytest.mark.parametrize("name", [*SMALL, "asserted_desc_pat"])
def test_knowledge(campaign, tmp_path, name):
    from ecg_fm_labeler.configuration import Knowledge
    from ecg_fm_labeler.inference import Inference
    from ecg_fm_labeler.matching import Matcher

    absent = [{"pattern": "is gone", "descriptors": ["Old"], "before_after": "a"}]
    files = SMALL | {"asserted_desc_pat": absent}
    for file, content in files.items():
        (tmp_path / f"{file}.json").write_text(json.dumps(content))

    def check(content, knowledge):
        found = json.loads(content)
        assert told_by(knowledge) == knowledge_of(files | {name: found})
        if name == "asserted_desc_pat":
            assert [pattern.text for pattern in knowledge.negations] == [entry["pattern"] for entry in found]
        Matcher(knowledge, asserted=True).match("inferior infarct , old with sinus rhythm is gone")
        Inference(knowledge)

    campaign(json.dumps(files[name]).encode(), f"{name}.json", lambda path: Knowledge.from_folder(path.parent), check)


@pytest.mark.parametrize("name", ["text_normalization.json", "text_templates.json"])
def test_text_normalisation(campaign, tmp_path, name):
    from ecg_fm_labeler.configuration import PROJECT_CONFIG
    from ecg_fm_labeler.normalization import Normalizer, read_tables

    for file in ("text_normalization.json", "text_templates.json"):
        content = json.loads((PROJECT_CONFIG / file).read_text())
        for key, table in content.items():  # a few entries of each table, for speed
            if isinstance(table, dict) and len(table) > 4:
                content[key] = dict(list(table.items())[:4])
            elif isinstance(table, list):
                content[key] = table[:3]
        (tmp_path / file).write_text(json.dumps(content))

    def read(path):
        return read_tables(path.parent, name), Normalizer(path.parent)

    def check(content, result):
        assert result[0] == json.loads(content)
        for report in ("Atrial-paced rhythm; PAC's, confirmed by Dr", "Missing lead(s): V1 V2", "abnormal st-t"):
            result[1](report)

    campaign((tmp_path / name).read_bytes(), name, read, check)


def test_label_definition(campaign, tmp_path):
    from ecg_fm_labeler.configuration import PROJECT_CONFIG, Knowledge, Reader

    entities = Knowledge.from_folder(PROJECT_CONFIG).entities

    def read(_):
        reader = Reader(tmp_path)
        reader.check_label_definition(entities)
        if reader.problems:
            raise UserError(reader.problems[0])

    def check(content, _):
        header, *rows = cells_of(content)
        assert header.count("name") == 1 and {row[header.index("name")] for row in rows} <= entities.keys()

    campaign((PROJECT_CONFIG / "label_def.csv").read_bytes(), "label_def.csv", read, check)

"""build_test_and_finetune_data.py as a user runs it."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from synthetic_records import digital_ecg, make_base, make_tables, record_path, write_record

from ecg_finetune.label_set import LABELS
from ecg_finetune.matfile import read_mat, write_mat
from ecg_finetune.paths import RUN, beside, locate
from ecg_finetune.studies import save_file_name

PREPROCESS = "preprocess/scripts/preprocess_ecgfm.py"
SCRIPT = "build/scripts/build_test_and_finetune_data.py"
REPOSITORY = Path(__file__).resolve().parent.parent


def rows_of(path) -> list[dict]:
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def contents(base) -> dict[str, bytes]:
    """Return every file below build/data; a link counts as where it points to."""
    root = base / "build/data"
    return {
        str(path.relative_to(root)): str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory, run_script):
    """(base, raw, labels, contents): 41 records, of which one has no labels and one was excluded by preprocess."""
    base, raw = make_base(tmp_path_factory.mktemp("built"), 41)
    labels = make_tables(base, range(40_000_001, 40_000_042), unlabelled=[40_000_010])
    flat = digital_ecg(5)
    flat[:, 0] = 1
    write_record(raw, record_path(40_000_006), flat)
    run_script(PREPROCESS, "--base-dir", base, "--raw-root", raw)
    process = run_script(SCRIPT, "--base-dir", base, "--workers", 1)
    assert "excluded: no_labels" in process.stdout and "excluded: flat" in process.stdout
    return base, raw, labels, contents(base)


def expected_order(base) -> list[tuple[str, int]]:
    """Return (split, study_id) of the records that must be built, in the order of y.npy."""
    rows = [
        (row["split"], int(row["save_file"][len("mimic_iv_ecg_") : -4])) for row in rows_of(locate(base, "meta_split"))
    ]
    good = [row for row in rows if row[1] not in (40_000_006, 40_000_010)]
    return [row for split in ("train", "valid", "test") for row in good if row[0] == split]


def test_segments_labels_and_manifests_belong_together(built):
    base, _, labels, _ = built
    order = expected_order(base)
    y = np.load(locate(base, "manifest_y"))
    assert y.dtype == np.float32 and y.shape == (2 * len(order), 17)
    studies = np.load(locate(base, "original_idx_order"))
    assert studies.dtype == np.int64 and studies.tolist() == [study for _, study in order for _ in range(2)]
    listed = []
    for split in ("train", "valid", "test"):
        root, *lines = locate(base, "manifest", split=split).read_text().splitlines()
        assert Path(root) == locate(base, "segments")
        for line in lines:
            name, samples = line.split("\t")
            assert samples == "2500"
            listed.append((split, name))
            found = scipy.io.loadmat(Path(root, name))
            study, part = found["original_idx"].item(), int(name.removesuffix(".mat")[-1])
            assert name == f"mimic_iv_ecg_{study}_{part}.mat"
            assert found["idx"].item() == len(listed) - 1 and order[(len(listed) - 1) // 2] == (split, study)
            assert found["feats"].dtype == np.float32 and found["feats"].shape == (12, 2500)
            whole = scipy.io.loadmat(locate(base, "lead") / save_file_name(study))["feats"]
            assert np.array_equal(found["feats"], whole[:, 2500 * part : 2500 * (part + 1)])
            assert found["curr_sample_rate"].item() == 500
            assert set(found) - {"__header__", "__version__", "__globals__"} == {
                "feats",
                "curr_sample_rate",
                "idx",
                "original_idx",
            }
            assert np.array_equal(y[found["idx"].item()], labels[study])
    assert len(listed) == len(y)
    assert {name for _, name in listed} == {path.name for path in locate(base, "segments").iterdir()}


def test_label_weights_come_from_the_train_records(built):
    base, _, labels, _ = built
    train = np.array([labels[study] for split, study in expected_order(base) if split == "train"])
    share = train.mean(axis=0)
    weights = [float(text) for text in locate(base, "manifest_pos_weight").read_text().split(" ")]
    expected = np.where(share > 0, (1 - share) / np.where(share > 0, share, 1), 0)
    assert np.allclose(weights, expected, atol=1e-8)
    assert locate(base, "manifest_pos_weight").read_text().count("\n") == 1
    table = rows_of(locate(base, "manifest_label_def"))
    assert [row["name"] for row in table] == list(LABELS)
    assert [int(row["count"]) for row in table] == train.sum(axis=0).tolist()
    assert np.allclose([float(row["pos_percent"]) for row in table], share)
    assert np.allclose([float(row["pos_weight"]) for row in table], expected)


def test_the_test_set(built):
    base, _, labels, _ = built
    studies = [study for split, study in expected_order(base) if split == "test"]
    files = rows_of(locate(base, "test_file_list"))
    assert files == [
        {"idx": str(study), "study_id": str(study), "save_file": save_file_name(study)} for study in studies
    ]
    table = rows_of(locate(base, "test_labels"))
    assert list(table[0]) == ["idx", *LABELS]
    assert [int(row["idx"]) for row in table] == studies
    for row in table:
        assert [int(row[name]) for name in LABELS] == labels[int(row["idx"])].tolist()
    mapping = rows_of(locate(base, "test_study_id_mapping"))
    assert mapping == [{"idx": str(study), "study_id": str(study), "split": "test"} for study in studies]
    counts = [int(row["count"]) for row in rows_of(locate(base, "test_label_def"))]
    assert counts == np.sum([labels[study] for study in studies], axis=0).tolist()
    mats = locate(base, "test_mats")
    assert {path.name for path in mats.iterdir()} == {save_file_name(study) for study in studies}
    for path in mats.iterdir():
        assert path.resolve() == (locate(base, "lead") / path.name).resolve()


def test_what_is_not_built_is_listed(built):
    base, *_ = built
    found = {int(row["study_id"]): row["reason"] for row in rows_of(locate(base, "left_out"))}
    assert found == {40_000_006: "flat", 40_000_010: "no_labels"}


def test_a_rerun_changes_nothing(built, run_script):
    base, _, _, expected = built
    times = {path: path.stat().st_mtime_ns for path in locate(base, "segments").iterdir()}
    run_script(SCRIPT, "--base-dir", base)
    assert contents(base) == expected
    assert times == {path: path.stat().st_mtime_ns for path in locate(base, "segments").iterdir()}


def copied(built, folder) -> Path:
    """Return a copy of the base folder in which nothing is built."""
    shutil.copytree(built[0], folder, ignore=shutil.ignore_patterns("build"), dirs_exist_ok=True)
    return folder


def with_root_of(base, expected: dict[str, bytes], other) -> dict[str, bytes]:
    """Return what is expected in another base folder: the manifests' first line names it."""
    return {name: content.replace(str(base).encode(), str(other).encode()) for name, content in expected.items()}


def test_killed_at_any_moment_it_goes_on_to_the_same_files(built, tmp_path):
    expected = with_root_of(built[0], built[3], tmp_path)
    base = copied(built, tmp_path)
    command = [sys.executable, REPOSITORY / SCRIPT, "--base-dir", base, "--workers", "2"]
    killed = 0
    for moment in (0.05, 0.15, 0.25, 0.35):  # no Python is done within the first
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
        for name, content in contents(base).items() if (base / "build").exists() else ():
            if name.endswith(".mat") and ".partial/" not in name:
                assert content == expected[name]
    assert killed
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert contents(base) == expected


def test_lost_segments_are_made_again_and_strange_links_removed(built, tmp_path, run_script):
    shutil.copytree(built[0], tmp_path, symlinks=True, dirs_exist_ok=True)
    segments, mats = locate(tmp_path, "segments"), locate(tmp_path, "test_mats")
    (segments / "mimic_iv_ecg_40000001_1.mat").unlink()
    (segments / "mimic_iv_ecg_40000002_0.mat").write_bytes(b"")
    next(mats.iterdir()).unlink()
    (mats / "mimic_iv_ecg_1.mat").symlink_to("nowhere")
    process = run_script(SCRIPT, "--base-dir", tmp_path)
    assert "39 records to cut, 37 of them done before" in process.stdout
    assert contents(tmp_path) == with_root_of(built[0], built[3], tmp_path)


def test_a_dask_cluster_writes_the_same_files(built, tmp_path, run_script):
    distributed = pytest.importorskip("distributed")
    base = copied(built, tmp_path)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None) as cluster:
        run_script(SCRIPT, "--base-dir", base, "--dask", cluster.scheduler_address)
    assert contents(base) == with_root_of(built[0], built[3], tmp_path)


def test_10_s_files_of_other_writers_are_cut_to_the_same_signals(built, tmp_path, run_script):
    base = copied(built, tmp_path)
    for path in locate(base, "lead").iterdir():
        content = {name: value for name, value in scipy.io.loadmat(path).items() if not name.startswith("__")}
        scipy.io.savemat(path, content)
    run_script(SCRIPT, "--base-dir", base)
    for path in locate(base, "segments").iterdir():
        found, expected = scipy.io.loadmat(path), scipy.io.loadmat(locate(built[0], "segments") / path.name)
        assert all(np.array_equal(found[name], expected[name]) for name in ("feats", "idx", "original_idx"))


def test_new_label_values_reach_the_manifests_and_leave_the_segments(built, tmp_path, run_script):
    shutil.copytree(built[0], tmp_path, symlinks=True, dirs_exist_ok=True)
    labels = locate(tmp_path, "labels")
    header, *lines = labels.read_text().splitlines()
    labels.write_text("\n".join([header, *(line.split(",")[0] + ",1" * 17 for line in lines)]) + "\n")
    run_script(SCRIPT, "--base-dir", tmp_path)
    assert np.load(locate(tmp_path, "manifest_y")).all()
    assert {row["Infarction"] for row in rows_of(locate(tmp_path, "test_labels"))} == {"1"}
    after = contents(tmp_path)
    assert all(after[name] == content for name, content in built[3].items() if name.endswith(".mat"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda base: swap_splits(base), ["number of train records"]),
        (
            lambda base: make_tables(base, range(40_000_001, 40_000_042), unlabelled=[40_000_010, 40_000_012]),
            ["number of"],
        ),
        (lambda base: reverse_meta(base), ["digest"]),
        (lambda base: change_figure(base), ["digest"]),
    ],
)
def test_other_records_are_refused_and_overwritten_on_demand(built, tmp_path, run_script, change, words):
    """Their idx would be another: nothing stale may stay."""
    shutil.copytree(built[0], tmp_path, symlinks=True, dirs_exist_ok=True)
    before = contents(tmp_path)
    change(tmp_path)
    refused = run_script(SCRIPT, "--base-dir", tmp_path, "--skip-test", exit_code=1)
    assert "--overwrite" in refused.stderr and all(word in refused.stderr for word in words)
    assert contents(tmp_path) == before
    run_script(SCRIPT, "--base-dir", tmp_path, "--overwrite")
    studies = np.load(locate(tmp_path, "original_idx_order"))
    for path in locate(tmp_path, "segments").iterdir():
        found = scipy.io.loadmat(path)
        assert studies[found["idx"].item()] == found["original_idx"].item()
    assert 2 * len(set(studies.tolist())) == len(list(locate(tmp_path, "segments").iterdir())) == len(studies)


def test_records_of_another_lead_are_refused(built, tmp_path, run_script):
    """Also where the user was told to run with --overwrite: they would be built under the name of this lead."""
    shutil.copytree(built[0], tmp_path, symlinks=True, dirs_exist_ok=True)
    run = beside(locate(tmp_path, "lead"), RUN)
    told = json.loads(run.read_text())
    assert told["settings"]["--lead"] == "I"
    run.write_text(json.dumps({**told, "settings": {**told["settings"], "--lead": "II"}}))
    before = contents(tmp_path)
    refused = run_script(SCRIPT, "--base-dir", tmp_path, "--overwrite", exit_code=1)
    assert f"{locate(tmp_path, 'lead')}: of lead II (by what the preprocess stage has written)" in refused.stderr
    assert contents(tmp_path) == before


def swap_splits(base) -> None:
    meta = locate(base, "meta_split")
    meta.write_text(meta.read_text().replace("train", "x").replace("test", "train").replace("x", "test"))


def reverse_meta(base) -> None:
    meta = locate(base, "meta_split")
    header, *lines = meta.read_text().splitlines()
    meta.write_text("\n".join([header, *reversed(lines)]) + "\n")


def change_figure(base) -> None:
    """Let the report say that a signal is another than when the segments were cut."""
    report = locate(base, "report")
    lines = report.read_text().splitlines()
    cells = lines[1].split(",")
    cells[6] = "0.123"
    report.write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]) + "\n")


def test_parts_can_be_skipped(built, tmp_path, run_script):
    base = copied(built, tmp_path)
    run_script(SCRIPT, "--base-dir", base, "--skip-finetune")
    assert locate(base, "test_labels").exists() and not locate(base, "finetune_data").exists()
    shutil.rmtree(base / "build")
    run_script(SCRIPT, "--base-dir", base, "--skip-test")
    assert not locate(base, "test").exists() and locate(base, "manifest_y").exists()


def test_a_moved_base_folder_stays_whole(built, tmp_path, run_script):
    shutil.copytree(built[0], tmp_path / "old", symlinks=True)
    (tmp_path / "old").rename(tmp_path / "new")
    assert all(path.exists() for path in locate(tmp_path / "new", "test_mats").iterdir())
    run_script(SCRIPT, "--base-dir", tmp_path / "new")
    root = locate(tmp_path / "new", "manifest", split="train").read_text().splitlines()[0]
    assert Path(root) == locate(tmp_path / "new", "segments")


def edit(name: str, old: str, new: str):
    def change(base) -> None:
        path = locate(base, name)
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda base: locate(base, "report").unlink(), ["report.csv", "no such file"]),
        (lambda base: locate(base, "labels").unlink(), ["labels.csv", "no such file"]),
        (edit("labels", "Infarction", "Sinus rhythm"), ["labels.csv", "two labels", "Sinus rhythm"]),
        (edit("labels", "\n3,", "\nx,"), ["labels.csv", "'x'"]),
        (edit("labels", "\n3,", "\n4,"), ["labels.csv", "idx 4"]),
        (edit("labels", "\n3,0", "\n3,2"), ["labels.csv", "line 5"]),
        (edit("study_id_mapping", "\n3,40000038", "\n3,40000039"), ["study_id_mapping.csv", "study_id 40000039"]),
        (edit("study_id_mapping", "\n3,", "\n300,"), ["study_id_mapping.csv", "idx 3"]),
        (lambda base: (locate(base, "lead") / save_file_name(40_000_001)).unlink(), ["40000001", "preprocess"]),
        (lambda base: (locate(base, "lead") / save_file_name(40_000_001)).write_bytes(b"x" * 500), ["40000001"]),
        (
            lambda base: write_mat(
                locate(base, "lead") / save_file_name(40_000_001),
                {"feats": np.full((12, 5000), np.nan), "curr_sample_rate": 500, "idx": 40_000_001},
            ),
            ["40000001", "samples that are not numbers"],
        ),
        (
            lambda base: shutil.copy(
                locate(base, "lead") / save_file_name(40_000_002), locate(base, "lead") / save_file_name(40_000_001)
            ),
            ["40000001", "not the 10-second record"],
        ),
    ],
)
def test_bad_input_is_told_in_one_line(built, tmp_path, run_script, change, words):
    base = copied(built, tmp_path)
    # The first label of this row is made to be 0, so that a case can change it.
    labels = locate(base, "labels")
    labels.write_text(labels.read_text().replace("\n3,1", "\n3,0"))
    change(base)
    process = run_script(SCRIPT, "--base-dir", base, exit_code=1)
    assert all(word in process.stderr for word in words), process.stderr
    assert not locate(base, "manifest_y").exists()


def test_records_of_other_data_are_refused(built, tmp_path, run_script):
    base = copied(built, tmp_path)
    make_tables(base, [1, 2, 3])
    process = run_script(SCRIPT, "--base-dir", base, exit_code=1)
    assert "none of its 3 records" in process.stderr and "not_preprocessed" in process.stderr


def test_labels_written_as_decimals_will_do(built, tmp_path, run_script):
    base = copied(built, tmp_path)
    labels = locate(base, "labels")
    header, *lines = labels.read_text().splitlines()
    decimal = [line.split(",")[0] + "".join(f",{cell}.0" for cell in line.split(",")[1:]) for line in lines]
    labels.write_text("\n".join([header, *decimal]) + "\n")
    run_script(SCRIPT, "--base-dir", base)

    def without_lineage(files):
        return {name: content for name, content in files.items() if not name.endswith("build.json")}

    assert without_lineage(contents(base)) == without_lineage(with_root_of(built[0], built[3], tmp_path))


def test_a_refused_build_has_changed_nothing(built, tmp_path, run_script):
    base = copied(built, tmp_path)
    run_script(SCRIPT, "--base-dir", base)
    before = contents(base)
    meta = locate(base, "meta_split")
    swapped = {"train": "test", "test": "train", "valid": "valid"}
    header, *lines = meta.read_text().splitlines()
    rows = [line.split(",") for line in lines]
    meta.write_text("\n".join([header, *(f"{name},{swapped[split]}" for name, split in rows)]) + "\n")
    run_script(SCRIPT, "--base-dir", base, exit_code=1)
    assert contents(base) == before


def test_outputs_within_inputs_or_each_other_are_refused(built, tmp_path, run_script):
    base = copied(built, tmp_path)
    run_script(SCRIPT, "--base-dir", base)
    lead, before = locate(base, "lead"), contents(base)
    files = sorted(path.name for path in lead.iterdir())
    for words in (
        ("--finetune-out", lead, "--overwrite"),
        ("--test-out", lead / "test"),
        ("--test-out", locate(base, "finetune_data"), "--overwrite"),
        ("--test-out", locate(base, "meta_split").parent, "--overwrite"),
    ):
        process = run_script(SCRIPT, "--base-dir", base, *words, exit_code=1)
        assert "lies within" in process.stderr
    assert sorted(path.name for path in lead.iterdir()) == files and contents(base) == before


def test_nothing_but_the_artefacts_is_in_the_folders(built):
    base, *_ = built
    assert {path.name for path in locate(base, "finetune_data").iterdir()} == {"segmented_5s", "manifests"}
    assert {path.name for path in locate(base, "manifests").iterdir()} == {
        *("train.tsv", "valid.tsv", "test.tsv", "y.npy", "label_def.csv", "pos_weight.txt", "original_idx_order.npy"),
        "build.json",
    }
    assert {path.name for path in locate(base, "test").iterdir()} == {
        *("mats", "test_file_list.csv", "test_labels.csv", "label_def.csv", "study_id_mapping.csv"),
        *("test_checksums.csv", "build.json"),
    }
    assert {path.name for path in (base / "build/data").iterdir()} == {
        *("test_lead1_duplicated", "test_lead1_duplicated.run.json", "lead_1_left_out.csv"),
        *("finetune_lead1_duplicated", "finetune_lead1_duplicated.run.json"),
    }
    assert not (locate(base, "lead") / ".partial").exists()


def test_genuine_records(test_data, tmp_path, run_script):
    folder = test_data / "wfdb50"
    studies = [int(row["study_id"]) for row in rows_of(folder / "record_list.csv")]
    make_tables(tmp_path, studies)
    run_script(
        PREPROCESS, "--base-dir", tmp_path, "--record-list", folder / "record_list.csv", "--raw-root", folder / "raw"
    )
    run_script(SCRIPT, "--base-dir", tmp_path)
    files = list(locate(tmp_path, "segments").iterdir())
    assert len(files) == 100 and sum(file.stat().st_size for file in files) < 100 * 12_000
    for file in files:
        found, ours = scipy.io.loadmat(file), read_mat(file)
        part = int(file.stem[-1])
        whole = scipy.io.loadmat(locate(tmp_path, "lead") / save_file_name(found["original_idx"].item()))["feats"]
        assert np.array_equal(found["feats"], whole[:, 2500 * part : 2500 * (part + 1)])
        assert all(np.array_equal(ours[name], found[name]) for name in ours) and len(ours) == 4

"""The split: shares, patients, determinism, labels, given and extended splits, and what it refuses."""

import hashlib
import importlib.util
import itertools
import lzma
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from ecg_split.assignment import assign_at_random, assign_stratified, make_split, numbered, wanted_records
from ecg_split.labels import columns_to_balance, count_per_group, read_labels_of
from ecg_split.split_file import write_split
from ecg_split.summary import count_leaks, split_digest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.bench_split import simulated_labels
from ecg_finetune.cli import execute
from ecg_finetune.foreign_split import read_foreign_split
from ecg_finetune.label_set import LABELS
from ecg_finetune.studies import read_studies, save_file_name

REPOSITORY = Path(__file__).resolve().parent.parent
SCRIPT = "split/scripts/create_split.py"


@pytest.fixture
def create_split(capsys):
    """Return a function that runs the script in this process: a process of its own would cost half a second each."""
    specification = importlib.util.spec_from_file_location("create_split", REPOSITORY / SCRIPT)
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)

    def run(*arguments, exit_code=0):
        capsys.readouterr()
        try:
            code = execute(script.get_parser(), script.run, [str(argument) for argument in arguments])
        except SystemExit as stopped:  # argparse
            code = stopped.code
        printed = capsys.readouterr()
        assert code == exit_code, printed
        if exit_code == 1:
            assert printed.err.startswith("error: ") and printed.err.count("\n") == 1, printed.err
        return SimpleNamespace(stdout=printed.out, stderr=printed.err)

    return run


def make_list(folder, patients=200, seed=0, columns=("subject_id", "study_id", "path")):
    """Write a record list of patients with 1 to 12 records; return its path and table."""
    rng = np.random.default_rng(seed)
    subject = np.repeat(10_000_000 + rng.permutation(patients), rng.integers(1, 13, patients))
    study = 40_000_000 + rng.permutation(len(subject))
    table = pd.DataFrame({"subject_id": subject, "study_id": study})
    table["path"] = [f"files/p{s // 10_000}/p{s}/s{t}/{t}" for s, t in zip(subject, study)]
    path = folder / "record_list.csv"
    table[list(columns)].to_csv(path, index=False)
    return path, table


def make_labels(folder, study_ids, seed=1, prevalence=0.2):
    """Write the labels stage's files for studies; return the labels."""
    labels = (np.random.default_rng(seed).random((len(study_ids), 17)) < prevalence).astype(int)
    index = np.arange(len(study_ids))
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(labels, columns=LABELS).assign(idx=index)[["idx", *LABELS]].to_csv(folder / "labels.csv", index=False)
    mapping = pd.DataFrame({"idx": index, "study_id": study_ids, "split": ""})
    mapping.to_csv(folder / "study_id_mapping.csv", index=False)
    return labels


def read_split(base, table):
    """Read the meta_split.csv below `base`; return it with study_id and subject_id."""
    split = pd.read_csv(base / "split/data/meta_split.csv")
    assert list(split) == ["save_file", "split"]
    split["study_id"] = split["save_file"].str[len("mimic_iv_ecg_") : -len(".mat")].astype(int)
    return split.merge(table, on="study_id", validate="one_to_one")


def digest_of(process):
    return next(line.split()[1] for line in process.stdout.splitlines() if line.startswith("digest: "))


# ------------------------------------------------------------------------------------------------ functions


@given(st.lists(st.integers(1, 30), min_size=1, max_size=80), st.integers(0, 2**40), st.data())
def test_random_assignment_never_overfills_and_only_stops_short_when_nothing_fits(sizes, seed, data):
    sizes = np.array(sizes)
    valid, test = data.draw(st.floats(0, 0.49)), data.draw(st.floats(0, 0.49))
    wanted = wanted_records(int(sizes.sum()), valid, test, np.zeros(3, dtype=int))
    assigned = assign_at_random(sizes, wanted, seed)
    filled = np.bincount(assigned, weights=sizes, minlength=3)
    assert filled.sum() == sizes.sum()
    for split in (1, 2):
        room = wanted[split] - filled[split]
        assert room >= 0
        assert room == 0 or not (sizes[assigned == 0] <= room).any()


def patients_with_labels(n, seed=3):
    """Return the records of each patient, and how many of them have each of 17 labels, the rarest 1 in 100."""
    rng = np.random.default_rng(seed)
    sizes = np.minimum(rng.geometric(0.25, n), 60)
    # Patients have or have not a disposition, and then most of their records carry the label.
    prone = rng.random((n, 17)) < np.geomspace(0.01, 0.5, 17)
    return sizes, rng.binomial(sizes[:, None], 0.8 * prone)


def test_stratified_assignment_balances_records_of_rare_labels_better_than_chance():
    sizes, counts = patients_with_labels(4000)
    wanted = wanted_records(int(sizes.sum()), 0.1, 0.1, np.zeros(3, dtype=int))

    def deviation(assigned, split, counts):
        chosen = assigned == split
        return np.abs(counts[chosen].sum(axis=0) / sizes[chosen].sum() / (counts.sum(axis=0) / sizes.sum()) - 1)

    stratified = assign_stratified(sizes, counts, wanted, 42)
    assert np.bincount(stratified, weights=sizes).tolist() == wanted.tolist()
    chance = [assign_at_random(sizes, wanted, seed) for seed in range(10)]
    for split in (1, 2):
        for counted in (counts, counts > 0):  # records, patients
            by_chance = np.mean([deviation(assigned, split, counted) for assigned in chance])
            assert deviation(stratified, split, counted).mean() < by_chance / 3
    # It stays a split by chance, of which little is changed.
    assert (stratified != assign_at_random(sizes, wanted, 42)).mean() < 0.05
    assert np.array_equal(stratified, assign_stratified(sizes, counts, wanted, 42))


@given(st.integers(0, 2**40), st.data())
@settings(max_examples=30, deadline=None)
def test_stratified_assignment_of_few_groups_fills_no_split_that_is_to_stay_empty(seed, data):
    sizes = np.array(data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=30)))
    counts = np.minimum(
        np.array(data.draw(st.lists(st.integers(0, 30), min_size=len(sizes), max_size=len(sizes)))), sizes
    )
    fractions = data.draw(st.sampled_from([(0, 0), (0, 0.3), (0.3, 0), (0.2, 0.2)]))
    wanted = wanted_records(int(sizes.sum()), *fractions, np.zeros(3, dtype=int))
    assigned = assign_stratified(sizes, counts[:, None], wanted, seed)
    filled = np.bincount(assigned, weights=sizes, minlength=3)
    assert filled.sum() == sizes.sum()
    assert all(filled[split] == 0 for split in (1, 2) if wanted[split] == 0)
    assert all(filled[split] <= wanted[split] + sizes.max() for split in (1, 2))


@pytest.mark.parametrize("stratified", [False, True])
def test_every_id_is_as_likely_in_test_and_another_seed_is_another_split(stratified):
    sizes, counts = patients_with_labels(8000)
    wanted = wanted_records(int(sizes.sum()), 0.1, 0.1, np.zeros(3, dtype=int))
    splits = [
        assign_stratified(sizes, counts, wanted, seed) if stratified else assign_at_random(sizes, wanted, seed)
        for seed in range(6)
    ]
    in_test = np.array([split == 2 for split in splits])
    for one, other in itertools.combinations(in_test, 2):
        # Two independent draws of 800 of 8,000 share 80, +- 8; here five times that.
        assert (one & other).sum() / one.sum() == pytest.approx(0.1, abs=0.05)
    of_tenth = np.array([in_test[:, tenth].sum() for tenth in np.array_split(np.arange(8000), 10)])
    assert scipy.stats.chisquare(of_tenth).pvalue > 1e-3
    # And no size: all 6 splits together, patients with one record against those with more.
    table = [[in_test[:, chosen].sum(), (~in_test[:, chosen]).sum()] for chosen in (sizes == 1, sizes > 1)]
    assert scipy.stats.chi2_contingency(table).pvalue > 1e-3


def test_labels_are_looked_up_by_study_and_counted_per_group(tmp_path, capsys):
    (tmp_path / "labels.csv").write_text("idx,A,B,C\n0,1,0,\n1,1,1,0\n")
    (tmp_path / "study_id_mapping.csv").write_text("idx,study_id,split\n0,9,\n1,7,\n")
    names, positive, known = read_labels_of(tmp_path, np.array([7, 5, 9]))
    assert names == ("A", "B", "C") and "1 of 3 studies are not in" in capsys.readouterr().out
    assert positive.astype(int).tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 0]]
    assert known.astype(int).tolist() == [[1, 1, 1], [0, 0, 0], [1, 1, 0]]
    columns = columns_to_balance(positive, known)  # A and B are known of the same records
    assert columns[:, 3:].astype(int).tolist() == [[0, 1], [1, 0], [0, 0]]
    assert count_per_group(np.array([1, 0, 1]), 3, columns[:, :2]).tolist() == [[0, 0], [2, 1], [0, 0]]
    assert columns_to_balance(positive, np.ones((3, 3), bool)) is positive


def test_patients_in_more_than_one_split_are_counted():
    patient, split = np.array([0, 0, 1, 1, 2, 3, 3, 3]), np.array([0, 2, 1, 2, 2, 0, 2, 2])
    assert count_leaks(patient, split) == (3, 3)


def test_digest_is_the_sha256_of_the_sorted_lines():
    assert split_digest(np.array([10, 9]), np.array([2, 0])) == hashlib.sha256(b"9,train\n10,test\n").hexdigest()


# ------------------------------------------------------------------------------------------------ by patient


def test_no_patient_in_two_splits_and_shares_as_asked(tmp_path, create_split):
    path, table = make_list(tmp_path)
    process = create_split("--base-dir", tmp_path, "--record-list", path, "--valid-frac", 0.15, "--test-frac", 0.25)
    split = read_split(tmp_path, table)
    assert split["save_file"].tolist() == [save_file_name(study) for study in table["study_id"]]
    assert (split.groupby("subject_id")["split"].nunique() == 1).all()
    share = split["split"].value_counts(normalize=True)
    assert share["valid"] == pytest.approx(0.15, abs=0.005) and share["test"] == pytest.approx(0.25, abs=0.005)
    assert "patients in more than one split: 0 of 200" in process.stdout
    assert process.stdout.rstrip().splitlines()[-1].startswith("done in ")
    lines = sorted(f"{study},{name}\n" for study, name in zip(split["study_id"], split["split"]))
    assert digest_of(process) == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_row_order_does_not_matter_and_the_seed_does(tmp_path, create_split):
    path, table = make_list(tmp_path)
    labels = tmp_path / "labels"
    make_labels(labels, table["study_id"].to_numpy())
    shuffled = tmp_path / "shuffled.csv"
    table.sample(frac=1, random_state=5).to_csv(shuffled, index=False)

    def digest(record_list, *options):
        return digest_of(create_split("--base-dir", tmp_path, "--record-list", record_list, "--overwrite", *options))

    assert digest(path) == digest(shuffled) != digest(path, "--seed", 43)
    assert digest(path, "--stratify", labels) == digest(shuffled, "--stratify", labels)


def test_patients_come_from_the_path_where_subject_id_is_missing(tmp_path, create_split):
    path, _ = make_list(tmp_path)
    by_column = digest_of(create_split("--base-dir", tmp_path, "--record-list", path))
    path, _ = make_list(tmp_path, columns=("study_id", "path"))
    assert digest_of(create_split("--base-dir", tmp_path, "--record-list", path)) == by_column


def test_group_by_study_warns_how_many_patients_leak(tmp_path, create_split):
    path, table = make_list(tmp_path)
    process = create_split("--base-dir", tmp_path, "--record-list", path, "--group-by", "study")
    split = read_split(tmp_path, table)
    leaking = int((split.groupby("subject_id")["split"].nunique() > 1).sum())
    assert leaking > 50
    warnings = [line for line in process.stderr.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1 and f"{leaking:,} patients are in more than one split" in warnings[0]


def test_without_patients_only_group_by_study_works(tmp_path, create_split):
    path, _ = make_list(tmp_path, columns=("study_id",))
    process = create_split("--base-dir", tmp_path, "--record-list", path, exit_code=1)
    assert "--group-by study" in process.stderr
    assert not (tmp_path / "split").exists()
    process = create_split("--base-dir", tmp_path, "--record-list", path, "--group-by", "study")
    assert "is unknown" in process.stderr


def test_a_path_without_patient_is_named(tmp_path, create_split):
    path = tmp_path / "list.csv"
    path.write_text("study_id,path\n1,files/p1000/p10000032/s1/1\n2,files/s2/2\n")
    process = create_split("--base-dir", tmp_path, "--record-list", path, exit_code=1)
    assert "line 3" in process.stderr and "--group-by study" in process.stderr


def test_genuine_record_list(tmp_path, create_split, test_data):
    path = tmp_path / "record_list.csv"
    path.write_bytes(lzma.decompress((test_data / "mimic_iv_ecg/record_list.csv.xz").read_bytes()))
    printed = create_split("--base-dir", tmp_path, "--record-list", path).stdout
    shown = printed[printed.index("      records  share") : printed.index("done in")]
    assert shown in (REPOSITORY / "docs/splits.md").read_text(encoding="utf-8")
    records = pd.read_csv(path, usecols=["subject_id", "study_id"])
    patient = numbered(records["subject_id"].to_numpy())
    written = pd.read_csv(tmp_path / "split/data/meta_split.csv")
    assert written["save_file"].tolist() == [save_file_name(study) for study in records["study_id"].tolist()]
    split = np.array([["train", "valid", "test"].index(name) for name in written["split"]])
    assert len(np.unique(3 * patient + split)) == 161_352  # each patient with one split
    assert np.bincount(split).tolist() == [640_027, 80_004, 80_004]

    # Stratified, by labels as frequent as ECG-FM's.
    labels = simulated_labels(records["subject_id"])
    splits = [make_split(patient, 0.1, 0.1, seed, labels)[1] for seed in (42, 43)]
    tenth = numbered(pd.qcut(records["subject_id"], 10, labels=False).to_numpy())
    for split in splits:
        assert len(np.unique(3 * patient + split)) == 161_352
        assert np.bincount(split).tolist() == [640_027, 80_004, 80_004]
        for k in (1, 2):
            assert np.abs(labels[split == k].mean(axis=0) / labels.mean(axis=0) - 1).mean() < 0.008
            share = np.bincount(tenth[split == k], minlength=10) / np.bincount(tenth)
            assert share.min() > 0.095 and share.max() < 0.105
    in_test = [np.unique(patient[split == 2]) for split in splits]
    assert 0.09 < len(np.intersect1d(*in_test)) / len(in_test[0]) < 0.11


# ------------------------------------------------------------------------------------------------ --stratify


def test_stratify_prints_prevalences_and_counts_studies_without_labels(tmp_path, create_split):
    path, table = make_list(tmp_path)
    labels = make_labels(tmp_path / "labels", table["study_id"].to_numpy()[:-40])
    process = create_split("--base-dir", tmp_path, "--record-list", path, "--stratify", tmp_path / "labels")
    assert f"40 of {len(table):,} studies are not in" in process.stdout
    split = read_split(tmp_path, table)
    assert (split.groupby("subject_id")["split"].nunique() == 1).all()
    test_rows = (split["split"] == "test").to_numpy()[:-40]
    printed = next(line for line in process.stdout.splitlines() if line.startswith("Infarction"))
    share = labels[test_rows, LABELS.index("Infarction")].mean()
    count = labels[test_rows, LABELS.index("Infarction")].sum()
    assert printed.split()[-4:] == [f"{share:.2%}", str(count), "of", str(test_rows.sum())]


@pytest.mark.parametrize(("count", "most"), [(3, 0.03), (71, 0.1), (400, 1)])
def test_unknown_labels_are_balanced_as_what_they_are(tmp_path, create_split, count, most):
    """A source that does not annotate every other label, and the positives of each label, are spread; by chance one is
    0.2 off and the others are 0.05. So few patients cannot meet the shares of all columns of very many labels.
    """
    path, table = make_list(tmp_path, patients=1500)
    studies, names = table["study_id"].to_numpy(), [f"Finding {k}" for k in range(count)]
    random = np.random.default_rng(0)
    labels = (random.random((len(studies), count)) < 0.2).astype(float)
    patient = numbered(table["subject_id"].to_numpy())
    source = random.random(patient.max() + 1)[patient] < 0.15
    labels[np.ix_(source, np.arange(count) % 2 == 0)] = np.nan
    folder = tmp_path / "labels"
    folder.mkdir()
    index = pd.RangeIndex(len(studies), name="idx")
    pd.DataFrame(labels, columns=names, index=index).to_csv(folder / "labels.csv")
    pd.DataFrame({"study_id": studies, "split": ""}, index=index).to_csv(folder / "study_id_mapping.csv")
    output = create_split("--base-dir", tmp_path, "--record-list", path, "--stratify", folder).stdout
    test = (read_split(tmp_path, table)["split"] == "test").to_numpy()
    known, positive = (labels[test] == labels[test]).sum(axis=0), (labels[test] == 1).sum(axis=0)
    printed = next(line for line in output.splitlines() if line.startswith("Finding 0 "))
    assert printed.split()[-4:] == [f"{positive[0] / known[0]:.2%}", str(positive[0]), "of", f"{known[0]:,}"]
    assert abs(source[test].mean() / source.mean() - 1) < most
    assert np.abs(positive / (labels == 1).sum(axis=0) / test.mean() - 1).mean() < max(most, 0.03)


def test_stratify_refuses_labels_of_other_records(tmp_path, create_split):
    path, _ = make_list(tmp_path)
    make_labels(tmp_path / "labels", np.arange(5))
    options = ("--base-dir", tmp_path, "--record-list", path, "--stratify", tmp_path / "labels")
    assert "not one study" in create_split(*options, exit_code=1).stderr
    (tmp_path / "labels/study_id_mapping.csv").write_text("idx,study_id,split\n0,1,\n")
    assert "labels stage again" in create_split(*options, exit_code=1).stderr
    (tmp_path / "labels/labels.csv").write_text(",".join(["idx", *LABELS]) + "\n")
    assert "labels.csv: no rows" in create_split(*options, exit_code=1).stderr


# ------------------------------------------------------------------------------------------------ given splits


@pytest.mark.parametrize("column", ["study_id", "save_file"])
def test_from_split_keeps_the_given_split_and_lists_what_it_excludes(tmp_path, create_split, column):
    path, table = make_list(tmp_path)
    names = np.array(["Train", "validation", "test"])[np.random.default_rng(0).integers(0, 3, len(table))]
    given_split = pd.DataFrame({"extra": "x", "study_id": table["study_id"], "split": names}).iloc[10:]
    given_split.loc[len(table)] = ["x", 999, "test"]
    given_split["save_file"] = [save_file_name(study) for study in given_split["study_id"]]
    given_split.drop(columns={"study_id", "save_file"} - {column}).to_csv(tmp_path / "given.csv", index=False)

    process = create_split("--base-dir", tmp_path, "--record-list", path, "--from-split", tmp_path / "given.csv")
    split = read_split(tmp_path, table)
    assert split["study_id"].tolist() == table["study_id"].tolist()[10:]
    expected = np.array(["train", "valid", "test"])[[["Train", "validation", "test"].index(n) for n in names[10:]]]
    assert split["split"].tolist() == expected.tolist()
    leaking = int((split.groupby("subject_id")["split"].nunique() > 1).sum())
    assert f"warning: {leaking:,} patients are in more than one split" in process.stderr
    left_out = pd.read_csv(tmp_path / "split/data/meta_split.left_out.csv")
    assert left_out["study_id"].tolist() == [*table["study_id"].tolist()[:10], 999]
    assert left_out["reason"].value_counts().to_dict() == {"only in the record list": 10, "only in the given split": 1}


@pytest.mark.parametrize(
    "form",
    [
        "mimic_iv_ecg_{}.mat",
        "{}.mat",
        "/scratch/ecg/preprocessed/mimic_iv_ecg_{}.mat",
        "org/{}.mat",
        "C:\\ecg\\mimic_iv_ecg_{}.mat",
        "files/p1000/p10000032/s{0}/{0}",
    ],
)
def test_foreign_save_files(tmp_path, form):
    # fairseq-signals' splitter: idx is a number of its own, and segmented_split.csv has a row for each segment.
    lines = ["idx,save_file,split,subject_id,path"]
    for idx, (study, split) in enumerate([(40689238, "train"), (7, "test"), (40000001, "valid")]):
        lines += [f"{idx},{form.format(study)},{split},10000032,{study}_{segment}.mat" for segment in (0, 1)]
    (tmp_path / "given.csv").write_text("\n".join(lines) + "\n")
    study_id, split = read_foreign_split(tmp_path / "given.csv")
    assert study_id.tolist() == [40689238, 7, 40000001] and split.tolist() == [0, 2, 1]
    assert study_id.dtype == np.int64 and split.dtype == np.int8


def test_what_another_split_than_ecg_fms_means_is_said(tmp_path, create_split):
    path, table = make_list(tmp_path)
    printed = create_split("--base-dir", tmp_path, "--record-list", path).stdout
    note = next(line for line in printed.splitlines() if line.startswith("note: "))
    assert all(words in note for words in ("pretrained", "about 80 %", "--from-split meta_split_mimic_iv_ecg.csv"))
    options = ("--base-dir", tmp_path / "given", "--record-list", path)
    printed = create_split(*options, "--from-split", tmp_path / "split/data/meta_split.csv").stdout
    assert "note: " not in printed
    assert read_split(tmp_path / "given", table).equals(read_split(tmp_path, table))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("study_id,split\n1,train\n2,0\n", ["line 3", "'0'"]),
        ("study_id,split\n1,train\n2,test\n1,test\n", ["line 4", "study_id 1 into test"]),
        ("save_file,split\nmimic_iv_ecg_1_0.mat,train\n", ["line 2", "mimic_iv_ecg_1_0.mat"]),
        ("name,split\n1,train\n", ["neither a study_id nor a save_file"]),
        ("study_id,fold\n1,train\n", ["'split' is missing"]),
        ("study_id,split\n1,train\n", ["no study in common"]),
        ("", ["empty"]),
    ],
)
def test_from_split_refuses(tmp_path, create_split, content, words):
    path, _ = make_list(tmp_path)
    (tmp_path / "given.csv").write_text(content)
    process = create_split(
        "--base-dir", tmp_path, "--record-list", path, "--from-split", tmp_path / "given.csv", exit_code=1
    )
    assert all(word in process.stderr for word in ["given.csv", *words]), process.stderr
    assert not (tmp_path / "split").exists()


@pytest.mark.parametrize("stratified", [False, True])
def test_extend_keeps_every_row_and_patient_and_fills_up_to_the_targets(tmp_path, create_split, stratified):
    path, table = make_list(tmp_path, patients=400)
    make_labels(tmp_path / "labels", table["study_id"].to_numpy())
    options = ("--base-dir", tmp_path, "--extend", *(("--stratify", tmp_path / "labels") if stratified else ()))
    # The first half of the records: some patients have records in both halves.
    half = tmp_path / "half.csv"
    table.sample(frac=0.5, random_state=1).to_csv(half, index=False)
    create_split(*options, "--record-list", half)
    meta = tmp_path / "split/data/meta_split.csv"
    before = meta.read_bytes()

    create_split(*options, "--record-list", path)
    assert meta.read_bytes().startswith(before)
    split = read_split(tmp_path, table)
    assert len(split) == len(table)
    assert (split.groupby("subject_id")["split"].nunique() == 1).all()
    share = split["split"].value_counts(normalize=True)
    assert share["valid"] == pytest.approx(0.1, abs=0.02) and share["test"] == pytest.approx(0.1, abs=0.02)

    after = meta.read_bytes()
    assert "0 added" in create_split(*options, "--record-list", path).stdout
    assert meta.read_bytes() == after

    process = create_split(*options, "--record-list", half, exit_code=1)
    assert "complete record list" in process.stderr
    assert meta.read_bytes() == after


def test_extend_refuses_a_split_with_patients_in_more_than_one_split(tmp_path, create_split):
    path, _ = make_list(tmp_path)
    options = ("--base-dir", tmp_path, "--record-list", path)
    create_split(*options, "--group-by", "study")
    assert "--group-by study" in create_split(*options, "--extend", exit_code=1).stderr
    create_split(*options, "--extend", "--group-by", "study")


# ------------------------------------------------------------------------------------------------ a split that is there


def test_another_split_is_replaced_with_overwrite_only(tmp_path, create_split, run_script):
    path, _ = make_list(tmp_path)
    options = ("--base-dir", tmp_path, "--record-list", path)
    first = digest_of(create_split(*options))
    meta = tmp_path / "split/data/meta_split.csv"
    content, status = meta.read_bytes(), meta.stat()

    again = create_split(*options)
    assert "unchanged" in again.stdout.splitlines()[-1]
    assert (meta.stat().st_ino, meta.stat().st_mtime_ns) == (status.st_ino, status.st_mtime_ns)

    refused = run_script(SCRIPT, *options, "--seed", 43, exit_code=1)
    assert str(meta) in refused.stderr and "--overwrite" in refused.stderr
    assert meta.read_bytes() == content

    replaced = create_split(*options, "--seed", 43, "--overwrite")
    assert digest_of(replaced) != first and "unchanged" not in replaced.stdout
    assert meta.read_bytes() != content
    assert [file.name for file in meta.parent.iterdir()] == ["meta_split.csv", "meta_split.json"]


def test_the_list_of_excluded_studies_goes_with_its_split(tmp_path, create_split):
    path, table = make_list(tmp_path)
    names = np.array(["train", "valid", "test"])[table["subject_id"] % 3]
    given_split = pd.DataFrame({"study_id": table["study_id"], "split": names})
    given_split.to_csv(tmp_path / "all.csv", index=False)
    given_split.iloc[5:].to_csv(tmp_path / "some.csv", index=False)
    options = ("--base-dir", tmp_path, "--record-list", path)
    listed = tmp_path / "split/data/meta_split.left_out.csv"

    create_split(*options, "--from-split", tmp_path / "some.csv")
    content = listed.read_bytes()
    assert pd.read_csv(listed)["study_id"].tolist() == table["study_id"].tolist()[:5]

    create_split(*options, exit_code=1)  # refused: both stay
    create_split(*options, "--from-split", tmp_path / "all.csv", exit_code=1)
    assert listed.read_bytes() == content

    listed.write_text("study_id,reason\n1,of another split\n")
    assert "unchanged" in create_split(*options, "--from-split", tmp_path / "some.csv").stdout
    assert listed.read_bytes() == content

    printed = create_split(*options, "--overwrite").stdout
    assert not listed.exists() and f"removed {listed}" in printed
    create_split(*options, "--overwrite", "--from-split", tmp_path / "some.csv")
    assert listed.read_bytes() == content
    create_split(*options, "--overwrite", "--from-split", tmp_path / "all.csv")
    assert not listed.exists()


def test_no_interruption_leaves_the_list_of_an_earlier_split(tmp_path, monkeypatch):
    excluded = pd.DataFrame({"study_id": [9], "reason": "only in the record list"})
    meta, listed = tmp_path / "meta_split.csv", tmp_path / "meta_split.left_out.csv"
    study_ids, split = np.array([5, 6]), np.array([0, 2])
    assert write_split(meta, study_ids, split, excluded, replace=False)

    def killed(path):
        raise KeyboardInterrupt(path)

    with monkeypatch.context() as patch:
        patch.setattr("ecg_split.split_file.replacing", killed)
        with pytest.raises(KeyboardInterrupt):
            write_split(meta, study_ids, split[::-1], excluded.replace(9, 8), replace=True)
    assert not listed.exists()
    assert not write_split(meta, study_ids, split, excluded, replace=False)
    assert listed.read_text() == "study_id,reason\n9,only in the record list\n"


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["no such file"]),
        ("", ["empty"]),
        ("subject_id,study_id\n", ["no rows"]),
        ("subject_id,path\n1,a\n", ["'study_id' is missing"]),
        ("subject_id,study_id\n1,5\n2,6\n1,5\n", ["duplicate study_id 5", "line 4"]),
        ("subject_id,study_id\n1,5\n2,x\n", ["line 3 has study_id 'x'"]),
        ("subject_id,study_id\n1,5\n,6\n", ["line 3 has subject_id ''"]),
        ("subject_id,study_id\n1,5.5\n", ["line 2 has study_id '5.5'"]),
    ],
)
def test_bad_record_lists_are_refused_in_one_line(tmp_path, create_split, content, words):
    path = tmp_path / "record_list.csv"
    if content is not None:
        path.write_text(content)
    process = create_split("--base-dir", tmp_path, "--record-list", path, exit_code=1)
    assert all(word in process.stderr for word in ["record_list.csv", *words]), process.stderr
    assert not (tmp_path / "split").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"subject_id": 10000117}, ["subject_id 10000117", "p10000032/s40689238"]),
        ({"study_id": 45090959}, ["study_id 45090959", "p10000032/s40689238"]),
        ({"path": "files/p1000/p10000117/s40689238/40689238"}, ["subject_id 10000032", "p10000117/s40689238"]),
        ({"path": "p10000032/s40689239/40689239"}, ["study_id 40689238", "p10000032/s40689239"]),
    ],
)
def test_ids_that_contradict_their_path_are_refused(tmp_path, create_split, change, words):
    table = pd.DataFrame(
        {"subject_id": [10000030, 10000032, 10000034], "study_id": [41111111, 40689238, 42222222]}, dtype=object
    )
    table["path"] = [f"files/p1000/p{subject}/s{study}/{study}" for subject, study in table.to_numpy()]
    for column, value in change.items():
        table.loc[1, column] = value
    path = tmp_path / "record_list.csv"
    for columns in (["subject_id", "study_id", "path"], ["study_id", "path"]):
        if columns[0] == "study_id" and words[0].startswith("subject_id"):
            continue  # the path is all that tells the patient
        table[columns].to_csv(path, index=False)
        refused = create_split("--base-dir", tmp_path, "--record-list", path, exit_code=1)
        assert all(word in refused.stderr for word in [f"{path}: line 3", *words]), refused.stderr
        assert not (tmp_path / "split").exists()


@given(st.integers(0, 10**9), st.integers(1, 10**9))
def test_paths_in_another_form_are_no_contradiction(subject, study):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "record_list.csv"
        places = [
            f"records/{study}",
            "",
            f"p{subject}",
            "p1234567/s1234567/1",
            "p123456789/s123456789/1",
            "p12345678/x/1",
        ]
        places += [f"g1/p{subject:08}/s{study + 6:08}/1", f"p{subject}/s{study + 7}"]
        lines = [f"{subject},{study + k},{place}\n" for k, place in enumerate(places)]
        path.write_text("subject_id,study_id,path\n" + "".join(lines))
        studies = read_studies(path, need_patients=True, otherwise="")
        assert studies["study_id"].tolist() == [study + k for k in range(8)]
        assert studies["subject_id"].tolist() == [subject] * 8


@pytest.mark.parametrize(
    ("options", "exit_code"),
    [
        (("--valid-frac", 0.5, "--test-frac", 0.5), 1),
        (("--seed", -1), 2),
        (("--from-split", "x.csv", "--extend"), 1),
        (("--valid-frac", 1.5), 2),
        (("--group-by", "hospital"), 2),
    ],
)
def test_bad_options_are_refused(tmp_path, create_split, options, exit_code):
    path, _ = make_list(tmp_path, patients=5)
    create_split("--base-dir", tmp_path, "--record-list", path, *options, exit_code=exit_code)
    assert not (tmp_path / "split").exists()


def test_an_empty_split_is_said(tmp_path, create_split):
    path = tmp_path / "list.csv"
    path.write_text("subject_id,study_id\n1,5\n1,6\n1,7\n")
    process = create_split("--base-dir", tmp_path, "--record-list", path)
    assert "warning: test is empty" in process.stderr


@pytest.mark.parametrize("options", [(), ("--group-by", "study")])
def test_all_records_for_external_validation_come_to_test_without_a_warning(tmp_path, create_split, options):
    path = tmp_path / "list.csv"
    path.write_text("study_id\n5\n7\n6\n" if options else "subject_id,study_id\n1,5\n2,7\n1,6\n")
    arguments = ("--base-dir", tmp_path, "--record-list", path, "--valid-frac", 0, "--test-frac", 1, *options)
    process = create_split(*arguments)
    assert (tmp_path / "split/data/meta_split.csv").read_text() == "save_file,split\n" + "".join(
        f"mimic_iv_ecg_{study}.mat,test\n" for study in (5, 7, 6)
    )
    assert process.stderr == "" and "note:" not in process.stdout and "in more than one split" not in process.stdout

"""Manifests, segments and labels as training reads them: what is read, and what is refused."""

import shutil

import numpy as np
import pytest
import torch
from finetune_world import SAMPLES, make_manifests
from scipy.io import loadmat

from ecg_finetune.files import UserError
from ecg_finetune.label_set import LabelSet, read_pos_weight, write_label_definition
from ecg_finetune.matfile import write_mat
from ecg_finetune.segments import SegmentDataset, expand_lead, read_label_rows, read_labels, read_manifest, read_segment


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    return make_manifests(tmp_path_factory.mktemp("build"))


def change_line(text, number, line):
    """Replace a line."""
    lines = text.splitlines()
    lines[number] = line
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda _: "", "lists no segment"),
        (lambda t: t.splitlines()[0], "lists no segment"),
        (lambda t: change_line(t, 2, "a.mat 300"), r"line 3 is 'a.mat 300', not path<TAB>samples"),
        (lambda t: change_line(t, 2, "a.mat\t"), "line 3"),
        (lambda t: change_line(t, 2, "a.mat\t-1"), "line 3"),
        (lambda t: change_line(t, 2, "a.mat\t299"), "segments of 299 and of 300"),
        (lambda t: change_line(t, 2, f"0_0.mat\t{SAMPLES}"), "duplicate segment 0_0.mat"),
        (lambda t: change_line(t, 0, "/no/such/folder"), "'/no/such/folder' .* does not exist"),
    ],
)
def test_a_bad_manifest_is_one_line(manifests, tmp_path, change, told):
    path = tmp_path / "train.tsv"
    path.write_text(change((manifests / "train.tsv").read_text()))
    with pytest.raises(UserError, match=told) as caught:
        read_manifest(path)
    assert "train.tsv" in str(caught.value)


def flat(**changes):
    """Return the content of a segment file."""
    return {
        "feats": np.ones((12, SAMPLES), np.float32),
        "curr_sample_rate": 500,
        "idx": 3,
        "original_idx": 1003,
    } | changes


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (flat(feats=np.full((12, SAMPLES), np.nan, np.float32)), "NaN"),
        (flat(feats=np.arange(12 * SAMPLES, dtype=np.float32).reshape(12, SAMPLES)), "rows of feats differ"),
        (flat(feats=np.ones((12, SAMPLES - 1), np.float32)), rf"shape \(12, {SAMPLES - 1}\)"),
        (flat(curr_sample_rate=250), "250 Hz"),
        (flat(idx=9), "idx 9 is not a row"),
        (flat(idx=-1), "idx -1 is not a row"),
        (flat(idx=np.array([1, 2])), "no usable"),
        (flat(idx=0.5), "idx 0.5 is not a row"),
        (flat(original_idx=np.nan), "no usable original_idx"),
        ({"feats": np.ones((12, SAMPLES))}, "curr_sample_rate"),
    ],
)
def test_a_bad_segment_never_reaches_the_network(tmp_path, content, told):
    write_mat(tmp_path / "s.mat", content)
    with pytest.raises(UserError, match=told) as caught:
        read_segment(tmp_path / "s.mat", SAMPLES, 9)
    assert "s.mat" in str(caught.value)


def test_a_segment_whose_idx_is_the_row_of_another_study_is_refused(manifests):
    labels, studies = read_label_rows(manifests)
    studies[7] = 5
    dataset = SegmentDataset(read_manifest(manifests / "train.tsv"), labels, studies)
    with pytest.raises(UserError, match="7_0.mat: of study 1007, but its idx 7 is the row of study 5"):
        list(dataset[i] for i in range(len(dataset)))


def test_labels_and_studies_of_different_length_are_refused(manifests, tmp_path):
    for name, rows in (("y.npy", slice(None)), ("original_idx_order.npy", slice(1, None))):
        np.save(tmp_path / name, np.load(manifests / name)[rows])
    shutil.copy(manifests / "label_def.csv", tmp_path)
    with pytest.raises(UserError, match=r"y.npy: 32 rows, but original_idx_order.npy beside it has 31"):
        read_label_rows(tmp_path)


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros((5, 2)), r"shape \(5, 2\), not numbers of shape \(rows, 3\)"),
        (np.zeros(3), r"shape \(3,\)"),
        (np.array([[0, 1, np.nan], [np.nan, -1, 1]]), "row 1 holds a label outside 0 to 1"),
        (np.full((5, 3), np.inf), "row 0"),
        (np.eye(3) * 2, "row 0"),
        (np.full((5, 3), "a"), "<U1"),
    ],
)
def test_bad_labels_are_one_line(tmp_path, array, told):
    write_label_definition(tmp_path / "label_def.csv", LabelSet.of(["A", "B", "C"]), np.zeros((1, 3)))
    np.save(tmp_path / "y.npy", array)
    with pytest.raises(UserError, match=told):
        read_labels(tmp_path)


@pytest.mark.parametrize("count", [1, 3, 71])
def test_any_number_of_labels_is_read_and_unknown_ones_are_nan(tmp_path, count):
    manifests = make_manifests(tmp_path, 8, 4, labels=LabelSet.of([f"Finding {k}" for k in range(count)]), unknown=0.3)
    labels, _ = read_label_rows(manifests)
    assert labels.shape == (12, count) and labels.dtype == np.float32
    np.testing.assert_array_equal(labels, np.load(manifests / "y.npy"))
    _, target = SegmentDataset(read_manifest(manifests / "valid.tsv"), *read_label_rows(manifests))[1]
    np.testing.assert_array_equal(target, labels[9])


@pytest.mark.parametrize("text", ["", "1 2 3", "a " * 17, "-1 " * 17, "nan " * 17])
def test_bad_weights_are_one_line(tmp_path, text):
    (tmp_path / "pos_weight.txt").write_text(text)
    with pytest.raises(UserError, match="pos_weight.txt"):
        read_pos_weight(tmp_path / "pos_weight.txt", 17)


def test_a_segment_comes_with_its_lead_and_labels(manifests):
    (y, studies), manifest = read_label_rows(manifests), read_manifest(manifests / "valid.tsv")
    lead, target = SegmentDataset(manifest, y, studies)[7]
    np.testing.assert_array_equal(loadmat(manifest.files[7])["feats"], np.tile(lead, (12, 1)))
    np.testing.assert_array_equal(target, y[22 + 7])
    source = expand_lead(torch.from_numpy(lead)[None])
    assert source.shape == (1, 12, SAMPLES) and torch.equal(source[0, 11], torch.from_numpy(lead))

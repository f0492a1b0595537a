"""The model folder that export writes: against the checkpoint, eval's own files, and readers of other hands."""

import json
import re
import shutil
import zipfile
from dataclasses import asdict

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
import yaml
from ecg_evaluation.metrics import METRICS
from ecg_export.checks import means_over_labels
from ecg_export.folder import write_config, write_networks
from evaluation_world import write_checkpoint
from exported_model import make_model_folder, metrics_file
from safetensors import safe_open
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score

from ecg_finetune import load_model
from ecg_finetune.documents import REPOSITORY
from ecg_finetune.ecg_fm import fold_channels, load_classifier
from ecg_finetune.files import UserError, sha256, write_json
from ecg_finetune.label_set import COMBINED_BY_MAX, ECG_FM, LABELS
from ecg_finetune.model_folder import ModelConfig, read_config
from ecg_finetune.paths import locate
from ecg_finetune.segments import read_lead

SCRIPT = "export/scripts/export_model.py"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A base folder with an evaluation and an exported model, both precisions."""
    base = tmp_path_factory.mktemp("export")
    make_model_folder(base, "--precision", "int8", "--data", 'Made-up: "ECGs"')
    return base


@pytest.fixture(scope="module")
def folder(base):
    return locate(base, "model_folder", model="small")


@pytest.fixture(scope="module")
def checkpoint(base):
    return load_classifier(locate(base, "checkpoint_best"))


def test_the_folder_holds_no_pickle_and_states_the_checksum_of_every_file(folder):
    files = {path.name: path for path in folder.iterdir()}
    config = json.loads(files.pop("config.json").read_text())
    assert config["files"] == {name: sha256(path) for name, path in files.items()}
    assert set(files) == {
        *("README.md", "checks.json", "metrics.csv", "model.safetensors", "model.onnx", "model_int8.onnx")
    }
    for path in files.values():
        assert not zipfile.is_zipfile(path) and path.read_bytes()[:1] != b"\x80", path.name
        assert path.stat().st_mode & 0o444 == 0o444, path.name


def test_weights_are_the_checkpoints_bit_by_bit(folder, checkpoint):
    with safe_open(folder / "model.safetensors", "numpy") as weights:
        found = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118  no mapping
    expected = checkpoint.state_dict()
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value.numpy())


@pytest.mark.parametrize(("batch", "samples"), [(1, 2500), (7, 2500), (2, 5000), (3, 1234)])
def test_onnx_gives_the_logits_of_twelve_equal_channels(folder, checkpoint, batch, samples):
    lead = torch.randn(batch, samples, generator=torch.Generator().manual_seed(batch))
    with torch.inference_mode():
        expected = checkpoint(lead[:, None].repeat(1, 12, 1)).numpy()
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (found,) = session.run(["logits"], {"lead": lead.numpy()})
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.dtype == np.float32


def test_onnx_names_its_sizes_and_tells_nothing_of_this_machine(folder):
    network = onnx.load(folder / "model.onnx")
    onnx.checker.check_model(network, full_check=True)
    shapes = [
        [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*network.graph.input, *network.graph.output)
    ]
    assert shapes == [["batch", "samples"], ["batch", 17]]
    for path in folder.iterdir():
        assert b"/work" not in path.read_bytes() and b"/tmp" not in path.read_bytes(), path.name
        assert b"site-packages" not in path.read_bytes(), path.name


def test_folding_is_exact(checkpoint):
    double = load_model_in_double(checkpoint)
    lead = torch.randn(3, 2500, dtype=torch.float64)
    with torch.inference_mode():
        expected = double.encoder(lead[:, None].repeat(1, 12, 1))
        found = fold_channels(double).encoder(lead[:, None])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)  # the group norm is in float32


@pytest.mark.parametrize("channel", [0, 4])
def test_a_lead_in_one_channel_is_folded_too(checkpoint, channel, tmp_path):
    """As --input zero trains it: the network and its files, against channels that are zero but one."""
    model = load_model_in_single(checkpoint)
    model.input_channel = channel
    leads = torch.randn(3, 2500, generator=torch.Generator().manual_seed(channel))
    source = torch.zeros(3, 12, 2500)
    source[:, channel] = leads
    with torch.inference_mode():
        expected = checkpoint(source).numpy()
        np.testing.assert_allclose(fold_channels(model)(leads[:, None]).numpy(), expected, atol=1e-5)
    calibration = np.tile([1.0, 0.0], (17, 1))
    shape = {**asdict(model.architecture), "conv_feature_layers": str(list(model.architecture.conv_feature_layers))}
    config = ModelConfig("zero", shape, ECG_FM, np.full(17, 0.5), calibration, "f1", "I", channel, {}, {})
    write_networks(tmp_path, model, int8=False)
    write_config(tmp_path, config)
    for runtime in ("onnx", "torch"):
        loaded = load_model(tmp_path, runtime)
        assert loaded.config.input_channel == channel
        np.testing.assert_allclose(loaded.network(leads.numpy()), expected, atol=1e-5)


def load_model_in_double(model):
    copy = type(model)(model.architecture)
    copy.load_state_dict(model.state_dict())
    return copy.double().eval()


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_predictions_are_evals_own_calibrated(base, folder, runtime):
    """On the 10-second records of the test set, by the numbers of metrics.csv."""
    (predictions,) = locate(base, "eval").glob("predictions_test_*.csv")
    expected = pd.read_csv(predictions, index_col="study_id")
    metrics = pd.read_csv(metrics_file(base), index_col="label").loc[list(LABELS)]
    slope, intercept = metrics["calibration_slope"], metrics["calibration_intercept"]
    usable = (slope > 0) & ((slope != 1) | (intercept != 0))
    model = load_model(folder, runtime)
    for study, row in expected.head(12).iterrows():
        lead, _ = read_lead(locate(base, "test_mats") / f"mimic_iv_ecg_{study}.mat", 5000)
        table = model.predict(lead, rate=500).table
        calibrated = np.where(usable, expit(slope * logit(row) + intercept), row)
        np.testing.assert_allclose(table["probability"], calibrated, atol=2e-6)
        near = (row - metrics["threshold"]).abs() < 1e-6
        assert (table["found"] == (row >= metrics["threshold"]))[~near].all()
        assert list(table.index) == list(LABELS)


def test_a_longer_lead_is_combined_over_its_windows(base, folder):
    model = load_model(folder)
    studies = pd.read_csv(locate(base, "test_file_list"))["study_id"].head(3)
    leads = [read_lead(locate(base, "test_mats") / f"mimic_iv_ecg_{study}.mat", 5000)[0] for study in studies]
    windows = model.predict(np.concatenate(leads), rate=500).windows
    assert windows["start_s"].tolist() == [0, 10, 20] and (windows["status"] == "ok").all()
    alone = [model.predict(lead, rate=500).table["probability"] for lead in leads]
    np.testing.assert_allclose(windows[list(LABELS)], alone, atol=1e-6)
    whole = model.predict(np.concatenate(leads), rate=500).table["probability"]
    for label in COMBINED_BY_MAX:  # calibration rises, so the maximum is one of them
        assert whole[label] == pytest.approx(windows[label].max(), abs=1e-12)


def test_checks_repeat_evals_metrics(base, folder):
    checks = json.loads((folder / "checks.json").read_text())
    assert max(checks["largest_logit_difference"][name] for name in ("model.safetensors", "model.onnx")) < 1e-5
    metrics = pd.read_csv(metrics_file(base), index_col="label")
    for label in LABELS:
        for name in METRICS:
            found = checks["int8"]["metrics"][label][name][0]
            np.testing.assert_allclose(np.nan if found is None else found, metrics.at[label, name], atol=1e-6)
    assert checks["int8"]["records"] == 60


def test_means_of_the_checks_are_over_labels_that_both_define(folder):
    """And are not called as the macro average of metrics.csv, which is over labels with enough patients."""
    int8 = json.loads((folder / "checks.json").read_text())["int8"]
    assert set(int8["metrics"]) == set(LABELS) and set(int8["means"]) == set(METRICS)
    for name, (before, after, change, number) in int8["means"].items():
        rows = np.array([row[name] for row in int8["metrics"].values() if None not in row[name]])
        assert number == len(rows)
        np.testing.assert_allclose(rows.mean(axis=0), [before, after, change], atol=1e-12)
    assert int8["means"]["auroc"][3] < 17 == int8["means"]["brier"][3]
    assert means_over_labels({"A": {"f1": [0.5, None, None]}}) == {"f1": [None, None, None, 0]}


def test_int8_answers_nearly_the_same(base, folder):
    truth = pd.read_csv(locate(base, "test_labels"))
    leads = [
        read_lead(locate(base, "test_mats") / f"mimic_iv_ecg_{study}.mat", 5000)[0] for study in truth["idx"].head(20)
    ]
    segments = np.stack(leads).reshape(40, 2500)
    fine, coarse = (load_model(folder, precision=name).probabilities(segments) for name in ("float32", "int8"))
    assert 0 < np.abs(fine - coarse).max() < 0.05
    assert (folder / "model_int8.onnx").read_bytes() != (folder / "model.onnx").read_bytes()


def test_the_card_has_the_metrics_in_the_hubs_form(base, folder):
    _, head, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    (model,) = yaml.safe_load(head)["model-index"]
    (result,) = model["results"]
    assert model["name"] == "small" and result["dataset"]["name"] == 'Made-up: "ECGs"'
    metrics = pd.read_csv(metrics_file(base), index_col="label")
    values = {metric["name"]: metric["value"] for metric in result["metrics"]}
    assert values["AUROC, Macro average"] == pytest.approx(metrics.at["__macro__", "auroc"], abs=1e-4)
    assert values["F1, Tachycardia"] == pytest.approx(metrics.at["Tachycardia", "f1"], abs=1e-4)
    for words in ("Not a medical device", "PhysioNet", "One lead shows", *LABELS):
        assert words in text
    assert "nan" not in text
    note = metrics.at["__macro__", "note"]
    assert note.startswith("mean over ") and f"\nMacro average: {note}.\n" in text


def test_what_the_valid_split_could_not_choose_is_told_with_its_reason(call_script, base, folder, tmp_path):
    """Against the note column of metrics.csv, in config.json, on the card, at the terminal and on the page."""
    told = {
        "rank the wrong way": "not calibrated, and not even its order is reliable (the scores rank the wrong way on "
        "the valid split)",
        "threshold not chosen": "threshold not chosen but 0.5, not calibrated (not both present and absent on the "
        "valid split)",
    }
    metrics = pd.read_csv(metrics_file(base), index_col="label").loc[list(LABELS)]
    labels = {words: list(metrics.index[metrics["note"].str.contains(words, na=False)]) for words in told}
    assert all(labels.values()) and (metrics.loc[labels["rank the wrong way"], "valid_n_pos"] > 0).all()
    notes = {label: told[words] for words, names in labels.items() for label in names}
    content = json.loads((folder / "config.json").read_text())["labels"]
    assert {label["name"]: label["note"] for label in content} == {name: notes.get(name, "") for name in LABELS}
    assert read_config(folder).notes == notes

    card = (folder / "README.md").read_text(encoding="utf-8")
    command = ["--base-dir", base, "--metrics", metrics_file(base), "--name", "x", "--out", tmp_path / "x"]
    printed = call_script(SCRIPT, *command).out
    for words, note in told.items():
        line = f"{note}: {', '.join(labels[words])}\n"
        assert f"- {line}" in card and f"note: {line}" in printed
    np.save(tmp_path / "lead.npy", np.random.default_rng(0).normal(size=5000))
    arguments = [tmp_path / "lead.npy", "--rate", 500, "--model", folder, "--out", tmp_path / "out"]
    call_script("predict/scripts/predict_ecg.py", *arguments)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for label, note in notes.items():
        assert f"{label}: {note}." in page
    assert page.count("The probability is no frequency: ") == len(notes) and "only its order" not in page


def test_folders_of_earlier_versions_have_no_notes(copied):
    change_config(copied, lambda config: [label.pop("note") for label in config["labels"]])
    assert read_config(copied).notes == {}


@pytest.fixture(scope="module")
def further(base, run_script, tmp_path_factory):
    """Return metrics, groups and noise of a second evaluation of the same checkpoint."""
    people = pd.read_csv(locate(base, "record_list"))[["subject_id"]].drop_duplicates()
    people.assign(sex=np.resize(["women | all", "men"], len(people))).to_csv(base / "people.csv", index=False)
    out = tmp_path_factory.mktemp("further")
    common = ("--base-dir", base, "--out", out, "--num-workers", 0)
    groups = ("--subgroups", base / "people.csv", "--by", "sex", "--bootstrap", 10)
    run_script("eval/scripts/eval_finetuned.py", *common, *groups)
    run_script("eval/scripts/eval_noise.py", *common, "--bootstrap", 20, "--kinds", "muscle", "--snr", "12")
    return [next(out.glob(f"{name}_test_*.csv")) for name in ("metrics", "subgroups", "noise")]


def test_further_tables_are_on_the_card(call_script, base, further, tmp_path):
    metrics, groups, noise = further
    command = ["--base-dir", base, "--metrics", metrics, "--name", "more", "--out", tmp_path / "more"]
    call_script(SCRIPT, *command, "--noise", noise, "--subgroups", groups)
    card = (tmp_path / "more" / "README.md").read_text(encoding="utf-8")
    table = pd.read_csv(noise).set_index(["kind", "label"]).loc[("muscle", "__macro__")]
    auroc = "{:.3f} ({:.3f} to {:.3f})".format(*table[["auroc", "auroc_low", "auroc_high"]])
    assert "## Under noise" in card and re.search(rf"\| muscle \| 12(\.0)? \| .*{re.escape(auroc)}", card)
    assert "## In groups of patients" in card and "| women \\| all |" in card


def test_further_tables_of_something_else_are_refused(call_script, base, further, tmp_path):
    metrics, groups, noise = further
    by_hand = tmp_path / "noise.csv"
    by_hand.write_text("kind,snr,label,n_pos,auroc\nmuscle,0,__macro__,90,0.999\n")
    changed, unvouched = tmp_path / noise.name, tmp_path / "alone.csv"
    changed.write_text(noise.read_text() + "muscle,0" + "," * (noise.read_text().split("\n")[0].count(",") - 1) + "\n")
    shutil.copy(noise.with_suffix(".json"), tmp_path)
    shutil.copy(noise, unvouched)
    lineage = json.loads(noise.with_suffix(".json").read_text())
    checkpoints = dict.fromkeys(lineage["settings"]["checkpoints"], "0" * 64)
    other, elsewhere = tmp_path / "other.csv", tmp_path / "elsewhere.csv"
    for path, change in (
        (other, {"settings": {**lineage["settings"], "checkpoints": checkpoints}}),
        (elsewhere, {"earlier": [*lineage["earlier"][:-1], {"stage": "build", "version": "of another test set"}]}),
    ):
        shutil.copy(noise, path)
        write_json(path.with_suffix(".json"), {**lineage, **change, "outputs": {path.name: sha256(path)}})
    for table, told in (
        (by_hand, "no table that eval, together with"),
        (changed, "not the file that the eval_noise stage wrote"),
        (unvouched, "no table that eval, together with"),
        (other, "no table that eval, together with"),
        (elsewhere, "no table that eval, together with"),
        (groups, "column 'kind' is missing"),
    ):
        error = refused(call_script, base, tmp_path, "--noise", table, metrics=metrics)
        assert f"{table}: {told}" in error and error.count("\n") == 1
    # The metrics of another run do not vouch for these groups.
    assert "no table that eval, together" in refused(call_script, base, tmp_path, "--subgroups", groups)


def test_nothing_of_the_valid_split_goes_along(base, folder):
    """No label, score or study of a record is in any file."""
    studies = pd.read_csv(locate(base, "meta_split"))["save_file"].str.extract(r"(\d+)")[0]
    for path in folder.iterdir():
        if path.suffix in (".json", ".md", ".csv"):
            text = path.read_text(encoding="utf-8")
            assert not [study for study in studies if study in text], path.name


# What is refused has written nothing


def refused(call_script, base, tmp_path, *options, metrics=None):
    metrics = metrics or metrics_file(base)
    command = ["--base-dir", base, "--metrics", metrics, "--name", "refused", "--out", tmp_path / "refused"]
    error = call_script(SCRIPT, *command, *options, exit_code=1).err
    assert not (tmp_path / "refused").exists() and not list(tmp_path.glob(".refused*"))
    return error


def test_metrics_of_another_checkpoint_are_refused(call_script, base, tmp_path):
    write_checkpoint(tmp_path / "other.pt", seed=5)
    error = refused(call_script, base, tmp_path, "--model-path", tmp_path / "other.pt")
    assert "the metrics are of another checkpoint" in error


def test_metrics_without_their_lineage_are_refused(call_script, base, tmp_path):
    shutil.copy(metrics_file(base), tmp_path / "metrics.csv")
    error = refused(call_script, base, tmp_path, metrics=tmp_path / "metrics.csv")
    assert "does not say of which checkpoint" in error


def test_changed_metrics_are_refused(call_script, base, tmp_path):
    copied = shutil.copy(metrics_file(base), tmp_path)
    shutil.copy(metrics_file(base).with_suffix(".json"), tmp_path)
    table = pd.read_csv(copied)
    table.loc[0, "auroc"] = 1.0
    table.to_csv(copied, index=False)
    assert "not the file that the eval stage wrote" in refused(call_script, base, tmp_path, metrics=tmp_path / copied)


def test_metrics_of_the_valid_split_are_refused(call_script, run_script, base, tmp_path):
    world = tmp_path / "world"
    shutil.copytree(base, world, ignore=shutil.ignore_patterns("export", "eval"))
    run_script("eval/scripts/eval_finetuned.py", "--base-dir", world, "--set", "valid", "--bootstrap", 0)
    (metrics,) = locate(world, "eval").glob("metrics_valid_*.csv")
    assert "metrics of the valid split" in refused(call_script, world, tmp_path, metrics=metrics)


def test_a_table_that_is_no_metrics_is_refused(call_script, base, tmp_path):
    assert "not the metrics of an evaluation" in refused(
        call_script, base, tmp_path, metrics=locate(base, "test_labels")
    )


def test_a_network_that_answers_differently_is_refused(call_script, base, tmp_path, monkeypatch):
    import ecg_export.folder as written

    whole = written.write_onnx

    def write_other(path, folded):
        with torch.no_grad():
            folded.proj.bias += 1e-3
        whole(path, folded)

    monkeypatch.setattr(written, "write_onnx", write_other)
    monkeypatch.setattr(written, "fold_channels", lambda model: fold_channels(load_model_in_single(model)))
    error = refused(call_script, base, tmp_path)
    assert "model.onnx: its logits differ from the checkpoint's by up to 0.001" in error


def load_model_in_single(model):
    copy = type(model)(model.architecture)
    copy.load_state_dict(model.state_dict())
    return copy.eval()


def test_a_folder_that_is_there_is_kept(call_script, base, folder, tmp_path):
    command = ["--base-dir", base, "--metrics", metrics_file(base)]
    before = sha256(folder / "config.json")
    assert "there is a model of this name" in call_script(SCRIPT, *command, "--name", "small", exit_code=1).err
    assert sha256(folder / "config.json") == before
    (tmp_path / "notes").write_text("mine")
    error = call_script(SCRIPT, *command, "--name", "x", "--out", tmp_path, "--overwrite", exit_code=1).err
    assert "holds files, but no model" in error and (tmp_path / "notes").read_text() == "mine"
    for inner in (folder / "sub", folder / "a" / "b"):
        error = call_script(SCRIPT, *command, "--name", "x", "--out", inner, exit_code=1).err
        assert f"lies in the model folder {folder}" in error and not inner.parent.joinpath("sub").exists()
    assert not (folder / "a").exists()


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", "-a", "a..b", "ä", "x" * 97])
def test_names_that_are_none(call_script, base, name):
    with pytest.raises(SystemExit) as stopped:
        call_script(SCRIPT, "--base-dir", base, "--metrics", "m.csv", f"--name={name}")
    assert stopped.value.code == 2


# A folder that was changed is not used


def test_a_label_that_the_data_do_not_know_is_never_found(call_script, tmp_path, capfd):
    """As of a data set that says nothing of infarctions: the network has that output, and nothing was learnt of it."""
    folder = make_model_folder(tmp_path, unknown=0.2)
    name = LABELS[-1]
    label = json.loads((folder / "config.json").read_text())["labels"][-1]
    assert label["name"] == name and label["threshold"] is None
    assert (label["calibration_slope"], label["calibration_intercept"]) == (1, 0)
    lead = np.random.default_rng(0).normal(size=5000)
    answer = load_model(folder).predict(lead, rate=500)
    assert "Evaluated on 60 records of the test split" in (folder / "README.md").read_text(encoding="utf-8")
    assert name not in answer.found and np.isnan(answer.table.loc[name, "threshold"])
    assert answer.table.drop(index=name)["threshold"].notna().all()
    np.save(tmp_path / "lead.npy", lead)
    arguments = [tmp_path / "lead.npy", "--rate", 500, "--model", folder, "--out", tmp_path / "out"]
    out = call_script("predict/scripts/predict_ecg.py", *arguments).out
    line, below = out.splitlines()[-3:-1]
    assert line.split()[:2] == name.split() and line.endswith("*       none") and below.startswith("* not calibrated")
    assert "No answer: the recordings that the model was made with" in (tmp_path / "out/report.html").read_text()
    # The documentation's way to do it with onnxruntime alone.
    (tmp_path / "watch.csv").write_text("\n".join(["head"] * 14 + [f"{value:.3f}" for value in 1000 * lead]) + "\n")
    text = (REPOSITORY / "docs" / "use-the-model.md").read_text(encoding="utf-8")
    code = text.partition("## With onnxruntime alone")[2].partition("```python")[2].partition("```")[0]
    code = code.replace("demo/data/export/data/my_model", str(folder))
    exec(code.replace("demo/data/mimic-iv-ecg-demo/watch_ecg.csv", str(tmp_path / "watch.csv")), {})
    printed = capfd.readouterr().out.splitlines()
    assert len(printed) == len(LABELS) and printed[-1].startswith(f"{name}: 0.") and "found" not in printed[-1]


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copied")


@pytest.mark.parametrize(
    ("runtime", "name"),
    [
        ("onnx", "model.onnx"),
        ("torch", "model.safetensors"),
        ("onnx", "metrics.csv"),
        ("torch", "checks.json"),
    ],
)
def test_a_changed_file_is_refused(copied, runtime, name):
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: its SHA-256 is not the one"):
        load_model(copied, runtime)


def test_networks_that_are_not_used_may_be_absent_and_other_files_may_not(copied):
    for name in ("model.safetensors", "model_int8.onnx"):
        (copied / name).unlink()
    (copied / "README.md").write_text("our own card\n")
    load_model(copied, "onnx")
    (copied / "metrics.csv").unlink()
    with pytest.raises(UserError, match="metrics.csv: no such file"):
        load_model(copied, "onnx")


def replace_network(folder, nodes, *weights):
    """Put another network into model.onnx, with its SHA-256."""
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", size])
        for name, size in (("lead", 2500), ("logits", len(LABELS)))
    ]
    graph = onnx.helper.make_graph(nodes, "network", ends[:1], ends[1:], weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    change_config(folder, lambda config: config["files"].update({"model.onnx": sha256(folder / "model.onnx")}))


def weight(content) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.asarray(content, np.float32), "w")


def test_a_network_with_weights_in_another_file_is_refused(copied, tmp_path, monkeypatch):
    """Nobody has checked that file."""
    values = np.zeros((2500, len(LABELS)), np.float32)
    product = onnx.helper.make_node("MatMul", ["lead", "w"], ["logits"])
    outside = weight(values)
    onnx.external_data_helper.set_external_data(outside, "w.bin", 0, values.nbytes)
    outside.ClearField("raw_data")
    monkeypatch.chdir(tmp_path)
    for place in (tmp_path, copied):
        values.tofile(place / "w.bin")
    replace_network(copied, [product], outside)
    with pytest.raises(UserError, match="model.onnx: not a network that onnxruntime can run"):
        load_model(copied, "onnx")
    replace_network(copied, [product], weight(values))
    load_model(copied, "onnx")


@pytest.mark.parametrize(
    ("value", "rows", "told"),
    [
        (np.nan, 2500, "logits that are no numbers"),
        (0, 5000, r"logits of shape \(1, 17\), not \(2, 17\)"),
        (0, 2499, "its network failed"),
    ],
)
def test_a_network_that_gives_no_logits_is_refused(copied, value, rows, told):
    """Put together of all segments (-1 becomes one row), of too few samples, or not a number."""
    node, constant = onnx.helper.make_node, onnx.numpy_helper.from_array
    nodes = [node("Reshape", ["lead", "shape"], ["flat"]), node("MatMul", ["flat", "w"], ["logits"])]
    weights = [weight(np.full((rows, len(LABELS)), value)), constant(np.array([-1, rows]), "shape")]
    replace_network(copied, nodes, *weights)
    with pytest.raises(UserError, match=told) as refusal:
        load_model(copied, "onnx").predict(np.random.default_rng(0).normal(size=5000), rate=500)
    assert str(copied) in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(("runtime", "name"), [("onnx", "model.onnx"), ("torch", "model.safetensors")])
@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x80\x04N."])
def test_a_file_that_is_no_network_is_refused_in_one_line(copied, runtime, name, content):
    (copied / name).write_bytes(content)
    change_config(copied, lambda config: config["files"].update({name: sha256(copied / name)}))
    with pytest.raises(UserError, match=name) as refusal:
        load_model(copied, runtime)
    assert "\n" not in str(refusal.value)


def change_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    write_json(folder / "config.json", config)


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_another_number_of_labels_is_refused(copied, runtime):
    change_config(copied, lambda config: config["labels"].pop())
    with pytest.raises(UserError, match="a network of 17 labels, but config.json names 16"):
        load_model(copied, runtime)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda config: config.update(format="other"), "format other 1"),
        (lambda config: config.update(format_version=2), "with a matching version"),
        (lambda config: config.update(sample_rate=250), "sample_rate is 250"),
        (lambda config: config.update(lead="X"), "lead is X"),
        (lambda config: config.update(lead=["I"]), "lead is"),
        (lambda config: config.update(input="zeros"), "input is zeros"),
        (lambda config: config.update(input_channel=3), "input is duplicate"),
        (lambda config: config.update(input="zero", input_channel=12), "input_channel is 12"),
        (lambda config: config.update(input="zero", input_channel=True), "input_channel is True"),
        (lambda config: config.pop("labels"), "labels is missing"),
        (lambda config: config.update(labels=[]), "names no label"),
        (lambda config: config["labels"][3].pop("threshold"), "label 4 lacks"),
        (lambda config: config["labels"][0].update(threshold=2), "label 1 lacks"),
        (lambda config: config["labels"][0].update(combine="median"), "label 1 lacks"),
        (lambda config: config["labels"][2].update(note=["x"]), "the note of label 3 is no text"),
        (lambda config: config["labels"][1].update(name=config["labels"][0]["name"]), "two labels are called"),
        (lambda config: config.update(files={}), "was exported without model.onnx"),
        (lambda config: config["files"].update({"../x": "0" * 64}), "files names ../x"),
        (lambda config: config["labels"][2].update(calibration_slope=-0.5), "calibration_slope -0.5 of Premature"),
        (lambda config: config["labels"][2].update(calibration_slope=0), "calibration_slope 0 of Premature"),
    ],
)
def test_a_damaged_configuration_is_refused(copied, change, told):
    change_config(copied, change)
    with pytest.raises(UserError, match=told):
        load_model(copied, "onnx")


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        load_model(tmp_path / "none")
    with pytest.raises(UserError, match="config.json: no such file"):
        read_config(tmp_path)


def test_int8_that_is_not_there_is_refused(copied):
    (copied / "model_int8.onnx").unlink()
    with pytest.raises(UserError, match="model_int8.onnx: no such file"):
        load_model(copied, precision="int8")
    change_config(copied, lambda config: config["files"].pop("model_int8.onnx"))
    with pytest.raises(UserError, match="export it again with --precision int8"):
        load_model(copied, precision="int8")
    with pytest.raises(UserError, match="int8 runs in onnxruntime alone"):
        load_model(copied, "torch", precision="int8")


# What a notebook gives


@pytest.mark.parametrize(
    ("signal", "rate", "told"),
    [
        (np.zeros((2, 5000)), 500, "not numbers of shape"),
        (["a"] * 5000, 500, "not numbers of shape"),
        (np.zeros(1000), 500, "2 s, 5 s are needed"),
        (np.zeros(5000), 500, "one value for 10 s"),
        (np.full(5000, np.nan), 500, "missing"),
        (np.ones(50) * np.arange(50), 1, "1 Hz"),
        (np.sin(np.arange(5000)) * 100, 500, "beyond 20 mV"),
    ],
)
def test_a_signal_that_cannot_be_used_says_why(folder, signal, rate, told):
    with pytest.raises(UserError, match=told):
        load_model(folder).predict(signal, rate=rate)


def test_a_channel_may_be_a_number_and_what_is_no_rate_or_unit_is_told(folder, tmp_path):
    model, path = load_model(folder), tmp_path / "leads.npy"
    leads = np.random.default_rng(0).normal(size=(5000, 2))
    np.save(path, leads)
    expected = model.predict(leads[:, 1], rate=500).table
    pd.testing.assert_frame_equal(model.predict_file(path, channel=2, rate=500).table, expected)
    for rate in ("300", [300], 1j):
        with pytest.raises(UserError, match="not a number of samples a second"):
            model.predict(leads[:, 0], rate=rate)
        with pytest.raises(UserError, match="not a number of samples a second"):
            model.predict_file(path, channel="2", rate=rate)
    with pytest.raises(UserError, match="rate: None"):
        model.predict(leads[:, 0], rate=None)
    for unit in ("volts", 3):
        with pytest.raises(UserError, match="none of mV, uV, V and nV"):
            model.predict_file(path, channel=2, rate=500, unit=unit)


def test_the_tables_read_well(base, folder):
    model = load_model(folder, "onnx")
    study = pd.read_csv(locate(base, "test_file_list"))["study_id"][0]
    lead, _ = read_lead(locate(base, "test_mats") / f"mimic_iv_ecg_{study}.mat", 5000)
    prediction = model.predict(lead[:4000], rate=500)
    assert list(prediction.table.columns) == ["probability", "threshold", "found"]
    assert prediction.found == [name for name in LABELS if prediction.table.at[name, "found"]]
    assert "Tachycardia" in repr(prediction) and "<table" in prediction._repr_html_()
    assert prediction.windows["detail"].tolist() == ["8 s instead of 10 s"]
    assert repr(model) == "<Model small: 17 labels from lead I, on onnx>"


def test_auroc_of_the_checks_is_scikit_learns(base, folder):
    """The whole way once more by hand: ONNX, mean of both halves, AUROC."""
    truth = pd.read_csv(locate(base, "test_labels"), index_col="idx")["Tachycardia"]
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    scores = []
    for study in truth.index:
        lead, _ = read_lead(locate(base, "test_mats") / f"mimic_iv_ecg_{study}.mat", 5000)
        (logits,) = session.run(None, {"lead": lead.reshape(2, 2500)})
        scores.append(expit(logits[:, LABELS.index("Tachycardia")]).mean())
    checks = json.loads((folder / "checks.json").read_text())
    assert checks["int8"]["metrics"]["Tachycardia"]["auroc"][0] == pytest.approx(roc_auc_score(truth, scores))

"""The fairseq engine: the command, what it needs, how a run of it starts, fails, is stopped and is recorded.

`stand_in_fairseq.py` takes the place of fairseq-hydra-train, a line of shell that of nvidia-smi.
"""

import dataclasses
import fcntl
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ecg_training import fairseq_engine
from ecg_training.fairseq_command import CONFIG_DIR, OPTIONS, fairseq_command
from ecg_training.fairseq_engine import missing_pieces, run_in_group, versions_of
from ecg_training.trainer import length_of
from finetune_world import REPOSITORY, SCRIPT, make_manifests, some_settings, write_pretrained

from ecg_finetune import run_folder
from ecg_finetune.documents import load_parser
from ecg_finetune.ecg_fm import Architecture
from ecg_finetune.files import UserError

STAND_IN = (Path(__file__).parent / "stand_in_fairseq.py").read_text()
FAIRSEQ_VERSIONS = {
    "python": "3.9.18",
    "torch": "1.13.1+cu117",
    "numpy": "1.26.4",
    "fairseq-signals": "1.0.0a0+6b9e137",
}


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    return make_manifests(tmp_path_factory.mktemp("build"))


@pytest.fixture
def main(call_script):
    return functools.partial(call_script, SCRIPT)


def command_of(output) -> list[str]:
    """Return the shown command as a shell would split it."""
    return shlex.split(next(line for line in output.out.splitlines() if line.startswith("fairseq-hydra-train")))


# The command


def test_the_command_is_the_one_that_ran(manifests, tmp_path, main):
    """The settings, and which of them carry a +, were found by running fairseq-hydra-train for real."""
    output = main(
        *("--print-command", "--fairseq-root", "/opt/fairseq-signals", "--manifests", manifests),
        *("--pretrained", "/models/ecg_fm.pt", "--output-dir", tmp_path / "out", "--workers", 6),
    )
    weights = ",".join(["1.50000000"] * 17)
    expected = f"""fairseq-hydra-train task.data={manifests} +task.label_file={manifests}/y.npy task.normalize=false
        task.enable_padding=true task.enable_padding_leads=false model.model_path=/models/ecg_fm.pt model.num_labels=17
        model.no_pretrained_weights=false model.dropout=0.0 model.attention_dropout=0.0 model.activation_dropout=0.1
        model.feature_grad_mult=0 model.freeze_finetune_updates=0 model.in_d=12 model.saliency=false
        +criterion.pos_weight=[{weights}] criterion.report_auc=true criterion.report_cinc_score=false
        optimization.max_epoch=100 optimization.max_update=0 optimization.lr=[1e-06] optimization.update_freq=[1]
        lr_scheduler._name=fixed lr_scheduler.warmup_updates=0
        dataset.num_workers=6 dataset.batch_size=256 dataset.max_tokens=null
        dataset.valid_subset="valid" dataset.disable_validation=false distributed_training.distributed_world_size=1
        distributed_training.find_unused_parameters=true checkpoint.save_dir={tmp_path}/out checkpoint.save_interval=1
        checkpoint.no_epoch_checkpoints=true checkpoint.no_last_checkpoints=true checkpoint.keep_last_epochs=0
        checkpoint.keep_best_checkpoints=0 checkpoint.no_save_optimizer_state=true
        checkpoint.best_checkpoint_metric=loss checkpoint.maximize_best_checkpoint_metric=false checkpoint.patience=-1
        common.seed=1 common.fp16=false common.log_format=json --config-dir
        /opt/fairseq-signals/examples/w2v_cmsc/config/finetuning/ecg_transformer --config-name diagnosis"""
    assert command_of(output) == expected.split()
    assert not (tmp_path / "out").exists()


def some_command(overrides=(), architecture=None, **changes):
    """Return a command with changed settings."""
    settings = some_settings(**{"pretrained": Path("/p.pt"), "manifests": Path("/m"), "output": Path("/o")} | changes)
    return fairseq_command(settings, architecture or Architecture(), [1.0] * 17, Path("/f"), overrides)


def test_both_engines_stop_after_the_last_epoch_by_default():
    """100 epochs of all of MIMIC-IV-ECG are 492,200 updates; fairseq-signals' own configuration has 320,000."""
    settings = dataclasses.replace(some_settings(pretrained=Path("/p.pt")), epochs=100)
    assert length_of(settings, 1_260_000) == (492_200, 126_000_000)
    assert {"optimization.max_epoch=100", "optimization.max_update=0"} <= set(some_command(epochs=100))


def test_settings_reach_the_command():
    small = Architecture(conv_feature_layers=((32, 2, 2),) * 2, encoder_layers=2, layer_norm_first=True)
    command = some_command(architecture=small, batch_size=64, accumulate=4, seed=7, patience=3, max_update=500)
    assert {
        *("dataset.batch_size=16", "optimization.update_freq=[4]", "common.seed=7", "checkpoint.patience=3"),
        *("optimization.max_update=500", "+model.encoder_layers=2", "+model.layer_norm_first=true"),
        '+model.conv_feature_layers="[(32, 2, 2), (32, 2, 2)]"',
    } <= set(command)


def test_overrides_replace_a_setting_or_come_last_before_the_configuration():
    command = some_command(["common.fp16=true", "+task.filter=true", "distributed_training.x=2"])
    assert [part for part in command if "fp16" in part or "filter" in part] == ["common.fp16=true", "+task.filter=true"]
    assert command.index("distributed_training.x=2") == command.index("--config-dir") - 1


def test_what_an_option_sets_is_no_override():
    options = {option for action in load_parser(SCRIPT)._actions for option in action.option_strings}
    assert set(OPTIONS.values()) <= options
    keys = [part.partition("=")[0].lstrip("+") for part in some_command(input="zero", weight_decay=0.1)]
    assert all(keys.count(key) == 1 for key in OPTIONS)
    for override in ("optimization.lr=[1e-5]", "+task.label_file=/other.npy"):
        with pytest.raises(UserError, match=r"use --(lr|manifests), so that settings.json"):
            some_command([override])


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/data/a-b_1.2+3@4%5/out", "/data/a-b_1.2+3@4%5/out"),
        ("/a b,c", "'/a b,c'"),
        ("/a~b", "'/a~b'"),
        ("/it's", r"'/it\'s'"),
        ("/größe", "'/größe'"),
        ("/a=b[c]{d}:(e)#f", "'/a=b[c]{d}:(e)#f'"),
    ],
)
def test_paths_are_quoted_as_hydra_reads_them(path, shown):
    assert f"checkpoint.save_dir={shown}" in some_command(output=Path(path))


def test_a_home_folder_is_spelled_out(manifests, tmp_path, main, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    output = main(
        *("--print-command", "--fairseq-root=~/fairseq", f"--manifests={manifests}"),
        *("--pretrained=~/ecg_fm.pt", "--output-dir=~/out"),
    )
    command = command_of(output)
    assert {f"model.model_path={tmp_path}/ecg_fm.pt", f"checkpoint.save_dir={tmp_path}/out"} <= set(command)
    assert f"{tmp_path}/fairseq/{CONFIG_DIR}" in command and f"--output-dir {tmp_path}/out\n" in output.out


# What it needs


def write_executable(path, text):
    """Write an executable file."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def machine(tmp_path, manifests, monkeypatch):
    """Return the options of a run on a machine on which fairseq-signals seems to be installed, with a GPU."""
    binaries = tmp_path / "bin"
    write_executable(binaries / "nvidia-smi", "#!/bin/sh\necho 'GPU 0: Made up'\n")
    write_executable(
        binaries / "python3.9",
        f'#!/bin/sh\n[ "$1" = -c ] && echo \'{json.dumps(FAIRSEQ_VERSIONS)}\' && exit\nexec {sys.executable} -S "$@"\n',
    )
    write_executable(binaries / "fairseq-hydra-train", f"#!{binaries}/python3.9\n{STAND_IN}")
    config = tmp_path / "fairseq-signals" / CONFIG_DIR
    config.mkdir(parents=True)
    (config / "diagnosis.yaml").touch()
    write_pretrained(tmp_path / "pretrained.pt")
    monkeypatch.setenv("PATH", f"{binaries}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    options = ["--manifests", manifests, "--pretrained", tmp_path / "pretrained.pt", "--batch-size", "8"]
    return [*options, "--fairseq-root", tmp_path / "fairseq-signals", "--output-dir", tmp_path / "out"]


@pytest.mark.usefixtures("machine")
def test_each_missing_piece_is_told_with_what_to_do(tmp_path, monkeypatch):
    root, pretrained = tmp_path / "fairseq-signals", tmp_path / "pretrained.pt"

    def told(pretrained=pretrained, root=root):
        return [f"{what} ({remedy})" for what, remedy in missing_pieces(pretrained, root)]

    assert told() == []
    assert "(give the clone's folder)" in told(root=tmp_path)[0]
    assert "--pretrained" in told(pretrained=tmp_path / "none.pt")[0]
    fine_tuned = write_pretrained(tmp_path / "fine_tuned.pt", fine_tuned=True)
    assert "fine_tuned.pt is fine-tuned already, and fairseq-signals can only start from" in told(fine_tuned)[0]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "no CUDA device" in told()[0]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(fairseq_engine, "NEWEST_PYTHON", (3, 8))
    assert "runs on Python 3.9.18, too new for fairseq-signals (install it in" in told()[0]
    monkeypatch.setenv("PATH", "/nowhere")
    everything = " ".join(told(tmp_path / "none.pt", None))
    for piece in ("no fairseq-hydra-train on PATH", "no CUDA device", "no --fairseq-root", "no pretrained checkpoint"):
        assert piece in everything


@pytest.mark.parametrize(
    "head",
    [
        "#!{python}\n",
        "#! {python} -u\n",
        "#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\"\n' '''\n",
        "#!/bin/sh\n'''exec' {python} \"$0\" \"$@\"\n' '''\n",
        "#!/usr/bin/env python3-as-this-one\n",
    ],
)
def test_versions_are_those_of_the_interpreter_of_a_script(tmp_path, monkeypatch, head):
    write_executable(tmp_path / "a python" / "python3-as-this-one", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    monkeypatch.setenv("PATH", f"{tmp_path}/a python:{os.environ['PATH']}")
    quoted = f"{tmp_path}/a python/python3-as-this-one" if '"{python}"' in head else sys.executable
    (tmp_path / "script").write_text(head.format(python=quoted))
    found = versions_of(tmp_path / "script")
    assert found["python"] == platform.python_version()
    assert found["torch"] == importlib.metadata.version("torch") and "fairseq-signals" not in found


@pytest.mark.parametrize(
    "content", [b"", b"\x7fELF\x00\xff", b"#!/bin/sh\n", b"#!/no/such/python\n", b"#!/bin/python-\n"]
)
def test_versions_that_cannot_be_asked_are_none(tmp_path, content):
    (tmp_path / "script").write_bytes(content)
    assert versions_of(tmp_path / "script") == {}


# The choice of the engine


@pytest.fixture
def choose(capsys):
    """Return a function that gives the engine for some options, and what is said about it."""
    spec = importlib.util.spec_from_file_location("finetune_ecgfm", REPOSITORY / SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def chosen(options):
        args = script.get_parser().parse_args(list(map(str, options)))
        script.resolve(args)
        return script.choose_engine(args), capsys.readouterr().out

    return chosen


def test_auto_takes_fairseq_where_nothing_is_missing(machine, choose):
    assert choose(machine) == ("fairseq", "")
    assert choose([*machine, "--engine", "torch"]) == ("torch", "")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--fairseq-root", "/nowhere"], "no examples/w2v_cmsc/config/finetuning/ecg_transformer/diagnosis.yaml below"),
        (["--pretrained", "none"], "--pretrained none is for --engine torch"),
        (["--device", "cpu"], "--device cpu is for --engine torch"),
        (["--precision", "bf16"], "--precision bf16 is for --engine torch"),
        (["--resume"], "--resume is for --engine torch"),
        (["--keep-head"], "--keep-head is for --engine torch"),
        (["--compile", "on"], "--compile on is for --engine torch"),
        (["--batch-size", "20"], "makes parts that are not a multiple of 8"),
    ],
)
def test_auto_takes_torch_where_anything_is_missing_and_says_why(machine, choose, more, told):
    engine, said = choose([*machine, *more])
    assert engine == "torch" and told in said and said.count("\n") == 1
    for options in (["--engine", "fairseq"], ["--print-command"], ["--", "common.fp16=true"]):
        if "below" in told and options == ["--print-command"]:
            continue  # nothing is run
        with pytest.raises(UserError) as caught:
            choose([*machine, *more, *options])
        assert told in str(caught.value) and str(caught.value).endswith("or use --engine torch")


def test_unknown_labels_are_for_torch(machine, tmp_path, choose):
    manifests = make_manifests(tmp_path / "unknown", unknown=0.1)
    count = int(np.isnan(np.load(manifests / "y.npy")).sum())
    options = [*machine, "--manifests", manifests]
    engine, said = choose(options)
    told = f"y.npy holds {count} unknown labels (NaN), on which it cannot train"
    assert engine == "torch" and told in said and said.count("\n") == 1
    for option in (["--engine", "fairseq"], ["--print-command"]):
        with pytest.raises(UserError) as caught:
            choose([*options, *option])
        assert told in str(caught.value) and str(caught.value).endswith("or use --engine torch")


def test_auto_takes_torch_without_a_clone(machine, choose, monkeypatch):
    monkeypatch.delenv("FAIRSEQ_SIGNALS", raising=False)
    without = machine[: machine.index("--fairseq-root")] + machine[machine.index("--output-dir") :]
    assert choose(without) == ("torch", "engine torch, as fairseq-signals cannot run this: no --fairseq-root\n")


def test_torchrun_is_for_torch(machine, choose, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert choose(machine) == (
        "torch",
        "engine torch, as fairseq-signals cannot run this: torchrun is for --engine torch\n",
    )


def test_a_fine_tuned_checkpoint_is_refused_even_to_show_the_command(machine, tmp_path, main):
    path = write_pretrained(tmp_path / "fine_tuned.pt", fine_tuned=True)
    for option in (["--engine", "fairseq"], ["--print-command"]):
        told = main(*machine, *option, "--pretrained", path, exit_code=1).err
        assert "fine-tuned already, and fairseq-signals can only start from a pretrained checkpoint" in told


# A run


def test_a_run_gets_the_command_and_is_recorded(machine, manifests, tmp_path, main):
    output = main(*machine, "--", "common.fp16=true")
    out = tmp_path / "out"
    received = (out / "arguments.txt").read_text().splitlines()
    assert received == [*command_of(output)[1:], "1"] and "common.fp16=true" in received
    assert "+model.encoder_embed_dim=64" in received
    assert shlex.join(command_of(output)) in (out / "command.sh").read_text()
    assert {path.name for path in out.iterdir()} == {
        *(
            "arguments.txt",
            "checkpoint_best.pt",
            "command.sh",
            "settings.json",
            "label_def.csv",
            "training_records.csv",
        )  # no second copy of the checkpoint
    }
    record = json.loads((out / "settings.json").read_text())
    assert record["finished"] and record["command"] == command_of(output) and record["versions"] == FAIRSEQ_VERSIONS
    settings = record["settings"]
    assert (settings["engine"], settings["batch_size"], settings["overrides"]) == ("fairseq", 8, ["common.fp16=true"])
    digests = settings["manifests"] | {"pretrained.pt": settings["pretrained"]["sha256"]}
    paths = {path.name: path for path in (*manifests.iterdir(), tmp_path / "pretrained.pt")}
    assert digests.keys() == paths.keys()
    assert digests == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in paths.items()}
    assert "strip" in output.out


def test_another_run_is_refused_in_a_short_line(machine, tmp_path, main):
    main(*machine)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    for more, told in (([], "cannot be resumed"), (["--lr", "1e-5"], "filled with lr 1e-06, this run has lr 1e-05")):
        error = main(*machine, *more, exit_code=1).err
        assert told in error and "--overwrite" in error and "--resume" not in error and len(error) < 400
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    (tmp_path / "out" / "checkpoint.best_loss_0.61.pt").touch()  # of a run by an older version
    main(*machine, "--lr", "1e-5", "--overwrite")
    assert not (tmp_path / "out" / "checkpoint.best_loss_0.61.pt").exists()


def test_a_start_that_failed_does_not_block_the_folder(machine, tmp_path, main):
    (tmp_path / "bin" / "fail").touch()
    error = main(*machine, exit_code=1).err
    assert "exit code 3" in error and "there is no checkpoint yet: run the same command to start again" in error
    (tmp_path / "bin" / "fail").unlink()
    assert "LexerNoViableAltException" in main(*machine, "--", "common.log_file=~/log", exit_code=1).out
    main(*machine, "--lr", "1e-5")
    assert (tmp_path / "out" / "checkpoint_best.pt").exists()


def test_a_run_that_failed_later_says_what_can_be_done(machine, tmp_path, main):
    (tmp_path / "bin" / "fail_late").touch()
    error = main(*machine, exit_code=1).err
    assert "exit code 4" in error and "checkpoint_best.pt is from before that" in error
    assert "start over with --overwrite" in error
    assert "cannot be resumed" in main(*machine, exit_code=1).err
    (tmp_path / "bin" / "fail_late").unlink()
    main(*machine, "--overwrite")


def is_free(file) -> bool:
    """Tell whether no process holds the lock of a file any longer."""
    with file.open("r+") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_sigterm_ends_training_and_all_its_processes(machine, tmp_path, main, monkeypatch):
    binaries = tmp_path / "bin"
    (binaries / "hang").touch()
    command = [sys.executable, REPOSITORY / SCRIPT, *map(str, machine)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not (binaries / "started").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    assert not is_free(binaries / "alive")
    # A second run is refused, and changes nothing.
    monkeypatch.setattr(run_folder, "LOCK_PATIENCE", 0.1)
    before = (tmp_path / "out" / "settings.json").read_bytes()
    assert "another run" in main(*machine, "--overwrite", "--lr", "1e-5", exit_code=1).err
    assert (tmp_path / "out" / "settings.json").read_bytes() == before
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 130
    assert is_free(binaries / "alive")
    assert process.stderr.read() == (
        "error: fairseq-hydra-train was stopped; there is no checkpoint yet: run the same command to start again\n"
    )
    (binaries / "hang").unlink()
    main(*machine)


# Sends a signal to the process that started it.
SIGNALLER = "import os, sys, time; os.kill(os.getppid(), int(sys.argv[1])); time.sleep(float(sys.argv[2])); sys.exit(5)"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_ctrl_c_and_a_closed_terminal_end_it_too(number, tmp_path):
    before = signal.getsignal(number)
    command = [sys.executable, "-S", "-c", SIGNALLER, str(number.value), "600"]
    assert run_in_group(command, cwd=tmp_path, env=os.environ) is None
    assert signal.getsignal(number) == before


def test_below_nohup_a_closed_terminal_does_not_end_it(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        command = [sys.executable, "-S", "-c", SIGNALLER, str(signal.SIGHUP.value), "0"]
        assert run_in_group(command, cwd=tmp_path, env=os.environ) == 5
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_says_what_can_be_done(machine, tmp_path, call_script, monkeypatch):
    def stopped(*_, cwd, **__):
        (cwd / "checkpoint_best.pt").touch()

    monkeypatch.setattr(fairseq_engine, "run_in_group", stopped)
    error = call_script(SCRIPT, *machine, exit_code=130).err
    assert f"{tmp_path}/out/checkpoint_best.pt is from before that" in error and "with --overwrite" in error

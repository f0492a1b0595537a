"""Several processes: an environment that is not torchrun's is told in one line, and nothing waits for a process."""

import pytest
import torch
from ecg_training.processes import Processes, join_processes

from ecg_finetune.files import UserError

TORCHRUN = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
SCRIPT = "finetune/scripts/finetune_ecgfm.py"


@pytest.fixture
def environment(monkeypatch):
    """Return a function that sets the variables of torchrun, with changes; None is not set."""

    def change(**changes):
        for name, value in {**TORCHRUN, **changes}.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)

    return change


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"RANK": None}, "RANK is not set, where torchrun sets a number from 0 to 1;"),
        ({"WORLD_SIZE": None}, "WORLD_SIZE is not set"),
        ({"WORLD_SIZE": None, "RANK": "5"}, "WORLD_SIZE is not set"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'"),
        ({"WORLD_SIZE": "-1"}, "WORLD_SIZE is '-1'"),
        ({"WORLD_SIZE": "9" * 5000}, r"WORLD_SIZE is '99+\.\.\.9+'"),
        ({"WORLD_SIZE": "\u0662"}, "WORLD_SIZE is '\u0662'"),
        ({"RANK": ""}, "RANK is ''"),
        ({"RANK": "1.0"}, "RANK is '1.0'"),
        ({"RANK": "2"}, "RANK is '2', where torchrun sets a number from 0 to 1;"),
        ({"WORLD_SIZE": "1", "RANK": "1"}, "RANK is '1', where torchrun sets a number from 0 to 0;"),
        ({"MASTER_PORT": None}, "MASTER_PORT is not set"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT is '70000'"),
        ({"MASTER_ADDR": None}, "process 0 of 2 finds no other at MASTER_ADDR:MASTER_PORT :29500 "),
    ],
)
def test_an_environment_that_is_not_torchrun_s(environment, changes, told):
    environment(**changes)
    with pytest.raises(UserError, match=told) as caught:
        join_processes(torch.device("cpu"))
    assert "\n" not in str(caught.value) and "torchrun" in str(caught.value)
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("changes", [dict.fromkeys(TORCHRUN), {"WORLD_SIZE": "1", "MASTER_PORT": None}])
def test_one_process(environment, changes):
    environment(**changes)
    assert join_processes(torch.device("cpu")) == (Processes(), torch.device("cpu"))


def test_the_script_says_so_whatever_its_number(tmp_path, run_script):
    variables = {"WORLD_SIZE": "2", "RANK": "7"}
    run = run_script(SCRIPT, "--pretrained", "none", "--base-dir", tmp_path, exit_code=1, env=variables)
    assert "RANK is '7'" in run.stderr and not list(tmp_path.iterdir())

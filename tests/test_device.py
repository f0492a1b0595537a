"""Which device and precision a run gets. The devices are pretended: no test machine has them all."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ecg_evaluation.prediction import predict
from torch.utils.data import Dataset

from ecg_finetune.device import choose_device, choose_precision, random_state, set_random_state
from ecg_finetune.files import UserError
from ecg_finetune.label_set import ECG_FM


@pytest.fixture
def machine(monkeypatch):
    """Return a function that pretends a machine with so many CUDA devices, and with or without Apple's GPU."""

    def pretend(cuda: int, mps: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


@pytest.mark.parametrize(
    ("cuda", "mps", "device", "precision"),
    [
        (1, True, "cuda", torch.bfloat16),
        (2, False, "cuda", torch.bfloat16),
        (0, True, "mps", torch.float32),
        (0, False, "cpu", torch.float32),
    ],
)
def test_auto_takes_the_fastest_there_is(machine, cuda, mps, device, precision):
    machine(cuda, mps)
    assert choose_device("auto") == torch.device(device)
    assert choose_precision("auto", torch.device(device)) == precision


def test_what_the_machine_has_is_taken(machine):
    machine(2, True)
    for name in ("cpu", "cuda", "cuda:1", "mps", "mps:0"):
        assert choose_device(name) == torch.device(name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cuda", "sees 0 CUDA devices"),
        ("mps", "sees 0 GPUs of Apple"),
        ("meta", "only cpu, cuda and mps"),
        ("abacus", "no such device"),
        ("", "no such device"),
    ],
)
def test_what_it_has_not_is_refused(machine, name, words):
    machine(0, False)
    with pytest.raises(UserError, match=f"--device {name}: .*{words}"):
        choose_device(name)


@pytest.mark.parametrize("name", ["mps:1", "cuda:1"])
def test_a_second_one_is_refused_where_there_is_one(machine, name):
    machine(1, True)
    with pytest.raises(UserError, match=f"--device {name}: .*sees 1 "):
        choose_device(name)


def test_random_numbers_go_on_on_the_device(monkeypatch):
    states = {}
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: torch.tensor([7]))
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda state: states.update(mps=state.item()))
    assert random_state(torch.device("cpu")) is None
    set_random_state(torch.device("cpu"), torch.tensor([1]))
    set_random_state(torch.device("mps"), torch.zeros(16))  # of a CUDA device
    assert not states
    set_random_state(torch.device("mps"), random_state(torch.device("mps")))
    assert states == {"mps": 7}


class OnMps(torch.Tensor):
    """A tensor that refuses, as on Apple's GPU, to become float64 before it has moved to the CPU."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.Tensor.cpu:
            return args[0].as_subclass(torch.Tensor)
        result = super().__torch_function__(function, types, args, kwargs or {})
        if isinstance(result, torch.Tensor) and result.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        return result


class OneSegment(Dataset):
    """A data set of one segment."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, _: int):
        return np.zeros(2500, np.float32), np.array([5])


class Network(torch.nn.Module):
    """A network whose 17 logits of 1 are on Apple's GPU."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(17))

    def embed(self, leads: torch.Tensor) -> torch.Tensor:
        return leads.mean(dim=1, keepdim=True)

    def classify(self, embedded: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(embedded), 17).as_subclass(OnMps)


def test_probabilities_are_float64_though_the_device_has_none():
    with pytest.raises(TypeError, match="float64"):
        Network().classify(torch.zeros(1, 1)).double()
    study_id, probabilities = predict(Network(), OneSegment(), ECG_FM, batch_size=1, num_workers=0, unit="records")
    assert study_id.tolist() == [5] and probabilities.dtype == np.float64
    assert probabilities == pytest.approx(np.full((1, 17), 1 / (1 + np.exp(-1))))


def test_nothing_else_asks_the_device_for_float64():
    """The calls that would, in the code that runs on it."""
    root = Path(__file__).resolve().parent.parent
    for file in ("ecg_finetune/ecg_fm.py", "finetune/ecg_training/trainer.py", "eval/ecg_evaluation/prediction.py"):
        source = (root / file).read_text(encoding="utf-8").replace(".cpu().double()", "")
        assert ".double()" not in source and "torch.float64" not in source, file

"""Optimisers by name; what is not installed is named with its remedy."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from core.errors import UserError
from core.runs import checkpoints
from finetune.optimisers import EXTRAS, MOMENTS, build_optimiser, look
from finetune.settings import DreamBoothSettings, Lora, Optim
from finetune.train_dreambooth import train
from tests.trainers import tensors_of

Make = Callable[..., DreamBoothSettings]
CPU = torch.device("cpu")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.import_module", _absent)
    assert len(EXTRAS) == 3
    for name, (extra, module, _) in EXTRAS.items():
        with pytest.raises(UserError, match=rf"needs {module.split('.')[0]}.*\[{extra}\]"):
            build_optimiser([], Optim(name=name), CPU)


def _absent(name: str) -> None:
    raise ImportError(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXTRAS)
def test_extras_train_and_resume(settings: Make, tmp_path: Path, name: str) -> None:
    pytest.importorskip(EXTRAS[name][1])
    values = {"optim": Optim(name=name, lr=1.0 if name == "prodigy" else 1e-3)}
    lora = None if name == "adamw8bit" else Lora(rank=2)  # moments of small layers stay float32
    values |= {"lora": lora, "checkpoint_every": 2, "preview_every": 2}
    unbroken = settings(run_dir=str(tmp_path / "one"), **values)
    train(unbroken)
    for steps in (2, 4):
        broken = settings(run_dir=str(tmp_path / "two"), **values | {"steps": steps})
        train(broken)
    one, two = (tensors_of(checkpoints(tmp_path / run)[-1]) for run in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert (torch.uint8 in {part.dtype for part in one.values()}) == (name == "adamw8bit")


@pytest.mark.parametrize("name", MOMENTS)
def test_plans_know_what_an_optimiser_keeps(name: str) -> None:
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name][1])
    weight = torch.nn.Parameter(torch.ones(2**16))
    optimiser = build_optimiser([{"params": [weight]}], Optim(name=name), CPU)
    look(optimiser, training=True)
    weight.square().sum().backward()
    optimiser.step()
    state = optimiser.state[weight].values()
    kept = sum(part.nbytes for part in state if isinstance(part, torch.Tensor))
    assert kept / len(weight) == pytest.approx(MOMENTS[name], rel=0.05)


def test_schedule_free_takes_no_schedule() -> None:
    with pytest.raises(ValueError, match="no warmup"):
        Optim(name="schedule_free", warmup=3)


def test_a_warm_up_that_would_not_be_made_is_refused() -> None:
    with pytest.raises(ValueError, match=r"give --optim\.schedule constant_with_warmup"):
        Optim(warmup=500)
    assert Optim(schedule="constant_with_warmup", warmup=500).warmup == 500

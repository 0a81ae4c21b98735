"""Optimisers by name; what is not installed is named with its remedy."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from core.errors import UserError
from finetune.optimisers import EXTRAS, build_optimiser
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


@pytest.mark.parametrize("name", ["prodigy", "schedule_free"])
def test_extras_train_and_resume(settings: Make, tmp_path: Path, name: str) -> None:
    pytest.importorskip(EXTRAS[name][1])
    values = {"optim": Optim(name=name, lr=1.0 if name == "prodigy" else 1e-3)}
    values |= {"lora": Lora(rank=2), "checkpoint_every": 2, "preview_every": 2}
    unbroken = settings(run_dir=str(tmp_path / "one"), **values)
    train(unbroken)
    for steps in (2, 4):
        broken = settings(run_dir=str(tmp_path / "two"), **values | {"steps": steps})
        train(broken)
    one, other = (tensors_of(tmp_path / run / "weights") for run in ("one", "two"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_schedule_free_takes_no_schedule() -> None:
    with pytest.raises(ValueError, match="no warmup"):
        Optim(name="schedule_free", warmup=3)

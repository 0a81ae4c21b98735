"""Optimisers by name; what is not installed is named with its remedy."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from core.errors import UserError
from core.runs import checkpoints, read_metrics
from core.state import load_state
from finetune.adapters import FILE
from finetune.optimisers import EXTRAS, MOMENTS, PackedAdamW, build_optimiser, gather, look
from finetune.settings import DreamBoothSettings, Lora, Optim
from finetune.train_dreambooth import train
from tests.trainers import tensors_of

Make = Callable[..., DreamBoothSettings]
CPU = torch.device("cpu")
SHAPES = [(4, 7), (1,), (3, 2, 5), (6,), (2, 2)]


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


@pytest.mark.parametrize("packed", [False, True])
def test_two_steps_by_hand(packed: bool) -> None:
    """Of AdamW, from 2 with the gradients 1 and 3: each of its settings counts."""
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    optim = Optim(lr=0.1, betas=(0.5, 0.9), weight_decay=0.2)
    optimiser = build_optimiser([{"params": [weight]}], optim, CPU, packed)
    for gradient, wanted in (
        (1.0, 2.0 * 0.98 - 0.1),
        (3.0, 1.86 * 0.98 - 0.1 * (1.75 / 0.75) / (0.99 / 0.19) ** 0.5),
    ):
        optimiser.zero_grad()
        (gradient * weight).sum().backward()
        gather(optimiser)
        optimiser.step()
        assert weight.item() == pytest.approx(wanted, rel=1e-5)


def test_the_gradient_of_all_pieces_is_clipped_once(settings: Make, tmp_path: Path) -> None:
    """After one step the first moments are a tenth of it: of the whole batch, as it is, and of its
    two pieces, shrunk to 1e-4."""

    def moments(accumulate: int, norm: float) -> tuple[torch.Tensor, float]:
        own = settings(
            run_dir=str(tmp_path / f"{accumulate} {norm}"), steps=1, lora=Lora(rank=2),
            accumulate=accumulate, optim=Optim(clip_norm=norm),
        )  # fmt: skip
        train(own)
        state = load_state(checkpoints(Path(own.run_dir))[-1])["optimiser"]["state"]
        (row,) = read_metrics(Path(own.run_dir))
        return torch.cat([each["exp_avg"].flatten() for each in state.values()]), row["loss"]

    (whole, loss), (pieces, told) = moments(1, 0.0), moments(2, 1e-4)
    assert told == pytest.approx(loss, rel=1e-4)
    assert whole.norm() > 1e-4
    torch.testing.assert_close(pieces, 1e-5 * whole / whole.norm(), rtol=1e-3, atol=1e-9)


def test_one_vector_trains_and_is_saved_like_its_parameters() -> None:
    """Two groups, going on from plain AdamW's state and back into it, moved by equal steps."""
    groups, optimisers = [], []
    for kind in (torch.optim.AdamW, PackedAdamW):
        torch.manual_seed(0)
        weights = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
        groups.append(weights)
        optimisers.append(kind(_two(weights), lr=0.1, weight_decay=0.3, fused=True))
    for step in range(6):
        if step in (2, 4):  # each takes up the other's state
            trees = [copy.deepcopy(optimiser.state_dict()) for optimiser in optimisers]
            for optimiser, tree in zip(optimisers, reversed(trees), strict=True):
                optimiser.load_state_dict(tree)
        for weights, optimiser in zip(groups, optimisers, strict=True):
            optimiser.zero_grad()
            sum((step + 1) * weight.sin().sum() for weight in weights).backward()
            gather(optimiser)
            optimiser.step()
        for plain, packed in zip(*groups, strict=True):
            torch.testing.assert_close(packed, plain, rtol=1e-6, atol=1e-7)
    plain, packed = (optimiser.state_dict() for optimiser in optimisers)
    assert packed["param_groups"] == plain["param_groups"]
    assert packed["state"].keys() == plain["state"].keys() == set(range(len(SHAPES)))
    for number, kept in plain["state"].items():
        assert packed["state"][number].keys() == kept.keys()
        for name, value in kept.items():
            torch.testing.assert_close(packed["state"][number][name], value)


def _two(weights: list[torch.nn.Parameter]) -> list[dict[str, Any]]:
    return [{"params": weights[:3]}, {"params": weights[3:], "lr": 0.01, "weight_decay": 0.0}]


def test_a_parameter_that_left_its_vector_is_no_silent_stop() -> None:
    layer = torch.nn.Linear(3, 2)
    optimiser = PackedAdamW([{"params": list(layer.parameters())}])
    layer.to(torch.float64).to(torch.float32)
    layer(torch.ones(3)).sum().backward()
    with pytest.raises(RuntimeError, match="no longer lies in its vector"):
        gather(optimiser)


def test_looking_changes_nothing(settings: Make, tmp_path: Path) -> None:
    """Schedule-free weights go to their average and back, which rounds."""
    found = []
    for number, every in enumerate((0, 1)):
        own = settings(
            optim=Optim("schedule_free", lr=1e-2), lora=Lora(rank=2), steps=4,
            preview_every=every, preview_seeds=(0,), run_dir=str(tmp_path / str(number)),
        )  # fmt: skip
        train(own)
        found.append(load_file(Path(own.run_dir) / "weights" / FILE))
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_schedule_free_takes_no_schedule() -> None:
    with pytest.raises(ValueError, match="no warmup"):
        Optim(name="schedule_free", warmup=3)


def test_a_warm_up_that_would_not_be_made_is_refused() -> None:
    with pytest.raises(ValueError, match=r"give --optim\.schedule constant_with_warmup"):
        Optim(warmup=500)
    assert Optim(schedule="constant_with_warmup", warmup=500).warmup == 500

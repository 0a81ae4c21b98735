"""Randomness is a function of seed and place."""

from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from core.seeds import (
    batch_at,
    epoch_batch_at,
    image_noise,
    mixed_noise,
    seed_everything,
    step_limit,
    stream,
)
from core.session import Session
from core.sets import open_set
from tests.core.toy import ToySettings


def test_a_stream_is_its_seed_and_place() -> None:
    draw = torch.randn(4, generator=stream(1, "noise", 7))
    assert torch.equal(draw, torch.randn(4, generator=stream(1, "noise", 7)))
    for other in (stream(2, "noise", 7), stream(1, "noise", 8), stream(1, "order", 7)):
        assert not torch.equal(draw, torch.randn(4, generator=other))


def test_every_item_comes_once_an_epoch_whatever_the_batch() -> None:
    for batch in (1, 3, 7, 16):
        seen = [item for step in range(70 // batch + 1) for item in batch_at(step, 7, batch, 0)]
        for epoch in range(9):
            assert sorted(seen[epoch * 7 : epoch * 7 + 7]) == list(range(7))


def test_the_order_does_not_depend_on_the_batch_size() -> None:
    ones = [item for step in range(24) for item in batch_at(step, 5, 1, 3)]
    fours = [item for step in range(6) for item in batch_at(step, 5, 4, 3)]
    assert ones == fours


def test_another_epoch_and_another_seed_have_another_order() -> None:
    """And none has the order in which the items were given."""
    orders = [batch_at(epoch, 20, 20, seed) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in [*orders, list(range(20))]}) == 5
    assert orders[0] == batch_at(0, 20, 20, 0)


def test_every_step_of_every_process_has_random_numbers_of_its_own(
    make_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As dropout takes them; the same again where they are the same."""

    def drawn(name: str, seed: int = 0) -> list[float]:
        own = ToySettings(str(tmp_path / "images"), str(tmp_path / name), steps=3, seed=seed)
        session = Session("toy", own, open_set(own.data))
        session.start({})
        return [torch.rand(1).item() for _ in session.steps(1)]

    make_folder()
    first = drawn("one")
    assert drawn("again") == first
    found = [*first, *drawn("other", seed=1)]
    monkeypatch.setattr(Accelerator, "process_index", 1)
    found += drawn("second")
    assert len({*found}) == 9


def test_an_epoch_ends_with_a_smaller_batch() -> None:
    batches = [epoch_batch_at(step, 10, 4, 0) for step in range(6)]
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4, 2]
    assert sorted(chain(*batches[:3])) == sorted(chain(*batches[3:])) == list(range(10))


def test_of_steps_and_epochs_the_fewer_are_trained() -> None:
    """Ten items in batches of four are three steps an epoch."""
    given = [(5, None), (None, 2), (5, 2), (7, 2)]
    assert [step_limit(*each, count=10, batch=4) for each in given] == [5, 6, 5, 6]


def test_image_noise_is_one_seed_an_image() -> None:
    many, one = image_noise([3, 5, 8], (4, 2, 2)), image_noise([5], (4, 2, 2))
    assert torch.equal(many[1], one[0])
    own = torch.Generator().manual_seed(5)  # as one draws it in plain diffusers
    assert torch.equal(one[0], torch.randn((4, 2, 2), generator=own))


def test_seeding_a_place_fixes_dropout() -> None:
    layer = torch.nn.Dropout(0.5)
    seed_everything(0, "step", 4)
    first = layer(torch.ones(32))
    layer(torch.ones(9))
    seed_everything(0, "step", 4)
    assert torch.equal(first, layer(torch.ones(32)))


def test_mixed_noise_is_normal_and_ends_at_its_seeds() -> None:
    first, second = image_noise([1, 2], (4, 50, 50))
    assert torch.allclose(mixed_noise({1: 1.0}, (4, 50, 50)), first)
    assert torch.allclose(mixed_noise({1: 0.0, 2: 3.0}, (4, 50, 50)), second)
    for weights in ({1: 0.5, 2: 0.5}, {1: 1.0, 2: -1.0, 3: 1.0}):
        assert abs(mixed_noise(weights, (4, 50, 50)).std() - 1) < 0.03

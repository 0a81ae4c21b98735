"""Randomness is a function of seed and place."""

from itertools import chain

import torch

from core.seeds import (
    batch_at,
    epoch_batch_at,
    image_noise,
    mixed_noise,
    seed_everything,
    stream,
)


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


def test_an_epoch_ends_with_a_smaller_batch() -> None:
    batches = [epoch_batch_at(step, 10, 4, 0) for step in range(6)]
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4, 2]
    assert sorted(chain(*batches[:3])) == sorted(chain(*batches[3:])) == list(range(10))


def test_image_noise_is_one_seed_an_image() -> None:
    many, one = image_noise([3, 5, 8], (4, 2, 2)), image_noise([5], (4, 2, 2))
    assert torch.equal(many[1], one[0])


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

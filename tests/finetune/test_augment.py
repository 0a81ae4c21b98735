"""Variations of images, and where they would lie."""

from typing import Any

import pytest
import torch

from core.errors import UserError
from core.sets import ImageSet
from finetune.augment import LARGEST_TURN, NUMBERS, check_domain, mirrored, vary
from finetune.settings import Concept, DreamBoothSettings

MIDDLE = torch.full((2, NUMBERS), 0.5)


def picture() -> torch.Tensor:
    """Two images, dark on the left and bright on the right, 2 x 3 x 32 x 32."""
    return torch.linspace(-1, 1, 32).expand(2, 3, 32, 32).clone()


def test_nothing_asked_nothing_done() -> None:
    images = picture()
    assert torch.equal(vary(images, (), torch.rand(2, NUMBERS)), images)


def test_mirror_is_a_mirror() -> None:
    numbers = MIDDLE.clone()
    numbers[:, 0] = torch.tensor([0.2, 0.7])
    done = vary(picture(), ("mirror",), numbers)
    assert torch.equal(done[0], picture()[0].flip(2))
    assert torch.equal(done[1], picture()[1])


def test_every_second_image_is_mirrored_where_that_is_asked_for() -> None:
    numbers = torch.linspace(0, 0.99, 100)[:, None].expand(-1, NUMBERS)
    assert mirrored(("crop", "mirror"), numbers).sum() == 50
    assert mirrored(("crop",), numbers).sum() == 0


def test_crop_turn_and_light_by_hand() -> None:
    small = MIDDLE.clone()
    small[:, 1] = 1.0  # the smallest crop, 0.8 of the side, in the middle
    done = vary(picture(), ("crop",), small)
    assert done.shape == (2, 3, 32, 32)
    assert done[0, 0, 0, 0].item() == pytest.approx(-0.8, abs=0.01)
    assert done[0, 0, 0, -1].item() == pytest.approx(0.8, abs=0.01)
    turned = vary(picture(), ("turn",), torch.ones(2, NUMBERS))  # ten degrees
    assert turned[0, 0, 0, 16] != pytest.approx(turned[0, 0, -1, 16].item(), abs=0.1)
    torch.testing.assert_close(vary(picture(), ("turn",), MIDDLE), picture(), atol=1e-5, rtol=0)
    light = MIDDLE.clone()
    light[:, 5] = torch.tensor([1.0, 0.0])  # the first gains contrast, the second loses some
    bright, dull = vary(picture(), ("light",), light)
    torch.testing.assert_close(bright, (picture()[0] * 1.15).clamp(-1, 1))
    torch.testing.assert_close(dull, picture()[1] * 0.85)


def seen(names: tuple[str, ...], numbers: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Where each pixel is looked up, B x H x W x 2 pixels from the left and from the top: an image
    that is its own coordinates, varied."""
    down, across = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    own = torch.stack([across, down, down]).float()[None].expand(len(numbers), -1, -1, -1)
    return vary(own, names, numbers)[:, :2].permute(0, 2, 3, 1)


@pytest.mark.parametrize(("height", "width"), [(64, 128), (128, 64), (64, 64)])
def test_a_turn_keeps_lengths_and_angles_in_every_shape(height: int, width: int) -> None:
    numbers = torch.rand(16, NUMBERS, generator=torch.Generator().manual_seed(0))
    numbers[0] = 1.0  # the largest turn
    for names, sizes in (
        (("turn",), torch.ones(16)),
        (("crop", "turn"), 1.0 - 0.2 * numbers[:, 1]),
    ):
        places = seen(names, numbers, height, width)
        across, down = (  # of 10 pixels, near the middle: nothing there is beyond an edge
            (places[:, y, x] - places[:, height // 2, width // 2]) / 10
            for y, x in ((height // 2, width // 2 + 10), (height // 2 + 10, width // 2))
        )
        for step in (across, down):
            torch.testing.assert_close(step.norm(dim=1), sizes, atol=1e-4, rtol=0)
        torch.testing.assert_close((across * down).sum(1), torch.zeros(16), atol=1e-4, rtol=0)
        degrees = torch.atan2(across[:, 1], across[:, 0]).rad2deg()
        expected = LARGEST_TURN * (2 * numbers[:, 4] - 1)
        torch.testing.assert_close(degrees, expected, atol=0.01, rtol=0)
        assert degrees.abs().max() <= LARGEST_TURN + 0.01


def test_a_crop_lies_within_images_of_every_shape() -> None:
    for x, y in ((0.0, 0.0), (1.0, 1.0), (0.0, 1.0)):
        numbers = torch.tensor([[0.9, 1.0, x, y, 0.5, 0.5]])  # the smallest, in a corner
        places = seen(("crop",), numbers, 64, 128)[0].flatten(0, 1)
        (left, top), (right, bottom) = places.amin(0).tolist(), places.amax(0).tolist()
        assert (right - left, bottom - top) == pytest.approx((0.8 * 127, 0.8 * 63), abs=0.5)
        assert (left, top) == pytest.approx((x * 0.2 * 127, y * 0.2 * 63), abs=0.5)


def test_a_mirrored_chest_is_refused() -> None:
    chest = ImageSet("nih", [], [], {"domain": "chest", "mode": "L"})
    with pytest.raises(UserError, match="heart"):
        check_domain(("crop", "mirror"), chest)
    check_domain(("crop", "turn", "light"), chest)
    check_domain(("mirror",), ImageSet("animals", [], [], {"domain": "images"}))


@pytest.mark.parametrize(
    ("info", "row"),
    [
        ({"domain": "both"}, {}),
        ({"domain": "images"}, {"domain": "chest"}),
        ({}, {"text": "a chest X-ray, PA view"}),
        ({}, {"text": "Röntgen of a hand"}),
    ],
)
def test_any_sign_of_an_x_ray_is_heeded(info: dict[str, Any], row: dict[str, Any]) -> None:
    """The set's domain, an image's own, or what a caption says."""
    images = ImageSet("some", [], [{"text": "a pterosaur", "domain": "bestiary"}, row], info)
    with pytest.raises(UserError, match="heart"):
        check_domain(("mirror",), images)
    check_domain(("crop",), images)


def test_a_prompt_may_say_it_too() -> None:
    own: dict[str, Any] = {"data": "x", "run_dir": "y", "augment": ("mirror",)}
    for words in ({"prompt": "a chest x ray"}, {"concepts": (Concept("z", "a radiograph"),)}):
        with pytest.raises(ValueError, match="leave mirror out"):
            DreamBoothSettings(**own, **words)
    DreamBoothSettings(**own, prompt="a pterosaur's extra rays")

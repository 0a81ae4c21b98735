"""Variations of images, drawn on the CPU and applied where the images lie. Pure functions.

B images, H x W pixels.
"""

import math
from collections.abc import Collection

import torch
import torch.nn.functional as F

from core.sets import ImageSet
from finetune.models import send

NUMBERS = 6  # uniform ones per image: mirror, crop size, crop x, crop y, turn, light
SMALLEST_CROP = 0.8  # of the side
LARGEST_TURN = 10.0  # degrees, either way
LIGHT = 0.15  # share of contrast added or taken


def check_domain(names: Collection[str], images: ImageSet) -> None:
    """Raise UserError for a variation that makes a falsehood of these images."""
    if "mirror" in names:
        images.check_mirrored("augment mirror")


def mirrored(names: Collection[str], numbers: torch.Tensor) -> torch.Tensor:
    """Which of B images are mirrored, B bool."""
    return numbers[:, 0] < (0.5 if "mirror" in names else 0.0)


def vary(images: torch.Tensor, names: Collection[str], numbers: torch.Tensor) -> torch.Tensor:
    """B x 3 x H x W in [-1, 1] -> the same, varied.

    Args:
        numbers: B x NUMBERS uniform in [0, 1), on the CPU.
    """
    images = torch.where(at(mirrored(names, numbers), images), images.flip(3), images)
    if {"crop", "turn"} & {*names}:
        height, width = images.shape[2:]
        window = _window(names, numbers, width / height)
        grid = F.affine_grid(window, list(images.shape), align_corners=False)
        grid = send(grid, images.device)
        images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    if "light" in names:
        gain = 1.0 + LIGHT * (2.0 * numbers[:, 5] - 1.0)
        images = (images * at(gain, images)).clamp(-1.0, 1.0)
    return images


def _window(names: Collection[str], numbers: torch.Tensor, aspect: float) -> torch.Tensor:
    """The part of each image that is looked at: affine maps, B x 2 x 3, between -1 and 1 across
    and down. There a turn of an image that is no square is none: only in pixels are x and y alike.

    Args:
        aspect: W / H.
    """
    _, size, x, y, turn, _ = (2.0 * numbers - 1.0).unbind(1)
    side = 1.0 - (1.0 - SMALLEST_CROP) * (size + 1.0) / 2.0
    side = side if "crop" in names else torch.ones_like(side)
    angle = turn * math.radians(LARGEST_TURN) * ("turn" in names)
    cos, sin = side * angle.cos(), side * angle.sin()
    rows = [cos, -sin / aspect, x * (1.0 - side), sin * aspect, cos, y * (1.0 - side)]
    return torch.stack(rows, dim=1).reshape(-1, 2, 3)


def at(values: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """One value per image, shaped to meet B x 3 x H x W."""
    return send(values[:, None, None, None], images.device)

"""Progressive growing (Karras et al. 2017, arXiv 1710.10196) on the thesis's layers.

Both players begin at 8 px. A level doubles the side: over half its steps the new layers are blended
in, over the other half they learn in peace. `level` 1.25 means 16 px, a quarter blended towards 32.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

FIRST_SIDE = 8


def level_at(step: int, steps_per_level: int, size: int) -> float:
    """The level of a step (from 0), up to that of the full size."""
    passed = step / steps_per_level
    whole = math.floor(passed)
    level = whole - 1 + min(1.0, 2 * (passed - whole)) if whole else 0.0
    return min(level, float(last_level(size)))


def last_level(size: int) -> int:
    return size.bit_length() - FIRST_SIDE.bit_length()


def shrink(images: torch.Tensor, level: float) -> torch.Tensor:
    """Real images as sharp as the players are: averaged down, and blended like the generator's.

    N x C x size x size -> N x C x side x side.
    """
    top = math.ceil(level)
    images = F.adaptive_avg_pool2d(images, FIRST_SIDE << top)
    if level == top:
        return images
    return torch.lerp(double(F.avg_pool2d(images, 2)), images, level - (top - 1))


def double(images: torch.Tensor) -> torch.Tensor:
    return F.interpolate(images, scale_factor=2, mode="nearest")


class GrowingGenerator(nn.Module):
    """Noise to images in (0, 1), of the side that `level` says."""

    low = 0.0
    classes = 0

    def __init__(
        self,
        z_dim: int = 64,
        size: int = 256,
        channels: int = 1,
        width: int = 16,
        level: float = 0.0,
    ) -> None:
        super().__init__()
        self.z_dim = z_dim
        self.level = level
        levels = last_level(size)
        wide = 2 * width << levels  # at 4 px, as the thesis has it; d at the full size
        self.first = nn.Sequential(
            nn.ConvTranspose2d(z_dim, wide, 4), nn.BatchNorm2d(wide), nn.ReLU(inplace=True)
        )
        sides = [wide >> (k + 1) for k in range(levels + 1)]
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(2 * c, c, 4, stride=2, padding=1),
                nn.BatchNorm2d(c),
                nn.ReLU(inplace=True),
            )
            for c in sides
        )
        self.to_image = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, channels, 1), nn.Sigmoid()) for c in sides
        )

    def forward(self, noise: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """N x z_dim -> N x channels x side x side; `labels` say nothing."""
        top = math.ceil(self.level)
        x = before = self.first(noise[:, :, None, None])
        for block in self.blocks[: top + 1]:
            before, x = x, block(x)
        images: torch.Tensor = self.to_image[top](x)
        if self.level == top:
            return images
        coarse = double(self.to_image[top - 1](before))
        return torch.lerp(coarse, images, self.level - (top - 1))


class GrowingCritic(nn.Module):
    """Images of the side that `level` says to scores; nothing mixes the images of a batch."""

    def __init__(
        self, size: int = 256, channels: int = 1, width: int = 16, level: float = 0.0
    ) -> None:
        super().__init__()
        self.level = level
        levels = last_level(size)
        sides = [width << (levels - k) for k in range(levels + 1)]  # channels at 8, 16, ... px
        self.from_image = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, c, 1), nn.LeakyReLU(0.2)) for c in sides
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(c, 2 * c, 4, stride=2, padding=1),
                nn.InstanceNorm2d(2 * c),
                nn.LeakyReLU(0.2, inplace=True),
            )
            for c in sides
        )
        self.last = nn.Conv2d(2 * sides[0], 1, 4)

    def forward(self, images: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """N x channels x side x side -> N scores; `labels` say nothing."""
        top = math.ceil(self.level)
        x = self.blocks[top](self.from_image[top](images))
        if self.level < top:
            coarse = self.from_image[top - 1](F.avg_pool2d(images, 2))
            x = torch.lerp(coarse, x, self.level - (top - 1))
        for k in range(top - 1, -1, -1):
            x = self.blocks[k](x)
        scores: torch.Tensor = self.last(x).flatten()
        return scores

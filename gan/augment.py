"""Differentiable augmentation with an adaptive probability, for sets of few images.

Everything the critic sees, real and generated, is changed alike, so that it cannot learn the images
by heart; gradients pass through to the generator (Zhao et al. 2020, arXiv 2006.10738). The
probability follows the critic's overfitting (Karras et al. 2020, arXiv 2006.06676).
"""

import torch
import torch.nn.functional as F

NUMBERS = 10  # from U(0, 1), that one image needs: four chances, six amounts
SHIFT = 1 / 8  # of the side
CUT = 1 / 2  # of the side
ADAPT_IMAGES = 500_000  # real images over which the probability can rise from 0 to 1
HIGHEST = 0.8  # above it, generated images begin to look augmented


def augment(
    images: torch.Tensor, numbers: torch.Tensor, probability: torch.Tensor | float
) -> torch.Tensor:
    """Brightness, contrast, shift and cut-out, each at the chance of `probability`.

    Args:
        images: N x C x H x W, in a range of 1 or 2 wide.
        numbers: N x NUMBERS from U(0, 1); the same numbers do the same.
    """
    chance = (numbers[:, :4] < probability).to(images.dtype)[:, :, None, None, None]  # N x 4 x ...
    amount = numbers[:, 4:] - 0.5  # N x 6
    light = amount[:, :2, None, None, None]
    images = images + chance[:, 0] * light[:, 0] / 2
    images = images + (images - images.mean((1, 2, 3), keepdim=True)) * chance[:, 1] * light[:, 1]
    images = shift(images, amount[:, 2:4] * 2 * SHIFT * chance[:, 2, 0, 0])
    return images * (1 - chance[:, 3] * box(images, amount[:, 4:6] + 0.5))


def shift(images: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """Moved by whole pixels nearest to `by`, N x 2 in parts of the side; zeros move in."""
    side = images.shape[-1]
    steps = (by * side).round() / side * 2  # affine_grid's square is 2 wide
    eye = torch.eye(2, device=images.device).expand(len(images), 2, 2)
    grid = F.affine_grid(torch.cat([eye, steps[:, :, None]], 2), list(images.shape), False)
    return F.grid_sample(images, grid.to(images.dtype), "nearest", align_corners=False)


def box(images: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    """1 inside a square CUT of the side wide around `centre` (N x 2 in [0, 1]), else 0; N x 1 x
    H x W."""
    side = images.shape[-1]
    places = (torch.arange(side, device=images.device) + 0.5) / side
    near = (places - centre[:, :, None]).abs() < CUT / 2  # N x 2 x side
    return (near[:, 0, :, None] & near[:, 1, None, :]).to(images.dtype)[:, None]


class Augmentation:
    """The probability, adapted without ever leaving the device."""

    def __init__(self, probability: float, target: float | None, device: torch.device) -> None:
        """`target`: `losses.realism` to keep to; None: the probability stays."""
        self.probability = torch.tensor(probability, device=device)
        self.target = target

    def adapt(self, realism: torch.Tensor, images: int) -> None:
        """After a critic update on so many real images."""
        if self.target is not None:
            step = (realism - self.target).sign() * images / ADAPT_IMAGES
            self.probability = (self.probability + step).clamp(0, HIGHEST)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"probability": self.probability}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.probability = state["probability"].to(self.probability.device)

"""Is the game going well? Numbers for the tracker, and words where it is not."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

SIDE = 16  # pixels: spread is measured on images averaged down to it, where noise does not count
NEWEST = 100  # steps behind a warning
COLLAPSED = 0.3  # diversity below which generated images are too alike
STEEP = 1.0  # mean penalty, that of a slope of 0 or 2, above which the distance says little

ADVICE = (
    "try a lower lr, more critic_steps or a larger batch; fp32 instead of fp16; with loss "
    "non-saturating, wgan-gp and its penalty"
)


def diversity(fake: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """How much generated images differ from each other, as a part of how much real ones do.

    Root of the ratio of variances over the images, each N x C x H x W: near 1 where both are as
    varied, near 0 after a mode collapse.
    """
    return ((spread(fake) + 1e-8) / (spread(real) + 1e-8)).sqrt()


def spread(images: torch.Tensor) -> torch.Tensor:
    """Mean over coarse pixels of their variance over the images."""
    small = F.adaptive_avg_pool2d(images.detach().float(), min(SIDE, images.shape[-1]))
    return small.var(0, unbiased=False).mean()


def gradient_norm(module: nn.Module) -> torch.Tensor:
    """2-norm of all gradients, left on the device."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


def warnings_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What a person should know, in words, from the newest rows of metrics.jsonl."""
    found = []
    alike = _mean(rows, "diversity")
    if alike is not None and alike < COLLAPSED:
        found.append(
            f"Mode collapse? Generated images differ from each other {alike:.0%} as much as real "
            "ones do. Look at previews/; try a larger batch, more critic_steps, a lower lr."
        )
    penalty = _mean(rows, "penalty")
    if penalty is not None and penalty > STEEP:
        found.append(
            f"The critic's slope is far from 1 (penalty {penalty:.2g}), so its distance says "
            "little. Try a lower lr or more critic_steps."
        )
    return found


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    """Of the newest values; None as long as there are too few to tell."""
    values = [row[name] for row in rows if name in row]
    if len(values) < 2 * NEWEST:
        return None
    return sum(values[-NEWEST:]) / NEWEST

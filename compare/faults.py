"""Faults of generated images, put into real ones: what the encoder learns to see too.

Autoencoders draw softly, unfinished diffusion leaves noise, transposed convolutions leave blocks.
An encoder trained on clean images alone may not notice.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

FAULTS = ("fault=soft", "fault=rough", "fault=blocky")
BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)  # a Gaussian of deviation 1 pixel


def apply_faults(images: Tensor, amounts: Tensor, noise: Tensor, deviation: float) -> Tensor:
    """Images in [0, 1], B x C x H x W (H, W even), with `amounts` (B x 3, in [0, 1]) of each fault.

    `noise` is standard normal, B x C x H x W; `deviation` that of the noise at amount 1.
    """
    soft, rough, blocky = (amount[:, None, None, None] for amount in amounts.T)
    images = images + soft * (blurred(images) - images)
    blocks = F.interpolate(F.avg_pool2d(images, 2), scale_factor=2.0, mode="nearest")
    images = images + blocky * (blocks - images)
    return (images + rough * deviation * noise).clamp(0, 1)


def blurred(images: Tensor) -> Tensor:
    """B x C x H x W under a Gaussian of one pixel."""
    channels = images.shape[1]
    row = torch.tensor(BINOMIAL, device=images.device)
    kernel = torch.outer(row, row).expand(channels, 1, 5, 5)
    return F.conv2d(F.pad(images, (2, 2, 2, 2), mode="replicate"), kernel, groups=channels)

"""Multi-scale structural similarity (Wang et al., 2003) of the images of one set with each other.

Averaged over pairs of a set it falls with variety (Odena et al., 2017). Read it against the same
number of real images.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from compare.features import PixelPath, pixel_batches, subset
from core.seeds import stream
from core.sets import ImageSet

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2
PAIRS = 200


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Of images in [0, 1], N x C x H x W: N values, 1 for equal images.

    As many of the five scales as leave room for the window of 11 pixels (three at 64), their
    weights brought to a sum of 1. Negative contrast terms count as 0.
    """
    scales = max(1, min(len(WEIGHTS), (min(a.shape[-2:]) // WINDOW).bit_length()))
    weights = torch.tensor(WEIGHTS[:scales], device=a.device)
    weights = weights / weights.sum()
    result = torch.ones(len(a), device=a.device)
    for scale in range(scales):
        luminance, contrast = _ssim_terms(a, b)
        term = contrast if scale < scales - 1 else luminance * contrast
        result = result * term.mean((1, 2, 3)).clamp_min(0) ** weights[scale]
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return result


def pair_similarity(images: ImageSet, path: PixelPath, seed: int) -> float:
    """Mean MS-SSIM over PAIRS pairs of different images, drawn by chance."""
    generator = stream(seed, "ms-ssim", len(images))
    first = torch.randint(len(images), (PAIRS,), generator=generator)
    second = (first + torch.randint(1, len(images), (PAIRS,), generator=generator)) % len(images)
    values = []
    pairs = subset(images, torch.stack([first, second], 1).flatten().tolist())
    for block in pixel_batches(pairs, path, 64):
        pixels = torch.from_numpy(block).float() / 255
        pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
        values.append(ms_ssim(pixels[::2], pixels[1::2]))
    return float(torch.cat(values).mean())


def _ssim_terms(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance and contrast-structure maps under a Gaussian window, no padding."""
    place = torch.arange(WINDOW, device=a.device) - WINDOW // 2
    row = torch.exp(-(place**2) / (2 * SIGMA**2))
    row = row / row.sum()
    channels = a.shape[1]
    kernel = torch.outer(row, row).expand(channels, 1, WINDOW, WINDOW)

    def mean(x: Tensor) -> Tensor:
        return F.conv2d(x, kernel, groups=channels)

    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    return luminance, (2 * covariance + C2) / (var_a + var_b + C2)

"""Cosine similarity of images on raw pixels, and the same after taking each image's mean out.

Raw pixels are non-negative, so any two X-rays come near 1 (two noise images have 0.75, and the mean
image beats most): the number of the thesis, kept for comparison. The mean-centred cosine, known as
normalised cross-correlation, tells images apart.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Cosines(NamedTuple):
    """Cosines of Q queries with B images, Q x B, float32."""

    raw: Tensor
    centred: Tensor


class Measured(NamedTuple):
    """Images and what every cosine needs of them, worked out once."""

    pixels: Tensor
    """Flat, float32 of any scale, N x P."""
    mean: Tensor
    raw: Tensor
    """1 / length, N; 0 for a black image."""
    centred: Tensor
    """1 / length once the mean is out, N; 0 for an even image."""


def measured(pixels: Tensor) -> Measured:
    """Of flat images, N x P."""
    mean, squares = pixels.mean(1), torch.linalg.vector_norm(pixels, dim=1) ** 2
    spread = squares - pixels.shape[1] * mean**2
    return Measured(pixels, mean, _inverse_norms(squares, squares), _inverse_norms(spread, squares))


def cosines(queries: Measured, bank: Measured) -> Cosines:
    """Both cosines from one matrix product.

    A black image has cosine 0 with everything; so has an even one once its mean is out.
    """
    products = queries.pixels @ bank.pixels.T
    # dot of what is left without the means, from that with them
    inner = products - queries.pixels.shape[1] * queries.mean[:, None] * bank.mean
    return Cosines(
        products * queries.raw[:, None] * bank.raw, inner * queries.centred[:, None] * bank.centred
    )


def _inverse_norms(squares: Tensor, scale: Tensor) -> Tensor:
    """1 / sqrt(squares), 0 where they vanish beside `scale`."""
    small = squares <= 1e-6 * scale.clamp_min(1e-12)
    return torch.where(small, torch.zeros_like(squares), squares.clamp_min(1e-30).rsqrt())

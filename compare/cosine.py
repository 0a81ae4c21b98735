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


def cosines(queries: Tensor, bank: Tensor) -> Cosines:
    """Both cosines from one matrix product; pixels are flat, float32 of any scale, Q x P and
    B x P.

    A black image has cosine 0 with everything; so has an even one once its mean is out.
    """
    pixels = queries.shape[1]
    products = queries @ bank.T
    squares_q, squares_b = (torch.linalg.vector_norm(x, dim=1) ** 2 for x in (queries, bank))
    mean_q, mean_b = queries.mean(1), bank.mean(1)
    # dot and norms of what is left without the means, from those with them
    inner = products - pixels * mean_q[:, None] * mean_b
    spread_q = squares_q - pixels * mean_q**2
    spread_b = squares_b - pixels * mean_b**2
    return Cosines(
        products
        * _inverse_norms(squares_q, squares_q)[:, None]
        * _inverse_norms(squares_b, squares_b),
        inner * _inverse_norms(spread_q, squares_q)[:, None] * _inverse_norms(spread_b, squares_b),
    )


def _inverse_norms(squares: Tensor, scale: Tensor) -> Tensor:
    """1 / sqrt(squares), 0 where they vanish beside `scale`."""
    small = squares <= 1e-6 * scale.clamp_min(1e-12)
    return torch.where(small, torch.zeros_like(squares), squares.clamp_min(1e-30).rsqrt())

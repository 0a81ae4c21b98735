"""CMMD (Jayasumana et al., 2024): squared MMD of CLIP embeddings, Gaussian kernel, times 1000.

As published: embeddings of length 1, sigma 10, and the biased estimate (pairs with itself count).
"""

import numpy as np

from compare.manifold import squared_distances
from compare.similarity import unit

SIGMA = 10.0
SCALE = 1000.0


def cmmd(real: np.ndarray, fake: np.ndarray) -> float:
    """Of N x d and M x d embeddings."""
    return float(cmmd_resamples(real, fake, np.ones((1, len(real))), np.ones((1, len(fake))))[0])


def cmmd_resamples(
    real: np.ndarray, fake: np.ndarray, real_counts: np.ndarray, fake_counts: np.ndarray
) -> np.ndarray:
    """`cmmd` of R resamples: row r takes image i as often as counts[r, i] says."""
    real, fake = unit(real), unit(fake)
    r = real_counts / real_counts.sum(1, keepdims=True)
    f = fake_counts / fake_counts.sum(1, keepdims=True)
    within = _mean(real, real, r, r) + _mean(fake, fake, f, f)
    return SCALE * (within - 2 * _mean(real, fake, r, f))


def _mean(x: np.ndarray, y: np.ndarray, x_shares: np.ndarray, y_shares: np.ndarray) -> np.ndarray:
    kernel = np.exp(-squared_distances(x, y) / (2 * SIGMA**2))
    return ((x_shares @ kernel) * y_shares).sum(1)

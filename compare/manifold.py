"""Precision and recall (Kynkäänniemi et al., 2019), density and coverage (Naeem et al., 2020).

Around every feature vector lies a ball that reaches its k-th nearest neighbour in its own set. The
balls of the real images are the real manifold. Precision and density ask how many generated images
lie in it; recall, how many real images lie in the generated one; coverage, how many real balls hold
a generated image.
"""

from typing import NamedTuple

import numpy as np

K = 5
BLOCK = 1024  # rows of distances held at once


class Manifold(NamedTuple):
    """One value per image, whose means are the four scores."""

    precision: np.ndarray
    """M: generated image inside a real ball, 0 or 1."""
    recall: np.ndarray
    """N: real image inside a generated ball, 0 or 1."""
    density: np.ndarray
    """M: number of real balls around the generated image, over k."""
    coverage: np.ndarray
    """N: a generated image inside the real image's ball, 0 or 1."""


def manifold(real: np.ndarray, fake: np.ndarray, k: int = K) -> Manifold:
    """Of N x d real and M x d fake features, both more than k. Exact, in blocks of rows."""
    real, fake = np.asarray(real, np.float64), np.asarray(fake, np.float64)
    real_radii, fake_radii = radii(real, k), radii(fake, k)
    around, recall, nearest = [], [], np.full(len(real), np.inf)
    for first in range(0, len(fake), BLOCK):
        distances = squared_distances(fake[first : first + BLOCK], real)  # up to BLOCK x N
        around.append((distances <= real_radii).sum(1))
        nearest = np.minimum(nearest, distances.min(0))
    for first in range(0, len(real), BLOCK):
        distances = squared_distances(real[first : first + BLOCK], fake)
        recall.append((distances <= fake_radii).any(1))
    balls = np.concatenate(around)
    return Manifold(
        precision=(balls > 0).astype(float),
        recall=np.concatenate(recall).astype(float),
        density=balls / k,
        coverage=(nearest <= real_radii).astype(float),
    )


def radii(x: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of every row to its k-th nearest other row, N."""
    parts = []
    for first in range(0, len(x), BLOCK):
        distances = squared_distances(x[first : first + BLOCK], x)
        parts.append(np.partition(distances, k, axis=1)[:, k])  # place 0 is the row itself
    return np.concatenate(parts)


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean, squared: A x B."""
    squares = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T
    return squares.clip(min=0)

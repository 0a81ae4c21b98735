"""Similarity to a few real images: cosine of features with the nearest of them.

For sets too small for a distribution (4 to 20 images). The yardstick is the band that the real
images span among themselves, each against the others. Nearer than the band may mean a copy.
"""

import numpy as np

BLOCK = 4096


def similarity(real: np.ndarray, fake: np.ndarray) -> float:
    """Mean over fake images (M x d) of the highest cosine with a real one (N x d), in [-1, 1]."""
    return float(nearest_cosine(real, fake).mean())


def similarity_resamples(real: np.ndarray, fake: np.ndarray, fake_counts: np.ndarray) -> np.ndarray:
    """`similarity` of R resamples of the fake images (counts, R x M); the real ones stay."""
    return fake_counts @ nearest_cosine(real, fake) / fake_counts.sum(1)


def real_band(real: np.ndarray) -> tuple[float, float, float]:
    """Cosine of every real image with the nearest *other* one: mean, 10th and 90th percentile."""
    products = _unit(real) @ _unit(real).T
    np.fill_diagonal(products, -np.inf)
    nearest = products.max(1)
    low, high = np.quantile(nearest, [0.1, 0.9])
    return float(nearest.mean()), float(low), float(high)


def nearest_cosine(real: np.ndarray, fake: np.ndarray) -> np.ndarray:
    """Highest cosine of every fake image with a real one, M."""
    unit, queries = _unit(real), _unit(fake)
    blocks = [
        (queries @ unit[first : first + BLOCK].T).max(1) for first in range(0, len(unit), BLOCK)
    ]
    return np.max(blocks, axis=0)


def _unit(features: np.ndarray) -> np.ndarray:
    features = np.asarray(features, np.float64)
    return features / np.linalg.norm(features, axis=1, keepdims=True).clip(min=1e-12)

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


def likeness(real: np.ndarray, fake: np.ndarray) -> float:
    """Mean cosine over all pairs of a real (N x d) and a fake image (M x d)."""
    return float(unit(real).mean(0) @ unit(fake).mean(0))


def likeness_resamples(
    real: np.ndarray, fake: np.ndarray, real_counts: np.ndarray, fake_counts: np.ndarray
) -> np.ndarray:
    """`likeness` of R resamples (counts, R x N and R x M)."""
    sums = (real_counts @ unit(real)) * (fake_counts @ unit(fake))
    return sums.sum(1) / (real_counts.sum(1) * fake_counts.sum(1))


def real_band(real: np.ndarray) -> tuple[float, float, float]:
    """Cosine of every real image with the nearest *other* one: mean, 10th and 90th percentile."""
    nearest = nearest_cosine(real, real, np.arange(len(real)))
    low, high = np.quantile(nearest, [0.1, 0.9])
    return float(nearest.mean()), float(low), float(high)


def nearest_cosine(real: np.ndarray, fake: np.ndarray, own: np.ndarray | None = None) -> np.ndarray:
    """Highest cosine of every fake image with a real one, M; `own` (M) is each one's place among
    the real, which does not count."""
    bank, queries = unit(real), unit(fake)
    best = np.full(len(queries), -np.inf)
    for first in range(0, len(bank), BLOCK):
        cosines = queries @ bank[first : first + BLOCK].T
        if own is not None:
            here = np.flatnonzero((own >= first) & (own < first + BLOCK))
            cosines[here, own[here] - first] = -np.inf
        best = np.maximum(best, cosines.max(1))
    return best


def unit(features: np.ndarray) -> np.ndarray:
    """Rows of length 1, float64."""
    features = np.asarray(features, np.float64)
    return features / np.linalg.norm(features, axis=1, keepdims=True).clip(min=1e-12)

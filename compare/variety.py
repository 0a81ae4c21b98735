"""How much the images of one set differ: Vendi score and mean pairwise distance.

Neither looks at a real image: they are read beside the same numbers of real images.
"""

import numpy as np

from compare.similarity import unit


def vendi(features: np.ndarray) -> float:
    """Vendi score (Friedman and Dieng, 2023) of N x d features under the cosine kernel: the
    effective number of different images, from 1 to N."""
    return float(vendi_resamples(features, np.ones((1, len(features))))[0])


def vendi_resamples(features: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`vendi` of R resamples: row r takes image i counts[r, i] times (R x N).

    exp of the entropy of the eigenvalues of K / n, taken from the smaller Gram matrix.
    """
    rows = unit(features)
    values = []
    for row in counts:
        weighted = rows * np.sqrt(row / row.sum())[:, None]
        narrow = weighted if len(weighted) <= weighted.shape[1] else weighted.T
        spectrum = np.linalg.eigvalsh(narrow @ narrow.T).clip(min=0)
        spectrum = spectrum[spectrum > 1e-12]
        values.append(np.exp(-(spectrum * np.log(spectrum)).sum()))
    return np.array(values)


def diversity(features: np.ndarray) -> float:
    """Mean of 1 - cosine over pairs of different images, N x d with N at least 2: what mean
    pairwise LPIPS is on its network's features, on ours."""
    return float(diversity_resamples(features, np.ones((1, len(features))))[0])


def diversity_resamples(features: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`diversity` of R resamples; an image drawn twice makes no pair with itself."""
    counts = counts.astype(np.float64)
    sums = counts @ unit(features)  # R x d: sum_i,j c_i c_j cos(i, j) is its squared length
    squares = (counts**2).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):  # one image alone: no pair, no number
        return 1 - ((sums**2).sum(1) - squares) / (counts.sum(1) ** 2 - squares)

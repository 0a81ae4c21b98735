"""Kernel Inception Distance (Binkowski et al., 2018): unbiased squared MMD, kernel (x.y / d + 1)^3.

Its expectation does not depend on the number of images, so that it serves for few of them; it may
fall below 0.
"""

import numpy as np

BLOCK = 2048  # columns of the kernel matrix held at once


def kid(real: np.ndarray, fake: np.ndarray) -> float:
    """Of all N x d real and M x d fake features, each set at least 2."""
    ones = np.ones((1, len(real))), np.ones((1, len(fake)))
    return float(kid_resamples(real, fake, *ones)[0])


def kid_resamples(
    real: np.ndarray, fake: np.ndarray, real_counts: np.ndarray, fake_counts: np.ndarray
) -> np.ndarray:
    """KID of R resamples, from kernel matrices computed once.

    Row r takes image i as often as counts[r, i] says (R x N, R x M). An image drawn twice makes no
    pair with itself, so that repeats do not bias the estimate.
    """
    real, fake = np.asarray(real, np.float64), np.asarray(fake, np.float64)
    within = _within(real, real_counts) + _within(fake, fake_counts)
    between = _weighted_sum(real, fake, real_counts, fake_counts)
    return within - 2 * between / (real_counts.sum(1) * fake_counts.sum(1))


def kid_subsets(
    real: np.ndarray, fake: np.ndarray, subsets: int = 100, size: int = 1000, seed: int = 2020
) -> tuple[float, float]:
    """Mean and deviation over random subsets, as torch-fidelity reports it, draw for draw.

    The deviation is over overlapping subsets: not an interval. Raises ValueError below `size`.
    """
    if min(len(real), len(fake)) < size:
        raise ValueError(f"KID by subsets needs {size} images on either side")
    rng = np.random.RandomState(seed)  # the stream that torch-fidelity draws from
    values = []
    for _ in range(subsets):
        chosen_fake = fake[rng.choice(len(fake), size, replace=False)]
        values.append(kid(real[rng.choice(len(real), size, replace=False)], chosen_fake))
    return float(np.mean(values)), float(np.std(values))


def _within(x: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean of the kernel over pairs of different images, for each row of counts."""
    squares = (counts.astype(np.float64) ** 2).sum(1)
    same = counts.astype(np.float64) ** 2 @ _kernel((x * x).sum(1), x.shape[1])
    pairs = counts.sum(1, dtype=np.float64) ** 2 - squares
    with np.errstate(divide="ignore", invalid="ignore"):  # one image alone: no pair, no number
        return (_weighted_sum(x, x, counts, counts) - same) / pairs


def _weighted_sum(
    x: np.ndarray, y: np.ndarray, x_counts: np.ndarray, y_counts: np.ndarray
) -> np.ndarray:
    """sum_ij x_counts[r, i] y_counts[r, j] k(x_i, y_j) for each r."""
    total = np.zeros(len(x_counts))
    for first in range(0, len(y), BLOCK):
        part = slice(first, first + BLOCK)
        kernel = _kernel(x @ y[part].T, x.shape[1])  # N x BLOCK
        total += ((x_counts @ kernel) * y_counts[:, part]).sum(1)
    return total


def _kernel(products: np.ndarray, dimension: int) -> np.ndarray:
    return (products / dimension + 1) ** 3

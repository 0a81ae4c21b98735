"""Kernel Inception Distance (Binkowski et al., 2018): unbiased squared MMD, kernel (x.y / d + 1)^3.

Its expectation does not depend on the number of images, so that it serves for few of them; it may
fall below 0.
"""

from itertools import combinations
from math import comb

import numpy as np
import torch

from core.seeds import stream

BLOCK = 2048  # columns of the kernel matrix held at once
MOST_TESTED = 1000  # images of either side in a permutation test
PERMUTATIONS = 999
EXACT = 10_000  # splits up to which all are counted


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


def kid_test(
    real: np.ndarray, fake: np.ndarray, seed: int = 0, permutations: int = PERMUTATIONS
) -> float:
    """Permutation test of "both sets are draws from one distribution": the share of splits of all
    images into sets of these sizes that have a KID as high as this one.

    Exact where there are at most EXACT splits (4 against 8 images, say); else over random splits,
    this one among them, so that p is at least 1 / (permutations + 1).
    """
    real, fake = _some(real, seed, "real"), _some(fake, seed, "fake")
    pooled = np.concatenate([real, fake]).astype(np.float64)
    count, n = len(pooled), len(real)
    kernel = _kernel(pooled @ pooled.T, pooled.shape[1])
    np.fill_diagonal(kernel, 0)
    if comb(count, n) <= EXACT:
        chosen = np.array(list(combinations(range(count), n)))  # the first is the true one
    else:
        generator = stream(seed, "permutations")
        drawn = [torch.randperm(count, generator=generator)[:n] for _ in range(permutations)]
        chosen = np.stack([np.arange(n), *(row.numpy() for row in drawn)])
    first = np.zeros((len(chosen), count))
    np.put_along_axis(first, chosen, 1.0, axis=1)
    second = 1 - first
    to_first = first @ kernel  # splits x images
    a, between = (to_first * first).sum(1), (to_first * second).sum(1)
    b = kernel.sum() - a - 2 * between
    m = count - n
    values = a / (n * (n - 1)) + b / (m * (m - 1)) - 2 * between / (n * m)
    return float((values >= values[0] - 1e-12 * np.abs(values).max()).mean())


def _some(x: np.ndarray, seed: int, place: str) -> np.ndarray:
    if len(x) <= MOST_TESTED:
        return x
    order = torch.randperm(len(x), generator=stream(seed, "kid test", place)).numpy()
    return x[order[:MOST_TESTED]]


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

"""Fréchet distance between two sets of features, in float64 (Heusel et al., 2017).

On Inception's 2048-d pool in the weights of 2015 it is FID; on other features it bears their name.

    |mu_1 - mu_2|^2 + tr(S_1) + tr(S_2) - 2 tr((S_1 S_2)^1/2)

S_1 S_2 is not symmetric, but S_1^1/2 S_2 S_1^1/2 is and has the same eigenvalues: two symmetric
eigenproblems, no matrix square root, no imaginary parts. Covariances divide by n - 1.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from core.seeds import stream

POINTS = 15  # of the line that FID-infinity extrapolates


@dataclass(frozen=True)
class Gaussian:
    """Mean (d) and covariance (d x d) of a set of features."""

    mean: np.ndarray
    covariance: np.ndarray

    @cached_property
    def root(self) -> np.ndarray:
        """Symmetric square root of the covariance; computed once for any number of distances."""
        values, vectors = np.linalg.eigh(self.covariance)
        return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T


def gaussian(features: np.ndarray) -> Gaussian:
    """Of N x d features, N at least 2."""
    centred, mean = _centred(features)
    return Gaussian(mean, centred.T @ centred)


def frechet(first: Gaussian, second: Gaussian) -> float:
    """Fréchet distance between two Gaussians; the first one's root is kept for the next call."""
    product = first.root @ second.covariance @ first.root
    overlap = np.sqrt(np.linalg.eigvalsh(product).clip(min=0)).sum()
    return _distance(
        first.mean, second.mean, np.trace(first.covariance), np.trace(second.covariance), overlap
    )


def fid(real: np.ndarray, fake: np.ndarray, known: Gaussian | None = None) -> float:
    """Fréchet distance between features, N x d and M x d.

    `known` is `gaussian(real)` where it is at hand: its root is then computed only once. With fewer
    images than features the eigenproblem is one of images: tr((S_1 S_2)^1/2) is the sum of the
    singular values of A_1 A_2^T, with A the centred features over sqrt(n - 1).
    """
    if min(len(real), len(fake)) >= real.shape[1]:
        return frechet(known or gaussian(real), gaussian(fake))
    (a, mean_a), (b, mean_b) = _centred(real), _centred(fake)
    return _distance(mean_a, mean_b, (a * a).sum(), (b * b).sum(), _overlap(a, b))


def fid_infinity(real: np.ndarray, fake: np.ndarray, seed: int = 0) -> float:
    """FID with infinitely many fake images (Chong and Forsyth, 2020): a line through FID over
    1 / n, at `POINTS` numbers of fake images drawn by chance, read off at 0.

    The real side stays as it is: what its own number adds to FID remains. M is 4 times 2 at least.
    """
    sizes = np.linspace(len(fake) // 4, len(fake), POINTS).astype(int)
    known, values = gaussian(real), []
    for place, size in enumerate(sizes):
        order = torch.randperm(len(fake), generator=stream(seed, "fid infinity", place))
        values.append(fid(real, fake[order[:size].numpy()], known))
    return float(np.polyfit(1 / sizes, values, 1)[1])


def fid_resamples(
    real: np.ndarray, fake: np.ndarray, real_counts: np.ndarray, fake_counts: np.ndarray
) -> np.ndarray:
    """`fid` of R resamples: row r takes image i as often as counts[r, i] says (R x N, R x M)."""
    pairs = zip(real_counts, fake_counts, strict=True)
    return np.array([fid(np.repeat(real, r, 0), np.repeat(fake, f, 0)) for r, f in pairs])


def _centred(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(features - mean) / sqrt(n - 1), whose Gram matrices are covariances; and the mean."""
    features = np.asarray(features, dtype=np.float64)
    mean = features.mean(0)
    return (features - mean) / np.sqrt(len(features) - 1), mean


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Sum of the singular values of a b^T, from the smaller of its two Gram matrices."""
    cross = a @ b.T if len(a) <= len(b) else b @ a.T
    return float(np.sqrt(np.linalg.eigvalsh(cross @ cross.T).clip(min=0)).sum())


def _distance(
    mean_a: np.ndarray, mean_b: np.ndarray, trace_a: float, trace_b: float, overlap: float
) -> float:
    gap = mean_a - mean_b
    return float(gap @ gap + trace_a + trace_b - 2 * overlap)

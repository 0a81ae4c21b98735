"""Intervals by resampling real patients (or images) and generated images with replacement."""

from collections.abc import Hashable, Sequence

import numpy as np
import torch

from core.seeds import stream

LEVEL = 0.95


def resample_counts(
    groups: Sequence[Hashable], resamples: int, seed: int, place: str
) -> np.ndarray:
    """How often each image is drawn: R x N integers.

    Args:
        groups: one label per image; images of one label (a patient) are drawn together.
        place: name of the set, so that two sets draw apart and the same set draws alike.
    """
    labels = {label: number for number, label in enumerate(dict.fromkeys(groups))}
    member = np.array([labels[label] for label in groups])
    generator = stream(seed, "bootstrap", place)
    drawn = torch.randint(len(labels), (resamples, len(labels)), generator=generator).numpy()
    per_group = np.stack([np.bincount(row, minlength=len(labels)) for row in drawn])
    return per_group[:, member]


def interval(value: float, resampled: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Where the value may lie: quantiles of the resampled values around their own mean, set on
    `value`.

    A resample holds repeats, which by itself raises a Fréchet distance; centring takes that out.
    Resamples that gave no number (of five images, five times the same one) are left out.
    """
    resampled = resampled[np.isfinite(resampled)]
    tail = (1 - level) / 2
    low, high = np.quantile(resampled - resampled.mean(), [tail, 1 - tail])
    return float(value + low), float(value + high)

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from compare.features import PixelPath
from compare.ms_ssim import SIGMA, ms_ssim, pair_similarity
from core.sets import open_set


def by_hand(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM of two 11 x 11 images: one window."""
    place = np.arange(11) - 5
    row = np.exp(-(place**2) / (2 * SIGMA**2))
    w = np.outer(row, row) / np.outer(row, row).sum()
    ma, mb = (w * a).sum(), (w * b).sum()
    va, vb, c = (w * a * a).sum() - ma**2, (w * b * b).sum() - mb**2, (w * a * b).sum() - ma * mb
    return (
        (2 * ma * mb + 0.01**2) / (ma**2 + mb**2 + 0.01**2) * (2 * c + 0.03**2)
        / (va + vb + 0.03**2)
    )  # fmt: skip


def test_one_window_by_hand() -> None:
    rng = np.random.default_rng(0)
    a = rng.random((11, 11))
    b = 0.7 * a + 0.3 * rng.random((11, 11))
    found = ms_ssim(*(torch.from_numpy(x).float()[None, None] for x in (a, b)))
    assert found.item() == pytest.approx(by_hand(a, b), rel=1e-3)


def test_equal_images_and_scales() -> None:
    images = torch.rand((3, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(ms_ssim(images, images), torch.ones(3), atol=1e-5)
    assert (ms_ssim(images, images.flip(0))[[0, 2]] < 0.3).all()


def test_a_set_of_one_image_again_and_again_has_1(make_set: Callable[..., Path]) -> None:
    images = open_set(make_set(), "train")
    value = pair_similarity(images, PixelPath(16, "L"), 0)
    assert 0 < value < 0.999
    assert value == pair_similarity(images, PixelPath(16, "L"), 0)

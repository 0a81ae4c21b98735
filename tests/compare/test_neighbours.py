import numpy as np
import pytest
import torch

from compare.cosine import Cosines, cosines, measured
from compare.neighbours import nearest


def by_pairs(a: np.ndarray, b: np.ndarray, centred: bool) -> float:
    """Cosine of two images in float64."""
    x, y = a.astype(float).ravel(), b.astype(float).ravel()
    if centred:
        x, y = x - x.mean(), y - y.mean()
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


@pytest.mark.parametrize("shape", [(9, 9), (6, 6, 3)])
@pytest.mark.parametrize("block", [1, 4, 100])
def test_equals_a_loop_over_pairs(shape: tuple[int, ...], block: int) -> None:
    rng = np.random.default_rng(0)
    queries = rng.integers(0, 256, (5, *shape), np.uint8)
    bank = rng.integers(0, 256, (11, *shape), np.uint8)
    found = nearest(queries, (bank[i : i + block] for i in range(0, 11, block)), k=3)
    for kind in ("raw", "centred"):
        table = np.array([[by_pairs(q, b, kind == "centred") for b in bank] for q in queries])
        order = np.argsort(-table, axis=1)[:, :3]
        assert (found[kind].index == order).all()
        assert np.allclose(found[kind].cosine, np.take_along_axis(table, order, 1), atol=1e-5)


def test_a_copy_is_found_and_has_cosine_one() -> None:
    bank = np.random.default_rng(1).integers(0, 256, (20, 8, 8), np.uint8)
    found = nearest(bank[[13, 4]], [bank])
    assert found["raw"].index[:, 0].tolist() == [13, 4]
    assert found["centred"].cosine[:, 0] == pytest.approx([1, 1], abs=1e-5)


def test_an_image_is_not_its_own_neighbour() -> None:
    bank = np.random.default_rng(2).integers(0, 256, (6, 5, 5), np.uint8)
    own = np.array([2, 3])
    found = nearest(bank[own], [bank[:3], bank[3:]], own=own)
    assert (found["raw"].index[:, 0] != own).all()
    assert found["raw"].cosine.max() < 0.999


def cosines_of(a: torch.Tensor, b: torch.Tensor) -> Cosines:
    return cosines(measured(a), measured(b))


def test_even_images_have_no_direction() -> None:
    even = torch.full((1, 16), 0.5)
    other = torch.rand((1, 16), generator=torch.Generator().manual_seed(0))
    assert cosines_of(even, other).centred.item() == 0
    assert cosines_of(torch.zeros(1, 16), other).raw.item() == 0
    assert 0 < cosines_of(even, other).raw.item() < 1


def test_brightness_and_contrast_leave_the_centred_cosine() -> None:
    image = torch.rand((1, 64), generator=torch.Generator().manual_seed(1))
    both = cosines_of(image * 0.5 + 0.3, image)
    assert both.centred.item() == pytest.approx(1, abs=1e-5)
    assert both.raw.item() < 1

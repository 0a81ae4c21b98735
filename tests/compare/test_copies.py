"""Copies of drawn radiographs are caught, unseen ones are not."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from benchmarks.copies import CHANGES
from compare.copies import CopyBank, _blur, copy_bound, copy_test, find_copies, flag_rows
from compare.features import PixelPath
from core.sets import ImageSet, open_set
from prepare.chest import draw_chest, sample_chest

from .conftest import write_folder

PATH = PixelPath(64, "L")
COPIED = 30


def radiographs(count: int, first: int) -> list[Image.Image]:
    drawn = [draw_chest(sample_chest(seed), 64) for seed in range(first, first + count)]
    return [Image.fromarray(pixels) for pixels in drawn]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageSet, Callable[..., ImageSet]]:
    """A bank, and `as_set(name, images)`."""
    root = tmp_path_factory.mktemp("copies")

    def as_set(name: str, images: list[Image.Image]) -> ImageSet:
        return open_set(write_folder(root / name, images))

    return as_set("train", radiographs(150, 0)), as_set


def test_copies_are_caught_and_unseen_images_are_not(
    pictures: tuple[ImageSet, Callable[..., ImageSet]],
) -> None:
    bank, as_set = pictures
    rng = np.random.default_rng(0)
    originals = [Image.open(path) for path in bank.paths[:COPIED]]
    copies = CopyBank(bank, PATH)
    unseen = copies.find(as_set("unseen", radiographs(300, 1000))).cosine[:, 0]
    yardstick, others = unseen[:200], unseen[200:]
    assert copy_test(others, yardstick)["share_above"] <= 0.01
    assert copy_test(others, yardstick)["p"] > 0.001
    for name, change in CHANGES.items():
        images = [change(image, rng) for image in originals]
        found = copies.find(as_set(name, images))
        result = copy_test(found.cosine[:, 0], yardstick)
        assert (found.index[:, 0] == np.arange(COPIED)).mean() >= 0.95, name
        assert result["p"] < 1e-6, name  # as a set, they stand out
        assert result["share_above"] >= (1 if name == "as it is" else 0.95), name


def test_a_bound_from_few_images_lies_where_many_put_it() -> None:
    rng = np.random.default_rng(0)
    many = np.tanh(rng.normal(1.0, 0.2, 100_000))
    truth = np.tanh(1.0 + 3.0902 * 0.2)
    assert copy_bound(many) == pytest.approx(truth, abs=1e-3)
    few = [copy_bound(rng.choice(many, 50)) for _ in range(200)]
    assert np.mean(few) == pytest.approx(truth, abs=0.005)
    assert np.mean([rng.choice(many, 50).max() for _ in range(200)]) < truth - 0.02
    assert copy_bound(np.array([0.5])) == 0.5
    short_tailed = np.linspace(0.7, 0.9, 1000)  # enough to show their own percentile
    assert (
        copy_bound(short_tailed) == np.quantile(short_tailed, 0.999) < copy_bound(short_tailed[::2])
    )
    assert copy_bound(np.array([0.2, 1.0])) >= 0.999


@pytest.mark.parametrize("deviation", [0.7, 0.8, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("size", [16, 64])
def test_a_blur_is_scipys(size: int, deviation: float) -> None:
    maps = np.random.default_rng(0).random((3, size, size))
    wanted = gaussian_filter(maps, (0, deviation, deviation), mode="nearest", truncate=3)
    found = _blur(torch.from_numpy(maps).float(), deviation)
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-6)


def test_an_image_is_not_its_own_copy(pictures: tuple[ImageSet, Callable[..., ImageSet]]) -> None:
    bank, _ = pictures
    few = ImageSet("few", bank.paths[:12], bank.rows[:12], {})
    found = find_copies(few, few, PATH, own=np.arange(12))
    assert (found.index[:, 0] != np.arange(12)).all()
    assert found.cosine.max() < 0.95


def test_rows_are_flagged(pictures: tuple[ImageSet, Callable[..., ImageSet]]) -> None:
    bank, as_set = pictures
    images = as_set("two", [Image.open(bank.paths[5]), *radiographs(1, 5000)])
    found = find_copies(images, bank, PATH)
    rows = flag_rows([{"seed": 0}, {"seed": 1}], found, bank, 0.95)
    assert rows[0]["nearest"] == "000005.png"
    assert [row["possible_copy"] for row in rows] == [True, False]
    assert rows[1]["seed"] == 1

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from compare.extractors import Extractor
from compare.features import Noise, PixelPath, extract, pixel_batches, subset
from core.errors import UserError
from core.sets import open_set

PATH = PixelPath(16, "L")


@pytest.fixture
def counted(extractor: Extractor) -> tuple[Extractor, list[int]]:
    """The extractor, and the sizes of the batches it was given."""
    seen: list[int] = []

    def forward(images: Tensor) -> dict[str, Tensor]:
        seen.append(len(images))
        return extractor.forward(images)

    return replace(extractor, forward=forward), seen


def test_batches_and_order_do_not_change_features(
    make_set: Callable[..., Path], extractor: Extractor, own_cache: Path
) -> None:
    images = open_set(make_set(), "train")
    whole = extract(images, extractor, PATH, batch=30).features
    for file in (own_cache / "features").iterdir():
        file.unlink()
    parts = extract(images, extractor, PATH, batch=7).features
    turned = extract(subset(images, range(29, -1, -1)), extractor, PATH, batch=8).features
    assert whole.shape == (30, 16)
    assert np.allclose(parts, whole, atol=1e-5)
    assert np.allclose(turned[::-1], whole, atol=1e-5)


def test_known_contents_are_not_extracted_again(
    make_set: Callable[..., Path], counted: tuple[Extractor, list[int]], tmp_path: Path
) -> None:
    extractor, seen = counted
    folder = make_set("a")
    first = extract(open_set(folder, "test"), extractor, PATH)
    folder.rename(tmp_path / "b")  # another name, the same contents
    again = extract(open_set(tmp_path / "b", "test"), extractor, PATH)
    assert sum(seen) == 26
    assert (first.features == again.features).all()
    assert first.fingerprint == again.fingerprint


@pytest.mark.parametrize("change", ["content", "weights", "size", "mode"])
def test_a_change_of_anything_that_matters_is_seen(
    make_set: Callable[..., Path], counted: tuple[Extractor, list[int]], change: str
) -> None:
    extractor, seen = counted
    folder, path = make_set(), PATH
    before = extract(open_set(folder, "test"), extractor, path)
    if change == "content":  # same names, same number, one other picture
        Image.new("L", (16, 16), 9).save(folder / "test" / "000003.png")
    elif change == "weights":
        extractor = replace(extractor, sha256="another")
    elif change == "size":
        path = PixelPath(12, "L")
    else:
        path = PixelPath(16, "RGB")
    after = extract(open_set(folder, "test"), extractor, path)
    assert sum(seen) == 52
    changed = (before.features != after.features).any(1)
    if change == "content":
        assert changed[3]
        assert not np.delete(changed, 3).any()


def test_one_pixel_path_for_all(tmp_path: Path) -> None:
    colour = Image.fromarray(np.full((20, 30, 4), (200, 100, 0, 255), np.uint8))
    (tmp_path / "x").mkdir()
    colour.save(tmp_path / "x" / "a.png")
    Image.fromarray(np.full((50, 50), 40000, np.uint16)).save(tmp_path / "x" / "b.png")
    (block,) = pixel_batches(open_set(tmp_path / "x"), PATH, 5)
    assert block.shape == (2, 16, 16)
    assert (block[0] == colour.convert("L").getpixel((0, 0))).all()


def test_noise_does_not_depend_on_the_batch() -> None:
    noise = Noise(10)
    whole = np.concatenate(list(pixel_batches(noise, PATH, 10)))
    parts = np.concatenate(list(pixel_batches(noise, PATH, 3)))
    assert (whole == parts).all()
    assert 120 < whole.mean() < 135


def test_a_file_that_is_no_image_is_named(
    make_set: Callable[..., Path], extractor: Extractor
) -> None:
    folder = make_set()
    (folder / "test" / "000002.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"000002\.png"):
        extract(open_set(folder, "test"), extractor, PATH)

"""How well the copy test catches copies, and how often it flags what is none.

    python benchmarks/copies.py --out benchmarks/results/copies.json       # drawn radiographs
    python benchmarks/copies.py --data data/nih64 --out benchmarks/results/copies_nih64.json

The bound is set by one half of the unseen images and tried on the other. Each way of giving a
training image out again is tried alone, and then all of them together.
"""

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from compare.copies import CopyBank, copy_test
from compare.features import PixelPath
from core.files import write_json
from core.images import open_image
from core.sets import ImageSet, open_set
from prepare.chest import draw_chest, sample_chest

SIDE = 64


def jpeg(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(rng.integers(30, 80)))
    return Image.open(buffer).convert(image.mode)


def mirrored(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.mirror(image)


def cropped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """85 to 100 % of the side, anywhere, at the whole size again."""
    side = image.width * rng.uniform(0.85, 1)
    x, y = rng.uniform(0, image.width - side, 2)
    return image.resize(image.size, Image.Resampling.BICUBIC, box=(x, y, x + side, y + side))


def relit(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image) * rng.uniform(0.75, 1.25) + rng.uniform(-30, 30)
    return Image.fromarray(np.uint8(pixels.clip(0, 255)))


def blurred(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """As a lossy autoencoder leaves it: fine detail gone, noise in its place."""
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.2))), float)
    return Image.fromarray(np.uint8((pixels + rng.normal(0, 4, pixels.shape)).clip(0, 255)))


def everything(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return jpeg(relit(cropped(mirrored(image, rng), rng), rng), rng)


CHANGES: dict[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "as it is": lambda image, rng: image,
    "JPEG, quality 30 to 80": jpeg,
    "mirrored": mirrored,
    "cropped": cropped,
    "brightness and contrast": relit,
    "blurred and noisy": blurred,
    "mirrored, cropped, relit and JPEG": everything,
}


def drawn(count: int, first: int) -> list[Image.Image]:
    numbers = range(first, first + count)
    return [Image.fromarray(draw_chest(sample_chest(number), SIDE)) for number in numbers]


def opened(images: ImageSet, places: range) -> list[Image.Image]:
    return [open_image(images.paths[place], "L") for place in places if place < len(images)]


def as_set(folder: Path, images: list[Image.Image]) -> ImageSet:
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        image.save(folder / f"{number:06d}.png")
    return open_set(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", help="a prepared set in place of drawn radiographs")
    parser.add_argument("--bank", type=int, default=1000, help="training images, at most")
    parser.add_argument("--unseen", type=int, default=2000, help="others, at most")
    parser.add_argument("--copies", type=int, default=200, help="of each way")
    parser.add_argument("--out", type=Path, help="JSON file of the result")
    given = parser.parse_args()
    if given.data:
        bank = opened(open_set(f"{given.data}:train"), range(given.bank))
        unseen = opened(open_set(f"{given.data}:test"), range(given.unseen))
    else:
        bank, unseen = drawn(given.bank, 0), drawn(given.unseen, 10**6)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as work:
        path, folder = PixelPath(bank[0].width, "L"), Path(work)
        began = time.monotonic()
        copies = CopyBank(as_set(folder / "bank", bank), path)
        scores = copies.find(as_set(folder / "unseen", unseen)).cosine[:, 0]
        seconds = time.monotonic() - began
        yardstick, others = np.split(rng.permutation(scores), [len(scores) // 2])
        told = copy_test(others, yardstick)
        rows: dict[str, Any] = {}
        for name, change in CHANGES.items():
            images = [change(image, rng) for image in bank[: given.copies]]
            found = copies.find(as_set(folder / name, images))
            right = found.index[:, 0] == np.arange(len(images))
            rows[name] = {
                "images": len(images),
                "above": copy_test(found.cosine[:, 0], yardstick)["share_above"],
                "right_image": float(right.mean()),
                "median": float(np.median(found.cosine[:, 0])),
            }
            print(f"{name:34} {rows[name]}", flush=True)
    result = {
        "data": given.data or "drawn radiographs",
        "bank": len(bank),
        "bound_from": len(yardstick),
        "bound": told["bound"],
        "unseen": len(others),
        "unseen_above": told["share_above"],
        "unseen_median": float(np.median(others)),
        "queries_per_second": len(scores) / seconds,
        "copies": rows,
    }
    print(json.dumps({k: v for k, v in result.items() if k != "copies"}, indent=2))
    if given.out:
        write_json(given.out, result)


if __name__ == "__main__":
    main()

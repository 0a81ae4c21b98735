"""Features of image sets: extracted once, kept by content, whatever the batch or the processes.

One pixel path for all sets of a comparison: to the real set's mode ("L" or "RGB"), cropped to the
centre square and brought to its size (Lanczos), then whatever the extractor does. So a model that
draws larger, or in colour, is measured on the same footing.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate.utils import gather_object
from PIL import Image
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from compare.extractors import Extractor
from compare.fid import Gaussian, gaussian
from core.families import Autoencoder
from core.files import atomic_path
from core.images import fit, open_image, to_array
from core.parallel import process_state
from core.sets import ImageSet

FORMAT = 2  # of the cache; a change here makes everything anew


@dataclass(frozen=True)
class PixelPath:
    """What every image is brought to first."""

    size: int
    mode: str


@dataclass(frozen=True, eq=False)
class Features:
    """Of one set, equal to itself alone: float32 N x d, logits N x C or None."""

    features: np.ndarray
    logits: np.ndarray | None
    fingerprint: str
    """Of the images."""
    texts: np.ndarray | None = None
    """Embeddings of the prompts, N x d, of an extractor that reads text."""

    def __len__(self) -> int:
        return len(self.features)

    @cached_property
    def gaussian(self) -> Gaussian:
        return gaussian(self.features)


class Made(Protocol):
    """Images that are made in memory and lie in no file."""

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    def __len__(self) -> int: ...
    def batch(self, first: int, last: int, path: PixelPath) -> np.ndarray:
        """uint8, images `first` to `last`."""
        ...


@dataclass(frozen=True)
class Given:
    """Pixels that are at hand, uint8, N x H x W or N x H x W x 3, and on the pixel path already."""

    pixels: np.ndarray
    name: str = "given"
    fingerprint: str = ""

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, first: int, last: int, path: PixelPath) -> np.ndarray:
        """uint8, images `first` to `last`."""
        return self.pixels[first:last]


@dataclass(frozen=True)
class Noise:
    """Uniform noise images: what no generator should fall below."""

    count: int
    seed: int = 0
    name: str = "uniform noise"

    @property
    def fingerprint(self) -> str:
        return f"uniform-noise-{self.seed}-{self.count}"

    def __len__(self) -> int:
        return self.count

    def batch(self, first: int, last: int, path: PixelPath) -> np.ndarray:
        """uint8, images `first` to `last`, each from a generator of its own."""
        shape = (path.size, path.size) + ((3,) if path.mode == "RGB" else ())
        return np.stack(
            [
                np.random.Generator(np.random.PCG64([self.seed, number])).integers(
                    0, 256, shape, np.uint8
                )
                for number in range(first, last)
            ]
        )


@dataclass(frozen=True)
class MeanImage:
    """The mean of all images of a set, again and again: what a raw cosine likes best."""

    count: int
    of: ImageSet
    name: str = "mean image"

    @property
    def fingerprint(self) -> str:
        return f"mean-image-{self.of.fingerprint}-{self.count}"

    def __len__(self) -> int:
        return self.count

    def batch(self, first: int, last: int, path: PixelPath) -> np.ndarray:
        """uint8, `last` - `first` times the same."""
        if path not in self._means:
            total = sum(
                block.astype(np.float64).sum(0) for block in pixel_batches(self.of, path, 64)
            )
            self._means[path] = np.round(total / len(self.of)).astype(np.uint8)
        return np.repeat(self._means[path][None], last - first, axis=0)

    @cached_property
    def _means(self) -> dict[PixelPath, np.ndarray]:
        return {}


@dataclass(frozen=True)
class RoundTrip:
    """Images of a set, encoded and decoded: what no model on those latents can do better."""

    of: ImageSet
    through: Autoencoder

    @property
    def name(self) -> str:
        return f"{self.of.name} through {self.through.name}"

    @property
    def fingerprint(self) -> str:
        return f"{self.of.fingerprint}-through-{self.through.fingerprint}"

    def __len__(self) -> int:
        return len(self.of)

    def batch(self, first: int, last: int, path: PixelPath) -> np.ndarray:
        """uint8, images `first` to `last`."""
        pixels: np.ndarray = self.through(_pixels(self.of.paths[first:last], path))
        return pixels


def pixel_batches(
    images: ImageSet | Made, path: PixelPath, size: int, numbers: Sequence[int] | None = None
) -> Iterator[np.ndarray]:
    """uint8 blocks of up to `size` images, N x H x W or N x H x W x 3, decoded in threads.

    `numbers` picks blocks (all by default); one more than in hand is being decoded.
    """
    wanted = range(-(-len(images) // size)) if numbers is None else numbers
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, ThreadPoolExecutor(1) as ahead:

        def load(number: int) -> np.ndarray:
            first, last = number * size, min((number + 1) * size, len(images))
            if not isinstance(images, ImageSet):
                return images.batch(first, last, path)

            return _pixels(images.paths[first:last], path, pool.map)

        waiting = None
        for number in wanted:
            coming = ahead.submit(load, number)
            if waiting is not None:
                yield waiting.result()
            waiting = coming
        if waiting is not None:
            yield waiting.result()


def _pixels(files: Sequence[Path], path: PixelPath, mapping: Any = map) -> np.ndarray:
    """uint8, N x H x W or N x H x W x 3, each decoded by `mapping`'s workers."""

    def one(file: Path) -> Image.Image:
        return fit(open_image(file, path.mode), path.size)

    return to_array(list(mapping(one, files)))


def extract(
    images: ImageSet | Made,
    extractor: Extractor,
    path: PixelPath,
    device: str = "cpu",
    batch: int = 64,
) -> Features:
    """Features of a set, from the cache where its contents are known.

    Several processes share the batches, whose bounds do not depend on their number: the values are
    the same. Raises UserError for a file that is not an image.
    """
    file = cache_folder() / f"{_key(images, extractor, path)}.safetensors"
    state = process_state()
    if not file.exists():
        state.wait_for_everyone()
        parts = _run(images, extractor, path, device, batch)
        if state.num_processes > 1:
            parts = gather_object(parts)
        if state.is_main_process:
            parts.sort(key=lambda part: part[0])
            arrays = {
                key: np.concatenate([values[key] for _, values in parts]) for key in parts[0][1]
            }
            with atomic_path(file) as temporary:
                save_file(arrays, temporary)
        state.wait_for_everyone()
    arrays = load_file(file)
    texts = None
    if extractor.read and isinstance(images, ImageSet) and all(images.captions):
        texts = extractor.read(images.captions).float().cpu().numpy()
    return Features(arrays["features"], arrays.get("logits"), images.fingerprint, texts)


def subset(images: ImageSet, numbers: Sequence[int]) -> ImageSet:
    """Some images of a set, in the order given."""
    return replace(
        images, paths=[images.paths[i] for i in numbers], rows=[images.rows[i] for i in numbers]
    )


def cache_folder() -> Path:
    """$OSTEON_CACHE, else ~/.cache/osteon, then /features; safe to delete at any time."""
    base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "osteon"
    return Path(os.environ.get("OSTEON_CACHE", base)) / "features"


def _key(images: ImageSet | Made, extractor: Extractor, path: PixelPath) -> str:
    """Everything the features depend on, hashed; names and places are not among it."""
    parts = [
        FORMAT,
        images.fingerprint,
        len(images),
        extractor.sha256,
        extractor.layer,
        extractor.resize,
        extractor.dtype,
        path.size,
        path.mode,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


@torch.inference_mode()
def _run(
    images: ImageSet | Made, extractor: Extractor, path: PixelPath, device: str, batch: int
) -> list[tuple[int, dict[str, np.ndarray]]]:
    """(batch number, arrays) of the batches that are this process's."""
    state = process_state()
    mine = range(-(-len(images) // batch))[state.process_index :: state.num_processes]
    found = []
    with tqdm(
        total=len(images),
        desc=f"features of {images.name}",
        unit="image",
        disable=not state.is_main_process,
        mininterval=0.5,
        dynamic_ncols=True,
        leave=False,
    ) as bar:
        for number, pixels in zip(mine, pixel_batches(images, path, batch, mine), strict=True):
            tensor = torch.from_numpy(pixels)
            tensor = tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor[:, None]
            tensor = tensor.to(device).expand(-1, 3, -1, -1).contiguous()  # grey: three times
            values = extractor.forward(tensor)
            found.append((number, {k: v.float().cpu().numpy() for k, v in values.items()}))
            bar.update(len(pixels) * state.num_processes)
    return found

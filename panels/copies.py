"""The nearest training image of a picture, and whether it may be a copy.

Cosines of mean-centred pixels (as in the reports), on copies of SIDE pixels. The yardstick is how
near unseen real images come to the training images.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from core.errors import UserError
from core.images import fit, to_mode
from panels.catalogue import Model

SIDE = 64  # pixels: memory and time stay small for 100,000 images
BLOCK = 1024  # training images compared at once
MOST_UNSEEN = 500  # real images that make the yardstick
ENOUGH = 99  # unseen images from which a copy may be named: one in a hundred by chance


@dataclass(frozen=True)
class Nearest:
    """What a picture resembles most."""

    image: Path
    """Of the training images."""
    cosine: float
    """-1 to 1."""
    share: float
    """Of the unseen real images, those that lie further from any training image, 0 to 1."""
    unseen: int

    @property
    def possible_copy(self) -> bool:
        return self.share == 1.0 and self.unseen >= ENOUGH

    @property
    def words(self) -> str:
        """One sentence."""
        what = f"cosine {self.cosine:.2f}"
        if not self.unseen:
            return f"{what}; there are no unseen images to judge it by"
        judged = f"nearer than {self.share:.0%} of {self.unseen} unseen real images come"
        return f"{'Possible copy: ' if self.possible_copy else ''}{what}, {judged}"


def nearest_of(model: Model, root: Path, image: Image.Image) -> Nearest | None:
    """Of the images that `model` was trained on; None where those are not here (any more)."""
    if model.data is None:
        return None
    data = root / model.data
    try:
        return _bank(str(data), _changed(data)).nearest(image)
    except UserError:  # the set was moved or deleted: nothing to compare with
        return None


@dataclass(frozen=True)
class _Bank:
    """Training images and the yardstick, in memory."""

    paths: list[Path]
    pixels: np.ndarray
    """uint8, N x SIDE x SIDE, or N x SIDE x SIDE x 3; a memory map for large sets."""
    mode: str
    unseen: np.ndarray
    """Cosines of unseen real images with their nearest training images."""

    def nearest(self, image: Image.Image) -> Nearest:
        query = np.array(fit(to_mode(image, self.mode), SIDE))[None]
        place, cosine = _search(query, self.pixels)
        share = float((self.unseen < cosine[0]).mean()) if len(self.unseen) else 0.0
        return Nearest(self.paths[place[0]], float(cosine[0]), share, len(self.unseen))


def _changed(data: Path) -> float:
    """When the set last changed: its notes, its description, or the folder itself."""
    folder = Path(str(data).rpartition(":")[0]) if ":" in data.name else data
    files = (folder / "edits.jsonl", folder / "set.json", folder)
    return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)


@lru_cache(maxsize=2)
def _bank(data: str, changed: float) -> _Bank:
    from compare.measure import pick
    from compare.sources import open_real

    folder, _, split = data.rpartition(":")
    real = open_real(folder or data, data if folder and split != "train" else None)
    train, unseen = real.train, real.held_out
    pixels = train.pixels(SIDE, train.mode)
    if real.same:
        return _Bank(train.paths, pixels, train.mode, np.zeros(0))
    if len(unseen) > MOST_UNSEEN:
        unseen = pick(unseen, MOST_UNSEEN, 0, "yardstick")
    _, cosines = _search(unseen.pixels(SIDE, train.mode), pixels)
    return _Bank(train.paths, pixels, train.mode, cosines)


def _search(queries: np.ndarray, bank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place and cosine of the nearest bank image of each query."""
    from compare.neighbours import nearest  # torch

    blocks = (bank[first : first + BLOCK] for first in range(0, len(bank), BLOCK))
    found = nearest(queries, blocks)["centred"]
    return found.index[:, 0], found.cosine[:, 0]

"""The training image that a picture is most likely a copy of, by the reports' own test: mirrored,
cropped and re-lit ones too. The yardstick is how near unseen real images come."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from core.errors import UserError
from core.images import fit, to_array, to_mode
from panels.catalogue import Model

SIDE = 64  # pixels at which images are looked at
MOST_UNSEEN = 500  # real images that make the yardstick
ENOUGH = 20  # unseen images from which a copy may be named
EQUAL = 0.99
"""Likeness that says copy by itself: JPEG and crops stay above 0.997, in the middle; of 400 drawn
images sought among 6,000 others, the likest has 0.983."""


@dataclass(frozen=True)
class Nearest:
    """What a picture resembles most."""

    image: Path
    """Of the training images."""
    likeness: float
    """Correlation of the best crop, -1 to 1."""
    share: float
    """Of the unseen real images, those that lie further from any training image, 0 to 1."""
    unseen: int
    bound: float
    """Likeness that one unseen real image in a thousand has."""

    @property
    def possible_copy(self) -> bool:
        return self.equal or (self.likeness > self.bound and self.unseen >= ENOUGH)

    @property
    def equal(self) -> bool:
        """Whether it is the training image, give or take a crop or a compression."""
        return self.likeness >= EQUAL

    @property
    def words(self) -> str:
        """One sentence."""
        what = f"likeness {self.likeness:.2f}"
        if self.equal:
            return f"Possible copy: practically equal to a training image, {what}"
        if not self.unseen:
            return f"{what}; there are no unseen images to judge it by"
        judged = f"nearer than {self.share:.0%} of {self.unseen} unseen real images come"
        return f"{'Possible copy: ' if self.possible_copy else ''}{what}, {judged}"


def nearest_of(models: Sequence[Model], root: Path, image: Image.Image) -> Nearest | None:
    """Of the images that `models` were trained on, a model and what is mixed into it; None where
    none of those are here (any more)."""
    found = []
    for name in dict.fromkeys(name for model in models for name in model.data):
        data = root / name
        try:
            found.append(_bank(str(data), _changed(data)).nearest(image))
        except UserError:  # the set was moved or deleted: nothing to compare with
            continue
    return max(found, key=lambda near: (near.possible_copy, near.likeness), default=None)


@dataclass(frozen=True)
class _Bank:
    """Training images and the yardstick, in memory."""

    paths: list[Path]
    search: Any
    """`compare.copies.CopyBank`."""
    unseen: np.ndarray
    """Scores of unseen real images."""
    bound: float

    def nearest(self, image: Image.Image) -> Nearest:
        from compare.features import Given  # torch

        pixels = to_array([fit(to_mode(image, self.search.path.mode), SIDE)])
        found = self.search.find(Given(pixels))
        place, score = int(found.index[0, 0]), float(found.cosine[0, 0])
        share = float((self.unseen < score).mean()) if len(self.unseen) else 0.0
        return Nearest(self.paths[place], score, share, len(self.unseen), self.bound)


def _changed(data: Path) -> float:
    """When the set last changed: its notes, its description, or the folder itself."""
    folder = Path(str(data).rpartition(":")[0]) if ":" in data.name else data
    files = (folder / "edits.jsonl", folder / "set.json", folder)
    return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)


@lru_cache(maxsize=8)  # sets: those of a run with several subjects, and of what is mixed in
def _bank(data: str, changed: float) -> _Bank:
    from compare.copies import CopyBank, copy_bound  # torch
    from compare.features import PixelPath
    from compare.measure import pick
    from compare.sources import open_real

    folder, _, split = data.rpartition(":")
    real = open_real(folder or data, data if folder and split != "train" else None)
    train, unseen = real.train, real.held_out
    search = CopyBank(train, PixelPath(SIDE, train.mode))
    if real.same:
        return _Bank(train.paths, search, np.zeros(0), 1.0)
    if len(unseen) > MOST_UNSEEN:
        unseen = pick(unseen, MOST_UNSEEN, 0, "yardstick")
    scores = search.find(unseen).cosine[:, 0]
    return _Bank(train.paths, search, scores, copy_bound(scores))

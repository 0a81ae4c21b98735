"""The training image that a picture is most likely a copy of, by the reports' own test: mirrored,
cropped and re-lit ones too. The yardstick is how near unseen real images come."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from core.errors import UserError
from core.files import read_jsonl
from core.images import fit, to_array, to_mode
from core.sets import SPLITS, ImageSet, image_files, is_set, parted, read_edits
from panels.catalogue import Model

SIDE = 64  # pixels at which images are looked at
MOST_UNSEEN = 500  # real images that make the yardstick
MOST_BANKS = 8  # sets: those of a run with several subjects, and of what is mixed in
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
            found.append(banks.of(str(data)).nearest(image))
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


class Banks:
    """Of the data that models were trained on: the MOST_BANKS asked for last, each made once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[Any, _Bank]] = {}

    def of(self, data: str) -> _Bank:
        """The bank of `data`, a set or "set:split"; made anew where its images have changed.

        Raises UserError where the set was moved or deleted.
        """
        with self._lock:
            stamp, known = _stamp(data), self._kept.pop(data, None)
            if known is None or known[0] != stamp:
                known = None  # before the new one is made: each may be large
                known = (stamp, _made(data))
            self._kept[data] = known
            while len(self._kept) > MOST_BANKS:
                del self._kept[next(iter(self._kept))]
        return known[1]

    def __len__(self) -> int:
        return len(self._kept)


banks = Banks()


def _place(data: str) -> tuple[Path, str]:
    """ "x/data/y:test" -> (x/data/y, "test")."""
    folder, split = parted(data)
    return folder, split or "train"


def _stamp(data: str) -> tuple[Any, ...]:
    """Changes where the images do, and with what is left out of the yardstick; captions do not
    matter, nor what is left out of the images that models have seen already."""
    folder, seen = _place(data)
    files = [folder / "set.json", *(folder / split / "metadata.jsonl" for split in SPLITS)]
    files = [file for file in files if file.exists()] or [folder]
    if not folder.exists():
        raise UserError(f"{folder} is not there.")
    left_out = [_left_out(folder, split) for split in SPLITS if split != seen]
    return (*(file.stat().st_mtime_ns for file in files), *left_out)


def _left_out(folder: Path, split: str) -> frozenset[str]:
    edits = read_edits(folder, split)
    return frozenset(name for name, changes in edits.items() if changes.get("exclude"))


def _made(data: str) -> _Bank:
    from compare.copies import CopyBank, copy_bound  # torch
    from compare.features import PixelPath
    from compare.measure import pick
    from compare.sources import open_real

    folder, split = _place(data)
    real = open_real(str(folder), data if split != "train" else None)
    train, unseen = _whole(real.train, folder), real.held_out
    search = CopyBank(train, PixelPath(SIDE, train.mode))
    if real.same:
        return _Bank(train.paths, search, np.zeros(0), 1.0)
    if len(unseen) > MOST_UNSEEN:
        unseen = pick(unseen, MOST_UNSEEN, 0, "yardstick")
    scores = search.find(unseen).cosine[:, 0]
    return _Bank(train.paths, search, scores, copy_bound(scores))


def _whole(train: ImageSet, folder: Path) -> ImageSet:
    """With the images that were left out since: a model may have seen them."""
    split = train.name.rpartition(":")[2]
    file = folder / split / "metadata.jsonl"
    if not is_set(folder) or not file.exists():
        return train
    rows = read_jsonl(file)
    paths = image_files(folder, split, [row["file_name"] for row in rows])
    found = [(path, row) for path, row in zip(paths, rows, strict=True) if path.is_file()]
    return replace(train, paths=[path for path, _ in found], rows=[row for _, row in found])

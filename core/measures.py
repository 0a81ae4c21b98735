"""Scores of a model's images while it trains, so that its best state can be kept.

What measures lies in `compare`; the names below are resolved when used, so that a trainer imports
no sibling.
"""

import time
from functools import cached_property
from typing import Any

import numpy as np

from core.families import resolve
from core.sets import ImageSet

FEW = 20  # real images up to which a Fréchet distance says nothing
MEASURES = {
    "extractor": "compare.extractors:choose_extractor",
    "path": "compare.features:PixelPath",
    "features": "compare.features:extract",
    "similarity": "compare.similarity:similarity",
    "frechet": "compare.fid:fid",
    "copy_bank": "compare.copies:CopyBank",
    "copy_test": "compare.copies:copy_test",
}


class Measure:
    """Scores of one model's images again and again, against the same real ones."""

    def __init__(self, held_out: ImageSet, train: ImageSet, size: int, device: str = "cpu") -> None:
        """
        Args:
            held_out: real images that were not trained on.
            size: pixels a side at which images are looked at.
        """
        self.held_out, self.train, self.device = held_out, train, device
        self._use = {name: resolve(place) for name, place in MEASURES.items()}
        self._path = self._use["path"](size, held_out.mode)

    def prepare(self) -> float:
        """Make what is used again and again, by all processes together.

        Returns:
            seconds that scores of as many images as are held out will take, about.
        """
        self._features(self.held_out)
        ready, began = self._bank, time.monotonic()
        assert ready is not None
        assert len(self._unseen)
        return time.monotonic() - began

    def __call__(self, fakes: ImageSet) -> dict[str, float]:
        """To be called by all processes together.

        Returns:
            similarity: mean cosine of features with the nearest held-out image (more is better).
            frechet: distance of features, by the extractor at hand; above FEW images only.
            copies: share of images more like a training image than held-out ones are (`copy_test`).
        """
        real, fake = self._features(self.held_out), self._features(fakes)
        scores = {"similarity": self._use["similarity"](real.features, fake.features)}
        if min(len(real), len(fake)) > FEW:
            scores["frechet"] = self._use["frechet"](real.features, fake.features)
        drawn = self._bank.find(fakes).cosine[:, 0]
        return scores | {"copies": self._use["copy_test"](drawn, self._unseen)["share_above"]}

    def _features(self, images: ImageSet) -> Any:
        return self._use["features"](images, self._extractor, self._path, self.device)

    @cached_property
    def _extractor(self) -> Any:
        return self._use["extractor"]("auto", device=self.device)

    @cached_property
    def _bank(self) -> Any:
        return self._use["copy_bank"](self.train, self._path, self.device)

    @cached_property
    def _unseen(self) -> np.ndarray:
        """The yardstick: copy scores of the held-out images."""
        scores: np.ndarray = self._bank.find(self.held_out).cosine[:, 0]
        return scores

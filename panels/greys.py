"""Level and window on grey values as the file holds them: 8 or 16 bits, never stretched before."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from core.images import open_image, to_mode

BITS_8 = (0, 255)


class Greys(NamedTuple):
    """One image and the range of its grey values."""

    values: np.ndarray
    """H x W as stored; of a colour image uint8, H x W x 3."""
    limits: tuple[int, int]
    """Lowest and highest that its bits can hold; those of 16 that it uses."""

    @property
    def whole(self) -> tuple[float, float]:
        """The level and the window at which everything is seen."""
        own = int(self.values.min()), int(self.values.max())
        low, high = BITS_8 if self.limits == BITS_8 else own
        return (low + high) / 2, max(high - low, 1)


def read_greys(file: Path) -> Greys:
    """Raises UserError as `open_image` does."""
    image = open_image(file, None)
    if not image.mode.startswith("I"):
        return Greys(np.asarray(to_mode(image, "RGB")), BITS_8)
    values = np.asarray(image)
    bits = max(8, int(values.max()).bit_length())
    return Greys(values, (min(0, int(values.min())), 2**bits - 1))


def windowed(values: np.ndarray, level: float, window: float) -> Image.Image:
    """Grey values from `level - window / 2` to `level + window / 2` spread from black to white."""
    shares = (values.astype(np.float32) - (level - window / 2)) * (255 / max(window, 1))
    return Image.fromarray(shares.clip(0, 255).round().astype(np.uint8))

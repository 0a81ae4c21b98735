"""A first look at image files: readable, grey, how large, and alike."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from core.alike import hash_of
from core.errors import UserError
from core.images import open_image


class Look(NamedTuple):
    """What one file is."""

    reason: str
    """Why it cannot be used; "" if it can."""
    size: tuple[int, int] = (0, 0)
    """Width and height in pixels."""
    grey: bool = False
    """Whether red, green and blue are equal everywhere."""
    phash: bytes = b""
    """256-bit perceptual hash; see `core.alike`."""


def look(path: Path) -> Look:
    """Open one file and say what it is."""
    try:
        image = open_image(path)
    except UserError as error:
        return Look(str(error).removeprefix(f"{path}: "))
    pixels = np.asarray(image)  # H x W x 3
    grey = bool((pixels == pixels[..., :1]).all())
    return Look("", image.size, grey, np.packbits(hash_of(image)).tobytes())

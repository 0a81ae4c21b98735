"""How many images are worked on at once: the larger they are, the fewer.

The bound is the autoencoder's, whose decoder takes more memory than denoising; what is drawn is
decoded, so everything keeps to it. Images do not depend on it, to within one grey level.
"""

from collections.abc import Sequence
from typing import TypeVar

AT_ONCE = 2**20  # pixels: four images of 512 x 512, one of 1024 x 1024
MOST = 16  # images, however small

T = TypeVar("T")


def at_once(pixels: int) -> int:
    """Images of so many pixels; at least one."""
    return max(1, min(MOST, AT_ONCE // pixels))


def portions(items: Sequence[T], pixels: int) -> list[Sequence[T]]:
    """`items`, one for each image of so many pixels, in parts of `at_once`."""
    count = at_once(pixels)
    return [items[start : start + count] for start in range(0, len(items), count)]

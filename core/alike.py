"""Are two pictures the same, resized or compressed again? By 256-bit perceptual hashes.

64 bits do not tell X-rays apart: of 400 drawn ones 93 pairs, with another heart or a mass, differed
in 4 bits or fewer. Of 256, copies at half the size, as JPEG of quality 50, or with another contrast
differ in 22 at most, 9 in 10 of them in 14; different X-rays in 20 and more (160,000 pairs).
"""

import imagehash
import numpy as np
from PIL import Image

NEAR = 16
"""Bits in which hashes differ at most where two pictures are said to be one. What is only to be
kept in one split may be farther apart: see `near` of `prepare.settings`."""
SIDE = 16  # frequencies a side


def hash_of(image: Image.Image) -> np.ndarray:
    """256 bool; all False where nothing is drawn."""
    bits: np.ndarray = imagehash.phash(image, hash_size=SIDE).hash.flatten()
    return bits


def near(first: np.ndarray, second: np.ndarray, same: bool = False) -> list[tuple[int, int]]:
    """Pairs of rows of N x 256 and M x 256 bits that differ in at most NEAR.

    Args:
        same: both are one, and each pair is wanted once.
    """
    a, b = (bits.astype(np.float32) for bits in (first, second))
    apart = a.sum(1)[:, None] + b.sum(1)[None] - 2 * a @ b.T
    drawn = np.asarray(first.any(axis=1))  # no bit set: a blank or broken file
    close = (apart <= NEAR) & drawn[:, None]
    return [(int(i), int(j)) for i, j in np.argwhere(np.triu(close, 1) if same else close)]
